"""What one read of a host tells about its firewall."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tasks.core import files
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.preflight import Holder, listeners_probe
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.firewall.files import BESIDE, EMPTIES_ALL, NAME, RULES, files_of, rules_text
from tasks.firewall.rules import asked_by

Address = IPv4Address | IPv6Address

PACKAGES = Packages(["nftables"])


@dataclass(frozen=True)
class Table:
    """What the kernel has, and what it would have with the rules of the settings.

    Attributes:
        starts: the unit has run, and does so at each boot; Debian's loads the rules too.
    """

    wanted: tuple[str, ...] = ()
    now: tuple[str, ...] = ()
    starts: bool = False

    def without(self, ports: Collection[int]) -> Table:
        """The same without what the kernel has of ports that the settings do not name.

        If it does not close them, they are left: it has other rules than the file.
        """
        if not all(any(f"tcp dport {p} reject" in rule for rule in self.now) for p in ports):
            return self
        return replace(
            self,
            now=tuple(
                rule for rule in self.now if not any(f"tcp dport {port} " in rule for port in ports)
            ),
        )


def table_functions(node: Node) -> str:
    """Shell: wanted_table, present_table, former_ports."""
    return shell("table", "firewall", rules=rules_text(node), written=RULES)


def _table(lines: list[str]) -> Table:
    kinds = [line.partition(" ") for line in lines]
    wanted, now = (tuple(rest for k, _, rest in kinds if k == kind) for kind in ("wanted", "now"))
    units = " ".join(rest for kind, _, rest in kinds if kind == "unit")
    starts = all(word in units for word in ("=active ", "=enabled ", BESIDE))
    return Table(wanted, now, starts)


def around(node: Node) -> dict[str, Probe[Any]]:
    """From which address a host comes to those with a firewall; nothing where it does not say."""
    others = " ".join(other.address for other in asked_by(node))
    return {"ways": _ways(others)} if others else {}


def _ways(others: str) -> Probe[dict[str, Address]]:

    def parse(lines: list[str]) -> dict[str, Address]:
        found = [re.match(r"([0-9a-f:.]+) .*\bsrc (\S+)", line) for line in lines]
        return {str(ip_address(each[1])): ip_address(each[2]) for each in found if each}

    return Probe(shell("ways", "firewall", others=others), parse)


def _former(node: Node) -> Probe[list[Holder]]:
    """Who listens at the ports that the settings do not name any more."""
    script = table_functions(node) + shell("former", "firewall") + shell("listeners")
    return replace(listeners_probe([]), script=script)


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has a firewall."""
    read = table_functions(node) + shell("read", "firewall", unit=NAME, other=EMPTIES_ALL)
    return {
        "tool": Probe("command -v nft || command -v apt-get || :", bool),
        "files": files.probe(files_of(node)),
        "table": Probe(read, _table),
        "former": _former(node),
    }
