"""A scratch PostgreSQL on this host, restored from the repository; the live one is not involved."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backup import repository
from backup.config import Config, Postgres
from backup.job import Failed, Log, run
from backup.postgres import connect, server

CONFIG = "/etc/datatier/pgbackrest-scratch.conf"
PORT = 54329
START_SECONDS = 3600

# A standby refuses to start with less of these than the primary had.
_AT_LEAST = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_xacts",
    "max_locks_per_xact",
)
_NAMES = {
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}


@dataclass(frozen=True)
class Target:
    """Where recovery stops: at a restore point, or at a moment (ISO 8601 with a zone)."""

    label: str
    name: str = ""
    time: str = ""

    def options(self) -> list[str]:
        """The options of pgBackRest that say so."""
        kind = f"--type={'name' if self.name else 'time'}"
        return [kind, f"--target={self.name or self.time}", "--target-action=promote"]


@contextlib.contextmanager
def restored(config: Config, target: Target, log: Log) -> Iterator[Postgres]:
    """Restores into a scratch directory, starts a server there, and removes all of it at the end.

    Raises:
        Failed: no room, the restore failed, or recovery did not reach the target.
    """
    base = config.directory / "scratch"
    _require_room(config, base.parent, target)
    base.mkdir(mode=0o755, exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=base))
    shutil.chown(home, repository.USER, repository.USER)
    try:
        with log.step(f"restore of {target.label} to scratch"):
            _restore(config, target, home / "data")
        with log.step("recovery"):
            _start(config, home)
            scratch = replace(server(config), host=str(home), port=PORT)
            _require_target(target, home)
        yield scratch
    finally:
        _stop(config, home)
        shutil.rmtree(home, ignore_errors=True)


def _require_room(config: Config, where: Path, target: Target) -> None:
    sizes = {backup.label: backup.size for backup in repository.backups(config)}
    if target.label not in sizes:
        raise Failed(f"physical backup {target.label} is not in the repository")
    needed, free = int(sizes[target.label] * 1.2) + (256 << 20), shutil.disk_usage(where).free
    if needed > free:
        raise Failed(
            f"{where} has {free >> 20} MB free, and restoring {target.label} needs {needed >> 20}"
        )


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
            *target.options(),
            "restore",
        ],
        user=repository.USER,
    )


def _binary(config: Config, name: str) -> str:
    return f"/usr/lib/postgresql/{server(config).version}/bin/{name}"


def _start(config: Config, home: Path) -> None:
    data = home / "data"
    control = run([_binary(config, "pg_controldata"), str(data)], user=repository.USER)
    lines = ["listen_addresses = ''", f"port = {PORT}", f"unix_socket_directories = '{home}'"]
    lines += ["fsync = off", "archive_mode = off", "autovacuum = off", "jit = off"]
    for key in _AT_LEAST:
        match = re.search(rf"^{key} setting:\s+(\d+)", control, re.MULTILINE)
        if match:
            lines.append(f"{_NAMES.get(key, key)} = {match[1]}")
    settings = home / "postgresql.conf"
    settings.write_text("\n".join(lines) + f"\nhba_file = '{home}/pg_hba.conf'\n")
    (home / "pg_hba.conf").write_text("local all all trust\n")
    for path in (settings, home / "pg_hba.conf"):
        shutil.chown(path, repository.USER, repository.USER)
    run(
        [
            *(_binary(config, "pg_ctl"), "-D", str(data), "-l", str(home / "log")),
            *("-w", "-t", str(START_SECONDS), "-o", f"-c config_file={settings}", "start"),
        ],
        user=repository.USER,
    )
    _wait_promoted(config, home)


def _wait_promoted(config: Config, home: Path) -> None:
    scratch = replace(server(config), host=str(home), port=PORT)
    with connect(scratch, "postgres", admin=True) as connection:
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
    run([_binary(config, "pg_ctl"), "-D", str(data), "-w", "-m", "fast", "stop"],
        user=repository.USER)  # fmt: skip
    return data


def _stop(config: Config, home: Path) -> None:
    with contextlib.suppress(Failed, subprocess.SubprocessError):
        run([_binary(config, "pg_ctl"), "-D", str(home / "data"), "-w", "-m", "immediate", "stop"],
            user=repository.USER)  # fmt: skip
