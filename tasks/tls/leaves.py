"""What certificates leave on a host, and how they go."""

from __future__ import annotations

from tasks.core.change import Line
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.core.traces import Here, Leaves
from tasks.tls.probes import ROOT
from tasks.tls.settings import TlsSettings

_NAME = "tls"
_SEARCHED = "/etc/postgresql /etc/pgbouncer /etc/redis"


def _here(node: Node) -> Here:
    return Here(frozenset({_NAME} if node.of(TlsSettings) else ()))


def _pruned(_node: Node, _owner: str) -> tuple[Line, str]:
    return Line(f"{ROOT}: remove keys and certificates", "none"), ":"


LEAVES = Leaves(
    owns=(_NAME,),
    named=(ROOT,),
    owners=((ROOT, _NAME),),
    here=_here,
    # A server that could not go over to life without them still has them in its configuration.
    before={_NAME: shell("unused", "tls", root=ROOT, searched=_SEARCHED)},
    pruned=_pruned,
    title="certificates",
    goes=_NAME,
)
