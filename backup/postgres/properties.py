"""What a database has beside its content: read, given to a new one, and named where that fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql

from backup.config import Postgres
from backup.job import Log
from backup.postgres.session import Connection, connect

# What CREATE DATABASE takes, by the column of pg_database that has it; some are of newer releases.
_LOCALE_COLUMNS = {"daticulocale": "icu", "datlocale": "icu", "daticurules": "icu_rules"}
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_PRIVILEGES = {"CREATE", "CONNECT", "TEMPORARY"}
# Settings that hold a list of names, each quoted on its own where it has to be.
LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}

Properties = Mapping[str, Any]


def read(connection: Connection) -> dict[str, Any]:
    """The properties of a connection's database, as a manifest keeps them."""
    row = connection.execute(
        "SELECT to_jsonb(d) || jsonb_build_object("
        "  'encoding', pg_encoding_to_char(encoding), 'tablespace', spcname,"
        "  'comment', shobj_description(d.oid, 'pg_database'),"
        "  'labels', (SELECT jsonb_object_agg(provider, label) FROM pg_shseclabel"
        "   WHERE objoid = d.oid AND classoid = 'pg_database'::regclass),"
        "  'settings', (SELECT jsonb_agg(jsonb_build_array("
        "   CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) END, item))"
        "   FROM pg_db_role_setting, unnest(setconfig) AS item WHERE setdatabase = d.oid),"
        "  'privileges', (SELECT jsonb_agg(jsonb_build_array("
        "   CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END,"
        "   privilege_type, is_grantable))"
        "   FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))))"
        " FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace"
        " WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    raw: dict[str, Any] = row[0]
    kept = {name: raw[key] for key, name in _LOCALE_COLUMNS.items() if raw.get(key)}
    return {
        "encoding": raw["encoding"],
        "provider": _PROVIDERS.get(raw["datlocprovider"], raw["datlocprovider"]),
        "collate": raw["datcollate"],
        "ctype": raw["datctype"],
        **kept,
        "tablespace": raw["tablespace"],
        "limit": raw["datconnlimit"],
        "comment": raw["comment"],
        "labels": raw["labels"] or {},
        "settings": raw["settings"] or [],
        "privileges": raw["privileges"] or [],
    }


def not_in_dump(connection: Connection) -> list[str]:
    """What the backup role may not read, so that its dump does not have it."""
    rows = connection.execute(
        "SELECT 'subscription ' || subname FROM pg_subscription s JOIN pg_database d"
        " ON d.oid = subdbid WHERE datname = current_database()"
        " UNION ALL SELECT 'options of the user mapping for ' || usename || ' on ' || srvname"
        " FROM pg_user_mappings"
    ).fetchall()
    return [what for (what,) in rows]


def create(connection: Connection, name: str, owner: str, wanted: Properties, log: Log) -> None:
    """An empty database that no one else may enter, as like the original as the server can."""
    for choice in _choices(wanted, log):
        try:
            connection.execute(_create(name, owner, choice))
            break
        except psycopg.errors.DuplicateDatabase:
            raise
        except psycopg.Error as error:
            if not choice:
                raise
            log.line(f"not as it was: {error.diag.message_primary}")
    statement = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name))
    connection.execute(statement)


def _choices(wanted: Properties, log: Log) -> Iterator[Properties]:
    """What to try: everything, all but the tablespace, the server's own."""
    if wanted:
        yield wanted
        if wanted["tablespace"] != "pg_default":
            yield {**wanted, "tablespace": "pg_default"}
    else:
        log.line("the backup does not say the encoding and locale: they are the server's own")
    yield {}


def _create(name: str, owner: str, wanted: Properties) -> sql.Composed:
    statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(
        sql.Identifier(name), sql.Identifier(owner)
    )
    if not wanted:
        return statement
    options = {
        "ENCODING": wanted["encoding"],
        "LOCALE_PROVIDER": wanted["provider"],
        "LC_COLLATE": wanted["collate"],
        "LC_CTYPE": wanted["ctype"],
    }
    if wanted["provider"] != "libc":
        key = "ICU_LOCALE" if wanted["provider"] == "icu" else "BUILTIN_LOCALE"
        options |= {key: wanted["icu"]}
        if "icu_rules" in wanted:
            options["ICU_RULES"] = wanted["icu_rules"]
    words = [sql.SQL("{} {}").format(sql.SQL(k), sql.Literal(v)) for k, v in options.items()]
    words.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(wanted["tablespace"])))
    return sql.SQL(" ").join([statement, *words])


