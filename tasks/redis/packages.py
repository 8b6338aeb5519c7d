"""The packages of Redis and Sentinel."""

from __future__ import annotations

from tasks.core import packages
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.scripts import shell

MASK = shell("mask", "redis")


def required(node: Node) -> list[str]:
    """The packages of Redis and of Sentinel, which is the same program."""
    return ["redis-server", "redis-tools", *node.place.packages]


def missing_packages(node: Node) -> Change | None:
    return packages.compare(node, required(node), node.read("redis")["packages"], MASK)
