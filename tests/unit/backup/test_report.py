"""A month's evidence: it survives retention, is bounded, and shows every gap."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup import __main__ as program
from backup import outcome, record, report
from backup.config import Config
from backup.job import WrongUse, log_of
from backup.report import page, tables
from tests.unit.backup import builders
from tests.unit.backup.test_page import KNOWN, Seen

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)
FIRST = datetime(2026, 10, 1, 2, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return builders.config(
        tmp_path, databases=("app",), redis=None, schedules={"full": "0 2 * * *"}
    )


def run(config: Config, job: str, moment: datetime, why: str = "", **more: object) -> None:
    """A job of a moment."""
    told = {"outcome": "failed", "why": why} if why else {"outcome": "passed"}
    ended = (moment + timedelta(minutes=2)).isoformat()
    record.add(config, job, {"started": moment.isoformat(), "ended": ended, **told, **more})


def backed_up(config: Config, *days: int) -> None:
    """A full of each day, each noted as its job ended; its files are gone."""
    for day in days:
        made = builders.stored(config, "full", "app", FIRST + timedelta(days=day), b"content")
        run(config, "postgres full", FIRST + timedelta(days=day))
        for path in config.artifacts("postgres").glob(f"{made.name}*"):
            path.unlink()


def made(config: Config, month: str = "2026-10") -> report.Report:
    return report.report(config, month, NOW)


def test_what_retention_has_removed_is_told(config: Config) -> None:
    backed_up(config, *range(31))
    found = made(config)
    assert [m.ended[:10] for m in found.backups] == [f"2026-10-{day:02}" for day in range(1, 32)]
    assert not found.kept and not found.gaps
    told = json.loads(json.dumps(report.told(found)))
    assert told["backups"][0]["of"] == "app" and told["backups"][0]["kept"] is False
    assert len(told["backups"][0]["sha256"]) == 64


def test_a_removal_keeps_what_was_known_at_last(config: Config) -> None:
    backed_up(config, 0)
    first = made(config).backups[0]
    last = replace(first, copies=("s3",)).with_verification("restored in a drill", "2026-10-02")
    record.removal(config, [last], "2026-11-02T03:00:00+00:00")
    assert made(config).backups == [last]


def test_every_gap_is_told(config: Config) -> None:
    backed_up(config, -1, 0, 1, 4, *range(5, 29))
    found = [(gap.after[:10], gap.until[:16]) for gap in made(config).gaps]
    assert found == [("2026-10-02", "2026-10-05T02:00"), ("2026-10-29", "2026-11-01T00:00")]
    # Of a month that goes on, what has passed counts.
    found = [(gap.after[:10], gap.until[:16]) for gap in made(config, "2026-11").gaps]
    assert found == [("2026-10-29", "2026-11-05T12:00")]


def test_a_backup_that_was_not_read_back_closes_no_gap(config: Config) -> None:
    backed_up(config, *range(31))
    bad = builders.manifest("full", "app", FIRST + timedelta(days=3), verified=False)
    record.removal(config, [bad], "2026-11-02T03:00:00+00:00")
    assert [gap.after[:10] for gap in made(config).gaps] == ["2026-10-03"]


def test_a_failure_lasts_until_the_job_works_again(config: Config) -> None:
    run(config, "redis", FIRST, "one")
    run(config, "redis", FIRST + timedelta(hours=4), "two")
    run(config, "redis", FIRST + timedelta(hours=8))
    run(config, "cleanup", FIRST, "a full disk")
    redis, cleanup = made(config).failures
    assert (redis.times, redis.why, redis.recovered[:16]) == (2, "two", "2026-10-01T10:02")
    assert (cleanup.job, cleanup.recovered) == ("cleanup", "")
    assert not made(config, "2026-11").failures


def test_drills_and_restores_are_told_with_their_times(config: Config) -> None:
    run(config, "drill", FIRST, postgres={"rto": 12.5, "rpo": 3600})
    run(config, "restore-postgres", FIRST, what={"time": "10 minutes ago"})
    run(config, "drill", FIRST - timedelta(days=3))
    text = tables.text(made(config))
    assert "12.5" in text and "3600" in text and "time=10 minutes ago" in text
    assert len(made(config).drills) == 1


def test_the_checks_of_before_a_record_count(config: Config) -> None:
    config.logs.mkdir()
    told = {"started": FIRST.isoformat(), "ended": FIRST.isoformat(), "outcome": "passed"}
    (config.logs / "drill.json").write_text(json.dumps(told))
    assert [each["ended"] for each in made(config).drills] == [FIRST.isoformat()]
    assert "No job has been recorded yet" in tables.text(made(config))
    run(config, "drill", FIRST - timedelta(days=1))
    assert not made(config).drills


@pytest.mark.parametrize("month", ["2026-13", "10", "2026-12", "2026-1", "../x"])
def test_what_is_no_month_is_refused(config: Config, month: str) -> None:
    with pytest.raises(WrongUse, match="--month"):
        made(config, month)


@pytest.mark.parametrize(("now", "month"), [("2026-01-31", "2025-12"), ("2026-03-01", "2026-02")])
def test_the_last_month_is_meant(config: Config, now: str, month: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert report.report(config, "", moment).month == month


def test_a_line_that_was_cut_spoils_no_other(config: Config) -> None:
    run(config, "drill", FIRST)
    (file,) = (config.logs / "record").iterdir()
    file.write_bytes(file.read_bytes() + b'{"job": "dri')
    run(config, "drill", FIRST + timedelta(hours=1))
    assert len(made(config).drills) == 2
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_does_not_grow(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LIMIT", 1000)
    for _ in range(50):
        run(config, "drill", FIRST)
    for months in range(40):
        run(config, "drill", FIRST + timedelta(days=31 * months))
    files = sorted((config.logs / "record").iterdir())
    assert len(files) == record.MONTHS
    assert max(each.stat().st_size for each in files) <= 1000


def test_two_write_at_once(config: Config) -> None:
    script = f"""
