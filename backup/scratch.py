"""A scratch PostgreSQL on this host; the live one is not involved."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backup import repository
from backup.config import Config, Postgres
from backup.job import Failed, Log, run
from backup.postgres import connect, server

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
    """

    label: str
    name: str = ""
    time: str = ""
    timeline: int = 0

    def options(self) -> list[str]:
        """The options of pgBackRest that say so."""
        kind = f"--type={'name' if self.name else 'time'}"
        target = [kind, f"--target={self.name or self.time}", "--target-action=promote"]
        # The first timeline has no history file, which pgBackRest would ask for.
        own = self.name or self.timeline == 1
        return [*target, f"--target-timeline={'current' if own else self.timeline or 'latest'}"]


@contextlib.contextmanager
def restored(config: Config, target: Target, log: Log, extra: int = 0) -> Iterator[Postgres]:
    """Restores into a scratch directory, starts a server there, and removes all of it at the end.

    Args:
        extra: bytes that the caller will write into it.

    Raises:
        Failed: no room, the restore failed, or recovery did not reach the target.
    """
    _require_room(config, _size(config, target) + extra)
    with _home(config) as home:
        with log.step(f"restore of {target.label} to scratch"):
            _restore(config, target, home / "data")
        with log.step("recovery"):
            _start(config, home)
            _require_target(target, home)
        yield _server(config, home)


@contextlib.contextmanager
def empty(config: Config, log: Log, extra: int) -> Iterator[Postgres]:
    """A scratch server without any database of ours, removed at the end; `extra` as above.

    Raises:
        Failed: no room, or it did not start.
    """
    _require_room(config, extra)
    with _home(config) as home:
        with log.step("empty scratch server"):
            options = ["-D", str(home / "data"), "-U", "postgres", "-E", "UTF8"]
            locale = ["--locale=C.UTF-8", "--auth=trust", "--no-sync"]
            run([server(config).binary("initdb"), *options, *locale], user=repository.USER)
            _start(config, home)
        yield _server(config, home)


def sweep(config: Config) -> None:
    """Stops and removes scratch servers whose programme has been killed."""
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
def _home(config: Config) -> Iterator[Path]:
    sweep(config)
    with contextlib.ExitStack() as stack:
        with _locked(_base(config)):
            home = Path(tempfile.mkdtemp(dir=_base(config)))
            stack.enter_context(_locked(home, fcntl.LOCK_NB))
        shutil.chown(home, repository.USER, repository.USER)
        try:
            yield home
        finally:
            _remove(config, home)


@contextlib.contextmanager
def _locked(directory: Path, how: int = 0) -> Iterator[None]:
    """Holds the lock of a directory; the kernel releases it however the holder ends.

    Raises:
        BlockingIOError: another process holds it, and `how` is not to wait.
    """
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | how)
        yield


def _remove(config: Config, home: Path) -> None:
    data = home / "data"
    if (data / "postmaster.pid").exists():
        with contextlib.suppress(Failed):
            stop = ["-D", str(data), "-w", "-m", "immediate", "stop"]
            run([server(config).binary("pg_ctl"), *stop], user=repository.USER)
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


def _restore(config: Config, target: Target, data: Path) -> None:
    run(["install", "-d", "-m", "700", str(data)], user=repository.USER)
    run(
        [
            "pgbackrest",
            f"--config={CONFIG}",
            f"--stanza={config.stack}",
            f"--pg1-path={data}",
            f"--set={target.label}",
            "--archive-mode=off",
            f"--tablespace-map-all={data.parent / 'tablespaces'}",
            *target.options(),
            "restore",
        ],
        user=repository.USER,
    )


def _server(config: Config, home: Path) -> Postgres:
    return replace(server(config), host=str(home), port=PORT)


def _start(config: Config, home: Path) -> None:
    data = home / "data"
    control = run([server(config).binary("pg_controldata"), str(data)], user=repository.USER)
    # On the command line, where what ALTER SYSTEM has set on the live server does not win.
    options = {
        **{"config_file": home / "postgresql.conf", "hba_file": home / "pg_hba.conf"},
        **{"listen_addresses": "", "port": PORT, "unix_socket_directories": home},
        **{"fsync": "off", "archive_mode": "off", "autovacuum": "off", "jit": "off"},
        **{"shared_buffers": "128MB", "shared_preload_libraries": "", "ssl": "off"},
    }
    for key, setting in _AT_LEAST.items():
        if match := re.search(rf"^{key} setting:\s+(\d+)", control, re.MULTILINE):
            options[setting] = match[1]
    settings, hba = home / "postgresql.conf", home / "pg_hba.conf"
    settings.touch()
    # The directory admits root and postgres only.
    hba.write_text("local all all trust\n")
    for path in (settings, hba):
        shutil.chown(path, repository.USER, repository.USER)
    start = ["-D", str(data), "-l", str(home / "log"), "-w", "-t", str(START_SECONDS)]
    words = [f"-c {shlex.quote(f'{key}={value}')}" for key, value in options.items()]
    start += ["-o", " ".join(words), "start"]
    try:
        run([server(config).binary("pg_ctl"), *start], user=repository.USER)
    except Failed as failure:
        raise Failed(_last_words(home) or str(failure)) from None
    _wait_promoted(config, home)


def _last_words(home: Path) -> str:
    with contextlib.suppress(OSError):
        said = (home / "log").read_text(errors="replace")
        fatal = [line for line in said.splitlines() if "FATAL" in line or "PANIC" in line]
        return f"the scratch server: {fatal[-1].partition('] ')[2]}" if fatal else ""
    return ""


def _wait_promoted(config: Config, home: Path) -> None:
    with connect(_server(config, home), "postgres", admin=True) as connection:
        while True:
            row = connection.execute("SELECT pg_is_in_recovery(), pg_sleep(0.2)").fetchone()
            if row is not None and not row[0]:
                return


def _require_target(target: Target, home: Path) -> None:
    log = (home / "log").read_text(errors="replace")
    if target.name and f'recovery stopping at restore point "{target.name}"' not in log:
        raise Failed(f"recovery ended without reaching restore point {target.name}")
    if target.time and "recovery stopping before" not in log:
        raise Failed(f"recovery ended before {target.time}: the WAL does not reach it")


def stop(config: Config, scratch: Postgres) -> Path:
    """Stops a scratch server cleanly, for checks of its files; returns its data directory."""
    data = Path(scratch.host) / "data"
    run([server(config).binary("pg_ctl"), "-D", str(data), "-w", "-m", "fast", "stop"],
        user=repository.USER)  # fmt: skip
    return data
