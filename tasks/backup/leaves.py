"""What the backup service leaves on a host, and how that goes."""

from __future__ import annotations

from backup.arguments import SCRIPTS
from backup.postgres.sandbox import USER
from tasks.backup.settings import BackupSettings
from tasks.core import lock
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.scripts import quoted, shell
from tasks.core.traces import Here, Leaves, Traces
from tasks.postgres import archive


def _chosen(node: Node) -> BackupSettings:
    """Where backups are or were, on a host of any group."""
    chosen = node.of(BackupSettings)
    return chosen or BackupSettings.of(node.name, node.host.data.dict(), {})[0] or BackupSettings()


def _here(node: Node) -> Here:
    chosen, is_mine = _chosen(node), BackupSettings in node.settings
    scripts, home = chosen.scripts_dir, chosen.dir
    wanted = {"cron"} if is_mine else set[str]()
    if is_mine and archive.backup_host(node.estate):
        wanted |= {"archiving", *(("pgbackrest",) if archive.is_remote(node) else ())}
    return Here(
        frozenset(wanted),
        marked=(f"{scripts}/*.sh",),
        beside=(f"{scripts}/*",) if is_mine else (),
        known=tuple(f"{scripts}/{name}" for name in (*SCRIPTS.values(), "backup.sh"))
        if is_mine
        else (),
        data=(f'$(ours_in {quoted(home)} "$in_backups")',) if is_mine else (),
        reads=shell("scratch-user", "backup", user=USER, scratch=f"{home}/scratch"),
    )


def _last(node: Node, found: Traces) -> tuple[Change | None, str]:
    """The user of scratch servers, when nothing runs as it and nothing is its."""
    said = "".join(found.said.get("user", ()))
    if said == "idle" or (said == "files" and node.stack.destroy_data):
        return Change([f"user {USER}: remove"], f"userdel {USER}\n"), ""
    why = "a program of it runs" if said == "runs" else "it has files in the backups"
    return None, f"user {USER}: stays; {why}" if said else ""


LEAVES = Leaves(
    owns=("cron", "pgbackrest", "archiving"),
    named=(
        "/usr/lib/datatier",
        "/etc/cron.d/datatier-backup",
        "/etc/logrotate.d/datatier-backup",
    ),
    marked=("/etc/pgbackrest.conf",),
    owners=(
        (r"/etc/datatier/(pgbackrest)", r"\1"),
        (r"/etc/pgbackrest\.conf|/.*/restore-cluster\.sh", "archiving"),
        (r"/etc/datatier/(backup\.json|pgbackrest-scratch\.conf|postgres\.pem)", "cron"),
        (r"/etc/(cron|logrotate)\.d/.*|/usr/lib/datatier|/.*\.sh", "cron"),
    ),
    beside=("/etc/cron.d/datatier*",),
    expected=r"/etc/cron\.d/datatier-backup",
    places=("/etc/cron.d/", "/scripts/"),
    units=("pgbackrest*",),
    users={"postgres": "postgresql"},
    packages=("pgbackrest",),
    here=_here,
    shared="cron",
    before={"cron": shell("no-jobs", "backup") + lock.idle()},
    last=_last,
    title="backups",
    goes="cron",
)
