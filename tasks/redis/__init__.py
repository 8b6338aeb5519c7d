"""Redis: one instance per port, replicas of whichever instance Sentinel says is the master."""

from __future__ import annotations

from collections.abc import Callable

from tasks.core.change import converge, refusing
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.redis import moving, rolling, tls
from tasks.redis.activation import due_activation
from tasks.redis.files import missing_configuration, trials
from tasks.redis.health import rows
from tasks.redis.kernel import missing_kernel
from tasks.redis.leaves import LEAVES
from tasks.redis.packages import packages_of
from tasks.redis.probes import probes_of
from tasks.redis.rules import checks, contradictions, listens, secrets_in_use
from tasks.redis.settings import RedisSettings, defaults, generated_secrets, rotates
from tasks.redis.users import exact_own, missing_own, prune, unknown_users
from tasks.redis.values import memory_of


@on(RedisSettings)
def install(node: Node) -> None:
    """Installs the packages and prepares the kernel; nothing is started."""
    install_packages(node, "Redis", packages_of(node))
    converge("Redis: kernel", lambda: missing_kernel(node), room="redis")


@on(RedisSettings)
def configure(node: Node) -> None:
    """Writes the configuration and makes every instance take it."""
    tls.certify(node)
    converge("Redis: users", lambda: missing_own(node), room="redis")
    converge("Redis: configuration", lambda: missing_configuration(node), room="redis")
    activate()


@on(RedisSettings)
def activate(node: Node) -> None:
    """Starts instances, sets what CONFIG SET takes, and restarts for the rest, the master last."""
    with refusing(node.host):
        rolling.require_successor(node)
        rolling.require_way(node)
    converge("Redis: service", lambda: due_activation(node), one_by_one=True, room="redis")
    converge("Redis: TLS", lambda: moving.due_listening(node), one_by_one=True, room="redis")
    converge("Redis: replication", lambda: moving.due_links(node), one_by_one=True, room="redis")
    converge("Redis: replicas", lambda: rolling.replicas(node), one_by_one=True, room="redis")
    converge("Redis: master", lambda: rolling.master(node), one_by_one=True, room="redis")


@on(RedisSettings)
def settle(node: Node) -> None:
    """Takes from our users what they had before, when all that is ours comes with what is new."""
    converge("Redis: rights", lambda: exact_own(node), room="redis")
    converge("Redis: TLS only", lambda: moving.established(node), room="redis")


@on(RedisSettings)
def failover(node: Node) -> None:
    """Makes a replica the master; each run of it does so, and no acknowledged write is lost."""
    with refusing(node.host):
        change = rolling.failover(node)
    converge("Redis: failover", change, room="redis")


def _pruning(node: Node) -> Callable[[], None]:
    def act() -> None:
        converge(
            "Redis: prune", lambda: prune(node), notices=lambda: unknown_users(node), room="redis"
        )

    return act


COMPONENT = Component(
    group="redis",
    settings=RedisSettings,
    is_confined=True,
    defaults=defaults,
    secrets=generated_secrets,
    in_use=secrets_in_use,
    rotates=rotates,
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    untouched_by=("postgres", "pgbouncer", "backup"),
    memory=memory_of,
    checks=checks,
    takings=rolling.takings,
    trials=trials,
    rows=rows,
    certified=activate,
    leaves=LEAVES,
    beside=unknown_users,
    pruning=_pruning,
)


def deploy() -> None:
    """Redis as the settings say: install, configure, activate."""
    install()
    configure()
