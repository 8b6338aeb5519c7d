"""Restoring PostgreSQL: beside the live database, verified, then swapped while clients wait."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from backup import crypt
from backup.ahead import ahead
from backup.config import Config, Postgres
from backup.job import Failed, Log, Program, program, stamp
from backup.manifest import SUFFIX, Manifest, all_of
from backup.moment import moment_of
from backup.postgres import backups as pg
from backup.postgres import locales, properties, repository, scratch
from backup.postgres.load import Admission, Opener, anything, load, nothing, same_as, sweep
from backup.postgres.properties import Properties
from backup.postgres.script import Script, Stream
from backup.postgres.session import Connection, quoted, tool
from backup.postgres.swap import name_beside, swap


@dataclass(frozen=True)
class Content:
    """What a database has to be after it was restored; bytes on the server's disk.

    Attributes:
        rows: of a dump; those of a copy are compared while it is made.
    """

    owner: str
    bytes: int
    rows: dict[str, int]
    properties: Properties
    unlogged: tuple[tuple[str, str], ...] = ()


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
    # That it unpacks, and ends as it should, is found when it is read before it is loaded.
    manifest.require_whole(directory)
    return manifest


def _resolved(path: Path) -> Path:
    """Where a path leads; a LATEST link has to say one thing only."""
    path = crypt.named(path)
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
    moment = moment_of(time)
    log.line(f"the moment is {moment.isoformat(timespec='seconds')}")
    known = {m.facts.get("label") for m in all_of(config.artifacts("postgres"))}
    earlier = [
        backup
        for backup in repository.backups(config)
        if backup.label in known and backup.ended <= moment.timestamp()
    ]
    leading = repository.on_history(config, earlier, timeline)
    if not leading:
        raise Failed(f"no backup ended before {time}: see backup.sh list")
    try:
        pg.archive_now(config)
    except Failed as failure:
        log.line(f"only what is archived already can be restored: {failure}")
    return scratch.Target(leading[-1].label, time=moment.isoformat(sep=" "), timeline=timeline)


# --- Restore -------------------------------------------------------------------------------------


def from_dump(config: Config, given: str, log: Log, table: str = "") -> None:
    """Restores a database, or one table of it, from its plain SQL.

    Raises:
        Failed: before the swap, and then the live database is as it was.
    """
    with log.step("validation"):
        manifest = find(config, given)
    # Manifests of the first release say nothing of properties.
    known = manifest.facts.get("properties", {})
    owner, size, rows = (manifest.facts[key] for key in ("owner", "database_bytes", "rows"))
    content = Content(owner, size, rows, known)
    with _beside(config, manifest.of, content, log) as fresh:
        with log.step(f"load into {fresh}"):
            known = _same_as_live(pg.server(config), manifest.of)
            dump = _dumped(config, manifest)
            counts = load(pg.server(config), fresh, dump, log, admits=known)
        with log.step("row counts"):
            require_counts(pg.server(config), fresh, counts, content.rows)
        _put(config, manifest.of, fresh, content, table, log)
    for what in [] if table else manifest.facts.get("not_in_dump", []):
        log.line(f"not restored: {what}: a dump does not have it; --time and --incremental do")


def from_point(
    config: Config, databases: Sequence[str], target: scratch.Target, log: Log, table: str = ""
) -> None:
    """Restores databases as they were at a point: through a scratch server, then the same swap."""
    live = pg.server(config)
    with scratch.restored(config, target, log) as source:
        whole = scratch.whole(source, databases) or databases
        locales.require(config, source, whole)
        contents = {database: _content(source, database) for database in whole}
        # All of them are known to be there and to fit before the first is touched.
        _require_room(live, sum(content.bytes for content in contents.values()))
        for database, content in contents.items():
            if table and _table(source, database, table) in content.unlogged:
                raise Failed(f"{table} is unlogged: a dump has its rows, a moment does not")
            for schema, name in [] if table else content.unlogged:
                log.line(f"not restored: {schema}.{name}: it is unlogged, so WAL does not have it")
            with _beside(config, database, content, log) as fresh:
                with log.step(f"copy into {fresh}"):
                    dump = _dump_of(source, database, admin=True)
                    # Its catalog is ours: it comes from the physical backup.
                    load(live, fresh, dump, log, admits=same_as(dump))
                _put(config, database, fresh, content, table, log)
    if left := [database for database in databases if database not in contents]:
        raise Failed(f"{', '.join(left)}: not whole at that point, so not restored; the others are")


def _content(source: Postgres, database: str) -> Content:
    with pg.connect(source, database, admin=True) as connection:
        described = pg.described(connection)
        owner, size = described["owner"], described["database_bytes"]
        unlogged = connection.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relpersistence = 'u' AND relkind IN ('r', 'S') ORDER BY 1, 2"
        ).fetchall()
        return Content(owner, size, {}, described["properties"], tuple(unlogged))


def _put(config: Config, database: str, fresh: str, content: Content, table: str, log: Log) -> None:
    live = pg.server(config)
    if table:
        _put_table(live, database, fresh, table, log)
        return
    with log.step("statistics"), pg.connect(live, fresh, admin=True) as connection:
        tables = connection.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'm', 'p') AND relpersistence <> 't' AND nspname <> 'pg_toast'"
        ).fetchall()
        _analyze(connection, tables, log)
    swap(live, database, fresh, content.properties, log)


def _analyze(connection: Connection, tables: Sequence[tuple[str, ...]], log: Log) -> None:
    """One by one: a foreign partition, or an owner's function in an index, fails its own only."""
    for table in tables:
        try:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*table)))
        except psycopg.Error as error:
            log.line(f"no statistics: {'.'.join(table)}: {error.diag.message_primary}")


