"""Applications: what the stack serves, as containers beside it or as services of a host."""

from __future__ import annotations

from tasks.apps.activation import due_activation
from tasks.apps.files import missing_files
from tasks.apps.health import rows
from tasks.apps.leaves import LEAVES
from tasks.apps.probes import packages_of, probes_of
from tasks.apps.rules import checks, contradictions, listens
from tasks.apps.settings import AppsSettings
from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages


@on(AppsSettings)
def install(node: Node) -> None:
    """Installs what supervises them, where that is not systemd."""
    install_packages(node, "Applications", packages_of(node))


def configure() -> None:
    """Makes their users, writes their files, and makes them take these."""
    _write()
    activate()


@on(AppsSettings)
def _write(node: Node) -> None:
    converge("Applications: users and files", lambda: missing_files(node))


@on(AppsSettings)
def activate(node: Node) -> None:
    """Starts them, and restarts those whose settings have changed."""
    converge("Applications: services", lambda: due_activation(node), one_by_one=True)


def deploy() -> None:
    """Applications of hosts as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group="apps",
    settings=AppsSettings,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    checks=checks,
    rows=rows,
    leaves=LEAVES,
)
