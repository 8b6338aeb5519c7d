"""Roles, databases, extensions and grants, and what is there beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from backup.config import SUPERUSERS_OPTIONS
from tasks.core.change import Change, converge
from tasks.core.estate import Node
from tasks.postgres import archive, leader, parameters, replication, rights, rotating, sql, surplus
from tasks.postgres.files import TRACKING, configuration
from tasks.postgres.layout import OURS, configuration_directory, data_directory
from tasks.postgres.secrets import role_password
from tasks.postgres.settings import LOOKUP_ROLE, PostgresSettings, Role, logins_of


def missing_content(node: Node) -> Change | None:
    """What a server lacks of the roles and databases, or None; a standby has those of another."""
    server: sql.Server = node.read("postgres")["server"]
    if leader.is_standby(node):
        return None
    roles, databases = wanted(node)
    return sql.compare(
        server,
        roles,
        databases,
        data_directory(node),
        pooled=_is_pooled(node),
        system=_system(node, roles),
        components=_COMPONENTS,
        forgets=TRACKING not in node.the(PostgresSettings).extra,
        slots=replication.slots(node),
    )


def missing_extensions(node: Node) -> Change | None:
    """What the run could not create before, when all that does not depend on it is done."""
    if not node.host.state.is_executing or leader.is_standby(node):
        return None
    server: sql.Server = node.read("postgres")["server"]
    return sql.extensions(server, wanted(node)[1], data_directory(node))


# They enter by their grants only.
_COMPONENTS = frozenset({archive.ROLE, LOOKUP_ROLE, *logins_of(LOOKUP_ROLE), replication.ROLE})


def _system(node: Node, roles: Sequence[sql.Role]) -> list[sql.Database]:
    """The databases that a cluster comes with, and who may enter those."""
    enter = frozenset({"CONNECT"})
    makers = {each.name for each in roles if _makes(each)} - {sql.SUPERUSER}
    grants = {"postgres": dict.fromkeys(makers, enter), "template1": {}}
    served = node.the(PostgresSettings).databases
    return [
        sql.Database(name, sql.SUPERUSER, grants=grants)
        for name, grants in grants.items()
        if name not in served
    ]


def _makes(role: sql.Role) -> bool:
    """Whether a role has to enter the database `postgres`: to make others, or to read all."""
    makes = role.attributes.get("createdb") or role.attributes.get("createrole")
    return bool(makes or role.member_of & rights.EVERYWHERE)


def prune(
    node: Node,
    read: Callable[[], sql.Server],
    carried_out: Callable[[Change | None], Change | None] = lambda change: change,
) -> None:
    """Tells of roles, databases and extensions that left the settings, or drops them.

    Args:
        read: what the server says.
        carried_out: makes a change for the server one for its host.
    """
    # What is dropped is what this run could show: nothing that appeared, or was hidden, since.
    shown = {each.what for each in _surplus(node, read())}

    def compare() -> Change | None:
        if leader.is_standby(node):
            return None
        server, going = read(), partial(_goes, node)
        found = [each for each in _surplus(node, server) if each.what in shown and going(each)]
        return carried_out(surplus.drop(server, found, data_directory(node)))

    converge("PostgreSQL: prune", compare, notices=lambda: beside(node))


def beside(node: Node) -> Iterator[str]:
    """What is said of what the server has beside the settings, as long as it stays."""
    if leader.is_standby(node):
        return
    server: sql.Server = node.read("postgres")["server"]
    if server.kind == "down":
        what = "roles, databases and what is in them could not be compared"
        yield f"PostgreSQL is down: {what}; a run starts it, and then compares them"
    yield from (each.notice for each in _surplus(node, server) if not _goes(node, each))
    yield from _elsewhere(node, server)
    for name in sorted(sql.closed_databases(server) & {*node.the(PostgresSettings).databases}):
        out = "ALTER DATABASE ... ALLOW_CONNECTIONS true"
        yield f"database {name}: refuses all logins, so nothing in it is compared or dumped; {out}"
    if _is_pooled(node):
        yield from (_squatted(name, owner) for name, owner in sorted(sql.squatters(server).items()))
    yield from _kept(node, server)
    for name, inside in sorted(server.databases.items()):
        if mighty := inside.get("mighty"):
            shown = [*mighty[:_SHOWN], *(["..."] if mighty[_SHOWN:] else [])]
            yield f"database {name}: {', '.join(shown)}: {_MIGHTY}"


def _squatted(database: str, owner: str) -> str:
    why = f"its schema pgbouncer belongs to {owner}, who could replace the password lookup"
    out = "rename or drop that schema, then run again"
    return f"database {database}: PgBouncer lets no one in, since {why}; {out}"


def _kept(node: Node, server: sql.Server) -> Iterator[str]:
    roles, databases = wanted(node)
    system, after = _system(node, roles), sql.as_wanted(server, roles)
    for access in sql.accesses(server, roles, databases, system, _COMPONENTS):
        now = server.facts.get("databases", {}).get(access.database) or {}
        for role, extra in rights.kept(access, now, after).items():
            out = "add it to grants, or revoke it by hand"
            has = ", ".join(sorted(extra))
            yield f"database {access.database}: {role} has {has} beside its grants; {out}"


def excess(node: Node) -> Iterator[str]:
    """Rights that roles of the settings have by hand, which a run takes away."""
    change = missing_content(node)
    for line in change.lines if change else []:
        if _EXCESS.search(line):
            yield f"{line}: is more than the settings give; a run takes it away"


_EXCESS = re.compile(r": (NO(SUPERUSER|CREATEDB|CREATEROLE|REPLICATION|BYPASSRLS)$|revoke )")


# A database that was adopted may have many.
_SHOWN = 5


_MIGHTY = "can act with a superuser's rights; drop what is not yours"


def _elsewhere(node: Node, server: sql.Server) -> Iterator[str]:
    """Who may connect, and what runs, is said by our files, unless the server reads others too."""
    etc, data = configuration_directory(node), data_directory(node)
    # A container has initdb's own, beside its data.
    places = ("access", "hba", etc), ("identity", "ident", data if node.service else etc)
    for key, file, place in places:
        used, ours = server.facts.get(key), f"{place}/pg_{file}.conf"
        if used not in (None, ours):
            out = f"take {file}_file out of its settings and restart"
            yield f"PostgreSQL reads {used}, not {ours}: {out}"
    for line in server.facts.get("mappings") or []:
        yield f"pg_ident.conf: {line!r} lets others in by a map; remove it if it is not yours"
    for name, place in parameters.unsaid(server, configuration(node)):
        yield f"PostgreSQL: {name}: by ALTER SYSTEM ({place}), and no setting says it"
    files_of_ours = {f"{etc}/{name}" for name in ("postgresql.conf", OURS)}
    files_of_ours |= {f"{data}/postgresql.auto.conf", f"{data}/postgresql.conf"}
    for path in server.facts.get("sources") or []:
        # What is in conf.d on a host is named as a file.
        if path not in files_of_ours and (node.service or not path.startswith(f"{etc}/conf.d/")):
            yield f"PostgreSQL reads {path}: not written by Datatier; remove it if it is not yours"


def role_names(node: Node) -> list[str]:
    """The roles that the settings and the components want."""
    return [role.name for role in wanted(node)[0]]


def _surplus(node: Node, server: sql.Server) -> list[surplus.Surplus]:
    roles, databases = wanted(node)
    destroy = node.the(PostgresSettings).prune and node.stack.destroy
    pooled = _is_pooled(node)
    slots = replication.slots(node)
    return surplus.find(server, roles, databases, pooled=pooled, destroy=destroy, slots=slots)


def _goes(node: Node, each: surplus.Surplus) -> bool:
    return each.goes(prune=node.the(PostgresSettings).prune, destroy=node.stack.destroy)


def _is_pooled(node: Node) -> bool:
    return bool(node.estate.in_group("pgbouncer"))


def wanted(node: Node) -> tuple[list[sql.Role], list[sql.Database]]:
    """The roles and databases of the settings, and those of the components."""
    chosen = node.the(PostgresSettings)
    roles = [
        _superuser(chosen),
        *(role_of(node, name, role) for name, role in rotating.roles_of(node).items()),
    ]
    if _is_pooled(node):
        roles += rotating.lookup_roles(node.estate.secrets)
    if archive.backup_host(node.estate):
        roles.append(_backup_role(node))
    if leader.is_replicated(node):
        roles.append(replication.role(node))
    # Ours may enter where PUBLIC may not, and so may those who read all databases.
    ours = (_COMPONENTS - {replication.ROLE}) & {role.name for role in roles}
    readers = {role.name for role in roles if role.member_of & rights.EVERYWHERE}
    enter = frozenset({"CONNECT"})
    databases = [
        sql.Database(
            name,
            database.owner,
            tuple(dict.fromkeys((*chosen.extensions, *database.extensions))),
            database.settings,
            {
                **dict.fromkeys(sorted(readers - {database.owner}), enter),
                **database.grants,
                **dict.fromkeys(sorted(ours), enter),
            },
        )
        for name, database in chosen.databases.items()
    ]
    return roles, databases


def _backup_role(node: Node) -> sql.Role:
    secret = node.estate.secrets.get(archive.ROLE_SECRET)
    groups = frozenset({"pg_read_all_data", "pg_monitor"})
    functions = frozenset({"pg_create_restore_point(text)", "pg_switch_wal()"})
    return sql.Role(
        archive.ROLE,
        secret,
        # A dump has every row and every large object, whatever their owners allow.
        {"login": True, "bypassrls": True},
        member_of=groups,
        # They win over what is set for an owner's database.
        settings={"lo_compat_privileges": "on", **SUPERUSERS_OPTIONS},
        functions=functions,
    )


def _superuser(chosen: PostgresSettings) -> sql.Role:
    everything = {key: True for key in sql.ATTRIBUTES}
    return sql.Role("postgres", chosen.password.get_secret_value(), everything)


def role_of(node: Node, name: str, role: Role) -> sql.Role:
    return sql.Role(
        name,
        role_password(node, name),
        {key: getattr(role, key) for key in sql.ATTRIBUTES},
        role.connection_limit,
        role.valid_until,
        role.member_of,
        role.settings,
    )
