"""What one read of a host tells about its applications."""

from __future__ import annotations

from typing import Any

from tasks.apps.files import files_of
from tasks.apps.service import service_of
from tasks.apps.settings import apps_of
from tasks.apps.users import users_probe
from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.packages import Packages
from tasks.core.remote import Probe


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has applications."""
    apps = apps_of(node)
    if not apps:
        return {}
    return {
        "users": users_probe(apps),
        "files": files.probe(files_of(node)),
        "services": services.probe([service_of(node, app) for app in apps], node.place),
    }


def packages_of(node: Node) -> Packages:
    """What is to be installed before any of them is a service."""
    return Packages(node.place.packages if apps_of(node) else ())
