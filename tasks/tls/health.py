"""How long certificates are still valid."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.tls.probes import AUTHORITY, SERVICES, home
from tasks.tls.settings import TlsSettings

# Beneath applications, as the firewall.
RANK = 6


def rows(node: Node) -> Iterator[Check]:
    """A row for each host that has some."""
    days = str(node.the(TlsSettings).renew_days)
    shown = " ".join(f"{home(service, node)}/certificate.pem" for service in SERVICES)
    chosen = node.the(TlsSettings).certificate
    remedy = f"put another one at {chosen} and run" if chosen else "a run renews it"
    script = shell(
        "valid", "tls", certificates=shown, authority=AUTHORITY, days=days, remedy=remedy
    )
    yield Check("certificates", node, "-", script, f"clients verify with {AUTHORITY}", RANK)
