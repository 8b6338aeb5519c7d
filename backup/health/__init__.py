"""The health check: every service by a real request, and what is about to go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from backup import alert, outcome
from backup.config import Config
from backup.health import (
    backups,
    disk,
    history,
    hosts,
    kills,
    metrics,
    page,
    pgbouncer,
    postgres,
    redis,
    since,
)
from backup.health.asking import SECONDS, Probe, answers
from backup.health.row import Level, Row, worst
from backup.job import Failed, Log
from backup.redis.restore import repair
from backup.text import shown

_FILE = "health.log"
_WARNINGS = "health warning"


UNKNOWN = Level.UNKNOWN


class Unwell(Failed):
    """What is wrong; `code` is what monitoring plug-ins exit with, `details` what each row says."""

    def __init__(self, rows: list[Row], level: Level) -> None:
        super().__init__(f"unhealthy: {', '.join(row.name for row in rows)}")
        self.code, self.details = level, {row.name: row.said for row in rows}


def check(config: Config, log: Log, *, as_json: bool = False) -> Level:
    """Checks everything, a line each, in `health.log` and on standard output.

    Args:
        as_json: standard output gets all of it as JSON.

    Returns:
        The level of all together; a warning at most.

    Raises:
        Unwell: at the end, naming every row that is critical or unknown.
    """
    now = outcome.now()
    found = kills.judged(config, _rows(config, log), now)
    rows = since.dated(config, [_clean(config, row) for row in found], now)
    report = since.report(rows, now)
    since.keep(config, report)
    _note(config, rows)
    told = report if as_json else "\n".join(map(_line, rows))
    # A reader that has gone hides nothing of what follows.
    with contextlib.suppress(OSError):
        print(told, flush=True)
    _warn(config, [row for row in rows if row.level is Level.WARNING], now)
    _show(config, log, rows, now)
    level = worst(rows)
    if bad := [row for row in rows if row.level > Level.WARNING]:
        raise Unwell(bad, level)
    return level


def _rows(config: Config, log: Log) -> list[Row]:
    restored = Probe("redis-restore", partial(_restored, config, log))
    if config.redis is not None:
        # What one left that was killed would only look like trouble in what follows.
        restored.run()
    own = Probe("backup-service", partial(backups.rows, config))
    found = answers(list(_probes(config)), meanwhile=own)
    agreement = [redis.agreement(found)] if config.redis is not None else []
    return [*restored.rows, *found, *agreement]


def _probes(config: Config) -> Iterator[Probe]:
    yield Probe("disk", partial(disk.rows, config))
    if config.postgres is not None:
        seconds = SECONDS + len(config.databases)
        yield Probe("postgres", partial(postgres.rows, config), seconds)
        for pooler in config.postgres.poolers:
            name = f"pgbouncer {pooler}"
            yield Probe(name, partial(pgbouncer.rows, config, pooler, name))
            query = f"{name} query"
            ask = partial(pgbouncer.query, config, pooler, query)
            yield Probe(query, ask, behind=("postgres", name))
    if config.redis is not None:
        for node in config.redis.nodes:
            name = f"redis {node}"
            yield Probe(name, partial(redis.rows, config, node, name))
        for sentinel in config.redis.sentinels:
            name = f"redis-sentinel {sentinel}"
            yield Probe(name, partial(redis.sentinel_rows, config, sentinel, name))
    for host in config.exporters.hosts if config.exporters else ():
        yield Probe(f"host {host.name}", partial(hosts.rows, config, host))


def _restored(config: Config, log: Log) -> Iterator[Row]:
    undone = repair(config, log)
    said = "what an interrupted one left is undone" if undone else "none was interrupted"
    yield Row("redis-restore", Level.OK, said)


def _clean(config: Config, row: Row) -> Row:
    return replace(row, said=shown(config.hidden(row.said)))


def _note(config: Config, rows: list[Row]) -> None:
    lines = [f"{outcome.now()} {_line(row)}\n" for row in rows]
    # A full disk may not hide what is down.
    with contextlib.suppress(OSError), (config.logs / _FILE).open("a") as file:
        file.writelines(lines)


def _line(row: Row) -> str:
    mark = "ok" if row.level is Level.OK else row.level.name
    limit = f" ({row.limit})" if row.limit and row.level is not Level.OK else ""
    since = "" if row.level is Level.OK else f"; since {row.since}"
    return f"{mark:8}  {row.name}: {row.said}{limit}{since}"


def _show(config: Config, log: Log, rows: list[Row], now: str) -> None:
    """What can be looked at afterwards; that it fails is in the log, and changes nothing else."""
    for what, write in {
        "history": history.add,
        "status page": page.write,
        "metrics": metrics.write,
    }.items():
        try:
            write(config, log, rows, now)
        except Exception as failure:
            log.line(f"{what}: not written: {failure}")


def _warn(config: Config, rows: list[Row], now: str) -> None:
    """Tells of what is not wrong yet; what is wrong is told as the failure of the job.

    A warning is told when it is found again: what comes and goes would be told all day.
    """
    lasting = [row for row in rows if row.since != now]
    if lasting:
        names = ", ".join(row.name for row in lasting)
        details = {row.name: row.said for row in lasting}
        alert.alert(config, _WARNINGS, f"warning: {names}", details)
    elif not rows:
        alert.recovered(config, _WARNINGS, "no warning is left")
