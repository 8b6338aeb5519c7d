"""Restoring PostgreSQL: beside the live database, verified, then swapped while clients wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from psycopg import sql

from backup import postgres as pg
from backup import scratch
from backup.config import Config, Endpoint, Postgres
from backup.job import Failed, Log, stamp
from backup.manifest import SUFFIX, Manifest, all_of

# How long PgBouncer may take to let running transactions finish before the swap is given up.
PAUSE_SECONDS = 30


def find(config: Config, given: str) -> Manifest:
    """The manifest of an artifact named by its path, after every check that needs no restoring.

    Raises:
        Failed: it is not an artifact of this estate, or a check failed; the message says which.
    """
    path = Path(given)
    directory = config.artifacts("postgres").resolve()
    if not path.exists():
        raise Failed(f"{given}: no such file")
    resolved = path.resolve()
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


def from_dump(config: Config, given: str, log: Log) -> str:
    """Restores a database from its plain SQL; returns the name the old one is kept under.

    Raises:
        Failed: before the swap, and then the live database is as it was.
    """
    with log.step("validation"):
        manifest = find(config, given)
    live, database = pg.server(config), manifest.of
    with _beside(live, database, log) as fresh:
        path = manifest.path(config.artifacts("postgres"))
        with log.step(f"load into {fresh}"), pg.plain(config, path) as stream:
            load(config, live, fresh, stream)
        with log.step("row counts"):
            require_counts(live, fresh, manifest.facts["rows"])
        return _swap(live, database, fresh, log)


def from_point(config: Config, database: str, target: scratch.Target, log: Log) -> str:
    """Restores a database as it was at a point: through a scratch server, then the same swap."""
    live = pg.server(config)
    if database not in live.databases:
        raise Failed(f"database {database!r} is not of this estate")
    with scratch.restored(config, target, log) as source, _beside(live, database, log) as fresh:
        with log.step(f"copy into {fresh}"):
            _copy(config, source, live, database, fresh)
        with log.step("row counts"), pg.connect(source, database, admin=True) as connection:
            require_counts(live, fresh, pg.row_counts(connection))
        return _swap(live, database, fresh, log)


@contextlib.contextmanager
def _beside(live: Postgres, database: str, log: Log) -> Iterator[str]:
    """An empty database with the owner of the live one; dropped again if anything fails."""
    fresh = f"{database}_restore_{stamp()}"
    with pg.connect(live, "postgres", admin=True) as connection:
        row = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (database,)
        ).fetchone()
        owner = row[0] if row else "postgres"
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(
                sql.Identifier(fresh), sql.Identifier(owner)
            )
        )
    try:
        yield fresh
    except BaseException:
        log.line(f"the live database {database} is as it was; {fresh} is dropped")
        with contextlib.suppress(Failed), pg.connect(live, "postgres", admin=True) as connection:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(fresh)))
        raise


def load(config: Config, live: Postgres, database: str, stream: IO[bytes] | Any) -> None:
    """Feeds plain SQL to psql: all of it, or nothing is committed.

    Raises:
        Failed: psql or the decompression failed.
    """
    command = [
        f"/usr/lib/postgresql/{live.version}/bin/psql",
        *("-XAtq", "-w", "-1", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse"),
        *("-h", live.host, "-p", str(live.port), "-U", "postgres", "-d", database, "-f", "-"),
    ]
    environment = {**os.environ, "PGPASSWORD": live.admin_password, "PGOPTIONS": _NO_LIMITS}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
    ) as psql:
        assert psql.stdin is not None and psql.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            while chunk := stream.read(1 << 20):
                psql.stdin.write(chunk)
            psql.stdin.close()
        said = psql.stderr.read().decode(errors="replace").strip()
        if psql.wait():
            raise Failed(f"psql: {said.splitlines()[0] if said else 'failed'}")


_NO_LIMITS = "-c statement_timeout=0 -c lock_timeout=0 -c client_min_messages=warning"


def _copy(config: Config, source: Postgres, live: Postgres, database: str, fresh: str) -> None:
    command = [
        f"/usr/lib/postgresql/{live.version}/bin/pg_dump",
        *("-h", source.host, "-p", str(source.port), "-U", "postgres", "-w", "-d", database),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/") as dump:
        assert dump.stdout is not None and dump.stderr is not None
        load(config, live, fresh, dump.stdout)
        said = dump.stderr.read().decode(errors="replace").strip()
        if dump.wait():
            raise Failed(f"pg_dump: {said.splitlines()[-1] if said else 'failed'}")


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


# --- The swap ------------------------------------------------------------------------------------


def _swap(live: Postgres, database: str, fresh: str, log: Log) -> str:
    """Renames both in one transaction while PgBouncer holds the clients back."""
    kept = f"{database}_before_{stamp()}"
    with log.step("settings and grants of the database"):
        _carry_over(live, database, fresh)
    with log.step("swap"), paused(live, database):
        _rename(live, database, fresh, kept)
    log.line(f"{database} is restored; what it was is kept as {kept} until you drop it")
    return kept


def _rename(live: Postgres, database: str, fresh: str, kept: str) -> None:
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with pg.connect(live, "postgres", admin=True) as connection, connection.transaction():
        exists = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (database,)
        ).fetchone()
        # Both need to be free of sessions: the pool's idle ones, and direct ones.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = ANY(%s) AND pid <> pg_backend_pid()",
            ([database, fresh],),
        )
        if exists:
            connection.execute(rename.format(sql.Identifier(database), sql.Identifier(kept)))
        connection.execute(rename.format(sql.Identifier(fresh), sql.Identifier(database)))


def _carry_over(live: Postgres, database: str, fresh: str) -> None:
    """What belongs to the database and not to its content: settings and privileges."""
    with pg.connect(live, "postgres", admin=True) as connection:
        settings = connection.execute(
            "SELECT setrole, unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d"
            " ON d.oid = s.setdatabase WHERE datname = %s AND setrole = 0",
            (database,),
        ).fetchall()
        for _, setting in settings:
            key, value = setting.split("=", 1)
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(fresh), sql.SQL(key), sql.Literal(value)
                )
            )
        grants = connection.execute(
            "SELECT pg_get_userbyid(grantee), privilege_type FROM pg_database,"
            " aclexplode(datacl) WHERE datname = %s AND grantee <> 0",
            (database,),
        ).fetchall()
        for role, privilege in grants:
            connection.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
                    sql.SQL(privilege), sql.Identifier(fresh), sql.Identifier(role)
                )
            )


@contextlib.contextmanager
def paused(live: Postgres, database: str) -> Iterator[None]:
    """Clients of the poolers wait; they go on whatever happens, even when we are killed.

    Raises:
        Failed: running transactions did not end within `PAUSE_SECONDS`.
    """
    with contextlib.ExitStack() as stack:
        for pooler in live.poolers:
            stack.enter_context(_paused(live, pooler, database))
        yield


@contextlib.contextmanager
def _paused(live: Postgres, pooler: Endpoint, database: str) -> Iterator[None]:
    # A child that outlives us: when its pipe closes, however we end, it resumes the database.
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ,
            "PGPASSWORD": live.admin_password,
            "PGHOST": pooler.host,
            "PGPORT": str(pooler.port),
            "PGUSER": "postgres",
            "PGDATABASE": "pgbouncer",
            "DATABASE": database,
        },
    )
    try:
        command(live, pooler, f"PAUSE {_quoted(database)}", PAUSE_SECONDS)
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
    if guard.returncode:
        raise Failed(f"PgBouncer at {pooler} did not take RESUME {database}: give it by hand")


_GUARD = """
import os, subprocess, sys
sys.stdin.buffer.read()
query = 'RESUME "%s"' % os.environ["DATABASE"]
done = subprocess.run(["psql", "-XAtqw", "-c", query], capture_output=True, text=True)
sys.exit(0 if done.returncode == 0 or "not paused" in done.stderr else 1)
"""


def command(live: Postgres, pooler: Endpoint, statement: str, seconds: float) -> None:
    """Gives PgBouncer's console a command.

    Raises:
        Failed: it refused, or did not finish within `seconds`.
    """
    try:
        done = subprocess.run(
            ["psql", "-XAtqw", "-h", pooler.host, "-p", str(pooler.port), "-U", "postgres",
             "-d", "pgbouncer", "-c", statement],
            env={**os.environ, "PGPASSWORD": live.admin_password},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"PgBouncer at {pooler}: {statement} took more than {seconds:.0f} s") from None
    if done.returncode:
        raise Failed(f"PgBouncer at {pooler}: {done.stderr.strip()}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def target_of(config: Config, *, time: str = "", incremental: str = "") -> scratch.Target:
    """The recovery target for a moment or for a named incremental backup.

    Raises:
        Failed: no backup reaches it.
    """
    if incremental:
        for manifest in all_of(config.artifacts("postgres")):
            if manifest.name == incremental:
                facts = manifest.facts
                return scratch.Target(facts["label"], name=facts["restore_point"])
        raise Failed(f"there is no incremental backup {incremental!r}: see backup.sh list")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise Failed(f"{time!r} is not a moment: write it as 2026-11-22T14:03:00+00:00") from None
    if moment.tzinfo is None:
        raise Failed(f"{time!r} has no zone: add +00:00 for UTC, or another one")
    fulls = [m for m in all_of(config.artifacts("postgres")) if m.kind == "full"]
    earlier = [m for m in fulls if datetime.fromisoformat(m.ended) <= moment]
    if not earlier:
        raise Failed(f"no full backup ended before {time}")
    return scratch.Target(earlier[-1].facts["label"], time=moment.isoformat(sep=" "))
