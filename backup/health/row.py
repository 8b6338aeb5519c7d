"""A row of the health check: what was looked at, and how it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from backup.config import Limits


class Level(IntEnum):
    """How something is; the numbers are the exit codes of monitoring plug-ins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def word(self) -> str:
        """As programs read it."""
        return self.name.lower()


# As `measured` says them.
_LIMIT = re.compile(r"(warning|critical) (-?[\d.]+(?:e[+-]?\d+)?)")

# The first that there is speaks for all.
WORST_FIRST = (Level.CRITICAL, Level.UNKNOWN, Level.WARNING)


@dataclass(frozen=True)
class Row:
    """What was looked at, how it is, and why; the limits that it was measured by, if any.

    Attributes:
        value: the number that was measured, in `unit`; None where nothing was.
        since: from when on it has had this level; UTC, ISO 8601.
        master: whom a Sentinel names.
        follows: whom a replica follows.
    """

    name: str
    level: Level
    said: str
    limit: str = ""
    value: float | None = None
    unit: str = ""
    since: str = ""
    master: str = ""
    follows: str = ""

    @property
    def limits(self) -> list[tuple[str, float]]:
        """From which number on it has which level, by its word."""
        return [(word, float(number)) for word, number in _LIMIT.findall(self.limit)]


def measured(name: str, value: float, said: str, limits: Limits, unit: str) -> Row:
    """A row for a number: the limit that it has reached is its level."""
    chosen = {
        level: limit
        for level, limit in zip((Level.WARNING, Level.CRITICAL), limits, strict=True)
        if limit
    }
    level = max((level for level, limit in chosen.items() if value >= limit), default=Level.OK)
    told = ", ".join(f"{level.word} {limit:g} {unit}".rstrip() for level, limit in chosen.items())
    return Row(name, level, said, told, value, unit)


def worst(rows: list[Row]) -> Level:
    """The level of all of them together."""
    levels = {row.level for row in rows}
    return next((level for level in WORST_FIRST if level in levels), Level.OK)
