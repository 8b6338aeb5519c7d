"""The memory that services of one host may use together by their settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.core.estate import Node

_MIB = 1024**2


def exceeded(nodes: Sequence[Node]) -> Iterator[str]:
    """A sentence for each host that has less than its settings add up to."""
    for node in nodes:
        carried = node.inside.nodes if node.inside is not None else [node]
        parts: Counter[str] = Counter()
        for each in carried:
            for component in each.components():
                parts.update(component.memory(each))
        total, has = sum(parts.values()) // _MIB, carried[0].system.memory if carried else 0
        if total > has:
            told = " + ".join(f"{key} {most // _MIB}" for key, most in parts.items())
            yield (
                f"{node.name}: memory: {told} MB are {total}, more than the {has} that there are: "
                "the kernel may end a server; lower one of them"
            )
