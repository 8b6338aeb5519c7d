"""The files of the firewall: its rules, and the unit that loads them."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, render
from tasks.firewall.rules import Opening, clients_of, openings

NAME = "datatier-firewall"
RULES = "/etc/datatier/firewall.nft"
UNIT = f"/etc/systemd/system/{NAME}.service"
# Debian's unit loads ours too: see templates/firewall/nftables.conf.j2.
EMPTIES_ALL = "nftables.service"
BESIDE = f"/etc/systemd/system/{EMPTIES_ALL}.d/datatier.conf"


def rules_text(node: Node, former: Sequence[Opening] = ()) -> str:
    """The rules of a host; they replace those that are loaded, all at once.

    Args:
        former: ports that its settings do not name any more.
    """
    inside = node.inside.nodes if node.inside else []
    return render(
        "firewall/firewall.nft.j2",
        openings=sorted([*openings(node), *former], key=lambda each: each.port),
        containers=[each.address for each in inside],
        clients=clients_of(node, inside),
    )


def files_of(node: Node, former: Sequence[Opening] = ()) -> list[Entry]:
    """Every file."""
    return [
        Directory("/etc/datatier"),
        File(RULES, rules_text(node, former)),
        File(UNIT, render("firewall/datatier-firewall.service.j2", rules=RULES)),
        Directory(BESIDE.rpartition("/")[0]),
        File(BESIDE, render("firewall/nftables.conf.j2", rules=RULES)),
    ]
