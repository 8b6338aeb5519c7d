"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem
from tasks.exporter.settings import SECRET, ExporterSettings
from tasks.prometheus.layout import ALERTMANAGER, GROUP, PASSWORD, PROMETHEUS
from tasks.prometheus.settings import AlertmanagerSettings, PrometheusSettings


def contradictions(everything: Estate) -> list[Problem]:
    """An estate without something to ask, and channels that lack something."""
    return [
        problem
        for node in everything.having(PrometheusSettings)
        for problem in (*_group(everything, node), *_channels(node), *_password(node))
    ]


def _group(everything: Estate, node: Node) -> Iterator[Problem]:
    key = f"group {GROUP}"
    if len(everything.having(PrometheusSettings)) > 1:
        yield Problem(node.name, key, "should have one host: each would tell each alert")
    if ExporterSettings not in node.settings:
        yield Problem(node.name, key, "needs monitoring_enabled = True, best on all hosts")
    if not everything.in_group("backup"):
        yield Problem(node.name, key, "needs a host in group 'backup', whose health check it shows")


def _channels(node: Node) -> Iterator[Problem]:
    chosen = node.the(AlertmanagerSettings)
    if chosen.mail and not chosen.mail_from:
        message = "is missing: alertmanager_mail needs a sender"
        yield Problem(node.name, "alertmanager_mail_from", message)


def _password(node: Node) -> Iterator[Problem]:
    """Prometheus takes blanks at both ends of its file for none of the password."""
    value = node.estate.secrets.find(SECRET) or ""
    if value != value.strip():
        yield Problem(node.name, SECRET, "should neither begin nor end with a blank")


def listens(node: Node) -> list[Listener]:
    """Their ports, which no host of the estate needs."""
    ports = {
        PROMETHEUS: (node.the(PrometheusSettings).port, "prometheus_port"),
        ALERTMANAGER: (node.the(AlertmanagerSettings).port, "alertmanager_port"),
    }
    binds = not node.is_loopback
    return [
        Listener(port, key, name, f"{name}.service", binds, open_to=())
        for name, (port, key) in ports.items()
    ]


def checks(node: Node) -> list[Problem]:
    """A host that systemd does not start: Debian's packages have no other way to run both."""
    if node.place.is_init:
        return []
    return [Problem(node.name, f"group {GROUP}", "needs a host with systemd")]


def secrets_in_use(node: Node) -> Mapping[str, str]:
    """The password, which a host has in a file."""
    return {SECRET: PASSWORD} if node.read(GROUP)["files"][PASSWORD].kind == "file" else {}
