"""The health check: every service by a real request, every backup by its age."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from psycopg.rows import dict_row

from backup import alert, catalogue
from backup.config import Config, Pooler
from backup.job import Failed, Log
from backup.postgres import backups as postgres
from backup.postgres import scratch, session
from backup.redis import backups as redis
from backup.text import shown

_FILE = "health.log"
_CONSOLE_SECONDS = 5


def check(config: Config, log: Log) -> None:
    """Checks everything, a line each, in `health.log` and on standard output.

    Raises:
        Failed: at the end, naming every service that is not well.
    """
    bad = []
    lines = []
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, probe in _probes(config, log):
        try:
            lines.append(f"{moment} ok    {name}: {shown(config.hidden(probe()))}")
        except Exception as failure:
            why = config.hidden(" ".join(str(failure).split()))
            lines.append(f"{moment} DOWN  {name}: {shown(why)}")
            bad.append(name)
    for write in (partial(_note, config), partial(print, flush=True)):
        # Neither a full disk nor a reader that has gone may hide what is down.
        with contextlib.suppress(OSError):
            write("\n".join(lines))
    if bad:
        raise Failed(f"unhealthy: {', '.join(bad)}")


def _note(config: Config, text: str) -> None:
    with (config.logs / _FILE).open("a") as file:
        file.write(f"{text}\n")


def _probes(config: Config, log: Log) -> Iterator[tuple[str, Callable[[], str]]]:
    if config.postgres is not None:
        yield "postgres", partial(_postgres, config)
        yield "wal archive", partial(_archive, config)
        for pooler in config.postgres.poolers:
            yield f"pgbouncer {pooler}", partial(_pooler, config, pooler)
    if config.redis is not None:
        # What a restore left that was killed would only look like trouble in what follows.
        yield "redis-restore", partial(_restored, config, log)
        for node in config.redis.nodes:
            yield f"redis {node}", partial(redis.probe, config, node)
        for sentinel in config.redis.sentinels:
            yield f"redis-sentinel {sentinel}", partial(redis.probe_sentinel, config, sentinel)
    yield "backup-service", partial(_ages, config)


def _postgres(config: Config) -> str:
    with postgres.connect(postgres.server(config), "postgres") as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
    return f"PostgreSQL {row[0] if row else ''}"


def _archive(config: Config) -> str:
    with postgres.connect(postgres.server(config), "postgres") as connection:
        row = connection.execute(
            "SELECT last_failed_time > coalesce(last_archived_time, '-infinity'),"
            " last_failed_wal, last_archived_wal FROM pg_stat_archiver"
        ).fetchone()
    assert row is not None
    failing, failed, archived = row
    if failing:
        raise Failed(f"{failed} could not be archived; see the server's log")
    return f"archived up to {archived}" if archived else "nothing archived yet"


def _pooler(config: Config, pooler: Pooler) -> str:
    with session.console(postgres.server(config), pooler, _CONSOLE_SECONDS) as console:
        cursor = console.cursor(row_factory=dict_row)
        databases = cursor.execute("SHOW DATABASES").fetchall()
    if paused := [row["name"] for row in databases if int(row["paused"])]:
        raise Failed(f"{paused[0]} is paused: give its console RESUME {paused[0]}")
    return f"{len(databases) - 1} databases"


def _restored(config: Config, log: Log) -> str:
    undone = redis.repair(config, log)
    return "what an interrupted one left is undone" if undone else "none was interrupted"


def _ages(config: Config) -> str:
    if config.postgres is not None:
        scratch.sweep(config)
    manifests = catalogue.everything(config)
    overdue = catalogue.overdue(config, manifests)
    alert.reconcile(config, overdue)
    if found := [*catalogue.problems(config, manifests), *map(str, overdue)]:
        raise Failed("; ".join(found))
    well = "all backups are younger than their schedule allows"
    return "; ".join([well, *catalogue.lacking(config, manifests)])
