"""The history of the health check: bounded, and whole whatever happens to its file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import health
from backup.config import Config
from backup.health import history
from backup.health.history import DAY, FILE, FINE, HOUR, KEPT, Point
from backup.health.row import Level, Row
from backup.job import Log
from tests.unit.backup import builders

# Of a day and its intervals; Unix time.
BEGIN = 1_800_000_000 - 1_800_000_000 % DAY


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = builders.config(tmp_path)
    made.logs.mkdir()
    return made


def log_of(config: Config) -> Log:
    return Log(config.logs / "backup.log", "health")


def add(config: Config, moment: int, *rows: Row) -> None:
    now = datetime.fromtimestamp(moment, UTC).isoformat()
    history.add(config, log_of(config), rows or [row(1.0)], now)


def row(value: float | None, level: Level = Level.OK, name: str = "it") -> Row:
    return Row(name, level, "said", value=value)


def points(config: Config, seconds: int = FINE, *, until: int = 1 << 40) -> Sequence[Point]:
    return history.points(config, log_of(config), ["it"], seconds, 0, until)["it"]


def test_an_interval_has_the_worst_of_its_runs(config: Config) -> None:
    add(config, BEGIN, row(3.0, Level.UNKNOWN), row(7.0, name="other"))
    add(config, BEGIN + 299, row(None, Level.CRITICAL))
    add(config, BEGIN + 300, row(5.0, Level.WARNING))
    add(config, BEGIN + HOUR, row(float("inf")))
    assert points(config) == [
        Point(BEGIN, Level.CRITICAL, 3.0),
        Point(BEGIN + 300, Level.WARNING, 5.0),
        Point(BEGIN + HOUR, Level.OK, None),
    ]
    assert points(config, HOUR) == [
        Point(BEGIN, Level.CRITICAL, 5.0),
        Point(BEGIN + HOUR, Level.OK, None),
    ]
    assert points(config, DAY) == [Point(BEGIN, Level.CRITICAL, 5.0)]


def test_the_oldest_intervals_go_and_no_other(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", {FINE: 3, HOUR: 2, DAY: 1})
    for moment in range(BEGIN, BEGIN + 3 * HOUR, FINE):
        add(config, moment)
    end = BEGIN + 3 * HOUR
    assert [point.begin for point in points(config)] == [end - 900, end - 600, end - 300]
    assert [point.begin for point in points(config, HOUR)] == [end - 2 * HOUR, end - HOUR]
    assert [point.begin for point in points(config, DAY)] == [BEGIN]


def test_a_clock_that_leaps_costs_nothing_that_was_there(config: Config) -> None:
    add(config, BEGIN)
    for leap in (BEGIN + 40 * 365 * DAY, 0, BEGIN + FINE):
        add(config, leap)
    times = [0, BEGIN, BEGIN + FINE, BEGIN + 40 * 365 * DAY]
    assert [point.begin for point in points(config)] == times
    # Nor is what was measured then a part of what is shown now.
    assert [point.begin for point in points(config, until=BEGIN + FINE)] == times[:3]


def test_it_does_not_grow(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", dict.fromkeys(KEPT, 5))
    rows = [row(1.0, name=f"postgres database {n} sequences") for n in range(2000)]
    sizes = []
    for moment in range(BEGIN, BEGIN + 16 * DAY, DAY):
        add(config, moment, *rows)
        sizes.append((config.logs / FILE).stat().st_size)
    assert sizes[-1] == sizes[7] < 1 << 20


@given(name=st.text(), value=st.one_of(st.none(), st.floats()))
def test_whatever_a_row_says_is_kept(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: float | None
) -> None:
    config = builders.config(tmp_path_factory.mktemp("kept"))
    config.logs.mkdir()
    add(config, BEGIN, row(value, name=name), row(value, name="\udcff"))
    with sqlite3.connect(config.logs / FILE) as file:
        assert file.execute("SELECT count(*) FROM found").fetchone() == (6,)


def _spoiled(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    file.write_bytes(whole)


def _of_another(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE theirs (id)")


def _of_another_release(file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b"no database " * 1000),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        _spoiled,
        _of_another,
        _of_another_release,
    ],
)
def test_a_damaged_file_is_set_aside(config: Config, spoil) -> None:  # type: ignore[no-untyped-def]
    add(config, BEGIN)
    file = config.logs / FILE
    spoil(file)
    damaged = file.read_bytes()
    add(config, BEGIN + DAY)
    assert [point.begin for point in points(config)] == [BEGIN + DAY]
    assert file.with_name(f"{FILE}.damaged").read_bytes() == damaged
    assert "is damaged" in (config.logs / "backup.log").read_text()


def test_an_empty_file_is_begun(config: Config) -> None:
    (config.logs / FILE).touch()
    add(config, BEGIN)
    assert len(points(config)) == 1


def test_a_run_that_is_killed_leaves_what_there_was(config: Config) -> None:
    add(config, BEGIN)
    script = f"""
import os, signal, sqlite3
from pathlib import Path
from backup.health import history
with sqlite3.connect({str(config.logs / FILE)!r}) as file:
    history._prepare(file)
    # More than is kept in memory, so that it is in the file before it is committed.
    file.execute("PRAGMA cache_size = 1")
    rows = [history.Row(f"row {{n}}", history.Level.OK, "", value=1.0) for n in range(500)]
    for n in range(30):
        history._add(file, rows, {BEGIN} + n * 300)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (config.logs / f"{FILE}-journal").exists()
    assert points(config) == [Point(BEGIN, Level.OK, 1.0)]
    add(config, BEGIN + FINE)
    assert len(points(config)) == 2


def test_a_full_disk_leaves_what_there_was(config: Config) -> None:
    add(config, BEGIN)
    size = (config.logs / FILE).stat().st_size
    script = f"""
import resource, sqlite3
from pathlib import Path
from backup.health import history
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
rows = [history.Row(f"row {{n}}", history.Level.OK, "", value=1.0) for n in range(500)]
try:
    history._once(Path({str(config.logs / FILE)!r}), lambda file: history._add(file, rows, {BEGIN}))
except sqlite3.OperationalError:
    raise SystemExit(9)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 9
    add(config, BEGIN + FINE)
    assert len(points(config)) == 2


def test_what_cannot_be_kept_is_said_and_changes_nothing_else(config: Config) -> None:
    (config.logs / FILE).mkdir()
    health._show(config, log_of(config), [row(1.0)], datetime.now(UTC).isoformat())
    assert "history: not written: " in (config.logs / "backup.log").read_text()


def test_who_reads_it_for_long_holds_nothing_up(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_PATIENCE", 0.1)
    add(config, BEGIN)
    reader = sqlite3.connect(config.logs / FILE)
    reader.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        add(config, BEGIN + FINE)
    reader.close()
    assert len(points(config)) == 1
