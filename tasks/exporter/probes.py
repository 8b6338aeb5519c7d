"""What one read of a host tells about its exporter."""

from __future__ import annotations

from typing import Any

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.files import MARK, Directory
from tasks.core.packages import Packages, keep_directory
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.exporter.files import files_of
from tasks.exporter.layout import DEFAULTS, NAME, STATE
from tasks.exporter.service import service_of


def packages_of(node: Node) -> Packages:
    """The exporter, which listens at no address of others before it is configured."""
    before = shell("before", "exporter", defaults=DEFAULTS, mark=MARK)
    return Packages([NAME, *node.place.packages], (before, keep_directory(Directory(STATE))))


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has one."""
    process = f"process() {{ {node.place.process(NAME)}; }}\n"
    return {
        "files": files.probe(files_of(node)),
        "services": services.probe([service_of(node)], node.place),
        "command": Probe(process + shell("command", "exporter"), list),
        "tool": Probe("command -v apt-get || :", bool),
    }
