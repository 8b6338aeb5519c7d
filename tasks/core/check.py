"""A row of the health table: what is asked, and of whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.core.preflight import hears

if TYPE_CHECKING:
    from tasks.core.estate import Node


@dataclass(frozen=True)
class Check:
    """One row of the table: a request made on a host, and what its answer must be.

    Attributes:
        functions: shell that the script needs, written once a host.
        rank: where its row stands, and whose line on how to connect is shown: one a rank.
        data: the directory of the cluster that has to answer.
        settles: it may become well by itself within a minute.
    """

    service: str
    node: Node
    where: str
    script: str
    connect: str
    rank: int
    variables: Mapping[str, str] = field(default_factory=dict)
    functions: str = ""
    data: str = ""
    settles: bool = True


def place(node: Node, listen: str | None, *, is_near: bool = False) -> str:
    """Where a server listens: for others, if it does; else for its own host."""
    if not hears(listen, node.address) or (is_near and hears(listen, "127.0.0.1", "localhost")):
        return "127.0.0.1" if hears(listen, "127.0.0.1", "localhost") else "/var/run/postgresql"
    return node.address
