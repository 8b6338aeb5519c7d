"""Indexes that are invalid, or named, built again beside the old ones: no one waits for that.

What a table's owner has in its indexes runs as the owner: the server sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from backup.catalogue import size
from backup.config import Config
from backup.job import Failed, Log
from backup.postgres.session import Connection, connect
from backup.text import shown


class Index(NamedTuple):
    """An index, and what is known of it.

    Attributes:
        left: REINDEX was interrupted when it had this one beside the index that it was to replace.
        busy: a session is building it, or changes its table.
    """

    schema: str
    name: str
    table: str
    bytes: int
    left: bool
    busy: bool

    @property
    def verb(self) -> str:
        """What is done with it."""
        return (
            "left alone, its table is in use" if self.busy else "drop" if self.left else "rebuild"
        )


# `_ccnew` and `_ccold` are what REINDEX calls its own, after an index whose name it may cut. One of
# a constraint, or without that twin, is another's.
_INDEXES = """
SELECT n.nspname, c.relname, t.relname, pg_relation_size(c.oid),
  c.relname ~ '_cc(new|old)[0-9]*$' AND NOT i.indisvalid
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)
    AND EXISTS (
      SELECT FROM pg_index AS o JOIN pg_class AS oc ON oc.oid = o.indexrelid
      WHERE o.indrelid = i.indrelid AND o.indexrelid <> c.oid
        AND (oc.relname = s.stem
          OR octet_length(c.relname) > 61 AND starts_with(oc.relname::text, s.stem))
        AND o.indisunique = i.indisunique AND o.indkey::text = i.indkey::text
        AND o.indclass::text = i.indclass::text AND o.indoption::text = i.indoption::text
        AND o.indcollation::text = i.indcollation::text
        AND (pg_get_expr(o.indexprs, o.indrelid), pg_get_expr(o.indpred, o.indrelid))
          IS NOT DISTINCT FROM
          (pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid))),
  EXISTS (
    SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.relation = i.indrelid AND l.pid <> pg_backend_pid()
      AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock'))
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
  JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (
    SELECT regexp_replace(c.relname::text, '_cc(new|old)[0-9]*$', '') AS stem) AS s
WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND CASE WHEN %(names)s::text[] = '{}' THEN NOT i.indisvalid
    ELSE n.nspname || '.' || c.relname = ANY (%(names)s) END
ORDER BY 1, 2
"""


def run(
    config: Config, databases: Sequence[str], names: Sequence[str], log: Log, *, dry_run: bool
) -> None:
    """Lists the indexes, and builds them again.

    Args:
        names: `schema.index`; without any, all that are invalid.

    Raises:
        Failed: at the end, with every index that could not be.
    """
    bad, found = list[str](), set[str]()
    for database in databases if config.postgres is not None else ():
        assert config.postgres is not None
        with connect(config.postgres, database, admin=True) as connection:
            indexes = _indexes(connection, names)
            found |= {f"{each.schema}.{each.name}" for each in indexes}
            for each in indexes:
                line = f"{database}: {each.schema}.{each.name} on {each.table}, {size(each.bytes)}"
                print(shown(f"{line}: {each.verb}"), flush=True)
            if not dry_run:
                bad += _done(connection, database, indexes, log)
    bad += [f"there is no index {name}" for name in names if name not in found]
    if bad:
        raise Failed("; ".join(bad))


def _indexes(connection: Connection, names: Sequence[str]) -> list[Index]:
    return [Index(*row) for row in connection.execute(_INDEXES, {"names": list(names)})]


def _done(
    connection: Connection, database: str, indexes: Sequence[Index], log: Log
) -> Iterator[str]:
    for each in indexes:
        if each.busy:
            continue
        command = "DROP INDEX CONCURRENTLY {}" if each.left else "REINDEX INDEX CONCURRENTLY {}"
        name = f"{database}: {each.schema}.{each.name}"
        try:
            with log.step(f"{each.verb} of {name}"):
                connection.execute(sql.SQL(command).format(sql.Identifier(each.schema, each.name)))
        except psycopg.Error as failure:
            yield f"{name}: {' '.join(str(failure).split())}"
