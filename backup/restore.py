"""Restoring PostgreSQL: beside the live database, verified, then swapped while clients wait."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql

from backup import postgres as pg
from backup import repository, scratch
from backup.config import Config, Postgres
from backup.job import Failed, Log, Program, WrongUse, program, stamp
from backup.manifest import SUFFIX, Manifest, all_of
from backup.swap import name_beside, quoted, swap

_NO_LIMITS = "-c statement_timeout=0 -c lock_timeout=0 -c client_min_messages=warning"


@dataclass(frozen=True)
class Content:
    """What a database has to hold after it was restored; bytes on the server's disk."""

    owner: str
    bytes: int
    rows: dict[str, int]


# --- What is restored ----------------------------------------------------------------------------


def find(config: Config, given: str) -> Manifest:
    """The manifest of an artifact named by its path, after every check that needs no restoring.

    A path without the `.gpg` of an encrypted artifact will do.

    Raises:
        Failed: it is not an artifact of this estate, or a check failed; the message says which.
    """
    directory = config.artifacts("postgres").resolve()
    resolved = _resolved(Path(given))
    if resolved.parent != directory:
        raise Failed(f"{given} is not in {directory}: copy it there with its manifest")
    beside = resolved.with_name(resolved.name + SUFFIX)
    if not beside.exists():
        raise Failed(f"{resolved.name} has no manifest: it is not a finished backup")
    manifest = Manifest.read(beside)
    if manifest.kind != "full":
        raise Failed(f"{manifest.name} is of kind {manifest.kind}: give a *_full_*.sql.gz")
    if manifest.of not in pg.server(config).databases:
        raise Failed(f"{manifest.name} is of database {manifest.of!r}, which is not of this estate")
    pg.verify(config, manifest)
    return manifest


def _resolved(path: Path) -> Path:
    """Where a path leads; a LATEST link has to say one thing only."""
    encrypted = path.with_name(f"{path.name}.gpg")
    there = [each for each in (path, encrypted) if each.exists() or each.is_symlink()]
    if not there:
        raise Failed(f"{path}: no such file")
    if "_LATEST" in path.name and len(there) > 1:
        raise Failed(f"{path} is ambiguous: {encrypted.name} is there too; name the file itself")
    (path, *_) = there
    if not path.exists():
        raise Failed(f"{path} leads to {path.readlink()}, which is not there")
    resolved = path.resolve()
    if path.is_symlink():
        wanted = re.escape(path.name).replace("_LATEST", r"_\d{8}_\d{6}")
        if not re.fullmatch(wanted, resolved.name) or resolved.parent != path.parent.resolve():
            raise Failed(f"{path} leads to {path.readlink()}, which is another kind of thing")
    return resolved


def target_of(
    config: Config, log: Log, *, time: str, incremental: str, timeline: int
) -> scratch.Target:
    """The recovery target for a moment (on the newest timeline if 0), or a named incremental.

    Raises:
        Failed: no backup reaches it.
    """
    return _named(config, incremental) if incremental else _moment(config, time, timeline, log)


def _named(config: Config, incremental: str) -> scratch.Target:
    for manifest in all_of(config.artifacts("postgres")):
        if manifest.name == incremental and manifest.kind == "incremental":
            pg.verify_chain(config, manifest)
            return scratch.Target(manifest.facts["label"], name=manifest.facts["restore_point"])
    raise Failed(f"there is no incremental backup {incremental!r}: see backup.sh list")


def _moment(config: Config, time: str, timeline: int, log: Log) -> scratch.Target:
    moment = _parsed(time)
    known = {m.facts.get("label") for m in all_of(config.artifacts("postgres"))}
    earlier = [
        backup.label
        for backup in repository.on_history(config, timeline)
        if backup.label in known and backup.ended <= moment.timestamp()
    ]
    if not earlier:
        raise Failed(f"no backup ended before {time}: see backup.sh list")
    try:
        pg.archive_now(config)
    except Failed as failure:
        log.line(f"only what is archived already can be restored: {failure}")
    return scratch.Target(earlier[-1], time=moment.isoformat(sep=" "), timeline=timeline)


