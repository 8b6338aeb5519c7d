"""The health check: levels, limits, since when, and who is late."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backup import health
from backup.config import Alerts, Limits
from backup.health import asking, disk, since
from backup.health.redis import agreement
from backup.health.row import Level, Row, measured, worst
from backup.job import Failed
from tests.unit import helpers
from tests.unit.backup import builders

NOW = "2026-01-02T00:00:00+00:00"


@pytest.mark.parametrize(
    ("value", "limits", "level"),
    [
        (79.9, Limits(80, 95), Level.OK),
        (80, Limits(80, 95), Level.WARNING),
        (95, Limits(80, 95), Level.CRITICAL),
        (99, Limits(80, 0), Level.WARNING),
        (1, Limits(0, 1), Level.CRITICAL),
        (float("inf"), Limits(1024, 0), Level.WARNING),
        (1e9, Limits(0, 0), Level.OK),
    ],
)
def test_a_limit_that_is_reached_is_the_level(value: float, limits: Limits, level: Level) -> None:
    assert measured("it", value, "so many", limits, "%").level is level


def test_what_is_critical_speaks_for_all_and_unknown_before_a_warning() -> None:
    rows = [Row("it", level, "") for level in (Level.OK, Level.WARNING, Level.UNKNOWN)]
    assert worst([]) is Level.OK
    assert worst(rows) is Level.UNKNOWN
    assert worst([*rows, Row("it", Level.CRITICAL, "")]) is Level.CRITICAL


def test_sentinels_that_name_two_masters_disagree() -> None:
    rows = [Row(f"redis-sentinel {n}", Level.OK, "", master=m) for n, m in enumerate("aab")]
    silent = Row("redis-sentinel 3", Level.CRITICAL, "no answer")
    assert agreement([*rows[:2], silent]).level is Level.OK
    split = agreement([*rows, silent])
    assert (split.level, split.said) == (Level.CRITICAL, "they name a and b")


def test_a_row_says_since_when_it_has_its_level(tmp_path: Path) -> None:
    config = builders.config(tmp_path)
    config.logs.mkdir(parents=True, exist_ok=True)
    first = [replace(row, since="2026-01-01T00:00:00+00:00") for row in _rows(Level.WARNING)]
    since.keep(config, since.report(first, NOW))
    again = since.dated(config, _rows(Level.WARNING), NOW)
    assert [row.since for row in again] == ["2026-01-01T00:00:00+00:00"] * 2
    other = since.dated(config, [*_rows(Level.WARNING)[:1], *_rows(Level.OK)[1:]], NOW)
    assert [row.since == "2026-01-01T00:00:00+00:00" for row in other] == [True, False]


def test_a_warning_is_told_when_it_is_found_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    alerts = Alerts(command=f'echo "$DATATIER_STATUS $DATATIER_MESSAGE" >>{told}')
    config = builders.config(tmp_path / "backups", alerts=alerts)
    config.logs.mkdir(parents=True, exist_ok=True)

    def check(*rows: Row) -> None:
        now = f"2026-01-01T00:0{next(minutes)}:00+00:00"
        found = since.dated(config, rows, now)
        since.keep(config, since.report(found, now))
        health._warn(config, found, now)

    minutes = itertools.count()
    first, other = _rows(Level.WARNING)
    check(first)
    check()
    check(first)
    assert not told.exists()
    check(first, other)
    check(first, other)
    check(first, other)
    check()
    assert told.read_text().splitlines() == [
        "failed warning: one",
        "failed warning: one, other",
        "recovered no warning is left",
    ]


def _rows(level: Level) -> list[Row]:
    return [Row("one", level, "said"), Row("other", level, "said")]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{}]}', '{"rows": 1}', "\udcff"])
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    config = builders.config(tmp_path)
    config.logs.mkdir(parents=True, exist_ok=True)
    (config.logs / "health.json").write_bytes(os.fsencode(content))
    assert since.dated(config, _rows(Level.OK), NOW)[0].since == NOW


def test_who_hangs_makes_no_other_late_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    ends = threading.Event()

    def hang() -> list[Row]:
        ends.wait()
        return []

    def fail() -> list[Row]:
        raise Failed("no\nanswer")

    def stop() -> Iterator[Row]:
        yield Row("stops", Level.OK, "yes")
        raise Failed("no more")

    def slow() -> Iterator[Row]:
        yield Row("slow", Level.OK, "yes")
        time.sleep(0.4)
        yield Row("late", Level.OK, "in time")

    def stuck() -> Iterator[Row]:
        yield Row("stuck", Level.OK, "yes")
        yield from hang()

    probes = [
        asking.Probe("hangs", hang),
        asking.Probe("fails", fail),
        asking.Probe("stops", stop),
        asking.Probe("slow", slow, 5),
        asking.Probe("stuck", stuck, 0.3),
        asking.Probe("behind", fail, behind=("slow", "fails")),
        asking.Probe("beside", lambda: [Row("beside", Level.OK, "")], behind=("slow", "late")),
        asking.Probe("well", lambda: [Row("well", Level.OK, "yes"), Row("more", Level.OK, "")]),
    ]
    own = asking.Probe("own", lambda: [Row("own", Level.OK, "")])
    rows = asking.answers(probes, meanwhile=own)
    ends.set()
    assert [(row.name, row.level) for row in rows] == [
        ("hangs", Level.CRITICAL),
        ("fails", Level.CRITICAL),
        ("stops", Level.OK),
        ("stops: the rest", Level.UNKNOWN),
        ("slow", Level.OK),
        ("late", Level.OK),
        ("stuck", Level.OK),
        ("stuck: the rest", Level.UNKNOWN),
        ("beside", Level.OK),
        ("well", Level.OK),
        ("more", Level.OK),
        ("own", Level.OK),
    ]
    assert [row.said for row in rows[:2]] == ["no answer within 0.2 s", "no answer"]


def test_disks_are_measured_as_df_does(tmp_path: Path) -> None:
    limits = {"disk": Limits(0, 0)}
    config = replace(builders.config(tmp_path), directory=tmp_path, limits=limits)
    room, inodes = disk.rows(config)
    asked = ["df", "--output=pcent,ipcent", str(tmp_path)]
    wanted = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    # df rounds up.
    percents = [int(word.rstrip("%")) for word in wanted.split()[-2:]]
    found = [int(row.said.split()[0]) for row in (room, inodes)]
    assert all(0 <= want - have <= 1 for want, have in zip(percents, found, strict=True))


def test_what_is_critical_comes_after_a_warning(tmp_path: Path) -> None:
    everything = helpers.estate(
        {
            "a": {
                "address": "10.0.0.1",
                "health_disk_warn": 90,
                "health_disk_crit": 90,
                "health_dsk_warn": 1,
            }
        },
        {"backup": ["a"]},
        tmp_path,
    )
    assert {str(problem) for problem in everything.problems} == {
        "a: health_disk_crit: should be more than health_disk_warn, or 0 for never",
        "a: health_dsk_warn: unknown key (health_disk_warn?)",
    }
