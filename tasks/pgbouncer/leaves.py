"""What PgBouncer leaves on a host."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.traces import Here, Leaves
from tasks.pgbouncer.layout import HBA, INI, USERLIST
from tasks.pgbouncer.settings import PgbouncerSettings


def _here(node: Node) -> Here:
    return Here(frozenset({"pgbouncer"} if PgbouncerSettings in node.settings else ()))


LEAVES = Leaves(
    owns=("pgbouncer",),
    marked=(INI, HBA),
    owners=((r"/etc/pgbouncer/.*|/etc/datatier/pgbouncer", "pgbouncer"),),
    units=("pgbouncer*",),
    users={"postgres": "postgresql"},
    packages=("pgbouncer",),
    here=_here,
    further={"pgbouncer": USERLIST},
    title="PgBouncer",
    goes="pgbouncer",
)
