"""Applications: what the stack serves, run as containers beside it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from tasks.core.estate import DOCKER, Component, Estate, Node, no_defaults, no_secrets
from tasks.core.preflight import Listener
from tasks.core.remote import Probe
from tasks.core.settings import (
    Line,
    Model,
    Port,
    Problem,
    Settings,
    matching,
    wrong,
)


def _health(value: str) -> str:
    if value != "tcp" and not re.fullmatch(r"http:/[A-Za-z0-9._~/?&=%-]*", value):
        raise wrong("should be 'tcp' or a path such as 'http:/health'")
    return value


Name = Annotated[
    str,
    matching(r"[a-z][a-z0-9-]{0,40}", "should be lower-case letters, digits and '-', at most 41"),
]
Variable = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "should be the name of a variable")]


class App(Model):
    """One application; `image` where it runs as a container, `command` where it does not.

    With `urls` its environment has passwords, which `docker inspect` shows.
    """

    name: Name
    """Name of the service and, after `psscript-`, of the container."""
    port: Port | None = None
    """Where it listens in its container; a worker listens nowhere. Default: none."""
    publish: bool | Port = True
    """Where the host publishes that: `True` for the same port, another one, or `False` for nowhere.
    Default: `True`."""
    health: Annotated[str, AfterValidator(_health)] = "tcp"
    """`tcp`, or `http:/path`; asked inside the container."""
    env: dict[Variable, Line] = {}
    """More environment variables."""
    urls: bool = False
    """`DATABASE_URL` and `REDIS_SENTINEL_URL` in its environment, with the passwords, which `docker
    inspect` then shows."""
    image: Line = ""
    """From a registry, or built on the host. Default: must be given."""
    command: Line = ""
    """For hosts without Docker; does nothing yet."""

    @property
    def published(self) -> int:
        """The port of the host, 0 where there is none."""
        if self.port is None or self.publish is False:
            return 0
        return self.port if self.publish is True else self.publish


class AppsSettings(Settings):
    """The key `apps`."""

    apps: tuple[App, ...] = ()
    """Applications, a list. Change: that application's container; one taken away keeps running
    without `docker_prune`."""


def _rules(everything: Estate) -> list[Problem]:
    problems = []
    for node in everything.having(AppsSettings):
        names = [app.name for app in node.the(AppsSettings).apps]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(Problem(node.name, f"apps/{name}", "is defined twice"))
        for app in node.the(AppsSettings).apps:
            if app.port is None and app.publish is not True:
                message = "needs a port, at which it listens in its container"
                problems.append(Problem(node.name, f"apps/{app.name}/publish", message))
            if app.port is None and app.health != "tcp":
                message = "needs a port to ask at"
                problems.append(Problem(node.name, f"apps/{app.name}/health", message))
            if DOCKER in node.groups and not app.image:
                message = "is missing: a container needs one"
                problems.append(Problem(node.name, f"apps/{app.name}/image", message))
            if DOCKER in node.groups and app.command:
                message = "is only for plain hosts: in Docker the image defines the command"
                problems.append(Problem(node.name, f"apps/{app.name}/command", message))
    return problems


def _nothing(_node: Node) -> list[Any]:
    return []


def _listens(node: Node) -> list[Listener]:
    if DOCKER not in node.groups:
        return []
    return [
        Listener(app.published, f"apps/{app.name}/{key}", app.name, "docker-proxy")
        for app in node.the(AppsSettings).apps
        if app.published and (key := "port" if app.publish is True else "publish")
    ]


def _probes(_node: Node) -> dict[str, Probe[Any]]:
    return {}


COMPONENT = Component(
    "apps", AppsSettings, no_defaults, no_secrets, _rules, _listens, _probes, _nothing
)
