"""What one read of a host tells about its containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tasks.backup import passphrase as backup_passphrase
from tasks.backup import probes as backup_probes
from tasks.backup import repository as backup_repository
from tasks.backup.settings import BackupSettings
from tasks.compose import encryption, engine
from tasks.compose.inside import SENTINEL_PORT, one, place_of
from tasks.compose.services import _images, entries_of, inside_of
from tasks.compose.settings import DockerSettings
from tasks.core import files, preflight, services
from tasks.core.estate import DOCKER, Estate, Node
from tasks.core.files import Found
from tasks.core.places import Service
from tasks.core.remote import Probe
from tasks.core.services import Status
from tasks.pgbouncer import uses as pgbouncer_uses
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import layout as postgres_layout
from tasks.postgres import sql
from tasks.postgres.settings import PostgresSettings
from tasks.redis import expected as redis_expected
from tasks.redis import kernel as redis_kernel
from tasks.redis import leader as redis_leader
from tasks.redis import settings as redis_settings
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.sentinel import forget as sentinel_forget
from tasks.sentinel import monitoring as sentinel_monitoring

# Services of the host that listen where the stack does, also those of Datatier for plain hosts.
_BOOT = "at_boot 'postgresql|pgbouncer|redis|valkey|keydb|redict'"


def _inside_probes(node: Node) -> dict[str, Probe[Any]]:
    """What containers are asked, by service."""
    return {
        container.service: engine.inside_probe(container, questions, number)
        for number, container in enumerate(inside_of(node).nodes)
        if (questions := [*_questions(node, container)])
    }


def _questions(node: Node, container: Node) -> Iterator[tuple[str, Probe[Any], str]]:
    if PostgresSettings in container.settings:
        chosen = container.the(PostgresSettings)
        data = postgres_layout.data_directory(container)
        probe = sql.probe(data, ["template1", *chosen.databases])
        there = engine.volume(
            container, f"{postgres_layout.cluster_version(container)}/main/PG_VERSION"
        )
        yield "server", probe, f"if [ -e {there} ]; then echo down; else echo absent; fi"
    if PgbouncerSettings in container.settings:
        yield "uses", pgbouncer_uses.uses_probe(container), ":"
    if RedisSettings in container.settings:
        home, file = engine.volume(container, ""), engine.volume(container, "redis.conf")
        read = f"role=$(within {home} sed -n 's/^replicaof /replica /p' redis.conf) || exit 1"
        stopped = f'if [ -e {file} ]; then {read}; echo "${{role:-master}}"; else echo absent; fi'
        yield "roles", redis_leader.roles_probe(container), stopped
        if container is one(container.estate, RedisSettings):
            # All of them have the same program and the same settings.
            yield "expected", redis_expected.expected_probe("/etc/redis/redis-master.conf"), ":"
        secret = redis_settings.lasting_password(container)
        # Whichever of them runs.
        yield "sentinels", redis_leader.sentinels_probe(container.estate, secret), ":"
    if SentinelSettings in container.settings:
        there, port = engine.volume(container, "sentinel.conf"), SENTINEL_PORT
        stopped = f"if [ -e {there} ]; then echo {port} down; else echo {port} none; fi"
        yield "monitors", sentinel_monitoring.monitors_probe(container), stopped
        yield "views", sentinel_forget.views_probe(container), ":"
    if BackupSettings in container.settings:
        stanza = f"{node.the(DockerSettings).project_dir}/backups/pgbackrest/archive/*/archive.info"
        yield (
            "stanza",
            backup_repository.stanza_probe(container),
            f"ls {stanza} >/dev/null 2>&1 && echo ok || :",
        )
        yield "unready", backup_passphrase.unready_probe(), ":"


def _services_probe(inside: Estate) -> Probe[dict[str, Status]]:
    """What was recorded of each service at its last activation."""
    names = (container.service for container in inside.nodes)
    every = [Service(name, "", "", "", "", ready=":", reload=":") for name in names]
    return services.probe(every, place_of(inside.nodes[0]))


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    inside, home = inside_of(node), node.the(DockerSettings).project_dir
    for container in inside.nodes:
        container.reader = _reader(node, container)
    return {
        "files": files.probe(entries_of(node)),
        "kernel": redis_kernel.kernel_probe(),
        "artifacts": backup_probes.artifacts_probe(f"{home}/backups"),
        "repositories": backup_passphrase.repositories_probe(f"{home}/backups/pgbackrest"),
        "signers": backup_probes.signers_probe(f"{home}/backups"),
        "occupied": files.occupied_probe("backups", f"{home}/backups"),
        "taken": files.occupied_probe("docker", f"{home}/docker"),
        "engine": engine.probe(node, _images(node)),
        "boot": Probe(f"{preflight.AT_BOOT}\n{_BOOT}\n", list),
        "services": _services_probe(inside),
        **encryption.probes(node),
        **_inside_probes(node),
    }


def _files(node: Node, container: Node) -> dict[str, Found]:
    """The files of the project that a container has, by where it has them."""
    (group,) = container.groups
    server = one(container.estate, PostgresSettings)
    etc = postgres_layout.configuration_directory(server)
    place = {"postgres": etc, "backup": "/etc/datatier"}.get(group, f"/etc/{group}")
    home = f"{node.the(DockerSettings).project_dir}/docker/{group}"
    found = node.read(DOCKER)["files"].items()
    return {f"{place}{p.removeprefix(home)}": f for p, f in found if p.startswith(f"{home}/")}


def _reader(node: Node, container: Node) -> Callable[[str], dict[str, Any]]:
    def read(_group: str) -> dict[str, Any]:
        said = node.read(DOCKER)
        return {
            "files": _files(node, container),
            "sentinels": [],
            "repositories": said["repositories"],
            "console": said.get("console", ""),
            "services": said["services"],
            "expected": said.get("redis-master", {}).get("expected", {}),
            **said.get(container.service, {}),
        }

    return read
