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


def took(host: Host, command: str) -> float:
    """Seconds of the clock that a command takes on a host; it must succeed."""
    words = ["bash", "-c", f"set -o pipefail; TIMEFORMAT=%R; time {{ {command}; }} >/dev/null 2>&1"]
    return float(host.run(f"{shlex.join(words)}", timeout=900).stderr.split()[-1])
