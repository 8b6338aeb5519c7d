"""What the runs have found, kept in a file that does not grow: what the page's trends are drawn of.

Each run is part of three intervals: of five minutes, an hour and a day. Each interval has the worst
of its runs. Old intervals go by their number, not their age: a clock that leaps ahead and comes
back has cost nothing but what it has added.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import NamedTuple, TypeVar

from backup.config import Config
from backup.health.row import WORST_FIRST, Level, Row
from backup.job import Log

FILE = "history.sqlite"

FINE, HOUR, DAY = 300, 3600, 86_400
# How many intervals of each length stay: two days, ninety days, two years.
KEPT = {FINE: 576, HOUR: 2160, DAY: 730}

# Marks of the file, with the number of its tables: that of another program or release is not ours.
_OURS, _VERSION = 0x6474, 1
# Rows of a run: a cluster may have a thousand databases.
_MOST = 500
# Seconds that a reader may keep the file.
_PATIENCE = 2.0
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Of a level, so that the worst is the greatest.
_RANK = {level: rank for rank, level in enumerate((*WORST_FIRST, Level.OK))}

_TABLES = """
CREATE TABLE interval (
  id INTEGER PRIMARY KEY, seconds INTEGER NOT NULL, begin INTEGER NOT NULL, UNIQUE (seconds, begin)
);
CREATE TABLE found (
  interval INTEGER NOT NULL REFERENCES interval ON DELETE CASCADE,
  name TEXT NOT NULL, level INTEGER NOT NULL, value REAL,
  PRIMARY KEY (interval, name)
) WITHOUT ROWID;
"""
_WORST = " ".join(f"WHEN {level.value} THEN {rank}" for level, rank in _RANK.items())
_ADD = f"""
INSERT INTO found AS old (interval, name, level, value) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
  value = max(coalesce(value, excluded.value), coalesce(excluded.value, value)),
  level = CASE WHEN (CASE excluded.level {_WORST} END) < (CASE old.level {_WORST} END)
    THEN excluded.level ELSE old.level END
"""

T = TypeVar("T")


class Point(NamedTuple):
    """What an interval has of one row: when it began (Unix time), and the worst."""

    begin: int
    level: Level
    value: float | None


class Damaged(Exception):
    """The file is not what this program writes."""


def add(config: Config, log: Log, rows: Sequence[Row], now: str) -> None:
    """Adds what a run has found, and removes the oldest intervals where there are too many."""
    moment = int(datetime.fromisoformat(now).timestamp())
    _with(config, log, lambda file: _add(file, rows, moment))


def points(
    config: Config, log: Log, names: Iterable[str], seconds: int, since: int, until: int
) -> dict[str, list[Point]]:
    """What there is of some rows, oldest first.

    Args:
        seconds: the length of intervals: `FINE`, `HOUR` or `DAY`.
        since, until: Unix time, both within.
    """
    wanted = list(names)
    return _with(config, log, lambda file: _points(file, wanted, seconds, since, until))


def _with(config: Config, log: Log, work: Callable[[sqlite3.Connection], T]) -> T:
    """Works with the file; one that is damaged is set aside, and another begun."""
    path = config.logs / FILE
    try:
        return _once(path, work)
    except Damaged as why:
        log.line(f"{path} is damaged ({why}): it is {_set_aside(path).name} now, another is begun")
        return _once(path, work)


def _once(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE)) as file, file:
            _prepare(file)
            return work(file)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
            raise Damaged(error) from None
        raise


def _prepare(file: sqlite3.Connection) -> None:
    file.execute("PRAGMA foreign_keys = on")
    file.execute("BEGIN IMMEDIATE")
    found = [file.execute(f"PRAGMA {each}").fetchone()[0] for each in _MARKS]
    if found == [_OURS, _VERSION]:
        return
    if found != [0, 0] or file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise Damaged("it is of another program or release")
    for each in filter(str.strip, _TABLES.split(";")):
        file.execute(each)
    for name, value in zip(_MARKS, (_OURS, _VERSION), strict=True):
        file.execute(f"PRAGMA {name} = {value}")


_MARKS = ("application_id", "user_version")


def _set_aside(path: Path) -> Path:
    """Moves it and its journal; the one that was set aside before goes."""
    aside = path.with_name(f"{path.name}.damaged")
    # Its journal is first: without it, it would be written into the file that is begun.
    for end in ("-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{end}").replace(f"{aside}{end}")
    return aside


def _add(file: sqlite3.Connection, rows: Sequence[Row], moment: int) -> None:
    for seconds, kept in KEPT.items():
        begin = moment - moment % seconds
        file.execute(
            "INSERT OR IGNORE INTO interval (seconds, begin) VALUES (?, ?)", (seconds, begin)
        )
        found = "SELECT id FROM interval WHERE seconds = ? AND begin = ?"
        (interval,) = file.execute(found, (seconds, begin)).fetchone()
        file.executemany(_ADD, [(interval, *_worth(row)) for row in rows[:_MOST]])
        # What lies ahead of a clock that was set back is neither counted nor removed.
        file.execute(
            "DELETE FROM interval WHERE seconds = ? AND begin <= (SELECT begin FROM interval"
            " WHERE seconds = ? AND begin <= ? ORDER BY begin DESC LIMIT 1 OFFSET ?)",
            (seconds, seconds, moment, kept),
        )


def _worth(row: Row) -> tuple[str, int, float | None]:
    value = row.value if row.value is not None and isfinite(row.value) else None
    # What is no Unicode is no text of SQLite.
    return row.name.encode(errors="backslashreplace").decode(), row.level.value, value


def _points(
    file: sqlite3.Connection, names: Sequence[str], seconds: int, since: int, until: int
) -> dict[str, list[Point]]:
    told: dict[str, list[Point]] = {name: [] for name in names}
    for name, begin, level, value in _select(file, names, seconds, since, until):
        told[name].append(Point(begin, Level(level), value))
    return told


def _select(
    file: sqlite3.Connection, names: Sequence[str], *interval: int
) -> Iterator[tuple[str, int, int, float | None]]:
    query = (
        "SELECT name, begin, level, value FROM interval JOIN found ON interval = id AND name = ?"
        " WHERE seconds = ? AND begin BETWEEN ? AND ? ORDER BY begin"
    )
    for name in names:
        yield from file.execute(query, (name, *interval))
