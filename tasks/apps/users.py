"""The users of applications on a host: whose they are, and whether they get to their programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.apps.settings import App
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.core.users import OURS


@dataclass(frozen=True)
class User:
    """What a host says of an application's user.

    Attributes:
        is_of_others: a user or a group of that name, and not by us.
        unit: a unit of that name which a package or another administrator has brought.
    """

    exists: bool
    is_of_others: bool
    has_program: bool
    has_directory: bool
    unit: str


# A user that does not exist yet will be able to do what `nobody` can.
_READ = shell("users", "apps")


def users_probe(apps: Sequence[App]) -> Probe[dict[str, User]]:
    """Reads the users of applications, and whether they get to their programs."""
    asked = [quoted(app.service, app.words[0], app.directory or "/") for app in apps]
    script = _READ + "".join(f"look_for {words}\n" for words in asked)

    def parse(lines: list[str]) -> dict[str, User]:
        rows = zip(apps, (line.split("|") for line in lines), strict=True)
        return {app.service: _user(*row) for app, row in rows}

    return Probe(script, parse)


def _user(comment: str, group: str, fits: str, enters: str, unit: str) -> User:
    is_of_others = comment not in ("", OURS) or (not comment and group != "")
    return User(comment == OURS, is_of_others, fits == "yes", enters == "yes", unit)