@contextlib.contextmanager
def _beside(config: Config, database: str, content: Content, log: Log) -> Iterator[str]:
    """An empty database beside the live one; dropped in the end unless it took its place."""
    live = pg.server(config)
    fresh = name_beside(database, "restore")
    _require_room(live, content.bytes)
    with pg.connect(live, "postgres", admin=True) as connection:
        _drop_leftovers(live, connection, database)
        sweep(live, log)
        like = content.properties
        if not like and _exists(live, database):
            with pg.connect(live, database, admin=True) as other:
                like = properties.read(other)
        properties.create(connection, fresh, content.owner, like, log)
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
            _drop(live, connection, fresh)


def _exists(live: Postgres, database: str) -> bool:
    with contextlib.suppress(Failed, psycopg.Error), pg.connect(live, "postgres", admin=True) as c:
        row = c.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
        return row is not None
    return False


def _drop(live: Postgres, connection: Connection, database: str) -> None:
    """Drops a database of ours; its subscriptions first, whose slots belong to the live ones."""
    if names := properties.subscriptions(connection, database):
        with pg.connect(live, database, admin=True) as inside:
            for name in names:
                for verb in ("ALTER {} DISABLE", "ALTER {} SET (slot_name = NONE)", "DROP {}"):
                    named = sql.SQL("SUBSCRIPTION {}").format(sql.Identifier(name))
                    inside.execute(sql.SQL(verb).format(named))
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )


def _drop_leftovers(live: Postgres, connection: Connection, database: str) -> None:
    """What a restore left that was killed; the lock of this job says that none is running."""
    pattern = re.escape(name_beside(database, "restore")[:-15]) + r"\d{8}_\d{6}"
    for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall():
        if re.fullmatch(pattern, name):
            _drop(live, connection, name)


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


def _dumped(config: Config, manifest: Manifest) -> Opener:
    """The SQL of an artifact."""

    @contextlib.contextmanager
    def opened(_: bool) -> Iterator[Stream]:
        path = manifest.path(config.artifacts("postgres"))
        with pg.whole(config, manifest.kind, path) as stream, ahead(stream) as early:
            yield early

    return opened


def _same_as_live(live: Postgres, database: str) -> Admission:
    """What the live database has already; a dump by itself is not believed that far."""
    there = _exists(live, database)
    return same_as(_dump_of(live, database, admin=False)) if there else nothing


def _dump_of(source: Postgres, database: str, *options: str, admin: bool) -> Opener:
    """What pg_dump writes of a database."""

    @contextlib.contextmanager
    def opened(outline: bool) -> Iterator[_Whole]:
        command, environment = tool(source, "pg_dump", database, admin=admin)
        command += [*options, *(["--schema-only"] if outline else [])]
        with program(command, environment, user=repository.USER) as dump:
            yield _Whole(dump)

    return opened


