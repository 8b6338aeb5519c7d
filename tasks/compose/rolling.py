"""Restarts of Redis and Sentinel, one container after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

from tasks.compose.engine import Engine, up
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, address_of
from tasks.compose.reloads import Reloadable
from tasks.compose.services import inside_of, moved_network
from tasks.compose.settings import DockerSettings
from tasks.core import services
from tasks.core.change import Change, Line
from tasks.core.estate import DOCKER, Estate, Node
from tasks.core.places.container import INSIDE, inner
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.redis import activation as redis_activation
from tasks.redis import leader as redis_leader
from tasks.redis import rolling, sentinels
from tasks.redis import settings as redis_settings
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings


def services_to_roll(
    node: Node, found: Engine, due: Mapping[str, str], live: list[tuple[Reloadable, str]]
) -> list[str]:
    """The services of Redis and Sentinel that run and restart, one after the other."""
    if moved_network(node, found):
        return []
    starting = {service for service, means in due.items() if means.startswith("recreate")}
    instances = [*(c.service for c in inside_of(node).having(RedisSettings)), "redis-replica"]
    starting |= {e.name for e, act in live if act == "restart"} & {*instances}
    running = {each.service for each in found.containers if each.status == "running"}
    order = [*instances, *watchers_of(node)]
    return [service for service in order if service in starting & running]


def watchers_of(node: Node) -> list[str]:
    return [container.service for container in inside_of(node).having(SentinelSettings)]


def led(node: Node, found: Engine, said: Mapping[str, Line], to_roll: Sequence[str]) -> list[Line]:
    """The sentences of the plan; a master that is to restart hands over, and comes last.

    Raises:
        Unreadable: the master is unknown, or no instance can replace it.
    """
    lines = [*said.values()]
    if not [service for service in to_roll if service not in watchers_of(node)]:
        return lines
    inside = inside_of(node)
    leader = redis_leader.current_master(inside)
    places = {each.address: each.service for each in inside.having(RedisSettings)}
    name = places.get(leader.ip, "redis-replica")
    if name not in to_roll:
        return lines
    lines.remove(said[name])
    if alone := alone_because(inside):
        means = f"{said[name]}; {alone}: unavailable meanwhile"
        return [*lines, Line(means, said[name].impact)]
    running = {each.service for each in found.containers if each.status == "running"}
    rolling.require(inside, leader, name, is_starting=not {*places.values()} <= running)
    means = f"failover (master of {sentinels.master_name(inside)}; restart follows)"
    return [*lines, services.line(name, means), said[name]]


def alone_because(inside: Estate) -> str:
    """Why the master restarts in place: it is alone, or no client can hand over for it."""
    instances = inside.having(RedisSettings)
    if why := rolling.alone(instances[0]):
        return why
    with contextlib.suppress(Unreadable):
        leader = redis_leader.current_master(inside)
        for node in instances:
            if node.address == leader.ip and redis_activation.is_locked(node, REDIS_PORT):
                return "it refuses all clients"
    return ""


def rolling_steps(
    node: Node,
    found: Engine,
    every: Mapping[str, Reloadable],
    due: Mapping[str, str],
    to_roll: Sequence[str],
) -> tuple[str, dict[str, str]]:
    """Shell that starts instances again, the leader last, and then Sentinels."""
    redis_first = [service for service in to_roll if service not in watchers_of(node)]
    steps, rounds = [shell("roll", "redis")], list[str]()
    for number, service in enumerate(redis_first):
        if service in due:
            names = [container.name.lstrip("/") for container in found.of(service)]
            act = f'{_remade(found, service, every)}\nfollows "$@"'
        else:
            each = every[service]
            names = [*each.place(found).units(each.wanted.service)]
            act = f'restarts "$@"\n{services.record(each.wanted)}'
        steps.append(f"roll_{number}() {{\n{act}\n}}")
        rounds.append(f"roll {number} {quoted(*names)}")
    steps += ["for round in 1 2; do", *rounds, "done"] if rounds else []
    for service in to_roll[len(redis_first) :]:
        name = every[service].container.unit
        steps.append(f'{_remade(found, service, every)}\ninside {name} "$WATCHES"')
    return "\n".join(steps), _rolling_scripts(inside_of(node), alone_because(inside_of(node)))


def _remade(found: Engine, service: str, every: Mapping[str, Reloadable]) -> str:
    # A new container starts with the current files.
    record = services.record(every[service].wanted) if service in every else ":"
    return f"{record}\n{up(found, [service])}"


def _rolling_scripts(inside: Estate, alone: str) -> dict[str, str]:
    """What containers of Redis and Sentinel are asked while they restart."""
    first, port = inside.having(RedisSettings)[0], REDIS_PORT
    secret = redis_settings.logins(first)
    watchers = " ".join(map(str, sentinels.endpoints(inside)))
    watched = {"name": sentinels.master_name(inside), "sentinels": watchers}
    seconds = str(services.START_SECONDS)
    hand_over = f'hand_over "$(hostname -i)" {port} Redis {quoted(watched["name"])} {watchers}'
    follow = f"follow {port} Redis"
    if alone:
        hand_over, follow = ":", ":"
    scripts = {
        "ROLE": shell("role", "compose", **watched, port=str(port)),
        "HAND_OVER": hand_over,
        "FOLLOW": f"within {seconds} loaded {port} || {{ {_SILENT}; }}; {follow}",
        "WATCHES": shell(
            "watches", "compose", **watched, sentinel_port=str(SENTINEL_PORT), seconds=seconds
        ),
    }
    return {
        word: inner(f"set -eu\n{rolling.FUNCTIONS}\n{script}", secret)
        for word, script in scripts.items()
    }


_SILENT = "echo 'Redis does not answer: see its log' >&2; exit 1"


def hand_over(node: Node) -> Change:
    """The hand-over of the master, decided now: the next one is not to hand over too.

    Raises:
        Unreadable: the master is unknown, or no instance can replace it.
    """
    inside, found = inside_of(node), cast(Engine, node.read(DOCKER)["engine"])
    leader, chosen = redis_leader.current_master(inside), node.the(DockerSettings)
    there = [c for c in found.containers if address_of(chosen, c.service) == leader.ip]
    there = there or found.of("redis-replica")
    if not there:
        raise Unreadable(f"the master {leader} is no container of the project")
    # One that left the settings hands over to those that are in them.
    leaves = leader not in redis_settings.addresses(inside)
    alone = "" if leaves else alone_because(inside)
    if why := alone or rolling.obstacle(inside, leader, is_starting=leaves):
        raise Unreadable(f"no instance can replace the master {there[0].service}: {why}")
    means = f"failover (master of {sentinels.master_name(inside)}; becomes a replica)"
    names = [each.name.lstrip("/") for each in there]
    script = f"{INSIDE}\n{shell('roll', 'redis')}\nleaves {quoted(*names)}"
    return Change([services.line(there[0].service, means)], script, _rolling_scripts(inside, alone))
