"""The disks of this host that hold backups and data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from backup.config import Config, Limits
from backup.health.row import Row, measured


def rows(config: Config) -> Iterator[Row]:
    """Room and inodes of each file system, by the first of our directories that is on it."""
    places = [config.directory]
    if config.postgres is not None and config.postgres.local:
        data = Path(config.postgres.data_directory)
        places += [data, (data / "pg_wal").resolve()]
    by_disk: dict[int, Path] = {}
    # PostgreSQL's own row tells of a directory that is gone.
    for place in filter(Path.exists, places):
        by_disk.setdefault(place.stat().st_dev, place)
    for place in by_disk.values():
        found = os.statvfs(place)
        used = found.f_blocks - found.f_bfree
        yield _row(f"disk {place}", used, found.f_bavail, config.limits["disk"])
        inodes = found.f_files - found.f_ffree
        yield _row(f"inodes {place}", inodes, found.f_favail, config.limits["disk"])


def _row(name: str, used: int, left: int, limits: Limits) -> Row:
    # As df does: what only root may use is not counted as room.
    percent = 100 * used / (used + left) if used + left else 0.0
    return measured(name, percent, f"{percent:.0f} % used", limits, "%")
