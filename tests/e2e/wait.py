"""Waiting for what will be true soon."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_SECONDS = 0.2


def eventually(check: Callable[[], object], seconds: float) -> None:
    """Asks until `check` returns without an AssertionError; the last one counts at the deadline.

    Args:
        check: asserts something by asking; asked once more after the deadline has passed.
        seconds: how long it may take.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            check()
        except AssertionError:
            time.sleep(INTERVAL_SECONDS)
        else:
            return
    check()