class _Whole:
    """The output of pg_dump; its end is the end only if pg_dump says so."""

    def __init__(self, dump: Program) -> None:
        self._dump = dump

    def read(self, size: int, /) -> bytes:
        """The next bytes.

        Raises:
            Failed: pg_dump failed.
        """
        assert self._dump.process.stdout is not None
        chunk = self._dump.process.stdout.read(size)
        if not chunk:
            self._dump.finish()
        return chunk


def require_counts(
    server: Postgres, database: str, counts: dict[str, int], wanted: dict[str, int]
) -> None:
    """Compares exact row counts.

    Raises:
        Failed: a table is missing, or has another number of rows.
    """
    with pg.connect(server, database, admin=True) as connection:
        # A dump has no rows of partitioned tables, of extensions, and of partitions that are
        # loaded through their root, which old manifests count.
        others = {
            name
            for (name,) in connection.execute(_NOT_COUNTED, (list(counts),)).fetchall()
            if name not in wanted or name not in counts
        }
    for table in sorted((set(wanted) | set(counts)) - others):
        if wanted.get(table) != counts.get(table):
            raise Failed(
                f"{table}: {counts.get(table)} rows, and the backup has {wanted.get(table)}"
            )


_NOT_COUNTED = """
SELECT format('%%I.%%I', nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'p' OR EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND deptype = 'e')
  OR EXISTS (SELECT FROM pg_partition_ancestors(c.oid) a JOIN pg_class p ON p.oid = a.relid
    JOIN pg_namespace s ON s.oid = p.relnamespace
    WHERE p.oid <> c.oid AND format('%%I.%%I', s.nspname, p.relname) = ANY(%s))
"""


# --- One table -----------------------------------------------------------------------------------


def _put_table(live: Postgres, database: str, fresh: str, table: str, log: Log) -> None:
    """Brings a table that is gone back to its place; beside one that is there, its content.

    It is loaded into a schema of its own, which a kill leaves behind: it can be dropped.
    """
    schema, name = _table(live, fresh, table)
    gone = _table_or_none(live, database, f"{quoted(schema)}.{quoted(name)}") is None
    relatives = _relatives(live, fresh, schema, name)
    beside = f"restored_{stamp()}"
    with log.step(f"table {beside}.{name}"), _schema(live, (fresh, database), beside):
        if not gone:
            _set_free(live, fresh, (schema, name))
        _move(live, fresh, name, schema, beside)
        # Beside another one no keys and indexes: they could refer to what the database lacks.
        sections = () if gone else ("--section=pre-data", "--section=data")
        pattern = f"--table={quoted(beside)}.{quoted(name)}"
        dump = _dump_of(live, fresh, pattern, *sections, admin=False)
        schemas = [quoted(beside), quoted(schema)]
        load(live, database, dump, log, schemas, admits=nothing)
    if not gone:
        log.line(f"{database} has its {schema}.{name} as before, the backup's as {beside}.{name}")
        return
    _move(live, database, name, beside, schema)
    with pg.connect(live, database, admin=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(beside)))
        _analyze(connection, [(schema, name)], log)
    log.line(f"{schema}.{name} is back in {database}")
    back = _relatives(live, database, schema, name)
    for what in relatives.keys() - back.keys():
        log.line(f"not restored: {what}: {relatives[what]}")


@contextlib.contextmanager
def _schema(live: Postgres, databases: tuple[str, str], name: str) -> Iterator[None]:
    """A schema in two databases; what fails leaves it in neither."""
    fresh, database = databases
    for each in databases:
        with pg.connect(live, each, admin=True) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            if each == fresh:
                enter = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
                connection.execute(enter.format(sql.Identifier(fresh), sql.Identifier(live.user)))
    try:
        yield
    except BaseException:
        with pg.connect(live, database, admin=True) as connection:
            drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE")
            connection.execute(drop.format(sql.Identifier(name)))
        raise


