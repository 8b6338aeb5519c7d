"""What must be true of a host before anything on it is touched."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra import logger
from pyinfra.api.arguments import pop_global_arguments

from tasks.core import remote
from tasks.core.releases import RELEASES, Release
from tasks.core.remote import Batches, Output, Probe, Unreadable, shell
from tasks.core.settings import Problem

if TYPE_CHECKING:
    from tasks.core.estate import Node


@dataclass(frozen=True)
class Listener:
    """A port that a service of ours wants, and the key that chose it.

    Attributes:
        unit: the systemd unit, or the program that listens for it.
        binds: it needs the host to have its address.
    """

    port: int
    key: str
    service: str
    unit: str
    binds: bool = True


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


# Runs as the connecting user, before it is known whether sudo is needed.
_WHO = """
. /etc/os-release; echo "$ID $VERSION_ID"
[ -d /run/systemd/system ] && echo systemd || echo none
m=$(awk '/^MemTotal/ {print $2}' /proc/meminfo); cd /sys/fs/cgroup 2>/dev/null
l=$(cat memory.max memory/memory.limit_in_bytes 2>/dev/null | head -n 1)
case $l in ''|max) l=$((m * 1024)) ;; esac
[ ${#l} -gt 18 ] || [ $((l / 1024)) -gt "$m" ] || m=$((l / 1024)); echo "$m"
id -u
said=$(LC_ALL=C sudo -n true 2>&1) && echo sudo ||
  case $said in *tty*) echo tty ;; *) echo no ;; esac
"""


def examine(nodes: Sequence[Node]) -> list[Problem]:
    """Finds out what the hosts are and how to become root on them."""
    jobs = [gevent.spawn(_examine, node) for node in nodes]
    gevent.joinall(jobs)
    return [problem for job in jobs for problem in job.get()]


def _examine(node: Node) -> list[Problem]:
    remote.quick(node.host)
    output = remote.run(node.host, _WHO, _sudo=False, _su_user=None)
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


# Each listening socket on a wanted port, with its process, the control group and the parent.
_LISTENERS = """
# What a program calls itself may be any text.
plain() {{ tr '\\000-\\037|' ' ' <"$1" 2>/dev/null; }}
inodes=$(awk -v want="{ports}" '
  BEGIN {{ n = split(want, w, " "); for (i = 1; i <= n; i++) p[w[i]] = 1 }}
  $4 == "0A" {{ port = substr($2, length($2) - 3); if (port in p) print $10 "=" port }}
' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u)
[ -n "$inodes" ] || exit 0
set --
for i in $inodes; do set -- "$@" -o -lname "socket:\\\\[${{i%=*}}\\\\]"; done
shift
find /proc/[0-9]*/fd -maxdepth 1 \\( "$@" \\) -printf '%p %l\\n' 2>/dev/null |
while read -r path socket; do
  pid=${{path#/proc/}}; pid=${{pid%%/*}}
  inode=${{socket#socket:\\[}}; inode=${{inode%]}}
  for i in $inodes; do [ "${{i%=*}}" = "$inode" ] && port=${{i#*=}}; done
  parent=$(awk '/^PPid/ {{print $2}}' "/proc/$pid/status" 2>/dev/null)
  echo "$port|$pid|$(plain "/proc/$pid/comm")|$(plain "/proc/$pid/cgroup")|$(
    plain "/proc/$parent/cmdline")"
done | sort -t'|' -k1,1 -k2,2n
"""


@dataclass(frozen=True)
class Holder:
    """A process that listens on a port."""

    port: int
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
        return (
            listener.unit in (command, *re.split(r"[ /]", self.cgroup))
            or self.parent.strip() == f"runsv {listener.service}"
        )


# Addresses of the host without a tool of it; `any` where a socket may be bound to one to come.
_ADDRESSES = """
grep -qsx 1 /proc/sys/net/ipv4/ip_nonlocal_bind && echo any
awk '/host LOCAL/ { print a } { a = $2 }' /proc/net/fib_trie 2>/dev/null | sort -u
cut -d ' ' -f 1 /proc/net/if_inet6 2>/dev/null || :
"""


def addresses_probe() -> Probe[list[str]]:
    """Reads the addresses of a host; none where its kernel does not say."""
    return Probe(_ADDRESSES, list)


def homeless(node: Node, listeners: Sequence[Listener], found: Sequence[str]) -> list[Problem]:
    """An address that the host does not have: nobody would be reached there."""
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
    script = _LISTENERS.format(ports=" ".join(f"{port:04X}" for port in ports))

    def parse(lines: list[str]) -> list[Holder]:
        return [
            Holder(int(port, 16), *(word.rstrip(" ") for word in rest))
            for port, *rest in (line.split("|", 4) for line in lines)
        ]

    return Probe(script, parse)


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
    """Ports that we want and that something of somebody else's holds, and an address we lack.

    A service forks children that inherit its socket: one process of ours on a port is enough.
    """
    if not listeners:
        return []
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
        here = [holder for holder in holders if holder.port == listener.port]
        if here and not any(holder.is_of(listener) for holder in here):
            message = (
                f"port {listener.port} is held by {here[0]}, "
                f"which is not {listener.service}: stop it or choose another port"
            )
            problems.append(Problem(node.name, listener.key, message))
    return problems
