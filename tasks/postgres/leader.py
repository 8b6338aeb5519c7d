"""Which of several servers leads: they say so, and after a switchover the run that has made it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal
from weakref import WeakKeyDictionary

from tasks.core.estate import Estate, Node
from tasks.core.places import STATE_DIRECTORY
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell
from tasks.postgres import sql
from tasks.postgres.settings import PostgresSettings


def is_replicated(node: Node) -> bool:
    """Whether the estate has a standby."""
    return len(node.estate.having(PostgresSettings)) > 1


def is_standby(node: Node) -> bool:
    """Whether another server leads."""
    return is_replicated(node) and leader(node.estate) is not node


# Asked once in a run.
_led: WeakKeyDictionary[Estate, Node] = WeakKeyDictionary()
# Whom this run has made lead, in its plan (False) and in deed; None while that is not known.
_made: WeakKeyDictionary[Estate, dict[bool, Node | None]] = WeakKeyDictionary()
_assumed: ContextVar[Node | None] = ContextVar("assumed", default=None)


def leader(everything: Estate) -> Node:
    """The server that takes writes: the servers say so, and the first one where there is none yet.

    Raises:
        Unreadable: none leads, or several do, or this run reaches none that knows.
    """
    assumed = _assumed.get()
    if assumed is not None and assumed.estate is everything:
        return assumed
    made, is_executing = _made.get(everything, {}), everything.state.is_executing
    if is_executing in made:
        return _known(made[is_executing])
    return asked(everything)


def asked(everything: Estate) -> Node:
    """The one that the servers named as this run began; raises as `leader` does."""
    if everything not in _led:
        _led[everything] = _asked(everything)
    return _led[everything]


def _known(made: Node | None) -> Node:
    if made is None:
        raise Unreadable("a switchover of PostgreSQL has not come to its end: run again")
    return made


@contextmanager
def assumed(node: Node) -> Iterator[None]:
    """As if this server led: for what has to be known before it does, or has to be as it was."""
    token = _assumed.set(node)
    try:
        yield
    finally:
        _assumed.reset(token)


def make(everything: Estate, node: Node | None) -> None:
    """From here on another server leads in this run, or in its plan; None: that is not known."""
    _made.setdefault(everything, {})[everything.state.is_executing] = node


def planned(node: Node) -> Literal["", "leads", "follows"]:
    """What a server does after the switchover of a plan, where it is one of the two."""
    everything = node.estate
    first = _made.get(everything, {}).get(False)
    if everything.state.is_executing or first is None or _assumed.get() is not None:
        return ""
    if node is first:
        return "leads"
    return "follows" if node is asked(everything) else ""


def presumed(everything: Estate) -> Node:
    """The same, and before it is known one that has the same settings."""
    is_known = everything in _led or _assumed.get() is not None
    return leader(everything) if is_known else everything.having(PostgresSettings)[0]


def ask(everything: Estate) -> None:
    """Learns who leads, for a host that has to know.

    Raises:
        Unreadable: this run reaches no server; one that it reaches says itself why it is not known.
    """
    try:
        leader(everything)
    except Unreadable:
        if not any(node in everything.active for node in everything.having(PostgresSettings)):
            raise


def server_of(node: Node) -> sql.Server:
    """What a server says of itself."""
    server: sql.Server = node.read("postgres")["server"]
    return server


def _asked(everything: Estate) -> Node:
    known = everything.having(PostgresSettings)
    if len(known) == 1:
        return known[0]
    asked = [node for node in known if node in everything.active]
    leading = [node for node in asked if leads(node)]
    if len(leading) > 1:
        names = " and ".join(node.name for node in leading)
        raise Unreadable(
            f"{names} have each a cluster that takes writes: put each into an inventory of its "
            "own, or move the cluster away that is to become a copy (pg_dropcluster)"
        )
    led = leading or left(everything) or _followed(known, asked)
    if len(led) == 1:
        return led[0]
    if asked == known and all(server_of(node).kind == "absent" for node in known):
        return known[0]
    names = ", ".join(node.name for node in known)
    raise Unreadable(
        f"which server of group postgres leads is not known here: run on all of {names}, "
        "and start the one that leads"
    )


def leads(node: Node) -> bool:
    """Whether a server takes writes, or would once it is started."""
    server = server_of(node)
    return not server.follows and not server.facts.get("recovers") and server.kind != "absent"


def left(everything: Estate) -> list[Node]:
    """The server that led until a switchover, where that was cut off."""
    known = everything.having(PostgresSettings)
    return [node for node in known if node in everything.active and handing(node)]


def handing_probe() -> Probe[tuple[str, ...]]:
    """Reads how far a server is in handing over."""
    script = shell("handing-state", "postgres", marks=STATE_DIRECTORY)
    return Probe(script, lambda lines: tuple(lines[0].split(" ", 1)) if lines else ())


def handing(node: Node) -> tuple[str, ...]:
    """How far a server is in handing over, and to whom; empty where it is not."""
    return tuple(node.read("postgres").get("handing", ()))


def _followed(known: list[Node], asked: list[Node]) -> list[Node]:
    """Whom the standbys follow, where that is a server which this run does not reach."""
    used = [(server_of(node).facts.get("used") or {}).get("primary_conninfo") for node in asked]
    told = [re.search(r"host='?([^' ]+)", str(each[0])) for each in used if each]
    hosts = {found[1] for found in told if found}
    return [node for node in known if node.address in hosts and node not in asked]
