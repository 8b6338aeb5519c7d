"""The cgroup tree that systemd inside a container is given."""

from pathlib import Path

from tests.lab.process import LabError

_ROOT = Path("/sys/fs/cgroup")
# What Docker mounts is read-only, and on a hybrid machine mostly v1, where systemd cannot track
# its services. A mount made within the container's own namespace has only the container's part.
INIT = (
    "sh",
    "-c",
    "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /sbin/init",
)


def require_v2() -> None:
    """Refuse a machine where a container would not get a cgroup v2 of its own."""
    if not any((path / "cgroup.controllers").exists() for path in (_ROOT, _ROOT / "unified")):
        raise LabError("hosts need cgroup v2, which this machine does not mount")
