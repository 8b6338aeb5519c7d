"""Shell: plain files, whose values are variables that come before them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_ROOMS = Path(__file__).parents[1]


def assignments(variables: Mapping[str, str]) -> str:
    """Shell assignments for standard input, where no process list shows them."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def quoted(*words: str) -> str:
    """Words for a shell, each quoted."""
    return " ".join(shlex.quote(word) for word in words)


def side_by_side(parts: Sequence[str]) -> str:
    """Shell that runs scripts at the same time, and prints what they print in their order.

    Each waits in a pipe for those after it, so there is no file that an end half-way leaves behind.
    """
    defined = "".join(f"part_{n}() (\n{part}\n)\n" for n, part in enumerate(parts))
    last = len(parts) - 1
    chain = f"part_{last}"
    for n in reversed(range(last)):
        rest = f'rest=$({chain}); cat; [ -z "$rest" ] || printf "%s\\n" "$rest"'
        chain = f"part_{n} | {{ {rest}; }}"
    return f"{defined}{chain}\n" if parts else ""


def shell(name: str, room: str = "core", /, **values: str) -> str:
    """What `tasks/ROOM/shell/NAME.sh` has, without the comments, and before it its values."""
    return assignments(values) + _text(name, room)


@cache
def _text(name: str, room: str) -> str:
    text = (_ROOMS / room / "shell" / f"{name}.sh").read_text()
    return re.sub(r"(?m)^ *#.*\n", "", text)
