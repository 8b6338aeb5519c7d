"""Where a cluster is on its host, and of which version."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.estate import HOST, Node
from tasks.postgres import clusters
from tasks.postgres.settings import PostgresSettings


def clusters_of(node: Node) -> clusters.Clusters:
    found: clusters.Clusters = node.read(HOST)["clusters"]
    return found


def refusals(node: Node) -> Iterator[str]:
    adopt = node.the(PostgresSettings).adopt
    return clusters.refused(cluster_version(node), clusters_of(node), adopt=adopt)


# The file of the cluster's configuration that is ours.
OURS = "conf.d/datatier.conf"


def ours(node: Node) -> str:
    """Its path; in a container only we have a configuration there."""
    name = "postgresql.conf" if node.place.shares_files else OURS
    return f"{configuration_directory(node)}/{name}"


def cluster_version(node: Node, like: Node | None = None) -> int:
    """The major version of the cluster; `like` has the same release, where `node` is away."""
    return node.the(PostgresSettings).version or (like or node).system.release.postgres


def data_directory(node: Node, like: Node | None = None) -> str:
    """Where the cluster's data are; see `cluster_version`."""
    return f"/var/lib/postgresql/{cluster_version(node, like)}/main"


def configuration_directory(node: Node) -> str:
    """Where the files of the cluster's configuration are."""
    return f"/etc/postgresql/{cluster_version(node)}/main"


def owner_of(node: Node) -> str:
    """The unit of systemd that has to have started the server; empty in a container."""
    return "" if node.place.shares_files else unit_of(node)


def unit_of(node: Node) -> str:
    return f"postgresql@{cluster_version(node)}-main.service"
