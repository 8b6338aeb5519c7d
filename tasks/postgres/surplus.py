"""What PostgreSQL has and the settings have not: named, and dropped where that is asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from tasks.core.change import Change, Line
from tasks.core.scripts import quoted, shell
from tasks.postgres import psql
from tasks.postgres.psql import identifier, literal
from tasks.postgres.rights import revoke
from tasks.postgres.sql import (
    SUPERUSER,
    Database,
    Role,
    Server,
    drop_slot,
    granted_groups,
    leave,
    no_login,
)

DROPPED = "/var/lib/postgresql/dropped"

# What a restore puts beside a database, and what it keeps of it (backup/swap.py, name_beside).
_RESTORED = re.compile(r".{1,39}_(before|restore)_\d{8}_\d{6}")


@dataclass(frozen=True)
class Surplus:
    """One thing that the settings do not have.

    Attributes:
        what: its name for people.
        line: how it goes.
        statements: SQL that drops it, each with its database.
        database: set for a database, which goes after a dump of it.
        destroys: whether data go with it.
        reason: why it cannot go yet, if it cannot.
        closed: whether it is a database that refuses all logins, as one whose drop was killed does.
        rights: what it may do that others may not, or what it keeps.
    """

    what: str
    line: str = ""
    statements: tuple[tuple[str, str], ...] = ()
    database: str = ""
    destroys: bool = False
    reason: str = ""
    closed: bool = False
    rights: str = ""

    def goes(self, *, prune: bool, destroy: bool) -> bool:
        """Whether it is dropped with these settings."""
        return prune and not self.reason and (destroy or not self.destroys)

    @property
    def notice(self) -> str:
        """What is said of it while it stays."""
        what = f"{self.what} ({self.rights})" if self.rights else self.what
        if self.reason:
            return f"{what}: is not in the settings, but {self.reason}"
        keys = "postgres_prune and destroy" if self.destroys else "postgres_prune"
        closed = " and is closed (CONNECTION LIMIT 0)" if self.closed else ""
        return f"{what}: is not in the settings{closed}; {keys} would drop it"


def find(
    server: Server,
    roles: Sequence[Role],
    databases: Sequence[Database],
    *,
    pooled: bool,
    destroy: bool,
    slots: Collection[str] = (),
) -> list[Surplus]:
    """Everything that is not in the settings, in the order in which it can be dropped.

    Args:
        roles, databases: those of the settings.
        pooled: whether a PgBouncer looks passwords up.
        destroy: whether databases go too: what is in them keeps no role then.
        slots: those of standbys.
    """
    if server.kind != "up":
        return []
    kept = {database.name for database in databases}
    gone = list(_databases(server, kept))
    dropped = {each.database for each in gone} if destroy else set()
    return [
        *gone,
        *(each for database in databases for each in _extensions(server, database)),
        *(() if pooled else _lookups(server, kept)),
        *_slots(server, slots),
        *_executors(server, roles, dropped),
        *_roles(server, {role.name for role in roles}, kept, dropped),
    ]


def _databases(server: Server, kept: Collection[str]) -> Iterator[Surplus]:
    for name, found in sorted(server.facts["databases"].items()):
        if name in kept or name == "postgres" or found["template"] or _RESTORED.fullmatch(name):
            continue
        if not name.isprintable():
            yield Surplus(
                f"database {name!r}",
                reason="its name contains unprintable characters; remove it by hand",
            )
            continue
        line = f"database {name}: drop; a dump of it stays in {_dump(server, name)}"
        closed = found["connection_limit"] == 0
        going = Line(line, "destroys data")
        yield Surplus(f"database {name}", going, (), name, destroys=True, closed=closed)


def _dump(server: Server, name: str) -> str:
    """Where the dump of a database stays: its number is no other database's."""
    number = server.facts["databases"][name]["oid"]
    return f"{DROPPED}/{re.sub('[^A-Za-z0-9_-]', '_', name)}-{number}.dump"


