"""The status page: one file that a browser shows without network and script."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from xml.etree.ElementTree import Element

from backup import catalogue, cron, outcome
from backup.config import SERVED, STATUS_PAGE, Config
from backup.health import history, parts, remedies, slow, trends
from backup.health.html import tag, written
from backup.health.parts import View
from backup.health.row import Level, Row, worst
from backup.job import Log
from backup.manifest import durably
from backup.text import shown

# Debian's group of those who may read logs.
_READERS = "adm"
_TEMPLATE = Path(__file__).with_name("page.html")
# Lines of trends: a page of a hundred hosts is to be read too.
_TRENDS = 24

_WINDOWS = (
    trends.Window("24 hours", history.DAY, history.FINE),
    trends.Window("30 days", 30 * history.DAY, history.HOUR),
)


def write(config: Config, log: Log, rows: Sequence[Row], now: str) -> None:
    """Writes the page; who reads it meanwhile has the one before."""
    content = text(view(config, log, rows, datetime.fromisoformat(now)))
    put(config.directory / STATUS_PAGE, content.encode())
    # Root's directory, so no link of others is in it; its group is who serves the page.
    with contextlib.suppress(FileNotFoundError):
        durably(SERVED, content.encode(), 0o640, SERVED.parent.stat().st_gid)


def view(config: Config, log: Log, rows: Sequence[Row], now: datetime) -> View:
    """What the page shows."""
    since = now - parts.BACKUPS
    return View(
        config=config,
        now=now,
        old_after=_old_after(config.schedules.get("health", ""), now),
        rows=rows,
        remedies=remedies.remedies(),
        backups=[m for m in catalogue.everything(config) if ended(m.ended) >= since],
        checks={check: outcome.last(config, check) for check in outcome.CHECKS},
        trends=_trends(config, log, rows, int(now.timestamp())),
        slow=_slow(config, rows),
    )


def ended(moment: str) -> datetime:
    """A moment of a manifest; long ago, if it is none."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _old_after(schedule: str, now: datetime) -> timedelta | None:
    """How long it is the newest: for two runs and a few minutes; None without a schedule."""
    if not schedule:
        return None
    known, local = cron.parse(schedule), now.astimezone().replace(tzinfo=None)
    last = known.last(local)
    return 2 * (last - known.last(last - timedelta(minutes=1))) + timedelta(minutes=5)


def _trends(config: Config, log: Log, rows: Sequence[Row], until: int) -> list[parts.Trend]:
    chosen = trends.drawn(rows)[:_TRENDS]
    names, found = [row.name for row in chosen], []
    try:
        for window in _WINDOWS:
            begin = until - window.span
            found.append(history.points(config, log, names, window.step, begin, until))
    except (OSError, sqlite3.Error) as failure:
        # A page without them is better than none.
        log.line(f"status page: no trends: {failure}")
        return []
    windows = list(zip(_WINDOWS, found, strict=True))
    return [parts.Trend(row, [(w, known[row.name]) for w, known in windows]) for row in chosen]


def _slow(config: Config, rows: Sequence[Row]) -> list[slow.Statement] | str:
    """The statements, or why there are none."""
    if not any(row.name == "postgres" and row.level is Level.OK for row in rows):
        return "PostgreSQL does not answer."
    try:
        return slow.statements(config)
    except Exception as failure:
        return " ".join(f"Not known: {failure}".split())


def text(seen: View) -> str:
    """The page as HTML."""
    level = worst(list(seen.rows)).word
    return document(seen.config, f"{level}: {seen.config.stack}", parts.all_of(seen))


def document(config: Config, name: str, content: Iterable[Element]) -> str:
    """A page of its name and parts, without secrets."""

    def harmless(said: str) -> str:
        return shown(config.hidden(said))

    title, body = tag("title", name), tag("body", *content)
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=written(title, harmless), body=written(body, harmless))


def put(path: Path, content: bytes) -> None:
    """Writes a page that root and those who may read logs can read: all of it, or nothing."""
    durably(path, content, 0o640, _READERS)
