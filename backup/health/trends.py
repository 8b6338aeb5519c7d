"""How a number has gone, as a line of SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element

from backup.health.history import Point
from backup.health.html import tag
from backup.health.row import Level, Row

_WIDTH, _HEIGHT = 300, 60
# Points of a line; of more the highest are drawn.
_MOST = 150

_WORTH_A_LINE = re.compile(r".* (connections|waiting|memory|transaction ids)|(host .+ )?disk .+")


class Window(NamedTuple):
    """A span of time: it ends now; numbers are seconds, `step` is the length of its intervals."""

    words: str
    span: int
    step: int


def drawn(rows: Iterable[Row]) -> list[Row]:
    """The rows whose numbers are drawn."""
    return [row for row in rows if row.value is not None and _WORTH_A_LINE.fullmatch(row.name)]


def chart(row: Row, points: Sequence[Point], window: Window, until: int) -> Element:
    """The line of a row's number; where there is none for long, the line is broken."""
    known = [point for point in points if point.value is not None]
    begin, step = until - window.span, max(window.step, window.span // _MOST)
    highest = [_highest(each) for each in _thinned(known, step)]
    top = _top(row, [value for _, value in highest])
    line = ["".join(_path(part, begin, window.span, top)) for part in _unbroken(highest, 3 * step)]
    named = f"{row.name}, {window.words}: "
    named += f"at most {number(max(v for _, v in highest))} {row.unit}" if highest else "no number"
    return tag(
        "svg",
        tag("title", named),
        *(
            tag("path", d=f"M0 {_y(limit, top)}H{_WIDTH}", class_=f"limit {word}")
            for word, limit in row.limits
            if limit <= top
        ),
        tag("path", d="".join(line), class_="line"),
        *(_mark(point, begin, window.span) for point in points if point.level is not Level.OK),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
    )


def highest(points: Iterable[Point]) -> float | None:
    """The highest number of an interval."""
    return max((point.value for point in points if point.value is not None), default=None)


def _thinned(points: Sequence[Point], step: int) -> Iterator[list[Point]]:
    found: dict[int, list[Point]] = {}
    for point in points:
        found.setdefault(point.begin // step, []).append(point)
    yield from found.values()


def _highest(points: Sequence[Point]) -> tuple[int, float]:
    return points[0].begin, max(point.value or 0.0 for point in points)


def _top(row: Row, values: Sequence[float]) -> float:
    if row.unit == "%":
        return 100.0
    return max([1.0, *(1.1 * value for value in values)])


def _unbroken(
    points: Sequence[tuple[int, float]], gap: int
) -> Iterator[Sequence[tuple[int, float]]]:
    begin = 0
    for at, (one, other) in enumerate(pairwise(points), 1):
        if other[0] - one[0] > gap:
            yield points[begin:at]
            begin = at
    if points:
        yield points[begin:]


def _path(points: Sequence[tuple[int, float]], begin: int, span: int, top: float) -> Iterator[str]:
    for at, (moment, value) in enumerate(points):
        yield f"{'L' if at else 'M'}{_x(moment, begin, span)} {_y(value, top)}"
    if len(points) == 1:
        # A lone point is a dot.
        yield "h1"


def _mark(point: Point, begin: int, span: int) -> Element:
    place = f"M{_x(point.begin, begin, span)} {_HEIGHT - 1}h0"
    return tag("path", d=place, class_=f"mark {point.level.word}")


def _x(moment: int, begin: int, span: int) -> str:
    return f"{_WIDTH * (moment - begin) / span:.0f}"


def _y(value: float, top: float) -> str:
    return f"{_HEIGHT - 3 - (_HEIGHT - 6) * max(0.0, min(value, top)) / top:.1f}"


def number(value: float) -> str:
    """A number as people read it."""
    return f"{value:,.1f}".removesuffix(".0")
