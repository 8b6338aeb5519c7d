"""Packages: what all components of a host need, before any of them is configured."""

from __future__ import annotations

from tasks.core import estate, packages


def install() -> None:
    """Installs all packages of a host in one transaction; nothing is started."""
    packages.install_together(estate.here())
