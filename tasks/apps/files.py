"""The files of applications on a host."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from tasks.apps.service import service_of
from tasks.apps.settings import App, apps_of
from tasks.apps.users import User
from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.offer import NEAR, Offer
from tasks.core.users import missing_users

_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*=(.*)$"


def offers(node: Node) -> list[Offer]:
    """What the stack offers to applications of this host."""
    return node.estate.offers(lambda other: NEAR if other is node else other.address)


def secrets(offered: Sequence[Offer]) -> dict[str, str]:
    """The files that variables name; most clients take a line break for a part of a password."""
    found = {k: v for offer in reversed(offered) for k, v in offer.secrets.items() if v}
    return _by_name({**found, **_urls(offered)})


def secret_files(offered: Sequence[Offer]) -> dict[str, str]:
    """All files with secrets, by name."""
    further = {k: v for offer in offered for k, v in offer.further.items()}
    return {**_by_name(further), **secrets(offered)}


def _by_name(values: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in values.items()}


def _urls(offered: Sequence[Offer]) -> dict[str, str]:
    return {k: v for offer in reversed(offered) for k, v in offer.urls.items()}


def environment(app: App, offered: Sequence[Offer], directory: str) -> dict[str, str]:
    """The variables of an application; files with secrets are in `directory`."""
    urls, given = _urls(offered), dict[str, str]()
    for offer in offered:
        given |= offer.variables | _named(offer.secrets, directory)
    return {**given, **_named(urls, directory), **(urls if app.urls else {}), **app.env}


def _named(values: Mapping[str, str], directory: str) -> dict[str, str]:
    return {f"{name}_FILE": f"{directory}/{name.lower()}" for name in values}


def home(app: App) -> str:
    """Root's directory with what one application reads."""
    return f"/etc/datatier/{app.service}"


def files_of(node: Node) -> list[Entry]:
    """Every file of every application."""
    apps, offered = apps_of(node), offers(node)
    shared: list[Entry] = [Directory("/etc/datatier")] if apps else []
    return shared + [entry for app in apps for entry in _entries(node, app, offered)]


def _entries(node: Node, app: App, offered: Sequence[Offer]) -> list[Entry]:
    service, place = service_of(node, app), home(app)
    values = environment(app, offered, place).items()
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values)
    return [
        Directory(place, "750", group=app.service),
        File(
            f"{place}/environment",
            f"# {files.MARK}; changes are overwritten.\n{text}",
            "640",
            group=app.service,
            secret=_VARIABLE,
        ),
        *(
            File(f"{place}/{name}", value, "640", group=app.service, secret=r"^(.*)$")
            for name, value in secret_files(offered).items()
        ),
        *node.place.files(service),
    ]


def pending(node: Node) -> set[str]:
    """The applications whose files a run is about to write."""
    found: Mapping[str, Found] = node.read("apps")["files"]
    services_of = {
        path: app.service for app in apps_of(node) for path in service_of(node, app).configuration
    }
    return {
        services_of[entry.path]
        for entry in files_of(node)
        if entry.path in services_of
        and found[entry.path].kind == "file"
        and files.compare([entry], found)
    }


def missing_files(node: Node) -> Change | None:
    """The users and files that are missing or differ."""
    if not apps_of(node):
        return None
    said = node.read("apps")
    users: Mapping[str, User] = said["users"]
    made = missing_users(name for name, user in users.items() if not user.exists)
    written = files.compare(files_of(node), said["files"])
    return made.followed_by(written) if made and written else made or written
