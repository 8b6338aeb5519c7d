"""What a month has to show to an auditor: as a table, as JSON, and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup import alert, outcome, record
from backup.catalogue import everything
from backup.config import Config
from backup.health import page as pages
from backup.job import Failed, WrongUse
from backup.manifest import Manifest
from backup.report import page as drawn
from backup.report import tables
from backup.report.gaps import Gap, gaps

RESTORES = ("restore-postgres", "restore-redis", "fetch")


@dataclass(frozen=True)
class Failure:
    """A job that failed, `times` in a row; `recovered` is empty while it does."""

    job: str
    first: str
    last: str
    times: int
    why: str
    recovered: str = ""

    def lasts(self, begin: datetime, end: datetime) -> bool:
        """Whether it failed within a time."""
        first, last = map(datetime.fromisoformat, (self.first, self.last))
        return first < end and last >= begin


@dataclass(frozen=True)
class Report:
    """The evidence; moments are UTC, ISO 8601.

    Attributes:
        recorded_since: jobs that ended before it left backups and their last checks only.
        kept: names of backups that are still there.
    """

    stack: str
    host: str
    month: str
    written: str
    recorded_since: str
    backups: list[Manifest]
    kept: frozenset[str]
    verifications: list[dict[str, Any]]
    drills: list[dict[str, Any]]
    restores: list[dict[str, Any]]
    failures: list[Failure]
    gaps: list[Gap]


def show(config: Config, month: str, *, as_json: bool, page: str) -> None:
    """Prints a month's report, or writes it as a page.

    Raises:
        WrongUse: it is no month, or has not begun yet.
        Failed: the page cannot be written.
    """
    found = report(config, month, datetime.now(UTC))
    if as_json:
        print(json.dumps(told(found), indent=2))
    elif page:
        name = f"report-{found.month}.html"
        _write(config, found, config.directory / name if page == "-" else Path(page))
    else:
        print(tables.text(found))


def _write(config: Config, found: Report, path: Path) -> None:
    try:
        pages.put(path, drawn.text(config, found).encode())
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from None
    print(path)


def told(found: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    backups = [
        {
            **{key: value for key, value in asdict(each).items() if key not in _UNTOLD},
            "kept": each.name in found.kept,
        }
        for each in found.backups
    ]
    return {**asdict(found), "backups": backups, "kept": len(found.kept)}


_UNTOLD = ("facts", "version")


def report(config: Config, month: str, now: datetime) -> Report:
    """What is known of a month; of the last one if none is named.

    Raises:
        WrongUse: it is no month, or has not begun yet.
    """
    begin = _month(month, now)
    end = _next(begin)
    before = begin - timedelta(days=31)
    since = record.first(config)
    lines = [*record.lines(config, f"{before:%Y-%m}"), *_checked(config, since)]
    there = everything(config)
    known = {m.name: m for line in lines for m in line["manifests"]} | {m.name: m for m in there}
    backups = sorted(known.values(), key=lambda each: (each.stamp, each.name))

    def within(moment: str) -> bool:
        return begin <= pages.ended(moment) < end

    def of(*jobs: str) -> list[dict[str, Any]]:
        return [_without_manifests(x) for x in lines if x["job"] in jobs and within(x["ended"])]

    return Report(
        stack=config.stack,
        host=config.host,
        month=f"{begin:%Y-%m}",
        written=now.isoformat(timespec="seconds"),
        recorded_since=since,
        backups=[m for m in backups if within(m.ended)],
        kept=frozenset(m.name for m in there if within(m.ended)),
        verifications=of("verify"),
        drills=of("drill"),
        restores=of(*RESTORES),
        failures=[each for each in failures(lines) if each.lasts(begin, end)],
        gaps=list(gaps(config, backups, begin, min(end, now), alert.watched(config, now))),
    )


def _month(text: str, now: datetime) -> datetime:
    if not text:
        last = now.replace(day=1) - timedelta(days=1)
        return datetime(last.year, last.month, 1, tzinfo=UTC)
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", text):
        raise WrongUse(f"--month {text!r}: should be like 2026-10")
    begin = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=UTC)
    if begin > now:
        raise WrongUse(f"--month {text}: it has not begun yet")
    return begin


def _next(begin: datetime) -> datetime:
    return (begin + timedelta(days=31)).replace(day=1)


def _checked(config: Config, since: str) -> Iterator[dict[str, Any]]:
    """The last checks of before there was a record."""
    for check in outcome.CHECKS:
        result = outcome.last(config, check)
        if result and (not since or result["ended"] < since):
            yield {"job": check, "manifests": [], "outcome": "failed", **result}


def _without_manifests(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "manifests"}


def failures(lines: Iterable[dict[str, Any]]) -> Iterator[Failure]:
    """Every row of failures of a job, with the success that ended it."""
    open_: dict[str, Failure] = {}
    for line in lines:
        job, ended = line["job"], line["ended"]
        before = open_.pop(job, None)
        if line["outcome"] != "passed":
            first, times = (before.first, before.times + 1) if before else (ended, 1)
            open_[job] = Failure(job, first, ended, times, str(line.get("why", "")))
        elif before:
            yield Failure(**{**asdict(before), "recovered": ended})
    yield from open_.values()
