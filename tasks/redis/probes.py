"""What one read of a host tells about Redis."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.redis.expected import expected_probe
from tasks.redis.files import beginnings, files_of, seed_files
from tasks.redis.kernel import kernel_probe
from tasks.redis.leader import roles_probe, sentinels_probe
from tasks.redis.moving import TLS_ONLY
from tasks.redis.rules import foreign_probe
from tasks.redis.service import services_of
from tasks.redis.settings import RedisSettings, lasting_password
from tasks.redis.values import configuration_path


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    return {
        "files": files.probe([*files_of(node), *seed_files(node, None), *beginnings(node)]),
        "services": services.probe(services_of(node), node.place),
        "kernel": kernel_probe(),
        "roles": roles_probe(node),
        "expected": expected_probe(configuration_path(node, node.the(RedisSettings).ports[0])),
        "foreign": foreign_probe(),
        "tls_only": files.probe([TLS_ONLY]),
        "sentinels": sentinels_probe(node.estate, lasting_password(node)),
    }
