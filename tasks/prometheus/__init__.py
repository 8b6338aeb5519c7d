"""Prometheus and Alertmanager: what all hosts tell is kept, and who should know is told."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.exporter.settings import SECRET, USER
from tasks.prometheus.activation import due_activation
from tasks.prometheus.files import missing_files
from tasks.prometheus.health import rows
from tasks.prometheus.layout import GROUP, SERVICE
from tasks.prometheus.leaves import LEAVES
from tasks.prometheus.probes import packages_of, probes_of
from tasks.prometheus.rules import checks, contradictions, listens, secrets_in_use
from tasks.prometheus.settings import AlertmanagerSettings, PrometheusSettings
from tasks.tls import certificates


@on(PrometheusSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    install_packages(node, "Monitoring", packages_of(node))


def configure() -> None:
    """Writes their files and makes them take these."""
    _certify()
    _write()
    activate()


@on(PrometheusSettings)
def _certify(node: Node) -> None:
    certificates.certify(node, SERVICE, USER)


@on(PrometheusSettings)
def _write(node: Node) -> None:
    converge("Monitoring: configuration", lambda: missing_files(node))


@on(PrometheusSettings)
def activate(node: Node) -> None:
    """Starts them, reloads them, or restarts them for other arguments."""
    converge("Monitoring: services", lambda: due_activation(node))


def deploy() -> None:
    """Prometheus and Alertmanager as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group=GROUP,
    settings=PrometheusSettings,
    further=(AlertmanagerSettings,),
    is_confined=True,
    in_docker=False,
    secrets=lambda _node: [SECRET],
    in_use=secrets_in_use,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    checks=checks,
    rows=rows,
    leaves=LEAVES,
)