def _extensions(server: Server, database: Database) -> Iterator[Surplus]:
    requires = server.facts.get("requires") or {}
    wanted, pending = {"plpgsql"}, [*database.extensions]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += requires.get(name, [])
    there = {*server.databases.get(database.name, {}).get("extensions", [])} - wanted
    # What requires another one goes before it.
    order = TopologicalSorter({name: () for name in sorted(there)})
    for name in sorted(there):
        for required in there.intersection(requires.get(name, [])):
            order.add(required, name)
    for name in order.static_order():
        what = f"extension {name} in {database.name}"
        statement = f"DROP EXTENSION {identifier(name)};"
        line = Line(f"{what}: drop", "destroys data")
        yield Surplus(what, line, ((database.name, statement),), destroys=True)


def _lookups(server: Server, kept: Collection[str]) -> Iterator[Surplus]:
    statement = "DROP FUNCTION pgbouncer.user_lookup(text); DROP SCHEMA pgbouncer;"
    for name in ["template1", *sorted(kept)]:
        inside = server.databases.get(name, {})
        if inside.get("lookup") and not inside.get("squatter"):
            what = f"password lookup of PgBouncer in {name}"
            yield Surplus(what, f"{what}: drop", ((name, statement),))


def _slots(server: Server, wanted: Collection[str]) -> Iterator[Surplus]:
    """What keeps WAL until its reader has it, if need be until the disk is full."""
    for name, kind, is_active, kept in server.facts.get("slots") or []:
        if name in wanted:
            continue
        what = f"replication slot {name}"
        line = f"{what}: drop; its reader starts over"
        reason = "is being read" if is_active else ""
        holds = f"{kind}, holds {kept or 'no'}{' of' if kept else ''} WAL"
        yield Surplus(what, line, (("postgres", drop_slot(name)),), reason=reason, rights=holds)


def _executors(
    server: Server, roles: Sequence[Role], dropped: Collection[str]
) -> Iterator[Surplus]:
    """Who may execute what PostgreSQL keeps for superusers, such as pg_read_file."""
    wanted = {(role.name, function) for role in roles for function in role.functions}
    for name, inside in sorted(server.databases.items()):
        rows = inside.get("executors") or [] if name not in dropped else []
        going = {(role, function) for role, function, _ in rows} - wanted
        for role, function, grantor in rows:
            what = f"right of {role} to execute {function} in {name}"
            if (role, function) in wanted:
                continue
            if not (role.isprintable() and name.isprintable()):
                yield Surplus(
                    repr(what),
                    reason="a name here contains unprintable characters; drop it by hand",
                )
                continue
            grantee = "PUBLIC" if role == "public" else identifier(role)
            statement = revoke(f"EXECUTE ON FUNCTION {function}", grantee, grantor)
            # With the right of one who loses his go those that he has granted.
            statements = () if (grantor, function) in going else ((name, statement),)
            yield Surplus(what, f"{what}: revoke", statements)


_POWERS = ("superuser", "createrole", "replication", "bypassrls")


def _rights(server: Server, name: str) -> str:
    """What a role may do that others may not, by itself and by those whose member it is."""
    roles = server.facts["roles"]
    mighty = [power.upper() for power in _POWERS if roles[name].get(power)]
    groups, pending = list[str](), list(roles[name].get("member_of", ()))
    while pending:
        group = pending.pop()
        if group not in groups:
            groups.append(group)
            pending += roles.get(group, {}).get("member_of", ())
    for group in sorted(groups):
        powers = (roles.get(group, {}).get(power) for power in _POWERS)
        if group.startswith("pg_") or any(powers):
            mighty.append(f"member of {group}")
    return ", ".join(mighty)


def _disarm(server: Server, name: str) -> Iterator[tuple[str, str]]:
    powers = " ".join(f"NO{power.upper()}" for power in _POWERS)
    yield "postgres", f"ALTER ROLE {identifier(name)} {powers};"
    granted = granted_groups(server.facts["roles"][name])
    for group in sorted({group for group, _ in granted}):
        yield from (("postgres", statement) for statement in leave(group, name, granted))


# Of a restore (backup/load.py), for as long as it lasts; the next job drops what a kill has left.
_LOADING = re.compile(r"datatier_load_[0-9a-f]{12}")


