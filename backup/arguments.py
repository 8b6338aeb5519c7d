"""How the scripts are called; each is one job of the command line."""

from __future__ import annotations

import argparse

_EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong use, 75 another run holds the lock."
_HEALTH_CODES = (
    "Exit codes, as of monitoring plug-ins: 0 ok, 1 warning, 2 critical, 3 unknown; "
    "75 another run holds the lock."
)

# The documented script of a job; the others are words of backup.sh.
SCRIPTS = {
    "postgres": "postgres-backup.sh",
    "redis": "redis-backup.sh",
    "cleanup": "cleanup-backups.sh",
    "health": "health-check.sh",
    "restore-postgres": "restore-postgres.sh",
    "restore-redis": "restore-redis.sh",
}


class _Jobs:
    """The jobs of a command line, each with the help of its script."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")

    def add(self, job: str, what: str) -> argparse.ArgumentParser:
        """A job and what it does, as one clause."""
        return self._jobs.add_parser(
            job,
            prog=SCRIPTS.get(job, f"backup.sh {job}"),
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=_EXIT_CODES,
        )


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = argparse.ArgumentParser(
        prog="backup.sh",
        description="Backups of PostgreSQL and Redis: made, checked, restored.",
        epilog=_EXIT_CODES,
    )
    jobs = _Jobs(whole)
    kind = jobs.add("postgres", "back up PostgreSQL: a base, or what has changed since")
    kind.add_argument("type", choices=["full", "incremental"])
    jobs.add("redis", "back up Redis: a snapshot from a healthy replica")
    cleanup = jobs.add("cleanup", "remove what the retention rules no longer keep")
    cleanup.add_argument("--dry-run", action="store_true", help="list it and remove nothing")
    checked = jobs.add("health", "check every service and the age of the backups")
    checked.epilog = _HEALTH_CODES
    checked.add_argument("--json", action="store_true", help="tell all of it as JSON")
    _restore_postgres(jobs.add("restore-postgres", "restore databases, or one table"))
    _restore_redis(jobs.add("restore-redis", "restore Redis over replication"))
    jobs.add("list", "list all backups and what is known of them")
    told = jobs.add("status", "tell the newest of each kind, and what is overdue")
    told.add_argument("--brief", action="store_true", help="in one line")
    told = jobs.add("report", "tell what a month has to show: backups, checks, drills, restores")
    told.add_argument(
        "--month", default="", metavar="YYYY-MM", help="in UTC; the last if not given"
    )
    how = told.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="tell all of it as JSON")
    how.add_argument(
        "--html",
        nargs="?",
        const="-",
        default="",
        metavar="FILE",
        help="write it as a page; beside the status page if no FILE is given",
    )
    jobs.add("verify", "read every artifact and the repository back")
    jobs.add("drill", "restore the newest backups to scratch servers and compare")
    rebuilt = jobs.add("reindex", "build indexes again: those that are named, or all invalid ones")
    rebuilt.add_argument("index", nargs="*", metavar="SCHEMA.INDEX")
    rebuilt.add_argument("--database", help="only in this one")
    rebuilt.add_argument("--dry-run", action="store_true", help="list them and change nothing")
    jobs.add("vacuum", "vacuum and analyze the tables that the settings name")
    fetch = jobs.add("fetch", "bring all backups back from the bucket to a new host")
    fetch.add_argument(
        "--bucket", default="", metavar="NAME", help="which of several; the first if not given"
    )
    fetch.add_argument(
        "--unsigned",
        action="store_true",
        help="believe a bucket without this estate's signature: trusts all its writers",
    )
    fetch.add_argument(
        "--older",
        action="store_true",
        help="take a bucket whose list is older than the one that this host has put there",
    )
    fetch.add_argument(
        "--as-of",
        default="",
        metavar="TIME",
        help="what the bucket was then, where it keeps versions; as restore-postgres.sh --time",
    )
    jobs.add("adopt", "take a new cluster into the repository of a lost one")
    return whole


def _restore_postgres(job: argparse.ArgumentParser) -> None:
    what = job.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", help="a *_full_*.sql.gz of the backup directory")
    what.add_argument(
        "--time",
        default="",
        help="a moment, ISO 8601 with a zone, 2026-11-22T14:03:00+00:00, or '10 minutes ago'",
    )
    what.add_argument(
        "--incremental", default="", metavar="NAME", help="an incremental, see backup.sh list"
    )
    job.add_argument("--database", help="only this one (with --time or --incremental)")
    job.add_argument(
        "--timeline",
        type=int,
        default=0,
        metavar="N",
        help="with --time: a timeline that an earlier restore has left; the newest if not given",
    )
    how = job.add_mutually_exclusive_group()
    how.add_argument(
        "--table",
        default="",
        metavar="SCHEMA.TABLE",
        help="only this one: in its place if it is gone, else beside it in a schema restored_TIME",
    )
    how.add_argument(
        "--to-scratch",
        action="store_true",
        help="to a server of its own, to look at; the live one is not touched",
    )


def _restore_redis(job: argparse.ArgumentParser) -> None:
    job.add_argument("file", help="a redis_*.rdb.gz of the backup directory")
    job.add_argument("--address", default="", help="how the master reaches this host")
    job.add_argument("--port", type=int, default=0, help="where the master fetches the data")
