"""A drill of the failover: what a client notices of it, which writes all the time."""

from __future__ import annotations

from typing import NamedTuple

from tasks.core.estate import Node
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tasks.redis.rolling import FUNCTIONS
from tasks.redis.sentinels import endpoints, master_name
from tasks.redis.settings import addresses, logins
from tasks.redis.topology import Address


class Measured(NamedTuple):
    """What the client saw.

    Attributes:
        before, after: who led.
        seconds: the longest time between two acknowledged writes; each
            write starts a program, which takes 0.01 s to 0.1 s.
        written: writes that were acknowledged.
        lost: how many of them the new master does not have.
        wrong: why the estate is not whole again, after a minute; else empty.
    """

    before: str
    after: str
    seconds: float
    written: int
    lost: int
    wrong: str

    @property
    def failure(self) -> str:
        """Why the drill has not passed; empty if it has."""
        if self.lost:
            return f"{self.lost} of {self.written} acknowledged writes are lost"
        if self.before == self.after:
            return f"{self.before} still leads: see the log of the Sentinels"
        return f"the estate is not whole again: {self.wrong}" if self.wrong else ""


def client(node: Node, step: str, key: str) -> tuple[str, dict[str, str]]:
    """Shell of a client of the estate, and its variables.

    Args:
        step: `fit`, `begin`, `writing` or `measure`.
        key: that it writes to.
    """
    everything = node.estate
    known = {
        "name": master_name(everything),
        "drill_sentinels": " ".join(map(str, endpoints(everything))),
        "drill_instances": " ".join(map(str, addresses(everything))),
        "key": key,
    }
    return f"set -eu\n{FUNCTIONS}{shell('drill', 'redis', **known)}\n{step}\n", logins(node)


def parsed(lines: list[str]) -> Measured:
    """What `measure` has printed.

    Raises:
        Unreadable: it was cut off.
    """
    try:
        before, after, centiseconds, written, lost, wrong = lines
        figures = int(centiseconds) / 100, int(written), int(lost)
    except ValueError as error:
        raise Unreadable("the client of the drill was cut off: run again") from error
    return Measured(_address(before), _address(after), *figures, wrong)


def _address(words: str) -> str:
    return words.replace(" ", ":")


def beside(leader: Address, nodes: list[Node]) -> Node:
    """Where the client runs: not with the master, if another one is there."""
    others = [node for node in nodes if node.address != leader.ip]
    return (others or nodes)[0]