def _set_free(live: Postgres, fresh: str, table: tuple[str, str]) -> None:
    """Beside the one that is there it is no partition and no child: rows would count twice."""
    with pg.connect(live, fresh, admin=True) as connection:
        rows = connection.execute(
            "SELECT format(CASE WHEN c.relispartition THEN 'ALTER TABLE %%s DETACH PARTITION %%s'"
            "  ELSE 'ALTER TABLE %%2$s NO INHERIT %%1$s' END,"
            "  inhparent::regclass, inhrelid::regclass)"
            " FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND relname = %s",
            table,
        ).fetchall()
        for (statement,) in rows:
            connection.execute(statement.encode())


def _move(live: Postgres, database: str, name: str, schema: str, to: str) -> None:
    with pg.connect(live, database, admin=True) as connection:
        move = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
        connection.execute(move.format(sql.Identifier(schema, name), sql.Identifier(to)))


def _relatives(live: Postgres, database: str, schema: str, name: str) -> dict[str, str]:
    """What other things have of a table, each with the way to make it again."""
    with pg.connect(live, database, admin=True) as connection:
        found = connection.execute(_RELATIVES, {"schema": schema, "name": name}).fetchall()
    return {what: statement for what, statement in found}


_RELATIVES = """
WITH it AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = %(schema)s AND relname = %(name)s)
SELECT format('foreign key %%I of %%s', conname, conrelid::regclass),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
              pg_get_constraintdef(k.oid))
FROM pg_constraint k WHERE contype = 'f' AND confrelid IN (SELECT oid FROM it)
  AND conrelid <> confrelid AND conparentid = 0
UNION ALL
SELECT DISTINCT format('view %%s', v.oid::regclass), 'make it again, with what is made of it'
FROM pg_depend d JOIN pg_rewrite r ON r.oid = objid AND classid = 'pg_rewrite'::regclass
JOIN pg_class v ON v.oid = ev_class
WHERE refclassid = 'pg_class'::regclass AND refobjid IN (SELECT oid FROM it)
  AND v.oid <> refobjid
UNION ALL
SELECT format('publication %%I', pubname),
       format('ALTER PUBLICATION %%I ADD TABLE %%I.%%I', pubname, %(schema)s::text, %(name)s::text)
FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
WHERE prrelid IN (SELECT oid FROM it)
UNION ALL
SELECT format('child %%s', inhrelid::regclass), 'it inherits from nothing now'
FROM pg_inherits WHERE inhparent IN (SELECT oid FROM it)
UNION ALL
SELECT format('statistics %%I', stxname), pg_get_statisticsobjdef(oid)
FROM pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM it)
UNION ALL
SELECT pg_describe_object(classid, objid, objsubid), 'make it again'
FROM pg_depend d JOIN pg_type t ON t.oid = refobjid AND refclassid = 'pg_type'::regclass
WHERE typrelid IN (SELECT oid FROM it) AND classid = 'pg_proc'::regclass
"""


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
        load_dump(config, server, manifest, manifest.of, log)
        _hold(server, manifest.of, log)


def load_dump(
    config: Config, server: Postgres, manifest: Manifest, database: str, log: Log
) -> None:
    """Loads an artifact into a new database of a scratch server, with the roles it needs.

    Raises:
        Failed: it does not load, or has other row counts than its manifest says.
    """
    directory = config.artifacts("postgres")
    for other in all_of(directory):
        if other.kind == "globals" and other.stamp == manifest.stamp:
            pg.verify(config, other)
            with pg.plain(config, other.path(directory)) as stream:
                _create_roles(server, stream)
    with pg.connect(server, "postgres", admin=True) as connection:
        known = manifest.facts.get("properties", {})
        properties.create(connection, database, manifest.facts["owner"], known, log)
    counts = load(server, database, _dumped(config, manifest), log, admits=anything)
    require_counts(server, database, counts, manifest.facts["rows"])


def _create_roles(server: Postgres, globals_: Stream) -> None:
    """The names of the roles, none of which may log in or do anything else."""
    with pg.connect(server, "postgres", admin=True) as connection:
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for statement in Script(globals_):
            role = statement.text[len(b"CREATE ROLE ") :].decode().strip()
            name = role[1:-1].replace('""', '"') if role.startswith('"') else role
            if statement.starts("CREATE", "ROLE") and name not in there:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))


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
