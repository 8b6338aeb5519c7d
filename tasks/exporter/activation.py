"""When the exporter starts or restarts."""

from __future__ import annotations

from dataclasses import replace

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.services import Status
from tasks.exporter.layout import NAME, PROGRAM, SERVICE
from tasks.exporter.service import arguments, is_encrypted, service_of


def due_activation(node: Node) -> Change | None:
    """The start or restart that is due, or None; passwords and certificates it reads itself."""
    wanted = services.activation(
        service_of(node),
        node.place,
        restart=str([arguments(node), is_encrypted(node)]),
    )
    said = node.read(SERVICE)
    now: Status = said["services"][NAME]
    is_other = said["command"] != [PROGRAM, *arguments(node)]
    if now.running and is_other and now.restart == wanted.restart:
        wanted = replace(wanted, restart_means="restart (it runs with other arguments)")
        now = replace(now, restart="by hand")
    return services.compare([wanted], {NAME: now}, node.place)
