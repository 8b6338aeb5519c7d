"""Passwords of roles: where they come from, and whether a server has them already."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.core.estate import Estate, Node
from tasks.core.secrets import Secrets
from tasks.core.settings import StackSettings
from tasks.postgres import archive, sql
from tasks.postgres.layout import clusters_of
from tasks.postgres.settings import LOOKUP_SECRET, PostgresSettings


def defaults(stack: StackSettings, store: Secrets, given: Mapping[str, Any]) -> dict[str, Any]:
    name = stack.stack_name
    defaults: dict[str, Any] = {
        "databases": {name: {"owner": name}},
        "roles": {name: {}},
    }
    if "password" not in given:
        defaults["password"] = store.get("POSTGRES_PASSWORD")
    return defaults


def secret_names(node: Node) -> list[str]:
    roles = node.the(PostgresSettings).roles.items()
    names = [secret_name(name) for name, role in roles if role.login and role.password is None]
    return [*names, LOOKUP_SECRET] if node.estate.in_group("pgbouncer") else names


def secrets_in_use(node: Node) -> Mapping[str, str]:
    server: sql.Server = node.read("postgres")["server"]
    # A container's files are its host's to look at.
    is_foreign = not node.service and clusters_of(node).is_foreign
    return in_use(node, server, is_foreign=is_foreign)


def in_use(node: Node, server: sql.Server, *, is_foreign: bool) -> Mapping[str, str]:
    """The secrets whose roles have a password; a server has no values to look up.

    Args:
        is_foreign: whether a cluster is not ours, whose roles are not known while it is down.
    """
    of = {secret_name(name): name for name in node.the(PostgresSettings).roles}
    of |= {"POSTGRES_PASSWORD": sql.SUPERUSER, LOOKUP_SECRET: sql.LOOKUP_ROLE}
    of |= {archive.ROLE_SECRET: archive.ROLE}
    if server.kind == "up":
        roles = server.facts["roles"]
        return {key: "" for key, role in of.items() if roles.get(role, {}).get("password")}
    # The one of a role that is new may be missing, but not all of them.
    is_new = server.kind == "absent" or is_foreign
    return {} if is_new or any(map(node.estate.secrets.find, of)) else dict.fromkeys(of, "")


def role_password(node: Node, role: str) -> str | None:
    """The password of a role that may log in: the settings', else the one kept in `.env`."""
    chosen = node.the(PostgresSettings).roles[role]
    if chosen.password is not None:
        return chosen.password.get_secret_value()
    return node.estate.secrets.get(secret_name(role)) if chosen.login else None


def application(server: Node) -> tuple[str, str] | None:
    """The first database that an application owns, and the role as which the application logs in.

    Where the owner has no login, that is the last role of the settings which is its member.
    """
    chosen = server.the(PostgresSettings)
    owners = ((name, database.owner) for name, database in chosen.databases.items())
    found = ((name, _login(chosen, owner)) for name, owner in owners if owner != sql.SUPERUSER)
    return next(((name, login) for name, login in found if login), None)


def _login(chosen: PostgresSettings, owner: str) -> str:
    logins = [
        name
        for name, role in chosen.roles.items()
        if role.login and (name == owner or owner in role.member_of)
    ]
    return owner if owner in logins else (logins or [""])[-1]


def secret_name(role: str) -> str:
    """The name of a role's password in the environment and in `.env`."""
    return f"POSTGRES_ROLE_{re.sub('[^A-Z0-9]', '_', role.upper())}_PASSWORD"


def lookup_password(everything: Estate) -> str:
    """The password of the role with which PgBouncer looks passwords up."""
    return everything.secrets.get(LOOKUP_SECRET)
