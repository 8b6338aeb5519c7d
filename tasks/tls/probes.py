"""What one read of a host tells about its keys and certificates."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

from tasks.core import files
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File
from tasks.core.remote import Probe
from tasks.core.scripts import shell

ROOT = "/etc/datatier/tls"
AUTHORITY = f"{ROOT}/ca.pem"
# Sentinel uses Redis's.
SERVICES = ("postgres", "pgbouncer", "redis")


def home(service: str) -> str:
    """The directory with a service's key and certificate."""
    return f"{ROOT}/{service}"


@dataclass(frozen=True)
class Key:
    """A key on a host, which stays there.

    Attributes:
        public: its public half (DER); empty where there is none that can be used.
        access: its mode and owner, such as `640 root:redis`.
    """

    public: bytes = b""
    access: str = ""


def _keys(lines: list[str]) -> dict[str, Key]:
    found = dict[str, Key]()
    for line in lines:
        service, public, mode, owner = line.split(" ")
        der = b"" if public == "-" else base64.b64decode(public, validate=True)
        found[service] = Key(der, f"{mode} {owner}")
    return found


def _paths() -> list[Entry]:
    every: list[Entry] = [Directory("/etc/datatier"), Directory(ROOT), File(AUTHORITY, "")]
    for service in SERVICES:
        every += [Directory(home(service)), File(f"{home(service)}/certificate.pem", "")]
    return every


def probes_of(_node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host whose servers have certificates."""
    return {
        "files": files.probe(_paths()),
        "keys": Probe(shell("keys", "tls", root=ROOT, services=" ".join(SERVICES)), _keys),
        "clock": Probe("date +%s", lambda lines: int(lines[0]) - time.time()),
    }
