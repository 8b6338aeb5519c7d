"""Whether Prometheus reaches all exporters, and Alertmanager is ready to tell."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.prometheus.files import exporters
from tasks.prometheus.layout import ALERTMANAGER, PROMETHEUS
from tasks.prometheus.service import asking, listens_at, login, url
from tasks.prometheus.settings import AlertmanagerSettings

# Beneath applications, as the firewall; a way in of its own.
RANK = 7


def rows(node: Node) -> Iterator[Check]:
    """A row for each of both."""
    where, urls = listens_at(node), {name: url(node, name) for name in listens_at(node)}
    connect = f"{urls[PROMETHEUS]} (user prometheus, MONITORING_PASSWORD)"
    # It asks itself and Alertmanager too.
    wanted = str(len(exporters(node)) + 2)
    targets = shell("targets", "prometheus", url=urls[PROMETHEUS], wanted=wanted)
    yield Check(
        PROMETHEUS, node, where[PROMETHEUS], targets, connect, RANK, login(node), asking(node)
    )
    channels = ", ".join(node.the(AlertmanagerSettings).channels)
    tells = shell(
        "tells",
        "prometheus",
        url=urls[ALERTMANAGER],
        prometheus=urls[PROMETHEUS],
        channels=channels and f"tells by {channels}",
    )
    yield Check(
        "alertmanager", node, where[ALERTMANAGER], tells, "-", RANK, login(node), asking(node)
    )
