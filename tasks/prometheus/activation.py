"""How Prometheus and Alertmanager take their configuration."""

from __future__ import annotations

from dataclasses import replace

import yaml

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.core.services import Activation, Status
from tasks.prometheus.files import configuration, routes, scrapes
from tasks.prometheus.layout import ALERTMANAGER, GROUP, PROMETHEUS
from tasks.prometheus.probes import Uses, lacks
from tasks.prometheus.service import arguments, services_of


def due_activation(node: Node) -> Change | None:
    """The starts, restarts and reloads that are due, or None; the password they read themselves."""
    wanted, now = list[Activation](), dict[str, Status]()
    for service in services_of(node):
        due, now[service.name] = _due(node, service)
        wanted.append(due)
    return services.compare(wanted, now, node.place)


def _due(node: Node, service: Service) -> tuple[Activation, Status]:
    name, said = service.name, node.read(GROUP)
    wanted = services.activation(
        service,
        node.place,
        restart=str(arguments(node)[name]),
        reload=configuration(node)[name],
    )
    now: Status = said["services"][name]
    if services.impact(wanted, now) is not None:
        return wanted, now
    if said[name] != [f"/usr/bin/{name}", *arguments(node)[name]]:
        wanted = replace(wanted, restart_means="restart (it runs with other arguments)")
        return wanted, replace(now, restart="by hand")
    if _is_other(node, name, said["uses"]):
        wanted = replace(wanted, reload_means="reload (it uses another configuration)")
        return wanted, replace(now, outdated=True)
    return wanted, now


def _is_other(node: Node, name: str, uses: Uses) -> bool:
    """Whether it answers, and with another configuration."""
    pairs = {
        PROMETHEUS: (scrapes(node), uses.prometheus),
        ALERTMANAGER: (routes(node), uses.alertmanager),
    }
    text, used = pairs[name]
    return used is not None and lacks(yaml.safe_load(text), used)
