"""The command line behind the scripts; exit codes: 0 done, 1 failed, 2 wrong use, 75 busy."""

from __future__ import annotations

import argparse
import os
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


_TABLE = "only this table: in its place if it is gone, else beside it in a schema restored_TIME"
_TO_SCRATCH = "to a server of its own to look at; the live one is not touched"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backup.sh",
        description="Backups of PostgreSQL and Redis: made, checked, restored.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 75 another run holds the lock.",
    )
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    kind = jobs.add_parser("postgres", help="back up PostgreSQL")
    kind.add_argument("type", choices=["full", "incremental"])
    jobs.add_parser("redis", help="back up Redis")
    cleanup = jobs.add_parser("cleanup", help="remove what the retention rules no longer keep")
    cleanup.add_argument("--dry-run", action="store_true", help="list it and remove nothing")
    jobs.add_parser("health", help="check every service and the age of the backups")
    into = jobs.add_parser("restore-postgres", help="restore a database")
    what = into.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", help="a *_full_*.sql.gz of the backup directory")
    what.add_argument("--time", help="a moment, ISO 8601 with a zone: 2026-11-22T14:03:00+00:00")
    what.add_argument("--incremental", metavar="NAME", help="an incremental backup, see list")
    into.add_argument("--database", help="only this database (with --time or --incremental)")
    how = into.add_mutually_exclusive_group()
    how.add_argument("--table", metavar="SCHEMA.TABLE", help=_TABLE)
    how.add_argument("--to-scratch", action="store_true", help=_TO_SCRATCH)
    redis_file = jobs.add_parser("restore-redis", help="restore Redis over replication")
    redis_file.add_argument("file", help="a redis_*.rdb.gz of the backup directory")
    redis_file.add_argument("--address", default="", help="how the master reaches this host")
    redis_file.add_argument("--port", type=int, default=0, help="where the master fetches the data")
    jobs.add_parser("list", help="all backups and what is known of them")
    told = jobs.add_parser("status", help="the newest of each kind, the checks, what is overdue")
    told.add_argument("--brief", action="store_true", help="one line")
    jobs.add_parser("verify", help="check every artifact and the repository")
    jobs.add_parser("drill", help="restore the newest backups to a scratch server and compare")
    jobs.add_parser("fetch", help="bring all backups back from the bucket to a new host")
    jobs.add_parser("adopt", help="take a new cluster into the repository of a lost one")
    return parser


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise Failed(f"stopped by signal {signal.Signals(number).name}")


def main() -> int:
    """Runs one job; what went wrong is one line on standard error, in the log, and an alert."""
    arguments = _parser().parse_args()
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
    log.line(f"FAILED: {message}")
    alert.failed(config, name, f"{message} (at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)", log)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
