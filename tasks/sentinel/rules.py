"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem
from tasks.redis.rules import foreign, not_ipv4
from tasks.redis.sentinels import SentinelSettings, endpoints
from tasks.redis.settings import KEPT_PASSWORD, PASSWORD, RedisSettings
from tasks.sentinel.files import managed_file


def contradictions(everything: Estate) -> list[Problem]:
    nodes = everything.having(SentinelSettings)
    count = len(endpoints(everything))
    problems = []
    for node in nodes:
        if not everything.having(RedisSettings):
            message = "needs a host in group 'redis'"
            problems.append(Problem(node.name, "group sentinel", message))
        quorum = node.the(SentinelSettings).quorum
        if quorum > count:
            message = f"{quorum} is more than the number of Sentinels ({count})"
            problems.append(Problem(node.name, "sentinel_quorum", message))
        elif quorum * 2 <= count:
            message = f"{quorum} is not a majority of {count} Sentinels: should be {count // 2 + 1}"
            problems.append(Problem(node.name, "sentinel_quorum", message))
        if len(nodes) > 1 and node.is_loopback:
            message = "should not be a loopback address: the other Sentinels cannot reach it"
            problems.append(Problem(node.name, "address", message))
        problems += not_ipv4(node)
    for key in ("master_name", "quorum"):
        values = sorted({str(getattr(node.the(SentinelSettings), key)) for node in nodes})
        if len(values) > 1:
            message = f"should be the same on all hosts, not {' and '.join(values)}"
            problems.append(Problem(nodes[0].name, f"sentinel_{key}", message))
    return problems


_CLIENTS = ("sentinel", "redis", "backup", "apps")


def listens(node: Node) -> list[Listener]:
    return [
        Listener(port, "sentinel_ports", name, f"{name}.service", open_to=_CLIENTS)
        for port in node.the(SentinelSettings).ports
        for name in [f"redis-sentinel-{port}"]
    ]


def checks(node: Node) -> list[Problem]:
    return [*foreign(node, listens(node), "sentinel")]


def secrets_in_use(node: Node) -> Mapping[str, str]:
    found = node.read("sentinel")["files"]
    ports = node.the(SentinelSettings).ports
    ours = any(found[managed_file(node, port).path].is_ours for port in ports)
    return {PASSWORD: KEPT_PASSWORD} if ours else {}