def _parsed(time: str) -> datetime:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        example = "2026-11-22T14:03:00+00:00"
        raise WrongUse(f"{time!r} is not a moment: write it as {example}") from None
    if moment.tzinfo is None:
        raise WrongUse(f"{time!r} has no zone: add +00:00 for UTC, or another one")
    if moment > datetime.now(UTC):
        raise WrongUse(f"{time} is in the future")
    return moment


# --- Restore -------------------------------------------------------------------------------------


def from_dump(config: Config, given: str, log: Log, table: str = "") -> None:
    """Restores a database, or one table of it, from its plain SQL.

    Raises:
        Failed: before the swap, and then the live database is as it was.
    """
    with log.step("validation"):
        manifest = find(config, given)
    content = Content(*(manifest.facts[key] for key in ("owner", "database_bytes", "rows")))
    path = manifest.path(config.artifacts("postgres"))
    with _beside(config, manifest.of, content, log) as fresh:
        with log.step(f"load into {fresh}"), pg.plain(config, path) as stream:
            load(pg.server(config), fresh, stream)
        _put(config, manifest.of, fresh, content, table, log)


def from_point(
    config: Config, databases: Sequence[str], target: scratch.Target, log: Log, table: str = ""
) -> None:
    """Restores databases as they were at a point: through a scratch server, then the same swap."""
    live = pg.server(config)
    with scratch.restored(config, target, log) as source:
        whole = scratch.whole(source, databases) or databases
        contents = {database: _content(source, database) for database in whole}
        # All of them are known to be there and to fit before the first is touched.
        _require_room(live, sum(content.bytes for content in contents.values()))
        for database, content in contents.items():
            with _beside(config, database, content, log) as fresh:
                with log.step(f"copy into {fresh}"):
                    _copy(source, database, live, fresh)
                _put(config, database, fresh, content, table, log)
    if left := [database for database in databases if database not in contents]:
        raise Failed(f"{', '.join(left)}: not whole at that point, so not restored; the others are")


def _content(source: Postgres, database: str) -> Content:
    with pg.connect(source, database, admin=True) as connection:
        described = pg.described(connection)
        return Content(described["owner"], described["database_bytes"], pg.row_counts(connection))


def _put(config: Config, database: str, fresh: str, content: Content, table: str, log: Log) -> None:
    live = pg.server(config)
    with log.step("row counts"):
        require_counts(live, fresh, content.rows)
    if table:
        _put_table(live, database, fresh, table, log)
    else:
        swap(live, database, fresh, log)


@contextlib.contextmanager
def _beside(config: Config, database: str, content: Content, log: Log) -> Iterator[str]:
    """An empty database beside the live one; dropped in the end unless it took its place."""
    live = pg.server(config)
    fresh = name_beside(database, "restore")
    _require_room(live, content.bytes)
    with pg.connect(live, "postgres", admin=True) as connection:
        _drop_leftovers(connection, database)
        create = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0")
        connection.execute(create.format(sql.Identifier(fresh), sql.Identifier(content.owner)))
    try:
        yield fresh
    except BaseException:
        if _exists(live, fresh):
            log.line(f"the live database {database} is as it was")
        raise
    finally:
        with (
            contextlib.suppress(Failed, psycopg.Error),
            pg.connect(live, "postgres", admin=True) as connection,
        ):
            _drop(connection, fresh)


def _exists(live: Postgres, database: str) -> bool:
    with contextlib.suppress(Failed, psycopg.Error), pg.connect(live, "postgres", admin=True) as c:
        row = c.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
        return row is not None
    return False


def _drop(connection: Any, database: str) -> None:
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )


def _drop_leftovers(connection: Any, database: str) -> None:
    """What a restore left that was killed; the lock of this job says that none is running."""
    pattern = re.escape(name_beside(database, "restore")[:-15]) + r"\d{8}_\d{6}"
    for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall():
        if re.fullmatch(pattern, name):
            _drop(connection, name)


