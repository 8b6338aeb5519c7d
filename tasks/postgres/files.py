"""The files of the configuration."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tasks.core import files, live
from tasks.core.change import Change, Trial
from tasks.core.estate import Node
from tasks.core.files import Entry, File, render
from tasks.core.places import Service
from tasks.postgres import archive, clusters, link, replication, sql
from tasks.postgres.clients import clients, in_clear
from tasks.postgres.layout import (
    cluster_version,
    clusters_of,
    configuration_directory,
    data_directory,
    ours,
)
from tasks.postgres.service import service_of, trial
from tasks.postgres.settings import ACCESS_LINES, ACCESS_SECRETS, PostgresSettings, memory

_NONE: Mapping[str, str] = MappingProxyType({})


def missing_configuration(node: Node) -> Change | None:
    said, waiting = node.read("postgres"), in_clear(node)
    wanted = files_of(node, trusted_certificate(node), waiting, shown(node))
    change = files.compare(wanted, said["files"])
    if change is not None and clusters_of(node).is_foreign:
        change = _adopted(node, change)
    return change and change.after(trials(node, waiting))


def trials(node: Node, waiting: Collection[Node] = ()) -> Iterator[Trial]:
    """Of a running server whose configuration is to change."""
    said = node.read("postgres")
    wanted = configuration(node, shown(node)), access(node, waiting)
    paths = ours(node), f"{configuration_directory(node)}/pg_hba.conf"
    is_same = files.are_written(dict(zip(paths, wanted, strict=True)), said["files"])
    if said["server"].kind == "up" and not is_same:
        yield trial(node, *wanted)


def _adopted(node: Node, change: Change) -> Change:
    """The change that also makes another's cluster ours."""
    archives = archive.backup_host(node.estate) is not None
    lines = clusters.adoption(cluster_version(node), clusters_of(node), archives=archives)
    etc = configuration_directory(node)
    return files.keeping(change, lines, [f"{etc}/pg_hba.conf"])


def trusted_certificate(node: Node) -> str:
    keeper = archive.backup_host(node.estate)
    if keeper is None or not archive.is_remote(node):
        return ""
    return archive.trusted(node, "postgres", keeper, "backup")


def memory_of(node: Node) -> dict[str, int]:
    """Bytes that the server may take, by key: each connection sorts once, one VACUUM runs."""
    used = parameters_of(node)
    connections = int(used["max_connections"])
    return {
        "postgres_shared_buffers": live.size(str(used["shared_buffers"])),
        "postgres_work_mem": live.size(str(used["work_mem"])) * connections,
        "postgres_maintenance_work_mem": live.size(str(used["maintenance_work_mem"])),
    }


def parameters_of(node: Node) -> dict[str, str | int | float]:
    chosen = node.the(PostgresSettings)
    defaults = memory(node.system.memory, chosen.max_connections)
    listen = "localhost" if not clients(node) else f"localhost,{node.address}"
    return {
        "listen_addresses": listen if chosen.listen_addresses is None else chosen.listen_addresses,
        "port": chosen.port,
        "max_connections": chosen.max_connections,
        "superuser_reserved_connections": chosen.superuser_reserved_connections,
        "password_encryption": "scram-sha-256",
        "shared_buffers": chosen.shared_buffers or defaults["shared_buffers"],
        "effective_cache_size": chosen.effective_cache_size or defaults["effective_cache_size"],
        "work_mem": chosen.work_mem or defaults["work_mem"],
        "maintenance_work_mem": chosen.maintenance_work_mem or defaults["maintenance_work_mem"],
        "max_wal_size": chosen.max_wal_size,
        "checkpoint_completion_target": chosen.checkpoint_completion_target,
        "random_page_cost": chosen.random_page_cost,
        "log_min_duration_statement": chosen.log_min_duration_statement,
        "statement_timeout": chosen.statement_timeout,
        "lock_timeout": chosen.lock_timeout,
        # Some have to be the first one.
        "shared_preload_libraries": ", ".join(
            dict.fromkeys((*chosen.shared_preload_libraries, "pg_stat_statements"))
        ),
        **link.parameters(node, chosen.extra),
        **replication.parameters(node),
        **archive.parameters(node),
    }


def shown(node: Node) -> dict[str, str]:
    """The certificate that it may show, where that is another one than it has at first.

    Beside it whom it follows: both are known when hosts were read.
    """
    return {**link.shown(node, node.the(PostgresSettings).extra), **replication.following(node)}


