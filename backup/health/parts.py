"""The parts of the status page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from backup import alert
from backup.catalogue import size
from backup.config import Config
from backup.health import trends
from backup.health.history import Point
from backup.health.html import Child, tag
from backup.health.remedies import Remedy, remedy
from backup.health.row import WORST_FIRST, Level, Row, worst
from backup.health.slow import Statement
from backup.manifest import Manifest

# Of how long the backups are shown.
BACKUPS = timedelta(days=14)
# Lines of the table below them.
_LINES = 300


class Trend(NamedTuple):
    """A row, and what there is of its number in each window."""

    row: Row
    windows: Sequence[tuple[trends.Window, Sequence[Point]]]


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes:
        old_after: how long the page is the newest; None if no one knows.
        backups: of the last days, oldest first.
        checks: what became of the last `verify` and `drill`.
        slow: statements, or why there are none.
    """

    config: Config
    now: datetime
    old_after: timedelta | None
    rows: Sequence[Row]
    remedies: list[Remedy]
    backups: Sequence[Manifest]
    checks: Mapping[str, dict[str, Any] | None]
    trends: Sequence[Trend]
    slow: list[Statement] | str


def all_of(seen: View) -> Iterator[Element]:
    """The body, part by part."""
    yield from _head(seen)
    yield from _wrong(seen)
    yield tag("div", _topology(seen), _checks(seen), class_="two")
    yield _backups(seen)
    if seen.trends:
        yield _trends(seen)
    yield _rows(seen)
    if seen.config.postgres is not None:
        yield _slow(seen)


# --- Now -----------------------------------------------------------------------------------------


def _head(seen: View) -> Iterator[Element]:
    counts = {level: sum(row.level is level for row in seen.rows) for level in WORST_FIRST}
    ill = ", ".join(f"{count} {level.word}" for level, count in counts.items() if count)
    yield tag(
        "header",
        tag("h1", seen.config.stack),
        mark(worst(list(seen.rows)), ill or "all is well"),
        tag("span", f"{len(seen.rows)} rows, seen from {seen.config.host}", class_="soft"),
    )
    written = f"Written {utc(seen.now)}."
    if seen.old_after is None:
        yield tag("p", f"{written} No schedule writes it again.", class_="soft")
        return
    end = utc(seen.now + seen.old_after)
    stopped = "the health check does not run any more: look at cron on that host."
    yield tag("p", f"{written} If it is later than {end}, {stopped}", class_="soft")
    seconds = int(seen.old_after.total_seconds())
    yield tag(
        "div",
        tag("p", f"Old: written {utc(seen.now)}. Load the page again; if this stays, {stopped}"),
        class_="old",
        style=f"animation-delay: {seconds}s",
    )


def _wrong(seen: View) -> Iterator[Element]:
    order = {level: rank for rank, level in enumerate(WORST_FIRST)}
    ill = sorted((r for r in seen.rows if r.level in order), key=lambda row: order[row.level])
    if ill:
        yield tag("section", tag("h2", "What is wrong now"), *(_ill(seen, row) for row in ill))


def _ill(seen: View, row: Row) -> Element:
    known = remedy(seen.remedies, row.name)
    todo = tag("p", tag("strong", "What to do: "), *_marked(known.todo)) if known else None
    since = f"Since {_since(row)}." if row.since else ""
    limit = f" ({row.limit})" if row.limit else ""
    return tag(
        "div",
        tag("h3", mark(row.level), f" {row.name}"),
        tag("p", f"{row.said}{limit}"),
        tag("p", since, class_="soft") if since else None,
        todo,
        class_=f"wrong {row.level.word}",
    )


def _marked(text: str) -> Iterator[Child]:
    """Markdown of one line: code, and links as the names of their pages."""
    for code, words, page, other in re.findall(
        r"`([^`]+)`|\[([^]]+)\]\(([^)]+)\)|([^`[]+|.)", text
    ):
        if code:
            yield tag("code", code)
        elif page:
            yield f"docs/{page}" if words == page else f"{words} (docs/{page})"
        else:
            yield other


def mark(level: Level, words: str = "") -> Element:
    """A level in its color, or other words for it."""
    return tag("span", words or level.word, class_=f"level {level.word}")


