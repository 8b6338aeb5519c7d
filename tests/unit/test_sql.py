"""Roles, databases and grants: what is compared, what is changed, and what is never shown."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg.sql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq

from tasks.core.remote import PATHS, Unreadable
from tasks.postgres import rights, sql
from tasks.postgres.sql import Database, Role, Server

DATA = "/var/lib/postgresql/17/main"
PASSWORD = "correct-horse-battery"

# --- SCRAM verifiers -----------------------------------------------------------------------------

# The exchange of RFC 7677, section 3: user 'user', password 'pencil'.
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_MESSAGE = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO"
    b",r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    b",c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)
RFC_PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
RFC_SERVER_SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)


def by_hand(password: str, salt: bytes, iterations: int) -> str:
    """A verifier made without `hashlib.pbkdf2_hmac`: RFC 5802's Hi(), in a loop."""
    block = hmac.new(password.encode(), salt + b"\0\0\0\1", "sha256").digest()
    salted = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = hmac.new(password.encode(), block, "sha256").digest()
        salted ^= int.from_bytes(block, "big")
    key = salted.to_bytes(32, "big")
    client = hmac.new(key, b"Client Key", "sha256").digest()
    stored = base64.b64encode(hashlib.sha256(client).digest()).decode()
    server = base64.b64encode(hmac.new(key, b"Server Key", "sha256").digest()).decode()
    return f"SCRAM-SHA-256${iterations}:{base64.b64encode(salt).decode()}${stored}:{server}"


def by_libpq(password: str) -> str:
    """A verifier of PostgreSQL's own client library, with a salt of its choice."""
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    return connection.encrypt_password(password.encode(), b"app", b"scram-sha-256").decode()


