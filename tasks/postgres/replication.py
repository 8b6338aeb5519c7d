"""Several servers: how the others follow the one that leads (leader.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.files import Entry, File
from tasks.core.remote import Probe, Unreadable
from tasks.core.settings import Problem
from tasks.postgres import archive, leader, link, sql
from tasks.postgres.layout import cluster_version, data_directory
from tasks.postgres.settings import PostgresSettings

ROLE = "datatier_replication"
SECRET = "REPLICATION_PASSWORD"
_PASSWORD = f"{link.HOME}/replication.pgpass"
_SLOT = "datatier_"
# Of a name in PostgreSQL, in bytes (NAMEDATALEN).
_LONGEST = 63
# A standby that starts, or is to lead, asks the archive for three files and more, and takes no
# connection meanwhile. Where the backup host is away pgBackRest gives each of them up after twice
# this time, which is two minutes by default.
_ARCHIVE_SECONDS = 2
# What each server says for itself; all else one that takes over has to have as well.
_OWN = {
    *("shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem"),
    *("listen_addresses", "adopt", "prune"),
}


def slot(node: Node) -> str:
    """The name of the replication slot that keeps WAL for a server."""
    return (_SLOT + re.sub("[^a-z0-9_]", "_", node.plain_name.lower()))[:_LONGEST]


def slots(node: Node) -> list[str]:
    """The slots that a server which leads has for the others."""
    return [slot(each) for each in node.estate.having(PostgresSettings) if each is not node]


def left_slots(node: Node) -> Change | None:
    """Drops what a server has kept WAL for while it led."""
    if not leader.is_standby(node):
        return None
    is_planned = leader.planned(node) == "follows"
    kept = leader.server_of(node).facts.get("slots") or []
    names = [name for name, _, is_read, _ in kept if is_planned or not is_read]
    ours = [name for name in names if name.startswith(_SLOT)]
    return sql.without_slots(ours, data_directory(node))


def parameters(node: Node) -> dict[str, str]:
    """What a server's configuration says whether it leads or not.

    Without the limit a standby that is away fills the disk of the server that leads.
    """
    return _limit(node) if leader.is_replicated(node) else {}


def _limit(node: Node) -> dict[str, str]:
    return {"max_slot_wal_keep_size": node.the(PostgresSettings).max_slot_wal_keep_size}


def following(node: Node) -> dict[str, str]:
    """What the configuration of a standby says besides; the limit stays as long as a slot."""
    if node.service:
        return {}
    if not leader.is_replicated(node):
        kept = leader.server_of(node).facts.get("slots") or []
        return _limit(node) if any(name.startswith(_SLOT) for name, *_ in kept) else {}
    if not leader.is_standby(node):
        return {}
    options = f"--stanza={archive.stanza(node)} --io-timeout={_ARCHIVE_SECONDS}"
    restores = f'pgbackrest {options} archive-get %f "%p"'
    return {
        "primary_conninfo": _conninfo(node),
        "primary_slot_name": slot(node),
        **({"restore_command": restores} if archive.is_remote(node) else {}),
    }


def _conninfo(node: Node) -> str:
    first = leader.leader(node.estate)
    words = {
        "host": first.address,
        "port": first.the(PostgresSettings).port,
        "user": ROLE,
        "application_name": slot(node),
        "passfile": _PASSWORD,
        "sslmode": "verify-full",
        "sslrootcert": link.PEERS,
        "channel_binding": "require",
    }
    return " ".join(f"{key}={value}" for key, value in words.items())


def copied(node: Node) -> dict[str, str]:
    """Where the cluster of a standby is copied from, for the shell that creates it."""
    if not leader.is_standby(node):
        return {"PRIMARY": "", "SLOT": ""}
    return {"PRIMARY": _conninfo(node), "SLOT": slot(node)}


def role(node: Node) -> sql.Role:
    """The role as which standbys read WAL; it enters no database."""
    secret = node.estate.secrets.get(SECRET)
    return sql.Role(ROLE, secret, {"login": True, "replication": True})


def probes(node: Node) -> dict[str, Probe[Any]]:
    """Reads what a server knows of the others: whom it trusts, and a switchover that goes on."""
    if not leader.is_replicated(node):
        return {}
    return {"peers": files.probe(_files(node, link.TO_COME)), "handing": leader.handing_probe()}


def missing_link(node: Node) -> Change | None:
    """What a standby needs to reach the server that leads, before it is made."""
    if not leader.is_standby(node):
        return None
    found = node.read("postgres")["peers"]
    pinned = link.pinned(leader.leader(node.estate), node, found[link.PEERS])
    return files.compare(_files(node, pinned), found)


def _files(node: Node, pinned: str) -> list[Entry]:
    secret = node.estate.secrets.get(SECRET)
    text = re.sub(r"([\\:])", r"\\\1", secret)
    line = f"*:*:*:{ROLE}:{text}\n"
    return [
        File(link.PEERS, f"{pinned}\n"),
        File(_PASSWORD, line, "600", "postgres", "postgres", rf"^.*:{ROLE}:(.*)$"),
    ]


def contradictions(everything: Estate) -> Iterator[Problem]:
    """What keeps servers from following each other."""
    known = everything.having(PostgresSettings)
    if len(known) < 2:
        return
    first, names = known[0].the(PostgresSettings), [slot(node) for node in known]
    for node in known:
        chosen = node.the(PostgresSettings)
        for key in sorted(PostgresSettings.model_fields.keys() - _OWN):
            if getattr(chosen, key) != getattr(first, key):
                message = f"should be as on {known[0].name}: each server may lead one day"
                yield Problem(node.name, f"postgres_{key}", message)
        if node.is_loopback:
            message = "should not be a loopback address: the other servers cannot reach it"
            yield Problem(node.name, "address", message)
        if not link.is_encrypted(chosen.extra) or not link.is_ours(node, chosen.extra):
            message = "should not set TLS where a server follows another: it pins our certificate"
            yield Problem(node.name, "postgres_extra", message)
        if names.count(slot(node)) > 1:
            message = "should differ from the other servers' by more than letters and signs"
            yield Problem(node.name, "its name", message)
    for node in everything.in_group("backup"):
        if node in known:
            message = "should be a host of its own where there is a standby: it outlives both"
            yield Problem(node.name, "group backup", message)


def refused(node: Node) -> Iterator[Problem]:
    """Why a run would not make a host follow another."""
    if not leader.is_replicated(node):
        return
    known = node.estate.having(PostgresSettings)
    try:
        first = leader.leader(node.estate)
    except Unreadable as unknown:
        # Once: it is said of all of them.
        if node is next(each for each in known if each in node.estate.active):
            yield Problem(node.name, "group postgres", str(unknown))
        return
    if node is first:
        return
    is_there, mine = first in node.estate.active, leader.server_of(node)
    if mine.kind == "absent" and not is_there:
        message = f"follows {first.name}, which this run does not reach: run on both"
        yield Problem(node.name, "group postgres", message)
    if is_there and cluster_version(node) != cluster_version(first):
        message = f"is {cluster_version(node)}, and {first.name} has {cluster_version(first)}"
        yield Problem(node.name, "postgres_version", f"{message}: a copy has the same")
    both = [mine, leader.server_of(first)] if is_there else []
    systems = {each.facts.get("system") for each in both}
    if len(systems - {None}) > 1:
        message = f"is a standby of another cluster than that of {first.name}"
        yield Problem(node.name, "cluster", f"{message}: move it away (pg_dropcluster)")
