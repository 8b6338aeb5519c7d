"""What a moment does not have is said before anything is copied."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.job import Failed, WrongUse, log_of
from backup.moment import moment_of
from backup.postgres import locales, restore, scratch
from tests.unit.backup.builders import config


def test_an_unlogged_table_is_refused_however_its_name_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = restore.Content("app", 0, {}, {}, unlogged=(("public", "cache"),))

    @contextlib.contextmanager
    def restored(*_: Any) -> Any:
        yield None

    def copied(*_: Any) -> None:
        pytest.fail("something was copied")

    monkeypatch.setattr(scratch, "restored", restored)
    monkeypatch.setattr(scratch, "whole", lambda _, databases: databases)
    monkeypatch.setattr(locales, "require", lambda *_: None)
    monkeypatch.setattr(restore, "_content", lambda *_: content)
    monkeypatch.setattr(restore, "_require_room", lambda *_: None)
    monkeypatch.setattr(restore, "_table", lambda *_: ("public", "cache"))
    monkeypatch.setattr(restore, "_beside", copied)
    made, target = config(tmp_path), scratch.Target("label", time="2026-11-22 14:03:00+00:00")
    with pytest.raises(Failed, match="unlogged: a dump has its rows"):
        restore.from_point(made, ["shop"], target, log_of(made, "restore"), "PUBLIC.Cache")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("1 minute ago", 60), ("90 seconds ago", 90), ("2 hours ago", 7200), ("1 day ago", 86400)],
)
def test_a_moment_may_be_some_time_ago(said: str, seconds: int) -> None:
    before = datetime.now(UTC)
    moment = moment_of(said)
    assert timedelta(0) <= moment + timedelta(seconds=seconds) - before < timedelta(minutes=1)


@pytest.mark.parametrize("said", ["minute ago", "1 week ago", "-1 minutes ago", "1 minute", "now"])
def test_what_is_no_moment(said: str) -> None:
    with pytest.raises(WrongUse, match="is not a moment"):
        moment_of(said)
