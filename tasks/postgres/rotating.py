"""Roles with two logins that take turns: which of them is current, and who may log in.

`.env` says it: the current login is the one whose secret has its plain name. Another login lives
as long as a secret is there for it, which a rotation calls `..._PREVIOUS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.estate import Node
from tasks.core.secrets import Secrets, previous
from tasks.core.settings import Problem
from tasks.postgres import sql
from tasks.postgres.settings import PostgresSettings, Role, secret_name


def logins(owner: str) -> tuple[str, str]:
    """The two logins of an owner."""
    return f"{owner}_a", f"{owner}_b"


def current(store: Secrets, owner: str) -> str:
    """The login that applications are to use; the free one where the other is on its way out."""
    first, second = logins(owner)
    if store.stated(secret_name(first)) or store.stated(secret_name(second)):
        return first if store.stated(secret_name(first)) else second
    return second if store.stated(previous(secret_name(first))) else first


def roles_of(node: Node) -> dict[str, Role]:
    """The roles of the settings, with the logins of those that rotate; the current one is last."""
    found = dict[str, Role]()
    for name, role in node.the(PostgresSettings).roles.items():
        found[name] = role
        if role.rotating:
            found.update(_turning(node.estate.secrets, name, role))
    return found


def _turning(store: Secrets, owner: str, role: Role) -> dict[str, Role]:
    now = current(store, owner)
    takes = {"member_of": frozenset({owner}), "settings": {**role.settings, "role": owner}}
    may = {name: name == now or bool(kept(store, name)) for name in (owner, *logins(owner))}
    return {
        owner: role.model_copy(update={"login": may[owner]}),
        **{
            login: role.model_copy(update={**takes, "login": may[login]})
            for login in sorted(logins(owner), key=lambda each: each == now)
        },
    }


def kept(store: Secrets, login: str) -> str | None:
    """The password of a login, if it has one."""
    name = secret_name(login)
    return store.stated(name) or store.stated(previous(name))


def password(store: Secrets, owner: str, login: str) -> str | None:
    """The password of an owner or its login; generated for the current one, None without login."""
    return kept(store, login) or (
        store.get(secret_name(login)) if login == current(store, owner) else None
    )


def secret_names(store: Secrets, owner: str) -> list[str]:
    """The secrets of an owner and its logins: the current one's, and those that are there."""
    every = (secret_name(name) for name in (owner, *logins(owner)))
    there = [name for each in every for name in (each, previous(each)) if store.stated(name)]
    return [*dict.fromkeys([secret_name(current(store, owner)), *there])]


def owner_of(node: Node, login: str) -> str:
    """The rotating role that a name belongs to, or nothing."""
    owners = (name for name, role in node.the(PostgresSettings).roles.items() if role.rotating)
    return next((name for name in owners if login in (name, *logins(name))), "")


def wrong(node: Node) -> Iterator[Problem]:
    """What a rotating role cannot be."""
    chosen, store = node.the(PostgresSettings).roles, node.estate.secrets
    for name, role in chosen.items():
        if not role.rotating:
            continue
        key = f"postgres_roles/{name}/rotating"
        for field in ("password", "login", "superuser", "replication", "bypassrls"):
            if field in role.model_fields_set:
                message = f"its logins have it of their own: leave {field} out"
                yield Problem(node.name, key, message)
        if "role" in role.settings:
            yield Problem(node.name, key, "its logins become this role: take role out of settings")
        for login in logins(name):
            if login in chosen:
                message = f"{login!r} is one of its logins: take it out of postgres_roles"
                yield Problem(node.name, key, message)
            if len(login) > _LONGEST:
                message = f"{login!r} should have at most {_LONGEST} characters"
                yield Problem(node.name, key, message)
        both = [secret_name(login) for login in logins(name)]
        if all(map(store.stated, both)):
            message = f"are both there: call the one that clients leave {previous('...')}"
            yield Problem(node.name, " and ".join(both), message)


# NAMEDATALEN of PostgreSQL, without its end.
_LONGEST = 63


def unknown(node: Node, server: sql.Server) -> Iterator[Problem]:
    """Logins that a run would end although no other one is known to work: an old `.env` has them.

    At the end of a turn the server knows the login that stays, with its password.
    """
    there, store = server.facts.get("roles") or {}, node.estate.secrets
    for owner, role in node.the(PostgresSettings).roles.items():
        names = [name for name in (owner, *logins(owner)) if there.get(name, {}).get("login")]
        if not role.rotating or node.stack.replace_secrets:
            continue
        stays = [each for each in names if _works(store, each, there[each])]
        for name in [] if stays else [each for each in names if not kept(store, each)]:
            message = (
                f"in use here, but not in {store.path}: put the .env of the last deployment "
                "there, or let replace_secrets=true take the login from every client"
            )
            yield Problem(node.name, secret_name(name), message)


def _works(store: Secrets, login: str, found: dict[str, str]) -> bool:
    secret = kept(store, login)
    return secret is not None and sql.verifies(found.get("password"), secret)
