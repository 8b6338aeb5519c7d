"""How a Sentinel is spoken to."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.redis import acl, tls
from tasks.redis.acl import quote
from tasks.redis.settings import RedisSettings, default_login, own_password, password, passwords


def master_password(node: Node) -> str:
    """The password of the instances, which the Sentinels have too."""
    return password(node.estate.having(RedisSettings)[0])


def passwords_of(node: Node) -> list[str]:
    """All valid passwords of the instances; clients and Sentinels come with the first."""
    return passwords(node.estate.having(RedisSettings)[0])


def default_rules(node: Node) -> str:
    """The rules of a Sentinel's only user."""
    return acl.default_rules("all", *passwords_of(node))


def login_password(node: Node) -> str:
    """The password that a Sentinel comes to the instances with."""
    return own_password(node.estate.having(RedisSettings)[0], acl.SENTINEL)


def secrets_of(node: Node) -> dict[str, str]:
    return {
        **default_login(node.estate.having(RedisSettings)[0]),
        "QUOTED_PASSWORD": quote(master_password(node)),
        "LOGIN_PASSWORD": login_password(node),
        **tls.variables(node),
    }


ORDER = shell("order", "sentinel")


def name_of(node: Node, port: int) -> str:
    return node.service or f"redis-sentinel-{port}"
