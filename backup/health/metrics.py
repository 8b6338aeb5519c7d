"""The health check for Prometheus: a text file, which the exporter of this host shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from backup import catalogue, outcome
from backup.config import Config
from backup.health.row import Row
from backup.job import Log
from backup.manifest import durably

_FILE = "datatier.prom"
_FOR_ALL = 0o644
# Root's; there where the exporter of this host reads.
SHOWN = Path("/var/lib/prometheus/node-exporter")
_Sample = tuple[dict[str, str], float]


def write(config: Config, log: Log, rows: list[Row], now: str) -> None:
    """Writes what the check has found, and what became of the backups.

    Raises:
        OSError: the disk is full, perhaps.
    """
    text = "".join(_text(config, rows, now)).encode()
    durably(config.logs / _FILE, text, _FOR_ALL)
    if config.exporters is not None and any(host.local for host in config.exporters.hosts):
        durably(SHOWN / _FILE, text, _FOR_ALL)


def _text(config: Config, rows: list[Row], now: str) -> Iterator[str]:
    yield from _metric(
        "datatier_health_last_run_timestamp_seconds",
        "When the health check has last run.",
        [({}, _seconds(now))],
    )
    yield from _metric(
        "datatier_health_level",
        "What the check says: 0 ok, 1 warning, 2 critical, 3 unknown.",
        [({"check": row.name}, row.level) for row in rows],
    )
    yield from _metric(
        "datatier_health_value",
        "What was measured.",
        [
            ({"check": row.name, "unit": row.unit}, row.value)
            for row in rows
            if row.value is not None
        ],
    )
    yield from _metric(
        "datatier_health_limit",
        "From which value on the check is not well.",
        [
            ({"check": row.name, "level": level}, value)
            for row in rows
            for level, value in row.limits
        ],
    )
    newest, sizes = _backups(config)
    yield from _metric(
        "datatier_backup_last_success_timestamp_seconds",
        "When a job has last succeeded; of several databases the oldest one.",
        [({"job": job}, at) for job, at in sorted(newest.items())],
    )
    yield from _metric(
        "datatier_backup_size_bytes",
        "The newest backup, of all databases together.",
        [({"job": job}, size) for job, size in sorted(sizes.items())],
    )


def _metric(name: str, about: str, samples: Iterable[_Sample]) -> Iterator[str]:
    found = [*samples]
    if not found:
        return
    yield f"# HELP {name} {about}\n# TYPE {name} gauge\n"
    for labels, value in found:
        named = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
        yield f"{name}{{{named}}} {_number(value)}\n" if named else f"{name} {_number(value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{float(value)!r}"


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _backups(config: Config) -> tuple[dict[str, float], dict[str, float]]:
    """When each job has last succeeded, and the size of what it made, by the job."""
    newest, sizes = dict[str, float](), dict[str, float]()
    for manifest in catalogue.newest(config, catalogue.everything(config)).values():
        at = _seconds(manifest.ended)
        newest[manifest.kind] = min(at, newest.get(manifest.kind, at))
        sizes[manifest.kind] = sizes.get(manifest.kind, 0) + manifest.bytes
    copies = [outcome.last(config, outcome.copying(store)) for store in config.stores]
    checks = {check: outcome.last(config, check) for check in outcome.CHECKS}
    if all(each and each["outcome"] == "passed" for each in copies) and copies:
        checks["mirror"] = min((each for each in copies if each), key=lambda each: each["ended"])
    for check, result in checks.items():
        if result and result["outcome"] == "passed":
            newest[check] = _seconds(result["ended"])
    return newest, sizes
