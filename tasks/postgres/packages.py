"""The packages, and the cluster that they bring tools for."""

from __future__ import annotations

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tasks.postgres import archive, clusters, leader, link, replication
from tasks.postgres.layout import cluster_version, clusters_of, refusals
from tasks.postgres.settings import PostgresSettings

# Without it a package would create a cluster of its own, without checksums.
NO_CLUSTER = shell("no-cluster", "postgres")


def _archiver(node: Node) -> list[str]:
    archiver = ["pgbackrest"] if archive.backup_host(node.estate) else []
    has_key = archiver or link.is_ours(node, node.the(PostgresSettings).extra)
    return [*archiver, "openssl"] if has_key else []


def log_rotation(node: Node) -> list[str]:
    """What shortens `/var/log/postgresql`, PgBouncer's log too: packages only recommend it."""
    return ["logrotate"] if node.place.is_init else []


def packages_of(node: Node) -> Packages:
    names = [
        f"postgresql-{cluster_version(node)}",
        "postgresql-client-common",
        *_archiver(node),
        *node.place.packages,
        *log_rotation(node),
    ]
    return Packages(names, (NO_CLUSTER,), ("postgresql", "pgbackrest"))


def missing_cluster(node: Node) -> Change | None:
    found, version = clusters_of(node), cluster_version(node)
    for why in refusals(node):
        raise Unreadable(f"cluster {version}/main {why}")
    if found.is_whole:
        return None
    chosen = node.the(PostgresSettings)
    copied = replication.copied(node)
    script, variables = clusters.creation(version, chosen.port, chosen.locale, copied)
    what = "create, with data checksums"
    if leader.is_standby(node):
        what = f"copy that of {leader.leader(node.estate).name}, and follow it"
    return Change([f"cluster {version}/main: {what}"], script, variables)
