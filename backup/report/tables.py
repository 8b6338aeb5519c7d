"""The tables of a report: a terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from backup.catalogue import size
from backup.manifest import Manifest
from backup.text import shown

if TYPE_CHECKING:
    from backup.report import Report


class Table(NamedTuple):
    """A title, the names of the columns, and lines."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def text(found: Report) -> str:
    """The report as a terminal shows it."""
    head = f"{found.stack}: backups of {found.month} (UTC), as {found.host} knows them"
    return "\n\n".join([head, *notes(found), *map(_text, of(found))])


def notes(found: Report) -> Iterator[str]:
    """What limits the report."""
    since = found.recorded_since
    if not since:
        yield "No job has been recorded yet: what retention has removed is not in this report."
    elif since[:7] >= found.month:
        yield f"Jobs are recorded since {since}: what retention removed before is not told."
    if found.written[:7] == found.month:
        yield "The month is not over."


def of(found: Report) -> Iterator[Table]:
    """All tables; one without lines has none to show."""
    yield Table(
        "Backups",
        ("kind", "of", "made", "verified", "copied", "kept", "bytes", "first", "last"),
        list(_lanes(found)),
    )
    yield Table(
        "Gaps without a backup",
        ("kind", "of", "after", "until", "hours"),
        [(g.kind, g.of, utc(g.after), utc(g.until), _hours(g.after, g.until)) for g in found.gaps],
    )
    yield Table(
        "Drills: restored in (RTO), lost (RPO), in seconds",
        ("ended", "outcome", "PostgreSQL", "lost", "Redis", "lost", "why"),
        [(utc(x["ended"]), x["outcome"], *_times(x), str(x.get("why", ""))) for x in found.drills],
    )
    yield Table(
        "Restores",
        ("ended", "job", "outcome", "what", "why"),
        [
            (utc(x["ended"]), x["job"], x["outcome"], _what(x), str(x.get("why", "")))
            for x in found.restores
        ],
    )
    yield Table(
        "Verifications",
        ("ended", "outcome", "why"),
        [(utc(x["ended"]), x["outcome"], str(x.get("why", ""))) for x in found.verifications],
    )
    yield Table(
        "Failures",
        ("job", "since", "last", "times", "recovered", "why"),
        [
            (f.job, utc(f.first), utc(f.last), str(f.times), utc(f.recovered) or "no", f.why)
            for f in found.failures
        ],
    )


def _lanes(found: Report) -> Iterator[Sequence[str]]:
    lanes: dict[tuple[str, str], list[Manifest]] = {}
    for each in found.backups:
        lanes.setdefault((each.kind, each.of), []).append(each)
    for (kind, of), made in sorted(lanes.items()):
        counts = (
            len(made),
            sum(bool(each.verified) for each in made),
            sum(bool(each.copies) for each in made),
            sum(each.name in found.kept for each in made),
        )
        total = size(sum(each.bytes for each in made))
        yield kind, of, *map(str, counts), total, utc(made[0].ended), utc(made[-1].ended)


def utc(moment: str) -> str:
    """A moment as people read it; empty stays."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}" if moment else ""


def _hours(after: str, until: str) -> str:
    span = datetime.fromisoformat(until) - datetime.fromisoformat(after)
    return f"{span.total_seconds() / 3600:.1f}"


def _times(drill: dict[str, Any]) -> Iterator[str]:
    for kind in ("postgres", "redis"):
        told = drill.get(kind, {})
        yield str(told.get("rto", ""))
        yield str(told.get("rpo", ""))


def _what(restore: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in restore.get("what", {}).items())


def _text(table: Table) -> str:
    if not table.lines:
        return f"{table.title}: none"
    rows = [[shown(cell) for cell in line] for line in (table.heads, *table.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines])
