"""The `postgres_*` keys."""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from tasks.core import files
from tasks.core.settings import (
    NOT_A_KEY,
    NOT_A_MOMENT,
    Extra,
    Identifier,
    Line,
    Model,
    Port,
    Secret,
    Settings,
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


LOOKUP_ROLE = "pgbouncer"
LOOKUP_SECRET = "PGBOUNCER_AUTH_PASSWORD"
# What PgBouncer calls the first database for those who look whether queries get through.
PROBE_DATABASE = "datatier_health"


# Secrets of ldap and radius; the rest of the line with them, for a value may have blanks in it.
ACCESS_SECRETS = r'(?i)(?:passw|secret)\w*"?=(.*)$'


# Each line of it but a comment lets clients in. A line of ours may be with TLS or without.
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


_WORD = r"[A-Za-z_][A-Za-z0-9_$-]*"
Table = Annotated[
    str, matching(rf"{_WORD}\.{_WORD}", "should be a schema and a table such as 'public.orders'")
]


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
    rotating: bool = False
    """Its applications log in as `NAME_a` or `NAME_b`, which
    [take turns](change.md#two-logins-that-take-turns)."""


def logins_of(owner: str) -> tuple[str, str]:
    """The two logins of an owner that take turns."""
    return f"{owner}_a", f"{owner}_b"


def secret_name(role: str) -> str:
    """The name of a role's password in the environment and in `.env`."""
    if role in (LOOKUP_ROLE, *logins_of(LOOKUP_ROLE)):
        return f"PGBOUNCER_AUTH{role.removeprefix(LOOKUP_ROLE).upper()}_PASSWORD"
    return f"POSTGRES_ROLE_{re.sub('[^A-Z0-9]', '_', role.upper())}_PASSWORD"


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
    `postgres_roles` are revoked. PUBLIC has none of them. An empty list shuts a role out."""
    vacuum: tuple[Table, ...] = ()
    """Tables, as `public.orders`, that the backup host vacuums and analyzes by
    `backup_schedule_vacuum`: those with which autovacuum does not keep up."""


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
    max_slot_wal_keep_size: Size = "2GB"
    """WAL that a standby which is away may hold back; then it is made again. Change: reload."""
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
    switchover_to: str = ""
    """Which standby `tasks.postgres.switchover` makes the primary, by its name in the inventory;
    `--data postgres_switchover_to=db2`, for one run. Default: the first one that follows. Change:
    with that task."""
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
