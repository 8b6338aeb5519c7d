"""Golden files: what is rendered is compared with what was once read and found right.

After a change that is meant, `pytest tests/unit --update-golden` writes them again; the difference
is then reviewed like any other.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "golden"


def check(shape: str, rendered: Mapping[str, str], *, update: bool) -> None:
    """Compares rendered texts, by path below `tests/golden/<shape>`, with the golden ones.

    A golden file that nothing renders any more is a difference as well.
    """
    directory = ROOT / shape
    if update:
        _write(directory, rendered)
    stored = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    assert sorted(stored) == sorted(rendered)
    for name in sorted(rendered):
        same(name, stored[name].read_text(), rendered[name])


def _write(directory: Path, rendered: Mapping[str, str]) -> None:
    for path in [p for p in directory.rglob("*") if p.is_file()]:
        path.unlink()
    for name, text in rendered.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def same(name: str, before: str, now: str) -> None:
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), name, "rendered now")
    difference = "\n".join(lines)
    if before != now:
        pytest.fail(f"{difference or name}\n(meant? pytest tests/unit --update-golden)", False)
