"""Text that comes from servers and hosts: shown to people, whatever wrote it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

LIMIT = 1000
SECRET = "<secret>"
# What is shorter is part of other words: settings refuse such a password.
SHORTEST = 6
# So much of the beginning of a secret tells it from other words: what is long is cut by servers.
_TELLING = 12
_URL = re.compile(r"(://[^/\s:@]*:)[^@\s/]+(?=@)")
# Who has one can log in with it.
_VERIFIER = re.compile(r"SCRAM-SHA-256\$[0-9]+:[^\s'\"]+")


def forms(value: str) -> Iterator[str]:
    """A secret as formats quote it: JSON and Redis, Python, SQL, PgBouncer, URLs."""
    if len(value) >= SHORTEST:
        yield value
        yield json.dumps(value)[1:-1]
        yield repr(value)[1:-1]
        yield value.replace("'", "''")
        yield value.replace('"', '""')
        yield quote(value, safe="")
        yield base64.b64encode(value.encode()).decode()


def hidden(text: str, secrets: Iterable[str]) -> str:
    """The text without secrets (see `forms`), and without the beginnings of long ones."""
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, SECRET)
        if len(value) > _TELLING and "://" not in value:
            text = _without_beginnings(text, value)
    return _VERIFIER.sub(SECRET, _URL.sub(rf"\1{SECRET}", text))


def _without_beginnings(text: str, value: str) -> str:
    begin = text.find(value[:_TELLING])
    while begin >= 0:
        cut = begin
        for one, other in zip(value, text[begin:], strict=False):
            if one != other:
                break
            cut += 1
        text = f"{text[:begin]}{SECRET}{text[cut:]}"
        begin = text.find(value[:_TELLING], begin + len(SECRET))
    return text


def shown(text: str) -> str:
    """One line of a terminal: what is not printable is escaped, and what is longer ends in '...'.

    Nothing in it moves a cursor, sets a color, or writes from right to left.
    """
    cut = text if len(text) <= LIMIT else f"{text[:LIMIT]}..."
    return "".join(each if each.isprintable() or each == "\t" else _escaped(each) for each in cut)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
