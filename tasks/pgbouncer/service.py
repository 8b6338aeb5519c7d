"""PgBouncer as a service, and the trial of its configuration."""

from __future__ import annotations

from tasks.core.change import Trial
from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.core.scripts import shell
from tasks.pgbouncer.console import SERVICE, has_authority
from tasks.pgbouncer.layout import HBA, INI, PID_FILE, USERLIST
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.tls import certificates


def trial(ini: str, userlist: str, access: str) -> Trial:
    """Starts a second PgBouncer with the configuration, which listens nowhere."""
    script = shell("try", "pgbouncer", ini=INI) + shell("trial", "pgbouncer")
    return Trial(script, {"TRIAL_INI": ini, "TRIAL_USERS": userlist, "TRIAL_HBA": access})


def service_of(node: Node) -> Service:
    """PgBouncer as a service of a host or in a container."""
    chosen, shows = node.the(PgbouncerSettings), ""
    if has_authority(node):
        shows = certificates.shows(
            node, SERVICE, f"127.0.0.1:{chosen.listen_port}", "postgres", INI
        )
    return Service(
        name="pgbouncer",
        description="connection pooler for PostgreSQL",
        command=f"/usr/sbin/pgbouncer {INI}",
        user="postgres",
        group="postgres",
        unit="pgbouncer.service",
        runtime_directory="/var/run/postgresql",
        # TERM waits for all clients since 1.23; this one for their transactions.
        stop_signal="INT",
        # Clients, server connections, and room for logs and sockets.
        open_files=max(65536, 2 * chosen.max_client_conn),
        configuration=(INI, USERLIST, HBA),
        check=f"{shell('try', 'pgbouncer', ini=INI)}try {INI} {USERLIST} {HBA}",
        ready=f"pg_isready -q -h 127.0.0.1 -p {chosen.listen_port}",
        # The writer of that file decides which process gets the signal.
        reload=f"runuser -u postgres -- sh -c 'kill -HUP $(cat {PID_FILE})'; sleep 0.2{shows}",
        program="/usr/sbin/pgbouncer",
        package="pgbouncer",
        listens=outside(node),
        confined="wholly",
    )


def outside(node: Node) -> tuple[str, int] | None:
    """Where other hosts reach it, if that has to be an address of its host."""
    chosen = node.the(PgbouncerSettings)
    named = chosen.listen_addr is None or node.address in chosen.listen_addr.split(",")
    is_own = named and not node.is_loopback and not node.place.network
    return (node.address, chosen.listen_port) if is_own else None
