"""What the firewall leaves on a host, and how it goes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.core import leavings, traces
from tasks.core.change import Line
from tasks.core.estate import Node
from tasks.core.preflight import Holder
from tasks.core.traces import Here, Leaves
from tasks.firewall.files import BESIDE, NAME, RULES, UNIT
from tasks.firewall.rules import Opening, former
from tasks.firewall.settings import FirewallSettings

# The unit does so too, unless hands have stopped it.
_UNLOAD = "nft delete table inet datatier 2>/dev/null || :"


def _here(node: Node) -> Here:
    return Here(frozenset({NAME} if node.of(FirewallSettings) else ()))


def _pruned(_node: Node, _owner: str) -> tuple[Line, str]:
    return Line("firewall: turn off; its rules, file and unit go", "none"), _UNLOAD


def former_of(node: Node) -> list[Opening]:
    """The ports that are closed on a host and that its settings do not name."""
    return former(node, node.read("firewall")["files"][RULES].content.decode(errors="replace"))


def held(node: Node) -> dict[int, str]:
    """Those of services that left the settings and stay, and the services."""
    found: list[Holder] = node.read("firewall")["former"]
    return {each.port: owner for each in found for owner in _left(node) if _is_of(each, owner)}


def _left(node: Node) -> list[str]:
    paths = leavings.found(node).paths
    left = [owner for owner in leavings.surplus(node) if not leavings.prunes(node, owner)]
    return [owner for owner in left if traces.is_service(paths[owner])]


def _is_of(holder: Holder, owner: str) -> bool:
    return bool(re.search(rf"\b{re.escape(owner)}(?!\d)", f"{holder.cgroup} {holder.command}"))


def beside(node: Node) -> Iterator[str]:
    """Services that left the settings and stay, and whose ports no rule names."""
    closed = held(node).values()
    for owner in _left(node):
        if owner not in closed:
            yield f"{leavings.title(owner)}: the firewall does not close its port"


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
