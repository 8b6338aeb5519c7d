"""A scratch PostgreSQL on this host; the live one is not involved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backup.config import Config, Postgres
from backup.job import Failed, Log
from backup.postgres import repository, sandbox
from backup.postgres.backups import connect, server
from backup.postgres.sandbox import Sandbox

CONFIG = "/etc/datatier/pgbackrest-scratch.conf"
# Only the name of a socket: a scratch server listens on no address.
PORT = 54329
START_SECONDS = 3600
# What a server needs beside its data: WAL, and what the checks write.
HEADROOM = 256 << 20

# Recovery refuses to start with less of these than the primary had.
_AT_LEAST = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}


@dataclass(frozen=True)
class Target:
    """Where recovery stops: at a restore point, or at a moment (ISO 8601 with a zone).

    Attributes:
        timeline: of the moment; 0 for the newest. A restore point is on its backup's own.
        lsn: of the last commit before that moment, or 'immediate' where the backup has all of them.
    """

    label: str
    name: str = ""
    time: str = ""
    timeline: int = 0
    lsn: str = ""

    def options(self) -> list[str]:
        """The options of pgBackRest that say so."""
        if self.lsn == "immediate":
            timeline = "--recovery-option=recovery_target_timeline=current"
            return ["--type=immediate", "--target-action=promote", timeline]
        kind = "lsn" if self.lsn else "name" if self.name else "time"
        # The first timeline has no history file, which pgBackRest would ask for.
        own = self.name or self.timeline == 1
        return [
            f"--type={kind}",
            f"--target={self.lsn or self.name or self.time}",
            "--target-action=promote",
            f"--target-timeline={'current' if own else self.timeline or 'latest'}",
        ]


@contextlib.contextmanager
def restored(config: Config, target: Target, log: Log, extra: int = 0) -> Iterator[Postgres]:
    """Restores into a scratch directory, starts a server there, and removes all of it at the end.

    Args:
        extra: bytes that the caller will write into it.

    Raises:
        Failed: no room, the restore failed, or recovery did not reach the target.
    """
    _require_room(config, _size(config, target) + extra)
    with _home(config, log) as box:
        with log.step(f"restore of {target.label} to scratch"):
            _restore(config, target, box)
        with log.step("recovery"):
            _start(config, box)
            _require_target(target, box)
        if target.time and _is_half_dropped(config, box):
            with log.step(f"recovery to the last commit before {target.time}"):
                _recover_again(config, target, box)
        yield _server(config, box)


@contextlib.contextmanager
def empty(config: Config, log: Log, extra: int) -> Iterator[Postgres]:
    """A scratch server without any database of ours, removed at the end; `extra` as above.

    Raises:
        Failed: no room, or it did not start.
    """
    _require_room(config, extra)
    with _home(config, log) as box:
        with log.step("empty scratch server"):
            options = ["-D", str(box.data), "-U", "postgres", "-E", "UTF8"]
            locale = ["--locale=C.UTF-8", "--auth=trust", "--no-sync"]
            box.run(server(config).binary("initdb"), *options, *locale)
            _start(config, box)
        yield _server(config, box)


def sweep(config: Config) -> None:
    """Stops and removes scratch servers whose program has been killed."""
    base = _base(config)
    base.mkdir(exist_ok=True)
    base.chmod(0o755)
    with _locked(base):
        for home in base.glob("*/"):
            with contextlib.suppress(BlockingIOError), _locked(home, fcntl.LOCK_NB):
                _remove(config, home)


# --- The directory -------------------------------------------------------------------------------


def _base(config: Config) -> Path:
    return config.directory / "scratch"


@contextlib.contextmanager
def _home(config: Config, log: Log) -> Iterator[Sandbox]:
    sweep(config)
    with contextlib.ExitStack() as stack:
        with _locked(_base(config)):
            home = Path(tempfile.mkdtemp(dir=_base(config)))
            stack.enter_context(_locked(home, fcntl.LOCK_NB))
        try:
            box = sandbox.make(config, home)
            if box.exposed:
                log.line(f"the scratch server has only its own user's rights: {box.exposed}")
            yield box
        finally:
            _remove(config, home)


@contextlib.contextmanager
def _locked(directory: Path, how: int = 0) -> Iterator[None]:
    """Holds the lock of a directory; the kernel releases it however the holder ends.

    Raises:
        BlockingIOError: another process holds it, and `how` is not to wait.
    """
    # No link is followed and nothing cut short: earlier releases gave the directory to postgres.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(directory / ".lock", flags, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | how)
        yield


def _remove(config: Config, home: Path) -> None:
    sandbox.stop(home, server(config).binary("pg_ctl"))
    # It follows no link, nor one that appears meanwhile.
    shutil.rmtree(home, ignore_errors=True)


def _size(config: Config, target: Target) -> int:
    sizes = {backup.label: backup.size for backup in repository.backups(config)}
    if target.label not in sizes:
        raise Failed(f"physical backup {target.label} is not in the repository")
    return sizes[target.label]


def _require_room(config: Config, size: int) -> None:
    needed, free = int(size * 1.2) + HEADROOM, shutil.disk_usage(config.directory).free
    if needed > free:
        raise Failed(
            f"{config.directory} has {free >> 20} MB free, and a scratch server with these data "
            f"needs {needed >> 20} MB"
        )


# --- The server ----------------------------------------------------------------------------------


def _restore(config: Config, target: Target, box: Sandbox) -> None:
    box.run("mkdir", "-m", "700", box.data)
    box.run(
        "pgbackrest",
        f"--config={CONFIG}",
        f"--stanza={config.stack}",
        f"--lock-path={box.server / 'lock'}",
        f"--pg1-path={box.data}",
        f"--set={target.label}",
        "--archive-mode=off",
        f"--tablespace-map-all={box.server / 'tablespaces'}",
        *target.options(),
        "restore",
    )
    # What ALTER SYSTEM had set on the live server: programs to run, servers to connect to.
    ours = "1,/^# Recovery settings generated by pgBackRest/d"
    box.run("sed", "-i", ours, box.data / "postgresql.auto.conf")


def _server(config: Config, box: Sandbox) -> Postgres:
    # It asks for no password, and who would is not told one.
    known = replace(server(config), password="", admin_password="")
    return replace(known, host=str(box.server), port=PORT)


def _start(config: Config, box: Sandbox) -> None:
    control = box.run(server(config).binary("pg_controldata"), box.data)
    options = {
        **{"config_file": box.write("postgresql.conf", "")},
        # The directory admits root, postgres and the server itself only.
        **{"hba_file": box.write("pg_hba.conf", "local all all trust\n")},
        **{"ident_file": box.write("pg_ident.conf", ""), "lc_messages": "C"},
        **{
            "hot_standby": "off",
            "listen_addresses": "",
            "port": PORT,
            "unix_socket_directories": box.server,
        },
        **{"fsync": "off", "archive_mode": "off", "autovacuum": "off", "jit": "off"},
        **{"shared_buffers": "128MB", "ssl": "off"},
        **{"shared_preload_libraries": server(config).preload},
        # A subscription would go on in it, and take what the live one is owed.
        **{"max_logical_replication_workers": 0, "primary_conninfo": ""},
        **{"recovery_end_command": "", "archive_cleanup_command": ""},
    }
    for key, setting in _AT_LEAST.items():
        if match := re.search(rf"^{key} setting:\s+(\d+)", control, re.MULTILINE):
            options[setting] = match[1]
    if server(config).preload:
        # No worker of a library's: one of pg_cron would run the jobs of the live databases.
        options["max_worker_processes"] = 0
    words = " ".join(f"-c {shlex.quote(f'{key}={value}')}" for key, value in options.items())
    while not _is_started(config, box, words):
        pass


def _is_started(config: Config, box: Sandbox, options: str) -> bool:
    """Starts it; where the WAL made a tablespace, it needs a place for it and another start."""
    start = ["-D", str(box.data), "-l", str(box.server / "log"), "-w", "-t", str(START_SECONDS)]
    try:
        box.run(server(config).binary("pg_ctl"), *start, "-o", options, "start")
        _wait_ready(config, box)
    except Failed as failure:
        why = _last_words(box)
        if location := _MAKES_TABLESPACE.search(why):
            box.add(location[1])
            return False
        raise Failed(f"the scratch server: {why}" if why else str(failure)) from None
    return True


# What recovery says of CREATE TABLESPACE where the directory is missing, or is another user's.
_MAKES_TABLESPACE = re.compile(r'(?:FATAL: +|could not set permissions on )directory "(/[^"]*)"')


def _last_words(box: Sandbox) -> str:
    with contextlib.suppress(Failed):
        return died_of(box.read(box.server / "log"))
    return ""


def died_of(log: str) -> str:
    """The last fatal message of a server's log, but for those to clients that came too early."""
    fatal = [line for line in log.splitlines() if "FATAL" in line or "PANIC" in line]
    own = [line for line in fatal if "FATAL:  the database system is " not in line]
    return own[-1].partition("] ")[2] if own else ""


