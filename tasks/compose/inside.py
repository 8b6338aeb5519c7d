"""The containers of a host, as hosts of a stack of their own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tasks.backup.settings import BackupSettings
from tasks.backup.thresholds import HealthSettings
from tasks.compose.settings import PORTS, DockerSettings
from tasks.core.estate import Estate, Node
from tasks.core.places.container import RECORDS, Container
from tasks.core.preflight import System
from tasks.core.settings import Settings
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import layout as postgres_layout
from tasks.postgres.settings import PostgresSettings
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings

REDIS_PORT, SENTINEL_PORT = 6379, 26379


# The lower half of the subnet is ours, from these on; Docker gives out the upper half.
_POSTGRES, _PGBOUNCER, _BACKUP, _REDIS, _SENTINEL = 10, 11, 12, 20, 60


MOST: dict[type[Settings], int] = {RedisSettings: _SENTINEL - _REDIS, SentinelSettings: 40}


def contain(node: Node) -> None:
    """Makes a stack of containers of a host's settings."""
    chosen = node.the(DockerSettings)
    inside = Estate(node.estate.state, node.estate.secrets)
    inside.outside = node
    inside.nodes = list(_containers(node, inside, chosen))
    # Beside the configuration, which servers see already.
    node.keys_at = f"{chosen.project_dir}/docker/{{}}/signed"
    etc = postgres_layout.configuration_directory(one(inside, PostgresSettings))
    places = {"postgres": etc, "pgbouncer": "/etc/pgbouncer"}
    for container in inside.nodes:
        (group,) = container.groups
        container.keys_at = f"{places.get(group, '/etc/redis')}/signed"
    contained = {settings for container in inside.nodes for settings in container.settings}
    node.settings = {k: v for k, v in node.settings.items() if k not in contained}
    node.inside = inside


def _containers(node: Node, inside: Estate, chosen: DockerSettings) -> Iterator[Node]:
    stack, network = node.stack.stack_name, ipaddress.IPv4Network(chosen.subnet)
    _, given = network.subnets()

    def container(service: str, group: str, offset: int, port: int, *settings: Settings) -> Node:
        return Node(
            node.host,
            node.stack,
            str(network.network_address + offset),
            {type(each): each for each in settings},
            inside,
            frozenset({group}),
            system=System(chosen.release),
            service=service,
            port=port,
            # Compose 2 calls the first of `--scale redis-replica=3` psscript-redis-replica-1.
            container=Container(f"{stack}_{service}", f"{RECORDS}/{stack}", network, given),
        )

    postgres, pgbouncer = node.the(PostgresSettings), node.the(PgbouncerSettings)
    yield container("postgres", "postgres", _POSTGRES, postgres.port, postgres)
    yield container("pgbouncer", "pgbouncer", _PGBOUNCER, pgbouncer.listen_port, pgbouncer)
    redis = node.the(RedisSettings)
    for number, port in enumerate(_published(redis)):
        # The name is that of the beginning: who is master is Sentinel's to say.
        service = f"redis-replica-{number}" if number else "redis-master"
        one = redis.model_copy(update={"ports": (REDIS_PORT,)})
        yield container(service, "redis", _REDIS + number, port, one)
    sentinel = node.the(SentinelSettings)
    for number, port in enumerate(_published(sentinel)):
        each = sentinel.model_copy(update={"ports": (SENTINEL_PORT,)})
        yield container(f"redis-sentinel-{number + 1}", "sentinel", _SENTINEL + number, port, each)
    keeper = node.the(BackupSettings), node.the(HealthSettings)
    yield container("backup-service", "backup", _BACKUP, 0, *keeper)


def address_of(chosen: DockerSettings, service: str) -> str:
    """Where a container of Redis or Sentinel is or was; empty for other services."""
    match = re.fullmatch(r"redis-(master|replica|sentinel)(?:-([0-9]+))?", service)
    if match is None or (match[1] != "master" and match[2] is None):
        return ""
    first = {"master": _REDIS, "replica": _REDIS, "sentinel": _SENTINEL - 1}[match[1]]
    base = ipaddress.IPv4Network(chosen.subnet).network_address
    return str(base + first + int(match[2] or 0))


def _published(chosen: RedisSettings | SentinelSettings) -> tuple[int, ...]:
    """The ports of the host at which the containers of a kind are reached."""
    return chosen.ports if "ports" in chosen.model_fields_set else PORTS[type(chosen)]


def place_of(container: Node) -> Container:
    """The container itself."""
    assert container.container is not None
    return container.container


def one(inside: Estate, settings: type[Settings]) -> Node:
    """The only container of a kind."""
    return inside.having(settings)[0]


def generated(inside: Estate) -> list[str]:
    """The names of the secrets that its containers leave to `.env`."""
    return [
        name
        for node in inside.nodes
        for component in node.components()
        for name in component.secrets(node)
    ]
