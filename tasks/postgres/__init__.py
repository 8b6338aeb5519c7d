"""PostgreSQL: one cluster per host, its roles, databases, extensions and grants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pyinfra import local
from pyinfra.context import ctx_state

from tasks.core import lock
from tasks.core.change import Change, converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.postgres import handover, leader, link, replication
from tasks.postgres.activation import due_activation, takings
from tasks.postgres.archiving import archive_everywhere
from tasks.postgres.certify import certify
from tasks.postgres.content import missing_content, missing_extensions, prune
from tasks.postgres.files import memory_of, missing_configuration, trials
from tasks.postgres.health import rows
from tasks.postgres.leaves import LEAVES, around, beside
from tasks.postgres.packages import missing_cluster, packages_of
from tasks.postgres.probes import probes_of
from tasks.postgres.rules import checks, contradictions, listens
from tasks.postgres.secrets import defaults, rotates, secret_names, secrets_in_use
from tasks.postgres.settings import PostgresSettings
from tasks.tls import certificates as authority

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy.py"


@on(PostgresSettings)
def install(node: Node) -> None:
    """Installs the packages and creates the cluster; nothing is started."""
    install_packages(node, "PostgreSQL", packages_of(node))
    if not leader.is_standby(node):
        converge("PostgreSQL: cluster", lambda: missing_cluster(node), room="postgres")


def configure() -> None:
    """Writes the configuration, makes the server take it, and converges roles and databases."""
    serve()
    extend()


def begin() -> None:
    """For a run of all components: where a standby can take over, no primary restarts."""
    handover.allow(ctx_state.get())


def serve() -> None:
    """All of `configure` but for extensions that cannot be created: poolers need none of these."""
    _key()
    _ahead()
    _hand_over()
    _lead()
    _link()
    _follow()


@on(PostgresSettings)
def _key(node: Node) -> None:
    converge(
        "PostgreSQL: key", lambda: link.missing_key(node, node.read("postgres")), room="postgres"
    )
    if link.has_authority(node, node.the(PostgresSettings).extra):
        authority.certify(node, link.SERVICE, "postgres")


@on(PostgresSettings)
def _ahead(node: Node) -> None:
    """What a restart brings a standby has before it leads."""
    if leader.is_replicated(node):
        _write(node, partial(handover.ahead, node))


@on(PostgresSettings)
def _hand_over(node: Node) -> None:
    """One operation of all servers: pyinfra then runs it before what follows on any of them."""
    if leader.is_replicated(node):
        converge("PostgreSQL: switchover", lambda: handover.due(node))


@on(PostgresSettings)
def _lead(node: Node) -> None:
    """Who leads is asked when it is carried out: a switchover of this run comes before."""
    _write(node, lambda compare: None if leader.is_standby(node) else compare(node))
    converge("PostgreSQL: roles and databases", lambda: missing_content(node), room="postgres")
    prune(node, lambda: node.read("postgres")["server"])


@on(PostgresSettings)
def _link(node: Node) -> None:
    """One operation of all servers: pyinfra then runs it after what precedes it on any of them."""
    if leader.is_replicated(node):
        converge(
            "PostgreSQL: link to the primary",
            lambda: replication.missing_link(node),
            room="postgres",
        )


@on(PostgresSettings)
def _follow(node: Node) -> None:
    if leader.is_replicated(node):
        converge("PostgreSQL: cluster", lambda: missing_cluster(node), room="postgres")
        _write(node, lambda compare: compare(node) if leader.is_standby(node) else None)
        converge("PostgreSQL: slots", lambda: replication.left_slots(node), room="postgres")


Compare = Callable[[Node], Change | None]


def _write(node: Node, where_due: Callable[[Compare], Change | None]) -> None:
    converge("PostgreSQL: configuration", lambda: where_due(missing_configuration), room="postgres")
    converge("PostgreSQL: service", lambda: where_due(due_activation), room="postgres")


@on(PostgresSettings)
def extend(node: Node) -> None:
    """Fails where an extension could not be created, after what does not depend on it."""
    converge("PostgreSQL: extensions", lambda: missing_extensions(node), room="postgres")


@on(PostgresSettings)
def activate(node: Node) -> None:
    """Starts PostgreSQL, or makes it take its configuration with the least impact."""
    converge("PostgreSQL: service", lambda: due_activation(node), room="postgres")


def switchover() -> None:
    """Makes a standby the server that leads, and deploys: clients of poolers wait meanwhile."""
    handover.want(ctx_state.get())
    local.include(str(_DEPLOY))


def settle() -> None:
    """What waits until other hosts have their part: repositories, and the certificate for clients.

    Clients can verify it.
    """
    archive_everywhere()
    certify()


def deploy() -> None:
    """PostgreSQL as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group="postgres",
    settings=PostgresSettings,
    is_confined=True,
    defaults=defaults,
    secrets=secret_names,
    in_use=secrets_in_use,
    rotates=rotates,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    untouched_by=("redis", "sentinel"),
    memory=memory_of,
    checks=checks,
    takings=takings,
    trials=trials,
    rows=rows,
    idle=lambda _node: (lock.idle(besides=lock.ENDURING), {}),
    certified=activate,
    around=around,
    leaves=LEAVES,
    beside=beside,
    adopts=("/etc/postgresql/",),
)
