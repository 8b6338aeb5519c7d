"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem
from tasks.exporter.layout import NAME, SERVICE, WEB
from tasks.exporter.settings import SECRET, ExporterSettings
from tasks.tls import certificates


def contradictions(everything: Estate) -> list[Problem]:
    """A password that would cross a network in clear although the settings want TLS."""
    message = (
        "has no certificate in Docker, and would send its password in clear: "
        "leave it False there, or leave out address"
    )
    return [
        Problem(node.name, "monitoring_enabled", message)
        for node in everything.having(ExporterSettings)
        if node.inside is not None and certificates.is_on(node) and not node.is_loopback
    ]


# Who asks: the health check, and Prometheus.
_CLIENTS = ("backup", "monitoring")


def listens(node: Node) -> list[Listener]:
    """Its port."""
    port, unit = node.the(ExporterSettings).exporter_port, f"{NAME}.service"
    binds = not node.is_loopback
    return [Listener(port, "monitoring_exporter_port", NAME, unit, binds, open_to=_CLIENTS)]


def checks(node: Node) -> list[Problem]:
    """A host without systemd, or without Debian's packages."""
    if not node.place.is_init:
        message = "needs systemd: leave it False here"
    elif not node.read(SERVICE)["tool"]:
        message = "needs a host with apt-get: leave it False here"
    else:
        return []
    return [Problem(node.name, "monitoring_enabled", message)]


def secrets_in_use(node: Node) -> Mapping[str, str]:
    """The password, of which a host has a hash."""
    return {SECRET: ""} if node.read(SERVICE)["files"][WEB].is_ours else {}
