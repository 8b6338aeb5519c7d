"""Whether the kernel has the rules of the settings."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.firewall.probes import table_functions

# Beneath applications.
RANK = 6


def rows(node: Node) -> Iterator[Check]:
    """A row for each host that has one."""
    script = table_functions(node) + shell("asked", "firewall")
    yield Check("firewall", node, "-", script, "-", RANK, settles=False)
