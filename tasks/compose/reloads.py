"""Services whose configuration changes without a new container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tasks.compose.engine import Engine
from tasks.compose.inside import place_of
from tasks.compose.services import inside_of
from tasks.core.estate import Node
from tasks.core.places.container import Container
from tasks.core.services import Taking


@dataclass(frozen=True)
class Reloadable(Taking):
    """A service whose configuration changes without a new container."""

    container: Container

    @property
    def name(self) -> str:
        return self.wanted.service.name

    def place(self, found: Engine) -> Container:
        """The containers that take it: scaled replicas have that of the replicas."""
        scaled = found.of("redis-replica") if self.name == "redis-replica-1" else ()
        return replace(self.container, scaled=tuple(c.name.lstrip("/") for c in scaled))


def reloadables(node: Node) -> Iterator[Reloadable]:
    for container in inside_of(node).nodes:
        for component in container.components():
            for each in component.takings(container):
                yield Reloadable(each.wanted, each.now, each.lines, place_of(container))
