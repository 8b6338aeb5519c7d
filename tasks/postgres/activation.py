"""How the server takes its configuration, with the least impact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.services import Activation, Taking
from tasks.postgres import leader, link, parameters, sql
from tasks.postgres.clients import in_clear
from tasks.postgres.files import (
    access,
    archiving_link,
    configuration,
    services_of,
    shown,
)
from tasks.postgres.layout import configuration_directory, data_directory, ours
from tasks.postgres.neighbors import pooler
from tasks.postgres.service import service_of
from tasks.postgres.settings import PostgresSettings
from tasks.tls import certificates as authority


def due_activation(node: Node) -> Change | None:
    (server,) = takings(node)
    found = {**node.read("postgres")["services"], "postgres": server.now}
    for service in services_of(node)[1:]:
        now = found[service.name]
        found[service.name] = services.upgraded(service, now, node.upgrades)
    others = [
        services.activation(service, node.place, restart=archiving_link(node))
        for service in services_of(node)[1:]
    ]
    change = services.compare([server.wanted, *others], found, node.place)
    change = change or pooler().resume(node, node.read("postgres")["held"])
    if change is None:
        return None
    return with_console(node, replace(change, lines=[*server.lines, *change.lines]))


def takings(node: Node) -> Iterator[Taking]:
    """How the server takes what it should run with, on a host or in a container."""
    said, text = node.read("postgres"), configuration(node, shown(node))
    found, now = said["files"][ours(node)], said["services"]["postgres"]
    now = services.upgraded(service_of(node), now, node.upgrades)
    wanted = wanted_server(node, text + access(node, in_clear(node)), "reload")
    elsewhere = parameters.only_known(
        parameters.others(
            said["server"],
            text,
            ours(node),
            access=f"{configuration_directory(node)}/pg_hba.conf",
            is_there=found.kind == "file",
        ),
        due=services.impact(wanted, now) is not None,
    )
    wanted = replace(
        wanted,
        service=parameters.putting_back(wanted.service, elsewhere, data_directory(node)),
        reload_means=impact(node, found.content, text, said["server"], elsewhere),
    )
    if why := services.unasked(wanted, now) or parameters.reasons(elsewhere):
        wanted = replace(wanted, restart_means=restarts(node, why))
    now, lines = parameters.status(now, elsewhere), parameters.sentences(elsewhere)
    if leader.planned(node) == "follows":
        now = replace(now, running=False)
    elif leader.planned(node) == "leads":
        # It has taken what a restart brings.
        now, wanted = replace(now, restart=wanted.restart), replace(wanted, reload_means="reload")
    if node.place.is_init and not parameters.starts_at_boot(said["server"]):
        file = f"{configuration_directory(node)}/start.conf"
        lines.append(f"PostgreSQL: by {file} no boot starts it")
        check = f"at {file} sed -Ei '/^[[:space:]]*(#|$)/!s/.*/auto/' {file}\n"
        service = replace(wanted.service, check=check + wanted.service.check)
        wanted, now = replace(wanted, service=service), replace(now, enabled=False)
    yield Taking(wanted, now, lines)


def wanted_server(node: Node, contents: str, means: str) -> Activation:
    """The server as it should run, with these contents of its files."""
    return services.activation(
        service_of(node),
        node.place,
        reload=contents
        + node.read("postgres").get("key", "")
        + authority.fingerprint(node, link.SERVICE),
        reload_means=means,
        # Without a unit there is no record.
        restart_means="restart" if node.place.shares_files else restarts(node, "its unit"),
    )


def with_console(node: Node, change: Change) -> Change:
    secret = node.the(PostgresSettings).password.get_secret_value()
    return replace(change, variables={**change.variables, "CONSOLE_PASSWORD": secret})


def impact(
    node: Node,
    before: bytes,
    after: str,
    server: sql.Server,
    elsewhere: Sequence[parameters.Other] = (),
) -> str:
    """What the pending parameters cost; only the server knows which of them need a restart."""
    ours = parameters.of(after)
    there = {k: _kilobytes(v) for k, v in parameters.of(before.decode(errors="replace")).items()}
    wanted = {k: _kilobytes(v) for k, v in ours.items()}
    contexts = server.facts.get("contexts", {})
    changed = {key for key in wanted | there if wanted.get(key) != there.get(key)}
    # A file that was written and not loaded yet says nothing of what runs.
    waiting = server.facts.get("waiting", ())
    changed.update(key for key in waiting if not parameters.uses(server, key, ours.get(key)))
    fixed = {key for key in changed if contexts.get(key) == "postmaster"}
    fixed.update(each.name for each in elsewhere if each.restarts)
    why = f"{', '.join(sorted(fixed))}: postmaster context"
    return restarts(node, why) if fixed else "reload"


def _kilobytes(value: str) -> str:
    """A size in the unit that all sizes have in common; any other value as it is."""
    match = re.fullmatch(r"(\d+)(kB|MB|GB|TB)", value)
    return f"{int(match[1]) * 1024 ** _SIZES.index(match[2])}kB" if match else value


_SIZES = ("kB", "MB", "GB", "TB")


def restarts(node: Node, why: str) -> str:
    """A restart as the plan says it, with what clients see of it."""
    waiting = "; clients of PgBouncer wait" if pooler().holds(node) else ""
    return f"restart ({why}{waiting})"
