"""Who watches the instances: the settings of the Sentinels, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from tasks.core.estate import Estate
from tasks.core.settings import Ports, Settings, matching
from tasks.redis.topology import Address

Milliseconds = Annotated[int, Field(ge=100, le=3_600_000)]


class SentinelSettings(Settings):
    """The `sentinel_*` keys; times are in milliseconds, as Sentinel's own."""

    prefix: ClassVar[str] = "sentinel_"

    ports: Ports = (26379,)
    """One Sentinel per port on this host; the embedded `inventory.py` has 26379, 26380, 26381.
    Change: a new port starts one; a port taken away keeps running without `sentinel_prune`."""
    master_name: Annotated[
        str, matching(r"[A-Za-z0-9._-]+", "should be letters, digits, '.', '_' and '-'")
    ] = "mymaster"
    """The name that clients ask for. Change: a second name is watched too, the first one stays:
    choose it once."""
    quorum: Annotated[int, Field(ge=1)] = 2
    """Sentinels that must agree that the master is down; a majority of all. Change: live."""
    down_after_milliseconds: Milliseconds = 5000
    """Silence after which an instance counts as down. Change: live."""
    failover_timeout: Milliseconds = 10000
    """Limit of one failover; the next attempt comes after twice that. Change: live."""
    parallel_syncs: Annotated[int, Field(ge=1)] = 1
    """Replicas that follow the new master at the same time. Change: live."""
    prune: bool = False
    """Sentinels that left the settings go; the others forget who left, masters beside ours and ACL
    users. Change: they stop; live."""


def endpoints(everything: Estate) -> list[Address]:
    """Every Sentinel, in the inventory's order."""
    return [
        Address(node.address, port)
        for node in everything.having(SentinelSettings)
        for port in node.the(SentinelSettings).ports
    ]


def master_name(everything: Estate) -> str:
    """The name that the Sentinels know the master by."""
    nodes = everything.having(SentinelSettings)
    return nodes[0].the(SentinelSettings).master_name if nodes else "mymaster"


class Watched(NamedTuple):
    """A master that a Sentinel watches as ours.

    Attributes:
        members: it, and the replicas that the Sentinel knows of it.
        is_down: the Sentinel gets no answer from it, and puts no other in its place.
    """

    master: Address
    members: set[Address]
    is_down: bool


def watched(everything: Estate) -> Iterator[Watched]:
    """Each master that a Sentinel in reach watches as ours."""
    for node in everything.having(SentinelSettings):
        said = node.read("sentinel") if node in everything.active else {"monitors": {}}
        for port, live in said["monitors"].items():
            if live and "ip" in live:
                master = Address(live["ip"], int(live["port"]))
                view = said["views"].get(port)
                flags = live.get("flags", "").split(",")
                is_down = "s_down" in flags and "failover_in_progress" not in flags
                yield Watched(master, {master, *(view.replicas if view else ())}, is_down)


def monitors(everything: Estate) -> Iterator[Mapping[str, str] | None]:
    """What each Sentinel in reach knows of the master; None for one that does not answer."""
    for node in everything.having(SentinelSettings):
        if node in everything.active:
            yield from node.read("sentinel")["monitors"].values()
