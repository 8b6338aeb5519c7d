"""The one way into a server: no setting and no object of a database changes what our SQL means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from backup import listener
from backup.config import Endpoint, Pooler, Postgres, present_postgres
from backup.job import Failed
from backup.postgres.options import start_options

Connection = psycopg.Connection[tuple[Any, ...]]

# Who PostgreSQL and PgBouncer run as.
USER = "postgres"
# The certificates of PgBouncers on other hosts.
POOLERS = "/etc/datatier/poolers.pem"
CONSOLE = "pgbouncer"
# What a pooler calls the first database for those who look whether queries get through.
PROBE = "datatier_health"
# The user's own certificate is for other servers: PgBouncer refuses who shows it.
NO_FILE = "/nonexistent"
# A server that asks for the password in clear is none of ours; libpq of 15 cannot be told so.
_SCRAM = "require_auth=scram-sha-256" if psycopg.pq.version() >= 160000 else ""

_CONNECT_SECONDS = 10
# Longer than other sessions do: a dump, which only reads, may wait for a migration.
_DUMP_LOCK_TIMEOUT = "10min"


class Unreachable(Failed):
    """The server does not answer or refuses."""


@dataclass(frozen=True)
class Login:
    """Who connects, and the role whose rights the session has ('none': its own)."""

    user: str
    password: str
    role: str = "none"


def login(postgres: Postgres, *, admin: bool) -> Login:
    """The backup role, or the superuser."""
    if admin:
        return Login("postgres", postgres.admin_password)
    return Login(postgres.user, postgres.password)


def connect(
    postgres: Postgres, database: str, *, admin: bool = False, seconds: int = _CONNECT_SECONDS
) -> Connection:
    """A connection as the backup role, or as the superuser.

    Args:
        seconds: how long the server may take to answer.

    Raises:
        Failed: the server does not answer or refuses.
    """

    def begin(who: Login) -> Connection:
        return connect_as(postgres, database, who, superuser=admin, seconds=seconds)

    return _let_in(postgres, begin, Unreachable, admin=admin)


def _let_in(
    postgres: Postgres,
    begin: Callable[[Login], Connection],
    refusal: type[Failed],
    *,
    admin: bool,
) -> Connection:
    """A session with the password of the configuration, or another one that is valid just now."""
    who = login(postgres, admin=admin)
    try:
        return begin(who)
    except refusal as refused:
        others = [*_others(postgres, who, admin=admin)]
        # The server may have got the first one since it refused that, before the next was tried.
        for other in [*others, who] if others else []:
            with contextlib.suppress(refusal):
                return begin(other)
        raise refused


def _others(postgres: Postgres, who: Login, *, admin: bool) -> Iterator[Login]:
    """The same with other passwords, where one takes the place of another just now."""
    if postgres.by_socket or not who.password:
        return
    try:
        now = present_postgres()
    except (OSError, ValueError):
        return
    if now is None or (now.host, now.port) != (postgres.host, postgres.port):
        return
    pair = (
        (now.admin_password, now.admin_password_previous)
        if admin
        else (now.password, now.password_previous)
    )
    yield from (replace(who, password=each) for each in pair if each not in ("", who.password))


def _working(postgres: Postgres) -> Login:
    """The backup role with the password that the server takes now."""
    who = login(postgres, admin=False)
    if not any(_others(postgres, who, admin=False)):
        return who
    with connect(postgres, "postgres") as connection:
        return replace(who, password=connection.info.password)


def connect_as(
    postgres: Postgres,
    database: str,
    who: Login,
    *,
    superuser: bool = False,
    seconds: int = _CONNECT_SECONDS,
) -> Connection:
    """A connection as another role.

    Raises:
        Failed: the server does not answer or refuses.
    """
    _require_server(postgres)
    try:
        connection = psycopg.connect(
            "" if postgres.by_socket else _SCRAM,
            host=postgres.host,
            port=postgres.port,
            dbname=database,
            user=who.user,
            password=who.password,
            connect_timeout=seconds,
            client_encoding="UTF8",
            autocommit=True,
            options=start_options(postgres, superuser=superuser, role=who.role),
            sslmode="verify-full" if postgres.certificate else None,
            sslrootcert=postgres.certificate or None,
            sslcert=NO_FILE,
            sslcrl=NO_FILE,
        )
        # Only some minor releases know it, and as a start option it would lock us out of others.
        connection.execute(
            "SELECT pg_catalog.set_config(name, 'view,foreign-table', false)"
            " FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"
        )
    except psycopg.OperationalError as error:
        raise Unreachable(f"PostgreSQL at {postgres.host}:{postgres.port}: {error}") from None
    return connection


def _require_server(postgres: Postgres) -> None:
    if not postgres.by_socket:
        listener.require_user(Endpoint(postgres.host, postgres.port), USER)


def console(postgres: Postgres, pooler: Pooler, timeout: int = _CONNECT_SECONDS) -> Connection:
    """A connection to PgBouncer's console, which takes no start options.

    Raises:
        Failed: it does not answer or refuses.
    """
    return _at_pooler(postgres, pooler, CONSOLE, timeout)


def through(postgres: Postgres, pooler: Pooler, timeout: int = _CONNECT_SECONDS) -> Connection:
    """A connection through PgBouncer to the first database, as the role that looks passwords up.

    Raises:
        Failed: it does not answer or refuses.
    """
    return _at_pooler(postgres, pooler, PROBE, timeout)


def _at_pooler(postgres: Postgres, pooler: Pooler, database: str, timeout: int) -> Connection:
    listener.require_user(pooler.place, USER)

    def begin(who: Login) -> Connection:
        return _at(pooler, database, who, timeout)

    return _let_in(postgres, begin, Failed, admin=True)


def _at(pooler: Pooler, database: str, who: Login, timeout: int) -> Connection:
    try:
        return psycopg.connect(
            _SCRAM,
            host=pooler.place.host,
            port=pooler.place.port,
            dbname=database,
            user=who.user,
            password=who.password,
            connect_timeout=timeout,
            autocommit=True,
            sslmode=pooler.sslmode or None,
            sslrootcert=POOLERS if pooler.sslmode else None,
            sslcert=NO_FILE,
            sslcrl=NO_FILE,
        )
    except psycopg.OperationalError as error:
        raise Failed(f"PgBouncer at {pooler}: {error}") from None


def tool(
    postgres: Postgres, name: str, database: str = "", *, admin: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The command of a client program without its own arguments, and its environment.

    Args:
        admin: as the superuser, of a scratch server: no password is handed out.
    """
    _require_server(postgres)
    who = login(postgres, admin=True) if admin else _working(postgres)
    command = [postgres.binary(name), "-h", postgres.host, "-p", str(postgres.port)]
    command += ["-U", who.user, "-w"]
    if name in ("pg_dump", "pg_dumpall"):
        command.append(f"--lock-wait-timeout={_DUMP_LOCK_TIMEOUT}")
    if database:
        # What has a '=' would be read as a whole connection string.
        escaped = database.replace("\\", "\\\\").replace("'", "\\'")
        command += ["-d", f"dbname='{escaped}'"]
        if name == "pg_dump":
            # Not the client encoding that is set for the database, in which it may not fit.
            command.append(f"--encoding={_encoding(postgres, database, admin=admin)}")
    environment = {
        "PGOPTIONS": start_options(postgres, superuser=admin),
        "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
        # Not root's, whose certificates it could not open: it would go on without encryption.
        "HOME": "/nonexistent",
        # No conversion; pg_dump is told another one.
        "PGCLIENTENCODING": "SQL_ASCII",
    }
    if postgres.certificate:
        environment |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": postgres.certificate}
    # The superuser's is for this program only; a scratch server does not ask for it.
    if not admin:
        if not postgres.by_socket:
            environment["PGREQUIREAUTH"] = "scram-sha-256"
        environment["PGPASSWORD"] = who.password
    return command, environment


def _encoding(postgres: Postgres, database: str, *, admin: bool) -> str:
    with connect(postgres, database, admin=admin) as connection:
        row = connection.execute("SHOW server_encoding").fetchone()
    return str(row[0] if row else "")


def quoted(name: str) -> str:
    """A quoted SQL identifier, for what is not psycopg's to send."""
    return '"' + name.replace('"', '""') + '"'
