"""How a Sentinel is spoken to."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.redis.acl import quote
from tasks.redis.settings import RedisSettings, password


def master_password(node: Node) -> str:
    """The password of the instances, which the Sentinels have too."""
    return password(node.estate.having(RedisSettings)[0])


def secrets_of(node: Node) -> dict[str, str]:
    secret = master_password(node)
    return {"REDIS_PASSWORD": secret, "QUOTED_PASSWORD": quote(secret)}


ORDER = shell("order", "sentinel")


def name_of(node: Node, port: int) -> str:
    return node.service or f"redis-sentinel-{port}"
