"""PgBouncer: transaction pooling in front of PostgreSQL, passwords looked up where they live."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, here, on
from tasks.core.packages import install_packages
from tasks.pgbouncer import console
from tasks.pgbouncer.activation import due_activation, is_in_clear, refuses_tls, takings, turned
from tasks.pgbouncer.files import (
    missing_certificate,
    missing_configuration,
    pins,
    present_pins,
    trials,
)
from tasks.pgbouncer.health import rows
from tasks.pgbouncer.layout import ADOPTS
from tasks.pgbouncer.leaves import LEAVES
from tasks.pgbouncer.offer import offer
from tasks.pgbouncer.pause import held_probe, hold, holds_all, resume
from tasks.pgbouncer.probes import packages_of, probes_of
from tasks.pgbouncer.rules import checks, contradictions, listens, secrets_in_use
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import link
from tasks.postgres import narrow as postgres_narrow
from tasks.postgres.neighbors import Pooler
from tasks.postgres.settings import PostgresSettings
from tasks.tls import certificates


@on(PgbouncerSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    install_packages(node, "PgBouncer", packages_of(node))


def configure() -> None:
    """Writes the configuration and makes PgBouncer take it."""
    pin()
    _key()
    trust_authority()
    _write()
    activate()
    trust()
    postgres_narrow.narrow()


def pin() -> None:
    """The certificate that PostgreSQL on another host shows, before anything relies on it.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    is_pooler = PgbouncerSettings in node.settings and pins(node)
    chosen = node.of(PostgresSettings)
    if is_pooler or (chosen is not None and link.is_ours(node, chosen.extra)):
        converge(
            "PgBouncer: certificate of PostgreSQL",
            lambda: missing_certificate(node),
            room="pgbouncer",
        )


@on(PgbouncerSettings)
def _key(node: Node) -> None:
    if console.is_pinned(node):
        converge("PgBouncer: key", lambda: console.missing_key(node), room="pgbouncer")
    if console.has_authority(node):
        certificates.certify(node, console.SERVICE, "postgres")


def trust_authority() -> None:
    """The same as `trust`, before any pooler shows a certificate of the authority."""
    node = here()
    if certificates.is_on(node) and _trusts(node):
        converge(
            "PgBouncer: authority of consoles",
            lambda: console.missing_certificates(node, is_last=False),
            room="pgbouncer",
        )


def trust() -> None:
    """The certificates of poolers, on the hosts that reach their consoles over the network.

    One operation of all these hosts: pyinfra then runs it after what precedes it on any of them.
    """
    node = here()
    if _trusts(node):
        converge(
            "PgBouncer: certificates of consoles",
            lambda: console.missing_certificates(node),
            room="pgbouncer",
        )


def _trusts(node: Node) -> bool:
    is_pooler = PgbouncerSettings in node.settings and console.is_reached(node)
    return bool(console.trusting(node)) or is_pooler


@on(PgbouncerSettings)
def _write(node: Node) -> None:
    converge("PgBouncer: configuration", lambda: missing_configuration(node), room="pgbouncer")


@on(PgbouncerSettings)
def activate(node: Node) -> None:
    """Starts PgBouncer, reloads it, or restarts it for what RELOAD ignores."""
    converge("PgBouncer: service", lambda: due_activation(node), one_by_one=True, room="pgbouncer")


def deploy() -> None:
    """PgBouncer as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group="pgbouncer",
    settings=PgbouncerSettings,
    is_confined=True,
    in_use=secrets_in_use,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    untouched_by=("redis", "sentinel"),
    checks=checks,
    takings=takings,
    trials=trials,
    rows=rows,
    certified=activate,
    offers=offer,
    leaves=LEAVES,
    adopts=ADOPTS,
    serves={
        PostgresSettings: Pooler(
            holds=holds_all,
            hold=hold,
            held_probe=held_probe,
            resume=resume,
            refuses_tls=refuses_tls,
            is_in_clear=is_in_clear,
            pinned=present_pins,
            turned=turned,
            leading=lambda estate: estate.having(PgbouncerSettings),
            trusting=console.trusting,
        )
    },
)
