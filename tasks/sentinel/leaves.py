"""What Sentinel leaves on a host."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.traces import Here, Leaves
from tasks.redis.sentinels import SentinelSettings


def _here(node: Node) -> Here:
    chosen = node.of(SentinelSettings)
    if chosen is None:
        return Here()
    return Here(frozenset({"redis-cli", *(f"redis-sentinel-{port}" for port in chosen.ports)}))


LEAVES = Leaves(
    owns=("redis-sentinel-",),
    named=("/var/lib/redis/sentinel-[0-9]*",),
    owners=(
        (r"/etc/redis/(sentinel-[0-9]+)\.conf", r"redis-\1"),
        (r"/var/lib/redis/(sentinel-[0-9]+)", r"redis-\1"),
    ),
    users={"redis": "redis"},
    here=_here,
    title="Sentinel",
    goes="redis-sentinel-",
)
