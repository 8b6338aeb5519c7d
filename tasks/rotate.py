"""Rotation: another value of a secret, beside the one of before until `finish` takes that away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from weakref import WeakKeyDictionary

from pyinfra import local
from pyinfra.api import State
from pyinfra.context import ctx_state

from tasks.core import retired
from tasks.core.asking import Refusal
from tasks.core.change import converge
from tasks.core.estate import Estate, here
from tasks.core.secrets import previous

_DEPLOY = Path(__file__).resolve().parents[1] / "deploy.py"
_begun: WeakKeyDictionary[State, str] = WeakKeyDictionary()


def __getattr__(name: str) -> Callable[[], None]:
    """`tasks.rotate.NAME`, for every secret that a component of the estate rotates."""
    if name.startswith("_"):
        raise AttributeError(name)
    return lambda: _deployed(lambda estate: _turned(estate, name))


def finish() -> None:
    """Takes away every value of before, and deploys: it is refused from then on."""
    _deployed(_dropped)


def record() -> None:
    """Lets each host know the values that it has now, so that no older one comes back unasked."""
    node = here()
    converge("Secrets: record", lambda: retired.missing_record(node))


def _deployed(change: Callable[[Estate], str]) -> None:
    """A deployment with the secrets changed before it, once for all hosts.

    Raises:
        Refusal: they cannot be changed.
    """
    state = ctx_state.get()
    if state not in _begun:
        before = Estate.of(state)
        # What is wrong with the settings is refused when they are deployed.
        _begun[state] = "" if before.problems else change(before)
    if _begun[state]:
        raise Refusal(f"{_begun[state]}; nothing was changed")
    local.include(str(_DEPLOY))


def _turned(estate: Estate, name: str) -> str:
    offered = estate.rotates()
    if name not in offered:
        if estate.secrets.stated(name.upper()):
            return f"{name.upper()}: does not rotate here; docs/secrets.md says what does"
        close = get_close_matches(name, offered, n=1)
        return f"tasks.rotate.{name}: no such secret to rotate{f' ({close[0]}?)' if close else ''}"
    why = estate.secrets.turn(offered[name])
    return why and f"{offered[name]}: {why}"


def _dropped(estate: Estate) -> str:
    going = [name for name in _known(estate) if estate.secrets.stated(previous(name))]
    why = ((name, estate.secrets.drop(name)) for name in dict.fromkeys(going))
    return next((f"{name}: {each}" for name, each in why if each), "")


def _known(estate: Estate) -> Iterator[str]:
    yield from estate.rotates().values()
    for node in estate.nodes:
        for component in node.components():
            yield from component.secrets(node)
