"""What keeps others from restarting our services, and what a host tells of itself."""

from __future__ import annotations

from tasks.core import files, packages
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, render
from tasks.core.places import STATE_DIRECTORY
from tasks.core.scripts import shell

OWNER = "datatier-host"
LIBRARY = "/usr/local/lib/datatier"
SCRIPT, HOOK = f"{LIBRARY}/look-after-host", f"{LIBRARY}/keep-running"
APT, NEEDRESTART = "/etc/apt/apt.conf.d/05datatier", "/etc/needrestart/conf.d/datatier.conf"
UNIT, TIMER = (f"/etc/systemd/system/{OWNER}.{kind}" for kind in ("service", "timer"))
CRON = f"/etc/cron.d/{OWNER}"
STATE = f"{STATE_DIRECTORY}/host-updates"
TEXTFILES = "/var/lib/prometheus/node-exporter"


def files_of(node: Node) -> list[Entry]:
    """Every file; what keeps services running only where packages of ours bring some."""
    script = render("upgrade/look-after-host.j2", textfiles=TEXTFILES, state=STATE)
    return [
        Directory(LIBRARY),
        File(SCRIPT, script, mode="755"),
        *_schedule(node),
        *_kept(packages.of_all(node).held),
    ]


def _schedule(node: Node) -> list[Entry]:
    if node.place.is_init:
        unit = render("upgrade/datatier-host.service.j2", script=SCRIPT)
        return [File(UNIT, unit), File(TIMER, render("upgrade/datatier-host.timer.j2"))]
    return [Directory("/etc/cron.d"), File(CRON, render("upgrade/cron.j2", script=SCRIPT))]


def _kept(held: tuple[str, ...]) -> list[Entry]:
    if not held:
        return []
    return [
        File(HOOK, render("upgrade/keep-running.j2", held=held), mode="755"),
        File(APT, render("upgrade/05datatier.j2", held=held, hook=HOOK)),
        # It may be installed later.
        Directory("/etc/needrestart"),
        Directory("/etc/needrestart/conf.d"),
        File(NEEDRESTART, render("upgrade/needrestart.conf.j2", held=held)),
    ]


def missing_files(node: Node) -> Change | None:
    said = node.read("upgrade")
    change = files.compare(files_of(node), said["files"])
    if not node.place.is_init or (change is None and said["starts"]):
        return change
    start = Change([] if change else [f"{OWNER}.timer: enable"], shell("timer", "upgrade"))
    return change.followed_by(start) if change else start
