"""The files of the firewall: its rules, and the unit that loads them."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, render
from tasks.firewall.rules import openings

NAME = "datatier-firewall"
RULES = "/etc/datatier/firewall.nft"
UNIT = f"/etc/systemd/system/{NAME}.service"
# Debian's unit loads ours too: see templates/firewall/nftables.conf.j2.
DEBIANS = "nftables.service"
BESIDE = f"/etc/systemd/system/{DEBIANS}.d/datatier.conf"


def rules_text(node: Node) -> str:
    """The rules of a host; they replace those that are loaded, all at once."""
    return render(
        "firewall/firewall.nft.j2",
        openings=openings(node),
        # What Docker publishes is sent on, and does not come in.
        is_sent_on=node.inside is not None,
    )


def files_of(node: Node) -> list[Entry]:
    """Every file."""
    return [
        Directory("/etc/datatier"),
        File(RULES, rules_text(node)),
        File(UNIT, render("firewall/datatier-firewall.service.j2", rules=RULES)),
        Directory(BESIDE.rpartition("/")[0]),
        File(BESIDE, render("firewall/nftables.conf.j2", rules=RULES)),
    ]
