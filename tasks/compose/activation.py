"""Creates, recreates, starts and reloads what is due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import cast

from tasks.compose import engine
from tasks.compose.engine import Container, Engine, up
from tasks.compose.inside import place_of
from tasks.compose.reloads import Reloadable, reloadables
from tasks.compose.rolling import led, rolling_steps, services_to_roll
from tasks.compose.services import (
    image_of,
    inside_of,
    moved_network,
    rebuilt_images,
    roles_of,
    stale_images,
)
from tasks.compose.settings import REDIS, DockerSettings
from tasks.compose.wait import settle
from tasks.core import services
from tasks.core.change import Change, Line
from tasks.core.estate import DOCKER, Node
from tasks.core.scripts import quoted, shell
from tasks.redis import settings as redis_settings
from tasks.redis.settings import RedisSettings


def due_containers(node: Node, names: Set[str]) -> Change | None:
    found = cast(Engine, node.read(DOCKER)["engine"])
    due = {service: means for service, means in _due(node, found) if service in names}
    every = {each.name: each for each in reloadables(node)}
    mine = (each for each in every.values() if each.name in names)
    taking = [(each, act) for each in mine if (act := _impact(each, due))]
    moved = moved_network(node, found) if "postgres" in names else ""
    if not due and not taking:
        return _unhealthy(node, found, names)
    lines = {service: services.line(service, means) for service, means in due.items()}
    lines |= {each.name: services.said(each.wanted, act) for each, act in taking}
    said = [Line(moved, "restart")] if moved else []
    said += [Line(line, "none") for each, _ in taking for line in each.lines]
    to_roll = services_to_roll(node, found, due, taking)
    said += led(node, found, lines, to_roll)
    script, variables = _script(node, found, every, due, taking, to_roll)
    return Change([*said], script, variables, then=lambda: settle(node, names))


def _unhealthy(node: Node, found: Engine, services: Set[str]) -> Change | None:
    sick = [c.service for c in found.containers if c.health == "unhealthy"]
    lines = [f"{service}: is unhealthy: wait" for service in sick if service in services]
    return Change(lines, ":", then=lambda: settle(node, services)) if lines else None


def _due(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """The services whose container is not the right one, and what happens to it."""
    stale = {**stale_images(node), **rebuilt_images(node)}
    for service in roles_of(node):
        there = found.of(service)
        if not there:
            if service != "redis-replica":
                yield service, "create"
        elif why := _why(node, found, service, there, stale):
            yield service, f"recreate ({why}): it restarts, and its data stay"
        elif any(container.status != "running" for container in there):
            yield service, "start"


def _why(
    node: Node, found: Engine, service: str, there: list[Container], stale: Mapping[str, str]
) -> str:
    image = image_of(node, found, service)[0]
    if service in stale or (image and any(c.image != image for c in there)):
        return "image"
    if moved_network(node, found):
        return "network"
    if any(c.hash != found.hashes.get(service) for c in there):
        return "docker-compose.yml" + f", {engine.OVERRIDE}" * found.is_overridden
    return ""


def _impact(each: Reloadable, due: Mapping[str, str]) -> str:
    """What a container that stays as it is has to do; empty for nothing."""
    if each.name in due:
        return ""
    return services.impact(each.wanted, each.now) or ""


def _script(
    node: Node,
    found: Engine,
    every: Mapping[str, Reloadable],
    due: Mapping[str, str],
    live: list[tuple[Reloadable, str]],
    to_roll: Sequence[str],
) -> tuple[str, dict[str, str]]:
    first = inside_of(node).having(RedisSettings)[0]
    variables = redis_settings.logins(first)
    values = {"project": node.the(DockerSettings).project_dir, "redis_group": REDIS}
    steps, moved = [engine.COMPOSE + shell("activate", "compose", **values)], found.network[0]
    if is_moved := bool(moved_network(node, found)):
        steps.append(f"leave {quoted(moved or node.the(DockerSettings).network)}")
    together = [service for service in due if service not in to_roll]
    acts = [(each, impact) for each, impact in live if each.name not in to_roll]
    if not is_moved and due.get("postgres", "").startswith("recreate"):
        together.remove("postgres")
        server, again = every["postgres"], up(found, ["postgres"])
        steps.append(services.step(server.wanted, "recreate", server.container, again))
        variables |= server.container.variables(server.wanted.service)
    # Whenever a new container starts, it starts with the current files.
    steps += [services.record(each.wanted) for each in every.values() if each.name in together]
    if together:
        steps.append(up(found, together))
    for each, impact in acts:
        place = each.place(found)
        steps.append(services.step(each.wanted, impact, place))
        variables |= place.variables(each.wanted.service)
    if to_roll:
        rolled, of_rolling = rolling_steps(node, found, every, due, to_roll)
        steps.append(rolled)
        variables |= of_rolling
    steps.append("keep_password")
    return services.script(steps, place_of(first)), variables
