"""How a run ends before it begins: refused in one line, or since no one answers its question."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from pyinfra import logger
from pyinfra.api import State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_state

from tasks.core import command

_command = command.part("cli")
_Shown: Any = _command.CliError if _command else Exception


class Refusal(PyinfraError, _Shown):  # type: ignore[misc]
    """What a run is not made for; not shown as if something had crashed."""

    def show(self, file: object = None) -> None:
        """The sentence alone, without a place in our code."""
        logger.error(f"--> Refused: {self}")


_looking: WeakSet[State] = WeakSet()


def only_looks() -> None:
    """Says of this run that it changes nothing, so that there is nothing to ask."""
    _looking.add(ctx_state.get())


def _confirmed(message: str) -> bool:
    if ctx_state.get() in _looking:
        return True
    try:
        return bool(_ask(message))
    except EOFError:
        raise Refusal("no one can answer here: -y asks nothing, and --dry only looks") from None


if _command:
    _ask = _command._do_confirm
    _command._do_confirm = _confirmed
