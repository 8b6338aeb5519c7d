"""What an application must not be, by the settings and by what is on its host."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.apps.settings import PREFIX, App, AppsSettings, apps_of
from tasks.apps.users import User
from tasks.core.estate import DOCKER, Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem

# Names of users have 32 characters at most.
_LONGEST = 32 - len(PREFIX)


def contradictions(everything: Estate) -> list[Problem]:
    """Contradictions of each application, and names that are there twice."""
    problems = []
    for node in everything.having(AppsSettings):
        names = [app.name for app in node.the(AppsSettings).apps]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(Problem(node.name, f"apps/{name}", "is defined twice"))
        for app in node.the(AppsSettings).apps:
            wrong = _in_docker(app) if DOCKER in node.groups else _on_a_host(app)
            problems += [
                Problem(node.name, f"apps/{app.name}{key}", message)
                for key, message in [*_anywhere(app), *wrong]
            ]
    return problems


def _anywhere(app: App) -> Iterator[tuple[str, str]]:
    if app.port is None and app.health != "tcp":
        yield "/health", "needs a port to ask at"


def _in_docker(app: App) -> Iterator[tuple[str, str]]:
    if app.port is None and app.publish is not True:
        yield "/publish", "needs a port, at which it listens in its container"
    if not app.image:
        yield "/image", "is missing: a container needs one"
    for key in ("command", "directory"):
        if getattr(app, key):
            yield f"/{key}", "is only for plain hosts: in Docker the image defines the command"


def _on_a_host(app: App) -> Iterator[tuple[str, str]]:
    if len(app.name) > _LONGEST:
        yield "", f"should have at most {_LONGEST} characters: its user is {app.service}"
    if app.image:
        yield "/image", "is only for Docker: a plain host needs command"
    if app.publish is not True:
        yield "/publish", "is only for Docker: here it listens where it likes"
    if not app.command:
        yield "/command", "is missing: a plain host needs the program that is there"
    for name, value in app.env.items():
        if not value.replace("\t", "").isprintable():
            yield f"/env/{name}", "should be printable characters: systemd drops others"


def listens(node: Node) -> list[Listener]:
    """The ports of applications: what Docker publishes, or what they take themselves."""
    apps = node.the(AppsSettings).apps
    if DOCKER not in node.groups:
        return [_listener(app, app.port, node.the(AppsSettings)) for app in apps if app.port]
    return [
        Listener(app.published, f"apps/{app.name}/{key}", app.name, "docker-proxy")
        for app in apps
        if app.published and (key := "port" if app.publish is True else "publish")
    ]


def _listener(app: App, port: int, chosen: AppsSettings) -> Listener:
    names = [each.name for each in chosen.apps]
    return Listener(
        port,
        f"apps/{app.name}/port",
        app.service,
        f"{app.service}.service",
        binds=False,
        # One that was renamed has the port until its old name goes.
        after=rf"{PREFIX}(?!({'|'.join(names)})(\.service)?$).+" if chosen.prune else "",
    )


def checks(node: Node) -> list[Problem]:
    """Users and units of others, and programs that are not there."""
    if not apps_of(node):
        return []
    users: dict[str, User] = node.read("apps")["users"]
    return [
        Problem(node.name, f"apps/{app.name}{key}", message)
        for app in apps_of(node)
        for key, message in _unfit(app, users[app.service])
    ]


def _unfit(app: App, user: User) -> Iterator[tuple[str, str]]:
    if user.is_of_others:
        yield "", f"user or group {app.service} is not Datatier's: rename the application"
    if user.unit:
        yield "", f"{user.unit} is not Datatier's: rename the application"
    if not user.has_program:
        message = f"{app.words[0]} is not a program that user {app.service} may execute"
        yield "/command", f"{message}: put it there first"
    if not user.has_directory:
        message = f"{app.directory} is not a directory that user {app.service} may enter"
        yield "/directory", f"{message}: make it first"
