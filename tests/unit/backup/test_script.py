"""A dump is read as PostgreSQL reads it, and what pg_dump does not write is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.job import Failed
from backup.postgres.backups import row_counts
from backup.postgres.script import Script, require_known
from tests.unit.backup.builders import sources

DUMP = rb"""--
-- PostgreSQL database dump
--

\restrict abc123

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: f(integer); Type: FUNCTION; Schema: public; Owner: app
--

CREATE FUNCTION public.f(i integer) RETURNS integer
    LANGUAGE plpgsql
    AS $_$ BEGIN; -- it's $$ \! not a command
\! nor this
END; $_$;

CREATE FUNCTION public.atomic(i integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT CASE WHEN (i = 1) THEN 2 ELSE 3 END;
END;

CREATE TABLE public."a;b" (t text DEFAULT E'\';' /* ; /* ' */ */, u text DEFAULT 'it''s;');
CREATE RULE r AS ON INSERT TO public.t DO INSTEAD (SELECT 1; SELECT 2);

--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: app; Tablespace: fast
--

COPY public.t (i, "b)") FROM stdin;
1	\\.
\\! id	; '
\.


COPY public.none (i) FROM stdin;
\.

--
-- PostgreSQL database dump complete
--

\unrestrict abc123
"""


class Dripping(io.BytesIO):
    """A stream that gives no more than some bytes at a time."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._most, size or self._most))


def read(content: bytes, most: int = 1 << 20) -> list[tuple[str, str, bytes]]:
    """Owner, first words and rows of each statement."""
    script = Script(Dripping(content, most))
    found = []
    for statement in script:
        require_known(statement)
        words = " ".join(statement.tokens[:3])
        found.append((statement.header.owner, words, b"".join(script.rows())))
    return found


def test_a_dump_is_its_statements_and_rows() -> None:
    assert read(DUMP) == [
        ("-", "SET STATEMENT_TIMEOUT =", b""),
        ("-", "SELECT PG_CATALOG .", b""),
        ("app", "CREATE FUNCTION PUBLIC", b""),
        ("app", "CREATE FUNCTION PUBLIC", b""),
        ("app", "CREATE TABLE PUBLIC", b""),
        ("app", "CREATE RULE R", b""),
        ("app", "COPY PUBLIC .", b"1\t\\\\.\n\\\\! id\t; '\n"),
        ("app", "COPY PUBLIC .", b""),
    ]


@given(most=st.integers(1, 200))
def test_wherever_it_is_cut_into_pieces(most: int) -> None:
    assert read(DUMP, most) == read(DUMP)


@pytest.mark.parametrize("at", range(200, len(DUMP) - 90, 37))
def test_one_that_ends_early_is_refused_or_has_fewer_statements(at: int) -> None:
    try:
        found = read(DUMP[:at])
    except Failed:
        return
    assert found == read(DUMP)[: len(found)]


@pytest.mark.parametrize(
    "text",
    [
        'CREATE FUNCTION public.f(begin integer, "end" date) RETURNS int LANGUAGE sql AS $$x$$',
        "CREATE FUNCTION public.begin() RETURNS integer LANGUAGE sql RETURN 1",
        "CREATE FUNCTION public.atomic(begin integer) RETURNS int LANGUAGE sql\n BEGIN ATOMIC\n"
        " SELECT begin AS begin;\n SELECT x.begin FROM public.x;\n"
        ' SELECT CASE WHEN (begin = 1) THEN 1 ELSE "end" END AS "case";\nEND',
        "CREATE PROCEDURE public.p(INOUT begin integer)\n BEGIN ATOMIC\n INSERT INTO t; END",
        'CREATE TABLE public.begin (begin integer, atomic integer, "end" integer)',
    ],
)
def test_what_is_named_begin_begins_nothing(text: str) -> None:
    found = read(f"{text};\nCOMMENT ON x IS NULL;".encode())
    assert [words for _, words, _ in found][1:] == ["COMMENT ON X"]


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [("LATIN1", "latin1"), ("EUC_JP", "euc_jp"), ("WIN1251", "cp1251"), ("KOI8R", "koi8_r")],
)
def test_names_are_read_in_the_encoding_of_the_dump(encoding: str, codec: str) -> None:
    name = b"\xb4\xc1\xbb\xfa".decode(codec)
    content = f"SET client_encoding = '{encoding}';\n-- Name: {name}; Type: TABLE; Schema: s; "
    content += f"Owner: {name}\n--\n\nCREATE TABLE s.{name} (i integer);\n"
    _, table = Script(io.BytesIO(content.encode(codec)))
    assert (table.header.owner, table.name_after("TABLE")) == (name, f"s.{name}")
    assert table.schema_after("TABLE") == "s"


