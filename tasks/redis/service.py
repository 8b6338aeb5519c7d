"""An instance as a service, and the trial of its configuration."""

from __future__ import annotations

import re

from tasks.core.change import Trial
from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.core.scripts import shell
from tasks.redis.console import SHELL
from tasks.redis.settings import RedisSettings
from tasks.redis.values import configuration_path, name_of

# Debian's redis-server is a link to a program of this one.
PACKAGE = "redis-tools"
BEFORE_START = "/usr/local/bin/redis-before-start"


def services_of(node: Node) -> list[Service]:
    return [service_of(node, port) for port in node.the(RedisSettings).ports]


def service_of(node: Node, port: int) -> Service:
    """An instance as a service of a host or in a container."""
    home, managed = f"/var/lib/redis/{port}", configuration_path(node, port)
    state = f"{home}/redis.conf"
    command = f"/usr/bin/redis-server {state} --include {managed}"
    return Service(
        name=name_of(node, port),
        package=PACKAGE,
        description=f"Redis on port {port}",
        command=f"{command} --supervised systemd",
        foreground=command,
        user="redis",
        group="redis",
        before_start=(f"{BEFORE_START} {home} {managed}",),
        configuration=(managed,),
        check=f"{shell('try', 'redis')}try {managed} {managed}",
        functions=SHELL,
        confined="wholly",
        ready=f"loaded {port}",
        reload=f'end_sessions {port} redis-{port} "$ENTRY_{port}"\n'
        f'config_set {port} "$CONFIG_{port}" redis-{port} $FORGET_{port}\n'
        f'set_users {port} redis-{port} "$ACL_{port}"',
    )


KEEP_ROLE = "-n /^replicaof/p"


def trial(configuration: str, path: str) -> Trial:
    """Starts a second server with the configuration, which is to become the file `path`."""
    variable = "TRIAL_" + re.sub("[^A-Za-z0-9]", "_", path)
    words = f'printf %s "${variable}" >"$new"\ntry "$new" {path}\n'
    script = shell("try", "redis") + shell("trial", "redis") + words
    return Trial(script, {variable: configuration})
