"""The drill: the newest backups restored to scratch servers, compared, timed and written down."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from backup import postgres as pg
from backup import redis, restore, scratch
from backup.config import Config, Postgres
from backup.job import Failed, Log, run
from backup.manifest import Manifest, all_of, durably

RESULT = "drill.json"


def drill(config: Config, log: Log) -> dict[str, Any]:
    """Restores what is newest, and writes how long it took (RTO) and how much was lost (RPO).

    Returns:
        Times in seconds; `rpo` is from the newest restorable point to the drill's start.

    Raises:
        Failed: something could not be restored, or is not what its manifest says.
    """
    started = datetime.now(UTC)
    result: dict[str, Any] = {"started": started.isoformat(timespec="seconds")}
    if config.postgres is not None:
        result["postgres"] = _postgres(config, started, log)
    if config.redis is not None:
        result["redis"] = redis.drill(config, log)
    durably(config.directory / RESULT, json.dumps(result, indent=2).encode() + b"\n")
    for directory, manifest in _drilled(config, result):
        manifest.with_verification("restored in a drill", result["started"]).write(directory)
    return result


def _drilled(config: Config, result: dict[str, Any]) -> list[tuple[Any, Manifest]]:
    names = set(result.get("postgres", {}).get("artifacts", []))
    names |= {result["redis"]["artifact"]} if "redis" in result else set()
    return [
        (directory, manifest)
        for directory in (config.artifacts("postgres"), config.artifacts("redis"))
        for manifest in all_of(directory)
        if manifest.name in names
    ]


def _postgres(config: Config, started: datetime, log: Log) -> dict[str, Any]:
    points = [m for m in all_of(config.artifacts("postgres")) if m.kind != "globals"]
    if not points:
        raise Failed("there is no backup to restore")
    newest = points[-1]
    target = scratch.Target(newest.facts["label"], name=newest.facts["restore_point"])
    begun = time.monotonic()
    with scratch.restored(config, target, log) as server:
        rto = time.monotonic() - begun
        with log.step("amcheck"):
            _amcheck(config, server)
        dumps = [m for m in points if m.kind == "full" and m.stamp == _full_stamp(newest)]
        for manifest in dumps:
            with log.step(f"load of {manifest.name} and row counts"):
                _load(config, server, manifest)
        with log.step("page checksums"):
            data = scratch.stop(config, server)
            _checksums(config, str(data))
    ended = datetime.fromisoformat(newest.ended)
    return {
        "artifacts": sorted({newest.name, *(manifest.name for manifest in dumps)}),
        "restore_point": target.name,
        "rto": round(rto, 1),
        "rpo": round((started - ended).total_seconds()),
    }


def _full_stamp(manifest: Manifest) -> str:
    return str(manifest.facts.get("parent", manifest.stamp))


def _binary(server: Postgres, name: str) -> str:
    return f"/usr/lib/postgresql/{server.version}/bin/{name}"


def _amcheck(config: Config, server: Postgres) -> None:
    run(
        [
            *(_binary(server, "pg_amcheck"), "-a", "--install-missing", "-h", server.host),
            *("-p", str(server.port), "-U", "postgres", "-w"),
        ]
    )
    run(
        [
            *("sh", "-c", 'exec "$0" "$@" >/dev/null', _binary(server, "pg_dumpall")),
            *("-h", server.host, "-p", str(server.port), "-U", "postgres", "-w"),
        ]
    )


def _load(config: Config, server: Postgres, manifest: Manifest) -> None:
    pg.verify(config, manifest)
    name = f"drill_{manifest.stamp}_{manifest.of}"[:63]
    with pg.connect(server, "postgres", admin=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    path = manifest.path(config.artifacts("postgres"))
    with pg.plain(config, path) as stream:
        restore.load(config, replace(server), name, stream)
    restore.require_counts(server, name, manifest.facts["rows"])


def _checksums(config: Config, data: str) -> None:
    run([_binary(pg.server(config), "pg_checksums"), "--check", "-D", data], user="postgres")
