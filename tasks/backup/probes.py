"""What one read of the backup host tells."""

from __future__ import annotations

from typing import Any

from tasks.backup.files import files_of
from tasks.backup.passphrase import repositories_probe, root, unready_probe
from tasks.backup.program import left_probe
from tasks.backup.repository import stanza_probe
from tasks.backup.server import version_of
from tasks.backup.service import services_of
from tasks.backup.settings import BackupSettings
from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.postgres import archive
from tasks.postgres.rules import extensions_probe, locales_probe


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    return {
        "files": files.probe(files_of(node)),
        "program": left_probe(),
        "services": services.probe(services_of(node), node.place),
        "certificate": archive.certificate_probe(node),
        "artifacts": artifacts_probe(node.the(BackupSettings).dir),
        "occupied": files.occupied_probe("backups", node.the(BackupSettings).dir),
        "stanza": stanza_probe(node),
        "repositories": repositories_probe(root(node)),
        "unready": unready_probe(),
        "signers": signers_probe(node.the(BackupSettings).dir),
        "extensions": extensions_probe(version_of(node)),
        "locales": locales_probe(),
    }


def artifacts_probe(directory: str) -> Probe[bool]:
    """Whether there are backups in a directory."""
    return Probe(_ARTIFACTS.format(dir=directory), bool)


def signers_probe(directory: str) -> Probe[list[str]]:
    """Which keys the lists in the buckets were signed with when they were last written."""
    return Probe(shell("signers", "backup", directory=directory), list)


# A repository is begun by the first deployment, an artifact by the first job.
_ARTIFACTS = (
    "ls -d {dir}/pgbackrest/backup {dir}/postgres/*.gz* {dir}/redis/*.gz* 2>/dev/null || true"
)
