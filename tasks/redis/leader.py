"""Who is master: what the instances and the Sentinels say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tasks.core.estate import Estate, Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.redis import acl, tls
from tasks.redis.console import LINK, SHELL
from tasks.redis.sentinels import endpoints, master_name, watched
from tasks.redis.settings import RedisSettings, addresses, every_user, logins
from tasks.redis.topology import Address, Instance, User, Watcher, master


def roles_probe(node: Node) -> Probe[list[Instance]]:
    """Reads what each instance follows, how many follow it, who may log in, and its settings."""
    ports = node.the(RedisSettings).ports

    def parse(lines: list[str]) -> list[Instance]:
        found = list[Instance]()
        for line in lines:
            if line.startswith('"'):
                found[-1] = _with_user(found[-1], User.of(line))
            elif line == "!":
                found[-1] = replace(found[-1], locked=True)
            elif line == "*":
                found[-1] = replace(found[-1], full=True)
            elif line == ">":
                found[-1] = replace(found[-1], replaced=True)
            elif line.startswith("="):
                key, _, value = line[1:].partition(" ")
                found[-1] = replace(found[-1], settings={**found[-1].settings, key: value})
            else:
                found.append(_instance(Address(node.address, ports[len(found)]), line))
        return found

    script = SHELL + shell("roles", "redis", ports=" ".join(map(str, ports)))
    make, remove = acl.tried(every_user(node))
    variables = {**logins(node), "TRIED": make, "UNTRIED": remove}
    return Probe(script, parse, tuple(variables.items()))


def _with_user(instance: Instance, user: User) -> Instance:
    if acl.is_tried(user):
        return replace(instance, tried=(*instance.tried, user))
    return replace(instance, users=(*instance.users, user))


def _instance(address: Address, line: str) -> Instance:
    if line == "absent":
        return Instance(address, "absent")
    role, *words = line.split(" ")
    if role == "replica":
        return Instance(address, "present", Address(words[0], int(words[1])))
    return Instance(address, "present", online=int(words[0]) if words else 0)


def sentinels_probe(everything: Estate, secret: str) -> Probe[list[Watcher]]:
    """Asks every Sentinel of the estate, wherever it runs, who leads and could be replaced."""
    watchers = " ".join(map(str, endpoints(everything)))
    script = LINK + shell("sentinels", "redis", sentinels=watchers, name=master_name(everything))

    def parse(lines: list[str]) -> list[Watcher]:
        rows = [line.split(" ", 2) for line in lines]
        return [Watcher(Address(row[0], int(row[1])), row[2]) for row in rows if len(row) == 3]

    told = tls.variables(everything.having(RedisSettings)[0])
    return Probe(script, parse, (("REDIS_PASSWORD", secret), *told.items()))


def current_master(everything: Estate) -> Address:
    """The master now, from what every reachable host says.

    Raises:
        Unreadable: none knows, or they disagree.
    """
    members = [node for node in everything.having(RedisSettings) if node in everything.active]
    named = [each.master for node in members for each in node.read("redis")["sentinels"]]
    answers = [each for each in named if not leads_others(everything, each)]
    return master(answers, [*_instances(everything)], addresses(everything)[0])


def _instances(everything: Estate) -> Iterator[Instance]:
    for node in everything.having(RedisSettings):
        if node in everything.active:
            yield from node.read("redis")["roles"]
        else:
            for port in node.the(RedisSettings).ports:
                yield Instance(Address(node.address, port), "unseen")


def leader_above(everything: Estate, watched: Address) -> Address | None:
    """Who leads an instance of ours that a Sentinel takes for the master; None where it may be.

    A Sentinel that comes back late, or that a hand has told so, stays there.
    """
    found = [*_instances(everything)]
    leaders = _leaders(found)
    is_known = len(leaders) == 1 and "unseen" not in {each.kind for each in found}
    leader = next(iter(leaders)) if is_known else watched
    ours = {each.address for each in found}
    return leader if leader != watched and {leader, watched} <= ours else None


def leads_others(everything: Estate, leader: Address) -> bool:
    """Whether who is named as our master leads a set of others: none of ours has to do with it.

    A master that left the settings leads ours still, and Sentinels know them as its replicas. So
    does a Sentinel that another server has told so, but it gets no answer there, and one of ours
    leads all others.
    """
    ours = {*addresses(everything)}
    if leader in ours:
        return False
    found = [*_instances(everything)]
    kinds = {each.kind for each in found}
    if "unseen" in kinds or "present" not in kinds or leader in {each.follows for each in found}:
        return False
    known = [each for each in watched(everything) if each.master == leader]
    if not any(each.members & ours for each in known):
        return bool(known)
    leaders = _leaders(found)
    is_led = kinds == {"present"} and len(leaders) == 1 and leaders <= ours
    return is_led and all(each.is_down for each in known)


def _leaders(found: Iterable[Instance]) -> set[Address]:
    return {each.follows or each.address for each in found if each.kind == "present"}
