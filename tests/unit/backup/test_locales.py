"""Locales that databases need and the backup host lacks: told before a drill needs them."""

from __future__ import annotations

import contextlib
import locale
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backup.config import Config, Postgres
from backup.job import Failed
from backup.postgres import locales
from tests.unit.backup.builders import config

GONE = "xx_XX.UTF-8"
OWN = [("app", "C.UTF-8", "C.UTF-8"), ("app-prod", "C", "POSIX"), ("by_hand", GONE, GONE)]


class _Database:
    """A database that says which locales it has, and its collations."""

    def __init__(self, used: list[str]) -> None:
        self._used = used
        self._rows: list[Any] = []

    def execute(self, query: str) -> _Database:
        self._rows = [(name,) for name in self._used] if "pg_collation" in query else OWN
        return self

    def fetchall(self) -> list[Any]:
        return self._rows


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases that were entered; `app` has a collation that is not here."""
    names = list[str]()

    @contextlib.contextmanager
    def connect(_: Postgres, database: str, *, admin: bool) -> Iterator[_Database]:
        names.append(database)
        yield _Database([GONE, "yy_YY", "C"] if database == "app" else [])

    monkeypatch.setattr(locales, "connect", connect)
    return names


@pytest.fixture
def live(here: Config) -> Postgres:
    """The server on a host of its own."""
    assert here.postgres is not None
    return replace(here.postgres, local=False)


@pytest.fixture
def here(tmp_path: Path) -> Config:
    """The backup host."""
    return replace(config(tmp_path), host="backup1")


def test_each_locale_is_named_once_with_its_databases(
    here: Config, live: Postgres, entered: list[str]
) -> None:
    """Only databases of the settings are entered, and none whose own locale is missing."""
    before = locale.setlocale(locale.LC_COLLATE)
    several, one = locales.lacking(here, live)
    assert several.startswith(
        f"backup1 has no locale '{GONE}', so drills and --time cannot read databases app, by_hand: "
    )
    assert "cannot read database app: install the package locales" in one and "'yy_YY'" in one
    assert entered == ["postgres", "app", "app-prod"]
    assert locale.setlocale(locale.LC_COLLATE) == before


def test_on_its_own_host_the_server_has_them(
    here: Config, live: Postgres, entered: list[str]
) -> None:
    assert locales.lacking(here, replace(live, local=True)) == []
    assert entered == []


@pytest.mark.parametrize(
    ("databases", "said"), [(["app-prod"], ""), (["by_hand"], GONE), (None, "app, by_hand")]
)
def test_what_is_restored_needs_those_of_its_own_databases(
    databases: list[str] | None, said: str, here: Config, live: Postgres, entered: list[str]
) -> None:
    """A restore of one database does not fail by another one's; a drill reads all of them."""
    if not said:
        locales.require(here, live, databases)
    else:
        with pytest.raises(Failed, match=said):
            locales.require(here, live, databases)
    assert "by_hand" not in entered
