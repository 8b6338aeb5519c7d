"""Retention: the rules as properties of simulated years, and clean-up on real files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backup import outcome, retention
from backup.config import Config
from backup.job import Failed, Log
from backup.manifest import Manifest
from backup.retention import Decision, apply, decide, labels_to_keep
from tests.unit.backup import builders
from tests.unit.backup.builders import label, manifest

START = datetime(2026, 1, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
LAST = START + 400 * DAY
# The stack has the name of a database, as it has by default.
DATABASES = ("app", "app-prod", "stack")


def names(choices: tuple[retention.Choice, ...]) -> set[str]:
    return {choice.manifest.name for choice in choices}


# --- 400 days ------------------------------------------------------------------------------------


def a_day(day: int, fate: int, increments: int, base: datetime | None) -> Iterator[Manifest]:
    """What a day's jobs leave: fate is a bit mask of what fails or is not verified."""
    moment = START + day * DAY
    if not fate & 1:
        facts = {"label": label(moment)}
        yield manifest("globals", "", moment, facts=facts, verified=not fate & 2)
        for index, database in enumerate(DATABASES):
            if not fate & (4 << index):
                good = not fate & (32 << index)
                yield manifest("full", database, moment, facts=facts, verified=good)
        base = moment
    for number in range(increments):
        later = moment + timedelta(hours=6 * (number + 1))
        if base is not None:
            facts = {"parent": builders.stamp(base), "label": label(base)}
            if fate & 256:  # block increments have labels of their own
                facts["label"] = f"{label(base)}_{later:%Y%m%d-%H%M%S}I"
            yield manifest("incremental", "stack", later, facts=facts)
    if not fate & 512:
        yield manifest("redis", "redis", moment, verified=not fate & 1024)


days = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 2047), st.sampled_from([1, 224, 2047])),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)
retentions = st.integers(0, 40)
minimums = st.integers(0, 5)


