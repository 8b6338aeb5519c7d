"""Slow queries are shown without what may be a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.health.slow import harmless

SECRET = "canary-in-a-statement"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT $1", "SELECT $1"),
        ("  (select *\n\tfrom t)", "(select * from t)"),
        (f"SELECT crypt('{SECRET}', 'it''s')", "SELECT crypt('...', '...')"),
        (rf"SELECT E'\'{SECRET}', 1", "SELECT '...', ..."),
        (rf"SELECT 'a\' {SECRET}', 1", "SELECT '...'"),
        (f"SELECT $a$ ' $b$ {SECRET} $a$, $$'$$", "SELECT '...', '...'"),
        (f"SELECT /* token={SECRET} */ 1 -- {SECRET}", "SELECT ..."),
        (f"/*key='{SECRET}'*/ WITH a AS (SELECT 1) TABLE a", "WITH a AS (SELECT ...) TABLE a"),
        ('SELECT "it\'s" FROM "t"', 'SELECT "it\'s" FROM "t"'),
        (f"SELECT 1 /* /* */ {SECRET} */", None),
        (f"SELECT '{SECRET}", "SELECT '...'"),
        (f"SELECT $x${SECRET}", "SELECT '...'"),
        (f"SELECT 1 /* {SECRET}", "SELECT ..."),
        (f"SELECT U&'{SECRET}', B'1', N'{SECRET}'", "SELECT U&'...', B'...', N'...'"),
        ("SELECT a$b$c, d$b$e", "SELECT a$b$c, d$b$e"),
        (f"SELECT $1$$ {SECRET}", None),
        (f"ALTER ROLE app PASSWORD '{SECRET}'", None),
        (f"SET app.token = {SECRET}", None),
        (f"select1 {SECRET}", None),
        (
            "SELECT t1.a FROM t1 WHERE card = 1235, 1e5, 0x_ff, $1",
            "SELECT t1.a FROM t1 WHERE card = ..., ..., ..., $1",
        ),
        ("", None),
    ],
)
def test_what_is_shown_of_a_statement(text: str, shown: str | None) -> None:
    told = harmless(text)
    assert SECRET not in told
    if shown is not None:
        assert told == shown


@given(st.text(alphabet="'\"\\$ae/*-\n ", max_size=30), st.text(alphabet="'\"\\$ae/*-\n "))
def test_a_literal_is_hidden_whatever_stands_around(before: str, after: str) -> None:
    """A cut is the end of what was not closed, so what is hidden may be more."""
    quoted = "'" + before.replace("'", "''") + SECRET + "'"
    assert SECRET not in harmless(f"SELECT a, {quoted} {after}")


def test_a_long_one_is_cut() -> None:
    assert len(harmless("SELECT " + "x, " * 4000)) == 203
