"""The one filter on everything that a run prints: no value of a secret passes."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

SHOWN = "<secret>"

# What is shorter is part of other words; such a password is not hidden, and said to be short.
SHORTEST = 6

# Settings of others, such as a key of redis_extra or a variable of an application.
_NAMED = re.compile(r"(?i)pass(?!ive)|secret|token|credential|api_?key|webhook|heartbeat")
_URL = re.compile(r"(://[^/\s:@]*:)[^@\s/]+(?=@)")

_values: set[str] = set()
_words: set[str] = set()


def secret(*values: str) -> None:
    """From now on these are not printed, in none of the forms in which they are sent."""
    for value in values:
        if len(value) >= SHORTEST:
            encoded = base64.b64encode(value.encode()).decode()
            _values.update({value, json.dumps(value)[1:-1], quote(value, safe=""), encoded})


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
    """The text without secrets."""
    for value in sorted(_values - _words, key=len, reverse=True):
        if value in text:
            text = text.replace(value, SHOWN)
    return _URL.sub(rf"\1{SHOWN}", text)


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
