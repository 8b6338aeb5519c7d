"""Containers of services that left the settings."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.compose.engine import Container
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, address_of, place_of
from tasks.compose.services import inside_of, surplus_of
from tasks.compose.settings import DockerSettings
from tasks.core.change import Change, Line
from tasks.core.estate import Node
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.core.settings import Problem
from tasks.redis import leader as redis_leader
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.topology import Address
from tasks.sentinel import forget as sentinel_forget


def told(node: Node) -> Iterator[str]:
    if not node.the(DockerSettings).prune:
        for each in surplus_of(node):
            yield f"{each.service}: is not in the project any more; docker_prune would remove it"


def pruned(node: Node, surplus: list[Container]) -> Change | None:
    if not surplus or not node.the(DockerSettings).prune:
        return None
    for problem in unremovable(node):
        raise Unreadable(f"{problem.key}: {problem.message}")
    place = place_of(inside_of(node).nodes[0])
    lines, script = list[str](), place.removal() + shell("take", "compose")
    for each in surplus:
        name = f"{node.stack.stack_name}_{each.service.replace('-', '_')}_data"
        kept = each.service.startswith(("redis-master", "redis-replica"))
        volume = name if each.service.startswith("redis-") else ""
        destroys = bool(volume) and (node.stack.destroy or not kept)
        line = Line(f"{each.service}: stop and remove", "restart")
        if kept and destroys:
            line = Line(f"{line}, with its volume {volume}", "destroys data")
        elif kept:
            line = Line(f"{line}; its data stay in the volume {volume}", "restart")
        lines.append(line)
        how = "destroy" if destroys else "keep"
        script += f"take {quoted(each.name.lstrip('/'), volume, how)}\n"
        script += f"rm -f {place.records}/{quoted(each.service)}.active\n"
    return Change(lines, script)


def leaving(node: Node) -> set[Address]:
    """Where Redis and Sentinel are that this run removes."""
    chosen = node.the(DockerSettings)
    if not chosen.prune:
        return set()
    ports = {True: SENTINEL_PORT, False: REDIS_PORT}
    return {
        Address(place, ports["sentinel" in each.service])
        for each in surplus_of(node)
        if (place := address_of(chosen, each.service))
    }


def unremovable(node: Node) -> list[Problem]:
    """What a run is refused for that would remove containers, or make Sentinels forget."""
    gone, inside = leaving(node), inside_of(node)
    problems = []
    if gone and redis_leader.current_master(inside) in gone:
        message = "the master would be removed: fail over first (docs/failover.md)"
        problems.append(Problem(node.name, "docker_prune", message))
    for watcher in inside.having(SentinelSettings):
        problems += sentinel_forget.unforgettable(watcher, gone)
    return [*dict.fromkeys(problems)]
