"""The packages of Redis and Sentinel."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.scripts import shell

MASK = shell("mask", "redis")


def packages_of(node: Node) -> Packages:
    """The packages of Redis and of Sentinel, which is the same program."""
    return Packages(["redis-server", "redis-tools", *node.place.packages], (MASK,), ("redis-",))