def _loads(server: Server, name: str) -> bool:
    """Whether a role is such a login: it has the rights of owners and no power of its own."""
    roles = server.facts["roles"]
    groups = (roles.get(group, {}) for group in roles[name].get("member_of", ()))
    mighty = any(each.get(power) for each in (roles[name], *groups) for power in _POWERS)
    is_reader = any(group.startswith("pg_") for group in roles[name].get("member_of", ()))
    return bool(_LOADING.fullmatch(name)) and not mighty and not is_reader


def _roles(
    server: Server, wanted: Collection[str], kept: Collection[str], dropped: Collection[str]
) -> Iterator[Surplus]:
    for name in sorted(server.facts["roles"]):
        if name in wanted or name == SUPERUSER or name.startswith("pg_") or _loads(server, name):
            continue
        owns, entered = _held(server, name, kept, dropped)
        rights = _rights(server, name)
        if owns:
            again = f"REASSIGN OWNED BY {identifier(name)} TO another role there first"
            if rights and name.isprintable():
                line = f"role {name}: {rights}: revoke"
                yield Surplus(f"rights of role {name}", line, tuple(_disarm(server, name)))
            reason = f"owns {', '.join(owns)}: {again}"
            yield Surplus(f"role {name}", reason=reason, rights=rights)
        elif not all(each.isprintable() for each in (name, *entered)):
            reason = "a name here contains unprintable characters; drop it by hand"
            yield Surplus(f"role {name!r}", reason=reason, rights=rights)
        else:
            line = Line(f"role {name}: drop; its privileges and its connections end", "restart")
            statements = tuple(_drop_role(name, entered))
            yield Surplus(f"role {name}", line, statements, rights=rights)


def _held(
    server: Server, role: str, kept: Collection[str], dropped: Collection[str]
) -> tuple[list[str], list[str]]:
    """What a role owns, and the databases in which it has something."""
    owns, entered = list[str](), set[str]()
    for name, database, is_owner, base, count in server.facts.get("owned") or []:
        # The owner of a database of the settings is the settings'.
        if name != role or {database, base} & {*dropped} or (base in kept and is_owner):
            continue
        entered.add(database or "postgres")
        if is_owner and base:
            owns.append(f"database {base}")
        elif is_owner:
            owns.append(f"{count} object{'s' * (count > 1)} in {database or 'the cluster'}")
    return sorted(owns), sorted(entered)


# Between the plan and now it may have made something, which DROP OWNED would take.
_OWNS_NOTHING = """
BEGIN
  IF EXISTS (SELECT FROM pg_shdepend
             WHERE refclassid = 'pg_authid'::regclass AND refobjid = {role}::regrole
               AND deptype = 'o' AND classid <> 'pg_default_acl'::regclass AND dbid IN
                 (0, (SELECT oid FROM pg_database WHERE datname = current_database())))
  THEN RAISE 'role % owns something in % now', {role}, current_database(); END IF;
END
"""


def _drop_role(name: str, databases: Sequence[str]) -> Iterator[tuple[str, str]]:
    role = identifier(name)
    guard = _OWNS_NOTHING.format(role=literal(role))
    yield "postgres", no_login(name)
    for database in databases:
        yield database, f"DO {literal(guard)};\nDROP OWNED BY {role};"
    yield "postgres", f"DROP ROLE {role};"


def drop(server: Server, going: Sequence[Surplus], data_directory: str) -> Change | None:
    """The change that drops things, in the order in which `find` has them."""
    if not going:
        return None
    variables = {"DATA": data_directory, "SQL": _script(going)}
    script = psql.SHELL + shell("drop", "postgres", dropped=DROPPED)
    for number, database in enumerate(each.database for each in going if each.database):
        variables[f"NAME_{number}"] = database
        # A limit of 0 is that of a drop which was killed.
        limit = server.facts["databases"][database]["connection_limit"] or -1
        script += f'drop_database "$NAME_{number}" {quoted(_dump(server, database))} {limit}\n'
    return Change([each.line for each in going], f"{script}as_told\n", variables)


def _script(going: Sequence[Surplus]) -> str:
    lines = []
    for database, statement in (each for surplus in going for each in surplus.statements):
        lines += [psql.connect(database), statement]
    return "\n".join(lines)