def files_of(
    node: Node,
    certificate: str = "",
    in_clear: Collection[Node] = (),
    shown: Mapping[str, str] = _NONE,
) -> list[Entry]:
    port, etc = node.the(PostgresSettings).port, configuration_directory(node)
    return [
        *own_files(node, in_clear, shown),
        *archiving_files(node, certificate),
        *archive.recovery(node, service_of(node), data_directory(node), etc, port),
        *(entry for service in services_of(node) for entry in node.place.files(service)),
    ]


def own_files(
    node: Node, in_clear: Collection[Node] = (), shown: Mapping[str, str] = _NONE
) -> list[Entry]:
    """What the server itself reads."""
    lines = f"{configuration_directory(node)}/pg_hba.conf"
    return [
        private(ours(node), configuration(node, shown), sql.SECRET_PARAMETERS),
        private(lines, access(node, in_clear), ACCESS_SECRETS, ACCESS_LINES),
    ]


def private(path: str, content: str, secret: str, opens: str | None = None) -> File:
    """A file that only the server and root read."""
    return File(path, content, "640", "postgres", "postgres", secret, opens=opens)


TRACKING = "pg_stat_statements.track_utility"


def configuration(node: Node, shown: Mapping[str, str] = _NONE) -> str:
    """The settings as postgresql.conf has them.

    Args:
        shown: parameters of the certificate that it shows; what is read to know them is read with
            this file.
    """
    parameters = {
        **(_of_container(node) if node.place.shares_files else {}),
        **parameters_of(node),
        **shown,
        # Statements that set passwords are among them.
        TRACKING: False,
        **node.the(PostgresSettings).extra,
    }
    return render("postgres/postgresql.conf.j2", parameters=_quoted(parameters))


def _of_container(node: Node) -> dict[str, str]:
    """What Debian's tools write on hosts; initdb has found out about locale and time zone."""
    return {
        "include": f"{data_directory(node)}/postgresql.conf",
        "hba_file": f"{configuration_directory(node)}/pg_hba.conf",
        "unix_socket_directories": "/run/postgresql",
        "log_line_prefix": "%m [%p] %q%u@%d ",
    }


def access(node: Node, in_clear: Collection[Node] = ()) -> str:
    """The content of pg_hba.conf."""
    lines = node.the(PostgresSettings).hba
    return render("postgres/pg_hba.conf.j2", clients=clients(node, in_clear), lines=lines)


def archiving_link(node: Node) -> str:
    """What pgBackRest's server would have to be restarted for, which ends a backup that runs.

    It reads the rest by itself.
    """
    keeper = archive.backup_host(node.estate)
    if keeper is None:
        return ""
    options, _ = archive.tls(node, [keeper], "")
    return json.dumps(options) + trusted_certificate(node)


def archiving_files(node: Node, certificate: str, *, to_come: bool = False) -> list[Entry]:
    """How this host reaches a repository that is on another one.

    Args:
        to_come: also those that the run has yet to make.
    """
    keeper = archive.backup_host(node.estate)
    if keeper is None or not archive.is_remote(node):
        return []
    options, entries = archive.tls(node, [keeper], certificate)
    # Without a certificate it is not known yet what the other host has.
    numbers = archive.repositories(node, keeper, to_come=to_come) if certificate else [1]
    cluster: dict[str, str | int] = {
        "pg1-path": data_directory(node),
        "pg1-port": node.the(PostgresSettings).port,
        "pg1-socket-path": "/var/run/postgresql",
    }
    peers = [archive.peer(f"repo{number}", keeper) for number in numbers]
    common = {**options, **ChainMap(*reversed(peers)), "log-level-file": "off"}
    return [*entries, archive.config_file(node, common, cluster)]


def _quoted(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Values as they stand between the quotes of postgresql.conf."""
    words = {True: "on", False: "off"}
    return {
        key: (words[value] if isinstance(value, bool) else str(value))
        .replace("\\", "\\\\")
        .replace("'", "''")
        for key, value in parameters.items()
    }


def services_of(node: Node) -> list[Service]:
    return [service_of(node), *([_archiving(node)] if archive.is_remote(node) else [])]


# pgBackRest's sessions say nothing of these, and are idle while files are copied. What an estate
# sets for its applications would end its backups.
_UNLIMITED = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_session_timeout"), "0"),
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
}


def _archiving(node: Node) -> Service:
    chosen = _UNLIMITED | ({"transaction_timeout": "0"} if cluster_version(node) >= 17 else {})
    options = " ".join(f"-c {name}={value}" for name, value in chosen.items())
    return replace(archive.service(node), exports={"PGOPTIONS": options})
