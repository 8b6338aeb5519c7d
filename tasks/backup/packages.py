"""The packages that the program needs."""

from __future__ import annotations

from tasks.backup.server import server_of, version_of
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.postgres.packages import NO_CLUSTER
from tasks.redis.packages import MASK
from tasks.redis.settings import RedisSettings


def packages_of(node: Node) -> Packages:
    return Packages([*required(node), *node.place.packages], (MASK, NO_CLUSTER), ("pgbackrest",))


def required(node: Node) -> list[str]:
    """The packages that the program needs."""
    server = server_of(node)
    tools = [f"postgresql-{version_of(node)}", "pgbackrest"] if server else []
    redis = ["redis-server", "redis-tools"] if node.estate.having(RedisSettings) else []
    libraries = [
        "python3",
        "python3-psycopg",
        "python3-redis",
        "python3-boto3",
        "gnupg",
        "openssl",
        "logrotate",
    ]
    return [*tools, *redis, *libraries, "cron"]