def give(server: Postgres, database: str, fresh: str, backup: Properties, log: Log) -> None:
    """Limit, comment, labels, settings and privileges: the live database's, else the backup's."""
    with connect(server, "postgres", admin=True) as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (database,)
        ).fetchone()
    live: Properties = {}
    if row:
        with connect(server, database, admin=True) as connection:
            live = read(connection)
    # A database that was only just made has none of these, whatever its settings are.
    unset = {key for key in ("limit", "comment", "labels") if live.get(key) in (None, -1, {})}
    wanted = {**backup, **{key: value for key, value in live.items() if key not in unset}}
    if not wanted:
        wanted = {"privileges": [[None, "CONNECT", False], [None, "TEMPORARY", False]]}
    with connect(server, "postgres", admin=True) as connection:
        for what, statement in _statements(connection, fresh, wanted):
            try:
                connection.execute(statement)
            except psycopg.Error as error:
                log.line(f"not restored: {what} of {database}: {error.diag.message_primary}")


def _statements(
    connection: Connection, fresh: str, wanted: Properties
) -> Iterator[tuple[str, sql.Composed]]:
    name = sql.Identifier(fresh)
    if wanted.get("limit", -1) > 0:
        text = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
        yield "connection limit", text.format(name, sql.Literal(wanted["limit"]))
    if wanted.get("comment"):
        text = sql.SQL("COMMENT ON DATABASE {} IS {}")
        yield "comment", text.format(name, sql.Literal(wanted["comment"]))
    for provider, label in wanted.get("labels", {}).items():
        text = sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}")
        yield "security label", text.format(sql.Identifier(provider), name, sql.Literal(label))
    for role, item in wanted.get("settings", []):
        key, _, value = item.partition("=")
        yield f"setting {key}", _setting(name, role, key, value)
    yield from _privileges(connection, fresh, wanted.get("privileges", []))


def _setting(name: sql.Identifier, role: str | None, key: str, value: str) -> sql.Composed:
    whose = sql.SQL("ROLE {} IN ").format(sql.Identifier(role)) if role else sql.SQL("")
    parts = sql.Identifier(*key.split("."))
    values = elements(value) if key.lower() in LISTS else [value]
    return sql.SQL("ALTER {}DATABASE {} SET {} TO {}").format(
        whose, name, parts, sql.SQL(", ").join(map(sql.Literal, values))
    )


def elements(value: str) -> list[str]:
    """The names in a list as the server keeps it: each is quoted or not, commas between."""
    names, at, end = [], 0, len(value)
    while at < end:
        quote = value[at] == '"'
        stop = at + 1 if quote else at
        while stop < end and (value[stop] != '"' if quote else value[stop] != ","):
            stop += 1
            if quote and value[stop : stop + 2] == '""':
                stop += 2
        name = value[at + 1 : stop].replace('""', '"') if quote else value[at:stop].strip().lower()
        names.append(name)
        at = stop + 1 if quote else stop
        while at < end and value[at] in ", ":
            at += 1
    return names or [""]


def _privileges(
    connection: Connection, fresh: str, wanted: list[tuple[str | None, str, bool]]
) -> Iterator[tuple[str, sql.Composed]]:
    name = sql.Identifier(fresh)
    there = connection.execute(
        "SELECT DISTINCT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END"
        " FROM pg_database, aclexplode(datacl) WHERE datname = %s",
        (fresh,),
    ).fetchall()
    for (role,) in there:
        yield "privileges", sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(name, _who(role))
    for role, privilege, grantable in wanted:
        if privilege in _PRIVILEGES:
            option = sql.SQL(" WITH GRANT OPTION" if grantable and role else "")
            text = sql.SQL("GRANT {} ON DATABASE {} TO {}{}")
            words = sql.SQL(privilege)
            yield f"privilege {privilege}", text.format(words, name, _who(role), option)


def _who(role: str | None) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL("PUBLIC")


def subscriptions(connection: Connection, database: str) -> list[str]:
    """Their names, which any database of the server knows."""
    rows = connection.execute(
        "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid"
        " WHERE datname = %s",
        (database,),
    ).fetchall()
    return [name for (name,) in rows]


def left_behind(connection: Connection, kept: str) -> Iterator[str]:
    """What stays with the old copy of a database, a line each."""
    for name in subscriptions(connection, kept):
        yield (
            f"subscription {name} stays with {kept}, which is dropped only without it: there "
            "ALTER SUBSCRIPTION ... DISABLE, SET (slot_name = NONE), DROP SUBSCRIPTION; then "
            "ENABLE the restored one, if there is one"
        )
    rows = connection.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s", (kept,)
    ).fetchall()
    for (slot,) in rows:
        yield (
            f"replication slot {slot} stays with {kept} and keeps WAL: make one in the restored "
            f"database, then SELECT pg_drop_replication_slot('{slot}')"
        )
