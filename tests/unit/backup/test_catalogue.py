"""What status, the health check and the health table say of backups: no "ok" that is not so."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup import catalogue, outcome
from backup.config import Alerts, Config, Endpoint
from backup.job import Failed
from backup.manifest import Manifest
from backup.postgres import backups as postgres
from backup.postgres import locales, repository
from backup.redis import backups as redis
from tests.unit.backup.builders import config, label, manifest, trust

NOW = datetime.now(UTC)
LIVE = "7001"


class _Server:
    """A PostgreSQL that says which cluster it is."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster

    def execute(self, _query: str) -> _Server:
        return self

    def fetchone(self) -> tuple[str]:
        return (self._cluster,)


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A cluster, its repository and the master, as they are when all is well."""
    found: dict[str, Any] = {"live": LIVE, "known": LIVE, "labels": {label(NOW)}, "emptied": ""}
    found["locales"] = []

    @contextlib.contextmanager
    def connect(*_: object, **__: object) -> Iterator[_Server]:
        yield _Server(found["live"])

    (tmp_path / "cron").touch()
    monkeypatch.setattr(catalogue, "CRONTAB", tmp_path / "cron")
    monkeypatch.setattr(postgres, "connect", connect)
    monkeypatch.setattr(repository, "known", lambda _: (found["known"], found["labels"]))
    monkeypatch.setattr(locales, "lacking", lambda *_: found["locales"])
    monkeypatch.setattr(redis, "emptied", lambda *_: found["emptied"])
    return found


@pytest.fixture
def here(tmp_path: Path) -> Config:
    """A host on which everything was backed up just now, and that tells somebody."""
    made = replace(config(tmp_path / "backups"), alerts=Alerts(command="true"))
    trust(made)
    for database in made.databases:
        _store(made, manifest("full", database, NOW, facts={"label": label(NOW)}))
    _store(made, manifest("redis", "redis", NOW, facts={"keys": 3, "expires": 1}))
    return made


def _store(made: Config, each: Manifest) -> None:
    each.write(made.artifacts("redis" if each.kind == "redis" else "postgres"))


def said(capsys: pytest.CaptureFixture[str], made: Config) -> str:
    """The table's line."""
    catalogue.brief(made)
    return capsys.readouterr().out.splitlines()[-1]


def refused(made: Config) -> str:
    """Why status, in both its forms, ends with 1."""
    found = []
    for ask in (catalogue.brief, catalogue.status):
        with pytest.raises(Failed) as failure:
            ask(made)
        found.append(str(failure.value))
    assert found[0] == found[1]
    return found[0]


def test_all_is_well(here: Config, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, here)
    assert line.startswith("newest: full ") and "; " not in line


