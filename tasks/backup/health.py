"""Its rows of the health table."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.backup.settings import BackupSettings
from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.postgres import archive


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    scripts = node.the(BackupSettings).scripts_dir
    script = f"{shell('cron-runs', 'backup')}timeout 60 {scripts}/backup.sh status --brief"
    connect = f"{scripts}/backup.sh list"
    yield from archive.rows(node)
    # What is wrong with the backups is not over in a minute.
    yield Check("backup-service", node, "-", script, connect, 4, settles=False)
