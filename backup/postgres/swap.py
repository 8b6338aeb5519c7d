"""One database in place of another, in a moment in which the clients wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from psycopg import errors, sql

from backup import listener
from backup.config import Pooler, Postgres
from backup.job import Failed, Log, stamp
from backup.postgres import backups as pg
from backup.postgres import properties
from backup.postgres.properties import Properties
from backup.postgres.session import NO_FILE, POOLERS, USER, Connection, quoted

# How long PgBouncer may take to let running transactions finish before the swap is given up.
PAUSE_SECONDS = 30
# Of timeout(1).
_TIMED_OUT = 124
# A client that connects directly may come back between its end and the rename.
RENAME_TRIES = 3


def swap(live: Postgres, database: str, fresh: str, wanted: Properties, log: Log) -> None:
    """Puts `fresh` in the place of `database`, which is kept under another name.

    Args:
        wanted: what the backup knows of the database, for what the live one does not say.

    Raises:
        Failed: the clients could not be held back; the live database is as it was.
    """
    kept = name_beside(database, "before")
    with log.step("settings and privileges of the database"):
        properties.give(live, database, fresh, wanted, log)
    with log.step("swap"), paused(live, database, log):
        was = _rename(live, database, fresh, kept)
        what = f"what it was is kept as {kept} until you drop it" if was else "it was gone"
        log.line(f"{database} is restored; {what}")
    with pg.connect(live, "postgres", admin=True) as connection:
        for line in properties.left_behind(connection, kept):
            log.line(line)


def name_beside(database: str, what: str) -> str:
    """The name of a database that stands beside another one for a while; 63 characters at most."""
    return f"{database[:39]}_{what}_{stamp()}"


def _rename(live: Postgres, database: str, fresh: str, kept: str) -> bool:
    """Renames both, or the new one if there is no old one; returns whether there was."""
    for last in (*[False] * (RENAME_TRIES - 1), True):
        try:
            return _rename_both(live, database, fresh, kept)
        except errors.ObjectInUse as busy:
            if last:
                raise Failed(f"{busy.diag.message_primary}: {busy.diag.message_detail}") from None
    raise AssertionError("the last try returns or raises")


def _rename_both(live: Postgres, database: str, fresh: str, kept: str) -> bool:
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with pg.connect(live, "postgres", admin=True) as connection, connection.transaction():
        # Both need to be free of sessions: direct ones, and what the pool has not ended.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = ANY(%s) AND pid <> pg_backend_pid()",
            ([database, fresh],),
        )
        if there := _exists(connection, database):
            connection.execute(rename.format(sql.Identifier(database), sql.Identifier(kept)))
        connection.execute(rename.format(sql.Identifier(fresh), sql.Identifier(database)))
        return there


def _exists(connection: Connection, database: str) -> bool:
    row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
    return row.fetchone() is not None


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


def _answers(pooler: Pooler) -> bool:
    check = ["pg_isready", "-q", "-h", pooler.place.host, "-p", str(pooler.place.port), "-t", "5"]
    return subprocess.run(check, check=False).returncode == 0


@contextlib.contextmanager
def _paused(live: Postgres, pooler: Pooler, database: str) -> Iterator[None]:
    # A child that outlives us: when its pipe closes, however we end, it resumes the database.
    guard = subprocess.Popen(
        [sys.executable, "-P", "-c", _CONSOLE, f"RESUME {quoted(database)}", "RELOAD"],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=_console(live, pooler, GUARD="1"),
    )
    assert guard.stdin is not None
    pipe = guard.stdin.fileno()
    try:
        # It would go on opening connections to fill the pool, and hold it against the database
        # that one of them failed: https://www.pgbouncer.org/config.html#server_login_retry
        _commands(live, pooler, pipe, "SET min_pool_size = 0", f"PAUSE {quoted(database)}")
        yield
    finally:
        guard.stdin.close()
        guard.wait()
    if guard.returncode:
        raise Failed(
            f"PgBouncer at {pooler} did not take RESUME {database} and RELOAD: give them by hand"
        )


# Commands to PgBouncer's console, which knows no transaction and no start options; a guard waits.
_CONSOLE = """
import os, sys
import psycopg
if "GUARD" in os.environ:
    sys.stdin.buffer.read()
try:
    with psycopg.connect(
        host=os.environ["POOLER"], port=os.environ["POOLER_PORT"], user="postgres",
        password=os.environ["POOLER_PASSWORD"], dbname="pgbouncer", autocommit=True,
        connect_timeout=10,
    ) as console:
        for command in sys.argv[1:]:
            try:
                console.execute(command)
            except psycopg.Error as error:
                if "not paused" not in str(error):
                    raise
except psycopg.Error as error:
    sys.exit(str(error).strip())
"""


def _console(live: Postgres, pooler: Pooler, **more: str) -> dict[str, str]:
    """The environment in which a child reaches PgBouncer's console.

    Raises:
        Failed: another user of this host listens there.
    """
    listener.require_user(pooler.place, USER)
    verified = {"PGSSLMODE": pooler.sslmode, "PGSSLROOTCERT": POOLERS} if pooler.sslmode else {}
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("PG")},
        "POOLER": pooler.place.host,
        "POOLER_PORT": str(pooler.place.port),
        "POOLER_PASSWORD": live.admin_password,
        "PGREQUIREAUTH": "scram-sha-256",
        "PGSSLCERT": NO_FILE,
        "PGSSLCRL": NO_FILE,
        **verified,
        **more,
    }


def _commands(live: Postgres, pooler: Pooler, pipe: int, *commands: str) -> None:
    # It outlives us too, and keeps the guard's pipe open: RESUME must not come before PAUSE.
    done = subprocess.run(
        ["timeout", str(PAUSE_SECONDS), sys.executable, "-P", "-c", _CONSOLE, *commands],
        env=_console(live, pooler),
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
