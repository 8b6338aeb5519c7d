"""Root gives nothing away and writes nothing along a path that somebody else owns."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from backup import recovery

ROOT = Path(__file__).resolve().parents[3]
# What gives files away: to the scratch user below a directory of root's, and the whole repository.
_GIVING = {"sandbox.py", "recovery.py"}
_BESIDE = r"\$\{?(data|marker|log|aside|wal)\b"
_CHANGES = r"\b(mv|rm|mkdir|install|chown|chmod|cp|touch|tee|cat|ln)\b"


def test_only_two_modules_give_files_away() -> None:
    giving = {p.name for p in (ROOT / "backup").glob("*.py") if "chown" in p.read_text()}
    assert giving == _GIVING


def test_restore_cluster_touches_what_postgres_owns_as_postgres() -> None:
    text = (ROOT / "templates/backup/restore-cluster.sh.j2").read_text()
    lines = [line.strip() for line in text.splitlines() if re.search(_BESIDE, line)]
    changes = [line for line in lines if re.match(_CHANGES, line) or re.search(r'>"\$', line)]
    # `chown` only where the whole way there is root's.
    changes = [line for line in changes if not line.startswith('[ "$owner" = postgres ] ||')]
    assert [line for line in changes if not line.startswith(("beside", "as_postgres"))] == []
    assert any(line.startswith("beside mv") for line in lines)


def test_a_repository_is_given_without_following_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda file, *_: given.append(os.fstat(file).st_ino))
    victim, outside = tmp_path / "victim", tmp_path / "outside"
    victim.write_text("root's")
    victim.chmod(0o600)
    outside.mkdir()
    (outside / "file").write_text("root's")
    repository = tmp_path / "pgbackrest"
    (repository / "archive").mkdir(parents=True)
    (repository / "archive/segment").write_text("WAL")
    (repository / "archive/link").symlink_to(victim)
    (repository / "archive/hard").hardlink_to(victim)
    (repository / "backup").symlink_to(outside)
    recovery._give(repository, "root")
    there = {path.relative_to(repository).as_posix() for path in repository.rglob("*")}
    assert there == {"archive", "archive/segment"}
    mine = [repository, repository / "archive", repository / "archive/segment"]
    assert sorted(given) == sorted(path.stat().st_ino for path in mine)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("root's", 0o600)
