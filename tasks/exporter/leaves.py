"""What the exporter leaves on a host, and how it goes."""

from __future__ import annotations

from tasks.core.change import Line
from tasks.core.estate import Node
from tasks.core.traces import Here, Leaves
from tasks.exporter.layout import DEFAULTS, HOME, NAME, STATE, TEXTFILES
from tasks.exporter.settings import ExporterSettings


def _here(node: Node) -> Here:
    return Here(frozenset({NAME} if node.of(ExporterSettings) else ()))


def _pruned(_node: Node, _owner: str) -> tuple[Line, str]:
    return Line(f"{NAME}: stop; its files go", "none"), ":"


# What the health check has found; a host's own look is not the exporter's.
_FOUND = f"{TEXTFILES}/datatier.prom"

LEAVES = Leaves(
    owns=(NAME,),
    named=(_FOUND,),
    marked=(DEFAULTS,),
    owners=((f"{DEFAULTS}|{HOME}|{_FOUND}", NAME),),
    units=(NAME,),
    packages=(NAME,),
    here=_here,
    # What dpkg puts beside a file that was there before its package.
    further={NAME: f"{DEFAULTS}.dpkg-dist"},
    directories={NAME: STATE},
    pruned=_pruned,
    title="exporter",
    goes=NAME,
)
