"""A passphrase that is replaced: both open backups, and what only the old one opens is kept."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup import crypt, job, passphrase
from backup.config import Config, Place
from backup.job import Failed
from backup.manifest import Verification, digest
from backup.redis import rdb
from tests.unit.backup import builders

OLD, NEW, CONTENT = "old passphrase", "new passphrase", b"content" * 1000


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Only Redis, in the middle of a rotation."""
    monkeypatch.setattr(job, "LOCKS", tmp_path / "locks")
    made = builders.config(tmp_path / "backups", postgres=None)
    return replace(made, encryption_passphrase=NEW, encryption_passphrase_previous=OLD)


def written(config: Config, passphrase: str, stamp: str, *verified: str) -> Path:
    """A snapshot and its manifest."""
    path = config.artifacts("redis") / f"redis_{stamp}.rdb.gz.gpg"
    own = replace(config, encryption_passphrase=passphrase)
    with path.open("wb") as file, crypt.writer(own, file) as sealed:
        sealed.write(gzip.compress(CONTENT))
    moment = datetime.strptime(f"{stamp}+0000", "%Y%m%d_%H%M%S%z")
    manifest = builders.manifest("redis", "redis", moment)
    checks = tuple(Verification(what, manifest.ended) for what in verified)
    manifest = replace(manifest, name=path.name, sha256=digest(path), verified=checks)
    replace(manifest, bytes=path.stat().st_size).write(path.parent)
    return path


@pytest.mark.parametrize("passphrase", [OLD, NEW])
def test_both_passphrases_open(config: Config, passphrase: str) -> None:
    path = written(config, passphrase, "20260101_000000")
    assert b"".join(rdb.unpack(config, path)) == CONTENT


def test_without_the_old_one_its_backups_stay_closed(config: Config) -> None:
    path = written(config, OLD, "20260101_000000")
    with pytest.raises(Failed, match="decryption of"):
        list(rdb.unpack(replace(config, encryption_passphrase_previous=""), path))


def test_what_is_written_opens_with_the_new_one_alone(config: Config) -> None:
    path = written(config, NEW, "20260101_000000")
    assert (crypt.opens(NEW, path), crypt.opens(OLD, path)) == (True, False)


def test_a_damaged_one_opens_with_neither(config: Config) -> None:
    path = written(config, OLD, "20260101_000000")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Failed, match="decryption of"):
        list(rdb.unpack(config, path))


def test_the_old_one_stays_until_a_new_backup_was_restored(config: Config) -> None:
    written(config, OLD, "20260101_000000", "restored in a drill")
    assert "no backup of Redis was made with the new" in passphrase.unready(config)
    written(config, NEW, "20260102_000000", "unpacked")
    assert passphrase.unready(config).startswith(
        "redis_20260102_000000.rdb.gz.gpg was not restored"
    )
    with pytest.raises(Failed, match="was not restored by a drill yet"):
        passphrase.set_aside(config)
    written(config, NEW, "20260102_000000", "unpacked", "restored in a drill")
    assert passphrase.unready(config) == ""
    # A schedule makes more of them than drills restore.
    written(config, NEW, "20260103_000000", "unpacked")
    assert passphrase.unready(config) == ""
    written(config, OLD, "20260104_000000", "restored in a drill")
    assert "no backup of Redis was made with the new" in passphrase.unready(config)


def test_what_only_the_old_one_opens_is_kept_beside(config: Config) -> None:
    old = written(config, OLD, "20260101_000000")
    new = written(config, NEW, "20260102_000000", "restored in a drill")
    content = old.read_bytes()
    place = passphrase.set_aside(config)
    assert sorted(path.name for path in (place / "redis").iterdir()) == [
        old.name,
        f"{old.name}.manifest.json",
    ]
    assert (place / "redis" / old.name).read_bytes() == content
    assert new.exists() and not old.exists()
    assert b"".join(rdb.unpack(replace(config, encryption_passphrase_previous=""), new)) == CONTENT


