"""VACUUM and ANALYZE of the tables that the settings name, where autovacuum cannot keep up.

What a table's owner has in its indexes runs as the owner: the server sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from backup.config import Config, Postgres
from backup.job import Failed, Log
from backup.postgres.session import Connection, connect

# Of a table: code of an owner may not keep the job for good.
_TIMEOUT = "6h"
_LOCKED = "55P03"
_TABLE = (
    "SELECT 1 FROM pg_catalog.pg_class AS c"
    " JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE n.nspname OPERATOR(pg_catalog.=) %s AND c.relname OPERATOR(pg_catalog.=) %s"
    " AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,m,p}')"
)


def run(config: Config, log: Log) -> None:
    """Vacuums and analyzes every table that is named; one that is locked is left to the next run.

    Raises:
        Failed: at the end, with every table that could not be.
    """
    if config.postgres is not None and (bad := list(_failures(config.postgres, log))):
        raise Failed("; ".join(bad))


def _failures(postgres: Postgres, log: Log) -> Iterator[str]:
    for database, tables in postgres.vacuum.items():
        for table in tables:
            try:
                _vacuum(postgres, database, table, log)
            except (Failed, psycopg.Error) as failure:
                yield f"{database}: {table}: {' '.join(str(failure).split())}"


def _vacuum(postgres: Postgres, database: str, table: str, log: Log) -> None:
    schema, name = table.split(".")
    said: list[str | None] = []
    with connect(postgres, database, admin=True) as connection:
        # What it is told is gone afterwards.
        connection.add_notice_handler(lambda told: said.append(told.sqlstate))
        _require(connection, schema, name)
        connection.execute(sql.SQL("SET statement_timeout = {}").format(_TIMEOUT))
        with log.step(f"VACUUM of {database}: {table}"):
            command = "VACUUM (ANALYZE, SKIP_LOCKED) {}"
            connection.execute(sql.SQL(command).format(sql.Identifier(schema, name)))
    if _LOCKED in said:
        log.line(f"{database}: {table} or a part of it is locked, and left to the next run")


def _require(connection: Connection, schema: str, name: str) -> None:
    if not connection.execute(_TABLE, (schema, name)).fetchone():
        raise Failed("there is no such table; remove it from postgres_databases")