def keys(verifier: str) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey of a verifier."""
    stored, server = verifier.rsplit("$", 1)[1].split(":")
    return base64.b64decode(stored), base64.b64decode(server)


def test_the_exchange_of_rfc_7677_verifies() -> None:
    stored, server = keys(sql._verifier("pencil", RFC_SALT, 4096))
    signature = hmac.new(stored, RFC_MESSAGE, "sha256").digest()
    client = bytes(a ^ b for a, b in zip(RFC_PROOF, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored
    assert hmac.new(server, RFC_MESSAGE, "sha256").digest() == RFC_SERVER_SIGNATURE


def test_a_verifier_made_by_hand_verifies() -> None:
    verifier = by_hand("pencil", RFC_SALT, 4096)
    assert sql.verifies(verifier, "pencil")
    assert not sql.verifies(verifier, "pencil2")
    assert sql.verifies(by_hand("pencil", b"another salt 16b", 1000), "pencil")


@pytest.mark.parametrize("password", ["pencil", " with space ", "'\"$\\:;#%", "x" * 200])
def test_libpqs_verifier_verifies(password: str) -> None:
    verifier = by_libpq(password)
    assert sql.verifies(verifier, password)
    assert not sql.verifies(verifier, password + "x")
    assert not sql.verifies(verifier[:-4] + "AAA=", password)


def test_ours_is_stable_of_postgresqls_shape_and_different_for_every_role() -> None:
    ours = sql.scram(PASSWORD, "app")
    shape = r"SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}="
    assert re.fullmatch(shape, ours)
    assert ours == sql.scram(PASSWORD, "app")
    assert ours != sql.scram(PASSWORD, "other")
    assert ours.split("$")[1] != sql.scram(PASSWORD + "x", "app").split("$")[1]
    assert sql.verifies(ours, PASSWORD)


@pytest.mark.parametrize(
    "stored",
    [None, "", PASSWORD, "md5" + "0" * 32, "SCRAM-SHA-256$4096", "SCRAM-SHA-1$1:c2FsdA==$a:b"],
)
def test_what_is_no_scram_verifier_does_not_verify(stored: str | None) -> None:
    assert not sql.verifies(stored, PASSWORD)


# --- Comparison ----------------------------------------------------------------------------------

LOOKED_UP = {"lookup": sql.LOOKUP, "extensions": ["plpgsql"]}


def stored(**changes: Any) -> dict[str, Any]:
    """A role as the server shows it, as CREATE ROLE … LOGIN leaves it."""
    plain = {key: key in ("login", "inherit") for key in sql.ATTRIBUTES}
    rest: dict[str, Any] = {
        "connection_limit": -1,
        "password": None,
        "valid_until": None,
        "member_of": [],
    }
    return {**plain, **rest, "settings": None, **changes}


def server(
    roles: Mapping[str, Any] | None = None,
    databases: Mapping[str, Any] | None = None,
    inside: Mapping[str, Any] | None = None,
) -> Server:
    """A running server with these roles and databases."""
    facts = {"roles": roles or {}, "databases": databases or {}}
    return Server("up", 5432, facts, inside or {})


def app(**changes: Any) -> Role:
    """The role `app` of the settings."""
    attributes = {"login": True, **changes.pop("attributes", {})}
    return Role("app", attributes=attributes, **changes)


def lines_and_sql(
    there: Server,
    roles: Sequence[Role] = (),
    databases: Sequence[Database] = (),
    *,
    pooled: bool = False,
) -> tuple[list[str], list[str]]:
    """The announced sentences and the statements, nothing for no change."""
    change = sql.compare(there, roles, databases, DATA, pooled=pooled)
    if change is None:
        return [], []
    assert change.variables["DATA"] == DATA
    return change.lines, change.variables["SQL"].splitlines()


def test_nothing_is_pending() -> None:
    roles = {"app": stored(password=by_libpq(PASSWORD), member_of=["readers"])}
    databases = {"shop": {"owner": "app", "settings": None, "grants": [["readers", "CONNECT"]]}}
    there = server(roles, databases, {"shop": LOOKED_UP, "template1": LOOKED_UP})
    shop = Database("shop", "app", ("plpgsql",), grants={"readers": frozenset({"CONNECT"})})
    wanted = app(password=PASSWORD, member_of=frozenset({"readers"}))
    assert sql.compare(there, [wanted], [shop], DATA, pooled=True) is None


def test_a_server_that_is_down_is_not_judged() -> None:
    assert (
        sql.compare(Server("down"), [app()], [Database("shop", "app")], DATA, pooled=True) is None
    )


def test_a_role_is_created_with_exactly_what_is_said() -> None:
    assert lines_and_sql(server(), [app(attributes={"createdb": True}, connection_limit=5)]) == (
        ["role app: create", "role app: LOGIN", "role app: CREATEDB",
         "role app: CONNECTION LIMIT 5"],
        ['CREATE ROLE "app";', 'ALTER ROLE "app" LOGIN;', 'ALTER ROLE "app" CREATEDB;',
         'ALTER ROLE "app" CONNECTION LIMIT 5;'],
    )  # fmt: skip


@pytest.mark.parametrize("key", sorted(set(sql.ATTRIBUTES) - {"login", "inherit"}))
def test_an_attribute_that_settings_no_longer_give_is_revoked(key: str) -> None:
    keyword = sql.ATTRIBUTES[key]
    assert lines_and_sql(server({"app": stored(**{key: True})}), [app()]) == (
        [f"role app: NO{keyword}"],
        [f'ALTER ROLE "app" NO{keyword};'],
    )


def test_login_and_inherit_are_set_and_revoked_too() -> None:
    wanted = Role("app", attributes={"login": False, "inherit": False})
    assert lines_and_sql(server({"app": stored()}), [wanted]) == (
        ["role app: NOLOGIN, and its sessions end", "role app: NOINHERIT"],
        [
            'ALTER ROLE "app" NOLOGIN;'
            " SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app';",
            'ALTER ROLE "app" NOINHERIT;',
        ],
    )
    assert lines_and_sql(server({"app": stored(inherit=False)}), [app()])[1] == [
        'ALTER ROLE "app" INHERIT;'
    ]


def test_a_connection_limit_that_is_gone_is_lifted() -> None:
    there = server({"app": stored(connection_limit=7)})
    assert lines_and_sql(there, [app()])[1] == ['ALTER ROLE "app" CONNECTION LIMIT -1;']


@pytest.mark.parametrize("verifier", [None, "md5" + "0" * 32, sql.scram("old", "app")])
def test_a_wrong_password_is_changed_and_shown_nowhere(verifier: str | None) -> None:
    lines, statements = lines_and_sql(
        server({"app": stored(password=verifier)}), [app(password=PASSWORD)]
    )
    assert lines == ["role app: password"]
    assert statements == [f"ALTER ROLE \"app\" PASSWORD '{sql.scram(PASSWORD, 'app')}';"]


def test_the_right_password_with_a_foreign_salt_stays() -> None:
    there = server({"app": stored(password=by_libpq(PASSWORD))})
    assert lines_and_sql(there, [app(password=PASSWORD)]) == ([], [])


def test_a_role_without_a_password_in_the_settings_keeps_its_own() -> None:
    assert lines_and_sql(server({"app": stored(password=by_libpq("x"))}), [app()]) == ([], [])


def test_no_secret_leaves_the_variables() -> None:
    change = sql.compare(Server("absent"), [app(password=PASSWORD)], [], DATA, pooled=False)
    assert change is not None
    shown = "\n".join([*change.lines, change.script, *change.diff])
    assert PASSWORD not in shown
    assert "SCRAM" not in shown
    assert PASSWORD not in change.variables["SQL"]


def test_validity_is_compared_as_a_moment() -> None:
    moment = datetime(2030, 1, 31, tzinfo=UTC)
    there = server({"app": stored(valid_until=moment.timestamp())})
    assert lines_and_sql(there, [app(valid_until=moment)]) == ([], [])
    assert lines_and_sql(there, [app()])[1] == ["ALTER ROLE \"app\" VALID UNTIL 'infinity';"]
    assert lines_and_sql(server({"app": stored()}), [app(valid_until=moment)]) == (
        ["role app: valid until 2030-01-31T00:00:00+00:00"],
        ["ALTER ROLE \"app\" VALID UNTIL '2030-01-31T00:00:00+00:00';"],
    )


def test_memberships_are_granted_and_revoked() -> None:
    there = server({"app": stored(member_of=["writers", "readers"])})
    wanted = app(member_of=frozenset({"readers", "pg_monitor"}))
    assert lines_and_sql(there, [wanted]) == (
        ["role app: grant pg_monitor", "role app: revoke writers"],
        ['GRANT "pg_monitor" TO "app";', 'REVOKE "writers" FROM "app" CASCADE;'],
    )


def test_memberships_that_others_have_granted() -> None:
    """What is wanted is ours, so that no CASCADE takes it; what is not goes, whoever gave it."""
    granted = [["writers", "boss"], ["writers", None], ["readers", "boss"]]
    there = server({"app": stored(member_of=["writers", "readers"], granted=granted)})
    assert lines_and_sql(there, [app(member_of=frozenset({"readers"}))]) == (
        ["role app: grant readers", "role app: revoke writers"],
        [
            'GRANT "readers" TO "app";',
            'REVOKE "writers" FROM "app" GRANTED BY "boss" CASCADE; '
            'REVOKE "writers" FROM "app" CASCADE;',
        ],
    )


def test_memberships_come_after_all_roles() -> None:
    wanted = [app(member_of=frozenset({"readers"})), Role("readers")]
    statements = lines_and_sql(server(), wanted)[1]
    assert statements.index('CREATE ROLE "readers";') < statements.index(
        'GRANT "readers" TO "app";'
    )


def test_role_settings_are_set_and_reset() -> None:
    there = server({"app": stored(settings=["work_mem=4MB", "lock_timeout=1s", "app.x=a=b"])})
    wanted = app(settings={"work_mem": "8MB", "app.x": "a=b", "app.motto": "it's"})
    assert lines_and_sql(there, [wanted]) == (
        ["role app: app.motto = it's", "role app: reset lock_timeout", "role app: work_mem = 8MB"],
        [
            "ALTER ROLE \"app\" SET app.motto = 'it''s';",
            'ALTER ROLE "app" RESET lock_timeout;',
            "ALTER ROLE \"app\" SET work_mem = '8MB';",
        ],
    )


def test_postgresqls_spelling_of_a_setting_is_the_same_setting() -> None:
    """PostgreSQL stores `SET timezone` under its own spelling, TimeZone (guc.c, GUCArrayAdd)."""
    there = server({"app": stored(settings=["TimeZone=UTC", "DateStyle=ISO"])})
    wanted = app(settings={"timezone": "UTC", "datestyle": "ISO"})
    assert lines_and_sql(there, [wanted]) == ([], [])


def test_a_list_setting_is_set_as_a_list() -> None:
    """In quotes 'app, public' would be one schema of that name (GUC_LIST_QUOTE)."""
    wanted = [app(settings={"search_path": "app, public"})]
    statements = lines_and_sql(server({"app": stored()}), wanted)[1]
    assert "SET search_path = 'app, public'" not in "".join(statements)
    after = server({"app": stored(settings=["search_path=app, public"])})
    assert lines_and_sql(after, wanted) == ([], [])


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("app,public", "app, public"),
        ('"$user" , App', '"$user", "App"'),
        ("", '""'),
        ('""', '""'),
        ('"a,b", a"b', '"a,b", "a""b"'),
    ],
)
def test_a_list_is_the_same_however_postgresql_stores_it(wanted: str, kept: str) -> None:
    there = server({"app": stored(settings=[f"search_path={kept}"])})
    assert lines_and_sql(there, [app(settings={"search_path": wanted})]) == ([], [])
    other = [app(settings={"search_path": f"{wanted}, more"})]
    assert lines_and_sql(there, other)[0] == [f"role app: search_path = {wanted}, more"]


def test_the_empty_list_is_not_the_default() -> None:
    wanted = [app(settings={"temp_tablespaces": ""})]
    assert lines_and_sql(server({"app": stored()}), wanted)[1] == [
        "ALTER ROLE \"app\" SET temp_tablespaces = '';"
    ]


def test_a_setting_that_is_named_as_a_secret_is_not_shown() -> None:
    wanted = [app(settings={"app.jwt_secret": PASSWORD, "app.motto": "seen"})]
    lines, statements = lines_and_sql(server({"app": stored()}), wanted)
    assert re.fullmatch(r"role app: app\.jwt_secret = <secret \w+>", lines[0])
    assert lines[1] == "role app: app.motto = seen"
    assert statements[0] == f"ALTER ROLE \"app\" SET app.jwt_secret = '{PASSWORD}';"


def test_a_database_is_created_with_its_owner() -> None:
    assert lines_and_sql(server(), [], [Database("shop", "app")]) == (
        ["database shop: create, owner app"],
        ['CREATE DATABASE "shop" OWNER "app";'
         ' REVOKE CONNECT, TEMPORARY ON DATABASE "shop" FROM PUBLIC;'],
    )  # fmt: skip


def test_an_owner_and_settings_change() -> None:
    there = server({}, {"shop": {"owner": "old", "settings": ["work_mem=1MB"], "grants": None}})
    wanted = Database("shop", "app", settings={"lock_timeout": "5s"})
    assert lines_and_sql(there, [], [wanted]) == (
        ["database shop: owner app", "database shop: lock_timeout = 5s",
         "database shop: reset work_mem"],
        ['ALTER DATABASE "shop" OWNER TO "app";',
         "ALTER DATABASE \"shop\" SET lock_timeout = '5s';",
         'ALTER DATABASE "shop" RESET work_mem;'],
    )  # fmt: skip


def test_grants_are_granted_and_revoked() -> None:
    grants = [["app", "CREATE"], ["app", "CONNECT"], ["owner", "CREATE"], ["stranger", "CREATE"]]
    there = server(
        {"app": stored(), "reader": stored()},
        {"shop": {"owner": "owner", "settings": None, "grants": grants}},
    )
    wanted = Database("shop", "owner", grants={"app": frozenset({"CONNECT", "TEMPORARY"})})
    assert lines_and_sql(there, [app(), Role("reader", attributes={"login": True})], [wanted]) == (
        ["database shop: grant TEMPORARY to app", "database shop: revoke CREATE from app"],
        ['GRANT TEMPORARY ON DATABASE "shop" TO "app";',
         'REVOKE CREATE ON DATABASE "shop" FROM "app" CASCADE;'],
    )  # fmt: skip


def test_grants_of_others_are_revoked_as_they() -> None:
    """But for those of one who loses the right himself: they go with it."""
    grants = [["app", "CONNECT", "boss"], ["app", "CREATE", "boss"], ["next", "CREATE", "app"]]
    there = server(
        {"app": stored(), "next": stored()},
        {"shop": {"owner": "owner", "settings": None, "grants": grants}},
    )
    wanted = Database("shop", "owner", grants={"app": frozenset({"CONNECT"})})
    assert lines_and_sql(there, [app(), Role("next", attributes={"login": True})], [wanted]) == (
        ["database shop: grant CONNECT to app", "database shop: revoke CREATE from app",
         "database shop: revoke CREATE from next"],
        ['GRANT CONNECT ON DATABASE "shop" TO "app";',
         'SET ROLE "boss"; REVOKE CREATE ON DATABASE "shop" FROM "app" CASCADE; RESET ROLE;'],
    )  # fmt: skip


def test_an_owner_keeps_what_owners_have() -> None:
    grants = [["app", privilege] for privilege in ("CREATE", "CONNECT", "TEMPORARY")]
    there = server(
        {"app": stored()}, {"shop": {"owner": "app", "settings": None, "grants": grants}}
    )
    assert lines_and_sql(there, [app()], [Database("shop", "app")]) == ([], [])


def test_an_owner_who_is_replaced_has_nothing_left() -> None:
    """What stood for him stands for the new owner: it has to be granted again."""
    grants = [["app", "CREATE"], ["app", "CONNECT"], ["owner", "CREATE"]]
    there = server(
        {"app": stored(), "owner": stored()},
        {"shop": {"owner": "app", "settings": None, "grants": grants}},
    )
    wanted = Database("shop", "owner", grants={"app": frozenset({"CONNECT"})})
    assert lines_and_sql(there, [app()], [wanted])[1] == [
        'ALTER DATABASE "shop" OWNER TO "owner";',
        'GRANT CONNECT ON DATABASE "shop" TO "app";',
    ]


def test_a_role_that_the_settings_grant_nothing_loses_what_it_had() -> None:
    there = server(
        {"app": stored()},
        {"shop": {"owner": "owner", "settings": None, "grants": [["app", "CREATE"]]}},
    )
    assert lines_and_sql(there, [app()], [Database("shop", "owner")])[1] == [
        'REVOKE CREATE ON DATABASE "shop" FROM "app" CASCADE;'
    ]


@pytest.mark.parametrize(
    ("now", "attributes", "stays"),
    [
        ({"member_of": ["pg_read_all_data"]}, {}, False),
        ({"member_of": ["owner"], "shy": ["owner"]}, {}, False),
        ({}, {"superuser": True}, False),
        ({"superuser": True}, {}, True),
        ({}, {}, True),
    ],
)
def test_what_a_run_takes_is_no_reason_to_let_a_role_in(
    now: dict[str, Any], attributes: dict[str, bool], stays: bool
) -> None:
    """Nor would the next run find anything to take."""
    owned = [["app", "shop", True, None, 1]] if stays or attributes else []

    def there(role: dict[str, Any], grants: list[list[str]]) -> Server:
        found = server({"app": role}, {"shop": {"owner": "owner", "grants": grants}})
        return replace(found, facts={**found.facts, "owned": owned})

    wanted = [app(attributes=attributes)], [Database("shop", "owner")]
    line = "database shop: revoke CONNECT from app"
    found = lines_and_sql(there(stored(**now), [["app", "CONNECT"]]), *wanted)[0]
    assert (line not in found) == stays
    after = there(stored(**attributes), [["app", "CONNECT"]] if stays else [])
    assert lines_and_sql(after, *wanted) == ([], [])


def test_extensions_are_created_in_their_own_database() -> None:
    there = server(
        {},
        {name: {"owner": "app", "settings": None, "grants": None} for name in ("shop", "stock")},
        {"shop": {"extensions": ["plpgsql", "pg_trgm"]}, "stock": {"extensions": []}},
    )
    wanted = [Database(name, "app", ("pg_trgm", "hstore")) for name in ("shop", "stock")]
    assert lines_and_sql(there, [], wanted) == (
        ["extension hstore in shop: create", "extension hstore in stock: create",
         "extension pg_trgm in stock: create"],
        ['\\connect "dbname=\'shop\'"', ":closed", "\\set ON_ERROR_STOP off", ":open",
         'CREATE EXTENSION "hstore" SCHEMA public CASCADE;', ":closed",
         '\\connect "dbname=\'stock\'"', ":closed", ":open",
         'CREATE EXTENSION "hstore" SCHEMA public CASCADE;', ":closed", ":open",
         'CREATE EXTENSION "pg_trgm" SCHEMA public CASCADE;', ":closed"],
    )  # fmt: skip


def _shop_and_stock(**inside: Any) -> Server:
    """Two databases and template1; what is in those that are not said is ours."""
    bases = {name: {"owner": "app", "settings": None, "grants": None} for name in ("shop", "stock")}
    return server({}, bases, {"template1": LOOKED_UP, "shop": LOOKED_UP, **inside})


SHOP_AND_STOCK = [Database(name, "app") for name in ("shop", "stock")]


def test_the_lookup_function_where_it_is_missing() -> None:
    there = _shop_and_stock(stock={"lookup": None})
    lines, statements = lines_and_sql(there, [], SHOP_AND_STOCK, pooled=True)
    assert lines == ["password lookup of PgBouncer in stock: create"]
    assert statements[:3] == ["\\connect \"dbname='stock'\"", ":closed", "BEGIN;"]
    text = "\n".join(statements)
    assert f"$lookup${sql.LOOKUP_BODY}$lookup$" in text
    assert "SET search_path = pg_catalog, pg_temp\n" in text
    assert "REVOKE ALL ON FUNCTION pgbouncer.user_lookup(pg_catalog.text) FROM PUBLIC;" in text
    assert text.endswith("TO pgbouncer;\nCOMMIT;")
    assert lines_and_sql(there, [], SHOP_AND_STOCK, pooled=False) == ([], [])


OTHER_LOOKUPS: list[dict[str, Any]] = [
    {"body": " SELECT usename::text, passwd FROM pg_catalog.pg_shadow "},
    {"config": ["search_path=pg_catalog"]},
    {"config": None},
    {"arguments": "i_username name, OUT uname text, OUT phash text"},
    {"is": ["plpgsql", "f", "v", True, True, False]},
    {"trusted": False},
    {"rights": [*sql.LOOKUP["rights"], ["schema", "app", "CREATE", False]]},
    {"rights": [["function", "public", "EXECUTE", False], *sql.LOOKUP["rights"]]},
    {"rights": [["schema", "pgbouncer", "USAGE", False]]},
]


@pytest.mark.parametrize("change", OTHER_LOOKUPS)
def test_a_lookup_function_that_is_another_is_replaced(change: dict[str, Any]) -> None:
    """Whatever somebody could have altered, and in databases of which the settings know nothing."""
    other = {"lookup": {**sql.LOOKUP, **change}}
    there = _shop_and_stock(stock=LOOKED_UP, stray=other)
    lines, statements = lines_and_sql(there, [], SHOP_AND_STOCK, pooled=True)
    assert lines == ["password lookup of PgBouncer in stray: replace"]
    others = ', "app" CASCADE;' if "app" in str(change) else " CASCADE;"
    assert f"REVOKE ALL ON SCHEMA pgbouncer FROM PUBLIC, pgbouncer{others}" in statements


@pytest.mark.parametrize("login", ["pgbouncer", "pgbouncer_a", "pgbouncer_b"])
def test_a_schema_that_an_application_owns_is_not_trusted(login: str) -> None:
    """What it has for a lookup is left alone, and no login of ours enters to call it."""
    there = _shop_and_stock(stock={**LOOKED_UP, "squatter": "app"}, shop={"lookup": None})
    grants = {login: frozenset({"CONNECT"})}
    wanted = [replace(each, grants=grants) for each in SHOP_AND_STOCK]
    lines, _ = lines_and_sql(
        there, [app(), Role(login, attributes={"login": True})], wanted, pooled=True
    )
    assert [line for line in lines if "stock" in line or "lookup" in line] == [
        "password lookup of PgBouncer in shop: create"
    ]
    there.facts["databases"]["stock"]["grants"] = [[login, "CONNECT", None]]
    lines, _ = lines_and_sql(
        there, [app(), Role(login, attributes={"login": True})], wanted, pooled=True
    )
    assert f"database stock: revoke CONNECT from {login}" in lines


def test_statements_with_passwords_are_forgotten_once() -> None:
    there = Server("up", 5432, {"roles": {}, "databases": {}}, keeps_passwords=True)
    change = sql.compare(there, [], [], DATA, pooled=False)
    assert change is not None
    assert change.lines == ["pg_stat_statements: reset, because it keeps statements with passwords"]
    # Nothing of it stays, but for what follows no transaction.
    assert change.variables["SQL"].startswith("BEGIN;\n")
    assert change.variables["SQL"].endswith("\nROLLBACK;")
    assert sql.compare(there, [], [], DATA, pooled=False, forgets=False) is None


KEPT = [
    (b"SELECT $1\0CREATE ROLE a LOGIN PASSWORD 'x'\0", 1),
    (b"SELECT 1\0  alter user a\n  with password 'x'\0", 1),
    (b"SELECT password FROM role\0", 0),
    (b"SELECT $1 /* ALTER ROLE a PASSWORD 'x' */\0", 0),
    (b"", 0),
    (None, 0),
]


@pytest.mark.parametrize(("texts", "count"), KEPT)
def test_statements_with_passwords_are_found(
    tmp_path: Path, texts: bytes | None, count: int
) -> None:
    """An application's text cannot look like one for ever: it begins with another word."""
    (tmp_path / "pg_stat_tmp").mkdir()
    (tmp_path / "PG_VERSION").write_text("17\n")
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n0\n5432\n")
    if texts is not None:
        (tmp_path / "pg_stat_tmp/pgss_query_texts.stat").write_bytes(texts)
    script = PATHS + sql.probe(str(tmp_path), []).script
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == f"up 5432 {count} service"