def test_interrupted_among_repositories_it_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is asked nothing any more: its index went first."""
    moved = _ran_here(monkeypatch)
    both = replace(config, repositories=(Place(2, "2-ab"), Place(1)))
    root = both.repository
    for name in ("archive", "2-ab/archive", "2-ab/backup"):
        (root / name).mkdir(parents=True)
    assert passphrase.unready(both) == ""
    place = passphrase.set_aside(both)
    assert [path.name for path in (place / "pgbackrest").iterdir()] == ["archive"]
    assert sorted(path.name for path in root.iterdir()) == ["2-ab"]
    assert passphrase.set_aside(both) == place
    # What is postgres's may lead elsewhere.
    assert moved == ["postgres"]


def _ran_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands are this user's; returns as whom things were moved."""
    moved = list[str]()

    def run(command: list[str], user: str = "") -> str:
        if command[0] == "install":
            command = ["mkdir", "-p", command[-1]]
        else:
            moved.append(user)
        return job.run(command)

    monkeypatch.setattr(passphrase, "run", run)
    return moved


def fetched(config: Config) -> Config:
    """As a host has it that was told the new passphrase alone."""
    return replace(config, encryption_passphrase_previous="")


def test_what_was_fetched_and_does_not_open_is_kept_beside(config: Config) -> None:
    old, new = written(config, OLD, "20260101_000000"), written(config, NEW, "20260102_000000")
    content = old.read_bytes()
    place = passphrase.set_closed_aside(fetched(config))
    assert place is not None and (place / "redis" / old.name).read_bytes() == content
    assert (place / "redis" / f"{old.name}.manifest.json").exists()
    assert new.exists() and not old.exists()
    assert passphrase.set_closed_aside(fetched(config)) is None


def test_what_is_kept_beside_is_known_as_long_as_it_does_not_open(config: Config) -> None:
    old = written(config, OLD, "20260101_000000")
    written(config, NEW, "20260102_000000")
    assert passphrase.kept_closed(fetched(config)) == set()
    assert passphrase.set_closed_aside(fetched(config)) is not None
    kept = {f"redis/{old.name}", f"redis/{old.name}.manifest.json"}
    assert passphrase.kept_closed(fetched(config)) == {"redis", *kept}
    assert passphrase.kept_closed(config) == set()


@pytest.mark.parametrize("known", [OLD, "a wrong one"])
def test_nothing_moves_where_all_opens_or_nothing_does(config: Config, known: str) -> None:
    both = [written(config, OLD, "20260101_000000"), written(config, NEW, "20260102_000000")]
    present = NEW if known == OLD else known
    told = replace(config, encryption_passphrase=present, encryption_passphrase_previous=known)
    assert passphrase.set_closed_aside(told) is None
    assert all(path.exists() for path in both)


def test_increments_and_their_repository_go_with_their_full(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = _ran_here(monkeypatch)
    for where, key, day in (("", OLD, 1), ("2-ab", NEW, 2)):
        full = dumped(config, key, day)
        (config.repository / where / "backup" / config.stack / full).mkdir(parents=True)
        (config.repository / where / "archive").mkdir()
    place = passphrase.set_closed_aside(fetched(config))
    assert place is not None
    assert [len(list((root / "postgres").iterdir())) for root in (place, config.directory)] == [
        3,
        3,
    ]
    assert sorted(path.name for path in (place / "pgbackrest").iterdir()) == ["archive", "backup"]
    assert [path.name for path in config.repository.iterdir()] == ["2-ab"]
    # It is root's as long as a fetch lasts.
    assert moved == ["", ""]


def dumped(config: Config, passphrase: str, day: int) -> str:
    """A dump and an increment of a day, with their manifests; returns the label of the full."""
    path = written(config, passphrase, f"2026010{day}_000000")
    moment = datetime(2026, 1, day, tzinfo=UTC)
    full, increment = (
        builders.manifest("full", "app", moment),
        builders.manifest("incremental", "app", moment),
    )
    label = builders.label(moment)
    dump = config.artifacts("postgres") / f"{full.name}.gpg"
    path.rename(dump)
    path.with_name(f"{path.name}.manifest.json").unlink()
    size, facts = dump.stat().st_size, {"label": label}
    replace(full, name=dump.name, bytes=size, sha256="x", facts=facts).write(dump.parent)
    facts = {"label": f"{label}_{moment:%Y%m%d}-010000I"}
    replace(increment, sha256="", facts=facts).write(dump.parent)
    return label