def _wait_ready(config: Config, box: Sandbox) -> None:
    """Waits until recovery has ended: before, it takes no connection."""
    while True:
        try:
            return connect(_server(config, box), "postgres", admin=True).close()
        except Failed:
            box.run(server(config).binary("pg_ctl"), "-D", box.data, "status")
        time.sleep(0.2)


def _require_target(target: Target, box: Sandbox) -> None:
    log = box.read(box.server / "log")
    if target.name and f'recovery stopping at restore point "{target.name}"' not in log:
        raise Failed(f"recovery ended without reaching restore point {target.name}")
    if target.time and "recovery stopping before" not in log:
        raise Failed(f"recovery ended before {target.time}: the WAL does not reach it")


def stop(config: Config, scratch: Postgres) -> Sandbox:
    """Stops a scratch server cleanly, for checks of its files."""
    box = Sandbox(Path(scratch.host).parent, config.repository).probed()
    box.run(server(config).binary("pg_ctl"), "-D", box.data, "-w", "-m", "fast", "stop")
    return box


# --- A drop that has begun -----------------------------------------------------------------------

# A database or tablespace loses its files before the commit that says so. Recovery to a moment
# ends before the first commit after it, and may have removed them by then.
_HALF_DROPPED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datconnlimit = -2)
  OR EXISTS (SELECT FROM pg_catalog.pg_tablespace t WHERE spcname NOT IN ('pg_default', 'pg_global')
    AND t.oid::text NOT IN (SELECT pg_catalog.pg_ls_dir('pg_tblspc')))
