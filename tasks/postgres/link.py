"""Links to PostgreSQL from other hosts: encrypted, the certificate pinned.

Each host that connects trusts the certificate that the server shows and its next one. So the
server can go over to the next one at any moment, and no other host has to do anything first.

Where hosts have an authority they trust it as well. The server shows a certificate of it, which
clients of its own can verify, as soon as all that pin do so (certify.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.core import certificates
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell
from tasks.postgres.layout import ours
from tasks.postgres.neighbors import keeper, pooler
from tasks.tls import certificates as authority

HOME = "/etc/datatier/postgres"
# On a standby: the certificates that the server which leads may show.
PEERS = f"{HOME}/peers.pem"
# Its directory of keys that the authority signs.
SERVICE = "postgres"
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
    """The hosts that connect from outside, with their group: among them other servers."""
    for group in ("pgbouncer", "backup", "postgres"):
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
    if "ssl" in extra or not (any(clients(server)) or authority.is_shown(server)):
        return {}
    if is_ours(server, extra):
        return {"ssl": "on", **_files(HOME)}
    own = _files(authority.home(SERVICE, server)) if has_authority(server, extra) else {}
    return {"ssl": "on", **own}


def shown(server: Node, extra: Mapping[str, object]) -> dict[str, str]:
    """The certificate of the authority, once all hosts that pin trust it."""
    if not has_authority(server, extra):
        return {}
    hosts = clients(server)
    is_known = all(_trusts(server, group, client) for group, client in hosts)
    return _files(authority.home(SERVICE, server)) if is_known else {}


def shown_then(server: Node, extra: Mapping[str, object]) -> dict[str, str]:
    """The same when the hosts of this run have been told."""
    is_planned = not server.host.state.is_executing
    away = [each for _, each in clients(server) if each not in server.estate.active]
    if is_planned and has_authority(server, extra) and (not away or shows_authority(server)):
        return _files(authority.home(SERVICE, server))
    return shown(server, extra)


def has_authority(server: Node, extra: Mapping[str, object]) -> bool:
    """Whether the server gets a certificate of the estate's authority."""
    return authority.is_shown(server) and not _OWN & extra.keys()


def _files(home: str) -> dict[str, str]:
    return {"ssl_cert_file": f"{home}/certificate.pem", "ssl_key_file": f"{home}/key.pem"}


def _trusts(server: Node, group: str, client: Node) -> bool:
    """Whether a host takes the certificate of the authority, or pins nothing yet."""
    if client not in client.estate.active:
        return shows_authority(server)
    pins = _pins[group](client)
    return not pins or authority.is_trusted(server, pins)


_pins: Mapping[str, Callable[[Node], str]] = {
    "pgbouncer": lambda client: pooler().pinned(client),
    "backup": lambda client: keeper().pinned(client),
    "postgres": lambda client: client.read("postgres")["peers"][PEERS].content.decode(),
}


def shows_authority(server: Node) -> bool:
    """Whether the configuration that the server has names a certificate of the authority."""
    found = server.read("postgres")["files"][ours(server)]
    return authority.home(SERVICE, server) in found.content.decode(errors="replace")


def probes(server: Node, port: int) -> dict[str, Probe[str]]:
    """The certificates of ours, and the one of them that the running server shows."""
    host = f"[{server.address}]" if ":" in server.address else server.address
    return {
        "key": certificates.probe(server, HOME),
        "next": certificates.probe(server, _NEXT),
        "served": Probe(
            shell(
                "served",
                "postgres",
                homes=_homes(server),
                place=f"{host}:{port}",
            ),
            "\n".join,
        ),
    }


def _homes(server: Node) -> str:
    return f"{HOME} {authority.home(SERVICE, server)}" if authority.is_on(server) else HOME


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
    said, known = server.read("postgres"), authority.trusted(server).rstrip()
    key, following = str(said["key"]), str(said["next"])
    if not client.host.state.is_executing:
        is_whole = key and following
        pins = [key, following] if is_whole else [key or following or TO_COME, TO_COME]
    elif said["served"]:
        # What it shows may be the authority's.
        pins = [key if known else said["served"], following]
    elif trusted:
        return trusted
    else:
        raise Unreadable(
            f"PostgreSQL on {server.name} does not show its certificate: run deploy.py"
        )
    return "\n".join(filter(None, [*pins, known]))
