"""Measures the parts that BENCH names, or all, and writes docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import backups, runs, services
from tests.bench.figures import Figures
from tests.e2e.project import ROOT
from tests.lab import Lab

PARTS: dict[str, Callable[[Lab], Figures]] = {
    "noop": runs.without_changes,
    "far": runs.from_afar,
    "first": runs.first,
    "pooler": services.poolers,
    "restart": services.stalls,
    "failover": services.failovers,
    "backup": backups.backups,
    "health": services.health,
}
PAGE = ROOT / "docs" / "benchmarks.md"
TEMPLATE = Path(__file__).with_name("page.md")


def measured(lab: Lab, name: str) -> str:
    """The table of a part, and what it was measured on."""
    before = os.getloadavg()[0]
    figures = PARTS[name](lab)
    return (
        f"{figures}\n\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, "
        f"{os.cpu_count()} processors, load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


def page(found: dict[str, str]) -> str:
    """The template with these sections; one that was not measured stays as it is on the page."""
    before = PAGE.read_text() if PAGE.exists() else ""

    def section(match: re.Match[str]) -> str:
        name = match[1]
        kept = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", before, re.DOTALL)
        text = found.get(name) or (kept[1] if kept else "Not measured yet.")
        return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"

    return re.sub(r"\{\{ (\w+) \}\}", section, TEMPLATE.read_text())


def main() -> None:
    """Measures, one part after the other; the page is written after each."""
    chosen = os.environ.get("BENCH", "").split() or [*PARTS]
    if unknown := sorted({*chosen} - {*PARTS}):
        raise SystemExit(f"BENCH: no part {', '.join(unknown)}; parts are: {' '.join(PARTS)}")
    with Lab(os.environ.get("BENCH_LAB", "bench")) as lab:
        for name in chosen:
            text = measured(lab, name)
            print(f"{name}\n{text}\n", flush=True)
            PAGE.write_text(page({name: text}))


if __name__ == "__main__":
    main()
