"""When a backup should have been there by its schedule and was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from backup import alert
from backup.config import Config
from backup.manifest import Manifest


class Gap(NamedTuple):
    """No backup was begun between two moments; UTC, ISO 8601."""

    kind: str
    of: str
    schedule: str
    after: str
    until: str


def gaps(
    config: Config,
    backups: Sequence[Manifest],
    begin: datetime,
    end: datetime,
    watched: Mapping[str, datetime],
) -> Iterator[Gap]:
    """The gaps of a time, by the schedules of today; only what was read back whole counts.

    Args:
        backups: of that time and before.
        watched: since when each kind is expected; without a backup before, it begins there.
    """
    for event, kind, of in alert.expected(config):
        taken = sorted(
            alert.taken(m)
            for m in backups
            if m.verified and ((m.kind, m.of) == (kind, of) or alert.stands_in(m, kind))
        )
        before = [moment for moment in taken if moment < begin]
        last = before[-1] if before else max(begin, watched.get(event, begin))
        schedule = config.schedules[kind]
        for moment in (*(each for each in taken if begin <= each < end), end):
            # One that began within an hour was only late.
            if alert.last_moment(schedule, moment - alert.GRACE) > last:
                yield Gap(kind, of, schedule, _told(last), _told(moment))
            last = moment


def _told(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
