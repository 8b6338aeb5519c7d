"""What to do about a row that is not well: read from the page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# It comes with the program, to the same place beside it.
PAGE = Path(__file__).parents[2] / "docs" / "health.md"

_LINE = re.compile(r"\| (?P<rows>`[^|]*`) \| (?P<when>[^|]*) \| (?P<todo>.*) \|")
# What stands for a name: an ellipsis, or a word in capitals.
_ANY = re.compile(r"…|\b[A-Z]{2,}\b")


class Remedy(NamedTuple):
    """A line of the page: which rows it is about, when they are not well, and what to do."""

    row: str
    when: str
    todo: str

    def is_of(self, name: str) -> bool:
        """Whether it is about the row of that name."""
        parts = [re.escape(part) for part in _ANY.split(self.row)]
        return re.fullmatch(".+".join(parts), name, re.DOTALL) is not None


def remedies(page: Path = PAGE) -> list[Remedy]:
    """All that the page has; none where it is missing."""
    try:
        return list(_read(page.read_text(encoding="utf-8")))
    except OSError:
        return []


def _read(text: str) -> Iterator[Remedy]:
    for line in _LINE.finditer(text):
        for row in re.findall("`([^`]*)`", line["rows"]):
            yield Remedy(row, line["when"], line["todo"])


def remedy(known: list[Remedy], name: str) -> Remedy | None:
    """The one that says most of a row's name."""
    found = [each for each in known if each.is_of(name)]
    return max(found, key=lambda each: len(_ANY.sub("", each.row)), default=None)
