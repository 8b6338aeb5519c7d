"""Text that comes from servers and hosts: shown to people, whatever wrote it."""

from __future__ import annotations

LIMIT = 1000


def shown(text: str) -> str:
    """One line of a terminal: what is not printable is escaped, and what is longer ends in '...'.

    Nothing in it moves a cursor, sets a color, or writes from right to left.
    """
    cut = text if len(text) <= LIMIT else f"{text[:LIMIT]}..."
    return "".join(each if each.isprintable() or each == "\t" else _escaped(each) for each in cut)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
