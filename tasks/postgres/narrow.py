"""Poolers that have TLS are let in with it only."""

from __future__ import annotations

import re
from dataclasses import replace

from tasks.core import files, services
from tasks.core.change import Change, converge
from tasks.core.estate import Node, here
from tasks.core.files import MARK
from tasks.postgres import link
from tasks.postgres.activation import wanted_server, with_console
from tasks.postgres.clients import access_line, access_now, in_clear, stays_in_clear
from tasks.postgres.files import access, private
from tasks.postgres.layout import configuration_directory, ours
from tasks.postgres.settings import ACCESS_SECRETS, PostgresSettings


def narrow() -> None:
    """Lets poolers that have TLS in with it only.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    servers = node.estate.having(PostgresSettings)
    if any(node in (server, *(each for _, each in link.clients(server))) for server in servers):
        converge("PostgreSQL: access of poolers", lambda: _narrowed(node), room="postgres")


def _narrowed(node: Node) -> Change | None:
    if PostgresSettings not in node.settings:
        return None
    said, now, waiting = node.read("postgres"), access_now(node), in_clear(node)
    if not node.host.state.is_executing:
        # As the run finds it then.
        now = now if MARK in now else access(node, waiting)
        waiting = [other for other in waiting if other not in node.estate.active]
    wanted = now
    for group, other in link.clients(node):
        if group == "pgbouncer" and other not in waiting and not stays_in_clear(node, other):
            wanted = re.sub(access_line("host", other), "hostssl ", wanted)
    if wanted == now:
        return None
    etc, found = configuration_directory(node), said["files"]
    path, settings = f"{etc}/pg_hba.conf", found[ours(node)].content.decode()
    before = replace(found[path], kind="file", content=now.encode())
    change = files.compare([private(path, wanted, ACCESS_SECRETS)], {path: before})
    assert change is not None
    server = wanted_server(node, settings + wanted, "reload")
    taken = services.change([(server, "reload")], node.place)
    return with_console(node, change.followed_by(taken))
