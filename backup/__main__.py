"""The command line behind the scripts; exit codes: 0 done, 1 failed, 2 wrong use, 75 busy."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from backup import (
    alert,
    catalogue,
    drill,
    health,
    postgres,
    recovery,
    redis,
    repository,
    restore,
    retention,
    store,
)
from backup.arguments import parser
from backup.config import Config
from backup.job import BUSY, DONE, FAILED, WRONG_USE, Busy, Failed, Log, locked, log_of

Job = Callable[[Config, argparse.Namespace, Log], None]


def _postgres(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    recovery.require_known_cluster(config)
    if arguments.type == "full":
        postgres.full(config, log)
    else:
        postgres.incremental(config, log)
    store.mirror_if_any(config, log)


def _redis(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    redis.snapshot(config, log)
    store.mirror_if_any(config, log)


def _cleanup(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    decision = retention.clean_up(config, log, dry_run=arguments.dry_run)
    if arguments.dry_run:
        return
    if config.postgres is not None:
        with log.step("expiry in the repository"):
            repository.expire(config, retention.labels_to_keep(decision))
    if store.mirror_if_any(config, log):
        with locked("mirror"):
            store.prune(config, log)


def _health(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    health.check(config, log)


def _restore_postgres(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    table = arguments.table or ""
    if arguments.file and arguments.to_scratch:
        restore.dump_to_scratch(config, arguments.file, log)
        return
    if arguments.file:
        restore.from_dump(config, arguments.file, log, table)
        return
    target = restore.target_of(
        config, log, time=arguments.time or "", incremental=arguments.incremental or ""
    )
    if arguments.to_scratch:
        restore.point_to_scratch(config, target, log)
        return
    databases = [arguments.database] if arguments.database else config.databases
    restore.from_point(config, databases, target, log, table)


def _restore_redis(config: Config, arguments: argparse.Namespace, log: Log) -> None:
    place = {"address": arguments.address, "port": arguments.port}
    redis.restore(config, Path(arguments.file), log, **place)


def _list(config: Config, _arguments: argparse.Namespace, _log: Log) -> None:
    catalogue.show(config)


def _status(config: Config, arguments: argparse.Namespace, _log: Log) -> None:
    (catalogue.brief if arguments.brief else catalogue.status)(config)


def _verify(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    catalogue.verify(config, log)


def _drill(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    drill.drill(config, log)


def _fetch(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    recovery.fetch_all(config, log)


def _adopt(config: Config, _arguments: argparse.Namespace, log: Log) -> None:
    recovery.adopt(config, log)
    store.mirror_if_any(config, log)


# Bytes; less free room than that is worth a word.
_SCARCE = 64 << 20

# They only look: what they find is for whom has asked.
_READS = {"list", "status"}

# What runs, and the lock that it holds: jobs that write the same things share one.
_JOBS: dict[str, tuple[Job, str]] = {
    "postgres": (_postgres, "postgres"),
    "redis": (_redis, "redis"),
    "cleanup": (_cleanup, "postgres"),
    "health": (_health, "health"),
    "restore-postgres": (_restore_postgres, "postgres"),
    "restore-redis": (_restore_redis, "redis"),
    "list": (_list, ""),
    "status": (_status, ""),
    "verify": (_verify, "verify"),
    "drill": (_drill, "drill"),
    "fetch": (_fetch, "postgres"),
    "adopt": (_adopt, "postgres"),
}


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise Failed(f"stopped by signal {signal.Signals(number).name}")


def main() -> int:
    """Runs one job; what went wrong is one line on standard error, in the log, and an alert."""
    arguments = parser().parse_args()
    if os.geteuid() != 0:
        print("run this as root", file=sys.stderr)
        return WRONG_USE
    try:
        config = Config.load()
    except (OSError, ValueError) as error:
        print(f"no usable configuration: {error}", file=sys.stderr)
        return FAILED
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    os.umask(0o077)
    job, lock = _JOBS[arguments.job]
    if arguments.job in _READS:
        return _look(config, job, arguments)
    # It runs as long as somebody looks at it: backups must not wait for that.
    lock = "" if getattr(arguments, "to_scratch", False) else lock
    return _run(config, job, lock, arguments)


def _look(config: Config, job: Job, arguments: argparse.Namespace) -> int:
    try:
        job(config, arguments, log_of(config, arguments.job))
    except Failed as failure:
        print(failure, file=sys.stderr)
        return FAILED
    return DONE


def _run(config: Config, job: Job, lock: str, arguments: argparse.Namespace) -> int:
    name = " ".join(filter(None, [arguments.job, getattr(arguments, "type", None)]))
    log = log_of(config, name)
    try:
        if not lock:
            job(config, arguments, log)
            return DONE
        with locked(lock):
            job(config, arguments, log)
    except Busy as busy:
        log.line(str(busy))
        return BUSY
    except (Failed, KeyboardInterrupt) as failure:
        return _failed(config, log, name, str(failure) or "interrupted")
    except Exception as error:
        return _failed(config, log, name, f"{type(error).__name__}: {error}")
    alert.succeeded(config, name, log)
    return DONE


def _failed(config: Config, log: Log, name: str, message: str) -> int:
    message += _scarcity(config)
    log.line(f"FAILED: {message}")
    alert.failed(config, name, f"{message} (at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)", log)
    return FAILED


def _scarcity(config: Config) -> str:
    """A word on the room that is left; not everybody who cannot write says that it is for that."""
    with contextlib.suppress(OSError):
        left = shutil.disk_usage(config.directory).free
        return f" ({config.directory} has {left >> 20} MB left)" if left < _SCARCE else ""
    return ""


if __name__ == "__main__":
    sys.exit(main())
