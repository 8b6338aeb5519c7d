"""The firewall: ports of the stack are open to hosts that need them, and to no others."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.firewall.health import rows
from tasks.firewall.leaves import LEAVES, beside
from tasks.firewall.probes import PACKAGES, around, probes_of
from tasks.firewall.rules import checks, cuts
from tasks.firewall.service import due_opening, due_rules
from tasks.firewall.settings import FirewallSettings


@on(FirewallSettings)
def install(node: Node) -> None:
    """Installs nft."""
    install_packages(node, "Firewall", PACKAGES)


@on(FirewallSettings)
def configure(node: Node) -> None:
    """Writes the rules and loads them."""
    converge("Firewall: rules", lambda: due_rules(node), notices=lambda: beside(node))


@on(FirewallSettings)
def settle(node: Node) -> None:
    """Opens the ports at which services listened before this run."""
    converge("Firewall: ports of before", lambda: due_opening(node))


def deploy() -> None:
    """The firewall as the settings say: install, configure."""
    install()
    configure()


COMPONENT = Component(
    group="firewall",
    settings=FirewallSettings,
    everywhere=True,
    packages=lambda _node: PACKAGES,
    probes=probes_of,
    around=around,
    checks=checks,
    cuts=cuts,
    rows=rows,
    leaves=LEAVES,
    beside=beside,
)