def _require_room(live: Postgres, size: int) -> None:
    """A second copy of the data, and the WAL of writing it, must not fill the live server."""
    with pg.connect(live, "postgres", admin=True) as connection, connection.transaction():
        connection.execute("CREATE TEMP TABLE room (line text) ON COMMIT DROP")
        connection.execute("COPY room FROM PROGRAM 'df -Pk . | tail -n 1'")
        row = connection.execute(
            "SELECT line, pg_size_bytes(current_setting('max_wal_size')) FROM room"
        ).fetchone()
    assert row is not None
    free, needed = int(row[0].split()[-3]) << 10, int(size * 1.2) + row[1]
    if free < needed:
        raise Failed(
            f"PostgreSQL's disk has {free >> 20} MB free, and a second copy of the data beside "
            f"the live ones needs {needed >> 20} MB"
        )


# --- Content -------------------------------------------------------------------------------------


def load(live: Postgres, database: str, stream: IO[bytes] | Any, before: bytes = b"") -> None:
    """Feeds plain SQL to psql: all of it, or nothing is committed.

    Raises:
        Failed: psql or the decompression failed.
    """
    command = [
        live.binary("psql"),
        *("-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse"),
        *("-h", live.host, "-p", str(live.port), "-U", "postgres", "-d", database, "-f", "-"),
    ]
    environment = {"PGPASSWORD": live.admin_password, "PGOPTIONS": _NO_LIMITS}
    with program(command, environment, stdin=subprocess.PIPE) as psql:
        assert psql.process.stdin is not None
        # It ends early where a statement fails; what it says of that is the reason then.
        with contextlib.suppress(BrokenPipeError):
            _feed(psql.process.stdin, before, stream)
        psql.finish()


def _feed(psql: IO[bytes], before: bytes, stream: IO[bytes] | Any) -> None:
    # Not psql's own single transaction: that is committed when its input ends, even by kill -9.
    psql.write(b"BEGIN;\n" + before)
    while chunk := stream.read(1 << 20):
        psql.write(chunk)
    psql.write(b"\nCOMMIT;\n")
    psql.close()


def _copy(
    source: Postgres, database: str, live: Postgres, fresh: str, *options: str, before: bytes = b""
) -> None:
    command = [
        live.binary("pg_dump"),
        *("-h", source.host, "-p", str(source.port), "-U", "postgres", "-w", "-d", database),
        *options,
    ]
    with program(command, {"PGPASSWORD": source.admin_password}) as dump:
        load(live, fresh, _Whole(dump), before)


