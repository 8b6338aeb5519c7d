"""PostgreSQL: whether it answers, and what is about to go wrong in it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg

from backup.config import Config, Limits
from backup.health.measures import OF_A_DATABASE, OF_THE_SERVER, Measure
from backup.health.row import Level, Row, measured
from backup.job import Failed
from backup.postgres import backups
from backup.postgres.session import Connection, connect

# Of the five seconds that everyone has.
_WITHIN = "SET statement_timeout = '3s'"


def rows(config: Config) -> Iterator[Row]:
    """The server's rows, and those of each database.

    Raises:
        Failed: it does not answer.
    """
    server = backups.server(config)
    with connect(server, "postgres") as connection:
        connection.execute(_WITHIN)
        yield from _answer(connection, config.limits["clock"])
        for each in OF_THE_SERVER:
            yield _row(connection, config, each, each.name)
    for database in server.databases:
        names = [f"postgres {database} {each.name}" for each in OF_A_DATABASE]
        try:
            with connect(server, database) as connection:
                connection.execute(_WITHIN)
                for name, each in zip(names, OF_A_DATABASE, strict=True):
                    yield _row(connection, config, each, name)
        except Failed as failure:
            yield from (Row(name, Level.UNKNOWN, str(failure)) for name in names)


def _answer(connection: Connection, limits: Limits) -> Iterator[Row]:
    begun = time.time()
    row = connection.execute(
        "SELECT current_setting('server_version'),"
        " extract(epoch FROM clock_timestamp())::double precision"
    ).fetchone()
    assert row is not None
    yield Row("postgres", Level.OK, f"PostgreSQL {row[0]}")
    ahead = row[1] - (begun + time.time()) / 2
    said = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host"
    yield measured("postgres clock", abs(ahead), said, limits, "s")


def _row(connection: Connection, config: Config, measure: Measure, name: str) -> Row:
    try:
        found = connection.execute(measure.sql).fetchone()
    except psycopg.Error as error:
        return Row(name, Level.UNKNOWN, str(error))
    limits = measure.limits
    chosen = config.limits[limits] if isinstance(limits, str) else limits
    number, said = found or (0, "none")
    return measured(name, float(number), said, chosen, measure.unit)
