"""Cron expressions as Debian's cron reads them: five fields, or `@daily` and its like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

# The nicknames of crontab(5); @reboot is no moment in time.
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]

# 29 February may be eight years away (1896 to 1904, 2096 to 2104).
_HORIZON = 366 * 8 + 1


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: Mapping[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)


@dataclass(frozen=True)
class Cron:
    """The minutes at which cron starts a job, in the local time of its host.

    Attributes:
        either: a day matches when its day of month or its day of week does (both were
            restricted), else when both do.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def last(self, before: datetime) -> datetime:
        """The newest moment that is not after `before`; both naive local times.

        Raises:
            ValueError: there is none within eight years.
        """
        for back in range(_HORIZON):
            day = before.date() - timedelta(days=back)
            latest = before.time() if back == 0 else time.max
            if self._falls_on(day) and (found := self._last_of_day(latest)):
                return datetime.combine(day, found)
        raise ValueError("it never happens")

    def _falls_on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        matches = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return any(matches) if self.either else all(matches)

    def _last_of_day(self, latest: time) -> time | None:
        moments = (time(hour, minute) for hour in self.hours for minute in self.minutes)
        return max((moment for moment in moments if moment <= latest), default=None)


def parse(text: str) -> Cron:
    """Reads an expression.

    A few forms that Debian's cron takes without doing what they say are refused: `5-1`,
    `1-2-3`, `*-5`, `*/5/2`, `1~5`.

    Raises:
        ValueError: it is not one; the message names the field and what it should be.
    """
    words = _NICKNAMES.get(text.strip(), text).split()
    if len(words) == 1 and words[0].startswith("@"):
        raise ValueError(f"{words[0]}: should be one of {', '.join(sorted(_NICKNAMES))}")
    if len(words) != len(_FIELDS):
        raise ValueError(
            f"{text!r} has {len(words)} fields; should be five: "
            "minute, hour, day of month, month, day of week"
        )
    sets = [_set(field, word) for field, word in zip(_FIELDS, words, strict=True)]
    weekdays = frozenset(day % 7 for day in sets[4])
    # A field that begins with a star is not a restriction, not even `*/2`.
    either = not any(word.startswith("*") for word in (words[2], words[4]))
    cron = Cron(sets[0], sets[1], sets[2], sets[3], weekdays, either)
    _require_some_day(cron, text)
    return cron


def _require_some_day(cron: Cron, text: str) -> None:
    try:
        cron.last(datetime(2004, 12, 31))
    except ValueError:
        raise ValueError(f"{text!r} never happens: no month has such a day") from None


def _set(field: _Field, word: str) -> frozenset[int]:
    return frozenset(value for part in word.split(",") for value in _part(field, part))


def _part(field: _Field, part: str) -> range:
    match = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\w+))?", part, re.ASCII)
    if not match:
        raise ValueError(f"{field.name}: {part!r} should be *, a number, a range or a list")
    star, first, last, step = match.groups()
    if star:
        return range(field.low, field.high + 1, _step(field, step))
    low = _number(field, first)
    if last is None:
        if step is not None:
            raise ValueError(f"{field.name}: {part!r}: a step needs a range or *, as in */{step}")
        return range(low, low + 1)
    high = _number(field, last)
    if high < low:
        raise ValueError(f"{field.name}: {part!r} runs backwards")
    return range(low, high + 1, _step(field, step))


def _step(field: _Field, step: str | None) -> int:
    if step is None:
        return 1
    if not step.isdigit() or int(step) == 0:
        raise ValueError(f"{field.name}: step {step!r} should be a number above 0")
    return int(step)


def _number(field: _Field, word: str) -> int:
    if word.lower() in field.names:
        return field.names[word.lower()]
    known = f", or {'|'.join(field.names)}" if field.names else ""
    if not word.isdigit() or not field.low <= int(word) <= field.high:
        raise ValueError(f"{field.name}: {word!r} should be {field.low} to {field.high}{known}")
    return int(word)