@pytest.mark.parametrize("job", [*outcome.CHECKS, *outcome.JOBS])
def test_a_job_that_failed_is_told_with_time_and_reason_until_it_works_again(
    here: Config, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    """And no secret is in the reason."""
    if job in outcome.CHECKS:
        with contextlib.suppress(Failed), outcome.recorded(here, job):
            raise Failed("it broke: canary-admin")
    else:
        outcome.note(here, job, outcome.now(), "it broke: canary-admin")
    why = refused(here)
    assert re.match(rf"{job} failed at 20\S+ \d\d:\d\d UTC: it broke", why)
    assert "canary" not in why
    if job in outcome.CHECKS:
        trust(here)
    else:
        outcome.note(here, job, outcome.now())
    assert said(capsys, here).startswith("newest: ")


def test_a_full_makes_up_for_an_incremental_that_failed_before(
    here: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome.note(here, "postgres full", outcome.now())
    monkeypatch.setattr(outcome, "now", lambda: "2099-01-01T00:00:00+00:00")
    outcome.note(here, "postgres incremental", outcome.now(), "it broke")
    assert refused(here).startswith("postgres incremental failed at 2099-01-01 00:00 UTC: ")
    monkeypatch.setattr(outcome, "now", lambda: "2099-01-02T00:00:00+00:00")
    outcome.note(here, "postgres full", outcome.now())
    assert outcome.failures(here) == []


def test_a_job_that_is_not_the_schedules_is_not_remembered(here: Config) -> None:
    outcome.note(here, "restore-postgres", outcome.now(), "no such file")
    assert outcome.failures(here) == []


def test_backups_of_another_cluster_are_none_of_this_one(
    here: Config, servers: dict[str, Any]
) -> None:
    servers["live"] = "7002"
    why = refused(here)
    assert "7002" in why and LIVE in why
    assert "restore-cluster.sh" in why and "backup.sh adopt" in why


def test_a_repository_without_the_newest_full_is_named(
    here: Config, servers: dict[str, Any]
) -> None:
    """As after another stack_name."""
    servers["labels"] = set()
    assert "is not in the repository of stack: take one with postgres-backup.sh full" in refused(
        here
    )


def test_an_emptied_master_is_named(here: Config, servers: dict[str, Any]) -> None:
    servers["emptied"] = "the master is empty"
    assert refused(here) == "the master is empty"


def test_a_locale_that_this_host_lacks_is_told_once(here: Config, servers: dict[str, Any]) -> None:
    """The drill that failed of it says so too."""
    servers["locales"] = ["db1 has no locale"]
    assert refused(here) == "db1 has no locale"
    with contextlib.suppress(Failed), outcome.recorded(here, "drill"):
        raise Failed(servers["locales"][0])
    assert refused(here).count("db1 has no locale") == 1


def test_a_new_database_has_no_backup_yet(here: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.postgres is not None
    databases = (*here.databases, "new")
    made = replace(here, postgres=replace(here.postgres, databases=databases))
    assert said(capsys, made).endswith("; no full backup of new yet")
    catalogue.status(made)
    assert "no full backup of new yet\n" in capsys.readouterr().out


def test_nobody_who_would_be_told_is_said(here: Config, capsys: pytest.CaptureFixture[str]) -> None:
    silent = replace(here, alerts=Alerts())
    assert said(capsys, silent).endswith("; no alert channel is set (backup_alert_webhook)")
    told = replace(here, alerts=Alerts(elsewhere=True))
    assert "no alert channel" not in said(capsys, told)


@pytest.mark.parametrize(
    ("empty", "known", "kept", "lasting", "is_lost"),
    [
        (True, False, True, True, True),
        (False, False, True, True, False),
        # An application may remove all keys, and those with a time end by themselves.
        (True, True, True, True, False),
        (True, False, True, False, False),
        # It keeps nothing over a restart, as its settings say.
        (True, False, False, True, False),
    ],
)
def test_an_empty_master_is_lost_if_it_is_another_one_than_that_of_the_snapshot(
    here: Config,
    monkeypatch: pytest.MonkeyPatch,
    *,
    empty: bool,
    known: bool,
    kept: bool,
    lasting: bool,
    is_lost: bool,
) -> None:
    monkeypatch.undo()

    class _Client:
        def info(self) -> dict[str, Any]:
            return {
                "role": "master", "loading": 0, "aof_rewrite_in_progress": 0,
                "aof_rewrite_scheduled": 0, "master_repl_offset": 1, "redis_version": "7",
                "maxmemory": 0, "used_memory": 1, "aof_enabled": int(kept),
                "aof_last_bgrewrite_status": "ok", "master_replid": "b",
                "master_replid2": "a" if known else "0", **({} if empty else {"db0": {"keys": 1}}),
            }  # fmt: skip

        def execute_command(self, *_: str) -> list[str]:
            return ["save", ""]

    @contextlib.contextmanager
    def talking(*_: object) -> Iterator[_Client]:
        yield _Client()

    monkeypatch.setattr(redis.roles, "talking", talking)
    monkeypatch.setattr(redis.roles, "master", lambda _: Endpoint("127.0.0.1", 6379))
    facts = {"keys": 3, "expires": 1 if lasting else 3, "master_replid": "a"}
    why = redis.emptied(here, manifest("redis", "redis", NOW, facts=facts))
    assert ("restore-redis.sh" in why) == is_lost
