"""Tables of the page, and what a command takes on a host."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.lab import Host


@dataclass
class Figures:
    """One table."""

    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def __str__(self) -> str:
        """The table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], unit: str = "s") -> str:
    """The median of values, and their range."""
    middle = statistics.median(values)
    return f"{middle:.2f} {unit} ({min(values):.2f} to {max(values):.2f})"


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """The median of the ratios of rounds."""
    return f"{statistics.median(a / b for a, b in zip(over, under, strict=True)):.2f}"


def alternating(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Each of these in turn, so that all see the same machine; the values of each."""
    found = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(values) for values in zip(*found, strict=True)]


_TIMED = """
TIMEFORMAT=%R
time bash -e -o pipefail -c "$1" >/var/tmp/bench.log 2>&1 ||
  { tail -n 5 /var/tmp/bench.log >&2; exit 1; }
"""


def took(host: Host, command: str) -> float:
    """Seconds of the clock that a command takes on a host; each of its steps must succeed."""
    done = host.run(shlex.join(["bash", "-c", _TIMED, "bench", command]), timeout=900)
    return float(done.stderr.split()[-1])
