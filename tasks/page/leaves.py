"""What the server of the status page leaves on a host, and how it goes."""

from __future__ import annotations

from tasks.core.change import Change, Line
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.core.traces import Here, Leaves, Traces
from tasks.core.users import OURS
from tasks.page.layout import DIRECTORY, HOME, NAME
from tasks.page.settings import PageSettings

_KIND = "page-user"


def _here(node: Node) -> Here:
    return Here(
        frozenset({NAME} if node.of(PageSettings) else ()),
        reads=shell("user", "page", name=NAME, ours=OURS, kind=f"{_KIND} "),
    )


def _pruned(_node: Node, _owner: str) -> tuple[Line, str]:
    return Line(f"{NAME}: stop; its files go", "none"), ":"


def _last(_node: Node, found: Traces) -> tuple[Change | None, str]:
    """Its user, which owns nothing."""
    if "ours" not in found.said.get(_KIND, ()):
        return None, ""
    return Change([f"user {NAME}: remove"], f"userdel {NAME}\n"), ""


LEAVES = Leaves(
    owns=(NAME,),
    named=(DIRECTORY,),
    marked=(f"/etc/systemd/system/{NAME}.service",),
    owners=((f"{DIRECTORY}|{HOME}", NAME),),
    expected=rf"/etc/systemd/system/{NAME}\.service",
    units=(NAME,),
    users={NAME: NAME},
    here=_here,
    pruned=_pruned,
    last=_last,
    title="status page",
    goes=NAME,
)
