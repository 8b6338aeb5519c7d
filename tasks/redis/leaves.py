"""What Redis leaves on a host, and why some of it cannot go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.core import leavings
from tasks.core.change import Line
from tasks.core.estate import Estate, Node
from tasks.core.places import STATE_DIRECTORY
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tasks.core.settings import Problem
from tasks.core.traces import Here, Leaves
from tasks.redis.leader import current_master
from tasks.redis.service import KEEP_ROLE
from tasks.redis.settings import RedisSettings
from tasks.redis.topology import Address

# Debian's own instance, which would take the port of ours.
MASKED = "redis-server"
# Sentinel has them too.
OWNERS = (
    (r"/etc/redis/(redis-[0-9]+)\.conf", r"\1"),
    (r"/usr/local/bin/redis-(cli|before-start)", "redis-cli"),
    (r"/etc/redis/redis-((cli|admin)\.auth|estate\.conf|expected|tls)", "redis-cli"),
    (r"/etc/(sysctl|tmpfiles)\.d/.*", "kernel"),
)


def _here(node: Node) -> Here:
    chosen = node.of(RedisSettings)
    ports = chosen.ports if chosen else ()
    mine = {"redis-cli", "kernel", *(f"redis-{port}" for port in ports)} if chosen else set[str]()
    return Here(
        frozenset({MASKED, *mine}),
        data=("/var/lib/redis/[0-9]*",) if chosen else (),
        # Those that are to be there are asked elsewhere.
        reads=shell("left", "redis", records=STATE_DIRECTORY, ports=" ".join(map(str, ports))),
    )


def _roles(node: Node) -> dict[int, str]:
    """Of instances that are not to be there: `master N` with N replicas, or `replica`, by port."""
    words = (line.partition(" ") for line in leavings.found(node).said.get("role", ()))
    return {int(port): role for port, _, role in words}


def _pruned(node: Node, owner: str) -> tuple[Line, str] | None:
    """What happens to an instance, and to its data."""
    if not re.fullmatch(r"redis-[0-9]+", owner):
        return None
    home = _home(owner)
    if node.stack.destroy:
        line = f"{owner}: stop and remove, with its data in {home}"
        return Line(line, "destroys data"), f"remove {home}"
    # Whose replica it is may be another's when it comes back.
    line = f"{owner}: stop and remove; its data stay in {home}"
    return Line(line, "restart"), f"remove {home}/redis.conf"


def _home(owner: str) -> str:
    return f"/var/lib/redis/{owner.removeprefix('redis-')}"


def _without_secrets(owner: str) -> str:
    """Redis writes its password into the file that keeps its role."""
    if not re.fullmatch("redis-[0-9]+", owner):
        return ":"
    file = f"{_home(owner)}/redis.conf"
    return f"[ ! -e {file} ] || at {file} sed -i {KEEP_ROLE} {file}"


def _blocked(node: Node, going: Sequence[str]) -> Iterator[Problem]:
    """The masters among them that others follow."""
    numbers = (owner.removeprefix("redis-") for owner in going)
    ports = [int(number) for number in numbers if number.isdigit()]
    if not ports or not node.estate.having(RedisSettings):
        return
    try:
        leader = current_master(node.estate)
    except Unreadable as unreadable:
        yield Problem(node.name, "state", str(unreadable))
        return
    for port in ports:
        role = _roles(node).get(port, "")
        if Address(node.address, port) == leader or re.fullmatch("master [1-9][0-9]*", role):
            message = f"redis-{port} is the master: fail over first (docs/failover.md)"
            yield Problem(node.name, "redis_prune", message)


def leaving(everything: Estate) -> set[Address]:
    """Where Redis and Sentinel are that this run removes."""
    return {
        Address(node.address, int(owner.rpartition("-")[2]))
        for node in everything.active
        for owner in leavings.going(node)
        if re.fullmatch(r"redis-(sentinel-)?[0-9]+", owner)
    }


def left_behind(everything: Estate) -> Iterator[Problem]:
    """The master goes with its estate, or as a replica."""
    nodes = everything.having(RedisSettings)
    staying = [node.name for node in nodes if node not in everything.active]
    leaving = [node for node in nodes if node in everything.active and _instances(node)]
    if not staying or not leaving:
        return
    try:
        leader = current_master(everything)
    except Unreadable as unreadable:
        yield Problem(leaving[0].name, "state", str(unreadable))
        return
    for node in leaving:
        if leader.ip == node.address and f"redis-{leader.port}" in _instances(node):
            message = (
                f"redis-{leader.port} is the master of what stays on {', '.join(staying)}: "
                "fail over first (docs/failover.md)"
            )
            yield Problem(node.name, "redis", message)


def _instances(node: Node) -> list[str]:
    paths = leavings.found_alone(node).paths
    return [owner for owner in paths if re.fullmatch("redis-[0-9]+", owner)]


LEAVES = Leaves(
    owns=("redis-", "kernel"),
    named=(
        "/etc/redis/redis-cli.auth",
        "/etc/redis/redis-admin.auth",
        "/etc/redis/redis-expected",
        "/etc/redis/redis-tls",
    ),
    marked=(
        "/etc/systemd/system/redis-*.service",
        "/etc/redis/*.conf",
        "/etc/sysctl.d/60-datatier-redis.conf",
        "/etc/tmpfiles.d/datatier-redis.conf",
        "/usr/local/bin/redis-cli",
        "/usr/local/bin/redis-before-start",
    ),
    owners=OWNERS,
    units=("redis-*",),
    expected=rf"/etc/systemd/system/(redis-(sentinel-)?[0-9]+|{MASKED})\.service",
    users={"redis": "redis"},
    here=_here,
    masked=MASKED,
    directories={"redis-cli": "/etc/redis"},
    stopped=_without_secrets,
    pruned=_pruned,
    blocked=_blocked,
    stays=left_behind,
    title="Redis",
    goes="redis-[0-9]+",
)
