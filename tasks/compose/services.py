"""The services of the project, and the images and containers that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tasks.apps.settings import AppsSettings
from tasks.backup.passphrase import Repository
from tasks.backup.settings import BackupSettings
from tasks.compose.engine import Container, Engine
from tasks.compose.files import project_files
from tasks.compose.images import inputs
from tasks.compose.settings import DockerSettings
from tasks.core.estate import DOCKER, Estate, Node
from tasks.core.files import Entry
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres.settings import PostgresSettings
from tasks.redis import kernel as redis_kernel
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings


def inside_of(node: Node) -> Estate:
    assert node.inside is not None
    return node.inside


def built(node: Node) -> dict[str, str]:
    """The services whose image is built here, and its role."""
    chosen = node.the(DockerSettings)
    return {
        service: role for service, role in roles_of(node).items() if role and not chosen.image(role)
    }


def _images(node: Node) -> dict[str, str]:
    """The name of every service's image; Compose builds with a `_` or a `-` for the `%`."""
    chosen = node.the(DockerSettings)
    given = {app.name: app.image for app in node.the(AppsSettings).apps}
    return {
        service: given.get(service) or chosen.image(role) or f"{node.stack.stack_name}%{service}"
        for service, role in roles_of(node).items()
    }


def image_of(node: Node, found: Engine, service: str) -> tuple[str, str]:
    """The id and the label of inputs of a service's image, as far as it is there."""
    return found.images.get(name_of(node, found, service), ("", ""))


def name_of(node: Node, found: Engine, service: str) -> str:
    """The whole name of a service's image."""
    # No name of an image has a percent sign.
    name = _images(node)[service].replace("%", found.glue)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def roles_of(node: Node) -> dict[str, str]:
    """Every service of the project and the role of its image; applications have none."""
    of = {
        PostgresSettings: "postgres",
        PgbouncerSettings: "pgbouncer",
        RedisSettings: "redis",
        SentinelSettings: "redis",
        BackupSettings: "backup",
    }
    containers = inside_of(node).nodes
    roles = {c.service: role for c in containers for s, role in of.items() if s in c.settings}
    return {
        **roles,
        "redis-replica": "redis",
        **{app.name: "" for app in node.the(AppsSettings).apps},
    }


def entries_of(node: Node, environment: str = "", places: Sequence[Repository] = ()) -> list[Entry]:
    kernel = redis_kernel.KERNEL_FILES if node.place.is_init else ()
    return [*project_files(node, environment, places), *kernel]


def stale_images(node: Node) -> dict[str, str]:
    """The services whose image is not what it should be built from, and its role."""
    found = cast(Engine, node.read(DOCKER)["engine"])
    wanted = inputs(inside_of(node), node.the(DockerSettings))
    stale = {
        service: role
        for service, role in built(node).items()
        if image_of(node, found, service)[1] != wanted[role]
    }
    # A cleanup takes an image that no container has; `up --scale` builds it.
    if "redis-master" not in stale and not is_scaled(node, found):
        stale.pop("redis-replica", None)
    return stale


def rebuilt_images(node: Node) -> dict[str, str]:
    """The services whose image this plan builds again, and its role."""
    if node.host.state.is_executing:
        return {}
    return {service: role for service, role in built(node).items() if role in node.rebuilds}


def is_scaled(node: Node, found: Engine) -> bool:
    """Whether there are further replicas, or have been."""
    return bool(found.of("redis-replica") or image_of(node, found, "redis-replica")[0])


def surplus_of(node: Node) -> list[Container]:
    """The containers of services that neither the settings nor the file beside ours have."""
    found = cast(Engine, node.read(DOCKER)["engine"])
    known = {*roles_of(node), *found.hashes}
    return [each for each in found.containers if each.service not in known]


def moved_network(node: Node, found: Engine) -> str:
    """What happens when the network is to be another one; empty when it is not."""
    chosen, (name, subnet) = node.the(DockerSettings), found.network
    means = "every container is recreated; their volumes stay"
    if not name:
        is_gone = found.containers and chosen.network not in found.networks
        return f"network {chosen.network}: is gone: {means}" if is_gone else ""
    if (name, subnet) == (chosen.network, chosen.subnet):
        return ""
    return f"network {name} {subnet}: becomes {chosen.network} {chosen.subnet}: {means}"
