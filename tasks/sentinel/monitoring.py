"""What a Sentinel watches and how: set at run time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.redis import acl
from tasks.redis.acl import quote
from tasks.redis.console import SHELL
from tasks.redis.files import known_first
from tasks.redis.leader import current_master, leader_above, leads_others
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.redis.topology import Address
from tasks.sentinel.activation import takings
from tasks.sentinel.forget import is_locked
from tasks.sentinel.orders import ORDER, login_password, master_password, name_of, secrets_of


def monitors_probe(node: Node) -> Probe[dict[int, dict[str, str] | None]]:
    """Reads what each Sentinel watches, and with which settings."""
    chosen = node.the(SentinelSettings)
    ports = " ".join(map(str, chosen.ports))
    script = SHELL + shell("monitors", "sentinel", ports=ports, name=chosen.master_name)
    return Probe(script, _parse_monitors, tuple(secrets_of(node).items()))


def _parse_monitors(lines: list[str]) -> dict[int, dict[str, str] | None]:
    """The live settings by port; None for a Sentinel that does not answer, {} without a master."""
    monitors: dict[int, dict[str, str] | None] = {}
    for line in lines:
        port, kind, *words = line.split(" ")
        pairs = dict(word.split("=", 1) for word in words if "=" in word)
        monitors[int(port)] = None if kind == "down" else pairs
    return monitors


def missing_monitoring(node: Node) -> Change | None:
    """What the live Sentinels lack: the master itself, or settings of it."""
    chosen = node.the(SentinelSettings)
    monitors = node.read("sentinel")["monitors"]
    lines: list[str] = []
    commands: dict[str, list[str]] = {}
    for port in chosen.ports:
        live = monitors.get(port, {})
        if live is None or is_locked(node, port):
            continue
        if orders := [*_orders(node, port, live)]:
            for _, command in orders:
                part = "FORGET" if command.startswith("SENTINEL REMOVE") else "ORDERS"
                commands.setdefault(f"{part}_{port}", []).append(command)
            name = name_of(node, port)
            lines += [f"{name}: {line}" for line, _ in orders]
    if not lines:
        return None
    # All of them forget first: one that does not yet would lead the others there again.
    script = "\n".join(f'order {name.rpartition("_")[2]} "${name}"' for name in sorted(commands))
    texts = {name: "\n".join(each) for name, each in commands.items()}
    change = Change(lines, f"{SHELL}{ORDER}{script}", {**secrets_of(node), **texts})
    if any(line.endswith(LOGIN) for line in lines):
        return known_first(change, node.estate, login_password(node), acl.SENTINEL)
    return change


def _orders(node: Node, port: int, live: Mapping[str, str]) -> list[tuple[str, str]]:
    """Sentences and the Sentinel commands that they announce."""
    chosen = node.the(SentinelSettings)
    name = chosen.master_name
    wanted = {
        "quorum": chosen.quorum,
        "down-after-milliseconds": chosen.down_after_milliseconds,
        "failover-timeout": chosen.failover_timeout,
        "parallel-syncs": chosen.parallel_syncs,
    }
    orders, was = [], live
    if why := _unfit(node, live):
        # At run time Sentinel takes no other; what it knows of a master goes with it.
        orders.append((f"forget {name}, which {why}", f"SENTINEL REMOVE {name}"))
        gone = {"name", "auth", "login", *wanted}
        live = {key: value for key, value in live.items() if key not in gone}
    is_known = "name" in live
    if not is_known:
        leader = _leader_above(node, was) or current_master(node.estate)
        command = f"SENTINEL MONITOR {name} {leader.ip} {leader.port} {chosen.quorum}"
        orders.append((f"monitor {name} at {leader}, quorum {chosen.quorum}", command))
    for key, value in wanted.items():
        if live.get(key) != str(value) and not (key == "quorum" and not is_known):
            orders.append((f"{key} {value}", f"SENTINEL SET {name} {key} {value}"))
    if live.get("login") != "1":
        orders += _login(node, live)
    return [*orders, *_own(node, port, live)]


_SCRIPTS = "notification-script", "client-reconfig-script"


def _unfit(node: Node, live: Mapping[str, str]) -> str:
    """Why what it watches cannot be set right; '' where it can."""
    if scripts := [key for key in _SCRIPTS if live.get(key)]:
        return f"has a {' and a '.join(scripts)}"
    if "ip" not in live:
        return ""
    watched = Address(live["ip"], int(live["port"]))
    if leader := _leader_above(node, live):
        return f"is {watched} there, a replica of {leader}"
    is_others = leads_others(node.estate, watched)
    return f"is {watched} there, and leads no instance of ours" if is_others else ""


def _leader_above(node: Node, live: Mapping[str, str]) -> Address | None:
    if "ip" not in live:
        return None
    return leader_above(node.estate, Address(live["ip"], int(live["port"])))


# In milliseconds, as Redis has them (sentinel.c): no key of its file says them.
_PERIODS = {
    "ask-period": "1000",
    "election-timeout": "10000",
    "info-period": "10000",
    "min-link-reconnect-period": "15000",
    "ping-period": "1000",
    "publish-period": "2000",
    "slave-reconf-timeout": "10000",
    "tilt-period": "30000",
    "tilt-trigger": "2000",
}


LOGIN = f"comes to the instances as {acl.SENTINEL}"


def _login(node: Node, live: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """As whom it comes to the instances: as its own user, which all of them have to know."""
    name, instances = node.the(SentinelSettings).master_name, node.estate.having(RedisSettings)
    if "name" not in live or {*instances} <= {*node.estate.active}:
        user, secret, line = acl.SENTINEL, login_password(node), LOGIN
    elif live.get("auth") != "1":
        user, secret, line = "", master_password(node), "password of the master"
    else:
        return
    yield line, f"SENTINEL SET {name} auth-user {quote(user)} auth-pass {quote(secret)}"


def _restarts(node: Node, port: int) -> bool:
    """Whether it restarts in this run: it then has the password of the other Sentinels."""
    due = (each for each in takings(node) if each.wanted.service.name == name_of(node, port))
    return any(services.impact(each.wanted, each.now) for each in due)


def _own(node: Node, port: int, live: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What hands can change of a Sentinel, and no key of ours says."""
    name = node.the(SentinelSettings).master_name
    wanted = {"resolve-hostnames": "no", "announce-hostnames": "no", "sentinel-user": ""}
    wanted["loglevel"] = "notice"
    # In a container its own.
    wanted["announce-port"] = "0" if node.place.shares_files else str(port)
    if not node.place.shares_files:
        wanted["announce-ip"] = node.address
    for key, value in wanted.items():
        if live.get(f"own.{key}", value) != value:
            yield f"{key} {value or '(none)'}", f"SENTINEL CONFIG SET {key} {quote(value)}"
    if live.get("peers", "1") != "1" and not _restarts(node, port):
        secret = quote(master_password(node))
        line = "password of the other Sentinels"
        yield line, f"SENTINEL CONFIG SET sentinel-pass {secret}"
    if live.get("reboot", "0") != "0":
        line = "master-reboot-down-after-period 0"
        yield line, f"SENTINEL SET {name} {line}"
    for key, value in _PERIODS.items():
        if live.get(f"debug.{key}", value) != value:
            yield f"{key} {value}", f"SENTINEL DEBUG {key} {value}"
    for command in sorted(key.partition(".")[2] for key in live if key.startswith("renamed.")):
        line = f"the master's command {command} has its own name"
        yield line, f"SENTINEL SET {name} rename-command {command} {command}"
