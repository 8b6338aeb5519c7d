"""Its rows of the health table."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.redis import tls
from tasks.redis.health import LOOK, instances
from tasks.redis.sentinels import SentinelSettings, endpoints
from tasks.redis.settings import addresses
from tasks.sentinel.orders import master_password


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    chosen = node.the(SentinelSettings)
    values = {
        "address": node.address,
        "name": chosen.master_name,
        # A project may have been scaled, and Sentinel forgets no replica.
        "may_have_more": "1" if node.place.given else "",
        "instances": instances(node),
        "replicas": str(len(addresses(node.estate)) - 1),
        "sentinels": str(len(endpoints(node.estate)) - 1),
    }
    for port in chosen.ports:
        script = shell("health", "sentinel", **values, port=str(port))
        connect = f"redis-cli {tls.options(node)}-h {node.address} -p {port} --askpass"
        at = f"{node.address}:{port}"
        secret = {"REDIS_PASSWORD": master_password(node), **tls.variables(node)}
        yield Check(f"redis-sentinel-{port}", node, at, script, connect, 3, secret, LOOK)
