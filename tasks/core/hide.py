"""The one filter on everything that a run prints: no value of a secret passes."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from backup import text as plain

SHOWN = "<secret>"

# What is shorter is part of other words: `printable` refuses such a password.
SHORTEST = 6
# So much of the beginning of one tells it from other words: servers cut long values.
_TELLING = 12

# Settings of others, such as a key of redis_extra or a variable of an application.
_NAMED = re.compile(r"(?i)pass(?!ive)|secret|token|credential|api_?key|webhook|heartbeat")
_URL = re.compile(r"(://[^/\s:@]*:)[^@\s/]+(?=@)")
# Who has one can log in with it.
_VERIFIER = re.compile(r"SCRAM-SHA-256\$[0-9]+:[^\s'\"]+")

_values: set[str] = set()
_words: set[str] = set()


def secret(*values: str) -> None:
    """From now on these are not printed, in none of the forms in which they are sent."""
    for value in values:
        if len(value) >= SHORTEST:
            _values.update(_forms(value))


def _forms(value: str) -> Iterator[str]:
    """The value as formats quote it: JSON and Redis, Python, SQL, PgBouncer, URLs."""
    yield value
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    yield value.replace("'", "''")
    yield value.replace('"', '""')
    yield quote(value, safe="")
    yield base64.b64encode(value.encode()).decode()


def word(*values: str) -> None:
    """Names that are printed anyway: one of them as a password would make output unreadable."""
    _words.update(values)


def secrets_in(value: object, name: str = "") -> Iterator[str]:
    """The values in settings that are secret by their type, or by the name that they have."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from secrets_in({field: getattr(value, field) for field in type(value).model_fields})
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from secrets_in(each, str(key))
    elif isinstance(value, str):
        yield from [value] if _NAMED.search(name) else []
    elif isinstance(value, Iterable):
        for each in value:
            yield from secrets_in(each, name)


def hidden(text: str) -> str:
    """The text without secrets, and without the beginnings of long ones."""
    for value in sorted(_values - _words, key=len, reverse=True):
        text = text.replace(value, SHOWN)
        if len(value) > _TELLING and "://" not in value:
            text = _without_beginnings(text, value)
    return _VERIFIER.sub(SHOWN, _URL.sub(rf"\1{SHOWN}", text))


def _without_beginnings(text: str, value: str) -> str:
    begin = text.find(value[:_TELLING])
    while begin >= 0:
        cut = begin
        for one, other in zip(value, text[begin:], strict=False):
            if one != other:
                break
            cut += 1
        text = f"{text[:begin]}{SHOWN}{text[cut:]}"
        begin = text.find(value[:_TELLING], begin + len(SHOWN))
    return text


def shown(text: str) -> str:
    """One line for a terminal: secrets go before it is cut, so that no half of one is left."""
    return plain.shown(hidden(text))


class _Filtered:
    """A stream that hides what passes it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written: int = self._stream.write(hidden(text))
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def begin() -> None:
    """Filters both streams, and with them logs, tracebacks and pyinfra's own words."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Filtered):
            setattr(sys, name, _Filtered(stream))
    # pyinfra-debug.log gets what these say. Not imported: that would replace parts of Python.
    if cli := sys.modules.get("pyinfra_cli.exceptions"):
        for name in ("get_traceback", "get_exception"):
            said = getattr(cli.UnexpectedMixin, name)
            if not hasattr(said, "__wrapped__"):
                setattr(cli.UnexpectedMixin, name, _filtered(said))


def _filtered(said: Callable[[Any], str]) -> Callable[[Any], str]:
    @wraps(said)
    def filtered(mixin: Any) -> str:
        return hidden(said(mixin))

    return filtered
