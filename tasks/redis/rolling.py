"""Restarts of Redis: the replicas one by one, then a master that hands over, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tasks.core import remote, services
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.core.services import Activation, Status, Taking
from tasks.redis import moving
from tasks.redis.activation import (
    LOCKED,
    REPLACED,
    WHY_REPLACED,
    activations,
    is_locked,
    status_of,
    taking,
    told,
)
from tasks.redis.console import SHELL
from tasks.redis.leader import current_master
from tasks.redis.sentinels import SentinelSettings, endpoints, master_name, monitors
from tasks.redis.settings import RedisSettings, addresses, logins, passwords
from tasks.redis.topology import Address
from tasks.redis.values import IMMUTABLE


def require_successor(node: Node) -> None:
    """Refuses to restart a master that cannot hand over.

    Raises:
        Unreadable: the master is unknown, or no instance can replace it.
    """
    due = _due(node)
    if not due:
        return
    leader = current_master(node.estate)
    if leader.ip != node.address or leader.port not in due:
        return
    if alone(node) or locked_out(node):
        return
    require(node.estate, leader, f"redis-{leader.port}", _is_starting(node.estate))


def require_way(node: Node) -> None:
    """Refuses to go over to TLS, or back, where instances cannot.

    Raises:
        Unreadable: hosts are away, or an instance has to restart for another reason.
    """
    if why := moving.obstacle(node, [*_due(node)]):
        raise Unreadable(why)


def require(everything: Estate, leader: Address, name: str, is_starting: bool) -> None:
    """Refuses to restart a master that no instance can replace.

    Args:
        is_starting: whether this run starts replicas before.

    Raises:
        Unreadable: with the reason.
    """
    if why := obstacle(everything, leader, is_starting):
        raise Unreadable(
            f"{name} is the master and has to restart, but no instance can replace it: {why}"
        )


def failover(node: Node) -> Callable[[], Change | None]:
    """The hand-over of the host's master, decided now: the next master is not to hand over too.

    Raises:
        Unreadable: the master is unknown, or no instance can replace it.
    """
    leader = current_master(node.estate)
    if leader not in addresses(node.estate):
        raise Unreadable(f"the master {leader} left the settings: put it back for this run")
    if leader.ip != node.address:
        return lambda: None
    name = f"redis-{leader.port}"
    if why := alone(node) or obstacle(node.estate, leader, is_starting=False):
        raise Unreadable(f"no instance can replace the master {name}: {why}")
    step, means = hand_over(node, leader.port, name, "becomes a replica")
    script = f"{FUNCTIONS}\n{step}\nfollow {leader.port} {name}"
    variables = logins(node)
    change = Change([services.line(name, means)], script, variables, then=lambda: _settled(node))
    return lambda: change


def obstacle(everything: Estate, leader: Address, is_starting: bool) -> str:
    said = [node.read("redis") for node in _members(everything)]
    watchers = [watcher for each in said for watcher in each["sentinels"]]
    quorums = [watcher.quorum for watcher in watchers if watcher.master == leader]
    if not any(quorum.startswith("OK") for quorum in quorums):
        if watchers and not quorums:
            return f"the Sentinels watch {watchers[0].master}: run tasks.sentinel.deploy first"
        silence = "no Sentinel answers with the password of the settings"
        why = quorums[0].rstrip(". ") if quorums else silence
        return f"{why}: bring the Sentinels up first"
    roles = (role for each in said for role in each["roles"])
    is_followed = any(role.online for role in roles if role.address == leader)
    return "" if is_followed or is_starting else "no replica is online: bring one up first"


def _is_starting(everything: Estate) -> bool:
    found = (node.read("redis")["services"] for node in _members(everything))
    return any(not status.running for each in found for status in each.values())


def replicas(node: Node) -> Change | None:
    """The restarts that are due of instances which follow another one."""
    return _restarts(node, lambda address, leader: address != leader)


def master(node: Node) -> Change | None:
    """The master's restart, and those that a failover in the meantime has kept from others."""
    is_executing = node.host.state.is_executing
    return _restarts(node, lambda address, leader: is_executing or address == leader)


def _restarts(node: Node, chosen: Callable[[Address, Address], bool]) -> Change | None:
    due = _due(node)
    if not due:
        return None
    leader = _leader(node)
    addresses = {port: Address(node.address, port) for port in due}
    ports = [port for port in due if chosen(addresses[port], leader)]
    if not ports:
        return None
    lines, steps = list[str](), list[str]()
    for port in sorted(ports, key=lambda port: addresses[port] == leader):
        restart = _last if addresses[port] == leader else _follower
        said, step = restart(node, port, due[port])
        lines += said
        steps.append(step)
    if node.host.state.is_executing:
        node.estate.unsettled.add(node)
    script = "\n".join([FUNCTIONS, services.script(steps, node.place)])
    variables = logins(node)
    return Change(lines, script, variables, then=lambda: _settled(node))


