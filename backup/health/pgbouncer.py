"""PgBouncer: whether its console answers, and how long clients wait for a connection."""

from __future__ import annotations

from collections.abc import Iterator

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
    yield Row(name, Level.OK, f"{len(databases) - 1} databases")
    waits = [(int(row["maxwait"]) + int(row["maxwait_us"]) / 1e6, row) for row in pools]
    longest, pool = max(waits, key=lambda each: each[0], default=(0.0, None))
    said = "no client waits"
    if pool and longest:
        said = f"{pool['cl_waiting']} clients of {pool['database']} wait, {longest:.1f} s"
    yield measured(f"{name} waiting", longest, said, config.limits["pool_wait"], "s")
