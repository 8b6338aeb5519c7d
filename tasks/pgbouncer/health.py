"""Its row of the health table."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check, place
from tasks.core.estate import Node
from tasks.core.scripts import quoted
from tasks.pgbouncer.layout import SOCKETS
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres.health import answers
from tasks.postgres.secrets import application, role_password
from tasks.postgres.settings import PostgresSettings

_SERVED = (
    "SELECT pg_catalog.concat('query as ', current_user, pg_catalog.chr(10), 'cluster ',"
    " (SELECT s.system_identifier FROM pg_catalog.pg_control_system() s))"
)


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    chosen = node.the(PgbouncerSettings)
    port = chosen.listen_port
    at = place(node, chosen.listen_addr)
    where = f"{at}:{port}"
    served = application(node.estate.having(PostgresSettings)[0])
    if served is None:
        script = f"{answers(at, port)}echo accepts connections"
        yield Check("pgbouncer", node, where, script, f"psql -h {at} -p {port}", 1)
        return
    name, login = served
    # The password goes to the socket: another user could have taken the port.
    script = (
        f"{answers(at, port)}"
        'PGPASSWORD="$POOL_PASSWORD" PGCONNECT_TIMEOUT=5 LC_ALL=C runuser -u postgres -- '
        f"timeout 30 psql -XAtqw -h {SOCKETS} -p {port} "
        f"-U {quoted(login)} -d {quoted(name)} "
        f'-c "{_SERVED}"'
    )
    connect = f"psql -h {at} -p {port} -U {login} {name}"
    secret = {"POOL_PASSWORD": role_password(node.estate.having(PostgresSettings)[0], login) or ""}
    yield Check("pgbouncer", node, where, script, connect, 1, secret)
