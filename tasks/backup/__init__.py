"""The backup service: its program, its schedule, and the repository it fills."""

from __future__ import annotations

from tasks.backup.files import missing_certificate, missing_configuration, missing_passwords
from tasks.backup.health import rows
from tasks.backup.leaves import LEAVES
from tasks.backup.packages import packages_of
from tasks.backup.passphrase import numbers, ready
from tasks.backup.probes import probes_of
from tasks.backup.repository import new_stanza
from tasks.backup.rules import (
    checks,
    contradictions,
    listens,
    rotates,
    scripts_dir,
    secret_names,
    secrets_in_use,
)
from tasks.backup.server import extra_of, present_pins, server_of, side_of
from tasks.backup.service import due_activation
from tasks.backup.settings import BackupSettings, defaults
from tasks.backup.thresholds import HealthSettings
from tasks.core import lock
from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, here, on
from tasks.core.packages import install_packages
from tasks.postgres import archive, link
from tasks.postgres.neighbors import Keeper
from tasks.postgres.settings import PostgresSettings
from tasks.redis import tls
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings


@on(BackupSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    install_packages(node, "Backup", packages_of(node))


def keys() -> None:
    """Keys of the backup host and of PostgreSQL's, and passwords, before either has the other's.

    One operation of both hosts: pyinfra then runs it before what follows on either of them.
    """
    node = here()
    if archive.is_remote(node) and (group := side_of(node)):
        converge(
            "Backup: keys",
            lambda: archive.make_key(node, node.read(group)["certificate"]),
            room="backup",
        )
    if server_of(node) is not None and side_of(node):
        converge("Backup: passwords", lambda: missing_passwords(node), room="backup")


def configure() -> None:
    """Writes the program, its configuration and its schedule."""
    pin()
    _write()
    activate()


@on(BackupSettings)
def _write(node: Node) -> None:
    # Where Redis or Sentinel is, they have made it.
    is_theirs = RedisSettings in node.settings or SentinelSettings in node.settings
    if node.estate.having(RedisSettings) and not is_theirs:
        tls.certify(node)
    converge("Backup: configuration", lambda: missing_configuration(node), room="backup")


def pin() -> None:
    """The certificate that PostgreSQL on another host shows, before anything relies on it.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    server = server_of(node)
    if server is not None and side_of(node) and link.is_ours(server, extra_of(server)):
        converge(
            "Backup: certificate of PostgreSQL", lambda: missing_certificate(node), room="backup"
        )


def activate() -> None:
    """Starts the schedule and pgBackRest's server, and creates the stanza."""
    _start()
    node = here()
    # Also an operation of PostgreSQL's host, where it does nothing: it waits for that server.
    if server_of(node) is not None and side_of(node):
        converge("Backup: repository", lambda: new_stanza(node), room="backup")


@on(BackupSettings)
def _start(node: Node) -> None:
    converge("Backup: services", lambda: due_activation(node), room="backup")


def deploy() -> None:
    """The backup service as the settings say: install, configure, activate."""
    install()
    keys()
    configure()


_KEEPER = Keeper(scripts_dir=scripts_dir, pinned=present_pins, repositories=numbers, ready=ready)

COMPONENT = Component(
    group="backup",
    settings=BackupSettings,
    further=(HealthSettings,),
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
    checks=checks,
    rows=rows,
    idle=lambda _node: (lock.idle(besides=lock.ENDURING), {}),
    leaves=LEAVES,
    serves={PostgresSettings: _KEEPER},
)
