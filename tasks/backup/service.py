"""cron, and pgBackRest's server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from tasks.backup.passphrase import Repository, first, repositories
from tasks.backup.repository import archived, trusted_certificate
from tasks.backup.server import servers_of
from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.postgres import archive


def services_of(node: Node, places: Sequence[Repository] = ()) -> list[Service]:
    cron = Service(
        name="cron",
        description="cron",
        command="/usr/sbin/cron -f",
        user="root",
        group="root",
        unit="cron.service",
        program="/usr/sbin/cron",
        package="cron",
        # It is the host's cron, and other people's jobs expect what Debian gives them.
        umask="022",
        # A job's parent has the same program, and another first word.
        ready="grep -qsxz /usr/sbin/cron /proc/[0-9]*/cmdline",
        reload=":",
    )
    return [cron, _server(node, places or [first(node)])] if archive.is_remote(node) else [cron]


def _server(node: Node, repositories: Sequence[Repository]) -> Service:
    """For PostgreSQL's host, which adds WAL, reads backups, and neither makes nor removes any.

    In pgBackRest's protocol it may have any file of postgres's written, read or removed. What it
    can write is made before its start: the WAL of each cluster, never archive.info beside that,
    without which no backup restores.
    """
    places = (
        f"-{archived(node, each, number)}"
        for each in repositories
        for number in range(1, _CLUSTERS + 1)
    )
    return replace(archive.service(node), writes=(archive.LOCKS.rpartition("/")[0], *places))


# Of one version in one repository; `backup.sh adopt` begins another one.
_CLUSTERS = 20


def due_activation(node: Node) -> Change | None:
    wanted = [
        services.activation(
            service, node.place, restart=_link(node) if service.name == "pgbackrest" else ""
        )
        for service in services_of(node, repositories(node))
    ]
    found = node.read("backup")["services"]
    now = {
        each.service.name: services.upgraded(each.service, found[each.service.name], node.upgrades)
        for each in wanted
    }
    return services.compare(wanted, now, node.place)


def _link(node: Node) -> str:
    """What pgBackRest's server would have to be restarted for: it reads the rest by itself."""
    options, _ = archive.tls(node, servers_of(node), "")
    return json.dumps(options) + trusted_certificate(node) + str(node.read("backup")["certificate"])
