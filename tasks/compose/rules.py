"""What is refused before anything is touched."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO

from dotenv import dotenv_values

from tasks import apps
from tasks.apps.settings import AppsSettings
from tasks.backup import rules as backup_rules
from tasks.backup.settings import BackupSettings
from tasks.compose import encryption, engine
from tasks.compose.engine import Engine
from tasks.compose.inside import MOST, generated, one
from tasks.compose.prune import unremovable
from tasks.compose.services import inside_of, moved_network, roles_of, surplus_of
from tasks.compose.settings import DockerSettings
from tasks.core import preflight
from tasks.core.component import components
from tasks.core.estate import DOCKER, Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem, Settings
from tasks.pgbouncer import rules as pgbouncer_rules
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import rotating
from tasks.postgres import rules as postgres_rules
from tasks.postgres import secrets as postgres_secrets
from tasks.postgres.settings import PostgresSettings
from tasks.redis import rules as redis_rules
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings

# The format without a version, which 1.27 began and 1.29 finished; Debian 12 has 1.29.2.
OLDEST_COMPOSE = (1, 29)


def secret_names(node: Node) -> list[str]:
    return generated(inside_of(node))


def rotates(node: Node) -> dict[str, str]:
    return inside_of(node).rotates()


def contradictions(everything: Estate) -> list[Problem]:
    problems = []
    for node in everything.having(DockerSettings):
        inside = inside_of(node)
        problems += [p for component in components() for p in component.rules(inside)]
        problems += _own_rules(node, inside)
    return problems


_OTHERS = {"postgres", "pgbouncer", "redis", "sentinel", "backup", "monitoring"}


def _own_rules(node: Node, inside: Estate) -> Iterator[Problem]:
    chosen = node.the(DockerSettings)
    others = sorted({*node.host.groups} & _OTHERS)
    if others:
        message = f"needs a host without {', '.join(others)}: it runs the whole stack"
        yield Problem(node.name, "group docker", message)
    for settings, most in MOST.items():
        if len(inside.having(settings)) > most:
            message = f"should be at most {most}"
            yield Problem(node.name, settings.key_of("ports"), message)
    server = one(inside, PostgresSettings).the(PostgresSettings)
    if server.version not in (None, chosen.release.postgres):
        message = f"should be {chosen.release.postgres}, which Debian {chosen.debian} has"
        yield Problem(node.name, "postgres_version", message)
    if not chosen.image("postgres"):
        inside_it = postgres_rules.unavailable(one(inside, PostgresSettings), ())
        yield from (replace(each, host=node.name) for each in inside_it)
    if server.locale not in ("C.UTF-8", "C", "POSIX"):
        message = f"should be C.UTF-8 or C: the image has no {server.locale}"
        yield Problem(node.name, "postgres_locale", message)
    taken = {container.service for container in inside.nodes} | {"redis-replica"}
    for app in node.the(AppsSettings).apps:
        if app.name in taken:
            yield Problem(node.name, f"apps/{app.name}", "is the name of a service of the stack")
    yield from pgbouncer_rules.unsupported(one(inside, PgbouncerSettings), chosen.release.pgbouncer)
    yield from redis_rules.unknown_commands(inside.having(RedisSettings)[0])


_PORT_KEYS: dict[type[Settings], str] = {
    PostgresSettings: "postgres_port",
    PgbouncerSettings: "pgbouncer_listen_port",
    RedisSettings: "redis_ports",
    SentinelSettings: "sentinel_ports",
}


def listens(node: Node) -> list[Listener]:
    """The published ports; Docker's proxy holds them."""
    return [
        Listener(
            container.port, _PORT_KEYS[settings], container.service, "docker-proxy", open_to=()
        )
        for container in inside_of(node).nodes
        for settings in container.settings
        if container.port
    ]


def published(node: Node) -> list[Listener]:
    return [*listens(node), *apps.COMPONENT.listens(node)]


def checks(node: Node) -> list[Problem]:
    said = node.read(DOCKER)
    unfit = [Problem(node.name, key, message) for key, message in _unfit(node, said["engine"])]
    config = f"{node.the(DockerSettings).project_dir}/docker/backup/backup.json"
    keeper = one(inside_of(node), BackupSettings)
    before = said["files"][config].content
    return [
        *unfit,
        *encryption.checks(node),
        *backup_rules.other_passphrase(keeper, before, there=said["artifacts"]),
        *backup_rules.given_up_early(keeper, before, keeper.read("backup").get("unready", "")),
        *backup_rules.signed_before(keeper, before, said["signers"]),
        *(
            Problem(node.name, "docker_project_dir", why)
            for why in (*said["occupied"], *said["taken"])
        ),
        *preflight.at_boot(node, published(node), said["boot"]),
        *(
            replace(each, host=node.name)
            for each in redis_rules.limited_too_early(inside_of(node).having(RedisSettings)[0])
        ),
        *(
            replace(each, host=node.name)
            for each in rotating.unknown(
                one(inside_of(node), PostgresSettings), said["postgres"]["server"]
            )
        ),
        *unremovable(node),
    ]


