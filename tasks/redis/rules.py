"""What is refused before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pyinfra import logger

from tasks.core import preflight
from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.core.settings import Problem
from tasks.redis import acl
from tasks.redis.files import has_login
from tasks.redis.sentinels import monitors
from tasks.redis.settings import (
    KEPT_ADMIN,
    KEPT_PASSWORD,
    PASSWORD,
    RedisSettings,
    addresses,
    lasting_password,
    password,
    passwords,
    unfit,
)
from tasks.redis.values import configuration_path, parameters_of


def contradictions(everything: Estate) -> list[Problem]:
    nodes = everything.having(RedisSettings)
    problems = []
    message = "should be the same on all hosts of the group: any of them may become master"
    if len({password(node) for node in nodes}) > 1:
        problems.append(Problem(nodes[0].name, "redis_password", message))
    elif len({lasting_password(node) for node in nodes}) > 1:
        problems.append(Problem(nodes[0].name, "redis_password_previous", message))
    if len({node.the(RedisSettings).default_user for node in nodes}) > 1:
        problems.append(Problem(nodes[0].name, "redis_default_user", message))
    if any(node.the(RedisSettings).users != nodes[0].the(RedisSettings).users for node in nodes):
        problems.append(Problem(nodes[0].name, "redis_users", message))
    instances = addresses(everything)
    for name in map(acl.own_secret_name, acl.OWN) if nodes else ():
        value = everything.secrets.find(name)
        if value and not everything.secrets.wrong(name) and (message := unfit(value)):
            problems.append(Problem(nodes[0].name, name, message))
    for node in nodes:
        chosen = node.the(RedisSettings)
        if chosen.min_replicas_to_write >= len(instances):
            message = f"should be less than the number of instances ({len(instances)})"
            problems.append(Problem(node.name, "redis_min_replicas_to_write", message))
        if len(nodes) > 1 and node.is_loopback:
            message = "should not be a loopback address: the other Redis hosts cannot reach it"
            problems.append(Problem(node.name, "address", message))
        problems += not_ipv4(node)
        problems += _same_password(node)
        wrong_users = acl.wrong_users(chosen.users)
        problems += [Problem(node.name, key, message) for key, message in wrong_users]
        problems += [
            Problem(node.name, f"redis_extra/{key}", message)
            for key in chosen.extra
            if (message := _not_extra(node, key))
        ]
    return problems


def _same_password(node: Node) -> list[Problem]:
    now, *before = passwords(node)
    message = "should be another one than redis_password: it goes at the end of a change"
    return [Problem(node.name, "redis_password_previous", message)] if now in before else []


def not_ipv4(node: Node) -> list[Problem]:
    """What is wrong with the address of a host that Sentinels know by it."""
    if ":" not in node.address:
        return []
    message = "should be an IPv4 address on a host with Redis or Sentinel"
    return [Problem(node.name, "address", message)]


_OWNED = {"replicaof", "include", "masteruser", "masterauth"}


_REFUSED = {
    "user": "has a key of its own: redis_users",
    "aclfile": "should not be set: redis_password would be void beside it",
    "rename-command": "should not be set: Sentinel cannot promote a replica without these commands",
}


def _not_extra(node: Node, key: str) -> str:
    """Why a key cannot be in `redis_extra`; some have an older name too."""
    name = re.sub("slave(?!of)", "replica", key.replace("_", "-")).replace("slaveof", "replicaof")
    if name in _REFUSED:
        return _REFUSED[name]
    if name not in {*parameters_of(node, 0), *_OWNED}:
        return ""
    field = name.replace("-", "_")
    own = field in RedisSettings.model_fields
    return f"has a key of its own: redis_{field}" if own else "is set by Datatier"


_CLIENTS = ("redis", "sentinel", "backup", "apps")


def listens(node: Node) -> list[Listener]:
    return [
        Listener(port, "redis_ports", f"redis-{port}", f"redis-{port}.service", open_to=_CLIENTS)
        for port in node.the(RedisSettings).ports
    ]


def checks(node: Node) -> list[Problem]:
    """Warns of mixed versions; an upgrade goes through them, replicas first."""
    peers = [n for n in node.estate.having(RedisSettings) if n in node.estate.active]
    if node.system.release != peers[0].system.release:
        logger.warning(
            f"{node.host.print_prefix}Redis of {node.system.release.name} here and of "
            f"{peers[0].system.release.name} on {peers[0].name}: an older one cannot follow a newer"
        )
    found = *foreign(node, listens(node), "redis"), *_renamed(node), *unknown_commands(node)
    return [*found, *limited_too_early(node)]


def limited_too_early(node: Node) -> Iterator[Problem]:
    """A limited `default` while replicas or Sentinels still come as this user."""
    lives = monitors(node.estate)
    is_early = any(live and live.get("user") != acl.SENTINEL for live in lives)
    is_early |= not has_login(node)
    if node.the(RedisSettings).default_user != "all" and is_early:
        message = "should be 'all' for one run: what is Datatier's still comes as default"
        yield Problem(node.name, "redis_default_user", message)


def unknown_commands(node: Node) -> Iterator[Problem]:
    """What users may do and this release's Redis does not know; modules have commands of theirs."""
    chosen, release = node.the(RedisSettings), node.system.release.name
    if "loadmodule" not in chosen.extra:
        for key, message in acl.unknown_commands(chosen.users, release):
            yield Problem(node.name, key, message)


