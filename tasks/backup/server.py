"""The PostgreSQL that is backed up, as the backup host sees it."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.backup.settings import BackupSettings
from tasks.core.estate import Node
from tasks.postgres import leader, link
from tasks.postgres.layout import cluster_version
from tasks.postgres.settings import PostgresSettings

TRUSTED = "/etc/datatier/postgres.pem"


def servers_of(node: Node) -> list[Node]:
    """The server and its standbys, in the inventory's order: pgBackRest asks them who leads."""
    return node.estate.having(PostgresSettings)


def server_of(node: Node) -> Node | None:
    """The server that takes writes, once hosts were read."""
    return leader.presumed(node.estate) if servers_of(node) else None


def like(node: Node) -> Node:
    """A host of PostgreSQL's release: its own, or this one where that is away."""
    server = server_of(node)
    return server if server is not None and server in node.estate.active else node


def version_of(node: Node) -> int:
    server = server_of(node)
    return cluster_version(server, like(node)) if server is not None else 0


def side_of(node: Node) -> str:
    if BackupSettings in node.settings:
        return "backup"
    return "postgres" if PostgresSettings in node.settings else ""


def extra_of(server: Node) -> Mapping[str, object]:
    return server.the(PostgresSettings).extra


def pins(node: Node) -> bool:
    """Whether PostgreSQL is on another host and has a certificate of ours."""
    server = server_of(node)
    is_far = server is not None and link.is_remote(server, node)
    return server is not None and is_far and link.is_ours(server, extra_of(server))


def present_pins(node: Node) -> str:
    """The certificates that stand in its file."""
    return str(node.read("backup")["files"][TRUSTED].content.decode()) if pins(node) else ""


def pinned_certificate(node: Node) -> str:
    server = server_of(node)
    if server is None or not pins(node):
        return ""
    return link.pinned(server, node, node.read("backup")["files"][TRUSTED])
