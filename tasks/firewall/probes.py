"""What one read of a host tells about its firewall."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tasks.core import files
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.firewall.files import BESIDE, EMPTIES_ALL, NAME, files_of, rules_text
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


def table_functions(node: Node) -> str:
    """Shell: wanted_table, present_table."""
    return shell("table", "firewall", rules=rules_text(node))


def _table(lines: list[str]) -> Table:
    kinds = [line.partition(" ") for line in lines]
    wanted, now = (tuple(rest for k, _, rest in kinds if k == kind) for kind in ("wanted", "now"))
    units = " ".join(rest for kind, _, rest in kinds if kind == "unit")
    starts = all(word in units for word in ("=active ", "=enabled ", BESIDE))
    return Table(wanted, now, starts)


def _ways(node: Node) -> Probe[dict[str, Address]]:
    """From which address the host comes to others; nothing where it does not say."""
    others = " ".join(other.address for other in asked_by(node))

    def parse(lines: list[str]) -> dict[str, Address]:
        found = [re.match(r"([0-9a-f:.]+) .*\bsrc (\S+)", line) for line in lines]
        return {str(ip_address(each[1])): ip_address(each[2]) for each in found if each}

    return Probe(shell("ways", "firewall", others=others), parse)


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has a firewall."""
    read = table_functions(node) + shell("read", "firewall", unit=NAME, other=EMPTIES_ALL)
    return {
        "tool": Probe("command -v nft || command -v apt-get || :", bool),
        "files": files.probe(files_of(node)),
        "table": Probe(read, _table),
        "ways": _ways(node),
    }
