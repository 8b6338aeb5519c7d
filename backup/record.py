"""What every job has done, a line each: it stays when the backups that it tells of are gone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from backup.config import Config
from backup.manifest import Manifest, all_of

# A file for each month. An auditor asks for a year, and for the one before to compare.
MONTHS = 24
# Bytes of a month; a job each minute writes less than half of that.
LIMIT = 64 << 20
REMOVAL = "removal"
# Where the artifacts of the jobs that make some are.
_MAKES = {"postgres full": "postgres", "postgres incremental": "postgres", "redis": "redis"}


def add(config: Config, job: str, result: Mapping[str, Any]) -> None:
    """Adds what became of a job, with the backups that it has made; a full disk ends nothing.

    Args:
        result: `started`, `ended` and `outcome` at least; without secrets.
    """
    # The time of a manifest may be nonsense too.
    with contextlib.suppress(OSError, ValueError, TypeError):
        _add(config, {"job": job, **result}, _made(config, job, result["started"]))


def removal(config: Config, manifests: Sequence[Manifest], now: str) -> None:
    """Adds what is known at last of backups that are about to go."""
    if manifests:
        with contextlib.suppress(OSError):
            told = {"job": REMOVAL, "started": now, "ended": now, "outcome": "passed"}
            _add(config, told, manifests)


def _made(config: Config, job: str, started: str) -> list[Manifest]:
    if job not in _MAKES:
        return []
    since = datetime.fromisoformat(started)
    return [m for m in all_of(config.artifacts(_MAKES[job])) if _began(m) >= since]


def _began(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.started)


def _add(config: Config, line: Mapping[str, Any], manifests: Sequence[Manifest]) -> None:
    known = [asdict(replace(manifest, facts={})) for manifest in manifests]
    directory = config.logs / "record"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = json.dumps({**line, "manifests": known}).encode()
    _append(directory / f"{line['ended'][:7]}.jsonl", content)
    for old in sorted(directory.glob("*.jsonl"))[:-MONTHS]:
        old.unlink(missing_ok=True)


def _append(path: Path, line: bytes) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "rb+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end + len(line) > LIMIT:
            return
        # What a run that was killed has begun spoils no other line.
        cut = end and os.pread(file.fileno(), 1, end - 1) != b"\n"
        file.write(b"\n" * bool(cut) + line + b"\n")
        os.fsync(file.fileno())


def lines(config: Config, month: str = "") -> Iterator[dict[str, Any]]:
    """What there is from a month on (`YYYY-MM`), in the order in which it was written."""
    for path in sorted((config.logs / "record").glob("*.jsonl")):
        if path.stem >= month:
            with path.open("rb") as file:
                yield from filter(None, map(_read, file))


def first(config: Config) -> str:
    """When the oldest job that is recorded has ended; empty if none is."""
    return next((line["ended"] for line in lines(config)), "")


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
        for key in ("started", "ended"):
            datetime.fromisoformat(told[key])
        told["manifests"] = [Manifest.told(each) for each in told["manifests"]]
        return {"job": str(told["job"]), "outcome": str(told["outcome"]), **told}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
