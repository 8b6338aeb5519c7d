"""One database in place of another, in a moment in which the clients wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import errors, sql

from backup import postgres as pg
from backup.config import Endpoint, Postgres
from backup.job import Failed, Log, stamp

# How long PgBouncer may take to let running transactions finish before the swap is given up.
PAUSE_SECONDS = 30
# Of timeout(1).
_TIMED_OUT = 124
# A client that connects directly may come back between its end and the rename.
RENAME_TRIES = 3

# Settings that hold a list of names, each quoted on its own where it has to be.
_LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}

Connection = psycopg.Connection[tuple[Any, ...]]


def swap(live: Postgres, database: str, fresh: str, log: Log) -> str:
    """Puts `fresh` in the place of `database`; returns the name that the old one is kept under.

    Raises:
        Failed: the clients could not be held back; the live database is as it was.
    """
    kept = name_beside(database, "before")
    with log.step("settings and privileges of the database"):
        _carry_over(live, database, fresh)
    with log.step("swap"), paused(live, database, log):
        _rename(live, database, fresh, kept)
        log.line(f"{database} is restored; what it was is kept as {kept} until you drop it")
    return kept


def name_beside(database: str, what: str) -> str:
    """The name of a database that stands beside another one for a while; 63 characters at most."""
    return f"{database[:39]}_{what}_{stamp()}"


def _rename(live: Postgres, database: str, fresh: str, kept: str) -> None:
    for last in (*[False] * (RENAME_TRIES - 1), True):
        try:
            return _rename_both(live, database, fresh, kept)
        except errors.ObjectInUse as busy:
            if last:
                raise Failed(f"{busy.diag.message_primary}: {busy.diag.message_detail}") from None


def _rename_both(live: Postgres, database: str, fresh: str, kept: str) -> None:
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with pg.connect(live, "postgres", admin=True) as connection, connection.transaction():
        # Both need to be free of sessions: direct ones, and what the pool has not ended.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = ANY(%s) AND pid <> pg_backend_pid()",
            ([database, fresh],),
        )
        if _exists(connection, database):
            connection.execute(rename.format(sql.Identifier(database), sql.Identifier(kept)))
        connection.execute(rename.format(sql.Identifier(fresh), sql.Identifier(database)))


def _exists(connection: Connection, database: str) -> bool:
    row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
    return row.fetchone() is not None


# --- What belongs to the database and not to its content -----------------------------------------


def _carry_over(live: Postgres, database: str, fresh: str) -> None:
    with pg.connect(live, "postgres", admin=True) as connection, connection.transaction():
        _carry_settings(connection, database, fresh)
        _carry_privileges(connection, database, fresh)


def _carry_settings(connection: Connection, database: str, fresh: str) -> None:
    rows = connection.execute(
        "SELECT CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) END, unnest(setconfig)"
        " FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s",
        (database,),
    ).fetchall()
    place = sql.SQL("DATABASE {}").format(sql.Identifier(fresh))
    for role, setting in rows:
        key, value = setting.split("=", 1)
        whose = sql.SQL("ROLE {} IN ").format(sql.Identifier(role)) if role else sql.SQL("")
        new = sql.SQL(value) if key in _LISTS else sql.Literal(value)
        connection.execute(
            sql.SQL("ALTER {}{} SET {} = {}").format(whose, place, sql.SQL(key), new)
        )


def _carry_privileges(connection: Connection, database: str, fresh: str) -> None:
    rows = connection.execute(
        "SELECT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END, privilege_type,"
        " is_grantable FROM pg_database, aclexplode(datacl) WHERE datname = %s",
        (database,),
    ).fetchall()
    name = sql.Identifier(fresh)
    if rows:
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    for role, privilege, grantable in rows:
        connection.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                name,
                sql.Identifier(role) if role else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grantable and role else ""),
            )
        )


# --- Clients wait --------------------------------------------------------------------------------


@contextlib.contextmanager
def paused(live: Postgres, database: str, log: Log) -> Iterator[None]:
    """Clients of the poolers wait; they go on whatever happens, even when we are killed.

    Raises:
        Failed: running transactions did not end within `PAUSE_SECONDS`.
    """
    with contextlib.ExitStack() as stack:
        for pooler in live.poolers:
            if _answers(pooler):
                stack.enter_context(_paused(live, pooler, database))
            else:
                log.line(f"PgBouncer at {pooler} does not answer: its clients are not held back")
        yield


def _answers(pooler: Endpoint) -> bool:
    check = ["pg_isready", "-q", "-h", pooler.host, "-p", str(pooler.port), "-t", "5"]
    return subprocess.run(check, check=False).returncode == 0


@contextlib.contextmanager
def _paused(live: Postgres, pooler: Endpoint, database: str) -> Iterator[None]:
    # A child that outlives us: when its pipe closes, however we end, it resumes the database.
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**console(live, pooler), "RESUME": f"RESUME {quoted(database)}"},
    )
    assert guard.stdin is not None
    pipe = guard.stdin.fileno()
    try:
        # It would go on opening connections to fill the pool, and hold it against the database
        # that one of them failed: https://www.pgbouncer.org/config.html#server_login_retry
        _command(live, pooler, "SET min_pool_size = 0", pipe)
        _command(live, pooler, f"PAUSE {quoted(database)}", pipe)
        yield
    finally:
        guard.stdin.close()
        guard.wait()
    if guard.returncode:
        raise Failed(
            f"PgBouncer at {pooler} did not take RESUME {database} and RELOAD: give them by hand"
        )


_GUARD = """
import os, subprocess, sys
sys.stdin.buffer.read()
failed = False
for command in (os.environ["RESUME"], "RELOAD"):
    psql = ["psql", "-XAtqw", "-c", command]
    done = subprocess.run(psql, capture_output=True, text=True)
    failed |= done.returncode != 0 and "not paused" not in done.stderr
sys.exit(failed)
"""


def console(live: Postgres, pooler: Endpoint) -> dict[str, str]:
    """The environment in which psql reaches PgBouncer's console."""
    return {
        **os.environ,
        "PGPASSWORD": live.admin_password,
        "PGHOST": pooler.host,
        "PGPORT": str(pooler.port),
        "PGUSER": "postgres",
        "PGDATABASE": "pgbouncer",
    }


def _command(live: Postgres, pooler: Endpoint, command: str, pipe: int) -> None:
    # It outlives us too, and keeps the guard's pipe open: RESUME must not come before PAUSE.
    done = subprocess.run(
        ["timeout", str(PAUSE_SECONDS), "psql", "-XAtqw", "-c", command],
        env=console(live, pooler),
        pass_fds=[pipe],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _TIMED_OUT:
        raise Failed(
            f"PgBouncer at {pooler}: transactions have been running for {PAUSE_SECONDS} s; "
            "see SHOW CLIENTS and try again"
        )
    if done.returncode:
        raise Failed(f"PgBouncer at {pooler}: {done.stderr.strip()}")


def quoted(name: str) -> str:
    """A quoted SQL identifier, for what is not psycopg's to send."""
    return '"' + name.replace('"', '""') + '"'
