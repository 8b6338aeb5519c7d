"""Passwords of roles: where they come from, and whether a server has them already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.estate import Estate, Node
from tasks.core.secrets import Secrets
from tasks.core.settings import StackSettings
from tasks.postgres import archive, leader, replication, rotating, sql
from tasks.postgres.layout import clusters_of
from tasks.postgres.settings import LOOKUP_ROLE, PostgresSettings, Role, logins_of, secret_name


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
    chosen, store = node.the(PostgresSettings).roles, node.estate.secrets
    names = [secret_name(name) for name, role in chosen.items() if _is_kept(role)]
    for name in (name for name, role in chosen.items() if role.rotating):
        names += rotating.secret_names(store, name)
    names += [replication.SECRET] * leader.is_replicated(node)
    is_pooled = node.estate.in_group("pgbouncer")
    return [*names, *rotating.secret_names(store, LOOKUP_ROLE)] if is_pooled else names


def rotates(node: Node) -> dict[str, str]:
    """What rotates, by the names of tasks; of an application its current login."""
    chosen, store = node.the(PostgresSettings), node.estate.secrets
    names = ["POSTGRES_PASSWORD"] * (
        chosen.password.get_secret_value() == store.find("POSTGRES_PASSWORD")
    )
    names += [archive.ROLE_SECRET] * bool(archive.backup_host(node.estate))
    names += [replication.SECRET] * leader.is_replicated(node)
    owners = [name for name, role in chosen.roles.items() if role.rotating]
    owners += [LOOKUP_ROLE] * bool(node.estate.in_group("pgbouncer"))
    of_roles = {
        secret_name(name).lower(): secret_name(rotating.leaving(store, name)) for name in owners
    }
    return {**{name.lower(): name for name in names}, **of_roles}


def _is_kept(role: Role) -> bool:
    return role.login and role.password is None and not role.rotating


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
    of = {secret_name(name): name for name in rotating.roles_of(node)}
    of |= {secret_name(name): name for name in (LOOKUP_ROLE, *logins_of(LOOKUP_ROLE))}
    of |= {"POSTGRES_PASSWORD": sql.SUPERUSER}
    of |= {archive.ROLE_SECRET: archive.ROLE, replication.SECRET: replication.ROLE}
    if server.kind == "up":
        roles = server.facts["roles"]
        found = {key: roles.get(role, {}) for key, role in of.items()}
        return {
            key: "" for key, role in found.items() if role.get("login") and role.get("password")
        }
    # The one of a role that is new may be missing, but not all of them.
    is_new = server.kind == "absent" or is_foreign
    return {} if is_new or any(map(node.estate.secrets.find, of)) else dict.fromkeys(of, "")


def role_password(node: Node, role: str) -> str | None:
    """The password of a role that may log in: the settings', else the one kept in `.env`."""
    if owner := rotating.owner_of(node, role):
        return rotating.password(node.estate.secrets, owner, role)
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
    found = ((name, _login(server, owner)) for name, owner in owners if owner != sql.SUPERUSER)
    return next(((name, login) for name, login in found if login), None)


def _login(server: Node, owner: str) -> str:
    if rotating.owner_of(server, owner):
        return rotating.current(server.estate.secrets, owner)
    logins = [
        name
        for name, role in server.the(PostgresSettings).roles.items()
        if role.login and (name == owner or owner in role.member_of)
    ]
    return owner if owner in logins else (logins or [""])[-1]


def lookup_login(everything: Estate) -> tuple[str, str]:
    """The login with which PgBouncer looks passwords up, and its password."""
    login = rotating.lookup(everything.secrets)
    return login, rotating.given(everything.secrets, login)
