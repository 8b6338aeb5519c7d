"""What PostgreSQL leaves on a host, and how that goes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.core.traces import Here, Leaves
from tasks.postgres import archive, clusters
from tasks.postgres.content import beside as beside_content
from tasks.postgres.content import excess
from tasks.postgres.layout import cluster_version, configuration_directory, data_directory
from tasks.postgres.neighbors import keeper
from tasks.postgres.settings import PostgresSettings
from tasks.postgres.surplus import DROPPED


def around(node: Node) -> dict[str, Probe[Any]]:
    """Clusters are looked for where there is to be one, rivals of pgBackRest everywhere."""
    mine = PostgresSettings in node.settings
    found = {"clusters": clusters.probe(cluster_version(node))} if mine else {}
    return {**found, "rivals": archive.rivals_probe()}


def beside(node: Node) -> Iterator[str]:
    """What is said of what the server has beside the settings."""
    yield from beside_content(node)
    yield from excess(node)


def _here(node: Node) -> Here:
    if PostgresSettings not in node.settings:
        return Here()
    etc, data = configuration_directory(node), data_directory(node)
    # Also what restores have kept beside it, and their log. The configuration tells that the
    # cluster is ours, so it goes last.
    glob = f"$(is_ours {etc} {data} && echo {data} {data}.* {DROPPED} {etc})"
    wanted, host = {"postgres"}, archive.backup_host(node.estate)
    if host is None:
        return Here(frozenset(wanted), data=(glob,))
    wanted |= {"archiving", *(("pgbackrest",) if archive.is_remote(node) else ())}
    scripts = keeper().scripts_dir(host)
    return Here(
        frozenset(wanted),
        data=(glob,),
        beside=(f"{scripts}/*",),
        known=(f"{scripts}/restore-cluster.sh",),
    )


def _unit_of(_owner: str, paths: Collection[str]) -> tuple[str, str]:
    found = re.search(r"/(?:postgresql@|postgresql/)([0-9]+)[-/]main", " ".join(paths))
    # The unit without a version stops every cluster.
    one = f"postgresql@{found[1]}-main.service" if found else "postgresql.service"
    return one, "postgresql.service"


LEAVES = Leaves(
    owns=("postgres",),
    named=("/etc/postgresql-common/createcluster.d/datatier.conf",),
    marked=("/etc/postgresql/*/main/conf.d/datatier.conf",),
    owners=(
        (r"/etc/postgresql-common/.*", "packages"),
        (r"/etc/systemd/system/postgresql@.*\.service\.d/datatier(-network)?\.conf", "postgres"),
        (r"/etc/postgresql/.*/conf\.d/datatier\.conf|/etc/datatier/postgres", "postgres"),
        # Other components' hosts have it too.
        (r"/etc/datatier/poolers\.pem", "state"),
    ),
    beside=("/etc/postgresql/*/main/conf.d/*.conf",),
    expected=r"/etc/postgresql/.*/datatier\.conf",
    units=("postgresql*",),
    users={"postgres": "postgresql"},
    here=_here,
    unit_of=_unit_of,
    guard=shell("not-running", "postgres"),
    emptied="/(var/lib|etc)/postgresql/[0-9]+",
    title="PostgreSQL",
    goes="pgbackrest|archiving|postgres",
)
