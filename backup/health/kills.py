"""Whether a host has run out of memory: processes that its kernel has killed for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from backup.config import Config
from backup.health.hosts import KILLED
from backup.health.row import Level, Row
from backup.manifest import durably

_FILE = "killed.json"
# As long it is told: a warning that one run sees alone is told to no one.
_LASTS = timedelta(hours=1)


def judged(config: Config, rows: Iterable[Row], now: str) -> list[Row]:
    """The rows; those of killed processes with their level, by what earlier runs have counted."""
    before = _before(config)
    after = dict[str, tuple[float, str]]()
    found = list[Row]()
    for row in rows:
        if row.name.endswith(KILLED) and row.value is not None:
            count, at = before.get(row.name, (row.value, ""))
            # The kernel counts from its start.
            new = row.value - count if row.value >= count else row.value
            at = now if new else at
            after[row.name] = row.value, at
            row = _judged(row, at, now)
        found.append(row)
    if after:
        with contextlib.suppress(OSError):
            durably(config.logs / _FILE, json.dumps({**before, **after}).encode() + b"\n")
    return found


def _judged(row: Row, at: str, now: str) -> Row:
    if not at or datetime.fromisoformat(now) - datetime.fromisoformat(at) >= _LASTS:
        return row
    said = f"the kernel has killed a process for memory, seen at {at}"
    return replace(row, level=Level.WARNING, said=said)


def _before(config: Config) -> dict[str, tuple[float, str]]:
    try:
        told = json.loads((config.logs / _FILE).read_bytes())
        return {name: (float(count), str(at)) for name, (count, at) in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
