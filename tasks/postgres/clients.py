"""Who reaches the server from other hosts, and how."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_network

from tasks.core.estate import Node
from tasks.postgres import link, replication
from tasks.postgres.layout import configuration_directory
from tasks.postgres.neighbors import pooler
from tasks.postgres.settings import PostgresSettings


def clients(node: Node, in_clear: Collection[Node] = ()) -> list[dict[str, str]]:
    """Hosts that need to reach this server from outside, and what they may enter there.

    To a container every client comes from outside, its own host too.

    Args:
        in_clear: poolers that have no TLS yet.
    """
    if network := node.place.network:
        project = {"group": "docker", "name": "the project", "address": str(network)}
        return [{**project, **_ALL, "type": "host"}]
    return [
        {
            "group": group,
            "name": other.name,
            "address": network_of(other),
            **(_WAL if group == "postgres" else _ALL),
            "type": "host" if other in in_clear or stays_in_clear(node, other) else "hostssl",
        }
        for group, other in link.clients(node)
    ]


_ALL = {"database": "all", "role": "all"}
_WAL = {"database": "replication", "role": replication.ROLE}


def network_of(node: Node) -> str:
    return str(ip_network(node.address))


def stays_in_clear(node: Node, other: Node) -> bool:
    """Whether the settings say that the link has no TLS."""
    encrypted = link.is_encrypted(node.the(PostgresSettings).extra)
    return not encrypted or pooler().refuses_tls(other)


def in_clear(node: Node) -> list[Node]:
    """Poolers that keep the line which lets them in without TLS: they may not have it yet.

    One that this run does not reach keeps the line that it has.
    """
    now = access_now(node)
    return [
        other
        for group, other in link.clients(node)
        if group == "pgbouncer"
        and not re.search(access_line("hostssl", other), now)
        and (
            pooler().is_in_clear(other)
            if other in node.estate.active
            else re.search(access_line("host", other), now)
        )
    ]


def access_line(kind: str, other: Node) -> str:
    """A pattern for the line of ours that lets a host in."""
    return rf"(?m)^{kind} +(?=all  all  {re.escape(network_of(other))}  )"


def access_now(node: Node) -> str:
    found = node.read("postgres")["files"][f"{configuration_directory(node)}/pg_hba.conf"]
    return str(found.content.decode(errors="replace"))


def outside(node: Node) -> tuple[str, int] | None:
    """Where other hosts reach it, if that has to be an address of its host."""
    chosen = node.the(PostgresSettings)
    listen = chosen.listen_addresses
    named = node.address in (listen or "").split(",") if listen else bool(clients(node))
    is_own = named and not node.is_loopback and not node.place.network
    return (node.address, chosen.port) if is_own else None
