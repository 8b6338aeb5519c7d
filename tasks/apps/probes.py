"""What one read of a host tells about its applications."""

from __future__ import annotations

from typing import Any

from tasks.apps.files import files_of
from tasks.apps.service import service_of
from tasks.apps.settings import apps_of
from tasks.apps.users import users_probe
from tasks.core import files, packages, services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has applications."""
    apps = apps_of(node)
    if not apps:
        return {}
    named = node.place.packages
    return {
        **({"packages": packages.probe(named)} if named else {}),
        "users": users_probe(apps),
        "files": files.probe(files_of(node)),
        "services": services.probe([service_of(node, app) for app in apps], node.place),
    }


def missing_packages(node: Node) -> Change | None:
    """What is to be installed before any of them is a service."""
    if not apps_of(node):
        return None
    named = node.place.packages
    return packages.compare(node, named, node.read("apps")["packages"])
