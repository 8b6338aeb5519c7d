"""The one filter on everything that a run prints: no value of a secret passes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from pydantic import BaseModel, SecretStr

from backup import text as plain
from tasks.core import command

SHOWN = plain.SECRET

# Settings of others, such as a key of redis_extra or a variable of an application.
_NAMED = re.compile(r"(?i)pass(?!ive)|secret|token|credential|api_?key|webhook|heartbeat")

_values: set[str] = set()
_words: set[str] = set()


def secret(*values: str) -> None:
    """From now on these are not printed, in none of the forms in which they are sent."""
    _values.update(form for value in values for form in plain.forms(value))


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
    return plain.hidden(text, _values - _words)


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
    # pyinfra-debug.log gets what these say.
    if cli := command.part("exceptions"):
        for name in ("get_traceback", "get_exception"):
            said = getattr(cli.UnexpectedMixin, name)
            if not hasattr(said, "__wrapped__"):
                setattr(cli.UnexpectedMixin, name, _filtered(said))


def _filtered(said: Callable[[Any], str]) -> Callable[[Any], str]:
    @wraps(said)
    def filtered(mixin: Any) -> str:
        return hidden(said(mixin))

    return filtered
