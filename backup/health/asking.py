"""Everyone is asked at once: what hangs makes no other row late or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from backup.health.row import Level, Row
from backup.job import Failed

# For the first row, which says whether there was an answer.
SECONDS = 5.0

T = TypeVar("T")


@dataclass
class Probe:
    """Whom to ask.

    Attributes:
        name: of the first row.
        ask: it gives the rows one by one, or raises what the first row then says.
        seconds: in which all of them have to be there.
        behind: rows of others; where one of these is not well, nothing is said twice.
    """

    name: str
    ask: Callable[[], Iterable[Row]]
    seconds: float = SECONDS
    behind: Collection[str] = ()
    rows: list[Row] = field(default_factory=list)

    def run(self) -> None:
        """Asks; `rows` has what there is at any moment."""
        try:
            for row in self.ask():
                self.rows.append(row)
        except Exception as failure:
            self.rows.append(self.ended(" ".join(str(failure).split())))

    def ended(self, why: str) -> Row:
        """The row that says why there is no further one."""
        if self.rows:
            return Row(f"{self.name}: the rest", Level.UNKNOWN, why)
        return Row(self.name, Level.CRITICAL, why)


def answers(probes: Sequence[Probe], meanwhile: Probe) -> list[Row]:
    """The rows of all, in their order.

    Args:
        meanwhile: this thread asks it, and it may take its time.
    """
    threads = [threading.Thread(target=probe.run, daemon=True) for probe in probes]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    meanwhile.run()
    found = [
        (probe, [*_awaited(probe, thread, begun)])
        for probe, thread in zip(probes, threads, strict=True)
    ]
    ill = {row.name for _, rows in found for row in rows if row.level is not Level.OK}
    told = [row for probe, rows in found if ill.isdisjoint(probe.behind) for row in rows]
    return [*told, *meanwhile.rows]


def _awaited(probe: Probe, thread: threading.Thread, begun: float) -> Iterator[Row]:
    for seconds in (SECONDS, probe.seconds):
        thread.join(max(0.0, begun + seconds - time.monotonic()))
        # What comes later belongs to no run.
        rows, is_late = list(probe.rows), thread.is_alive()
        if not is_late or not rows:
            break
    yield from rows
    if is_late:
        yield probe.ended(f"no answer within {seconds:g} s")


def within(ask: Callable[[], T]) -> T:
    """What one that may hang says within the seconds that everyone has.

    Raises:
        Failed: it has said nothing; or whatever it raises.
    """
    said: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            said.append(ask())
        except Exception as failure:
            failed.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if failed:
        raise failed[0]
    if not said:
        raise Failed(f"no answer within {SECONDS:g} s")
    return said[0]
