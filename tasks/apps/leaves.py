"""What applications leave on a host."""

from __future__ import annotations

from tasks.apps.settings import PREFIX, AppsSettings, apps_of
from tasks.core.change import Change
from tasks.core.estate import DOCKER, Node
from tasks.core.scripts import shell
from tasks.core.traces import Here, Leaves, Traces
from tasks.core.users import OURS


def _here(node: Node) -> Here:
    if AppsSettings not in node.settings or DOCKER in node.groups:
        return Here()
    return Here(
        frozenset(app.service for app in apps_of(node)),
        reads=shell("left", "apps", prefix=PREFIX, ours=OURS),
    )


def _last(_node: Node, found: Traces) -> tuple[Change | None, str]:
    """Their users stay: the next user would get the number, and what belongs to it."""
    users = ", ".join(found.said.get("app", ()))
    return None, f"users {users}: stay; files elsewhere may be theirs" if users else ""


LEAVES = Leaves(
    owns=(PREFIX,),
    marked=(f"/etc/systemd/system/{PREFIX}*.service",),
    owners=((rf"/etc/datatier/({PREFIX}[a-z0-9-]+)", r"\1"),),
    here=_here,
    last=_last,
    title="applications",
    goes=PREFIX,
)