def utc(moment: datetime) -> str:
    """A moment, as people read it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


# --- Topology ------------------------------------------------------------------------------------


def _topology(seen: View) -> Element:
    known = {row.name: row for row in seen.rows}
    items = [*_databases(seen.config, known), *_caches(seen.config, known), *_hosts(known)]
    return tag("section", tag("h2", "Topology"), tag("ul", *items))


def _databases(config: Config, known: Mapping[str, Row]) -> Iterator[Element]:
    if config.postgres is not None:
        names = [f"pgbouncer {pooler}" for pooler in config.postgres.poolers]
        place = f" on {config.postgres.host}:{config.postgres.port}"
        yield _item(known, "postgres", place, [_item(known, name) for name in names])


def _caches(config: Config, known: Mapping[str, Row]) -> Iterator[Element]:
    if config.redis is None:
        return
    nodes = {str(node): known.get(f"redis {node}") for node in config.redis.nodes}
    followers = {place: row.follows for place, row in nodes.items() if row and row.follows}
    leads = [place for place in nodes if followers.get(place) not in nodes]
    done: set[str] = set()
    # Two that follow each other have no leader, and are shown as well.
    for place in (*leads, *nodes):
        if place not in done:
            yield _instance(known, place, followers, done)
    if config.redis.sentinels:
        items = [_item(known, f"redis-sentinel {each}") for each in config.redis.sentinels]
        yield tag("li", f"Sentinels of {config.redis.master_name}", tag("ul", *items))


def _hosts(known: Mapping[str, Row]) -> Iterator[Element]:
    names = [name for name in known if re.fullmatch(r"host \S+", name)]
    if names:
        yield tag("li", "Hosts", tag("ul", *(_item(known, name) for name in names)))


def _instance(
    known: Mapping[str, Row], place: str, followers: Mapping[str, str], done: set[str]
) -> Element:
    done.add(place)
    own = [each for each, leader in followers.items() if leader == place and each not in done]
    below = [_instance(known, each, followers, done) for each in own]
    return _item(known, f"redis {place}", "", below)


def _item(
    known: Mapping[str, Row], name: str, place: str = "", below: Sequence[Element] = ()
) -> Element:
    row = known.get(name)
    level = row.level if row else Level.UNKNOWN
    said = f": {row.said}" if row else ": not looked at"
    return tag(
        "li",
        mark(level),
        f" {name}{place}",
        tag("span", said, class_="soft"),
        tag("ul", *below) if below else None,
    )


# --- Backups -------------------------------------------------------------------------------------


def _checks(seen: View) -> Element:
    drill, verify = seen.checks.get("drill"), seen.checks.get("verify")
    done = drill or {}
    times = [_restored(kind, done[kind]) for kind in ("postgres", "redis") if kind in done]
    lines = [*_checked("drill", drill), *times, *_checked("verify", verify)]
    return tag("section", tag("h2", "Restored and verified"), *lines)


def _restored(kind: str, told: Mapping[str, float]) -> Element:
    lost = f"what was lost: {span(told['rpo'])} (RPO)"
    return tag("p", f"{kind}: restored in {span(told['rto'])} (RTO); {lost}")


def _checked(check: str, result: dict[str, Any] | None) -> Iterator[Element]:
    if result is None:
        yield tag("p", mark(Level.UNKNOWN, "never"), f" last {check}")
        return
    passed = result.get("outcome") == "passed"
    told = mark(Level.OK if passed else Level.CRITICAL, str(result.get("outcome")))
    when = utc(datetime.fromisoformat(result["ended"]))
    yield tag("p", told, f" last {check}, {when} ", str(result.get("why", "")))


def span(count: float) -> str:
    """Seconds, as people read them."""
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if count >= 2 * seconds:
            return f"{count / seconds:.0f} {unit}"
    return f"{count:.0f} s"


def _backups(seen: View) -> Element:
    kept = [m for m in seen.backups if m.kind != "globals"]
    lanes = [(kind, of) for _, kind, of in alert.expected(seen.config)]
    lanes += [lane for m in kept if (lane := (m.kind, m.of)) not in lanes]
    every = [
        _lane(seen, lane, [m for m in kept if (m.kind, m.of) == lane])
        for lane in dict.fromkeys(lanes)
    ]
    days = f"Backups of {BACKUPS.days} days"
    return tag("section", tag("h2", days), *every, _ends(seen.now), *_listed(kept))


def _lane(seen: View, lane: tuple[str, str], kept: Sequence[Manifest]) -> Element:
    said = "none"
    if kept:
        newest = kept[-1]
        checks = ", ".join(check.what for check in newest.verified) or "not verified"
        copies = ", ".join(newest.copies) or "on this host only"
        took = span(newest.duration)
        said = f"{utc(_moment(newest))}, {size(newest.bytes)} in {took}; {checks}; {copies}"
    return tag(
        "div",
        tag("h3", f"{lane[0]} of {lane[1]}"),
        tag("p", f"Newest: {said}", class_="soft"),
        _bars(seen.now, kept),
        class_="lane",
    )


def _bars(now: datetime, kept: Sequence[Manifest]) -> Element:
    begin, most = now - BACKUPS, max((m.bytes for m in kept), default=0) or 1
    days = [tag("path", d=f"M{100 * day} 0V40", class_="day") for day in range(1, BACKUPS.days)]
    bars = []
    for each in kept:
        place = 100 * (_moment(each) - begin) / timedelta(days=1)
        height = 8 + 30 * each.bytes / most
        shape = f"M{place - 5:.0f} 40v-{height:.0f}h10v{height:.0f}z"
        told = f"{utc(_moment(each))}, {size(each.bytes)}"
        kind = "verified" if each.verified else "unverified"
        bars.append(tag("path", tag("title", told), d=shape, class_=kind))
    return tag("svg", *days, *bars, viewBox="0 0 1400 40", preserveAspectRatio="none", role="img")


def _ends(now: datetime) -> Element:
    first = now - BACKUPS
    ends = tag("span", f"{first:%b %d}"), tag("span", "verified: green"), tag("span", "now")
    return tag("div", *ends, class_="ends soft")


def _moment(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.ended).astimezone(UTC)


def _listed(kept: Sequence[Manifest]) -> Iterator[Element]:
    if not kept:
        return
    shown = [*reversed(kept)][:_LINES]
    cells = [
        (
            utc(_moment(each)),
            each.kind,
            each.of,
            size(each.bytes),
            span(each.duration),
            ", ".join(check.what for check in each.verified) or "no",
            ", ".join(each.copies) or "no",
        )
        for each in shown
    ]
    heads = ("ended", "kind", "of", "size", "took", "verified", "copied")
    summary = tag("summary", f"The newest {len(shown)} of {len(kept)}")
    yield tag("details", summary, table(heads, cells, numbers={3, 4}))


# --- Numbers -------------------------------------------------------------------------------------


def _trends(seen: View) -> Element:
    until = int(seen.now.timestamp())
    lines = [_trend(each, until) for each in seen.trends]
    return tag("section", tag("h2", "Trends"), tag("div", *lines, class_="two"))


def _trend(trend: Trend, until: int) -> Element:
    row = trend.row
    return tag(
        "div",
        tag("h3", mark(row.level, _value(row)), f" {row.name}"),
        tag("div", *(_window(row, w, p, until) for w, p in trend.windows), class_="pair"),
        class_="trend",
    )


def _window(row: Row, window: trends.Window, points: Sequence[Point], until: int) -> Element:
    most = trends.highest(points)
    told = "nothing yet" if most is None else f"at most {trends.number(most)} {row.unit}"
    line = trends.chart(row, points, window, until)
    said = tag("span", told, class_="whole")
    return tag("div", line, tag("p", f"{window.words}: ", said, class_="soft"))


def _rows(seen: View) -> Element:
    cells = [
        (mark(row.level), row.name, row.said, _value(row), row.limit, _since(row))
        for row in seen.rows
    ]
    heads = ("level", "row", "said", "value", "limit", "since")
    return tag("section", tag("h2", "All rows"), table(heads, cells, numbers={3}))


def _since(row: Row) -> str:
    # It may be what a file of an earlier run says.
    try:
        return utc(datetime.fromisoformat(row.since))
    except ValueError:
        return row.since


def _value(row: Row) -> str:
    return "" if row.value is None else f"{trends.number(row.value)} {row.unit}".strip()


def _slow(seen: View) -> Element:
    title = tag("h2", "Slow queries")
    if isinstance(seen.slow, str):
        return tag("section", title, tag("p", seen.slow))
    note = "Most time of the server since the counters were reset; literals and comments left out."
    heads = ("query", "database", "role", "calls", "total s", "mean ms", "rows", "queryid")
    cells = [
        (
            tag("code", each.text),
            each.database,
            each.role,
            f"{each.calls:,}",
            trends.number(each.total / 1000),
            trends.number(each.mean),
            f"{each.rows:,}",
            each.id,
        )
        for each in seen.slow
    ]
    return tag(
        "section",
        title,
        tag("p", note, class_="soft"),
        table(heads, cells, numbers={3, 4, 5, 6}) if cells else tag("p", "None yet."),
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[Child]], numbers: set[int]) -> Element:
    """A table.

    Args:
        numbers: columns that have some.
    """
    kinds = [{"class_": "number"} if at in numbers else {} for at in range(len(heads))]
    top = tag("tr", *(tag("th", head, **kind) for head, kind in zip(heads, kinds, strict=True)))
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, data_head=head, **kind)
                for cell, head, kind in zip(line, heads, kinds, strict=True)
            ),
        )
        for line in lines
    ]
    return tag("table", tag("thead", top), tag("tbody", *body))