def test_a_server_that_its_service_has_not_started_is_named(tmp_path: Path) -> None:
    """By its control group under systemd; nothing says so of this process."""
    (tmp_path / "PG_VERSION").write_text("17\n")
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n0\n5432\n")
    group = Path("/proc/self/cgroup").read_text().split()[-1].rpartition("/")[2]
    for unit, by in (("postgresql@17-main.service", str(os.getpid())), (group, "service")):
        script = PATHS + sql.probe(str(tmp_path), [], unit).script
        done = subprocess.run(["sh"], input=script, capture_output=True, text=True)
        assert done.stdout.splitlines()[0] == f"up 5432 0 {by}"
    assert parse("up 5433 0 77", "{}", "{}").alone == "77"


def test_a_parameter_of_the_server_is_no_sql() -> None:
    found = ["x.a; DROP TABLE b=1", "My.Var=2", "TimeZone=UTC"]
    there = server({"app": stored(settings=found)})
    assert lines_and_sql(there, [app()])[1] == [
        'ALTER ROLE "app" RESET "My"."Var";',
        'ALTER ROLE "app" RESET "TimeZone";',
        'ALTER ROLE "app" RESET "x"."a; DROP TABLE b";',
    ]


def test_what_is_only_reset_with_all_leaves_the_others() -> None:
    there = server({"app": stored(settings=["transaction_read_only=on", "work_mem=7MB"])})
    lines, statements = lines_and_sql(there, [app(settings={"work_mem": "7MB"})])
    assert lines == ["role app: reset transaction_read_only"]
    assert statements == ['ALTER ROLE "app" RESET ALL; ALTER ROLE "app" SET work_mem = \'7MB\';']


