"""What must be true of a host before anything on it is touched."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra import logger
from pyinfra.api.arguments import pop_global_arguments

from tasks.core import remote
from tasks.core.component import components
from tasks.core.releases import RELEASES, Release
from tasks.core.remote import Batches, Output, Probe, Unreadable
from tasks.core.scripts import shell
from tasks.core.settings import Problem

if TYPE_CHECKING:
    from tasks.core.estate import Node


@dataclass(frozen=True)
class Listener:
    """A port that a service of ours wants, and the key that chose it.

    Attributes:
        unit: the systemd unit, or the program that listens for it.
        binds: it needs the host to have its address.
        after: a pattern of the names of services that are removed before it starts.
        open_to: groups whose hosts connect to it; None where it stays open.
    """

    port: int
    key: str
    service: str
    unit: str
    binds: bool = True
    after: str = ""
    open_to: tuple[str, ...] | None = None


@dataclass(frozen=True)
class System:
    """What a host is; memory in MiB, the smaller of the machine's and the container's."""

    release: Release = RELEASES["debian", "12"]
    systemd: bool = False
    memory: int = 1024


def hears(listen: str | None, *places: str) -> bool:
    """Whether a server is reached at one of these places.

    Args:
        listen: its addresses, as PostgreSQL and PgBouncer write them; None for the default, which
            has what is needed.
    """
    said = {each.strip() for each in (listen or "").split(",")}
    return listen is None or not said.isdisjoint({"*", "0.0.0.0", *places})


def clashes(host: str, listeners: Sequence[Listener]) -> list[Problem]:
    """Two of our own services on one port."""
    first: dict[int, Listener] = {}
    problems = []
    for listener in listeners:
        other = first.setdefault(listener.port, listener)
        if other is not listener:
            message = f"port {listener.port} is also that of {other.service} ({other.key})"
            problems.append(Problem(host, listener.key, message))
    return problems


def examine(nodes: Sequence[Node]) -> list[Problem]:
    """Finds out what the hosts are and how to become root on them."""
    jobs = [gevent.spawn(_examine, node) for node in nodes]
    gevent.joinall(jobs)
    return [problem for job in jobs for problem in job.get()]


def _examine(node: Node) -> list[Problem]:
    remote.quick(node.host)
    output = remote.run(node.host, shell("who"), _sudo=False, _su_user=None)
    if not output.ok or len(output.stdout) < 5:
        return [
            Problem(
                node.name, "connection", f"a shell command could not be run: {output.last_word}"
            )
        ]
    system, init, memory, uid, sudo = output.stdout
    name, _, version = system.partition(" ")
    release = RELEASES.get((name, version))
    if node.inside is not None:
        # What runs the containers may be any Linux; what is in them is ours to choose.
        release = release or RELEASES["debian", "12"]
        for container in node.inside.nodes:
            container.system = replace(container.system, memory=int(memory) // 1024)
    elif release is None:
        return [_unsupported(node.name, system)]
    elif not release.tested:
        logger.warning(f"{node.host.print_prefix}{release.name}: supported, but not tested here")
    node.system = System(release, init == "systemd", int(memory) // 1024)
    return _become_root(node, uid, sudo)


def _unsupported(host: str, system: str) -> Problem:
    names = ", ".join(release.name for release in RELEASES.values())
    return Problem(
        host,
        "operating system",
        f"{system} is not among {names}: inventory/docker.py runs the stack in containers",
    )


def _become_root(node: Node, uid: str, sudo: str) -> list[Problem]:
    host = node.host
    if uid == "0":
        host.data._sudo = False
        return []
    host.data._sudo = True
    if sudo == "sudo":
        return []
    if sudo == "tty":
        message = "wants a terminal (requiretty): add Defaults:USER !requiretty in /etc/sudoers.d"
        return [Problem(node.name, "sudo", message)]
    arguments, _ = pop_global_arguments(host.state, host, {})
    password = arguments.get("_sudo_password")
    if not password:
        return [] if sys.stdin.isatty() else [_sudo_problem(node.name, "a password is needed")]
    try:
        remote.hide_sudo_password(host, password)
        output = remote.run(host, "true")
    except Unreadable as unreadable:
        return [Problem(node.name, "sudo", str(unreadable))]
    return [] if output.ok else [_sudo_problem(node.name, _reason(output))]


def _reason(output: Output) -> str:
    if "incorrect password" in " ".join(output.stderr) or "no password" in output.last_word:
        return "the password is wrong"
    return output.last_word


def _sudo_problem(host: str, reason: str) -> Problem:
    return Problem(
        host, "sudo", f"{reason}: --same-sudo-password asks for it, or set _sudo_password"
    )


@dataclass(frozen=True)
class Holder:
    """A process that listens on a port, at an address as the kernel writes it."""

    port: int
    address: str
    pid: str
    command: str
    cgroup: str
    parent: str

    def __str__(self) -> str:
        """What it is, for who has to stop it."""
        units = re.findall(r"[^/ ]+\.service", self.cgroup)
        return f"{self.command} ({', '.join([f'pid {self.pid}', *units[-1:]])})"

    def is_of(self, listener: Listener) -> bool:
        """Whether the supervisor runs this process as the service that wants the port."""
        # Without a proxy for each port the engine itself listens; whose container it is, it says.
        command = "docker-proxy" if self.command == "dockerd" else self.command
        units = re.split(r"[ /]", self.cgroup)
        supervised = self.parent.strip().removeprefix("runsv ")
        return (
            listener.unit in (command, *units)
            or self.parent.strip() == f"runsv {listener.service}"
            or any(re.fullmatch(listener.after, name) for name in (*units, supervised) if name)
        )


def addresses_probe() -> Probe[list[str]]:
    """Reads the addresses of a host; none where its kernel does not say."""
    return Probe(shell("addresses"), list)


def homeless(node: Node, listeners: Sequence[Listener], found: Sequence[str]) -> list[Problem]:
    """An address that the host does not have: no service would be reached there."""
    address = ipaddress.ip_address(node.address)
    known = address.packed.hex() if address.version == 6 else str(address)
    is_needed = node.inside is None and any(listener.binds for listener in listeners)
    if not found or not is_needed or node.is_loopback or {"any", known} & {*found}:
        return []
    own = [a for a in found if "." in a and not a.startswith("127.")]
    message = (
        f"{node.address} is no address of this host ({', '.join(own) or 'it has none'}); for one "
        "that comes later: sysctl net.ipv4.ip_nonlocal_bind=1 there"
    )
    return [Problem(node.name, "address", message)]


def listeners_probe(ports: Sequence[int]) -> Probe[list[Holder]]:
    """Reads who listens on `ports`."""
    script = shell("listeners", ports=" ".join(f"{port:04X}" for port in ports))

    def parse(lines: list[str]) -> list[Holder]:
        return [
            Holder(int(port, 16), *(word.rstrip(" ") for word in rest))
            for port, *rest in (line.split("|", 5) for line in lines)
        ]

    return Probe(script, parse)


def stranger(listener: Listener, holders: Sequence[Holder], address: str) -> Holder | None:
    """Who has its port in its place: all of it, or this address of the host.

    A service forks children that inherit its socket: one process of ours on a socket is enough.
    """
    here = [holder for holder in holders if holder.port == listener.port]
    places = [here, *([h for h in here if h.address == name] for name in kernel_names(address))]
    for place in places:
        if place and not any(holder.is_of(listener) for holder in place):
            return place[0]
    return None


def kernel_names(address: str) -> list[str]:
    """How /proc/net/tcp and tcp6 write the address of who listens there, and of who does at all."""
    packed = ipaddress.ip_address(address).packed
    words = [packed[n : n + 4][::-1].hex().upper() for n in range(0, len(packed), 4)]
    mapped = [f"0000000000000000FFFF0000{words[0]}"] if len(packed) == 4 else []
    return ["".join(words), *mapped, "0" * 8, "0" * 32]


def address_of(holder: Holder) -> IPv4Address | IPv6Address:
    """Where it listens, of what `kernel_names` writes."""
    words = [holder.address[n : n + 8] for n in range(0, len(holder.address), 8)]
    packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address


# Shell: `at_boot NAMES` prints units, which are stopped perhaps, and their ports.
AT_BOOT = shell("boot")


def at_boot(node: Node, listeners: Sequence[Listener], lines: Sequence[str]) -> Iterator[Problem]:
    """Units of others that would take a port of ours at the next boot: see shell/boot.sh."""
    keys = {listener.port: listener.key for listener in listeners}
    for line in lines:
        kind, unit, *rest = line.split(" ")
        if kind == "unit" and (key := keys.get(int(rest[0]))):
            then = f"would take port {rest[0]} at the next boot: systemctl disable --now {unit}"
            yield Problem(node.name, key, f"{unit} is not ours and {then}")


def intruders(node: Node, listeners: Sequence[Listener]) -> list[Problem]:
    """Ports that we want and that a program of others holds, and an address we lack."""
    if not listeners:
        return _cut_off(node, [])
    ports = [listener.port for listener in listeners]
    probes: dict[str, Probe[Any]] = {
        "ports": listeners_probe(ports),
        "addresses": addresses_probe(),
    }

    def batches() -> Batches:
        return {"preflight": probes, **node.batches()}

    found = remote.read(node.host, batches, "preflight")
    holders: list[Holder] = found["ports"]
    problems = homeless(node, listeners, found["addresses"])
    for listener in listeners:
        other = stranger(listener, holders, node.address if listener.binds else "127.0.0.1")
        if other is not None:
            message = (
                f"port {listener.port} is held by {other}, "
                f"which is not {listener.service}: stop it or choose another port"
            )
            problems.append(Problem(node.name, listener.key, message))
            holders = [holder for holder in holders if holder.port != listener.port]
    return [*problems, *_cut_off(node, holders)]


def _cut_off(node: Node, holders: Sequence[Holder]) -> list[Problem]:
    asked = [c for c in components() if c.everywhere or c.settings in node.settings]
    return [each for component in asked for each in component.cuts(node, holders)]
