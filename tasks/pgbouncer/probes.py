"""What one read of a host tells about PgBouncer."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.remote import Probe
from tasks.pgbouncer import console
from tasks.pgbouncer.files import files_of
from tasks.pgbouncer.service import service_of
from tasks.pgbouncer.uses import uses_probe
from tasks.postgres.packages import log_rotation


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    return {
        "files": files.probe(files_of(node)),
        "services": services.probe([service_of(node)], node.place),
        "uses": uses_probe(node),
        "console": console.probe(node),
    }


def packages_of(node: Node) -> Packages:
    names = ["pgbouncer", "postgresql-client", *node.place.packages, *log_rotation(node)]
    return Packages(names, held=("pgbouncer",))
