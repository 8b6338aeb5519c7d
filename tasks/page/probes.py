"""What one read of a host tells about its server of the status page."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.core.users import OURS
from tasks.page.files import files_of
from tasks.page.layout import NAME
from tasks.page.service import service_of


def packages_of(node: Node) -> Packages:
    """What it runs with, and is asked with."""
    return Packages(["python3", "openssl", *node.place.packages])


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has one."""
    return {
        "files": files.probe(files_of(node)),
        "services": services.probe([service_of(node)], node.place),
        "user": Probe(shell("user", "page", name=NAME, ours=OURS), "".join),
    }
