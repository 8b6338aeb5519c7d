"""A host's own key and self-signed certificate, which other hosts pin; the key never leaves it."""

from __future__ import annotations

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell


def probe(node: Node, home: str) -> Probe[str]:
    """Reads this host's certificate; empty where there is none for its address and key."""
    return Probe(shell("certificate", keys=home, address=node.address), "\n".join)


# Whether a host could make a key.
OPENSSL = Probe("command -v openssl || :", bool)

DAYS = 7300


def make(node: Node, home: str, days: int = DAYS, owner: str = "postgres") -> Change:
    """A key and a certificate for this host's address.

    Args:
        owner: the user and the group that may read the key, by name or number.
    """
    values = {"address": node.address, "days": str(days), "reader": owner}
    script = shell("make-certificate", keys=home, **values)
    return Change([f"{home}: create a key and a certificate"], script)
