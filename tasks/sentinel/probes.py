"""What one read of a host tells about Sentinel."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.redis.moving import TLS_ONLY
from tasks.redis.rules import foreign_probe
from tasks.sentinel.files import files_of
from tasks.sentinel.forget import views_probe
from tasks.sentinel.monitoring import monitors_probe
from tasks.sentinel.service import services_of


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    return {
        "files": files.probe(files_of(node)),
        "services": services.probe(services_of(node), node.place),
        "foreign": foreign_probe(),
        "tls_only": files.probe([TLS_ONLY]),
        "monitors": monitors_probe(node),
        "views": views_probe(node),
    }
