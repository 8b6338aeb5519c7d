"""The files of the configuration, and the certificate that PostgreSQL may show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tasks.core import files
from tasks.core.change import Change, Trial
from tasks.core.estate import HOST, Node
from tasks.core.files import Directory, Entry, File, Found, render
from tasks.pgbouncer import console
from tasks.pgbouncer.layout import ADOPTS, HBA, INI, PID_FILE, SOCKETS, TRUSTED, USERLIST
from tasks.pgbouncer.service import service_of, trial
from tasks.pgbouncer.settings import PREPARED_STATEMENTS, SINCE, PgbouncerSettings
from tasks.postgres import archive, leader, link, rotating, sql
from tasks.postgres import files as postgres_files
from tasks.postgres.secrets import lookup_login
from tasks.postgres.settings import (
    ACCESS_LINES,
    ACCESS_SECRETS,
    PROBE_DATABASE,
    PostgresSettings,
)

_NONE: Mapping[str, str] = MappingProxyType({})


def leads_to(node: Node) -> tuple[str, int]:
    """Where its databases are; on this host behind a socket whose directory is `postgres`'s.

    While PostgreSQL is down every local user may listen at its port.
    """
    server = server_of(node)
    host = SOCKETS if server is node else server.address
    return host, server.the(PostgresSettings).port


def foreign_files(node: Node) -> list[str]:
    """Files of a PgBouncer that is not ours; those that the package brings belong to no one."""
    said = node.read("pgbouncer")
    found: Mapping[str, Found] = said["files"]
    taken = [
        path
        for path in files.strangers(found, node.read(HOST)["pristine"])
        if path.startswith(ADOPTS)
    ]
    # The list of users has no mark of its own: it is whose the configuration is.
    is_ours = found[INI].is_ours
    users_too = found[USERLIST].content not in (b"", users(node).encode())
    return [*taken, USERLIST] if users_too and not is_ours else taken


def missing_certificate(node: Node) -> Change | None:
    if PgbouncerSettings not in node.settings or not (pinned := pinned_certificate(node)):
        return None
    return files.compare(trusted_files(pinned), node.read("pgbouncer")["files"])


def missing_configuration(node: Node) -> Change | None:
    said = node.read("pgbouncer")
    pinned = pinned_certificate(node)
    change = files.compare(own_files(node, pinned, console.shown(node)), said["files"])
    if change is not None and (foreign := foreign_files(node)):
        change = files.keeping(change, ["PgBouncer of others: adopt"], foreign)
    return change and change.after(trials(node))


def trials(node: Node) -> Iterator[Trial]:
    """Of a running pooler whose configuration is to change."""
    said = node.read("pgbouncer")
    text = configuration(node, pinned_certificate(node), console.shown(node))
    wanted = text, users(node), access(node)
    paths = INI, USERLIST, HBA
    is_same = files.are_written(dict(zip(paths, wanted, strict=True)), said["files"])
    if said["services"]["pgbouncer"].running and not is_same:
        yield trial(*wanted)


def pinned_certificate(node: Node) -> str:
    """The certificates that PostgreSQL may show; empty where there is none to pin."""
    if not pins(node):
        return ""
    return link.pinned(server_of(node), node, node.read("pgbouncer")["files"][TRUSTED])


def present_pins(node: Node) -> str:
    """Those that stand in its file."""
    found: Mapping[str, Found] = node.read("pgbouncer")["files"]
    return found[TRUSTED].content.decode().rstrip() if pins(node) else ""


def pins(node: Node) -> bool:
    """Whether PostgreSQL is on another host and has a certificate of ours."""
    return _pins(node, server_of(node))


def _pins(node: Node, server: Node) -> bool:
    is_ours = link.is_ours(server, server.the(PostgresSettings).extra)
    return is_ours and link.is_remote(server, node) and not _has_own_link(node)


def _has_own_link(node: Node) -> bool:
    return any(key.startswith("server_tls_") for key in node.the(PgbouncerSettings).extra)


def _link(node: Node, pinned: str) -> dict[str, str]:
    """How PostgreSQL is reached on another host; PgBouncer 1.18 would do so in clear."""
    if _has_own_link(node) or not link.is_remote(server_of(node), node):
        return {}
    if not pinned:
        return {"server_tls_sslmode": "prefer"}
    return {"server_tls_sslmode": "verify-full", "server_tls_ca_file": TRUSTED}


def parameters_of(node: Node, pinned: str = "") -> dict[str, str | int]:
    chosen = node.the(PgbouncerSettings)
    addresses = dict.fromkeys(("127.0.0.1", node.address))
    prepared = chosen.max_prepared_statements
    if prepared is None and node.system.release.pgbouncer >= SINCE["max_prepared_statements"]:
        prepared = PREPARED_STATEMENTS
    return {
        "listen_addr": chosen.listen_addr or ",".join(addresses),
        "listen_port": chosen.listen_port,
        "unix_socket_dir": SOCKETS,
        "auth_type": "hba",
        "auth_hba_file": HBA,
        "auth_file": USERLIST,
        "auth_query": "SELECT uname, phash FROM pgbouncer.user_lookup($1)",
        "admin_users": "postgres",
        "pool_mode": chosen.pool_mode,
        "max_client_conn": chosen.max_client_conn,
        "default_pool_size": chosen.default_pool_size,
        "min_pool_size": chosen.min_pool_size,
        "reserve_pool_size": chosen.reserve_pool_size,
        "reserve_pool_timeout": chosen.reserve_pool_timeout,
        "max_db_connections": chosen.connections_per_database,
        **({"max_prepared_statements": prepared} if prepared is not None else {}),
        "query_wait_timeout": chosen.query_wait_timeout,
        "server_login_retry": chosen.server_login_retry,
        "server_connect_timeout": chosen.server_connect_timeout,
        "server_lifetime": chosen.server_lifetime,
        "server_idle_timeout": chosen.server_idle_timeout,
        "tcp_keepalive": 1,
        "tcp_keepidle": chosen.tcp_keepidle,
        "tcp_keepintvl": chosen.tcp_keepintvl,
        "tcp_keepcnt": chosen.tcp_keepcnt,
        **_link(node, pinned),
        **console.parameters(node),
        "ignore_startup_parameters": chosen.ignore_startup_parameters,
        **({} if node.place.logs_output else {"logfile": "/var/log/postgresql/pgbouncer.log"}),
        "pidfile": PID_FILE,
    }


def all_parameters(
    node: Node, pinned: str = "", shown: Mapping[str, str] = _NONE
) -> dict[str, str | int | float]:
    """The parameters with those of `extra`; PgBouncer knows truth as 1 and 0.

    Args:
        shown: parameters of the certificate that it shows.
    """
    extra = node.the(PgbouncerSettings).extra
    return {
        **parameters_of(node, pinned),
        **shown,
        **{key: int(value) if isinstance(value, bool) else value for key, value in extra.items()},
    }


def server_of(node: Node) -> Node:
    """The server that takes writes, once hosts were read."""
    return leader.presumed(node.estate)


def configuration(node: Node, pinned: str = "", shown: Mapping[str, str] = _NONE) -> str:
    """The content of pgbouncer.ini."""
    postgres = server_of(node).the(PostgresSettings)
    host, port = leads_to(node)
    return render(
        "pgbouncer/pgbouncer.ini.j2",
        host=host,
        port=port,
        databases=list(postgres.databases),
        probe=PROBE_DATABASE,
        probed=next(iter(postgres.databases), ""),
        # Not for all databases: a stranger's login to the console would end PgBouncer 1.18.
        auth_user=lookup_login(node.estate)[0],
        parameters=all_parameters(node, pinned, shown),
    )


def users(node: Node) -> str:
    """The content of userlist.txt."""
    postgres = server_of(node).the(PostgresSettings)
    admin = sql.scram(postgres.password.get_secret_value(), "postgres")
    known = dict([lookup_login(node.estate), ("postgres", admin)])
    return render("pgbouncer/userlist.txt.j2", users=known)


def access(node: Node) -> str:
    """The content of pg_hba.conf: roles of the infrastructure reach the console and no database."""
    return render(
        "pgbouncer/pg_hba.conf.j2",
        admin=sql.SUPERUSER,
        probe=PROBE_DATABASE,
        lines=node.the(PgbouncerSettings).hba,
        consoles=console.clients(node),
        inner=",".join((sql.SUPERUSER, *_lookups(node), archive.ROLE)),
    )


def _lookups(node: Node) -> list[str]:
    return [role.name for role in rotating.lookup_roles(node.estate.secrets)]


USERS_SECRET = r'^"[^"]*" "(.*)"$'


# Who is in the list, and in the settings a key, or the whole line where that says who and whither.
USERS = r'\s*("[^"]*")'


OPENS = (
    r"\s*(?![;#\[\s])"
    r"((?:admin_users|stats_users|auth_\w+|%include|[^=]*=.*\bhost\s*=).*|[^=\s]+)"
)


LINK_SECRET = r"(?i)passw\w*\s*=\s*('[^']*'|\S+)"


def trusted_files(pinned: str) -> list[Entry]:
    directory = TRUSTED.rpartition("/")[0]
    return [Directory("/etc/datatier"), Directory(directory), File(TRUSTED, f"{pinned}\n")]


def files_of(node: Node) -> list[Entry]:
    # One that leads one day may be on another host.
    servers = node.estate.having(PostgresSettings)
    pinned = link.TO_COME if any(_pins(node, server) for server in servers) else ""
    return [*(trusted_files(pinned) if pinned else []), *own_files(node, pinned)]


def own_files(node: Node, pinned: str = "", shown: Mapping[str, str] = _NONE) -> list[Entry]:
    return [
        # First: PgBouncer that finds no such file lets no client in.
        postgres_files.private(HBA, access(node), ACCESS_SECRETS, ACCESS_LINES),
        postgres_files.private(INI, configuration(node, pinned, shown), LINK_SECRET, OPENS),
        postgres_files.private(USERLIST, users(node), USERS_SECRET, USERS),
        *node.place.files(service_of(node)),
    ]
