"""The server shows a certificate of the authority once all that pin another one trust it."""

from __future__ import annotations

from tasks.core import files, services
from tasks.core.change import Change, converge
from tasks.core.estate import Node, here
from tasks.core.files import Found
from tasks.postgres import link, replication, sql
from tasks.postgres.activation import wanted_server, with_console
from tasks.postgres.clients import access_now
from tasks.postgres.files import configuration, private, shown
from tasks.postgres.layout import ours
from tasks.postgres.settings import PostgresSettings


def certify() -> None:
    """Lets PostgreSQL show the certificate of the authority.

    One operation of all these hosts: pyinfra then runs it after what precedes it on any of them.
    """
    node = here()
    for server in node.estate.having(PostgresSettings):
        others = [client for _, client in link.clients(server)]
        if others and link.has_authority(server, _extra(server)) and node in (server, *others):
            converge(
                "PostgreSQL: certificate of the authority",
                lambda: _certified(node),
                room="postgres",
            )


def _extra(server: Node) -> dict[str, object]:
    return {**server.the(PostgresSettings).extra}


def _shown_then(node: Node) -> dict[str, str]:
    return {**link.shown_then(node, _extra(node)), **replication.following(node)}


def _certified(node: Node) -> Change | None:
    if PostgresSettings not in node.settings:
        return None
    path, text = ours(node), configuration(node, _shown_then(node))
    found = node.read("postgres")["files"]
    if not node.host.state.is_executing:
        # As the run finds it then.
        before = configuration(node, shown(node))
        found = {path: Found("file", "640", "postgres", "postgres", before.encode())}
    change = files.compare([private(path, text, sql.SECRET_PARAMETERS)], found)
    if change is None:
        return None
    server = wanted_server(node, text + access_now(node), "reload")
    taken = services.change([(server, "reload")], node.place)
    return with_console(node, change.followed_by(taken))
