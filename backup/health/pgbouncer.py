"""PgBouncer: whether it answers, queries get through, and how long clients wait."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg.rows import dict_row

from backup.config import Config, Pooler
from backup.health.row import Level, Row, measured
from backup.job import Failed
from backup.postgres import backups, session

_CONSOLE_SECONDS = 5


def rows(config: Config, pooler: Pooler, name: str) -> Iterator[Row]:
    """Its rows.

    Raises:
        Failed: it does not answer, or a database is paused.
    """
    with session.console(backups.server(config), pooler, _CONSOLE_SECONDS) as console:
        cursor = console.cursor(row_factory=dict_row)
        databases = cursor.execute("SHOW DATABASES").fetchall()
        pools = cursor.execute("SHOW POOLS").fetchall()
    if paused := [row["name"] for row in databases if int(row["paused"])]:
        raise Failed(f"{paused[0]} is paused: give its console RESUME {paused[0]}")
    served = {row["name"] for row in databases} - {session.CONSOLE, session.PROBE}
    yield Row(name, Level.OK, f"{len(served)} databases")
    waits = [(int(row["maxwait"]) + int(row["maxwait_us"]) / 1e6, row) for row in pools]
    longest, pool = max(waits, key=lambda each: each[0], default=(0.0, None))
    said = "no client waits"
    if pool and longest:
        said = f"{pool['cl_waiting']} clients of {pool['database']} wait, {longest:.1f} s"
    yield measured(f"{name} waiting", longest, said, config.limits["pool_wait"], "s")


def query(config: Config, pooler: Pooler, name: str) -> Iterator[Row]:
    """The row that says whether a query gets through to the server.

    Raises:
        Failed: it does not.
    """
    server = backups.server(config)
    with session.console(server, pooler, _CONSOLE_SECONDS) as console:
        # A connection of before says nothing of a login that fails from now on.
        console.execute(f"RECONNECT {session.PROBE}")
    try:
        with session.through(server, pooler, _CONSOLE_SECONDS) as connection:
            found = connection.execute("SELECT pg_catalog.current_database()").fetchone()
    except psycopg.Error as error:
        raise Failed(str(error)) from None
    assert found is not None
    yield Row(name, Level.OK, f"answered by {found[0]}")
