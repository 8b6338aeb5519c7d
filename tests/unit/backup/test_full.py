"""A database that cannot be dumped keeps no other from its dump."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backup import __main__ as main
from backup import alert
from backup.job import DONE, FAILED, Failed, Incomplete, Log
from backup.manifest import Manifest
from backup.postgres import backups as postgres
from backup.postgres import load, repository
from tests.unit.backup.builders import config, manifest

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("why", [Failed("it is locked"), psycopg.errors.LockNotAvailable("locked")])
def test_the_others_are_dumped_and_their_latest_moves(
    why: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(tmp_path, databases=("first", "bad", "last"))
    directory = made.artifacts("postgres")

    def dump(_config: Any, kind: str, _moment: str, database: str, _point: Any) -> Manifest:
        if database == "bad":
            raise why
        one = manifest(kind, database, NOW)
        one.path(directory).write_bytes(b".")
        return one

    monkeypatch.setattr(postgres, "_dump", dump)
    monkeypatch.setattr(postgres, "_unreadable", lambda *_: "")
    monkeypatch.setattr(postgres, "restore_point", lambda *_: {})
    monkeypatch.setattr(repository, "take", lambda *_: None)
    monkeypatch.setattr(load, "sweep", lambda *_: None)
    with pytest.raises(Incomplete, match=r"^no dump of bad: .*locked"):
        postgres.full(made, Log(tmp_path / "log", "postgres full"))
    links = {path.name: path.readlink().name for path in directory.iterdir() if path.is_symlink()}
    assert links == {
        f"{name}_full_LATEST.sql.gz": f"{name}_full_20300101_000000.sql.gz"
        for name in ("first", "last")
    }


@pytest.mark.parametrize(
    ("end", "code", "copied"),
    [(None, DONE, True), (Incomplete("no dump of x"), FAILED, True), (Failed("x"), FAILED, False)],
)
def test_what_was_done_is_copied(
    end: Exception | None, code: int, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, copies = list[str](), list[str]()
    monkeypatch.setattr(alert, "failed", lambda _config, name, *_: told.append(name))
    monkeypatch.setattr(alert, "succeeded", lambda *_: None)

    def run(*_: Any) -> None:
        if end:
            raise end

    job = main._Job(run, then=lambda *_: copies.append("copied"))
    arguments = Namespace(job="postgres", type="full")
    assert main._run(config(tmp_path), job, arguments) == code
    assert told == ([] if end is None else ["postgres full"])
    assert bool(copies) == copied


def test_a_directory_that_takes_no_file_is_said_at_once(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.artifacts("postgres").rmdir()
    made.artifacts("postgres").write_text("no directory")
    with pytest.raises(Failed, match=f"^{tmp_path} cannot be written to: "):
        postgres.full(made, Log(tmp_path / "log", "postgres full"))
