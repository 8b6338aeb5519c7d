"""PostgreSQL: full and incremental backups, and the checks that make them count."""

from __future__ import annotations

import gzip
import os
import re
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg

from backup import crypt
from backup.config import Config, Postgres
from backup.job import Failed, Incomplete, Log, program, run, stamp
from backup.manifest import SUFFIX, Manifest, all_of, digest, finish
from backup.postgres import load, properties, repository
from backup.postgres.script import Script, Stream
from backup.postgres.session import Connection, connect, tool
from backup.retention import link_latest

# The last words of a whole dump; a pg_dump that began with \restrict ends with \unrestrict.
_TRAILERS = {
    "full": rb"-- PostgreSQL database dump complete\n--\s*",
    "globals": rb"-- PostgreSQL database cluster dump complete\n--\s*",
}
_CHUNK = 1 << 20
START_SECONDS = 30


def server(config: Config) -> Postgres:
    """The server that is backed up.

    Raises:
        Failed: this estate has none.
    """
    if config.postgres is None:
        raise Failed("this estate has no PostgreSQL")
    return config.postgres


def await_start(config: Config, log: Log) -> None:
    """Gives a server that was just started the time to answer; others find out what is wrong."""
    end = time.monotonic() + START_SECONDS
    with log.step("PostgreSQL answers"):
        while True:
            try:
                return connect(server(config), "postgres", admin=True).close()
            except Failed:
                if time.monotonic() > end:
                    raise
            time.sleep(1)


# --- Full ----------------------------------------------------------------------------------------


def full(config: Config, log: Log) -> list[Manifest]:
    """A physical backup, and each database as plain SQL that psql reads.

    Returns:
        The manifests written: globals first, then one per database.

    Raises:
        Failed: a step failed; no file has a final name that it did not earn.
        Incomplete: what it names was not backed up, the rest is.
    """
    postgres, moment = server(config), stamp()
    directory = config.artifacts("postgres")
    _require_writable(config)
    _clean(directory)
    load.sweep(postgres, log)
    lost = list[str]()
    with log.step("physical backup"):
        if why := _unreadable(config):
            physical = _standing(config, why)
            lost.append(f"physical backup: {why}")
        else:
            physical = repository.take(config, "full")
    with log.step("restore point"):
        point = restore_point(config, f"full_{moment}", physical)
    with log.step("globals"):
        written = [_dump(config, "globals", moment, "", point)]
    for database in postgres.databases:
        try:
            with log.step(f"dump of {database}"):
                written.append(_dump(config, "full", moment, database, point))
        except (Failed, psycopg.Error) as error:
            lost.append(f"dump of {database}: {error}")
    link_latest(directory, [manifest for manifest in written if manifest.kind == "full"])
    if lost:
        raise Incomplete(f"no {'; no '.join(lost)}")
    return written


