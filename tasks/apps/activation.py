"""Which applications start or restart, and why."""

from __future__ import annotations

from dataclasses import replace

from tasks.apps.files import environment, home, offers, pending, secrets
from tasks.apps.service import service_of
from tasks.apps.settings import App, AppsSettings, apps_of
from tasks.core import services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.services import Activation, Status


def due_activation(node: Node) -> Change | None:
    """The starts and restarts that are due, or None."""
    apps = apps_of(node)
    if not apps:
        return None
    found: dict[str, Status] = node.read("apps")["services"]
    touched = pending(node)
    wanted, now = list[Activation](), dict[str, Status]()
    for app in apps:
        each = _activation(node, app)
        due, now[app.service] = _due(each, found[app.service], app.service in touched)
        wanted.append(due)
    change = services.compare(wanted, now, node.place)
    if change is None:
        return None
    # What failed on one host would fail on the next one too.
    return node.estate.one_by_one(node, AppsSettings, "an application", change)


def _activation(node: Node, app: App) -> Activation:
    offered = offers(node)
    values = {
        "command": app.command,
        "directory": app.directory,
        **environment(app, offered, home(app)),
        **secrets(offered),
    }
    return services.activation(
        service_of(node, app),
        node.place,
        restart=str(sorted(values.items())),
        keys=services.fingerprints(values),
    )


def _due(wanted: Activation, now: Status, is_touched: bool) -> tuple[Activation, Status]:
    """The same with the reason for a restart; what it has read is not known."""
    if now.restart == wanted.restart and (now.outdated or is_touched):
        means = "restart (its files have changed since its start)"
        return replace(wanted, restart_means=means), replace(now, restart="by hand")
    if keys := services.changed(wanted, now):
        wanted = replace(wanted, restart_means=f"restart ({', '.join(keys)})")
    return wanted, now
