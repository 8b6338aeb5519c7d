"""PostgreSQL: one cluster per host, its roles, databases, extensions and grants."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from ipaddress import ip_network
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from backup.config import SUPERUSERS_OPTIONS
from tasks import archive, clusters, link
from tasks.core import files, packages, parameters, psql, services, sql, surplus
from tasks.core.change import Change, Trial, converge
from tasks.core.estate import HOST, Component, Estate, Node, here, on
from tasks.core.files import MARK, Entry, File, render
from tasks.core.preflight import Listener, hears
from tasks.core.remote import Probe, Unreadable
from tasks.core.secrets import Secrets
from tasks.core.services import Activation, Service
from tasks.core.settings import (
    NOT_A_KEY,
    NOT_A_MOMENT,
    Extra,
    Identifier,
    Line,
    Model,
    Port,
    Problem,
    Secret,
    Settings,
    StackSettings,
    matching,
    wrong,
)

Parameter = Annotated[str, matching(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", NOT_A_KEY)]
Privilege = Literal["CONNECT", "CREATE", "TEMPORARY"]

# Methods of pg_hba.conf(5); what is not here is a typing error, and PostgreSQL would refuse it.
_METHODS = {
    "scram-sha-256",
    "cert",
    "peer",
    "reject",
    "gss",
    "sspi",
    "pam",
    "bsd",
    "ldap",
    "radius",
}
# Where the cluster and its files are is not for postgres_extra to say.
_PLACES = {"data_directory", "config_file", "hba_file", "ident_file", "include", "include_dir"}
_RESERVED = {"postgres", "public", "none", sql.LOOKUP_ROLE, archive.ROLE}
LOOKUP_SECRET = "PGBOUNCER_AUTH_PASSWORD"
# Secrets of ldap and radius; the rest of the line with them, for a value may have blanks in it.
ACCESS_SECRETS = r'(?i)(?:passw|secret)\w*"?=(.*)$'
# Whatever is no comment of it lets somebody in. A line of ours may be with TLS or without.
ACCESS_LINES = r"\s*(?:host(?:ssl)? +(?=all  all  ))?([^#\s].*?)\s*$"
_WEAK = {"trust", "password", "md5", "ident"}


def _size(value: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*(kB|MB|GB|TB)", value):
        raise wrong("should be a size such as '256MB' (kB, MB, GB or TB)")
    return value


def _a_megabyte(value: str) -> str:
    if value.endswith("kB") and int(value[:-2]) < 1024:
        raise wrong(f"should be at least 1MB, not {value}")
    return value


def _duration(value: str) -> str:
    if not re.fullmatch(r"0|[1-9][0-9]*(ms|s|min|h|d)", value):
        raise wrong("should be a duration such as '300s' (ms, s, min, h or d), or '0'")
    return value


def _hba_line(value: str) -> str:
    try:
        method = _hba_method(shlex.split(value, comments=True))
    except ValueError:
        method = ""
    shown = files.mask(value, ACCESS_SECRETS)
    if method in _WEAK:
        raise wrong(f"{shown!r} should use scram-sha-256, not {method}")
    if method not in _METHODS:
        raise wrong(f"{shown!r} should be a pg_hba line: TYPE DATABASE USER [ADDRESS] METHOD")
    return value.strip()


def _hba_method(words: list[str]) -> str:
    """The method of a line, which stands before options; an address may have a mask of its own."""
    if not words or not re.fullmatch(r"local|host(no)?(ssl|gssenc)?", words[0]):
        return ""
    plain = [word for word in words if "=" not in word]
    position = 3 if words[0] == "local" else 4
    if position == 4 and len(plain) == 6 and re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+", plain[4]):
        position = 5
    return plain[position] if len(plain) == position + 1 else ""


Size = Annotated[str, AfterValidator(_size)]
Library = Annotated[
    str, matching(r"[A-Za-z0-9_.$/-]+", "should be the name of a library such as 'pg_cron'")
]
Duration = Annotated[str, AfterValidator(_duration)]
HbaLine = Annotated[Line, AfterValidator(_hba_line)]


def _moment(value: object) -> object:
    """Digits alone would be read as seconds since 1970."""
    if isinstance(value, str | datetime) and not str(value).isdigit():
        return value
    raise wrong(NOT_A_MOMENT)


class Role(Model):
    """A role; one without a password gets a generated one, kept in `.env`."""

    password: Secret | None = None
    """Stored as a SCRAM-SHA-256 verifier. Default: generated, in `.env`."""
    login: bool = True
    """May log in."""
    superuser: bool = False
    """Passes every check of privileges; logs in without PgBouncer only."""
    createdb: bool = False
    """May create databases."""
    createrole: bool = False
    """May create roles."""
    replication: bool = False
    """May stream WAL; logs in without PgBouncer only."""
    bypassrls: bool = False
    """Passes row security; logs in without PgBouncer only."""
    inherit: bool = True
    """Inherits privileges of its groups."""
    connection_limit: Annotated[int, Field(ge=-1)] = -1
    """Connections; -1 for no limit."""
    valid_until: Annotated[AwareDatetime, BeforeValidator(_moment)] | None = None
    """Time with time zone after which the password is not accepted, by PgBouncer neither; open
    sessions stay. Default: never."""
    member_of: frozenset[Identifier] = frozenset()
    """Groups; other memberships are revoked."""
    settings: dict[Parameter, Line] = {}
    """Parameters of its sessions; other ones are reset."""


class Database(Model):
    """A database; grants are privileges on the database itself, by role."""

    owner: Identifier
    """A role of `postgres_roles`, or `postgres`."""
    extensions: tuple[Identifier, ...] = ()
    """Extensions besides `postgres_extensions`."""
    settings: dict[Parameter, Line] = {}
    """Parameters of its sessions; other ones are reset."""
    grants: dict[Identifier, frozenset[Privilege]] = {}
    """`{role: [CONNECT, CREATE, TEMPORARY]}` on the database; others of the roles in
    `postgres_roles` are revoked."""


class PostgresSettings(Settings):
    """The `postgres_*` keys; memory defaults follow the host's memory."""

    prefix: ClassVar[str] = "postgres_"

    databases: dict[Identifier, Database]
    """Databases, by name. Default: one named `stack_name`, owned by the role of that name. Change:
    SQL; reload of PgBouncer."""
    roles: dict[Identifier, Role]
    """Roles, by name. Default: one named `stack_name`. Change: SQL."""
    password: Secret
    """Password of the superuser `postgres`. Default: `POSTGRES_PASSWORD`. Change: SQL; reload of
    PgBouncer."""
    port: Port = 5432
    """Port. Change: restart; reload of PgBouncer."""
    version: Annotated[int, Field(ge=14, le=18)] | None = None
    """Major version, 14 to 18, of packages that apt can find; the distribution's own is what is
    tested. Default: the distribution's. Change: refused where a cluster of another version exists.
    """
    locale: Annotated[
        Line, matching(r"[A-Za-z0-9_.@-]+", "should be a locale's name such as 'C.UTF-8'")
    ] = "C.UTF-8"
    """Locale of the cluster. Change: read only when the cluster is created."""
    listen_addresses: Line | None = None
    """Where it listens. Default: `localhost`, with `address` when a pooler or backup host is
    elsewhere. Change: restart."""
    extensions: tuple[Identifier, ...] = ("pg_stat_statements",)
    """Extensions of every database. Default: `pg_stat_statements`. Change: SQL."""
    shared_preload_libraries: tuple[Library, ...] = ()
    """Libraries before Datatier's `pg_stat_statements`: `["pg_cron"]`. Change: restart."""
    hba: tuple[HbaLine, ...] = ()
    """More `pg_hba.conf` lines, after Datatier's; `trust`, `password`, `md5`, `ident` are refused.
    Change: reload."""
    max_connections: Annotated[int, Field(ge=10, le=10000)] = 100
    """Connections; the pools of all PgBouncers must fit. Change: restart."""
    superuser_reserved_connections: Annotated[int, Field(ge=1, le=100)] = 3
    """How many of these are kept for superusers. Change: restart."""
    shared_buffers: Annotated[Size, AfterValidator(_a_megabyte)] | None = None
    """Shared memory. Default: a quarter of the memory, 64MB to 16GB. Change: restart."""
    effective_cache_size: Size | None = None
    """The planner's view of all caches. Default: three quarters of the memory. Change: reload."""
    work_mem: Size | None = None
    """Memory of one sort or hash. Default: a quarter of the memory / `max_connections`, 4MB to
    64MB. Change: reload."""
    maintenance_work_mem: Size | None = None
    """Memory of VACUUM, CREATE INDEX. Default: a sixteenth of the memory, 32MB to 2GB. Change:
    reload."""
    max_wal_size: Size = "1GB"
    """WAL between checkpoints. Change: reload."""
    checkpoint_completion_target: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Spread of a checkpoint. Change: reload."""
    random_page_cost: Annotated[float, Field(gt=0)] = 1.1
    """Planner's cost of a random page (SSD). Change: reload."""
    log_min_duration_statement: Annotated[int, Field(ge=-1)] = 1000
    """Logs statements that take longer, ms; -1 for none. Change: reload."""
    statement_timeout: Duration = "300s"
    """Cancels longer statements; `0` for never. Change: reload."""
    lock_timeout: Duration = "10s"
    """Cancels longer waits for a lock; `0` for never. Change: reload."""
    prune: bool = False
    """What left the settings goes. Change: SQL; the service stops."""
    adopt: bool = False
    """A cluster of others is taken over in one run. Change: restart; `pg_hba.conf` is replaced, a
    copy stays."""
    extra: Extra = {}
    """Any other parameter: `{"log_lock_waits": "on"}`. Change: reload, and restart where PostgreSQL
    needs one."""