"""


def whole(scratch: Postgres, databases: Sequence[str]) -> list[str]:
    """Those of the databases that are there and can be entered."""
    query = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2"
    with connect(scratch, "postgres", admin=True) as connection:
        there = {name for (name,) in connection.execute(query).fetchall()}
    return [database for database in databases if database in there]


def _is_half_dropped(config: Config, box: Sandbox) -> bool:
    with connect(_server(config, box), "postgres", admin=True) as connection:
        row = connection.execute(_HALF_DROPPED).fetchone()
    return bool(row and row[0])


def _recover_again(config: Config, target: Target, box: Sandbox) -> None:
    last = _last_commit(config, target, box)
    stop(config, _server(config, box))
    box.run("rm", "-rf", box.data, box.server / "tablespaces", box.server / "log")
    _restore(config, replace(target, lsn=last), box)
    _start(config, box)


_ENDED = """
SELECT pg_catalog.pg_read_file('pg_wal/' || name || '.history')
FROM pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) name
"""


def _last_commit(config: Config, target: Target, box: Sandbox) -> str:
    """The LSN of the last commit that was replayed, or 'immediate' if the backup ends with it.

    Raises:
        Failed: it is on an earlier timeline than that on which recovery ended.
    """
    with connect(_server(config, box), "postgres", admin=True) as connection:
        row = connection.execute(_ENDED).fetchone()
    timeline, end = str(row[0] if row else "").strip().splitlines()[-1].split("\t")[:2]
    first = next(b.wal_stop for b in repository.backups(config) if b.label == target.label)
    wal = box.server / "wal"
    box.run("mkdir", "-p", wal)
    for start, segment in reversed(repository.up_to(first, int(timeline), end)):
        get = ["pgbackrest", f"--config={CONFIG}", f"--stanza={config.stack}"]
        get += [f"--lock-path={box.server / 'lock'}", f"--pg1-path={box.data}"]
        box.run(*get, "archive-get", segment, wal / segment)
        only = ["--rmgr=Transaction", f"--path={wal}", f"--timeline={timeline}"]
        dump = [server(config).binary("pg_waldump"), *only, f"--start={start}", f"--end={end}"]
        if commits := re.findall(r"lsn: (\S+), prev \S+, desc: COMMIT", box.run(*dump)):
            return str(commits[-1])
        end = start
    return "immediate"
