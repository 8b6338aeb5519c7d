"""Whether the exporter answers who has the password, and no one else."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.exporter.service import asking, listens_at
from tasks.exporter.settings import SECRET, USER

# Beneath applications, as the firewall.
RANK = 6


def rows(node: Node) -> Iterator[Check]:
    """A row for each host that has one."""
    login = f"{USER}:{node.estate.secrets.get(SECRET)}"
    secret = {"BASIC": base64.b64encode(login.encode()).decode()}
    script = asking(node) + shell("row", "exporter")
    yield Check("exporter", node, listens_at(node), script, "-", RANK, secret)