# What Redis calls its data, as long as no setting says otherwise.
_NAMES = {
    "dbfilename": "dump.rdb",
    "appendfilename": "appendonly.aof",
    "appenddirname": "appendonlydir",
}


def _renamed(node: Node) -> Iterator[Problem]:
    """Names that Redis would look for at its next start, beside data under the old ones."""
    found = node.read("redis")["files"]
    for port in node.the(RedisSettings).ports:
        content = found[configuration_path(node, port)].content.decode(errors="replace")
        before = dict(line.split(" ", 1) for line in content.splitlines() if " " in line)
        for key, default in _NAMES.items():
            old, new = (of.get(key, default) for of in (before, node.the(RedisSettings).extra))
            if content and old != new:
                message = f"should stay {old}: the data of redis-{port} have that name"
                yield Problem(node.name, f"redis_extra/{key}", message)


def foreign_probe() -> Probe[list[str]]:
    """Reads what there is of a Redis that is not ours."""
    return Probe(preflight.AT_BOOT + shell("foreign", "redis"), list)


def foreign(node: Node, listeners: Sequence[Listener], group: str) -> Iterator[Problem]:
    """What would take a port of ours at the next boot, or is the data of another's Redis."""
    key = f"{group}_ports"
    said = node.read(group)["foreign"]
    yield from preflight.at_boot(node, listeners, said)
    for line in said:
        kind, what, *_ = line.split(" ")
        if kind == "data" and group == "redis":
            home = f"/var/lib/redis/{listeners[0].port}"
            then = f"move it to {home} to go on with it, or away"
            yield Problem(node.name, key, f"{what} has the data of another Redis: {then}")


def secrets_in_use(node: Node) -> Mapping[str, str]:
    found = node.read("redis")["files"]
    there = (found[configuration_path(node, port)] for port in node.the(RedisSettings).ports)
    ours = [file.content.decode(errors="replace") for file in there if file.is_ours]
    users = (u for u in node.the(RedisSettings).users if f"\nuser {u} " in "".join(ours))
    # The file has no password that could be looked up.
    of_users = {acl.secret_name(user): "" for user in users}
    own = (u for u in acl.OWN if f"\nuser {u} " in "".join(ours))
    of_users |= {acl.own_secret_name(u): KEPT_ADMIN if u == acl.ADMIN else "" for u in own}
    return {PASSWORD: KEPT_PASSWORD, **of_users} if ours else {}
