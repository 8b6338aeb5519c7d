"""How PgBouncer takes its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

from tasks.core import live, services
from tasks.core.change import Change, impact_of
from tasks.core.estate import Estate, Node
from tasks.core.remote import Unreadable
from tasks.core.services import Activation, Status, Taking
from tasks.pgbouncer import console
from tasks.pgbouncer.files import (
    access,
    all_parameters,
    configuration,
    missing_certificate,
    missing_configuration,
    pinned_certificate,
    present_pins,
    users,
)
from tasks.pgbouncer.service import service_of
from tasks.pgbouncer.settings import RESTART_KEYS, PgbouncerSettings
from tasks.pgbouncer.uses import letting_in, moved, status


def fixed(node: Node) -> dict[str, Any]:
    """What of the configuration takes a restart."""
    parameters = all_parameters(node)
    return {key: parameters[key] for key in RESTART_KEYS if key in parameters}


def because(wanted: Activation, now: Status) -> Activation:
    """The same, which says why a restart is due."""
    keys = services.changed(wanted, now)
    takes = f"restart ({', '.join(keys)}: RELOAD does not take {'them' if keys[1:] else 'it'})"
    return replace(wanted, restart_means=takes) if keys else wanted


def _wanted(node: Node, pinned: str) -> Activation:
    return services.activation(
        service_of(node),
        node.place,
        restart=str(fixed(node)),
        reload="".join(
            (
                configuration(node, pinned, console.shown(node)),
                users(node),
                access(node),
                pinned,
                console.certificate(node),
            )
        ),
        keys=services.fingerprints(fixed(node)),
    )


def is_in_clear(node: Node) -> bool:
    """Whether a pooler on another host may run with a configuration from before it had TLS."""
    status = node.read("pgbouncer")["services"]["pgbouncer"]
    wanted = _wanted(node, present_pins(node))
    return status.running and services.impact(wanted, status) is not None


def refuses_tls(node: Node) -> bool:
    """Whether pgbouncer_extra wants the link in clear, on a host that has a pooler."""
    chosen = node.of(PgbouncerSettings)
    wanted = str(chosen.extra.get("server_tls_sslmode")) if chosen else ""
    return wanted in ("disable", "allow")


def _taking(node: Node) -> tuple[Activation, Status, dict[str, tuple[str, str]]]:
    """PgBouncer as it should run, what is known of it, and what it uses and should not."""
    pinned = pinned_certificate(node)
    wanted = _wanted(node, pinned)
    now = node.read("pgbouncer")["services"]["pgbouncer"]
    now = services.upgraded(wanted.service, now, node.upgrades)
    found = moved(node, pinned) if services.impact(wanted, now) is None else {}
    now = status(now, found)
    return letting_in(because(wanted, now), node, found), now, found


def takings(node: Node) -> Iterator[Taking]:
    """How it takes that in a container."""
    wanted, now, found = _taking(node)
    yield Taking(wanted, now, live.sentences("pgbouncer", found))


def due_activation(node: Node) -> Change | None:
    wanted, now, found = _taking(node)
    change = services.compare([wanted], {"pgbouncer": now}, node.place)
    if change is None:
        return None
    change = replace(change, lines=[*live.sentences("pgbouncer", found), *change.lines])
    if services.impact(wanted, now) != "restart":
        return change
    # What failed on one would fail on the next one too, and then none would be left.
    return node.estate.one_by_one(node, PgbouncerSettings, "PgBouncer", change)


def turned(everything: Estate) -> Iterator[tuple[Node, Change]]:
    """How each pooler of this run takes its configuration, where that is due, as one change.

    Raises:
        Unreadable: one of them would restart, which ends the connections of its clients.
    """
    for node in everything.having(PgbouncerSettings):
        if node not in everything.active:
            continue
        steps = missing_certificate(node), missing_configuration(node), due_activation(node)
        due = [step for step in steps if step]
        if any(impact_of(line) == "restart" for step in due for line in step.lines):
            raise Unreadable(f"PgBouncer on {node.name} has to restart first: run deploy.py")
        if due:
            yield node, reduce(Change.followed_by, due)
