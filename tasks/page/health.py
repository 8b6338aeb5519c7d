"""Whether the status page is shown to who has the password, and to no one else."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from backup.config import SERVED
from backup.serve import USER
from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.page.service import asking, listens_at, url
from tasks.page.settings import SECRET

# Beneath Prometheus.
RANK = 8


def rows(node: Node) -> Iterator[Check]:
    """Its row, with the address for a browser."""
    login = f"{USER}:{node.estate.secrets.get(SECRET)}"
    secret = {"PAGE_LOGIN": base64.b64encode(login.encode()).decode()}
    script = asking(node) + shell("row", "page", page=str(SERVED))
    connect = f"{url(node)} (user {USER}, {SECRET})"
    yield Check("status-page", node, listens_at(node), script, connect, RANK, secret)
