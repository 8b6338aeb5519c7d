"""The same rows as on hosts, asked in the containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tasks.apps.health import request
from tasks.apps.settings import AppsSettings
from tasks.backup.settings import BackupSettings
from tasks.compose import engine
from tasks.compose.inside import one
from tasks.compose.settings import DockerSettings
from tasks.core import lock
from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.offer import NEAR
from tasks.core.scripts import shell


def idle(node: Node) -> tuple[str, Mapping[str, str]]:
    """Shell that fails while a job of the backup service goes on, and its variable."""
    assert node.inside is not None
    script = lock.idle(besides=lock.ENDURING)
    return engine.inside(one(node.inside, BackupSettings), script, {}, 0)


def rows(node: Node) -> Iterator[Check]:
    """The same requests, made in the containers; those to applications from their host."""
    home = node.the(DockerSettings).project_dir
    place = node.the(DockerSettings).publish_address
    assert node.inside is not None
    for number, container in enumerate(node.inside.nodes):
        for check in (c for component in container.components() for c in component.rows(container)):
            script, variables = engine.inside(
                container, f"{check.functions}{check.script}", check.variables, number
            )
            yield replace(
                check,
                service=container.service,
                node=node,
                where=f"{place}:{container.port}" if container.port else "-",
                script=script,
                variables=variables,
                functions="",
                connect=f"cd {home} && docker-compose exec {_CONNECT[check.rank]}",
            )
    for app in node.the(AppsSettings).apps:
        where = f"{place}:{app.published}" if app.published else "-"
        name = f"{node.stack.stack_name}_{app.name}"
        asks = request(app, NEAR if place == "0.0.0.0" else place, app.published)
        script = asks if app.published else shell("state", "compose", container=name)
        yield Check(app.name, node, where, script, where, len(_CONNECT))


_CONNECT = (
    "postgres psql -U postgres",
    "pgbouncer psql -h localhost -p 6432 -U postgres -d pgbouncer",
    "redis-master redis-cli",
    "redis-sentinel-1 redis-cli -p 26379",
    "backup-service /scripts/backup.sh list",
)
