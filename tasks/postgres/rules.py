"""What is refused before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches

from tasks.core.estate import HOST, UNREAD, Estate, Node
from tasks.core.preflight import Listener, hears
from tasks.core.remote import Probe
from tasks.core.settings import Problem
from tasks.postgres import archive, clusters, handover, leader, replication, rotating, sql
from tasks.postgres.clients import outside
from tasks.postgres.files import parameters_of
from tasks.postgres.layout import cluster_version, clusters_of, refusals, unit_of
from tasks.postgres.settings import (
    LOOKUP_ROLE,
    PROBE_DATABASE,
    Database,
    PostgresSettings,
    logins_of,
    secret_name,
)

# Where the cluster and its files are is not for postgres_extra to say.
_PLACES = {"data_directory", "config_file", "hba_file", "ident_file", "include", "include_dir"}


_RESERVED = {
    "postgres",
    "public",
    "none",
    LOOKUP_ROLE,
    *logins_of(LOOKUP_ROLE),
    archive.ROLE,
    replication.ROLE,
}


def contradictions(everything: Estate) -> list[Problem]:
    problems = []
    for node in everything.having(PostgresSettings):
        chosen = node.the(PostgresSettings)
        known = {*chosen.roles, "postgres"}
        for name in chosen.roles:
            if name in _RESERVED or name.startswith("pg_"):
                message = f"role {name!r} is reserved"
                problems.append(Problem(node.name, "postgres_roles", message))
        for name, database in chosen.databases.items():
            problems += _database_rules(node.name, name, database, known)
        for key in sorted(set(chosen.extra) & {*parameters_of(node), *_PLACES}):
            owner = "is set by Datatier"
            if key in PostgresSettings.model_fields:
                owner = f"has a key of its own: postgres_{key}"
            problems.append(Problem(node.name, f"postgres_extra/{key}", owner))
        problems += [
            Problem(node.name, f"postgres_extra/{key}", "should be a PostgreSQL parameter name")
            for key in chosen.extra
            if not re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", key)
        ]
        if chosen.adopt and chosen.prune:
            message = "should not be set with postgres_prune: the cluster's roles would be dropped"
            problems.append(Problem(node.name, "postgres_adopt", message))
        problems += [
            *_role_rules(node, chosen, known),
            *rotating.wrong(node),
            *rotating.two_current(node),
        ]
        problems += _limits(node, chosen)
    return [*problems, *replication.contradictions(everything)]


def _role_rules(node: Node, chosen: PostgresSettings, known: set[str]) -> Iterator[Problem]:
    secrets: dict[str, str] = {}
    for name, role in chosen.roles.items():
        for group in sorted(role.member_of - known):
            if not group.startswith("pg_"):
                key = f"postgres_roles/{name}/member_of"
                yield Problem(node.name, key, f"role {group!r} is not in postgres_roles")
        if role.password is not None or not role.login:
            continue
        for login in (name, *logins_of(name)) if role.rotating else (name,):
            secret = secret_name(login)
            if secret in secrets:
                message = (
                    f"roles {secrets[secret]!r} and {login!r} would share the secret {secret}: "
                    "give one of them a password"
                )
                yield Problem(node.name, "postgres_roles", message)
            secrets[secret] = login


def _database_rules(host: str, name: str, database: Database, known: set[str]) -> Iterator[Problem]:
    key = f"postgres_databases/{name}"
    if name in ("template0", "template1", "pgbouncer", PROBE_DATABASE):
        yield Problem(host, key, f"{name!r} is reserved")
    if database.owner not in known:
        yield Problem(host, f"{key}/owner", f"role {database.owner!r} is not in postgres_roles")
    for role in sorted(set(database.grants) - known):
        yield Problem(host, f"{key}/grants", f"role {role!r} is not in postgres_roles")


def _limits(node: Node, chosen: PostgresSettings) -> Iterator[Problem]:
    if chosen.superuser_reserved_connections >= chosen.max_connections:
        message = f"should be less than postgres_max_connections ({chosen.max_connections})"
        yield Problem(node.name, "postgres_superuser_reserved_connections", message)
    poolers = [n.name for n in node.estate.in_group("pgbouncer") if n is not node]
    if poolers and node.is_loopback:
        message = (
            "should not be a loopback address: "
            f"the PgBouncer on {', '.join(poolers)} cannot reach it"
        )
        yield Problem(node.name, "address", message)
    if "pgbouncer" in node.groups and not hears(chosen.listen_addresses, *_LOOPBACK):
        message = "should contain localhost: the PgBouncer beside it connects there"
        yield Problem(node.name, "postgres_listen_addresses", message)
    if poolers and not hears(chosen.listen_addresses, node.address):
        message = (
            f"should contain {node.address}: the PgBouncer on {', '.join(poolers)} connects there"
        )
        yield Problem(node.name, "postgres_listen_addresses", message)
    yield from archive.unusable(node, chosen.extra)


_LOOPBACK = "127.0.0.1", "localhost"


_CLIENTS = ("pgbouncer", "backup")


def listens(node: Node) -> list[Listener]:
    port = node.the(PostgresSettings).port
    binds = outside(node) is not None
    others = (*_CLIENTS, "postgres") if leader.is_replicated(node) else _CLIENTS
    mine = Listener(port, "postgres_port", "postgres", unit_of(node), binds, open_to=others)
    return [mine, archive.listener()] if archive.is_remote(node) else [mine]


def checks(node: Node) -> list[Problem]:
    wanted, found = cluster_version(node), clusters_of(node)
    if why := clusters.other_version(wanted, found):
        return [Problem(node.name, "postgres_version", why)]
    refused = [Problem(node.name, f"cluster {wanted}/main", why) for why in refusals(node)]
    server: sql.Server = node.read("postgres")["server"]
    # The health table shows what is so, too.
    no = _no(server, follows=leader.is_replicated(node))
    refused += [Problem(node.name, UNREAD, f"cluster {wanted}/main: {why}") for why in no]
    refused += replication.refused(node)
    refused += handover.plan(node)
    refused += rotating.unknown(node, server)
    refused += unavailable(node, node.read("postgres")["extensions"])
    if server.kind == "absent":
        refused += without_locale(node, node.read("postgres")["locales"])
    return refused + archive.rivals(node, node.read(HOST)["rivals"])


def _no(server: sql.Server, *, follows: bool) -> Iterator[str]:
    """Why a server that answers is not the one that a run could change.

    Args:
        follows: it may be a standby.
    """
    if server.alone:
        yield f"its service has not started it: kill -INT {server.alone}, and run again"
    if server.facts.get("recovers") and not follows:
        what = "it recovers, or a standby.signal has made it a standby"
        yield f"takes no writes: {what}: SELECT pg_promote() ends that; then run again"


# What postgresql-15 and postgresql-17 bring, where they are not installed yet.
_CONTRIB = """
amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance
file_fdw fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime pageinspect
pg_buffercache pg_freespacemap pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility
pg_walinspect pgcrypto pgrowlocks pgstattuple plpgsql postgres_fdw refint seg sslinfo tablefunc tcn
tsm_system_rows tsm_system_time unaccent uuid-ossp xml2
"""


_ONLY_IN_15 = " adminpack old_snapshot"


_LIBRARIES = """
auth_delay.so auto_explain.so basebackup_to_shell.so basic_archive.so passwordcheck.so
pg_prewarm.so pg_stat_statements.so
"""


def extensions_probe(version: int) -> Probe[list[str]]:
    """Reads which extensions, and libraries with their ending, the packages of a host brought."""
    place = f"/usr/share/postgresql/{version}/extension"
    script = (
        f"cd {place} 2>/dev/null || exit 0\nls *.control 2>/dev/null || :\n"
        f"cd /usr/lib/postgresql/{version}/lib 2>/dev/null || exit 0\nls *.so 2>/dev/null || :"
    )
    return Probe(script, lambda lines: [line.removesuffix(".control") for line in lines])


def unavailable(node: Node, installed: Sequence[str]) -> list[Problem]:
    """Extensions and libraries that no package has brought: a run would stop at them half-way.

    Args:
        installed: those that are there; none where PostgreSQL is to be installed.
    """
    chosen, version = node.the(PostgresSettings), cluster_version(node)
    brought = _CONTRIB + _LIBRARIES + (_ONLY_IN_15 if version == 15 else "")
    known = {*installed} | (set() if "plpgsql" in installed else {*brought.split()})
    wanted = {"postgres_extensions": chosen.extensions} | {
        f"postgres_databases/{name}/extensions": database.extensions
        for name, database in chosen.databases.items()
    }
    # What has a path is where only the server looks.
    libraries = [f"{n}.so" for n in chosen.shared_preload_libraries if "/" not in n]
    wanted["postgres_shared_preload_libraries"] = tuple(libraries)
    return [
        Problem(node.name, key, f"{name!r} is not there: {_way_to(name, known, version)}")
        for key, names in wanted.items()
        for name in names
        if name not in known
    ]


def locales_probe() -> Probe[list[str]]:
    """Reads which locales a host has."""
    return Probe("locale -a 2>/dev/null || :", list)


def without_locale(node: Node, there: Sequence[str]) -> list[Problem]:
    """The cluster's locale, where a host does not have it; C.UTF-8 is a part of every system."""
    name = node.the(PostgresSettings).locale
    if _canonical(name) in {*map(_canonical, there), "c", "posix", "c.utf8"}:
        return []
    way = "install the package locales, add its line to /etc/locale.gen, and run locale-gen"
    return [Problem(node.name, "postgres_locale", f"{name!r} is not there: {way}")]


def _canonical(locale: str) -> str:
    """As the C library looks it up: `de_DE.UTF-8` is `de_DE.utf8`."""
    return locale.lower().replace("-", "")


def _way_to(name: str, known: Collection[str], version: int) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    package = f"install its package first (apt-cache search postgresql-{version}-)"
    return f"{close[0]}? Else {package}" if close else package