from pathlib import Path
from backup import record
from tests.unit.backup import builders
config = builders.config(Path({str(config.directory)!r}))
for n in range(100):
    record.add(config, "drill", {{"started": "{FIRST.isoformat()}", "ended": "{FIRST.isoformat()}",
      "outcome": "passed", "why": "x" * 9000}})
"""
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert len(made(config).drills) == 200


def test_a_link_is_not_followed(config: Config, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    (config.logs / "record").mkdir(parents=True)
    (config.logs / "record" / "2026-10.jsonl").symlink_to(other)
    run(config, "drill", FIRST)
    assert other.read_text() == "theirs"


def test_a_secret_is_in_no_line(config: Config) -> None:
    outcome.note(config, "restore-redis", outcome.now(), "canary-admin", {"file": "canary-admin"})
    (file,) = (config.logs / "record").iterdir()
    assert "canary" not in file.read_text() and "<secret>" in file.read_text()


def test_the_page_is_text_of_known_elements(config: Config) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    run(config, "drill", FIRST, hostile)
    record.removal(config, [builders.manifest("full", hostile, FIRST)], FIRST.isoformat())
    found = made(config)
    seen = Seen(page.text(config, found))
    assert seen.tags <= KNOWN and "alert(1)" in seen.text
    assert "\x1b" not in seen.text + tables.text(found)


def test_what_was_asked_for_is_noted_by_name() -> None:
    asked = argparse.Namespace(job="restore-postgres", file=None, table="s.t", to_scratch=True)
    assert program._asked(asked) == {"table": "s.t", "to_scratch": "True"}


def test_a_record_that_cannot_be_written_ends_no_job(config: Config) -> None:
    config.logs.mkdir()
    (config.logs / "record").write_text("no directory")
    outcome.note(config, "redis", outcome.now())
    log_of(config, "redis").line("goes on")
    assert (outcome.last(config, "redis") or {})["outcome"] == "passed"