def test_an_encoding_that_no_server_has_is_not_python_s_either() -> None:
    _, table = Script(io.BytesIO(b"SET client_encoding = 'hex';\nCREATE TABLE s.t ();"))
    assert table.name_after("TABLE") == "s.t"


def test_rows_of_partitions_that_are_loaded_through_their_root_add_up() -> None:
    copy = b"COPY public.root (i) FROM stdin;\n1\n2\n\\.\n"
    assert row_counts(io.BytesIO(copy + copy + b"COPY public.none (i) FROM stdin;\n\\.\n")) == {
        "public.root": 4,
        "public.none": 0,
    }


HEADER = b"-- Name: TABLE t; Type: ACL; Schema: public; Owner: app\n"
FOREIGN = {
    "psql, between": b"\\! id\n",
    "psql, within": b"SELECT 1 \\gexec\n",
    "psql, behind a comment": b"/* */ \\! id\n",
    "connect": b"\\connect postgres\n",
    "copy": b"\\copy t from program 'id'\n",
    "include": b"\\i /etc/passwd\n",
    "role": b"ALTER ROLE app SUPERUSER;",
    "role, hidden": b"ALTER/**/ROLE app SUPERUSER;",
    "user": b"CREATE USER x SUPERUSER;",
    "system": b"ALTER SYSTEM SET archive_command = 'id';",
    "database": b"ALTER DATABASE app OWNER TO x;",
    "block": b"DO $$ BEGIN END $$;",
    "program": b"COPY t FROM PROGRAM 'id';",
    "file": b"COPY t TO '/etc/x';",
    "query": b"COPY (SELECT 1) TO STDOUT;",
    "load": b"LOAD 'x';",
    "call": b"CALL f();",
    "role granted": HEADER + b"GRANT postgres TO app;",
    "grant elsewhere": b"GRANT ALL ON TABLE t TO app;",
    "session": b"SET SESSION AUTHORIZATION postgres;",
    "role set": b"SET ROLE postgres;",
    "path": b"SET search_path = public;",
    "path, called": b"SELECT pg_catalog.set_config('search_path', 'public', false);",
    "setting": b"SELECT pg_catalog.set_config('session_replication_role', 'origin', false);",
    "strings": b"SET standard_conforming_strings = off;",
    "encoding": b"SET client_encoding = 'SJIS';",
    "function": b"SELECT public.f();",
    "hidden function": b"SELECT pg_catalog.setval('x', public.f(), true);",
    "two functions": b"SELECT pg_catalog.setval('x', 1), public.f();",
    "reads a file": b"SELECT pg_catalog.pg_read_file('/etc/passwd');",
    "insert": b"INSERT INTO pg_authid VALUES (1);",
    "transaction": b"BEGIN;",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_pg_dump_does_not_write_is_refused(name: str) -> None:
    with pytest.raises(Failed, match=r"it is not what pg_dump wrote|pg_dump does not write"):
        read(b"SET row_security = off;\n" + FOREIGN[name] + b"\n")


def test_a_name_cannot_pass_for_the_owner() -> None:
    name = b"x; Type: TABLE; Schema: public; Owner: postgres"
    content = b"-- Name: " + name + b"; Type: TABLE; Schema: s; Owner: app\n\nCREATE TABLE x ();"
    assert read(content) == [("app", "CREATE TABLE X", b"")]


def test_nothing_in_the_program_goes_around_the_one_way_in() -> None:
    """Sessions are `session`'s, and so are the environments of PostgreSQL's own clients."""
    around = ("psycopg.connect(", '"psql"', '"PGPASSWORD"', "PGOPTIONS", 'binary("pg_dump')
    found = {(name, word) for name, text in sources().items() for word in around if word in text}
    # A child that gives PgBouncer's console commands has no module of ours.
    allowed = {("postgres/session.py", word) for word in around}
    allowed |= {("postgres/swap.py", "psycopg.connect("), ("postgres/options.py", "PGOPTIONS")}
    # Words of docstrings, not of commands.
    assert found - allowed - {("postgres/session.py", "PGOPTIONS")} == set()