def _require_writable(config: Config) -> None:
    """Finds out at once what pgBackRest would say after a minute, and as something else.

    Raises:
        Failed: the directory of backups takes no file.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=config.artifacts("postgres"), prefix="."):
            pass
    except OSError as error:
        raise Failed(f"{config.directory} cannot be written to: {error.strerror}") from None


def _unreadable(config: Config) -> str:
    """Why pgBackRest could not read a backup that it takes now; empty when it can."""
    with connect(server(config), "postgres") as connection:
        rows = connection.execute("SELECT datname FROM pg_database").fetchall()
    bad = [name for (name,) in rows if re.search("[\n\r]", name)]
    if not bad:
        return ""
    return (
        f"the database {bad[0]!r} has a line break in its name, and no physical backup with it "
        "could be restored: ALTER DATABASE ... RENAME, then again"
    )


def _standing(config: Config, why: str) -> repository.Physical:
    """The physical backup of the newest full, from which WAL leads on where none can be taken.

    Raises:
        Failed: there is none of this cluster.
    """
    parent = newest_full(config)
    if _why_full(config, parent):
        raise Failed(why)
    assert parent is not None
    physical = _physical_of(config, parent)
    if physical.archive != repository.archive_id(config, physical.repository):
        raise Failed(why)
    return physical


def _clean(directory: Path) -> None:
    """Removes what a run left that was killed; the lock of this job says that none is running."""
    for kind in ("full", "globals"):
        for path in directory.glob(f".*_{kind}_*.gz*.partial"):
            if SUFFIX not in path.name:
                path.unlink()


def restore_point(config: Config, name: str, base: repository.Physical) -> dict[str, Any]:
    """Names this moment, and waits until the WAL that reaches it is in the repository.

    Returns:
        The facts of a manifest: the point, its LSN, the timeline, and the backup it builds on.
    """
    with connect(server(config), "postgres") as connection:
        row = connection.execute(
            "SELECT lsn::text, pg_walfile_name(lsn), current_setting('server_version')"
            " FROM pg_create_restore_point(%s) AS lsn",
            (name,),
        ).fetchone()
        connection.execute("SELECT pg_switch_wal()")
    assert row is not None
    lsn, segment, version = row
    repository.wait_archived(config, segment)
    repository.require_whole(config, base, segment)
    return {
        "restore_point": name,
        "label": base.label,
        "lsn_start": base.lsn_start,
        "lsn": lsn,
        "wal_start": base.wal_start,
        "wal": segment,
        "archive": base.archive,
        "timeline": int(segment[:8], 16),
        "server_version": version,
    }


def _dump(config: Config, kind: str, moment: str, database: str, point: dict[str, Any]) -> Manifest:
    """One plain SQL file: dumped, read back whole, and only then given its name."""
    postgres, directory = server(config), config.artifacts("postgres")
    started = datetime.now(UTC)
    stem = f"{database or config.stack}_{kind}_{moment}.sql.gz"
    name = stem + crypt.suffix(config)
    partial = directory / f".{name}.partial"
    try:
        facts = _facts(postgres, database) if database else {}
        version, rows = _write(config, kind, database, partial)
        _read_whole(config, kind, partial)
        checksum, size = digest(partial), partial.stat().st_size
        finish(partial, directory / name)
    finally:
        partial.unlink(missing_ok=True)
    ended = datetime.now(UTC)
    manifest = Manifest(
        kind=kind,
        name=name,
        of=database,
        stamp=moment,
        sha256=checksum,
        bytes=size,
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        duration=round((ended - started).total_seconds(), 3),
        facts={**point, "tool": version, "rows": rows, **facts},
    ).with_verification("read back whole", ended.isoformat(timespec="seconds"))
    manifest.write(directory)
    return manifest


def _facts(postgres: Postgres, database: str) -> dict[str, Any]:
    with connect(postgres, database) as connection:
        return described(connection)


def described(connection: Connection) -> dict[str, Any]:
    """The owner of a connection's database, its size on disk in bytes, and its properties."""
    row = connection.execute(
        "SELECT pg_get_userbyid(datdba), pg_database_size(oid)"
        " FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return {
        "owner": row[0],
        "database_bytes": row[1],
        "properties": properties.read(connection),
        "not_in_dump": properties.not_in_dump(connection),
    }


def _write(config: Config, kind: str, database: str, partial: Path) -> tuple[str, dict[str, int]]:
    """Dumps into the partial file, compressed and perhaps encrypted.

    Returns:
        The tool's version, and the number of rows of each table in the file. They are counted
        there: to ask the server is to plan a query, which runs what an owner's index has.
    """
    postgres = server(config)
    name = "pg_dumpall" if kind == "globals" else "pg_dump"
    command, environment = tool(postgres, name, database)
    # Passwords of roles are not for the backup role to read; they are in the settings.
    if kind == "globals":
        command += ["--globals-only", "--no-role-passwords", "-l", "postgres"]
    with (
        partial.open("wb") as raw,
        crypt.writer(config, raw) as sealed,
        program(command, environment, user=repository.USER) as dump,
    ):
        assert dump.process.stdout is not None
        with gzip.GzipFile("", "wb", 6, sealed, mtime=0) as packed:
            rows = row_counts(_Tee(dump.process.stdout, packed))
        dump.finish()
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.chmod(0o600)
    return run([postgres.binary(name), "--version"]).strip(), rows


class _Tee:
    """What is read of it is also written."""

    def __init__(self, source: IO[bytes], copy: gzip.GzipFile) -> None:
        self._source = source
        self._copy = copy

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        chunk = self._source.read(size)
        self._copy.write(chunk)
        return chunk


def row_counts(dump: Stream) -> dict[str, int]:
    """The number of rows of each table in a dump, by qualified name."""
    script, counts = Script(dump), Counter[str]()
    for statement in script:
        if statement.copies:
            # Several times where pg_dump loads partitions through their root.
            counts[statement.name_after("COPY")] += sum(r.count(b"\n") for r in script.rows())
    return dict(counts)


def _read_whole(config: Config, kind: str, path: Path) -> None:
    with whole(config, kind, path) as stream:
        while stream.read(_CHUNK):
            pass


@contextmanager
def whole(config: Config, kind: str, path: Path) -> Iterator[Stream]:
    """The SQL of an artifact, read to its end: a cut gzip or a cut dump is no backup.

    Raises:
        Failed: it does not decrypt, does not unpack, or does not end as a dump ends.
    """
    with plain(config, path) as stream:
        read = _Whole(stream, kind, path.name.strip("."))
        yield read
    read.require_end()


