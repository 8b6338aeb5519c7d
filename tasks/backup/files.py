"""All files of the backup host."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tasks.backup.passphrase import Repository, old_backups, repositories, told
from tasks.backup.program import (
    CONFIG,
    CONFIG_SECRETS,
    configuration,
    left_modules,
    program,
    schedule,
    with_previous,
)
from tasks.backup.repository import repository, trusted_certificate
from tasks.backup.server import TRUSTED, pinned_certificate, pins, server_of
from tasks.backup.service import services_of
from tasks.backup.settings import BackupSettings
from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File
from tasks.pgbouncer.console import trusting
from tasks.postgres import link


def missing_certificate(node: Node) -> Change | None:
    if BackupSettings not in node.settings or not (pinned := pinned_certificate(node)):
        return None
    return files.compare(_certificate(pinned), node.read("backup")["files"])


def _certificate(pinned: str) -> list[Entry]:
    return [Directory("/etc/datatier"), File(TRUSTED, f"{pinned}\n")]


def missing_configuration(node: Node) -> Change | None:
    entries = _own_files(
        node,
        trusted_certificate(node),
        repositories(node),
        is_pinned=bool(pinned_certificate(node)),
    )
    said = node.read("backup")
    steps = [
        old_backups(node),
        files.compare(entries, said["files"]),
        left_modules(entries, said["program"]),
    ]
    due = [each for each in steps if each]
    return reduce(Change.followed_by, due) if due else None


def missing_passwords(node: Node) -> Change | None:
    """Passwords of PostgreSQL that the program is to know before the server has them."""
    server = server_of(node)
    if server is None or BackupSettings not in node.settings or server not in node.estate.active:
        return None
    found = node.read("backup")["files"]
    content = with_previous(found[CONFIG].content, server)
    wanted = [File(CONFIG, content, mode="600", secret=CONFIG_SECRETS)] if content else []
    return files.compare(wanted, found) if wanted else None


def files_of(node: Node) -> list[Entry]:
    is_pinned = pins(node)
    return [
        *(_certificate(link.TO_COME) if is_pinned else []),
        *trusting(node),
        *_own_files(node, is_pinned=is_pinned),
    ]


def _own_files(
    node: Node, certificate: str = "", places: Sequence[Repository] = (), *, is_pinned: bool
) -> list[Entry]:
    chosen = node.the(BackupSettings)
    content = configuration(node, told(node, places), is_pinned=is_pinned)
    return [
        Directory("/etc/datatier"),
        Directory(chosen.dir),
        *(Directory(f"{chosen.dir}/{name}", mode="750") for name in ("postgres", "redis", "logs")),
        *program(chosen),
        File(CONFIG, content, mode="600", secret=CONFIG_SECRETS),
        File("/etc/cron.d/datatier-backup", schedule(node)),
        *repository(node, certificate, places),
        *(entry for service in services_of(node, places) for entry in node.place.files(service)),
    ]
