"""Who reaches which port, and what is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem
from tasks.firewall.settings import FirewallSettings, Network


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


def contradictions(everything: Estate) -> list[Problem]:
    """A port of ours at which the controller comes in: the firewall may refuse it there."""
    return [
        Problem(node.name, listener.key, f"port {listener.port} is SSH's here: choose another one")
        for node in everything.having(FirewallSettings)
        for listener in _closed(node)
        if not node.name.startswith("@local") and listener.port == ssh_port(node)
    ]


def ssh_port(node: Node) -> int:
    """Where the controller comes in."""
    return int(node.host.data.get("ssh_port") or 22)


def checks(node: Node) -> list[Problem]:
    """Hosts that could not load the rules."""
    if not node.place.is_init:
        message = "needs systemd, which loads the rules at each boot: leave it out"
        return [Problem(node.name, "firewall_enabled", message)]
    if not node.read("firewall")["tool"]:
        message = "needs nft, and there is no apt-get to install it with: install nftables"
        return [Problem(node.name, "firewall_enabled", message)]
    return []