class _Whole:
    def __init__(self, stream: Stream, kind: str, name: str) -> None:
        self._stream, self._kind, self._name = stream, kind, name
        self._head = self._tail = b""

    def read(self, size: int, /) -> bytes:
        try:
            chunk = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise Failed(f"{self._name} does not unpack: {error}") from None
        self._head = self._head or chunk
        self._tail = (self._tail + chunk)[-4096:]
        return chunk

    def require_end(self) -> None:
        is_full = self._kind == "full"
        opened = re.search(rb"(?m)^\\restrict (\w+)$", self._head) if is_full else None
        end = _TRAILERS[self._kind] + (rb"\\unrestrict " + opened[1] + rb"\s*" if opened else b"")
        if not re.search(end + rb"\Z", self._tail):
            raise Failed(f"{self._name} does not end as a whole dump does")


@contextmanager
def plain(config: Config, path: Path) -> Iterator[gzip.GzipFile]:
    """The SQL of an artifact, decrypted and unpacked while it is read."""
    with crypt.reader(config, path) as opened, gzip.GzipFile(fileobj=opened, mode="rb") as stream:
        yield stream


def archive_now(config: Config) -> None:
    """Commits something and waits until it is archived: any moment before can then be reached.

    Raises:
        Failed: the server does not answer, or does not archive.
    """
    with connect(server(config), "postgres") as connection:
        # Recovery to a moment ends at the first commit after it, so there has to be one.
        connection.execute("SELECT pg_current_xact_id()")
        row = connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
        connection.execute("SELECT pg_switch_wal()")
    assert row is not None
    repository.wait_archived(config, row[0])


# --- Incremental ---------------------------------------------------------------------------------


def incremental(config: Config, log: Log) -> Manifest:
    """What changed since the last backup: blocks and WAL, or a restore point and WAL.

    Where there is nothing to build on, it is a full one.

    Raises:
        Failed: a step failed.
        Incomplete: only the WAL could be backed up.
    """
    postgres, started = server(config), datetime.now(UTC)
    parent = newest_full(config)
    if reason := _why_full(config, parent):
        log.line(f"{reason}: this will be a full backup")
        return full(config, log)[-1]
    assert parent is not None
    with log.step("base of the increment"):
        _require_writable(config)
        why = _unreadable(config)
        is_new = postgres.incremental == "block" and not why
        base = repository.take(config, "incr") if is_new else _physical_of(config, parent)
    # Named after what it builds on has ended, so that the name says what is in it.
    moment = stamp()
    with log.step("restore point"):
        point = restore_point(config, f"incremental_{moment}", base)
    ended = datetime.now(UTC)
    manifest = Manifest(
        kind="incremental",
        name=f"{config.stack}_incremental_{moment}",
        of=config.stack,
        stamp=moment,
        sha256="",
        bytes=base.delta if base.label != parent.facts["label"] else 0,
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        duration=round((ended - started).total_seconds(), 3),
        facts={**point, "parent": parent.stamp},
    ).with_verification("WAL is continuous", ended.isoformat(timespec="seconds"))
    manifest.write(config.artifacts("postgres"))
    if why:
        raise Incomplete(f"no physical backup, its WAL alone: {why}")
    return manifest


def newest_full(config: Config) -> Manifest | None:
    """The newest full backup, if there is one."""
    fulls = [m for m in all_of(config.artifacts("postgres")) if m.kind == "full"]
    return fulls[-1] if fulls else None


def _why_full(config: Config, parent: Manifest | None) -> str:
    """Why nothing can be built on the newest full backup; empty when it can."""
    if parent is None:
        return "there is no full backup yet"
    there = {backup.label: backup.repository for backup in repository.backups(config)}
    label = parent.facts["label"]
    if label not in there:
        return f"physical backup {label} is not in the repository"
    if there[label] != repository.present(config):
        return f"physical backup {label} is in the repository of the passphrase before"
    with connect(server(config), "postgres") as connection:
        row = connection.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone()
    timeline = row[0] if row else 0
    if timeline != parent.facts["timeline"]:
        return f"the server is on timeline {timeline} since it was restored"
    return ""


def _physical_of(config: Config, full: Manifest) -> repository.Physical:
    label = full.facts["label"]
    found = (backup for backup in repository.backups(config) if backup.label == label)
    if physical := next(found, None):
        return physical
    raise Failed(f"{full.name}: physical backup {label} is not in the repository")


# --- Verify --------------------------------------------------------------------------------------


def verify(config: Config, manifest: Manifest) -> None:
    """Checks one artifact as far as that goes without restoring it.

    Raises:
        Failed: the message names the check that failed.
    """
    if manifest.kind == "incremental":
        verify_chain(config, manifest)
        return
    path = manifest.require_whole(config.artifacts("postgres"))
    _read_whole(config, manifest.kind, path)


def verify_chain(config: Config, manifest: Manifest) -> None:
    """Checks that the repository still leads to the restore point of a backup.

    Raises:
        Failed: its physical backup or a WAL segment on the way is missing.
    """
    physical = _physical_of(config, manifest)
    if lost := repository.missing(config, physical, manifest.facts["wal"]):
        raise Failed(f"{manifest.name}: WAL segment {lost[0]} is missing")
