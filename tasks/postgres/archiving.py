"""WAL goes to another repository once the backup host has made it."""

from __future__ import annotations

from tasks.core import files
from tasks.core.change import Change, converge
from tasks.core.estate import Node, here
from tasks.core.files import Entry, Found
from tasks.postgres import archive
from tasks.postgres.files import archiving_files, trusted_certificate
from tasks.postgres.settings import PostgresSettings


def archive_everywhere() -> None:
    """Lets PostgreSQL archive to all repositories.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    keeper = archive.backup_host(node.estate)
    if archive.is_remote(node) and (node is keeper or PostgresSettings in node.settings):
        converge("PostgreSQL: repositories", lambda: _missing(node), room="postgres")


def _missing(node: Node) -> Change | None:
    if PostgresSettings not in node.settings:
        return None
    if node.host.state.is_executing:
        return files.compare(_files(node), node.read("postgres")["files"])
    # As the run finds it then.
    (before,) = _files(node)
    assert isinstance(before, files.File)
    found = Found("file", before.mode, before.user, before.group, before.content.encode())
    return files.compare(_files(node, to_come=True), {before.path: found})


def _files(node: Node, *, to_come: bool = False) -> list[Entry]:
    certificate = trusted_certificate(node)
    entries = archiving_files(node, certificate, to_come=to_come)
    return [each for each in entries if each.path == archive.CONFIG]
