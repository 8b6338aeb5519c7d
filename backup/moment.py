"""Moments, as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from backup.job import WrongUse

_AGO = re.compile(r"(\d{1,6}) (second|minute|hour|day)s? ago")


def moment_of(time: str) -> datetime:
    """ISO 8601 with a zone, or `10 minutes ago`.

    Raises:
        WrongUse: it is neither, or in the future.
    """
    if ago := _AGO.fullmatch(time):
        return datetime.now(UTC) - timedelta(**{f"{ago[2]}s": int(ago[1])})
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        example = "2026-11-22T14:03:00+00:00, or '10 minutes ago'"
        raise WrongUse(f"{time!r} is not a moment: write it as {example}") from None
    if moment.tzinfo is None:
        raise WrongUse(f"{time!r} has no zone: add +00:00 for UTC, or another one")
    if moment > datetime.now(UTC):
        raise WrongUse(f"{time} is in the future")
    return moment