def test_nothing_is_planned_in_a_database_that_lets_nobody_in() -> None:
    """The first statement in it would have ended all that come after."""
    shop, stock = (Database(name, "app", ("pg_trgm",)) for name in ("shop", "stock"))
    there = {"owner": "app", "connection_limit": -1}
    facts = {"databases": {"shop": {**there, "allows": False}, "stock": {**there, "allows": True}}}
    change = sql.compare(Server("up", 5432, facts), [], [shop, stock], DATA, pooled=True)
    assert change is not None
    assert [line for line in change.lines if "shop" in line] == []
    assert [line for line in change.lines if "stock" in line] != []


def test_a_bare_host_gets_the_full_plan() -> None:
    shop = Database("shop", "app", ("pg_trgm",), grants={"reader": frozenset({"CONNECT"})})
    roles = [app(password=PASSWORD), Role("reader")]
    change = sql.compare(Server("absent"), roles, [shop], DATA, pooled=True)
    assert change is not None
    assert change.lines == [
        "role app: create",
        "role app: LOGIN",
        "role app: password",
        "role reader: create",
        "database shop: create, owner app",
        "database shop: grant CONNECT to reader",
        # Before what may need a package: who has no lookup has no clients.
        "password lookup of PgBouncer in template1: create",
        "password lookup of PgBouncer in shop: create",
        "extension pg_trgm in shop: create",
    ]


