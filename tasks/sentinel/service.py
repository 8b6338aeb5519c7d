"""A Sentinel as a service."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.redis.console import SHELL
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.service import PACKAGE
from tasks.sentinel.orders import name_of, secrets_of

# The file keeps what Sentinel learned; how it is reached and its password are the settings'.
KEEP_LEARNED = "-n -e /^sentinel.sentinel-pass/d -e /^sentinel.announce/d -e /^sentinel/p"


def services_of(node: Node) -> list[Service]:
    return [_service(node, port) for port in node.the(SentinelSettings).ports]


def _service(node: Node, port: int) -> Service:
    state = f"/var/lib/redis/sentinel-{port}/sentinel.conf"
    command = f"/usr/bin/redis-server {state} --sentinel --include /etc/redis/sentinel-{port}.conf"
    keep_learned = f"/bin/sed -i {KEEP_LEARNED} {state}"
    return Service(
        name=name_of(node, port),
        package=PACKAGE,
        description=f"Redis Sentinel on port {port}",
        command=f"{command} --supervised systemd",
        foreground=command,
        user="redis",
        group="redis",
        before_start=(keep_learned,),
        configuration=(f"/etc/redis/sentinel-{port}.conf",),
        functions=SHELL,
        confined="wholly",
        variables=secrets_of(node),
        ready=f"accepted {port}",
        reload=f"restart_service redis-sentinel-{port} redis-sentinel-{port}.service",
    )
