"""What one read of a host tells about its keys and certificates."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

from tasks.core import files
from tasks.core.certificates import OPENSSL
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File
from tasks.core.remote import Probe
from tasks.core.scripts import shell

ROOT = "/etc/datatier/tls"
AUTHORITY = f"{ROOT}/ca.pem"
# Sentinel uses Redis's.
SERVICES = ("postgres", "pgbouncer", "redis", "exporter", "prometheus", "page")


def home(service: str, node: Node | None = None) -> str:
    """The directory with a service's key and certificate, as the host or the container sees it."""
    return node.keys_at.replace("{}", service) if node else f"{ROOT}/{service}"


def places(node: Node, service: str) -> list[Entry]:
    """That directory, and in a project those that lead to it."""
    place = home(service, node)
    return [*(leading_to(place) if node.inside else ()), Directory(place)]


def leading_to(place: str) -> list[Entry]:
    """The directories of a project above one with keys, as its files will have them."""
    above = place.rpartition("/")[0]
    docker = above.rpartition("/")[0]
    return [Directory(docker.rpartition("/")[0]), Directory(docker, "700"), Directory(above)]


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


def _paths(node: Node) -> list[Entry]:
    every: list[Entry] = [Directory("/etc/datatier"), Directory(ROOT), File(AUTHORITY, "")]
    for service in SERVICES:
        every += [*places(node, service), File(f"{home(service, node)}/certificate.pem", "")]
    return [*{entry.path: entry for entry in every}.values()]


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host whose servers have certificates."""
    keys = " ".join(f"{service}={home(service, node)}/key.pem" for service in SERVICES)
    # Groups of containers have no names on their host.
    by = "%U:%G" if node.inside is None else "%U:%g"
    return {
        "files": files.probe(_paths(node)),
        "keys": Probe(shell("keys", "tls", keys=keys, by=by), _keys),
        "openssl": OPENSSL,
        "clock": Probe("date +%s", lambda lines: int(lines[0]) - time.time()),
    }
