"""What is set for a role or a database does not reach our sessions, and lists stay lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backup.config import Postgres
from backup.job import Failed
from backup.postgres import session
from backup.postgres.options import start_options
from backup.postgres.properties import elements
from tasks.postgres.settings import PROBE_DATABASE
from tests.unit.backup.builders import config


@pytest.fixture
def server(tmp_path: Path) -> Postgres:
    """PostgreSQL 15."""
    made = config(tmp_path).postgres
    assert made is not None
    return made


def test_a_tool_gets_our_options_and_no_password_of_the_superuser(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_encoding", lambda *_, **__: "LATIN1")
    command, environment = session.tool(server, "pg_dump", "a='b\\")
    assert command[-3:] == ["-d", "dbname='a=\\'b\\\\'", "--encoding=LATIN1"]
    assert environment["PGPASSWORD"] == server.password
    assert "-c search_path=pg_catalog,pg_temp" in environment["PGOPTIONS"]
    assert "-c role=none" in environment["PGOPTIONS"]
    assert "PGPASSWORD" not in session.tool(server, "pg_dump", admin=True)[1]


def test_a_password_that_is_replaced_between_two_tries_is_tried_again(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is early, and the old one late."""
    tried = list[str]()

    def begin(who: session.Login) -> None:
        tried.append(who.password)
        if len(tried) < 3:
            raise Failed("password authentication failed")

    monkeypatch.setattr(
        session, "_others", lambda _, who, **__: iter([replace(who, password="before")])
    )
    session._let_in(server, begin, Failed, admin=False)  # type: ignore[arg-type]
    assert tried == [server.password, "before", server.password]


def test_no_lock_is_waited_for_without_end(server: Postgres) -> None:
    assert "-c lock_timeout=1min" in start_options(server, superuser=True)
    for name in ("pg_dump", "pg_dumpall"):
        assert "--lock-wait-timeout=10min" in session.tool(server, name)[0]


@pytest.mark.parametrize(("version", "known"), [(15, False), (16, False), (17, True)])
def test_only_what_a_release_knows_is_set_at_the_start(
    server: Postgres, version: int, known: bool
) -> None:
    chosen = start_options(replace(server, version=version), superuser=True)
    assert ("transaction_timeout" in chosen, "event_triggers=off" in chosen) == (known, known)
    # They are a superuser's to set.
    chosen = start_options(replace(server, version=version), superuser=False)
    assert "event_triggers" not in chosen and "session_replication_role" not in chosen


def test_the_name_of_a_role_stays_one_word(server: Postgres) -> None:
    assert "-c role=a\\ b\\\\c" in start_options(server, superuser=False, role="a b\\c")


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        ('"$user", public', ["$user", "public"]),
        ("", [""]),
        ('""', [""]),
        ('"a""b", c', ['a"b', "c"]),
        ("Public", ["public"]),
        ("public;ALTER/**/ROLE/**/app/**/SUPERUSER", ["public;alter/**/role/**/app/**/superuser"]),
        ('"; DROP DATABASE x; --"', ["; DROP DATABASE x; --"]),
        ("a,b", ["a", "b"]),
    ],
)
def test_a_list_is_taken_apart_as_the_server_does(stored: str, names: list[str]) -> None:
    assert elements(stored) == names


def test_both_sides_have_one_name_for_what_looks_whether_queries_get_through() -> None:
    assert session.PROBE == PROBE_DATABASE
