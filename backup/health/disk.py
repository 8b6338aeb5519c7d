"""The disks of this host that hold backups and data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from backup.config import Config, Limits
from backup.health.row import Row, measured


def rows(config: Config) -> Iterator[Row]:
    """Room and inodes of each file system, by the first of our directories that is on it."""
    by_disk: dict[int, Path] = {}
    # PostgreSQL's own row tells of a directory that is gone.
    for place in filter(Path.exists, places(config)):
        by_disk.setdefault(place.stat().st_dev, place)
    for place in by_disk.values():
        found = os.statvfs(place)
        used = found.f_blocks - found.f_bfree
        yield row(f"disk {place}", used, found.f_bavail, config.limits["disk"])
        inodes = found.f_files - found.f_ffree
        yield row(f"inodes {place}", inodes, found.f_favail, config.limits["disk"])


def places(config: Config) -> list[Path]:
    """Our directories on this host."""
    if config.postgres is None or not config.postgres.local:
        return [config.directory]
    data = Path(config.postgres.data_directory)
    return [config.directory, data, (data / "pg_wal").resolve()]


def mount_of(place: Path) -> str:
    """The mount point that a directory is on."""
    return str(next(each for each in (place, *place.parents) if os.path.ismount(each)))


def row(name: str, used: float, left: float, limits: Limits) -> Row:
    """How much is used, as df tells: what only root may use is not counted as room."""
    percent = 100 * used / (used + left) if used + left else 0.0
    return measured(name, percent, f"{percent:.0f} % used", limits, "%")
