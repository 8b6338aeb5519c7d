"""Links to PostgreSQL from other hosts: encrypted, the certificate pinned.

Each host that connects trusts the certificate that the server shows and its next one. So the
server can go over to the next one at any moment, and no other host has to do anything first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core import certificates
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell

HOME = "/etc/datatier/postgres"
_NEXT = f"{HOME}/next"
# The next one is made when the present one begins, and has to outlive it.
_NEXT_DAYS = 2 * certificates.DAYS
# Of these in postgres_extra one is enough: then the certificate is the user's own.
_OWN = {"ssl", "ssl_cert_file", "ssl_key_file"}
# In a plan: what the run is about to make.
TO_COME = "-"


def is_remote(server: Node, client: Node) -> bool:
    """Whether the link leaves the host; containers of one project share a bridge."""
    return client is not server and not server.place.network


def clients(server: Node) -> Iterator[tuple[str, Node]]:
    """The hosts that connect from outside: poolers and the backup host, with their group."""
    for group in ("pgbouncer", "backup"):
        for client in server.estate.in_group(group):
            if is_remote(server, client):
                yield group, client


def is_ours(server: Node, extra: Mapping[str, object]) -> bool:
    """Whether the server gets a certificate of ours, which others pin."""
    return any(clients(server)) and not _OWN & extra.keys()


def is_encrypted(extra: Mapping[str, object]) -> bool:
    """Whether the server speaks TLS; only postgres_extra can forbid it."""
    return str(extra.get("ssl", "on")).lower() in {"true", "on", "yes", "1", "t", "y"}


def parameters(server: Node, extra: Mapping[str, object]) -> dict[str, str]:
    """What PostgreSQL's configuration says of it."""
    if "ssl" in extra or not any(clients(server)):
        return {}
    files = {"ssl_cert_file": f"{HOME}/certificate.pem", "ssl_key_file": f"{HOME}/key.pem"}
    return {"ssl": "on", **(files if is_ours(server, extra) else {})}


def probes(server: Node, port: int) -> dict[str, Probe[str]]:
    """The certificates of ours, and the one of them that the running server shows."""
    host = f"[{server.address}]" if ":" in server.address else server.address
    return {
        "key": certificates.probe(server, HOME),
        "next": certificates.probe(server, _NEXT),
        "served": Probe(shell("served", "postgres", keys=HOME, place=f"{host}:{port}"), "\n".join),
    }


def missing_key(server: Node, said: Mapping[str, Any]) -> Change | None:
    """The certificates that are missing or end soon; the next one takes the place of the first."""
    if "key" not in said or (said["key"] and said["next"]):
        return None
    lines, script = list[str](), ""
    if not said["key"] and said["next"]:
        lines = [f"{HOME}: take the next key and certificate"]
        script = shell("take-next", "postgres", keys=HOME, next=_NEXT)
    elif not said["key"]:
        change = certificates.make(server, HOME)
        lines, script = change.lines, change.script
    change = certificates.make(server, _NEXT, _NEXT_DAYS)
    return Change([*lines, *change.lines], script + change.script)


def pinned(server: Node, client: Node, before: Found) -> str:
    """The certificates that PostgreSQL may show; empty where none is known.

    The first is the one that the server shows. While that cannot be asked nothing changes here.

    Raises:
        Unreadable: it shows none of ours, and none was pinned before.
    """
    trusted = before.content.decode().rstrip()
    if server not in server.estate.active:
        return trusted
    said = server.read("postgres")
    key, following = str(said["key"]), str(said["next"])
    if not client.host.state.is_executing:
        if key and following:
            return f"{key}\n{following}"
        return f"{key or following or TO_COME}\n{TO_COME}"
    if not said["served"] and not trusted:
        raise Unreadable(
            f"PostgreSQL on {server.name} does not show its certificate: run deploy.py"
        )
    return f"{said['served']}\n{following}".rstrip() if said["served"] else trusted
