"""Upgrades: packages are kept current by us, and by nothing that restarts services as it likes."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.upgrade.files import missing_files
from tasks.upgrade.leaves import LEAVES
from tasks.upgrade.probes import probes_of
from tasks.upgrade.settings import UpgradeSettings


@on(UpgradeSettings)
def configure(node: Node) -> None:
    """Keeps packages from restarting services, and has the host tell what is due."""
    converge("Host: upkeep", lambda: missing_files(node), room="upgrade")


COMPONENT = Component(
    group="upgrade",
    settings=UpgradeSettings,
    everywhere=True,
    probes=probes_of,
    leaves=LEAVES,
)
