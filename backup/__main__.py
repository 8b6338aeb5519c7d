"""The command line behind the scripts; exit codes: 0 done, 1 failed, 2 wrong use, 75 busy."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from backup import alert, catalogue, drill, health, outcome, recovery, report, retention
from backup.arguments import parser
from backup.config import Config
from backup.job import (
    BUSY,
    DONE,
    FAILED,
    WRONG_USE,
    Busy,
    Failed,
    Incomplete,
    Log,
    WrongUse,
    forget_environment,
    locked,
    log_of,
    waited,
)
from backup.postgres import backups as postgres
from backup.postgres import reindex, repository, restore, vacuum
from backup.redis import backups as redis
from backup.store import copies as store
from backup.text import shown

# What they return is the exit code; nothing is done.
Work = Callable[[Config, argparse.Namespace, Log], int | None]


def _postgres(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    recovery.require_known_cluster(config)
    if arguments.type == "full":
        postgres.full(config, log)
    else:
        postgres.incremental(config, log)


def _redis(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    redis.snapshot(config, log)


def _cleanup(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    # A backup that takes long must not keep the disk from being cleaned up for good.
    with contextlib.nullcontext() if arguments.dry_run else waited("postgres"):
        decision = retention.clean_up(config, log, dry_run=arguments.dry_run)
        if arguments.dry_run or outcome.distrust(config) or config.postgres is None:
            return
        with log.step("expiry in the repository"):
            repository.expire(config, retention.labels_to_keep(decision))


def _copy(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    store.mirror_all(config, log)


def _copy_and_prune(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    whole = [] if arguments.dry_run else store.mirror_all(config, log)
    for each in [] if outcome.distrust(config) else whole:
        with waited("mirror"):
            store.prune(each, log)


def _health(config: Config, arguments: argparse.Namespace, log: Log) -> int:
    return health.check(config, log, as_json=arguments.json)


def _restore_postgres(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    if not arguments.to_scratch:
        postgres.await_start(config, log)
    if arguments.file:
        if arguments.database:
            raise WrongUse("--database needs --time or --incremental: a dump has one database only")
        if arguments.to_scratch:
            restore.dump_to_scratch(config, arguments.file, log)
        else:
            restore.from_dump(config, arguments.file, log, arguments.table)
        return
    databases = _databases(config, arguments)
    target = restore.target_of(
        config,
        log,
        time=arguments.time,
        incremental=arguments.incremental,
        timeline=arguments.timeline,
    )
    if arguments.to_scratch:
        restore.point_to_scratch(config, databases[0], target, log)
    else:
        restore.from_point(config, databases, target, log, arguments.table)


def _databases(config: Config, arguments: argparse.Namespace) -> tuple[str, ...]:
    if not arguments.database:
        if getattr(arguments, "table", "") and len(config.databases) > 1:
            raise WrongUse(f"--table needs --database: one of {', '.join(config.databases)}")
        return config.databases
    if arguments.database not in config.databases:
        known = ", ".join(config.databases)
        raise WrongUse(f"unknown database {arguments.database!r}: should be one of {known}")
    return (arguments.database,)


def _restore_redis(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    place = {"address": arguments.address, "port": arguments.port}
    redis.restore(config, Path(arguments.file), log, **place)


def _list(config: Config, _arguments: argparse.Namespace, _log: Log) -> None:
    catalogue.show(config)


def _status(config: Config, arguments: argparse.Namespace, _log: Log) -> None:
    (catalogue.brief if arguments.brief else catalogue.status)(config)


def _report(config: Config, arguments: argparse.Namespace, _log: Log) -> None:
    report.show(config, arguments.month, as_json=arguments.json, page=arguments.html)


def _verify(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    catalogue.verify(config, log)


def _drill(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    drill.drill(config, log)


def _vacuum(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    vacuum.run(config, log)


def _reindex(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    databases = _databases(config, arguments)
    reindex.run(config, databases, arguments.index, log, dry_run=arguments.dry_run)


def _fetch(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    recovery.fetch_all(
        _from(config, arguments.bucket),
        log,
        unsigned=arguments.unsigned,
        older=arguments.older,
        as_of=arguments.as_of,
    )


def _from(config: Config, bucket: str) -> Config:
    """The configuration with the bucket of a name alone, or the first one."""
    known = {s3.label or s3.bucket: each for each in config.stores if (s3 := each.s3)}
    if bucket and bucket not in known:
        raise WrongUse(f"unknown bucket {bucket!r}: should be one of {', '.join(known) or 'none'}")
    return known[bucket] if bucket else config


def _adopt(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    recovery.adopt(config, log)


# Bytes; less free room than that is worth a word.
_SCARCE = 64 << 20

# They only look: what they find is for whom has asked.
_READS = {"list", "status", "report"}


class _Job(NamedTuple):
    """What runs, the lock that it holds (jobs that write the same share one), and what follows."""

    run: Work
    lock: str = ""
    then: Work | None = None


# S3 may be slow: what is copied there is copied when the next backup may begin.
_JOBS = {
    "postgres": _Job(_postgres, "postgres", _copy),
    "redis": _Job(_redis, "redis", _copy),
    "cleanup": _Job(_cleanup, "cleanup", _copy_and_prune),
    "health": _Job(_health, "health"),
    "restore-postgres": _Job(_restore_postgres, "postgres"),
    "restore-redis": _Job(_restore_redis, "redis"),
    "list": _Job(_list),
    "status": _Job(_status),
    "report": _Job(_report),
    "verify": _Job(_verify, "verify"),
    "drill": _Job(_drill, "drill"),
    "vacuum": _Job(_vacuum, "vacuum"),
    "reindex": _Job(_reindex, "vacuum"),
    "fetch": _Job(_fetch, "postgres"),
    "adopt": _Job(_adopt, "postgres", _copy),
}


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise Failed(f"stopped by signal {signal.Signals(number).name}")


def main() -> int:
    """Runs one job; what went wrong is one line on standard error, in the log, and an alert."""
    arguments = parser().parse_args()
    if os.geteuid() != 0:
        print("run this as root", file=sys.stderr)
        return health.UNKNOWN if arguments.job == "health" else WRONG_USE
    try:
        config = Config.load()
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"no usable configuration: {error}", file=sys.stderr)
        return health.UNKNOWN if arguments.job == "health" else FAILED
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    os.umask(0o077)
    forget_environment()
    job = _JOBS[arguments.job]
    if arguments.job in _READS:
        return _look(config, job, arguments)
    # It runs as long as it is looked at: backups must not wait for that.
    return _run(config, job._replace(lock="") if _is_look(arguments) else job, arguments)


def _is_look(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "to_scratch", False))


def _look(config: Config, job: _Job, arguments: argparse.Namespace) -> int:
    try:
        job.run(config, arguments, log_of(config, arguments.job))
    except Failed as failure:
        print(shown(config.hidden(str(failure))), file=sys.stderr)
        return WRONG_USE if isinstance(failure, WrongUse) else FAILED
    return DONE


def _run(config: Config, job: _Job, arguments: argparse.Namespace) -> int:
    name = " ".join(filter(None, [arguments.job, getattr(arguments, "type", None)]))
    log, started, code = log_of(config, name), outcome.now(), None
    try:
        incomplete = None
        with locked(job.lock) if job.lock else contextlib.nullcontext():
            try:
                code = job.run(config, arguments, log)
            except Incomplete as part:
                incomplete = part
        if job.then:
            job.then(config, arguments, log)
        if incomplete:
            raise incomplete
    except Busy as busy:
        log.line(str(busy))
        return BUSY
    except WrongUse as wrong:
        log.line(str(wrong))
        return WRONG_USE
    except (Failed, KeyboardInterrupt) as failure:
        details = getattr(failure, "details", None)
        message = str(failure) or "interrupted"
        _failed(config, log, name, started, message, _asked(arguments), details)
        return getattr(failure, "code", FAILED)
    except Exception as error:
        _failed(config, log, name, started, f"{type(error).__name__}: {error}", _asked(arguments))
        return FAILED
    if not getattr(arguments, "dry_run", False):
        # It ends with a full of its own.
        job_name = "postgres full" if name == "adopt" else name
        outcome.note(config, job_name, started, what=_asked(arguments))
    alert.succeeded(config, name, log)
    return code or DONE


def _asked(arguments: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(arguments).items() if value and name != "job"}


def _failed(
    config: Config,
    log: Log,
    name: str,
    started: str,
    message: str,
    what: dict[str, str],
    details: Mapping[str, str] | None = None,
) -> None:
    message += _scarcity(config)
    outcome.note(config, name, started, message, what)
    log.line(f"FAILED: {message}")
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    alert.failed(config, name, f"{message} (at {at})", log, details)


def _scarcity(config: Config) -> str:
    """A word on the room that is left; not every failed write names that as its reason."""
    with contextlib.suppress(OSError):
        left = shutil.disk_usage(config.directory).free
        return f" ({config.directory} has {left >> 20} MB left)" if left < _SCARCE else ""
    return ""


if __name__ == "__main__":
    sys.exit(main())
