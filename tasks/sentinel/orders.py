"""How a Sentinel is spoken to."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.redis import acl
from tasks.redis.acl import quote
from tasks.redis.settings import RedisSettings, own_password, password


def master_password(node: Node) -> str:
    """The password of the instances, which the Sentinels have too."""
    return password(node.estate.having(RedisSettings)[0])


def login_password(node: Node) -> str:
    """The password that a Sentinel comes to the instances with."""
    return own_password(node.estate.having(RedisSettings)[0], acl.SENTINEL)


def secrets_of(node: Node) -> dict[str, str]:
    secret = master_password(node)
    return {
        "REDIS_PASSWORD": secret,
        "QUOTED_PASSWORD": quote(secret),
        "LOGIN_PASSWORD": login_password(node),
    }


ORDER = shell("order", "sentinel")


def name_of(node: Node, port: int) -> str:
    return node.service or f"redis-sentinel-{port}"
