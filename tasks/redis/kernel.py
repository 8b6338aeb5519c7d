"""What Redis asks of the kernel."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import logger

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import File, render
from tasks.core.remote import Probe
from tasks.core.scripts import shell

_KERNEL = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/net/core/somaxconn": "1024",
    "/sys/kernel/mm/transparent_hugepage/enabled": "madvise",
}


# What systemd sets at every boot.
KERNEL_FILES = (
    File("/etc/sysctl.d/60-datatier-redis.conf", render("redis/sysctl.conf.j2")),
    File("/etc/tmpfiles.d/datatier-redis.conf", render("redis/tmpfiles.conf.j2")),
)


def missing_kernel(node: Node) -> Change | None:
    return kernel(node, node.read("redis")["kernel"])


def kernel_probe() -> Probe[dict[str, str]]:
    """Reads what Redis asks of the kernel."""
    script = shell("kernel", "redis", files=" ".join(_KERNEL))
    return Probe(script, lambda lines: dict(line.split("=", 1) for line in lines))


def kernel(node: Node, found: Mapping[str, str]) -> Change | None:
    """What Redis asks of the kernel, where the host lets us; a container often does not."""
    pending = []
    for path, now in found.items():
        value, _, writable = now.rpartition(":")
        if _satisfied(path, value):
            continue
        if writable:
            pending.append(path)
        else:
            logger.warning(
                f"{node.host.print_prefix}{path} should be {_KERNEL[path]} for Redis, "
                "and this host does not allow it (a container?)"
            )
    if not pending:
        return None
    return Change(
        [f"{path}: {_KERNEL[path]}" for path in pending],
        "\n".join(f"echo {_KERNEL[path]} >{path}" for path in pending),
    )


def _satisfied(path: str, value: str) -> bool:
    if path.endswith("enabled"):
        return not value or "[madvise]" in value or "[never]" in value
    if path.endswith("somaxconn"):
        return not value or int(value) >= int(_KERNEL[path])
    return value == _KERNEL[path]
