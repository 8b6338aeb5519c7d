"""The statements that have taken most of PostgreSQL's time, without what may be a secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from psycopg import sql

from backup.config import Config
from backup.health.asking import within
from backup.job import Failed
from backup.postgres import backups
from backup.postgres.session import Connection, connect

_MOST = 10
_LENGTH = 200
# Characters that are read of a statement: what is longer is cut before its literals are known.
_READ = 4000

# Only these have no passwords but in literals. ALTER ROLE and the like were kept while
# pg_stat_statements.track_utility was on.
_PLANNED = re.compile(r"[\s(]*(select|insert|update|delete|merge|with|values|table)\b", re.I)
_NOT_SHOWN = "(not shown: no query)"

# An end that was cut off ends a literal too. Whether a backslash is an escape is a setting of the
# role: no one knows where such a literal ends.
_LITERAL = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
  | [eE]'(?:[^'\\]|''|\\.)*(?:'|\\?\Z)
  | '(?:[^'\\]|'')*(?:'|\\.*\Z|\Z)
  | (?P<other>"(?:[^"]|"")*(?:"|\Z)|[^\W\d][\w$]*|\$\d+)
  | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)

# Owners of a database may put another function in its place, but no superuser's in C.
_FUNCTION = """
SELECT nspname, proname FROM pg_proc
  JOIN pg_namespace AS n ON n.oid = pronamespace JOIN pg_language AS l ON l.oid = prolang
  JOIN pg_roles AS r ON r.oid = proowner
WHERE proname = 'pg_stat_statements' AND lanname = 'c' AND rolsuper
  AND probin = '$libdir/pg_stat_statements'
"""
# The view of that name is not to be read: views of others run with our rights.
_QUERY = """
SELECT s.queryid::text, coalesce(datname, '-'), coalesce(rolname, '-'), s.calls,
  s.total_exec_time, s.mean_exec_time, s.rows, left(coalesce(s.query, ''), {length})
FROM {function}(true) AS s
  LEFT JOIN pg_database AS d ON d.oid = s.dbid LEFT JOIN pg_roles AS r ON r.oid = s.userid
WHERE rolname IS DISTINCT FROM current_user
ORDER BY s.total_exec_time DESC LIMIT {most}
"""


@dataclass(frozen=True)
class Statement:
    """A statement; times are in milliseconds.

    Attributes:
        text: without literals, comments, and what is no query.
    """

    id: str
    database: str
    role: str
    calls: int
    total: float
    mean: float
    rows: int
    text: str


def statements(config: Config) -> list[Statement]:
    """The statements of all databases that have taken most time, the first one most.

    Raises:
        Failed: they cannot be read; the message says why.
    """
    return within(lambda: _statements(config))


def _statements(config: Config) -> list[Statement]:
    server = backups.server(config)
    for database in server.databases:
        with connect(server, database) as connection:
            connection.execute("SET statement_timeout = '3s'")
            if found := connection.execute(_FUNCTION).fetchone():
                return _read(connection, *found)
    raise Failed("no database has the extension pg_stat_statements")


def _read(connection: Connection, schema: str, name: str) -> list[Statement]:
    query = sql.SQL(_QUERY).format(
        function=sql.Identifier(schema, name), length=sql.Literal(_READ), most=sql.Literal(_MOST)
    )
    rows = connection.execute(query).fetchall()
    found = [Statement(*row) for row in rows]
    return [replace(each, text=harmless(each.text)) for each in found]


def harmless(text: str) -> str:
    """A statement as it may be shown: a query, without literals and comments, cut."""
    bare = _LITERAL.sub(_placeholder, text)
    # Comments nest: this is the end of one that began before another.
    if not _PLANNED.match(bare) or "*/" in bare:
        return _NOT_SHOWN
    line = " ".join(bare.split())
    return line if len(line) <= _LENGTH else f"{line[:_LENGTH]}..."


def _placeholder(found: re.Match[str]) -> str:
    if found["other"]:
        return found["other"]
    return " " if found["comment"] else "'...'"
