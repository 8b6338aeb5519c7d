"""Its rows of the health table."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.redis import acl, tls
from tasks.redis.activation import kept_data
from tasks.redis.console import SHELL
from tasks.redis.sentinels import endpoints, master_name
from tasks.redis.settings import RedisSettings, addresses, logins

# What runs is the truth: a stranger at the address of the table has to be refused.
LOOK = SHELL + shell("look", "redis")


def instances(node: Node) -> str:
    """Who may lead here; '' for a project, which may have been scaled."""
    return "" if node.place.given else " ".join(map(str, addresses(node.estate)))


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    chosen = node.the(RedisSettings)
    values = {
        "address": node.address,
        "sentinels": " ".join(map(str, endpoints(node.estate))),
        "name": master_name(node.estate),
        "acl_users": " ".join([*acl.OWN, *chosen.users]),
        "instances": instances(node),
    }
    for port in chosen.ports:
        kept = {key: f"{key} {value}" for key, value in kept_data(node, port).items()}
        values |= {**kept, "port": str(port), "me": f"{node.address} {port}"}
        script = shell("health", "redis", **values)
        connect = f"redis-cli {tls.options(node)}-h {node.address} -p {port} --askpass"
        at, secret = f"{node.address}:{port}", logins(node)
        yield Check(f"redis-{port}", node, at, script, connect, 2, secret, LOOK)
