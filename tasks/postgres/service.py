"""The server as a service, and the trial of its configuration."""

from __future__ import annotations

from tasks.core.change import Trial
from tasks.core.estate import Node
from tasks.core.places import Service
from tasks.core.preflight import hears
from tasks.core.scripts import shell
from tasks.postgres import link, psql, sql
from tasks.postgres.clients import outside
from tasks.postgres.layout import (
    cluster_version,
    configuration_directory,
    data_directory,
    ours,
    owner_of,
    unit_of,
)
from tasks.postgres.neighbors import pooler
from tasks.postgres.settings import PostgresSettings
from tasks.tls import certificates as authority


def trial(node: Node, configuration: str, access: str) -> Trial:
    """Starts a scratch server with the configuration.

    A restart that fails is an outage; PostgreSQL checks much of its configuration then only.
    """
    binaries = f"/usr/lib/postgresql/{cluster_version(node)}/bin"
    etc = configuration_directory(node)
    file = ours(node).removeprefix(f"{etc}/")
    script = shell("trial", "postgres", bin=binaries, etc=etc, file=file)
    return Trial(script, {"TRIAL_CONFIGURATION": configuration, "TRIAL_ACCESS": access})


def service_of(node: Node) -> Service:
    """PostgreSQL as a service of a host or in a container."""
    hold, release = pooler().hold(node)
    version, port = cluster_version(node), node.the(PostgresSettings).port
    unit = unit_of(node)
    binary = f"/usr/lib/postgresql/{version}/bin/postgres"
    etc = configuration_directory(node)
    data = data_directory(node)
    command = f"{binary} -D {data} -c config_file={etc}/postgresql.conf"
    reloads = {"data": data, "unit": unit, "waits": sql.WAITS}
    owned = sql.owned(owner_of(node))
    return Service(
        name="postgres",
        description="PostgreSQL",
        command=command,
        user="postgres",
        group="postgres",
        configuration=(f"{etc}/conf.d/datatier.conf", f"{etc}/pg_hba.conf"),
        check=shell("check", "postgres", command=command),
        unit=unit,
        enabled_by="postgresql.service",
        runtime_directory="/var/run/postgresql",
        stop_signal="INT",
        ready=psql.SHELL + owned + shell("ready", "postgres", data=data, port=str(port)),
        # Until Debian's pg_ctlcluster is content, systemd waits for two seconds more.
        knows_itself=True,
        reload=psql.SHELL + shell("reload", "postgres", **reloads) + _shows(node),
        hold=hold,
        release=release,
        program=binary,
        package=f"postgresql-{version}",
        listens=outside(node),
        # Extensions make code and talk to the network, and a tablespace may be anywhere.
        confined="mostly",
    )


def _shows(node: Node) -> str:
    """Shell that asks the server for its certificate, where that is the authority's."""
    chosen = node.the(PostgresSettings)
    if not link.has_authority(node, chosen.extra):
        return ""
    is_near = chosen.listen_addresses is None or hears(chosen.listen_addresses, "localhost")
    address = "127.0.0.1" if is_near else node.address
    place = f"[{address}]:{chosen.port}" if ":" in address else f"{address}:{chosen.port}"
    return authority.shows(node, link.SERVICE, place, "postgres", ours(node))
