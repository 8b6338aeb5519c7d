"""What it leaves on a host, and how that goes."""

from __future__ import annotations

from tasks.core.scripts import shell
from tasks.core.traces import Here, Leaves
from tasks.upgrade.files import APT, CRON, LIBRARY, NEEDRESTART, OWNER, TEXTFILES, TIMER, UNIT

_ALL = (UNIT, TIMER, CRON, LIBRARY, APT, NEEDRESTART, f"{TEXTFILES}/{OWNER}.prom")

LEAVES = Leaves(
    owns=(OWNER,),
    named=_ALL,
    owners=tuple((path.replace(".", r"\."), OWNER) for path in _ALL),
    expected="|".join(path.replace(".", r"\.") for path in (UNIT, TIMER, CRON)),
    units=(OWNER,),
    here=lambda _node: Here(frozenset({OWNER})),
    stopped=lambda _owner: shell("leave", "upgrade"),
    title="host",
    goes=OWNER,
)
