"""The statements that have taken most of PostgreSQL's time, without what may be a secret."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from backup.config import Config
from backup.health.asking import within
from backup.job import Failed
from backup.manifest import durably
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
  | (?P<number>\d[\w.]*)
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
_NUMBERS = """
SELECT concat_ws(' ', s.queryid, s.dbid, s.userid), s.queryid::text, coalesce(datname, '-'),
  coalesce(rolname, '-'), s.calls, s.total_exec_time, s.mean_exec_time, s.rows
FROM {function}(false) AS s
  LEFT JOIN pg_database AS d ON d.oid = s.dbid LEFT JOIN pg_roles AS r ON r.oid = s.userid
WHERE rolname IS DISTINCT FROM current_user
ORDER BY s.total_exec_time DESC LIMIT {most}
"""
# The server reads the texts of all, which may be hundreds of megabytes: only for one that is new.
_TEXTS = """
SELECT found.key, left(coalesce(s.query, ''), {length})
FROM {function}(true) AS s, concat_ws(' ', s.queryid, s.dbid, s.userid) AS found(key)
WHERE found.key = ANY ({keys})
"""
_FILE = "statements.json"


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
                return _read(config, connection, sql.Identifier(*found))
    raise Failed("no database has the extension pg_stat_statements")


def _read(config: Config, connection: Connection, function: sql.Identifier) -> list[Statement]:
    query = sql.SQL(_NUMBERS).format(function=function, most=sql.Literal(_MOST))
    numbers = {key: rest for key, *rest in connection.execute(query).fetchall()}
    texts = _known(config)
    if not numbers.keys() <= texts.keys():
        query = sql.SQL(_TEXTS).format(
            function=function, length=sql.Literal(_READ), keys=sql.Literal([*numbers])
        )
        found = connection.execute(query).fetchall()
        texts = dict.fromkeys(numbers, "") | {key: harmless(text) for key, text in found}
        durably(_path(config), json.dumps(texts).encode())
    return [Statement(*(*rest, texts[key])) for key, rest in numbers.items()]


def _known(config: Config) -> dict[str, str]:
    """What was read of statements before, as it may be shown."""
    try:
        return {str(key): str(text) for key, text in json.loads(_path(config).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _path(config: Config) -> Path:
    return config.logs / _FILE


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
    if found["number"]:
        return "..."
    return " " if found["comment"] else "'...'"
