"""How Sentinels take what they only read at their start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.services import Activation, Status, Taking
from tasks.redis import tls
from tasks.redis.activation import LOCKED, WHY_REPLACED
from tasks.redis.files import KEEP_PASSWORD
from tasks.redis.sentinels import SentinelSettings
from tasks.sentinel.files import fixed
from tasks.sentinel.forget import is_locked, is_replaced
from tasks.sentinel.service import services_of


def takings(node: Node) -> Iterator[Taking]:
    """How Sentinels take what they should run with, on a host or in containers."""
    for port, service in zip(node.the(SentinelSettings).ports, services_of(node), strict=True):
        wanted = services.activation(
            service,
            node.place,
            restart=fixed(node, port) + tls.fingerprint(node),
            reload_means="restart",
        )
        now = node.read("sentinel")["services"][service.name]
        yield Taking(*_behind(node, port, wanted, now), ())


def due_activation(node: Node) -> Change | None:
    every = [*takings(node)]
    found = {each.wanted.service.name: each.now for each in every}
    change = services.compare([each.wanted for each in every], found, node.place)
    return change and replace(change, script=f"{change.script}\n{KEEP_PASSWORD}\nkeep_password")


def _behind(node: Node, port: int, wanted: Activation, now: Status) -> tuple[Activation, Status]:
    """The same; a restart where its password does not open all of it, or its program is old."""
    why = LOCKED if is_locked(node, port) else WHY_REPLACED if is_replaced(node, port) else ""
    if not why:
        return wanted, services.upgraded(wanted.service, now, node.upgrades)
    return replace(wanted, restart_means=f"restart ({why})"), replace(now, restart="behind")
