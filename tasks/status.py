"""Fetches the status page that the health check of a backup host has written."""

from __future__ import annotations

import base64
import re
from collections.abc import Generator
from pathlib import Path

from pyinfra import logger
from pyinfra.api import StringCommand, operation

from backup.config import STATUS_PAGE
from tasks.backup.settings import BackupSettings
from tasks.compose.settings import DockerSettings
from tasks.core import asking, estate, remote
from tasks.core.estate import Estate, Node
from tasks.core.scripts import quoted, shell
from tasks.core.settings import Problem

# Minutes; the health check runs every five.
_OLD = 15


def fetch() -> None:
    """Writes the page of each backup host to the working directory, and says where, and its age."""
    node = estate.here(_wrong)
    asking.only_looks()
    if path := _path(node):
        _fetched(path=path, name="Status page: fetch")


def _wrong(everything: Estate) -> list[Problem]:
    """What hangs or is not well is what the page is to show."""
    return list(everything.problems)


def _path(node: Node) -> str:
    """Where the page is on the host; empty where there is none."""
    if node.inside is not None:
        return f"{node.the(DockerSettings).project_dir}/backups/{STATUS_PAGE}"
    chosen = node.of(BackupSettings)
    return f"{chosen.dir}/{STATUS_PAGE}" if chosen else ""


@operation()
def _fetched(path: str) -> Generator[StringCommand, None, None]:
    node = estate.here()
    if not node.host.state.is_executing:
        return
    output = remote.run(node.host, shell("page", "backup", page=path))
    if not output.ok or len(output.stdout) < 2:
        told = f"{path} is not there: run health-check.sh on this host"
        yield StringCommand("echo", quoted(told), ">&2; exit 1")
        return
    seconds, *encoded = output.stdout
    target = Path(f"status-{re.sub(r'[^A-Za-z0-9._-]', '_', node.name)}.html")
    _put(target, base64.b64decode("".join(encoded)))
    minutes = int(seconds) // 60
    age = f"written {minutes} min ago"
    if minutes >= _OLD:
        age += ": old, the health check does not run; look at cron"
    logger.info(f"{node.host.print_prefix}{target.absolute()}: {age}")


def _put(target: Path, page: bytes) -> None:
    """Names of roles and queries are in it: it is for who has fetched it."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(0o600, exist_ok=False)
    partial.write_bytes(page)
    partial.replace(target)
