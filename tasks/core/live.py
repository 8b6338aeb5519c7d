"""What a running server says of its settings, compared with what they should be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tasks.core.services import Status, fingerprints

_WORDS = {"yes": 1.0, "on": 1.0, "true": 1.0, "no": 0.0, "off": 0.0, "false": 0.0}
_UNITS = {
    "": 1,
    **{"b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3},
    "tb": 1024**4,
}
# What may be a secret, by its name.
_SECRET = re.compile("pass|auth$|secret")


def moved(
    wanted: Mapping[str, str], uses: Mapping[str, str], plain: Iterable[str] = ()
) -> dict[str, tuple[str, str]]:
    """What a server uses and should, by key, where the two differ.

    Args:
        plain: keys that the server says as they are written; of others it may have another
            spelling, and words that are no number, size or single word are not compared.
    """
    exact = {*plain}
    return {
        key: (uses[key], value)
        for key, value in wanted.items()
        if key in uses and (key in exact or _is_comparable(value)) and not is_same(value, uses[key])
    }


def _is_comparable(value: str) -> bool:
    return bool(re.fullmatch(r"[\w.+$-]*%?", value))


def is_same(one: str, other: str) -> bool:
    """Whether two words mean the same to Redis and PgBouncer."""
    return one == other or _canonical(one) == _canonical(other)


def size(value: str) -> int:
    """Bytes of a size as servers write it, such as `64MB`."""
    found = _canonical(value)
    assert isinstance(found, float)
    return int(found)


def _canonical(value: str) -> str | float:
    word = value.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kmg]?b?|tb)", word)
    return float(match[1]) * _UNITS[match[2]] if match else word


def sentences(service: str, found: Mapping[str, tuple[str, str]]) -> list[str]:
    """What a plan says of them; no secret."""
    return [
        f"{service}: {key} was changed at run time"
        if _SECRET.search(key)
        else f"{service}: {key} is {now or '(empty)'} at run time, not {wanted or '(empty)'}"
        for key, (now, wanted) in sorted(found.items())
    ]


def status(now: Status, found: Iterable[str], fixed: Iterable[str]) -> Status:
    """What is known of a server that differs: a reload is due, or a restart for what it needs.

    Args:
        fixed: the keys that take a restart.
    """
    behind = {*found} & {*fixed}
    if behind:
        # Of another value than the record has, so that the plan names them.
        known = {key for key in now.keys if key.partition("=")[0] not in behind}
        keys = known | fingerprints(dict.fromkeys(behind, "behind"))
        return replace(now, restart="behind", keys=frozenset(keys))
    return replace(now, outdated=now.outdated or bool({*found}))
