"""Everyone is asked at once: what hangs makes no other row late or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from backup.health.row import Level, Row

SECONDS = 5.0


@dataclass
class Probe:
    """Whom to ask; the first row says whether there was an answer.

    Attributes:
        name: of that row.
        ask: it returns the rows, or raises what the first row then says.
    """

    name: str
    ask: Callable[[], Iterable[Row]]
    rows: list[Row] = field(default_factory=list)

    def run(self) -> None:
        """Asks; the rows are there when it is done."""
        try:
            self.rows = list(self.ask())
        except Exception as failure:
            self.rows = [Row(self.name, Level.CRITICAL, " ".join(str(failure).split()))]


def answers(probes: Sequence[Probe], meanwhile: Probe) -> list[Row]:
    """The rows of all, in their order.

    Args:
        meanwhile: this thread asks it, and it may take its time.
    """
    threads = [threading.Thread(target=probe.run, daemon=True) for probe in probes]
    end = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    meanwhile.run()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {SECONDS:g} s"
    # What a thread that is late finds in the end belongs to no run.
    found = [list(probe.rows) or [Row(probe.name, Level.CRITICAL, late)] for probe in probes]
    return [row for rows in (*found, meanwhile.rows) for row in rows]
