"""Who reaches which port, and what is refused before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from tasks.core.estate import Node
from tasks.core.leavings import HOST
from tasks.core.preflight import Holder, Listener, address_of
from tasks.core.settings import Problem
from tasks.firewall.settings import FirewallSettings, Network

_REFUSED = r"(?m)^\t\ttcp dport (\d+) reject with tcp reset$"


@dataclass(frozen=True)
class Opening:
    """A port, and the addresses from which it is reached, by the version of IP."""

    port: int
    v4: tuple[str, ...]
    v6: tuple[str, ...]


def openings(node: Node) -> list[Opening]:
    """The ports of a host that strangers do not reach, and who reaches them."""
    allowed = node.the(FirewallSettings).allowed
    return [
        Opening(listener.port, _of(4, networks), _of(6, networks))
        for listener in sorted(_closed(node), key=lambda each: each.port)
        for networks in [{*allowed, *_clients(node, listener)}]
    ]


def former(node: Node, text: str) -> list[Opening]:
    """The ports that the file of a host names and its settings do not, open to fewer than before.

    Args:
        text: the file.
    """
    now = {each.port for each in openings(node)}
    gone = dict.fromkeys(p for p in map(int, re.findall(_REFUSED, text)) if p not in now)
    hosts = {other.address for other in node.estate.nodes if other is not node}
    found = []
    for port in gone:
        said = re.findall(rf"(?m)^\t\ttcp dport {port} ip6? saddr {{ (.*) }} accept$", text)
        before = {address for each in said for address in each.split(", ")}
        networks = {*node.the(FirewallSettings).allowed, *map(ip_network, before & hosts)}
        found.append(Opening(port, _of(4, networks), _of(6, networks)))
    return found


def _closed(node: Node) -> Iterator[Listener]:
    for component in node.components():
        for listener in component.listens(node):
            if listener.open_to is not None:
                yield listener


def _clients(node: Node, listener: Listener) -> Iterator[Network]:
    """The hosts of the estate that need it; what is on this one comes in by the loopback."""
    for group in listener.open_to or ():
        for other in node.estate.in_group(group):
            if other is not node and not other.is_loopback:
                yield ip_network(other.address)


def clients_of(node: Node, inside: Collection[Node]) -> tuple[str, ...]:
    """Who reaches containers, whose packets are sent on and do not come in: they each other."""
    networks = {each.place.network for each in inside if each.place.network}
    return _of(4, {*node.the(FirewallSettings).allowed, *networks})


def _of(version: int, networks: Collection[Network]) -> tuple[str, ...]:
    """Those of one version; of two that overlap the larger one: a set of nft takes no others."""
    mine = [network for network in networks if network.version == version]
    whole = [each for each in mine if not any(_is_in(each, other) for other in mine)]
    return tuple(map(_word, sorted(whole, key=lambda each: each.network_address.packed)))


def _is_in(network: Network, other: Network) -> bool:
    return other.prefixlen < network.prefixlen and network.network_address in other


def _word(network: Network) -> str:
    is_one = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if is_one else str(network)


def cuts(node: Node, holders: Sequence[Holder]) -> list[Problem]:
    """What others have at a port of ours, SSH perhaps, and ways that do not begin at `address`."""
    closed = _shared_ports(node, holders) if node.of(FirewallSettings) else ()
    return [*closed, *_other_ways(node)]


def _shared_ports(node: Node, holders: Sequence[Holder]) -> Iterator[Problem]:
    """A port is closed at all addresses of its host."""
    for listener in _closed(node):
        for holder in holders:
            where = address_of(holder)
            is_harmed = holder.port == listener.port and not where.is_loopback
            if is_harmed and not holder.is_of(listener):
                message = (
                    f"port {holder.port} at {where} is held by {holder}, and the firewall would "
                    "close it there too: stop that, or choose another port"
                )
                yield Problem(node.name, listener.key, message)


def _other_ways(node: Node) -> Iterator[Problem]:
    """Hosts that would not let this one in: it comes to them from another address."""
    for other in asked_by(node):
        source = node.read(HOST)["ways"].get(other.address)
        if source is None or str(source) == node.address:
            continue
        if not any(source in each for each in other.the(FirewallSettings).allowed):
            message = (
                f"{node.name} connects to {other.name} from {source}, "
                f"which is not its address: add {source} to firewall_allow"
            )
            yield Problem(node.name, "address", message)


def asked_by(node: Node) -> Iterator[Node]:
    """Other hosts with a firewall that lets this one in."""
    for other in node.estate.having(FirewallSettings):
        groups = {group for each in _closed(other) for group in each.open_to or ()}
        is_client = any(node in node.estate.in_group(group) for group in groups)
        if other is not node and is_client and not other.is_loopback:
            yield other


def checks(node: Node) -> list[Problem]:
    """Hosts that could not load the rules."""
    if not node.place.is_init:
        message = "needs systemd, which loads the rules at each boot: leave it out"
        return [Problem(node.name, "firewall_enabled", message)]
    if not node.read("firewall")["tool"]:
        message = "needs nft, and there is no apt-get to install it with: install nftables"
        return [Problem(node.name, "firewall_enabled", message)]
    return []
