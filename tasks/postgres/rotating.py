"""Roles with two logins that take turns: which of them is current, and who may log in.

`.env` says it: the current login is the one whose secret has its plain name. Another login lives
as long as a secret is there for it, which a rotation calls `..._PREVIOUS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.core.estate import Node
from tasks.core.secrets import Secrets, previous
from tasks.core.settings import Problem
from tasks.postgres import sql
from tasks.postgres.settings import (
    LOOKUP_ROLE,
    PostgresSettings,
    Role,
    logins_of,
    secret_name,
)


def current(store: Secrets, owner: str) -> str:
    """The login that applications are to use; the free one where the other is on its way out."""
    first, second = logins_of(owner)
    if store.stated(secret_name(first)) or store.stated(secret_name(second)):
        return first if store.stated(secret_name(first)) else second
    return second if store.stated(previous(secret_name(first))) else first


def lookup(store: Secrets) -> str:
    """The login with which poolers look passwords up: the role itself until it has rotated."""
    every = [name for login in logins_of(LOOKUP_ROLE) for name in _names(login)]
    every.append(previous(secret_name(LOOKUP_ROLE)))
    return current(store, LOOKUP_ROLE) if any(map(store.stated, every)) else LOOKUP_ROLE


def lookup_roles(store: Secrets) -> list[sql.Role]:
    """The role that may look passwords up, and its logins where it has rotated."""
    now = lookup(store)
    names = (LOOKUP_ROLE, *logins_of(LOOKUP_ROLE)) if now != LOOKUP_ROLE else (LOOKUP_ROLE,)
    return [
        sql.Role(
            name,
            given(store, name) if name == now else kept(store, name),
            {"login": name == now or bool(kept(store, name))},
            member_of=frozenset({LOOKUP_ROLE} - {name}),
        )
        for name in names
    ]


def given(store: Secrets, login: str) -> str:
    """The password of a lookup's login that is current; generated if it is not there."""
    name = secret_name(login)
    return store.get(name) if login == LOOKUP_ROLE else store.fresh(name)


def _names(login: str) -> tuple[str, str]:
    return secret_name(login), previous(secret_name(login))


def leaving(store: Secrets, owner: str) -> str:
    """The login that a rotation is about to replace, or does already."""
    every = (owner, *logins_of(owner))
    under_way = [login for login in every if store.stated(previous(secret_name(login)))]
    there = [login for login in every if store.stated(secret_name(login))]
    return next(iter([*under_way, *there]), current(store, owner))


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
    may = {name: name == now or bool(kept(store, name)) for name in (owner, *logins_of(owner))}
    return {
        owner: role.model_copy(update={"login": may[owner]}),
        **{
            login: role.model_copy(update={**takes, "login": may[login]})
            for login in sorted(logins_of(owner), key=lambda each: each == now)
        },
    }


def kept(store: Secrets, login: str) -> str | None:
    """The password of a login, if it has one."""
    name = secret_name(login)
    return store.stated(name) or store.stated(previous(name))


def password(store: Secrets, owner: str, login: str) -> str | None:
    """The password of an owner or its login; generated for the current one, None without login."""
    return kept(store, login) or (
        store.fresh(secret_name(login)) if login == current(store, owner) else None
    )


def secret_names(store: Secrets, owner: str) -> list[str]:
    """The secrets of an owner and its logins: the current one's, and those that are there."""
    every = (name for login in (owner, *logins_of(owner)) for name in _names(login))
    now = lookup(store) if owner == LOOKUP_ROLE else current(store, owner)
    if now != LOOKUP_ROLE:
        store.fresh(secret_name(now))
    return [*dict.fromkeys([secret_name(now), *filter(store.stated, every)])]


def owner_of(node: Node, login: str) -> str:
    """The rotating role that a name belongs to, or nothing."""
    return next((name for name in _owners(node) if login in (name, *logins_of(name))), "")


def _owners(node: Node) -> list[str]:
    return [name for name, role in node.the(PostgresSettings).roles.items() if role.rotating]


def wrong(node: Node) -> Iterator[Problem]:
    """What a rotating role cannot be."""
    chosen = node.the(PostgresSettings).roles
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
        for login in logins_of(name):
            if login in chosen:
                message = f"{login!r} is one of its logins: take it out of postgres_roles"
                yield Problem(node.name, key, message)
            if len(login) > _LONGEST:
                message = f"{login!r} should have at most {_LONGEST} characters"
                yield Problem(node.name, key, message)


def two_current(node: Node) -> Iterator[Problem]:
    """Logins of one owner that cannot both be current."""
    for owner in [*_owners(node), LOOKUP_ROLE]:
        both = [secret_name(login) for login in logins_of(owner)]
        if all(map(node.estate.secrets.stated, both)):
            message = f"are both there: call the one that clients leave {previous('...')}"
            yield Problem(node.name, " and ".join(both), message)


# NAMEDATALEN of PostgreSQL, without its end.
_LONGEST = 63


def unknown(node: Node, server: sql.Server) -> Iterator[Problem]:
    """Logins that a run would end although no other one is known to work: an old `.env` has them.

    At the end of a turn the server knows the login that stays, with its password.
    """
    there, store = server.facts.get("roles") or {}, node.estate.secrets
    owners = _owners(node)
    if lookup(store) != LOOKUP_ROLE or there.get(LOOKUP_ROLE, {}).get("login") is False:
        owners.append(LOOKUP_ROLE)
    for owner in () if node.stack.replace_secrets else owners:
        names = [name for name in (owner, *logins_of(owner)) if there.get(name, {}).get("login")]
        going = [each for each in names if not kept(store, each)]
        stays = [each for each in names if _works(store, each, there[each])]
        if owner == LOOKUP_ROLE and stays:
            yield from _cut_off(node, going)
        for name in () if stays else going:
            message = (
                f"in use here, but not in {store.path}: put the .env of the last deployment "
                "there, or let replace_secrets=true take the login from every client"
            )
            yield Problem(node.name, secret_name(name), message)


def _cut_off(node: Node, going: Sequence[str]) -> Iterator[Problem]:
    """Poolers that this run does not reach, and that may come with what it takes away."""
    for pooler in node.estate.in_group("pgbouncer") if going else ():
        if pooler not in node.estate.active:
            name = previous(secret_name(going[0]))
            message = f"the PgBouncer on {pooler.name} may need it: put it back until that is there"
            yield Problem(node.name, name, message)


def _works(store: Secrets, login: str, found: dict[str, str]) -> bool:
    secret = kept(store, login)
    return secret is not None and sql.verifies(found.get("password"), secret)
