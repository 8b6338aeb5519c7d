"""The exporter as a service."""

from __future__ import annotations

from tasks.core import http
from tasks.core.component import components
from tasks.core.estate import Node
from tasks.core.offer import place
from tasks.core.places import Service
from tasks.core.scripts import quoted
from tasks.exporter.layout import NAME, PROGRAM, TEXTFILES, WEB
from tasks.exporter.settings import USER, ExporterSettings
from tasks.tls import certificates
from tasks.tls.probes import AUTHORITY

# Debian's own leave out /mnt and /media, where data may be, and the root of a container.
_NO_MOUNTS = "^/(dev|proc|run|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
_NO_TYPES = (
    "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660"
    "|mqueue|nsfs|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$"
)


def listens_at(node: Node) -> str:
    """Where it is reached."""
    return place(node.address, node.the(ExporterSettings).exporter_port)


def arguments(node: Node) -> list[str]:
    """What the exporter is started with."""
    ours = "|".join(sorted({name for each in components() for name in each.leaves.owns}))
    units = f"^({ours}).*[.](service|timer)$"
    return [
        f"--web.listen-address={listens_at(node)}",
        f"--web.config.file={WEB}",
        f"--collector.filesystem.mount-points-exclude={_NO_MOUNTS}",
        f"--collector.filesystem.fs-types-exclude={_NO_TYPES}",
        # A share that hangs is told within the seconds that a health check has.
        "--collector.filesystem.mount-timeout=2s",
        f"--collector.textfile.directory={TEXTFILES}",
        "--collector.systemd",
        f"--collector.systemd.unit-include={units}",
    ]


def is_encrypted(node: Node) -> bool:
    """Whether it speaks TLS; in Docker certificates are the project's."""
    return certificates.is_on(node) and node.inside is None


def asking(node: Node) -> str:
    """Shell: ask, demands."""
    authority = AUTHORITY if is_encrypted(node) else ""
    return http.asking(
        node.address, node.the(ExporterSettings).exporter_port, "/metrics", authority
    )


def service_of(node: Node) -> Service:
    """Debian's exporter, which measures its host and can change nothing of it."""
    own_address = (node.address, node.the(ExporterSettings).exporter_port)
    return Service(
        name=NAME,
        description="exporter of a host's metrics",
        command=quoted(PROGRAM, *arguments(node)),
        user=USER,
        group=USER,
        unit=f"{NAME}.service",
        ready=f"{asking(node)}demands",
        reload=":",
        listens=None if node.is_loopback else own_address,
        confined="measures",
    )
