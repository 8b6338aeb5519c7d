"""The settings of an instance, as it reads them."""

from __future__ import annotations

from tasks.core import live
from tasks.core.estate import Node
from tasks.core.files import render
from tasks.redis import acl, tls
from tasks.redis.acl import quote
from tasks.redis.settings import RedisSettings, every_user, lasting_password, own_password


def parameters_of(node: Node, port: int) -> dict[str, str | int]:
    chosen, own = node.the(RedisSettings), dict.fromkeys(("127.0.0.1", node.address))
    # Containers of one role have one file, and one address each.
    is_shared = node.place.shares_files
    announced: dict[str, str | int] = {
        "replica-announce-ip": node.address,
        "replica-announce-port": port,
    }
    return {
        **tls.parameters(node, port),
        "bind": "* -::*" if is_shared else " ".join(own),
        "protected-mode": "yes",
        "daemonize": "no",
        "tcp-backlog": 511,
        "dir": f"/var/lib/redis/{port}",
        **({} if is_shared else announced),
        # With CONFIG SET it becomes the only one for a moment.
        "requirepass": lasting_password(node),
        "maxmemory": chosen.maxmemory,
        "maxmemory-policy": chosen.maxmemory_policy,
        "appendonly": "yes" if chosen.appendonly else "no",
        "appendfsync": chosen.appendfsync,
        "aof-use-rdb-preamble": "yes",
        "save": chosen.save,
        "min-replicas-to-write": chosen.min_replicas_to_write,
        "min-replicas-max-lag": chosen.min_replicas_max_lag,
    }


def memory_of(node: Node) -> dict[str, int]:
    """Bytes that the instances may take, by key."""
    chosen = node.the(RedisSettings)
    return {"redis_maxmemory": live.size(chosen.maxmemory) * len(chosen.ports)}


def settings_of(node: Node, port: int) -> dict[str, str]:
    words = {True: "yes", False: "no"}
    extra = {
        key: words[value] if isinstance(value, bool) else str(value)
        for key, value in node.the(RedisSettings).extra.items()
    }
    ours = {**parameters_of(node, port), **link_of(node)}
    return {**{key: str(value) for key, value in ours.items()}, **extra}


def link_of(node: Node) -> dict[str, str]:
    """As whom an instance comes to its master, which has to know this user."""
    return {"masteruser": acl.REPLICA, "masterauth": own_password(node, acl.REPLICA)}


def configuration_path(node: Node, port: int) -> str:
    return f"/etc/redis/{node.kind or f'redis-{port}'}.conf"


def name_of(node: Node, port: int) -> str:
    """What an instance is called, as a service and in its record."""
    return node.service or f"redis-{port}"


def configuration(node: Node, port: int) -> str:
    """The settings of an instance, as its configuration file has them."""
    settings = {
        key: quote(value) if key in ("requirepass", "masterauth") or not value else value
        for key, value in settings_of(node, port).items()
    }
    return render("redis/redis.conf.j2", settings=settings, users=every_user(node))


SECRET_LINES = r"^(?:(?:requirepass|masterauth) |user [^#]*)(.*)$"


# CONFIG SET refuses these: "can't set immutable config" or "protected config" in Redis 7.0 and 8.0,
# or no configuration that it knows. tests/e2e/test_redis_rolling.py asks both.
# fmt: off
IMMUTABLE = frozenset({
    "aclfile", "always-show-logo", "aof-rewrite-cpulist", "aof_rewrite_cpulist",
    "appenddirname", "appendfilename", "bgsave-cpulist", "bgsave_cpulist", "bio-cpulist",
    "bio_cpulist", "cluster-config-file", "cluster-enabled", "cluster-port", "daemonize",
    "databases", "dbfilename", "dir", "disable-thp", "enable-debug-command",
    "enable-module-command", "enable-protected-configs", "io-threads", "io-threads-do-reads",
    "loadmodule", "logfile", "pidfile", "rdbchecksum", "rename-command", "server-cpulist",
    "server_cpulist",
    "set-proc-title", "socket-mark-id", "supervised", "syslog-enabled", "syslog-facility",
    "syslog-ident", "tcp-backlog", "unixsocket", "unixsocketperm",
})
# fmt: on


# Changed at run time these would move an instance away from its clients.
RESTART_KEYS = IMMUTABLE | {"port", "bind", "protected-mode"}