def takings(node: Node) -> Iterator[Taking]:
    """How containers take what they should run with, restarts included."""
    for port, each in activations(node).items():
        now = status_of(node, port, each)
        means = f"restart ({LOCKED})" if is_locked(node, port) else because(each, now)
        wanted = replace(each, restart_means=means)
        yield Taking(*taking(node, port, wanted, now), ())


def _settled(node: Node) -> str:
    node.estate.unsettled.discard(node)
    _forget(node.estate)
    return ""


def _due(node: Node) -> dict[int, Activation]:
    """The instances that run and need a restart, by port."""
    found = {port: (each, status_of(node, port, each)) for port, each in activations(node).items()}
    return {
        port: services.freed(each, now)
        for port, (each, now) in found.items()
        if services.impact(each, now) == "restart" and not is_locked(node, port)
    }


def _leader(node: Node) -> Address:
    """The master now. Before an act all are asked again, and a host that failed stops it."""
    everything = node.estate
    if node.host.state.is_executing:
        _forget(everything)
        everything.require_settled(RedisSettings, "Redis")
    return current_master(everything)


def _members(everything: Estate) -> list[Node]:
    return [node for node in everything.having(RedisSettings) if node in everything.active]


def _forget(everything: Estate) -> None:
    for node in _members(everything):
        remote.forget(node.host, "redis")


def _follower(node: Node, port: int, wanted: Activation) -> tuple[list[str], str]:
    name = wanted.service.name
    step = services.step(wanted, "restart", node.place)
    step = f"require_replica {port} {name}\n{step}\nfollow {port} {name}"
    line = services.line(name, because(wanted, status_of(node, port, wanted)))
    return [*told(node, port, wanted), line], step


def _last(node: Node, port: int, wanted: Activation) -> tuple[list[str], str]:
    name = wanted.service.name
    if reason := alone(node) or locked_out(node):
        means = because(wanted, status_of(node, port, wanted), f"{reason}: unavailable meanwhile")
        said = [*told(node, port, wanted), services.line(name, means)]
        return said, services.step(wanted, "restart", node.place)
    said, step = _follower(node, port, wanted)
    first, means = hand_over(node, port, name, "restart follows")
    return [services.line(name, means), *said], f"{first}\n{step}"


def hand_over(node: Node, port: int, name: str, then: str) -> tuple[str, str]:
    """Shell that makes another instance the master, and what it amounts to."""
    known = master_name(node.estate)
    words = node.address, str(port), name, known, *map(str, endpoints(node.estate))
    return f"hand_over {quoted(*words)}", f"failover (master of {known}; {then})"


def because(wanted: Activation, now: Status, *more: str) -> str:
    """A restart and why it is due, for the plan."""
    why = [*more]
    if changed := services.changed(wanted, now):
        takes = f"CONFIG SET does not take {'it' if len(changed) == 1 else 'them'}"
        names = ", ".join(WHY_REPLACED if key == REPLACED else key for key in changed)
        why.insert(0, f"{names}: {takes}" if IMMUTABLE.issuperset(changed) else names)
    if unasked := services.unasked(wanted, now):
        why.insert(0, unasked)
    return f"restart ({'; '.join(why)})" if why else "restart"


def alone(node: Node) -> str:
    """Why no instance can replace the master, where the settings are the reason."""
    if len(addresses(node.estate)) == 1:
        return "no replica"
    return "" if _is_watched(node.estate) else "no Sentinel"


def locked_out(node: Node) -> str:
    """Why the master cannot hand over: Sentinels do not have its password, or another than we."""
    lives = [live for live in monitors(node.estate) if live]
    # With two passwords they know one that is valid.
    asked = ("auth",) if passwords(node)[1:] else ("auth", "peers")
    is_known = all(any(live.get(key, "1") == "1" for live in lives) for key in asked)
    return "Sentinels get its password later" if lives and not is_known else ""


def _is_watched(everything: Estate) -> bool:
    """Whether Sentinels watch, or did: those that were never started replace no master."""
    watchers = everything.having(SentinelSettings)
    is_cut_off = any(node not in everything.active for node in watchers)
    return is_cut_off or any(monitor != {} for monitor in monitors(everything))


# --- Shell ---------------------------------------------------------------------------------------

# Commands with the password go on standard input; by now every instance has that of the settings.
FUNCTIONS = SHELL + shell("rolling", "redis")
