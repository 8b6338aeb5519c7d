"""Upgrades: packages are kept current by us, and by nothing that restarts services as it likes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakSet

from gevent.lock import RLock
from pyinfra import local
from pyinfra.api import State

from tasks import health
from tasks.core import remote
from tasks.core.asking import Refusal
from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Estate, Node, here, on
from tasks.upgrade.files import missing_files
from tasks.upgrade.leaves import LEAVES
from tasks.upgrade.probes import probes_of
from tasks.upgrade.settings import UpgradeSettings
from tasks.upgrade.updates import due_upgrade, told

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy.py"
_well: WeakSet[State] = WeakSet()
_lock = RLock()


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


def deploy() -> None:
    """Upgrades our packages, and deploys: what runs an old program then restarts with care.

    Raises:
        Refusal: a row of the health table fails, or a job goes on that would be ended.
    """
    node = here()
    with _lock:
        _require_well(node.estate)
    converge(
        "Upgrade: packages", lambda: due_upgrade(node), one_by_one=True, notices=lambda: told(node)
    )
    for component in node.components():
        component.upgrades(node)
    local.include(str(_DEPLOY))


def _require_well(everything: Estate) -> None:
    """An upgrade takes hosts away for a moment, of which the others have to be well.

    A backup that runs meanwhile would fail, and a restore.
    """
    if everything.state in _well:
        return
    failing = [row for row in health.rows(everything.active) if not row.healthy]
    if failing:
        first = failing[0]
        raise Refusal(
            f"{first.check.node.name}: {first.check.service}: {first.answer}: make it well first "
            "(deploy.py, docs/trouble.md); nothing was changed"
        )
    for node in everything.active:
        for component in node.components():
            _require_idle(node, *component.idle(node))
    _well.add(everything.state)


def _require_idle(node: Node, script: str, variables: Mapping[str, str]) -> None:
    done = remote.run(node.host, script, variables) if script else None
    if done and not done.ok:
        raise Refusal(f"{node.name}: {done.last_word}; nothing was changed")
