"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.estate import Estate, Node
from tasks.core.preflight import Listener
from tasks.core.settings import Problem
from tasks.page.layout import GROUP, NAME, PASSWORD
from tasks.page.service import port_of
from tasks.page.settings import SECRET, PageSettings

_KEY = "status_page_port"


def contradictions(everything: Estate) -> list[Problem]:
    """A host whose backups are in a container."""
    message = "is not served from Docker: make status fetches the page"
    return [
        Problem(node.name, _KEY, message)
        for node in everything.having(PageSettings)
        if node.inside is not None
    ]


def listens(node: Node) -> list[Listener]:
    """Its port, which no host of the estate needs."""
    binds = not node.is_loopback
    return [Listener(port_of(node), _KEY, NAME, f"{NAME}.service", binds, open_to=())]


def checks(node: Node) -> list[Problem]:
    """A user of others, who would read the page."""
    if node.read(GROUP)["user"] != "others":
        return []
    message = f"user or group {NAME} is not Datatier's: rename that, or leave the port out"
    return [Problem(node.name, _KEY, message)]


def secrets_in_use(node: Node) -> Mapping[str, str]:
    """The password, of which a host has a hash."""
    return {SECRET: ""} if node.read(GROUP)["files"][PASSWORD].is_ours else {}