class _Whole:
    """The output of pg_dump; its end is the end only if pg_dump says so."""

    def __init__(self, dump: Program) -> None:
        self._dump = dump

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            Failed: pg_dump failed.
        """
        assert self._dump.process.stdout is not None
        chunk = self._dump.process.stdout.read(size)
        if not chunk:
            self._dump.finish()
        return chunk


def require_counts(live: Postgres, database: str, wanted: dict[str, int]) -> None:
    """Compares exact row counts.

    Raises:
        Failed: a table is missing, or has another number of rows.
    """
    with pg.connect(live, database, admin=True) as connection:
        now = pg.row_counts(connection)
    for table in sorted(set(wanted) | set(now)):
        if wanted.get(table) != now.get(table):
            raise Failed(f"{table}: {now.get(table)} rows, and the backup has {wanted.get(table)}")


# --- One table -----------------------------------------------------------------------------------


def _put_table(live: Postgres, database: str, fresh: str, table: str, log: Log) -> None:
    """Brings a table that is gone back to its place; beside one that is there, its content."""
    schema, name = _table(live, fresh, table)
    pattern = f"--table={quoted(schema)}.{quoted(name)}"
    if _table_or_none(live, database, f"{quoted(schema)}.{quoted(name)}") is None:
        with log.step(f"table {schema}.{name}"):
            _copy(live, fresh, live, database, pattern)
            _require_same(live, (fresh, schema), (database, schema), name)
        log.line(f"{schema}.{name} is back in {database}")
        return
    beside = f"restored_{stamp()}"
    with log.step(f"table {beside}.{name}"):
        with pg.connect(live, fresh, admin=True) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(beside)))
            connection.execute(
                sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                    sql.Identifier(schema, name), sql.Identifier(beside)
                )
            )
        # No keys and indexes: they could refer to what the live database does not have.
        sections = ("--section=pre-data", "--section=data")
        pattern = f"--table={quoted(beside)}.{quoted(name)}"
        create = f"CREATE SCHEMA {quoted(beside)};\n".encode()
        _copy(live, fresh, live, database, pattern, *sections, before=create)
        _require_same(live, (fresh, beside), (database, beside), name)
    log.line(f"{database} has its {schema}.{name} as before, and the backup's as {beside}.{name}")


def _require_same(live: Postgres, one: tuple[str, str], other: tuple[str, str], name: str) -> None:
    counts = [_count(live, database, schema, name) for database, schema in (one, other)]
    if counts[0] != counts[1]:
        raise Failed(f"{name}: {counts[1]} rows have arrived of {counts[0]}")


def _count(live: Postgres, database: str, schema: str, name: str) -> int:
    with pg.connect(live, database, admin=True) as connection:
        count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
        row = connection.execute(count).fetchone()
    return int(row[0]) if row else 0


def _table(live: Postgres, database: str, table: str) -> tuple[str, str]:
    found = _table_or_none(live, database, table)
    if found is None:
        raise Failed(
            f"the backup has no table {table!r}: write it as schema.table; of a partitioned table "
            "name the partitions"
        )
    return found


def _table_or_none(live: Postgres, database: str, table: str) -> tuple[str, str] | None:
    with pg.connect(live, database, admin=True) as connection:
        row = connection.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE c.oid = to_regclass(%s) AND relkind = 'r'",
            (table,),
        ).fetchone()
    return (row[0], row[1]) if row else None


# --- To scratch ----------------------------------------------------------------------------------


def dump_to_scratch(config: Config, given: str, log: Log) -> None:
    """Loads an artifact into a server of its own, which runs until a signal ends it."""
    with log.step("validation"):
        manifest = find(config, given)
    with scratch.empty(config, log, manifest.facts["database_bytes"]) as server:
        load_dump(config, server, manifest, manifest.of)
        require_counts(server, manifest.of, manifest.facts["rows"])
        _hold(server, manifest.of, log)


def load_dump(config: Config, server: Postgres, manifest: Manifest, database: str) -> None:
    """Loads an artifact into a new database of a scratch server, with the roles it needs."""
    directory = config.artifacts("postgres")
    for other in all_of(directory):
        if other.kind == "globals" and other.stamp == manifest.stamp:
            pg.verify(config, other)
            with pg.plain(config, other.path(directory)) as stream:
                _create_roles(server, stream.read())
    with pg.connect(server, "postgres", admin=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
        connection.execute(create.format(sql.Identifier(database)))
    with pg.plain(config, manifest.path(directory)) as stream:
        load(server, database, stream)


def _create_roles(server: Postgres, globals_: bytes) -> None:
    with pg.connect(server, "postgres", admin=True) as connection:
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for line in globals_.decode().splitlines():
        if line.startswith("CREATE ROLE ") and line[12:].rstrip(";").strip('"') not in there:
            load(server, "postgres", io.BytesIO(line.encode()))


def point_to_scratch(config: Config, database: str, target: scratch.Target, log: Log) -> None:
    """Restores the whole cluster to a server of its own, which runs until a signal ends it."""
    with scratch.restored(config, target, log) as server:
        _hold(server, database, log)


def _hold(server: Postgres, database: str, log: Log) -> None:
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    print(f"psql -h {server.host} -p {server.port} -U postgres {database}", flush=True)
    log.line("the scratch server runs until Ctrl-C, and is then removed")
    signal.sigwait(ends)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
