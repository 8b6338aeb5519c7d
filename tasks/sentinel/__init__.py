"""Sentinel: watches the Redis master; its file is its own, its settings are set at run time."""

from __future__ import annotations

from collections.abc import Callable

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.core.settings import Problem
from tasks.redis import moving, tls
from tasks.redis.leaves import leaving
from tasks.redis.packages import packages_of
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.sentinel import passwords
from tasks.sentinel.activation import due_activation, takings
from tasks.sentinel.files import missing_configuration
from tasks.sentinel.forget import prune, remembered, unforgettable
from tasks.sentinel.health import rows
from tasks.sentinel.leaves import LEAVES
from tasks.sentinel.monitoring import missing_monitoring
from tasks.sentinel.offer import offer
from tasks.sentinel.probes import probes_of
from tasks.sentinel.rules import checks, contradictions, listens, secrets_in_use


@on(SentinelSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    install_packages(node, "Sentinel", packages_of(node))


@on(SentinelSettings)
def configure(node: Node) -> None:
    """Writes what does not change at run time, starts, and sets the rest at run time."""
    if RedisSettings not in node.settings:
        tls.certify(node)
    converge("Sentinel: users", lambda: passwords.added(node), room="sentinel")
    converge(
        "Sentinel: configuration",
        lambda: missing_configuration(node),
        room="sentinel",
    )
    activate()
    converge("Sentinel: monitoring", lambda: missing_monitoring(node), room="sentinel")


@on(SentinelSettings)
def activate(node: Node) -> None:
    """Starts the Sentinels, or restarts them for what they only read at their start."""
    converge("Sentinel: service", lambda: due_activation(node), one_by_one=True, room="sentinel")


@on(SentinelSettings)
def settle(node: Node) -> None:
    """Ends what a change needs: passwords of before, and clear text where TLS is on."""
    converge("Sentinel: rights", lambda: passwords.exact(node), room="sentinel")
    # An instance of the same host has said so.
    if RedisSettings not in node.settings:
        converge("Sentinel: TLS only", lambda: moving.established(node), room="sentinel")


def deploy() -> None:
    """Sentinel as the settings say: install, configure, activate."""
    install()
    configure()


def _unprunable(node: Node) -> list[Problem]:
    return unforgettable(node, leaving(node.estate))


def _pruning(node: Node) -> Callable[[], None]:
    gone = leaving(node.estate)

    def act() -> None:
        converge(
            "Sentinel: prune",
            lambda: prune(node, gone),
            room="sentinel",
            one_by_one=True,
            notices=lambda: remembered(node, gone),
        )

    return act


COMPONENT = Component(
    group="sentinel",
    settings=SentinelSettings,
    is_confined=True,
    in_use=secrets_in_use,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    untouched_by=("postgres", "pgbouncer", "backup"),
    checks=checks,
    takings=takings,
    rows=rows,
    certified=activate,
    offers=offer,
    leaves=LEAVES,
    beside=lambda node: remembered(node, set()),
    unprunable=_unprunable,
    pruning=_pruning,
)