def secrets_in_use(node: Node) -> Mapping[str, str]:
    said, home = node.read(DOCKER), node.the(DockerSettings).project_dir
    server = one(inside_of(node), PostgresSettings)
    text = said["files"][f"{home}/.env"].content.decode(errors="replace")
    known = dotenv_values(stream=StringIO(text), interpolate=False)
    config = f"{home}/docker/backup/backup.json"
    return {
        **postgres_secrets.in_use(server, said["postgres"]["server"], is_foreign=False),
        **backup_rules.in_use(said["files"][config].content, config),
        **{name: f"{home}/.env" for name, value in known.items() if value},
    }


def _unfit(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    if found.version == "absent":
        yield (
            "docker",
            "is not installed: apt-get install docker.io docker-compose, or Docker's own",
        )
        return
    if found.version == "down":
        yield "docker", "the engine does not answer: systemctl start docker, then see its journal"
        return
    if found.version == "podman":
        yield "docker", "is podman's: Docker's engine is needed, docker.io or Docker's own"
        return
    if not found.compose:
        yield "docker-compose", "is not installed: apt-get install docker-compose"
        return
    if found.compose_version < OLDEST_COMPOSE:
        version = ".".join(map(str, found.compose_version))
        yield "docker-compose", f"{version} is too old: 1.29 or newer is needed"
        return
    yield from _conflicts(node, found)


def _conflicts(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    chosen, wanted = node.the(DockerSettings), ipaddress.ip_network(node.the(DockerSettings).subnet)
    for listener in published(node):
        if owner := found.foreign.get(listener.port):
            yield listener.key, f"port {listener.port} is published by the container {owner}"
    for name, subnets in found.networks.items():
        for subnet in subnets.split():
            if ":" not in subnet and ipaddress.ip_network(subnet).overlaps(wanted):
                message = f"{wanted} overlaps {subnet} of the network {name}: choose another one"
                yield "docker_subnet", message
    yield from _in_the_way(node, found)
    yield from _overridden(node, found)
    version = chosen.release.postgres
    if found.cluster and found.cluster != version:
        yield (
            "docker_debian",
            (
                f"{chosen.debian} has PostgreSQL {version}, and the volume has a cluster of "
                f"{found.cluster}: dump it, and load it in a new stack"
            ),
        )
    if found.stranger:
        yield (
            "stack_name",
            (
                f"{found.stranger} has a cluster of PostgreSQL that another image made: dump it, "
                "and give this stack another name or move the volume away"
            ),
        )
    for volume in found.unread:
        yield (
            "stack_name",
            (
                f"{volume} has data of Redis that another image made: save a snapshot, "
                "and give this stack another name or move the volume away"
            ),
        )
    places = {container.place for container in found.containers} - {chosen.project_dir}
    if places:
        yield (
            "docker_project_dir",
            (
                f"the project runs from {min(places)}: docker-compose down there, "
                f"mv {min(places)} {chosen.project_dir}, and run again"
            ),
        )


def _overridden(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """What makes Compose see another project than we do."""
    key, home = "docker_project_dir", node.the(DockerSettings).project_dir
    for name in found.instead:
        yield key, f"{home}: {name} changes what Compose reads: use {engine.OVERRIDE} for that"
    if found.wrong:
        beside = f" with {engine.OVERRIDE}" if found.is_overridden else ""
        yield key, f"{home}: Compose refuses docker-compose.yml{beside}: {found.wrong}"
    elif found.hashes and (hidden := sorted({*roles_of(node)} - {*found.hashes})):
        yield key, f"{home}: {engine.OVERRIDE} hides {', '.join(hidden)}: remove its profile"


def _in_the_way(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """What would keep a network that is to be another one: Compose removes only its own."""
    if not moved_network(node, found):
        return
    surplus = {container.name.lstrip("/") for container in surplus_of(node)}
    mine = {container.name.lstrip("/") for container in found.containers} - surplus
    for name in sorted(found.attached - mine):
        if name in surplus and node.the(DockerSettings).prune:
            continue
        how = "docker_prune would remove it" if name in surplus else "remove it, or disconnect it"
        why = (
            f"the container {name} is in the network {found.network[0]}, which has to be recreated"
        )
        yield "docker_subnet", f"{why}: {how}"
