"""The drill: the newest backups restored to scratch servers, compared, and timed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import sql

from backup import outcome
from backup.config import Config, Postgres
from backup.job import Failed, Log, run
from backup.manifest import Manifest, all_of, update
from backup.postgres import backups as pg
from backup.postgres import locales, restore, scratch
from backup.postgres.repository import USER
from backup.postgres.session import tool
from backup.redis import backups as redis


def drill(config: Config, log: Log) -> dict[str, Any]:
    """Restores what is newest, and writes how long it took (RTO) and how much was lost (RPO).

    Returns:
        Times in seconds; `rpo` is from the newest restorable point to the drill's start.

    Raises:
        Failed: something could not be restored, or is not what its manifest says.
    """
    started = datetime.now(UTC)
    with outcome.recorded(config, "drill") as result:
        if config.postgres is not None:
            result["postgres"] = _postgres(config, started, log)
        if config.redis is not None:
            result["redis"] = redis.drill(config, log)
    for kind in ("postgres", "redis"):
        if kind in result:
            log.line(f"{kind}: restored in {result[kind]['rto']} s, {result[kind]['rpo']} s old")
            _note(config.artifacts(kind), result[kind]["artifacts"], result["started"])
    return result


def _note(directory: Path, names: list[str], when: str) -> None:
    for name in names:
        update(directory, name, lambda now: now.with_verification("restored in a drill", when))


def _postgres(config: Config, started: datetime, log: Log) -> dict[str, Any]:
    points = [m for m in all_of(config.artifacts("postgres")) if m.kind != "globals"]
    if not points:
        raise Failed("there is no backup to restore")
    newest = points[-1]
    full = newest.facts.get("parent", newest.stamp)
    dumps = [m for m in points if m.kind == "full" and m.stamp == full]
    target = scratch.Target(newest.facts["label"], name=newest.facts["restore_point"])
    largest = max((m.facts["database_bytes"] for m in dumps), default=0)
    begun = time.monotonic()
    with scratch.restored(config, target, log, largest) as server:
        rto = time.monotonic() - begun
        locales.require(config, server)
        with log.step("amcheck and reading every row"):
            _read_everything(server)
        for manifest in dumps:
            with log.step(f"load of {manifest.name} and row counts"):
                _load(config, server, manifest, log)
        with log.step("page checksums"):
            box = scratch.stop(config, server)
            box.run(server.binary("pg_checksums"), "--check", "-D", box.data)
    ended = datetime.fromisoformat(newest.ended)
    return {
        "artifacts": sorted({newest.name, *(manifest.name for manifest in dumps)}),
        "restore_point": target.name,
        "rto": round(rto, 1),
        "rpo": round((started - ended).total_seconds()),
    }


_READERS = {
    "pg_amcheck": ["-a", "--install-missing"],
    "pg_dumpall": ["--no-sync", "-f", "/dev/null"],
}


def _read_everything(server: Postgres) -> None:
    for name, arguments in _READERS.items():
        command, environment = tool(server, name, admin=True)
        run([*command, *arguments], user=USER, env=environment)


def _load(config: Config, server: Postgres, manifest: Manifest, log: Log) -> None:
    manifest.require_whole(config.artifacts("postgres"))
    name = f"drill_{manifest.stamp}"
    restore.load_dump(config, server, manifest, name, log)
    with pg.connect(server, "postgres", admin=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
