"""The content of docker-compose.yml."""

from __future__ import annotations

from tasks.apps.files import environment
from tasks.apps.settings import App, AppsSettings
from tasks.backup.settings import BackupSettings
from tasks.compose.images import LABEL, inputs
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, one
from tasks.compose.settings import POSTGRES, ROLES, DockerSettings
from tasks.core.estate import Estate, Node
from tasks.core.files import render
from tasks.core.offer import Offer
from tasks.pgbouncer import service as pgbouncer_service
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import archive
from tasks.postgres import layout as postgres_layout
from tasks.postgres import settings as postgres_settings
from tasks.postgres.settings import PostgresSettings
from tasks.redis import sentinels, tls
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings


def compose_file(node: Node) -> str:
    """The content of docker-compose.yml."""
    assert node.inside is not None
    inside, chosen = node.inside, node.the(DockerSettings)
    server, pooler = one(inside, PostgresSettings), one(inside, PgbouncerSettings)
    keeper = one(inside, BackupSettings)
    nodes = inside.having(RedisSettings)
    return render(
        "compose/docker-compose.yml.j2",
        stack=node.stack.stack_name,
        images={role: chosen.image(role) for role in ROLES},
        inputs=inputs(inside, chosen),
        label=LABEL,
        network=chosen.network,
        subnet=chosen.subnet,
        dynamic=str(server.place.given),
        publish=chosen.publish_address,
        postgres_id=POSTGRES,
        postgres=server,
        shm=postgres_settings.shared_memory(server.system.memory),
        postgres_etc=postgres_layout.configuration_directory(server),
        locale=server.the(PostgresSettings).locale,
        pgbouncer=pooler,
        pgbouncer_files=pgbouncer_service.service_of(pooler).open_files,
        redis=nodes,
        redis_port=REDIS_PORT,
        redis_published=tls.published(nodes[0], REDIS_PORT),
        prefix=nodes[0].address.rpartition(".")[0] + ".",
        sentinels=inside.having(SentinelSettings),
        sentinel_port=SENTINEL_PORT,
        sentinel_published=tls.published(nodes[0], SENTINEL_PORT),
        master_name=sentinels.master_name(inside),
        backup=keeper,
        locks=archive.LOCKS.rpartition("/")[0],
        backups=keeper.the(BackupSettings).dir,
        apps=[_app(app, inside) for app in node.the(AppsSettings).apps],
    )


def offers(inside: Estate) -> list[Offer]:
    """What the stack offers to applications in the project's network."""
    return inside.offers(lambda node: node.service)


def _app(app: App, inside: Estate) -> dict[str, object]:
    return {
        "name": app.name,
        "image": app.image,
        "port": app.port,
        "published": app.published,
        "env": environment(app, offers(inside), "/run/secrets"),
        "test": _health_test(app) if app.port else "",
    }


def _health_test(app: App) -> str:
    """A request made inside the application's image, with whatever of these that has."""
    if app.health == "tcp":
        place = f"127.0.0.1 {app.port}"
        connect = f"import socket; socket.create_connection(('127.0.0.1', {app.port}), 5)"
        return (
            f'nc -z {place} || bash -c "</dev/tcp/{place.replace(" ", "/")}" || '
            f'python3 -c "{connect}" || node -e "{_NODE_TCP.format(port=app.port)}"'
        )
    url = f"http://127.0.0.1:{app.port}{app.health.removeprefix('http:')}"
    fetch = f"import urllib.request; urllib.request.urlopen('{url}', timeout=5)"
    return (
        f"curl -fsS -m 5 -o /dev/null '{url}' || wget -q -T 5 -O /dev/null '{url}' || "
        f'python3 -c "{fetch}" || node -e "{_NODE_HTTP.format(url=url)}"'
    )


_NODE_TCP = (
    "require('net').connect({port}, '127.0.0.1').on('connect', () => process.exit(0))"
    ".on('error', () => process.exit(1))"
)


_NODE_HTTP = "fetch('{url}').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"
