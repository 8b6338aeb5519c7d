"""The exporter: what each host tells of itself, to the health check and to Prometheus."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.exporter.activation import due_activation
from tasks.exporter.files import missing_files
from tasks.exporter.health import rows
from tasks.exporter.layout import SERVICE
from tasks.exporter.leaves import LEAVES
from tasks.exporter.probes import packages_of, probes_of
from tasks.exporter.rules import checks, contradictions, listens, secrets_in_use
from tasks.exporter.service import is_encrypted
from tasks.exporter.settings import SECRET, USER, ExporterSettings
from tasks.tls import certificates


@on(ExporterSettings)
def install(node: Node) -> None:
    """Installs the package; nothing is started."""
    install_packages(node, "Exporter", packages_of(node))


def configure() -> None:
    """Writes its files and makes it take them."""
    _certify()
    _write()
    activate()


@on(ExporterSettings)
def _certify(node: Node) -> None:
    if is_encrypted(node):
        certificates.certify(node, SERVICE, USER)


@on(ExporterSettings)
def _write(node: Node) -> None:
    converge("Exporter: configuration", lambda: missing_files(node))


@on(ExporterSettings)
def activate(node: Node) -> None:
    """Starts it, or restarts it for other arguments."""
    converge("Exporter: service", lambda: due_activation(node))


def deploy() -> None:
    """The exporter as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group="exporter",
    settings=ExporterSettings,
    everywhere=True,
    is_confined=True,
    secrets=lambda _node: [SECRET],
    in_use=secrets_in_use,
    rotates=lambda _node: {SECRET.lower(): SECRET},
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    checks=checks,
    rows=rows,
    leaves=LEAVES,
)
