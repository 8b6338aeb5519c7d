"""Root gives nothing away and writes nothing along a path that somebody else owns."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from backup import recovery
from backup.job import Failed
from backup.owned import opened
from backup.redis import rdb
from backup.store import layout as store_layout
from backup.store.layout import Item
from tests.unit.backup.builders import sources

ROOT = Path(__file__).resolve().parents[3]
# What gives files away: to who works below a directory of root's, and the whole repository.
_GIVING = {"owned.py", "manifest.py", "postgres/sandbox.py", "recovery.py"}
_BESIDE = r"\$\{?(data|marker|log|aside|wal)\b"
_CHANGES = r"\b(mv|rm|mkdir|install|chown|chmod|cp|touch|tee|cat|ln)\b"


def test_few_modules_give_files_away() -> None:
    assert {name for name, text in sources().items() if "chown" in text} == _GIVING


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
    recovery.give(repository, "root")
    there = {path.relative_to(repository).as_posix() for path in repository.rglob("*")}
    assert there == {"archive", "archive/segment"}
    mine = [repository, repository / "archive", repository / "archive/segment"]
    assert sorted(given) == sorted(path.stat().st_ino for path in mine)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("root's", 0o600)


def test_what_redis_has_made_is_read_by_programs_with_its_rights() -> None:
    """A server's file is read by what may have faults: never by root's own process."""
    starts = r'"redis-(?:server|check-rdb|cli)", (?!"--version")'
    starting = {name: text for name, text in sources().items() if re.search(starts, text)}
    assert {*starting} == {"redis/backups.py", "redis/rdb.py", "redis/scratch.py"}
    assert all("as_redis(" in text for text in starting.values())
    shell = "".join(
        path.read_text()
        for path in (ROOT / "tasks/redis").rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    )
    started = re.findall(r"(?m)^.*redis-server (?:-|\S*conf).*$", shell)
    assert started
    assert [
        line for line in started if "runuser -u redis" not in line and "command =" not in line
    ] == []

    # The user's, with no way back.
    given = {"--reuid=redis", "--regid=redis", "--clear-groups", "--inh-caps=-all"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 0)
        assert {"setpriv", "--no-new-privs", *given} <= {*rdb.as_redis()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one segment, and a directory of root's beside it."""
    place = tmp_path / "pgbackrest"
    (place / "archive").mkdir(parents=True)
    (place / "archive/segment").write_text("WAL")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/segment").write_text("root's")
    return place


def test_a_file_of_others_is_read_where_it_lies(repository: Path) -> None:
    with opened(repository / "archive/segment", 3) as file:
        assert file.read() == b"WAL"
    with pytest.raises(FileNotFoundError):
        opened(repository / "archive/gone", 3)


@pytest.mark.parametrize("what", ["link", "directory", "pipe", "hard link"])
def test_what_leads_elsewhere_is_not_read(repository: Path, what: str) -> None:
    segment, victim = repository / "archive/segment", repository.parent / "archive/segment"
    segment.unlink()
    if what == "link":
        segment.symlink_to(victim)
    elif what == "directory":
        (repository / "archive").rmdir()
        (repository / "archive").symlink_to(victim.parent)
    elif what == "pipe":
        os.mkfifo(segment)
    elif os.geteuid():
        pytest.skip("gives a directory away")
    else:
        segment.hardlink_to(victim)
        os.chown(segment.parent, 54321, 54321)
    with pytest.raises(Failed):
        opened(segment, 3)
    item = Item("pgbackrest/archive/segment", segment)
    for read in (item.digest, item.open):
        with pytest.raises(Failed):
            read()


def test_the_copy_to_the_bucket_opens_files_in_one_way_only() -> None:
    for name in ("layout.py", "mirror.py"):
        text = (ROOT / "backup/store" / name).read_text()
        assert not re.search(r"\.read_bytes\(|\.read_text\(|(?<!item)(?<!self)\.open\(\"", text)
        assert "digest(item.path" not in text and "digest(self.path" not in text
    assert store_layout.opened is opened
