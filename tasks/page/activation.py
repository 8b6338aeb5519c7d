"""When the server of the status page starts or restarts."""

from __future__ import annotations

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import digest
from tasks.page.layout import GROUP
from tasks.page.service import program, service_of


def due_activation(node: Node) -> Change | None:
    """The start or restart that is due, or None; password and certificate it reads itself."""
    wanted = services.activation(
        service_of(node), node.place, restart=digest(service_of(node).command, program())
    )
    return services.compare([wanted], node.read(GROUP)["services"], node.place)
