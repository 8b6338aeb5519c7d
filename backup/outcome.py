"""What became of the last run of each job: written down for clean-up, status and health."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup import record
from backup.config import Config
from backup.manifest import durably

# The checks without which nothing is removed.
CHECKS = ("verify", "drill")
# What makes or keeps backups; a failure of one is shown until it works again.
JOBS = ("postgres full", "postgres incremental", "redis", "cleanup")
# The checks write down more themselves, and what health finds has a history of its own.
_UNNOTED = (*CHECKS, "health")


@contextlib.contextmanager
def recorded(config: Config, check: str) -> Iterator[dict[str, Any]]:
    """Writes down whether what is done here succeeded, with what the block adds to it."""
    result: dict[str, Any] = {"started": now()}
    try:
        yield result
        result["outcome"] = "passed"
    except BaseException as error:
        result |= {"outcome": "failed", "why": config.hidden(str(error)) or type(error).__name__}
        raise
    finally:
        result["ended"] = now()
        record.add(config, check, result)
        _write(config, check, result)


def copying(config: Config) -> str:
    """The name of a copy to the first bucket of a configuration."""
    return f"copy to S3 {config.s3.label if config.s3 else ''}".rstrip()


def _jobs(config: Config) -> tuple[str, ...]:
    vacuum = ("vacuum",) if config.postgres and config.postgres.vacuum else ()
    return (*JOBS, *vacuum, *map(copying, config.stores))


def note(
    config: Config, job: str, started: str, why: str = "", what: Mapping[str, str] | None = None
) -> None:
    """Writes down that a job has ended, and why it failed; a full disk hides no failure.

    Args:
        what: that was asked for.
    """
    if job in _UNNOTED:
        return
    told = {"outcome": "failed", "why": config.hidden(why)} if why else {"outcome": "passed"}
    result = {"started": started, **told, "ended": now()}
    if job in _jobs(config):
        with contextlib.suppress(OSError):
            _write(config, job, result)
    asked = {name: config.hidden(value) for name, value in (what or {}).items()}
    record.add(config, job, {**result, **({"what": asked} if asked else {})})


def now() -> str:
    """This moment, as an outcome has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(config: Config, job: str, result: dict[str, Any]) -> None:
    config.logs.mkdir(exist_ok=True)
    durably(_file(config, job), json.dumps(result, indent=2).encode() + b"\n")


def _file(config: Config, job: str) -> Path:
    return config.logs / f"{job.replace(' ', '-')}.json"


def last(config: Config, check: str) -> dict[str, Any] | None:
    """What became of the last one; None if there was none, or nothing readable is left of it."""
    try:
        result = json.loads(_file(config, check).read_bytes())
        for key in ("started", "ended"):
            datetime.fromisoformat(result[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(result)


def failures(config: Config) -> list[str]:
    """The jobs whose last run failed, with its time and the reason."""
    found = {job: result for job in (*CHECKS, *_jobs(config)) if (result := last(config, job))}
    # A full holds what the incremental before it was to hold.
    full, increment = found.get("postgres full"), found.get("postgres incremental")
    if (
        full
        and increment
        and full.get("outcome") == "passed"
        and full["ended"] > increment["ended"]
    ):
        del found["postgres incremental"]
    return [
        f"{job} failed at {datetime.fromisoformat(result['ended']):%Y-%m-%d %H:%M} UTC: "
        f"{result.get('why', 'interrupted')}"
        for job, result in found.items()
        if result.get("outcome") != "passed"
    ]


def distrust(config: Config) -> str:
    """Why nothing may be removed now; empty when every check has passed."""
    for check in CHECKS:
        result = last(config, check)
        if result is None:
            return f"backup.sh {check} has not run yet"
        if result.get("outcome") != "passed":
            return f"the last backup.sh {check} failed: {result.get('why', 'interrupted')}"
    return ""
