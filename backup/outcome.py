"""What became of the checks that make backups count: written down for clean-up and status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from backup.config import Config
from backup.manifest import durably

# The checks without which nothing is removed.
CHECKS = ("verify", "drill")


@contextlib.contextmanager
def recorded(config: Config, check: str) -> Iterator[dict[str, Any]]:
    """Writes down whether what is done here succeeded, with what the block adds to it."""
    result: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        yield result
        result["outcome"] = "passed"
    except BaseException as error:
        result |= {"outcome": "failed", "why": config.hidden(str(error)) or type(error).__name__}
        raise
    finally:
        result["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        config.logs.mkdir(exist_ok=True)
        durably(config.logs / f"{check}.json", json.dumps(result, indent=2).encode() + b"\n")


def last(config: Config, check: str) -> dict[str, Any] | None:
    """What became of the last one; None if there was none, or nothing readable is left of it."""
    try:
        result = json.loads((config.logs / f"{check}.json").read_bytes())
        for key in ("started", "ended"):
            datetime.fromisoformat(result[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(result)


def distrust(config: Config) -> str:
    """Why nothing may be removed now; empty when every check has passed."""
    for check in CHECKS:
        result = last(config, check)
        if result is None:
            return f"backup.sh {check} has not run yet"
        if result.get("outcome") != "passed":
            return f"the last backup.sh {check} failed: {result.get('why', 'interrupted')}"
    return ""
