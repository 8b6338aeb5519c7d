"""What one read of a host tells about PostgreSQL."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.postgres import archive, link, replication, sql
from tasks.postgres.files import files_of, services_of
from tasks.postgres.layout import cluster_version, data_directory, owner_of
from tasks.postgres.neighbors import pooler
from tasks.postgres.rules import extensions_probe, locales_probe
from tasks.postgres.settings import PostgresSettings


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    chosen = node.the(PostgresSettings)
    data = data_directory(node)
    return {
        "files": files.probe([*files_of(node), *pooler().trusting(node)]),
        "services": services.probe(services_of(node), node.place),
        "certificate": archive.certificate_probe(node),
        **_link_probes(node),
        "server": sql.probe(data, ["template1", *chosen.databases], owner_of(node)),
        **replication.probes(node),
        "held": pooler().held_probe(),
        "extensions": extensions_probe(cluster_version(node)),
        "locales": locales_probe(),
    }


def _link_probes(node: Node) -> dict[str, Probe[str]]:
    chosen = node.the(PostgresSettings)
    return link.probes(node, chosen.port) if link.is_ours(node, chosen.extra) else {}