def test_an_extension_that_cannot_be_created_is_tried_again_by_its_name() -> None:
    there = server(databases={"shop": {"allows": True}}, inside={"shop": {"extensions": []}})
    wanted = [Database("shop", "app", ("it's",))]
    change = sql.extensions(there, wanted, DATA)
    assert change is not None and change.lines == ["extension it's in shop: create"]
    assert "ON_ERROR_STOP" not in change.variables["SQL"]
    assert "RAISE '%: %', 'extension it''s in shop', SQLERRM" in change.variables["SQL"]
    assert sql.extensions(there, [Database("shop", "app")], DATA) is None
    assert sql.extensions(Server("down"), wanted, DATA) is None


def test_a_schema_that_its_owner_dropped_is_there_again_for_extensions() -> None:
    inside = {"extensions": ["plpgsql"], "bare": True}
    now = {"owner": "app", "settings": None, "grants": None}
    there = server({}, {"shop": now}, {"shop": inside})
    assert lines_and_sql(there, [], [Database("shop", "app", ("hstore",))])[0] == [
        "schema public of shop: create",
        "extension hstore in shop: create",
    ]
    assert lines_and_sql(there, [], [Database("shop", "app", ("plpgsql",))]) == ([], [])


def test_the_databases_of_the_cluster_are_closed_before_others_are_made() -> None:
    """A new one gets what the schema `public` of the template has."""
    system = [
        Database("postgres", "postgres", grants={"app": frozenset({"CONNECT"})}),
        Database("template1", "postgres"),
    ]
    wanted = [Database("shop", "app")]
    for there in (Server("absent"), Server("up", 5432, {"databases": rights.SYSTEM})):
        change = sql.compare(there, [app()], wanted, DATA, pooled=False, system=system)
        assert change is not None
        assert [line for line in change.lines if "database" in line] == [
            "database postgres: grant CONNECT to app",
            "database postgres: revoke CONNECT, TEMPORARY from PUBLIC",
            "database template1: revoke CONNECT from PUBLIC",
            "database shop: create, owner app",
        ]


