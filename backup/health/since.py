"""What the last run found: since when each row has its level, and what others may read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import replace
from math import isfinite

from backup.config import Config
from backup.health.row import Row, worst
from backup.manifest import durably

_FILE = "health.json"


def dated(config: Config, rows: Iterable[Row], now: str) -> list[Row]:
    """The rows, each with the moment from which on it has had its level."""
    before = _before(config)
    return [replace(row, since=before.get((row.name, row.level.word), now)) for row in rows]


def _before(config: Config) -> dict[tuple[str, str], str]:
    try:
        told = json.loads((config.logs / _FILE).read_bytes())
        return {(row["check"], row["level"]): str(row["since"]) for row in told["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def report(rows: list[Row], now: str) -> str:
    """The rows for a program, as JSON."""
    told = {
        "time": now,
        "level": worst(rows).word,
        "rows": [
            {
                "check": row.name,
                "level": row.level.word,
                "since": row.since,
                "said": row.said,
                "limit": row.limit,
                "value": row.value if row.value is None or isfinite(row.value) else None,
                "unit": row.unit,
            }
            for row in rows
        ],
    }
    return json.dumps(told, indent=2)


def keep(config: Config, told: str) -> None:
    """Writes the report down for the next run; a full disk hides nothing."""
    with contextlib.suppress(OSError):
        durably(config.logs / _FILE, told.encode() + b"\n")