class World:
    """400 days of jobs with a clean-up after each, the days' fates repeated as needed."""

    def __init__(self, pattern: list[tuple[int, int]], keep_days: int, min_full: int) -> None:
        self.there: list[Manifest] = []
        self.ever: list[Manifest] = []
        self.base: datetime | None = None
        for day in range(400):
            fate, increments = pattern[(day * 7 + day // 31) % len(pattern)]
            made = list(a_day(day, fate, increments, self.base))
            if any(m.kind == "full" for m in made):
                self.base = START + day * DAY
            self.there += made
            self.ever += made
            decision = decide(self.there, START + day * DAY + DAY / 2, keep_days, min_full)
            require_rules(self.there, decision, keep_days, min_full)
            self.there = [choice.manifest for choice in decision.keep]


def require_rules(there: list[Manifest], decision: Decision, keep_days: int, min_full: int) -> None:
    """The rules, each computed in another way than the code does."""
    kept, gone = ([c.manifest for c in part] for part in (decision.keep, decision.delete))
    assert sorted(m.name for m in kept + gone) == sorted(m.name for m in there)
    assert all(choice.why for choice in decision.keep + decision.delete)
    require_newest(there, kept, min_full)
    for old in gone:
        require_replaced(old, kept)
        require_unneeded(old, kept)
    newest = max((m.stamp for m in there if m.verified), default="0")
    require_not_young(gone, newest, keep_days)


def require_newest(there: list[Manifest], kept: list[Manifest], min_full: int) -> None:
    for kind, of in {(m.kind, m.of) for m in there if m.kind in ("full", "redis")}:
        mine = sorted(m.stamp for m in there if (m.kind, m.of) == (kind, of) and m.verified)
        left = {m.stamp for m in kept if (m.kind, m.of) == (kind, of) and m.verified}
        assert set(mine[-max(1, min_full) :]) <= left


def require_replaced(old: Manifest, kept: list[Manifest]) -> None:
    same = [m for m in kept if m.verified and m.stamp > old.stamp]
    if old.kind == "incremental":
        assert any(m.kind in ("incremental", "full") for m in same)
    else:
        assert any(m.kind == old.kind and m.of == old.of for m in same)


def require_unneeded(old: Manifest, kept: list[Manifest]) -> None:
    for child in kept:
        if child.kind == "incremental" and old.kind == "full":
            assert child.facts["parent"] != old.stamp
        if child.kind == "incremental" and old.kind == "incremental":
            mine, others = child.facts["label"], old.facts["label"]
            block = "_" in mine and "_" in others
            assert not (block and mine[:16] == others[:16] and others < mine)
        if child.kind == "full" and old.kind == "globals":
            assert child.stamp != old.stamp


def require_not_young(gone: list[Manifest], newest: str, keep_days: int) -> None:
    for old in gone:
        age = datetime.strptime(newest, "%Y%m%d_%H%M%S") - datetime.strptime(
            old.stamp, "%Y%m%d_%H%M%S"
        )
        assert age > timedelta(days=keep_days)


@given(pattern=days, keep_days=retentions, min_full=minimums)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_rules_hold_over_400_days(
    pattern: list[tuple[int, int]], keep_days: int, min_full: int
) -> None:
    World(pattern, keep_days, min_full)


@pytest.mark.parametrize(("keep_days", "min_full"), [(30, 3), (7, 1), (1, 7), (5, 0)])
def test_a_quiet_year_leaves_what_was_asked_for(keep_days: int, min_full: int) -> None:
    world = World([(0, 3)], keep_days, min_full)
    for database in DATABASES:
        fulls = [m for m in world.there if m.kind == "full" and m.of == database]
        assert len(fulls) in range(max(keep_days, min_full), max(keep_days, min_full) + 3)
    assert len(world.there) < 10 * (max(keep_days, min_full) + 3)


def test_kept_labels_are_those_of_kept_backups_and_of_what_they_build_on() -> None:
    world = World([(256, 3), (0, 2), (3, 1)], 10, 2)
    decision = decide(world.there, LAST, 10, 2)
    kept = [choice.manifest for choice in decision.keep]
    wanted = {m.facts["label"] for m in kept if "label" in m.facts}
    wanted |= {m.facts["label"][:16] for m in kept if "label" in m.facts}
    assert labels_to_keep(decision) == wanted


# --- Single rules --------------------------------------------------------------------------------


def fulls(database: str, *ages: int, verified: bool = True) -> list[Manifest]:
    return [manifest("full", database, LAST - age * DAY, verified=verified) for age in ages]


def test_databases_whose_names_begin_alike_never_mix() -> None:
    there = fulls("app", 90, 80, 70) + fulls("app-prod", 3, 2, 1)
    assert names(decide(there, LAST, 30, 1).keep) >= {fulls("app", 70)[0].name}
    assert names(decide(there, LAST, 30, 3).delete) == set()


def test_unverified_fulls_do_not_count() -> None:
    there = fulls("app", 60, 50) + fulls("app", 40, 3, 2, 1, verified=False) + fulls("b", 1)
    assert names(decide(there, LAST, 30, 1).delete) == {fulls("app", 60)[0].name}


def test_nothing_verified_means_nothing_goes() -> None:
    there = fulls("app", 300, 200, 100, verified=False)
    assert not decide(there, LAST, 30, 1).delete


def test_when_backups_stop_nothing_grows_old() -> None:
    there = fulls("app", *range(40, 70))
    assert not decide(there, LAST, 30, 1).delete


def test_a_clock_that_leapt_ahead_deletes_nothing() -> None:
    there = fulls("app", *range(30)) + [manifest("redis", "redis", LAST - n * DAY) for n in (1, 9)]
    assert not decide(there, LAST + 3650 * DAY, 30, 1).delete


def test_backups_of_a_clock_that_was_ahead_stay_and_do_not_count() -> None:
    there = fulls("app", -4000, -4001) + fulls("app", *range(60))
    decision = decide(there, LAST, 30, 3)
    assert names(decision.delete) == {m.name for m in fulls("app", *range(31, 60))}
    assert decision.newest == (fulls("app", 0)[0],)


def test_a_clock_that_fell_back_deletes_nothing() -> None:
    there = fulls("app", *range(60))
    assert not decide(there, LAST - 3650 * DAY, 30, 1).delete


def test_an_unreadable_stamp_stays() -> None:
    odd = [
        manifest("full", "app", LAST, name=f"odd{stamp}", stamp=stamp)
        for stamp in ("", "20261399_000000", "yesterday", "20260101_0200 0")
    ]
    assert {m.name for m in odd} <= names(decide(odd + fulls("app", 1), LAST, 0, 1).keep)


def test_globals_stay_with_their_full_and_one_verified_stays_anyway() -> None:
    old, lonely = LAST - 90 * DAY, LAST - 80 * DAY
    there = [
        *fulls("app", 90, 1),
        *(manifest("globals", "", moment) for moment in (old, lonely, LAST - 70 * DAY)),
        manifest("globals", "", LAST - DAY, verified=False),
    ]
    kept = names(decide(there, LAST, 30, 2).keep)
    assert manifest("globals", "", old).name in kept
    assert manifest("globals", "", lonely).name not in kept
    assert manifest("globals", "", LAST - 70 * DAY).name in kept


def test_an_increment_keeps_the_fulls_of_all_databases_of_its_base() -> None:
    base = LAST - 31 * DAY
    there = [
        *(manifest("full", name, base, facts={"label": label(base)}) for name in DATABASES),
        *(manifest("full", name, LAST) for name in DATABASES),
        manifest(
            "incremental",
            "stack",
            LAST - 20 * DAY,
            facts={"parent": builders.stamp(base), "label": label(base)},
        ),
    ]
    decision = decide(there, LAST, 30, 1)
    assert not decision.delete
    assert label(base) in labels_to_keep(decision)


def test_block_increments_keep_those_between_them_and_their_full() -> None:
    base = LAST - 40 * DAY
    chain = [
        manifest(
            "incremental",
            "stack",
            moment,
            facts={"parent": label(base), "label": f"{label(base)}_{moment:%Y%m%d-%H%M%S}I"},
        )
        for moment in (LAST - 39 * DAY, LAST - 35 * DAY, LAST - 29 * DAY)
    ]
    there = [manifest("full", "app", base, facts={"label": label(base)}), *chain, *fulls("app", 0)]
    assert not decide(there, LAST, 30, 1).delete
    assert names(decide([*there[:3], there[4]], LAST, 30, 1).delete) == {
        m.name for m in (there[0], *chain[:2])
    }


def test_restore_points_of_a_full_that_stays_go_when_they_are_old() -> None:
    base, facts = LAST - 40 * DAY, {"label": label(LAST - 40 * DAY)}
    points = [
        manifest("incremental", "stack", LAST - age * DAY, facts={**facts, "parent": label(base)})
        for age in (39, 29)
    ]
    there = [manifest("full", "app", base, facts=facts), *points, *fulls("app", 0)]
    assert names(decide(there, LAST, 30, 1).delete) == {points[0].name}


def test_an_old_increment_goes_when_a_newer_full_is_there() -> None:
    old = manifest("incremental", "stack", LAST - 40 * DAY)
    assert names(decide([old, *fulls("app", 1)], LAST, 30, 1).delete) == {old.name}
    assert not decide([old, *fulls("app", 1, verified=False)], LAST, 30, 1).delete


def test_the_physical_full_of_an_increment_stays_even_if_its_dump_failed() -> None:
    base = label(LAST - DAY)
    increment = manifest(
        "incremental",
        "stack",
        LAST,
        facts={"parent": "20260101_020000", "label": f"{base}_20270101-080000I"},
    )
    kept = labels_to_keep(decide([increment], LAST, 30, 1))
    assert kept == {base, f"{base}_20270101-080000I"}


# --- On the disk ---------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Config:
    return builders.config(tmp_path / "backups", retention_min_full=1)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log", "cleanup")


def decided(here: Config) -> Decision:
    return decide(retention.on_disk(here), LAST, here.retention_days, here.retention_min_full)


def listing(here: Config) -> set[str]:
    return {path.name for path in here.directory.rglob("*") if path.name != "logs"}


def filled(here: Config) -> tuple[Manifest, Manifest]:
    """An old and a new full, strangers, and a LATEST link to the old one."""
    old = builders.stored(here, "full", "app", LAST - 90 * DAY, b"old")
    new = builders.stored(here, "full", "app", LAST - DAY, b"new")
    directory = here.artifacts("postgres")
    (directory / "app_full_20200101_020000.sql.gz").write_bytes(b"no manifest")
    (directory / "app_full_LATEST.sql.gz").symlink_to(old.name)
    (directory / "notes.partial").write_text("somebody's own")
    os.utime(directory / "notes.partial", (0, 0))
    return old, new


def test_old_ones_go_strangers_stay_and_latest_moves(here: Config, log: Log) -> None:
    old, new = filled(here)
    apply(here, decided(here), log, dry_run=False)
    left = listing(here)
    assert not {old.name, f"{old.name}.manifest.json"} & left
    assert {new.name, "app_full_20200101_020000.sql.gz", "notes.partial"} <= left
    latest = here.artifacts("postgres") / "app_full_LATEST.sql.gz"
    assert latest.read_bytes() == b"new"


def test_a_dry_run_lists_and_changes_nothing(
    here: Config, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = filled(here)
    before = {path: path.lstat().st_mtime_ns for path in here.directory.rglob("*")}
    apply(here, decided(here), log, dry_run=True)
    assert {path: path.lstat().st_mtime_ns for path in here.directory.rglob("*")} == before
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if old.name in line] == ["delete"]
    assert [line.split()[0] for line in lines if new.name in line] == ["keep"]


class Stop(BaseException):
    """The machine loses power."""


@pytest.mark.parametrize("after", range(6))
def test_an_interrupted_clean_up_leaves_no_nameless_backup_and_is_finished_later(
    here: Config, log: Log, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    filled(here)
    builders.stored(here, "full", "app", LAST - 80 * DAY, b"older")
    unlink, left = Path.unlink, [after]

    def stopping(path: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise Stop
        left[0] -= 1
        unlink(path, missing_ok)

    decision = decided(here)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stopping)
        with contextlib.suppress(Stop):
            apply(here, decision, log, dry_run=False)
    files = {name for name in listing(here) if name.endswith(".sql.gz")}
    for choice in decision.delete:
        if choice.manifest.name in files:
            assert f"{choice.manifest.name}.manifest.json" in listing(here)
    apply(here, decided(here), log, dry_run=False)
    assert len([n for n in listing(here) if n.endswith(".manifest.json")]) == 1


def test_a_latest_link_never_dangles(here: Config, log: Log) -> None:
    builders.stored(here, "redis", "redis", LAST, b"r")
    link = here.artifacts("postgres") / "gone_full_LATEST.sql.gz"
    link.symlink_to("gone_full_20200101_000000.sql.gz")
    own = here.artifacts("redis") / "redis_LATEST.rdb.gz"
    own.write_bytes(b"a file of somebody")
    apply(here, decided(here), log, dry_run=False)
    assert not link.is_symlink()
    assert own.read_bytes() == b"a file of somebody"


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_backup_whose_artifact_is_gone_or_cut_does_not_count(
    here: Config, log: Log, damage: str
) -> None:
    old, new = filled(here)
    path = new.path(here.artifacts("postgres"))
    path.unlink() if damage == "missing" else path.write_bytes(b"n")
    apply(here, decided(here), log, dry_run=False)
    assert old.name in listing(here)


def test_one_that_cannot_be_removed_does_not_stop_the_others(
    here: Config, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = filled(here)
    other = builders.stored(here, "full", "app", LAST - 70 * DAY, b"other")
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.name == old.name:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    with pytest.raises(Failed, match=f"1 could not be removed: {old.name}: Operation not"):
        apply(here, decided(here), log, dry_run=False)
    assert {old.name, f"{old.name}.manifest.json"} <= listing(here)
    assert other.name not in listing(here)


def test_partial_files_go_after_a_day(here: Config, log: Log) -> None:
    directory = here.artifacts("redis")
    for name, age in ((".old.partial", 90_000), (".new.partial", 80_000)):
        (directory / name).write_bytes(b"")
        os.utime(directory / name, (time.time() - age,) * 2)
    apply(here, decided(here), log, dry_run=False)
    assert {path.name for path in directory.iterdir()} == {".new.partial"}


@pytest.mark.parametrize("check", outcome.CHECKS)
def test_nothing_is_removed_until_the_checks_have_passed(
    here: Config, log: Log, check: str
) -> None:
    old = builders.stored(here, "full", "app", START, b"old")
    builders.stored(here, "full", "app", datetime.now(UTC) - DAY, b"new")
    builders.trust(here)
    config = replace(here, retention_min_full=1)
    with contextlib.suppress(RuntimeError), outcome.recorded(config, check):
        raise RuntimeError("a segment is missing")
    with pytest.raises(Failed, match=f"backup.sh {check} failed: a segment is missing"):
        retention.clean_up(config, log, dry_run=False)
    (config.logs / f"{check}.json").unlink()
    with pytest.raises(Failed, match=f"backup.sh {check} has not run yet"):
        retention.clean_up(config, log, dry_run=False)
    assert old.path(config.artifacts("postgres")).exists()
    with outcome.recorded(config, check):
        pass
    retention.clean_up(config, log, dry_run=False)
    assert not old.path(config.artifacts("postgres")).exists()


def test_a_clean_up_of_an_empty_host_is_nothing(here: Config, log: Log) -> None:
    here.artifacts("redis").rmdir()
    assert not retention.clean_up(here, log, dry_run=False).delete