def test_what_a_role_no_longer_needs_to_enter_is_taken() -> None:
    there = {
        "owner": "postgres",
        "grants": [["app", "CONNECT", None], ["by_hand", "CONNECT", None]],
    }
    facts = {"databases": {"postgres": there}, "roles": {"app": stored()}}
    system = [Database("postgres", "postgres")]
    change = sql.compare(Server("up", 5432, facts), [app()], [], DATA, pooled=False, system=system)
    assert change is not None
    assert change.lines == ["database postgres: revoke CONNECT from app"]


def test_the_superuser_that_initdb_makes_is_not_created() -> None:
    superuser = Role("postgres", PASSWORD, {key: True for key in sql.ATTRIBUTES})
    change = sql.compare(Server("absent"), [superuser], [], DATA, pooled=False)
    assert change is not None
    assert change.lines == ["role postgres: password"]


# --- Escaping ------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_an_identifier_is_quoted_as_psycopg_does(name: str) -> None:
    assert sql.identifier(name).encode() == psycopg.sql.Identifier(name).as_bytes(None)


@given(st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"])))
def test_a_literal_is_quoted_as_psycopg_does(text: str) -> None:
    assert sql.literal(text).encode() == psycopg.sql.Literal(text).as_bytes(None)


@given(PRINTABLE)
def test_a_setting_never_ends_its_statement(value: str) -> None:
    wanted = [app(settings={"app.x": value})]
    (statement,) = lines_and_sql(server({"app": stored()}), wanted)[1]
    quoted = re.fullmatch(r"ALTER ROLE \"app\" SET app\.x = '((?:[^']|'')*)';", statement)
    assert quoted is not None
    assert quoted[1].replace("''", "'") == value


# --- What the probe reads ------------------------------------------------------------------------


def parse(*lines: str) -> Server:
    return sql.probe(DATA, ["template1", "shop"]).parse(list(lines))


def test_the_answers_of_a_server() -> None:
    assert parse("absent") == Server("absent")
    assert parse("down") == Server("down")
    there = parse(
        "up 5433 0 service", '{"roles": {"a": {}}}', '{"work_mem": []}', "template1", "{}",
        "shop", '{"lookup": null}',
    )  # fmt: skip
    assert there.port == 5433
    assert there.facts == {"roles": {"a": {}}, "used": {"work_mem": []}}
    assert there.databases == {"template1": {}, "shop": {"lookup": None}}


@pytest.mark.parametrize(
    "lines",
    [
        ("up 5432",),
        ("up 5432", ""),
        ("up 5432", "{}", "{}", "shop"),
        ("up 5432", "FATAL: no"),
        ("up 5432", "{}", ""),
        ("up 5432 0 service", "{}", "{}", "shop", ""),
    ],
)
def test_half_an_answer_is_unreadable(lines: tuple[str, ...]) -> None:
    with pytest.raises(Unreadable, match="does not answer"):
        parse(*lines)


def test_a_server_that_does_not_let_its_superuser_in_says_why() -> None:
    head = 'psql: error: connection to server on socket "/x/.s.PGSQL.5432" failed: '
    rejects = 'pg_hba.conf rejects connection for host "[local]"'
    out = "; put 'local all postgres peer' first in its pg_hba.conf and reload it"
    for said, why in (
        (f"{head}FATAL:  {rejects}", f"{rejects}{out}"),
        (f"{head}fe_sendauth: no password supplied", f"no password supplied{out}"),
        (f"{head}No such file or directory", "failed: No such file or directory"),
        (f'{head}FATAL:  role "postgres" does not exist', 'role "postgres" does not exist'),
    ):
        with pytest.raises(Unreadable, match="does not let its superuser in: ") as refused:
            parse("up 5432 0", "", said)
        assert str(refused.value).endswith(why)


def test_an_owner_gets_back_what_was_revoked_from_it() -> None:
    """Where PUBLIC has lost CONNECT too, it could not log in to its own database."""
    now = {"owner": "app", "grants": None, "lacks": ["CONNECT"]}
    assert lines_and_sql(server({}, {"app": now}), [], [Database("app", "app")]) == (
        ["database app: grant CONNECT to its owner"],
        ['GRANT CONNECT ON DATABASE "app" TO "app";'],
    )


def test_a_slot_that_is_missing_or_lost_is_made() -> None:
    slots = [["datatier_b", "physical", False, None], ["datatier_c", "physical", True, "1 MB"]]
    facts = {"roles": {}, "databases": {}, "slots": slots, "lost": ["datatier_b", "theirs"]}
    wanted = ["datatier_b", "datatier_c", "datatier_d"]
    change = sql.compare(Server("up", 5432, facts), [], [], DATA, pooled=False, slots=wanted)
    assert change is not None
    why = "its reader was away for too long, and has to be copied again"
    assert change.lines == [
        f"replication slot datatier_b: drop; {why}",
        "replication slot datatier_b: create",
        "replication slot datatier_d: create",
    ]
