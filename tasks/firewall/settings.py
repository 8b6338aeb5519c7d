"""The keys `firewall_*`: whether strangers are kept from the ports, and who is none."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from tasks.core.settings import Settings, wrong

Network = IPv4Network | IPv6Network


def _network(value: str) -> str:
    try:
        network = ip_network(value, strict=False)
        address = ip_address(value.partition("/")[0])
    except ValueError:
        sentence = "should be an IP address or a network, such as '10.0.0.7' or '10.0.0.0/8'"
        raise wrong(sentence) from None
    if "%" in value:
        raise wrong("should be without the name of an interface")
    if network.version == 6 and (mapped := getattr(address, "ipv4_mapped", None)):
        raise wrong(f"should be as IPv4 has it, such as '{mapped}'")
    if network.prefixlen < network.max_prefixlen and address != network.network_address:
        raise wrong(f"should begin where the network does: '{network}'")
    return str(network)


class FirewallSettings(Settings):
    """What a host's firewall lets in besides the hosts of the estate."""

    prefix: ClassVar[str] = "firewall_"

    enabled: bool = False
    """Each port of the stack is open to the hosts of the inventory that need it and to
    `firewall_allow`; other ports stay as they are. Change: the rules are loaded, or removed; open
    connections stay."""
    allow: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Addresses and networks, IPv4 or IPv6, that reach all ports of the stack. Change: the rules
    are loaded; open connections stay."""

    @property
    def allowed(self) -> list[Network]:
        """The same as networks."""
        return [ip_network(each) for each in self.allow]
