"""Docker: the whole stack on one host as a Compose project, changed container by container."""

from __future__ import annotations

from typing import cast

from tasks.backup import repository as backup_repository
from tasks.backup.settings import BackupSettings
from tasks.compose import encryption
from tasks.compose.activation import due_containers
from tasks.compose.building import missing_files, missing_image
from tasks.compose.content import within
from tasks.compose.health import idle, rows
from tasks.compose.inside import contain, one
from tasks.compose.leaves import LEAVES
from tasks.compose.probes import probes_of
from tasks.compose.prune import leaving, pruned, told
from tasks.compose.rolling import hand_over
from tasks.compose.rules import (
    checks,
    contradictions,
    listens,
    rotates,
    secret_names,
    secrets_in_use,
)
from tasks.compose.services import inside_of, roles_of, surplus_of
from tasks.compose.settings import POSTGRES, REDIS, ROLES, DockerSettings, dotenv
from tasks.compose.updates import upgrade
from tasks.core.change import converge, refusing
from tasks.core.component import Component
from tasks.core.estate import DOCKER, Node, on
from tasks.postgres import content as postgres_content
from tasks.postgres import sql
from tasks.postgres.settings import PostgresSettings
from tasks.redis import kernel as redis_kernel
from tasks.redis import users as redis_users
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.sentinel import forget as sentinel_forget
from tasks.sentinel import monitoring as sentinel_monitoring
from tasks.sentinel import passwords as sentinel_passwords
from tasks.tls import certificates


def install() -> None:
    """Writes the project directory and builds the images; nothing is started."""
    _write()
    _build()


@on(DockerSettings)
def _write(node: Node) -> None:
    for service, group in (("postgres", POSTGRES), ("pgbouncer", POSTGRES), ("redis", REDIS)):
        certificates.certify(node, service, group)
    converge("PgBouncer: key", lambda: encryption.missing_key(node))
    converge("Docker: files", lambda: missing_files(node))


@on(DockerSettings)
def _build(node: Node) -> None:
    converge("Redis: kernel", lambda: redis_kernel.kernel(node, node.read(DOCKER)["kernel"]))
    for role in ROLES:
        converge(f"Docker: image {role}", lambda role=role: missing_image(node, role))  # type: ignore[misc]


def configure() -> None:
    """Writes the project directory, makes every container follow it, and sets what is live."""
    _write()
    _prune()
    activate()
    _converge_inside()
    _applications()
    _extend()


@on(DockerSettings)
def _converge_inside(node: Node) -> None:
    inside = inside_of(node)
    server, keeper = one(inside, PostgresSettings), one(inside, BackupSettings)
    watchers = inside.having(SentinelSettings)
    converge(
        "PostgreSQL: roles and databases",
        lambda: within({server: postgres_content.missing_content(server)}),
    )
    postgres_content.prune(
        server,
        lambda: cast(sql.Server, server.read("postgres")["server"]),
        lambda change: within({server: change}),
    )
    instances = inside.having(RedisSettings)
    converge(
        "Redis: prune",
        lambda: within({each: redis_users.prune(each) for each in instances}),
        notices=lambda: [line for each in instances for line in redis_users.unknown_users(each)],
    )
    converge(
        "Sentinel: monitoring",
        lambda: within({w: sentinel_monitoring.missing_monitoring(w) for w in watchers}),
    )
    gone = leaving(node)
    converge(
        "Sentinel: prune",
        lambda: within({w: sentinel_forget.prune(w, gone) for w in watchers}),
        notices=lambda: [line for w in watchers for line in sentinel_forget.remembered(w, gone)],
    )
    converge("Redis: rights", lambda: within({e: redis_users.exact_own(e) for e in instances}))
    converge(
        "Sentinel: rights",
        lambda: within({w: sentinel_passwords.exact(w) for w in watchers}),
    )
    converge("Backup: repository", lambda: within({keeper: backup_repository.new_stanza(keeper)}))


@on(DockerSettings)
def _extend(node: Node) -> None:
    server = one(inside_of(node), PostgresSettings)
    converge(
        "PostgreSQL: extensions",
        lambda: within({server: postgres_content.missing_extensions(server)}),
    )


@on(DockerSettings)
def _prune(node: Node) -> None:
    # What is removed is what this run could show.
    shown = {each.name for each in surplus_of(node)}
    converge(
        "Docker: prune",
        lambda: pruned(node, [each for each in surplus_of(node) if each.name in shown]),
        notices=lambda: told(node),
    )


@on(DockerSettings)
def activate(node: Node) -> None:
    """Creates, recreates, starts, reloads what is due, and waits until all of it is healthy."""
    stack = {service for service, role in roles_of(node).items() if role}
    with refusing(node.host):
        due_containers(node, stack)
    instances = inside_of(node).having(RedisSettings)
    converge("Redis: users", lambda: within({e: redis_users.missing_own(e) for e in instances}))
    watchers = inside_of(node).having(SentinelSettings)
    converge("Sentinel: users", lambda: within({w: sentinel_passwords.added(w) for w in watchers}))
    converge("Docker: containers", lambda: due_containers(node, stack))


@on(DockerSettings)
def failover(node: Node) -> None:
    """Makes a replica the master; each run of it does so, and no acknowledged write is lost."""
    with refusing(node.host):
        change = hand_over(node)
    converge("Redis: failover", lambda: change)


@on(DockerSettings)
def _applications(node: Node) -> None:
    """The same for applications: they are healthy only where roles and Sentinels are set."""
    mine = {service for service, role in roles_of(node).items() if not role}
    converge("Docker: applications", lambda: due_containers(node, mine))


def deploy() -> None:
    """The whole stack as the settings say: install, configure, activate."""
    _write()
    _build()
    _prune()
    activate()
    _converge_inside()
    _applications()
    _extend()


COMPONENT = Component(
    group=DOCKER,
    settings=DockerSettings,
    secrets=secret_names,
    in_use=secrets_in_use,
    rotates=rotates,
    rules=contradictions,
    listens=listens,
    probes=probes_of,
    checks=checks,
    rows=rows,
    certified=activate,
    leaves=LEAVES,
    beside=told,
    idle=idle,
    upgrades=upgrade,
    contain=contain,
    dotenv=dotenv,
)