def memory(megabytes: int, max_connections: int) -> dict[str, str]:
    """Memory settings for a host, in PostgreSQL's units.

    A quarter of the memory for shared buffers and three quarters as the planner's view of all
    caches are the PostgreSQL manual's advice (Resource Consumption, Query Planning). Memory is
    rounded to 256 MB first, so that a new kernel's few megabytes do not restart a server.

    Args:
        megabytes: what the host or its container has, in MiB.
        max_connections: each may use `work_mem` a few times over.
    """
    rounded = max(256, megabytes // 256 * 256)
    work = min(64, max(4, rounded // 4 // max_connections))
    return {
        "shared_buffers": f"{max(64, min(rounded // 4, 16384))}MB",
        "effective_cache_size": f"{rounded * 3 // 4}MB",
        "work_mem": f"{work}MB",
        "maintenance_work_mem": f"{max(32, min(rounded // 16, 2048))}MB",
    }


def shared_memory(megabytes: int) -> int:
    """MiB that parallel queries may use in a container's /dev/shm: half, as on a host (tmpfs(5)).

    It is a limit and takes no memory, so it follows the machine and not `work_mem`: a change of
    it recreates the container.

    Args:
        megabytes: what the host or its container has, in MiB.
    """
    return max(1, megabytes // 512) * 256


# --- What the estate knows of PostgreSQL ---------------------------------------------------------


def _defaults(stack: StackSettings, store: Secrets, given: Mapping[str, Any]) -> dict[str, Any]:
    name = stack.stack_name
    defaults: dict[str, Any] = {
        "databases": {name: {"owner": name}},
        "roles": {name: {}},
    }
    if "password" not in given:
        defaults["password"] = store.get("POSTGRES_PASSWORD")
    return defaults


def _secrets(node: Node) -> list[str]:
    roles = node.the(PostgresSettings).roles.items()
    names = [secret_name(name) for name, role in roles if role.login and role.password is None]
    return [*names, LOOKUP_SECRET] if node.estate.in_group("pgbouncer") else names


def _in_use(node: Node) -> Mapping[str, str]:
    server: sql.Server = node.read("postgres")["server"]
    # A container's files are its host's to look at.
    is_foreign = not node.service and _clusters(node).is_foreign
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


def secret_name(role: str) -> str:
    """The name of a role's password in the environment and in `.env`."""
    return f"POSTGRES_ROLE_{re.sub('[^A-Z0-9]', '_', role.upper())}_PASSWORD"


def _rules(everything: Estate) -> list[Problem]:
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
        for key in sorted(set(chosen.extra) & {*_parameters(node), *_PLACES}):
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
        problems += _role_rules(node, chosen, known)
        problems += _limits(node, chosen)
    return problems


def _role_rules(node: Node, chosen: PostgresSettings, known: set[str]) -> Iterator[Problem]:
    secrets: dict[str, str] = {}
    for name, role in chosen.roles.items():
        for group in sorted(role.member_of - known):
            if not group.startswith("pg_"):
                key = f"postgres_roles/{name}/member_of"
                yield Problem(node.name, key, f"role {group!r} is not in postgres_roles")
        if role.password is not None or not role.login:
            continue
        secret = secret_name(name)
        if secret in secrets:
            message = (
                f"roles {secrets[secret]!r} and {name!r} would share the secret {secret}: "
                "give one of them a password"
            )
            yield Problem(node.name, "postgres_roles", message)
        secrets[secret] = name


def _database_rules(host: str, name: str, database: Database, known: set[str]) -> Iterator[Problem]:
    key = f"postgres_databases/{name}"
    if name in ("template0", "template1", "pgbouncer"):
        yield Problem(host, key, f"{name!r} is reserved")
    if database.owner not in known:
        yield Problem(host, f"{key}/owner", f"role {database.owner!r} is not in postgres_roles")
    for role in sorted(set(database.grants) - known):
        yield Problem(host, f"{key}/grants", f"role {role!r} is not in postgres_roles")


def _limits(node: Node, chosen: PostgresSettings) -> Iterator[Problem]:
    from tasks.pgbouncer import PgbouncerSettings

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
    if PgbouncerSettings in node.settings and not hears(chosen.listen_addresses, *_LOOPBACK):
        message = "should contain localhost: the PgBouncer beside it connects there"
        yield Problem(node.name, "postgres_listen_addresses", message)
    if poolers and not hears(chosen.listen_addresses, node.address):
        message = (
            f"should contain {node.address}: the PgBouncer on {', '.join(poolers)} connects there"
        )
        yield Problem(node.name, "postgres_listen_addresses", message)
    yield from archive.unusable(node, chosen.extra)


_LOOPBACK = "127.0.0.1", "localhost"


def _listens(node: Node) -> list[Listener]:
    port = node.the(PostgresSettings).port
    binds = _outside(node) is not None
    mine = Listener(port, "postgres_port", "postgres", _unit(node), binds=binds)
    return [mine, archive.listener()] if archive.is_remote(node) else [mine]


def _checks(node: Node) -> list[Problem]:
    wanted, found = cluster_version(node), _clusters(node)
    if why := clusters.other_version(wanted, found):
        return [Problem(node.name, "postgres_version", why)]
    refused = [Problem(node.name, f"cluster {wanted}/main", why) for why in _refused(node)]
    refused += unavailable(node, node.read("postgres")["extensions"])
    return refused + archive.rivals(node, node.read(HOST)["rivals"])


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


def _way_to(name: str, known: Collection[str], version: int) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    package = f"install its package first (apt-cache search postgresql-{version}-)"
    return f"{close[0]}? Else {package}" if close else package


def _clusters(node: Node) -> clusters.Clusters:
    found: clusters.Clusters = node.read(HOST)["clusters"]
    return found


def _refused(node: Node) -> Iterator[str]:
    adopt = node.the(PostgresSettings).adopt
    return clusters.refused(cluster_version(node), _clusters(node), adopt=adopt)


def _probes(node: Node) -> dict[str, Probe[Any]]:
    from tasks import pgbouncer

    chosen = node.the(PostgresSettings)
    data = data_directory(node)
    return {
        "packages": packages.probe(_packages(node)),
        "files": files.probe(_files(node)),
        "services": services.probe(_services(node), node.manager),
        "certificate": archive.certificate_probe(node),
        **_link_probes(node),
        "server": sql.probe(data, ["template1", *chosen.databases]),
        "held": pgbouncer.held_probe(),
        "extensions": extensions_probe(cluster_version(node)),
    }


def _link_probes(node: Node) -> dict[str, Probe[str]]:
    chosen = node.the(PostgresSettings)
    return link.probes(node, chosen.port) if link.is_ours(node, chosen.extra) else {}


# The file of the cluster's configuration that is ours.
_OURS = "conf.d/datatier.conf"


# --- Install -------------------------------------------------------------------------------------


def cluster_version(node: Node, like: Node | None = None) -> int:
    """The major version of the cluster; `like` has the same release, where `node` is away."""
    return node.the(PostgresSettings).version or (like or node).system.release.postgres


def data_directory(node: Node, like: Node | None = None) -> str:
    """Where the cluster's data are; see `cluster_version`."""
    return f"/var/lib/postgresql/{cluster_version(node, like)}/main"


def configuration_directory(node: Node) -> str:
    """Where the files of the cluster's configuration are."""
    return f"/etc/postgresql/{cluster_version(node)}/main"


def _archiver(node: Node) -> list[str]:
    archiver = ["pgbackrest"] if archive.backup_host(node.estate) else []
    has_key = archiver or link.is_ours(node, node.the(PostgresSettings).extra)
    return [*archiver, "openssl"] if has_key else []


def _packages(node: Node) -> list[str]:
    return [
        f"postgresql-{cluster_version(node)}",
        "postgresql-client-common",
        *_archiver(node),
        *services.packages(node.manager),
    ]


@on(PostgresSettings)
def install(node: Node) -> None:
    """Installs the packages and creates the cluster; nothing is started."""
    converge("PostgreSQL: packages", lambda: _missing_packages(node))
    converge("PostgreSQL: cluster", lambda: _missing_cluster(node))


def _missing_packages(node: Node) -> Change | None:
    return packages.compare(
        node, _packages(node), node.read("postgres")["packages"], packages.NO_CLUSTER
    )


def _missing_cluster(node: Node) -> Change | None:
    found, version = _clusters(node), cluster_version(node)
    for why in _refused(node):
        raise Unreadable(f"cluster {version}/main {why}")
    if found.is_whole:
        return None
    chosen = node.the(PostgresSettings)
    script, variables = clusters.creation(version, chosen.port, chosen.locale)
    return Change([f"cluster {version}/main: create, with data checksums"], script, variables)


# --- Configure -----------------------------------------------------------------------------------


@on(PostgresSettings)
def configure(node: Node) -> None:
    """Writes the configuration, makes the server take it, and converges roles and databases."""
    converge("PostgreSQL: key", lambda: link.missing_key(node, node.read("postgres")))
    converge(
        "PostgreSQL: configuration",
        lambda: _configuration(node),
    )
    activate()
    converge("PostgreSQL: roles and databases", lambda: _sql(node))
    prune(node, lambda: node.read("postgres")["server"])


def _configuration(node: Node) -> Change | None:
    said, waiting = node.read("postgres"), _in_clear(node)
    change = files.compare(_files(node, _trusted(node), waiting), said["files"])
    if change is not None and _clusters(node).is_foreign:
        change = _adopted(node, change)
    if change is None or said["server"].kind != "up":
        return change
    etc = configuration_directory(node)
    wanted = configuration(node), access(node, waiting)
    now = (said["files"][f"{etc}/{name}"].content for name in (_OURS, "pg_hba.conf"))
    tried = [trial(node, _OURS, *wanted)] if [text.encode() for text in wanted] != [*now] else []
    return change.after(tried)


def _adopted(node: Node, change: Change) -> Change:
    """The change that also makes somebody's cluster ours."""
    archives = archive.backup_host(node.estate) is not None
    lines = clusters.adoption(cluster_version(node), _clusters(node), archives=archives)
    etc = configuration_directory(node)
    return files.keeping(change, lines, [f"{etc}/pg_hba.conf"])


def _trusted(node: Node) -> str:
    keeper = archive.backup_host(node.estate)
    if keeper is None or not archive.is_remote(node):
        return ""
    return archive.trusted(node, "postgres", keeper, "backup")


def clients(node: Node, in_clear: Collection[Node] = ()) -> list[dict[str, str]]:
    """Hosts that need to reach this server from outside: poolers and the backup host.

    To a container everybody comes from outside, its own host too.

    Args:
        in_clear: poolers that have no TLS yet.
    """
    if node.estate.subnet:
        project = {"group": "docker", "name": "the project", "address": node.estate.subnet}
        return [{**project, "type": "host"}]
    return [
        {
            "group": group,
            "name": other.name,
            "address": _address(other),
            "type": "host" if other in in_clear or _stays_in_clear(node, other) else "hostssl",
        }
        for group, other in link.clients(node)
    ]


def _address(node: Node) -> str:
    return str(ip_network(node.address))


def _stays_in_clear(node: Node, other: Node) -> bool:
    """Whether the settings say that the link has no TLS."""
    from tasks import pgbouncer

    is_pooler = pgbouncer.PgbouncerSettings in other.settings
    encrypted = link.is_encrypted(node.the(PostgresSettings).extra)
    return not encrypted or (is_pooler and pgbouncer.refuses_tls(other))


def _in_clear(node: Node) -> list[Node]:
    """Poolers that keep the line which lets them in without TLS: they may not have it yet.

    One that this run does not reach keeps the line that it has.
    """
    from tasks import pgbouncer

    now = _access_now(node)
    return [
        other
        for group, other in link.clients(node)
        if group == "pgbouncer"
        and not re.search(_line("hostssl", other), now)
        and (
            pgbouncer.is_in_clear(other)
            if other in node.estate.active
            else re.search(_line("host", other), now)
        )
    ]


def _line(kind: str, other: Node) -> str:
    """A pattern for the line of ours that lets a host in."""
    return rf"(?m)^{kind} +(?=all  all  {re.escape(_address(other))}  )"


def _access_now(node: Node) -> str:
    found = node.read("postgres")["files"][f"{configuration_directory(node)}/pg_hba.conf"]
    return str(found.content.decode(errors="replace"))


def narrow() -> None:
    """Lets poolers that have TLS in with it only.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    servers = node.estate.having(PostgresSettings)
    if any(node in (server, *(each for _, each in link.clients(server))) for server in servers):
        converge("PostgreSQL: access of poolers", lambda: _narrowed(node))


def _narrowed(node: Node) -> Change | None:
    if PostgresSettings not in node.settings:
        return None
    said, now, waiting = node.read("postgres"), _access_now(node), _in_clear(node)
    if not node.host.state.is_executing:
        # As the run finds it then.
        now = now if MARK in now else access(node, waiting)
        waiting = [other for other in waiting if other not in node.estate.active]
    wanted = now
    for group, other in link.clients(node):
        if group == "pgbouncer" and other not in waiting and not _stays_in_clear(node, other):
            wanted = re.sub(_line("host", other), "hostssl ", wanted)
    if wanted == now:
        return None
    etc, found = configuration_directory(node), said["files"]
    path, settings = f"{etc}/pg_hba.conf", found[f"{etc}/{_OURS}"].content.decode()
    before = replace(found[path], kind="file", content=now.encode())
    change = files.compare([private(path, wanted, ACCESS_SECRETS)], {path: before})
    assert change is not None
    taken = services.due(_server(node, settings + wanted, "reload"), "reload", node.manager)
    return _with_console(node, change.followed_by(taken))


def _parameters(node: Node) -> dict[str, str | int | float]:
    chosen = node.the(PostgresSettings)
    defaults = memory(node.system.memory, chosen.max_connections)
    listen = "localhost" if not clients(node) else f"localhost,{node.address}"
    return {
        "listen_addresses": listen if chosen.listen_addresses is None else chosen.listen_addresses,
        "port": chosen.port,
        "max_connections": chosen.max_connections,
        "superuser_reserved_connections": chosen.superuser_reserved_connections,
        "password_encryption": "scram-sha-256",
        "shared_buffers": chosen.shared_buffers or defaults["shared_buffers"],
        "effective_cache_size": chosen.effective_cache_size or defaults["effective_cache_size"],
        "work_mem": chosen.work_mem or defaults["work_mem"],
        "maintenance_work_mem": chosen.maintenance_work_mem or defaults["maintenance_work_mem"],
        "max_wal_size": chosen.max_wal_size,
        "checkpoint_completion_target": chosen.checkpoint_completion_target,
        "random_page_cost": chosen.random_page_cost,
        "log_min_duration_statement": chosen.log_min_duration_statement,
        "statement_timeout": chosen.statement_timeout,
        "lock_timeout": chosen.lock_timeout,
        # Some have to be the first one.
        "shared_preload_libraries": ", ".join(
            dict.fromkeys((*chosen.shared_preload_libraries, "pg_stat_statements"))
        ),
        **link.parameters(node, chosen.extra),
        **archive.parameters(node),
    }


def _files(node: Node, certificate: str = "", in_clear: Collection[Node] = ()) -> list[Entry]:
    port, etc = node.the(PostgresSettings).port, configuration_directory(node)
    return [
        private(f"{etc}/{_OURS}", configuration(node), sql.SECRET_PARAMETERS),
        private(f"{etc}/pg_hba.conf", access(node, in_clear), ACCESS_SECRETS, ACCESS_LINES),
        *_archiving(node, certificate),
        *archive.recovery(node, service_of(node), data_directory(node), etc, port),
        *(entry for service in _services(node) for entry in services.files(service, node.manager)),
    ]


def private(path: str, content: str, secret: str, opens: str | None = None) -> File:
    """A file that only the server and root read."""
    return File(path, content, "640", "postgres", "postgres", secret, opens=opens)


_TRACKING = "pg_stat_statements.track_utility"


def configuration(node: Node, first: Mapping[str, str] = MappingProxyType({})) -> str:
    """The settings as postgresql.conf has them, after those of `first`."""
    parameters = {
        **first,
        **_parameters(node),
        # Statements that set passwords are among them.
        _TRACKING: False,
        **node.the(PostgresSettings).extra,
    }
    return render("postgres/postgresql.conf.j2", parameters=_quoted(parameters))


def access(node: Node, in_clear: Collection[Node] = ()) -> str:
    """The content of pg_hba.conf."""
    lines = node.the(PostgresSettings).hba
    return render("postgres/pg_hba.conf.j2", clients=clients(node, in_clear), lines=lines)


def _archiving(node: Node, certificate: str) -> list[Entry]:
    """How this host reaches a repository that is on another one."""
    keeper = archive.backup_host(node.estate)
    if keeper is None or not archive.is_remote(node):
        return []
    options, entries = archive.tls(node, keeper, certificate)
    cluster: dict[str, str | int] = {
        "pg1-path": data_directory(node),
        "pg1-port": node.the(PostgresSettings).port,
        "pg1-socket-path": "/var/run/postgresql",
    }
    common = {**options, **archive.peer("repo1", keeper), "log-level-file": "off"}
    return [*entries, archive.config_file(node, common, cluster)]


def _quoted(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Values as they stand between the quotes of postgresql.conf."""
    words = {True: "on", False: "off"}
    return {
        key: (words[value] if isinstance(value, bool) else str(value))
        .replace("\\", "\\\\")
        .replace("'", "''")
        for key, value in parameters.items()
    }


def _sql(node: Node) -> Change | None:
    return statements(node, node.read("postgres")["server"])


def statements(node: Node, server: sql.Server) -> Change | None:
    """What a server lacks of the roles and databases, or None."""
    roles, databases = _wanted(node)
    return sql.compare(
        server,
        roles,
        databases,
        data_directory(node),
        pooled=_is_pooled(node),
        forgets=_TRACKING not in node.the(PostgresSettings).extra,
    )


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
        server, going = read(), partial(_goes, node)
        found = [each for each in _surplus(node, server) if each.what in shown and going(each)]
        return carried_out(surplus.drop(server, found, data_directory(node)))

    converge("PostgreSQL: prune", compare, notices=lambda: beside(node))


def beside(node: Node) -> Iterator[str]:
    """What is said of what the server has beside the settings, as long as it stays."""
    server: sql.Server = node.read("postgres")["server"]
    yield from (each.notice for each in _surplus(node, server) if not _goes(node, each))
    yield from _elsewhere(node, server)
    for name in sorted(sql.closed_databases(server) & {*node.the(PostgresSettings).databases}):
        out = "ALTER DATABASE ... ALLOW_CONNECTIONS true"
        yield f"database {name}: lets nobody in, so nothing in it is compared or dumped; {out}"
    for name, inside in sorted(server.databases.items()):
        if mighty := inside.get("mighty"):
            shown = [*mighty[:_SHOWN], *(["..."] if mighty[_SHOWN:] else [])]
            yield f"database {name}: {', '.join(shown)}: {_MIGHTY}"


def excess(node: Node) -> Iterator[str]:
    """Rights that roles of the settings have by hand, which a run takes away."""
    change = _sql(node)
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
    files_of_ours = {f"{etc}/{name}" for name in ("postgresql.conf", _OURS)}
    files_of_ours |= {f"{data}/postgresql.auto.conf", f"{data}/postgresql.conf"}
    for path in server.facts.get("sources") or []:
        # What is in conf.d on a host is named as a file.
        if path not in files_of_ours and (node.service or not path.startswith(f"{etc}/conf.d/")):
            yield f"PostgreSQL reads {path}: not written by Datatier; remove it if it is not yours"


def role_names(node: Node) -> list[str]:
    """The roles that the settings and the components want."""
    return [role.name for role in _wanted(node)[0]]


def _surplus(node: Node, server: sql.Server) -> list[surplus.Surplus]:
    roles, databases = _wanted(node)
    destroy = node.the(PostgresSettings).prune and node.stack.destroy
    pooled = _is_pooled(node)
    return surplus.find(server, roles, databases, pooled=pooled, destroy=destroy)


def _goes(node: Node, each: surplus.Surplus) -> bool:
    return each.goes(prune=node.the(PostgresSettings).prune, destroy=node.stack.destroy)


def _is_pooled(node: Node) -> bool:
    return bool(node.estate.in_group("pgbouncer"))


def _wanted(node: Node) -> tuple[list[sql.Role], list[sql.Database]]:
    """The roles and databases of the settings, and those of the components."""
    chosen = node.the(PostgresSettings)
    roles = [_superuser(chosen), *(_role(node, name, role) for name, role in chosen.roles.items())]
    if _is_pooled(node):
        password = lookup_password(node.estate)
        roles.append(sql.Role(sql.LOOKUP_ROLE, password, {"login": True}))
    if archive.backup_host(node.estate):
        roles.append(_backup_role(node))
    # Ours may enter where PUBLIC may not.
    ours = {archive.ROLE, sql.LOOKUP_ROLE} & {role.name for role in roles}
    entry = dict.fromkeys(sorted(ours), frozenset({"CONNECT"}))
    databases = [
        sql.Database(
            name,
            database.owner,
            tuple(dict.fromkeys((*chosen.extensions, *database.extensions))),
            database.settings,
            {**database.grants, **entry},
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


def lookup_password(everything: Estate) -> str:
    """The password of the role with which PgBouncer looks passwords up."""
    return everything.secrets.get(LOOKUP_SECRET)


def _superuser(chosen: PostgresSettings) -> sql.Role:
    everything = {key: True for key in sql.ATTRIBUTES}
    return sql.Role("postgres", chosen.password.get_secret_value(), everything)


def _role(node: Node, name: str, role: Role) -> sql.Role:
    return sql.Role(
        name,
        role_password(node, name),
        {key: getattr(role, key) for key in sql.ATTRIBUTES},
        role.connection_limit,
        role.valid_until,
        role.member_of,
        role.settings,
    )


# --- Activate ------------------------------------------------------------------------------------


@on(PostgresSettings)
def activate(node: Node) -> None:
    """Starts PostgreSQL, or makes it take its configuration with the least impact."""
    converge("PostgreSQL: service", lambda: _activation(node))


def _activation(node: Node) -> Change | None:
    from tasks import pgbouncer

    archiving = [e.content for e in _archiving(node, _trusted(node)) if isinstance(e, File)]
    contents = configuration(node) + access(node, _in_clear(node))
    elsewhere = _others(node)
    server = _server(node, contents, _pending(node, elsewhere))
    found = node.read("postgres")["services"]
    due = services.impact(server, found["postgres"]) is not None
    elsewhere = parameters.only_known(elsewhere, due=due)
    service, variables = parameters.putting_back(server.service, elsewhere, data_directory(node))
    server = replace(
        server,
        service=service,
        reload_means=_pending(node, elsewhere),
        restart_means=restarts(node, parameters.reasons(elsewhere) or "its unit"),
    )
    found = {**found, "postgres": parameters.status(found["postgres"], elsewhere)}
    others = [
        services.activation(service, node.manager, restart="".join(archiving))
        for service in _services(node)[1:]
    ]
    change = services.compare([server, *others], found, node.manager)
    change = change or pgbouncer.resume(node, node.read("postgres")["held"])
    if change is None:
        return None
    lines = [*parameters.sentences(elsewhere), *change.lines]
    change = replace(change, lines=lines, variables={**change.variables, **variables})
    return _with_console(node, change)


def _server(node: Node, contents: str, means: str) -> Activation:
    """The server as it should run, with these contents of its files."""
    return services.activation(
        service_of(node),
        node.manager,
        reload=contents + node.read("postgres").get("key", ""),
        reload_means=means,
        restart_means=restarts(node, "its unit"),
    )


def _with_console(node: Node, change: Change) -> Change:
    secret = node.the(PostgresSettings).password.get_secret_value()
    return replace(change, variables={**change.variables, "CONSOLE_PASSWORD": secret})


def _others(node: Node) -> list[parameters.Other]:
    """Whose values the server has in the place of ours."""
    said, etc = node.read("postgres"), configuration_directory(node)
    return parameters.others(
        said["server"],
        configuration(node),
        f"{etc}/{_OURS}",
        access=f"{etc}/pg_hba.conf",
        is_there=said["files"][f"{etc}/{_OURS}"].kind == "file",
    )


def _services(node: Node) -> list[Service]:
    return [service_of(node), *([archive.service(node)] if archive.is_remote(node) else [])]


def _pending(node: Node, elsewhere: Sequence[parameters.Other]) -> str:
    said = node.read("postgres")
    path = f"{configuration_directory(node)}/{_OURS}"
    before = said["files"][path].content
    return impact(node, before, configuration(node), said["server"], elsewhere)


def impact(
    node: Node,
    before: bytes,
    after: str,
    server: sql.Server,
    elsewhere: Sequence[parameters.Other] = (),
) -> str:
    """What the pending parameters cost; only the server knows which of them need a restart."""
    ours = parameters.of(after)
    there = {k: _kilobytes(v) for k, v in parameters.of(before.decode(errors="replace")).items()}
    wanted = {k: _kilobytes(v) for k, v in ours.items()}
    contexts = server.facts.get("contexts", {})
    changed = {key for key in wanted | there if wanted.get(key) != there.get(key)}
    # A file that was written and not loaded yet says nothing of what runs.
    waiting = server.facts.get("waiting", ())
    changed.update(key for key in waiting if not parameters.uses(server, key, ours.get(key)))
    fixed = {key for key in changed if contexts.get(key) == "postmaster"}
    fixed.update(each.name for each in elsewhere if each.restarts)
    why = f"{', '.join(sorted(fixed))}: postmaster context"
    return restarts(node, why) if fixed else "reload"


def _kilobytes(value: str) -> str:
    """A size in the unit that all sizes have in common; any other value as it is."""
    match = re.fullmatch(r"(\d+)(kB|MB|GB|TB)", value)
    return f"{int(match[1]) * 1024 ** _SIZES.index(match[2])}kB" if match else value


_SIZES = ("kB", "MB", "GB", "TB")


def restarts(node: Node, why: str) -> str:
    """A restart as the plan says it, with what clients see of it."""
    from tasks.pgbouncer import PgbouncerSettings, holds

    poolers = [holds(node, pooler) for pooler in node.estate.having(PgbouncerSettings)]
    waiting = "; clients of PgBouncer wait" if poolers and all(poolers) else ""
    return f"restart ({why}{waiting})"


# The server's own reading of its files, beside one that runs: it knows which values are wrong.
_CHECK = """
bad=$(runuser -u postgres -- {command} -C config_file 2>&1 >/dev/null | head -n 1) || true
if [ -n "$bad" ]; then echo "PostgreSQL refuses its configuration: $bad" >&2; exit 1; fi
"""

# Both views read the files, not the server's memory: a bad line is found before it is loaded. A
# parameter that waits for a restart is listed there as not applied, which is no mistake. What a
# checkpoint writes before the restart need not be written while clients wait.
_RELOAD = """
port=$(runuser -u postgres -- sed -n 4p {data}/postmaster.pid)
ask() {{ printf '%s\\n' "$1" | closed_psql {data} "$port" postgres; }}
bad=$(ask "SELECT coalesce(name || ': ', '') || error FROM pg_file_settings
             WHERE error IS NOT NULL AND NOT {waits}
           UNION ALL SELECT 'pg_hba.conf line ' || line_number || ': ' || error
             FROM pg_hba_file_rules WHERE error IS NOT NULL" | head -n 1)
if [ -n "$bad" ]; then echo "PostgreSQL keeps its old configuration: $bad" >&2; exit 1; fi
ask 'SELECT pg_reload_conf()' >/dev/null; sleep 0.5
if [ "$(ask 'SELECT count(*) FROM pg_settings WHERE pending_restart')" != 0 ]; then
  ask CHECKPOINT; again postgres {unit}
fi
"""


# A scratch server with these files, beside the live one: it knows every reason not to start.
_TRIAL = """
bin={bin} etc={etc}
as_postgres() {{ runuser -u postgres -- "$@"; }}
trial=$(as_postgres mktemp -d -p /var/tmp)
trap 'as_postgres "$bin/pg_ctl" stop -s -m immediate -D "$trial/data" 2>/dev/null
  as_postgres rm -rf "$trial"' EXIT
# What stands there as a link is tried as the file that will take its place.
into() {{ as_postgres sh -c 'rm -f "$1"; umask 077; cat >"$1"' sh "$trial/etc/$1"; }}
{{
  as_postgres cp -R "$etc" "$trial/etc" && printf %s "$TRIAL_CONFIGURATION" | into {name} &&
  printf %s "$TRIAL_ACCESS" | into pg_hba.conf
}} 2>/dev/null || {{
  echo "PostgreSQL keeps its old settings, since postgres cannot read or write $etc" >&2; exit 1; }}
as_postgres "$bin/initdb" -D "$trial/data" --no-sync --locale C --encoding UTF8 >/dev/null
options="-c data_directory=$trial/data -c config_file=$trial/etc/postgresql.conf"
options="$options -c hba_file=$trial/etc/pg_hba.conf -c unix_socket_directories=$trial"
options="$options -c port=$((49152 + $$ % 16384)) -c external_pid_file= -c archive_mode=off"
options="$options -c huge_pages=off -c logging_collector=off -c log_destination=stderr"
options="$options -c log_min_messages=log -c lc_messages=C"
as_postgres "$bin/pg_ctl" start -s -t 60 -D "$trial/data" -l "$trial/log" -o "$options" \
  >/dev/null 2>&1 || {{
  said='s/^.*(LOG|ERROR|FATAL):  //p; s/^.*CONTEXT:  /at /p'
  bad=$(as_postgres sed -nE "$said" "$trial/log" 2>/dev/null |
    grep -vE '^(starting PostgreSQL|listening on|database system)' | head -n 2 | paste -s -d ' ' |
    sed "s,$trial/etc,$etc,g")
  echo "PostgreSQL keeps its old settings, since it would not start with the new ones:" \
    "${{bad:-pg_ctl failed}}" >&2
  exit 1
}}
"""


def trial(node: Node, name: str, configuration: str, access: str) -> Trial:
    """Starts a scratch server with the configuration, `name` being its file in /etc.

    A restart that fails is an outage; PostgreSQL checks much of its configuration then only.
    """
    binaries = f"/usr/lib/postgresql/{cluster_version(node)}/bin"
    script = _TRIAL.format(bin=binaries, etc=configuration_directory(node), name=name)
    return Trial(script, {"TRIAL_CONFIGURATION": configuration, "TRIAL_ACCESS": access})


def _unit(node: Node) -> str:
    return f"postgresql@{cluster_version(node)}-main.service"


def service_of(node: Node, console: Callable[[Node], str] | None = None) -> Service:
    """PostgreSQL as a service of a host or in a container.

    Args:
        console: how the consoles of poolers are reached from there.
    """
    from tasks import pgbouncer

    hold, release = pgbouncer.hold(node, console or partial(pgbouncer.console, node))
    version, port = cluster_version(node), node.the(PostgresSettings).port
    unit = _unit(node)
    binary = f"/usr/lib/postgresql/{version}/bin/postgres"
    etc = configuration_directory(node)
    command = f"{binary} -D {data_directory(node)} -c config_file={etc}/postgresql.conf"
    return Service(
        name="postgres",
        description="PostgreSQL",
        command=command,
        user="postgres",
        group="postgres",
        configuration=(f"{etc}/conf.d/datatier.conf", f"{etc}/pg_hba.conf"),
        check=_CHECK.format(command=command),
        unit=unit,
        enabled_by="postgresql.service",
        runtime_directory="/var/run/postgresql",
        stop_signal="INT",
        ready=f"{psql.SHELL}echo 'SELECT 1' | closed_psql {data_directory(node)} {port} postgres",
        reload=psql.SHELL + _RELOAD.format(data=data_directory(node), unit=unit, waits=sql.WAITS),
        hold=hold,
        release=release,
        listens=_outside(node),
    )


def _outside(node: Node) -> tuple[str, int] | None:
    """Where other hosts reach it, if that has to be an address of its host."""
    chosen = node.the(PostgresSettings)
    listen = chosen.listen_addresses
    named = node.address in (listen or "").split(",") if listen else bool(clients(node))
    is_own = named and not node.is_loopback and not node.estate.subnet
    return (node.address, chosen.port) if is_own else None


def deploy() -> None:
    """PostgreSQL as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    "postgres",
    PostgresSettings,
    _defaults,
    _secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    adopts=("/etc/postgresql/",),
    in_use=_in_use,
)
