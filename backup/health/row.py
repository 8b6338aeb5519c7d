"""A row of the health check: what was looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from backup.config import Limits


class Level(IntEnum):
    """How something is; the numbers are the exit codes of monitoring plug-ins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# The first that there is speaks for all.
WORST_FIRST = (Level.CRITICAL, Level.UNKNOWN, Level.WARNING)


@dataclass(frozen=True)
class Row:
    """What was looked at, how it is, and why; the limits that it was measured by, if any.

    Attributes:
        since: from when on it has had this level; UTC, ISO 8601.
    """

    name: str
    level: Level
    said: str
    limit: str = ""
    since: str = ""


def measured(name: str, value: float, said: str, limits: Limits, unit: str) -> Row:
    """A row for a number: the limit that it has reached is its level."""
    level = Level.OK
    for reached, limit in ((Level.WARNING, limits.warning), (Level.CRITICAL, limits.critical)):
        if limit and value >= limit:
            level = reached
    told = [
        f"{word} {limit:g} {unit}"
        for word, limit in zip(("warning", "critical"), limits, strict=True)
        if limit
    ]
    return Row(name, level, said, ", ".join(told))


def worst(rows: list[Row]) -> Level:
    """The level of all of them together."""
    levels = {row.level for row in rows}
    return next((level for level in WORST_FIRST if level in levels), Level.OK)
