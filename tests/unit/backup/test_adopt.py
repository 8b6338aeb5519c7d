"""How many clusters one repository may have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backup import recovery
from backup.config import Config
from backup.job import Failed
from tests.unit.backup import builders


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A backup host whose unit lets PostgreSQL's write the WAL of twenty clusters."""
    config = builders.config(tmp_path)
    assert config.postgres is not None
    config = replace(config, postgres=replace(config.postgres, local=False))
    wal = config.repository / "archive" / config.stack
    places = " ".join(f"-{wal}/15-{number}" for number in range(1, 21))
    monkeypatch.setattr(recovery, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(recovery, "run", lambda _: f"-/var/lib/pgbackrest {places}")
    monkeypatch.setattr(recovery.repository, "system_identifier", lambda _: "7")
    return config


def _has_had(monkeypatch: pytest.MonkeyPatch, clusters: int, *, is_new: bool = True) -> None:
    monkeypatch.setattr(recovery.repository, "archive_id", lambda *_: f"15-{clusters}")
    monkeypatch.setattr(recovery, "stranger", lambda *_: "a new one" if is_new else "")


def test_the_twentieth_cluster_is_adopted(far: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _has_had(monkeypatch, 19)
    recovery._require_room(far)


def test_the_one_after_it_is_refused(far: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is changed: PostgreSQL's host could archive nothing."""
    _has_had(monkeypatch, 20)
    with pytest.raises(Failed, match="has had 20 clusters") as refused:
        recovery._require_room(far)
    assert f"move {far.repository} away" in str(refused.value)


def test_the_cluster_that_is_there_may_be_adopted_again(
    far: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    _has_had(monkeypatch, 20, is_new=False)
    recovery._require_room(far)
