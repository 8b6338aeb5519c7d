"""Who listens on a port of this host: only the service's own user is told a password."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

from backup.config import Endpoint
from backup.job import Failed

_TABLES = "/proc/net/tcp", "/proc/net/tcp6"
_LISTENS = "0A"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def require_user(place: Endpoint, user: str) -> None:
    """Before a password goes to a server that may be of this host.

    While a server is down, any user of its host could take its port and be told.

    Raises:
        Failed: another user listens there.
    """
    if not _is_here(place.host):
        return
    # Root and the user of this program have the password anyway.
    known = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        known.add(pwd.getpwnam(user).pw_uid)
    if strangers := {uid for uid in _listeners(place) if uid not in known}:
        message = f"user {min(strangers)} listens there, not {user}: it gets no password"
        raise Failed(f"{place}: {message}")


def _is_here(host: str) -> bool:
    """Whether an address is one of this host, or of this container."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _listeners(place: Endpoint) -> Iterator[int]:
    wanted = ipaddress.ip_address(place.host)
    for table in _TABLES:
        lines = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        for line in lines:
            _, local, _, state, *rest = line.split()
            address, port = local.split(":")
            if state == _LISTENS and int(port, 16) == place.port:
                found = _address(address)
                if found == wanted or found.is_unspecified:
                    yield int(rest[3])


def _address(text: str) -> _Address:
    """An address as the kernel prints it: words of four bytes, each in the host's order."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
