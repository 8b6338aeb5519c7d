"""What one read of a host tells about what keeps its services running."""

from __future__ import annotations

from typing import Any

from tasks.core import files
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.upgrade.files import OWNER, files_of

_STARTS = f"[ ! -L /etc/systemd/system/timers.target.wants/{OWNER}.timer ] || echo starts"


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    return {"files": files.probe(files_of(node)), "starts": Probe(_STARTS, bool)}
