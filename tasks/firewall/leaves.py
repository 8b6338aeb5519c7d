"""What the firewall leaves on a host, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core import leavings, traces
from tasks.core.change import Line
from tasks.core.estate import Node
from tasks.core.traces import Here, Leaves
from tasks.firewall.files import BESIDE, NAME, RULES, UNIT
from tasks.firewall.settings import FirewallSettings

# The unit does so too, unless hands have stopped it.
_UNLOAD = "nft delete table inet datatier 2>/dev/null || :"


def _here(node: Node) -> Here:
    return Here(frozenset({NAME} if node.of(FirewallSettings) else ()))


def _pruned(_node: Node, _owner: str) -> tuple[Line, str]:
    return Line("firewall: turn off; its rules, file and unit go", "none"), _UNLOAD


def beside(node: Node) -> Iterator[str]:
    """Services that left the settings and stay: no rule names their ports any more."""
    for owner in leavings.surplus(node):
        is_there = traces.is_service(leavings.found(node).paths[owner])
        if is_there and not leavings.prunes(node, owner):
            yield f"{leavings.title(owner)}: the firewall no longer closes its port"


LEAVES = Leaves(
    owns=(NAME,),
    marked=(UNIT,),
    owners=tuple((path.replace(".", r"\."), NAME) for path in (RULES, BESIDE)),
    expected=UNIT.replace(".", r"\."),
    units=(NAME,),
    here=_here,
    pruned=_pruned,
    stopped=lambda _owner: _UNLOAD,
    title="firewall",
    goes=NAME,
)
