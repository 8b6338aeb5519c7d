"""WAL archiving: what PostgreSQL's host and the backup host need to know of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tasks.core import certificates
from tasks.core.change import Change
from tasks.core.check import Check
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File, render
from tasks.core.places import Service
from tasks.core.preflight import Listener
from tasks.core.remote import Probe, Unreadable
from tasks.core.settings import Problem
from tasks.postgres import psql
from tasks.postgres.neighbors import keeper

HOME = "/etc/datatier/pgbackrest"
TRUSTED = f"{HOME}/trusted.pem"
CONFIG = "/etc/pgbackrest.conf"
# The package's own directory, postgres's; anybody could have made pgBackRest's /tmp/pgbackrest.
LOCKS = "/var/lib/pgbackrest/lock"
PORT = 8432
ROLE = "datatier_backup"
ROLE_SECRET = "BACKUP_ROLE_PASSWORD"


def backup_host(everything: Estate) -> Node | None:
    """The host that holds the repository, if the estate has one."""
    nodes = everything.in_group("backup")
    return nodes[0] if nodes else None


def is_remote(node: Node) -> bool:
    """Whether there is a repository, and PostgreSQL is on another host.

    Containers of one project share their files.
    """
    if node.place.shares_files:
        return False
    keeper, servers = backup_host(node.estate), node.estate.in_group("postgres")
    return keeper is not None and bool(servers) and keeper not in servers


def stanza(node: Node) -> str:
    """pgBackRest's name for the cluster."""
    return node.stack.stack_name


def unusable(node: Node, extra: Mapping[str, object]) -> Iterator[Problem]:
    """Parameters that PostgreSQL would not start with where WAL is archived."""
    if backup_host(node.estate) is None:
        return
    if str(extra.get("wal_level", "")).lower() == "minimal":
        message = "should not be minimal: WAL is archived for backups"
        yield Problem(node.name, "postgres_extra/wal_level", message)
    if extra.get("archive_library"):
        message = "conflicts with archive_command, which backups use"
        yield Problem(node.name, "postgres_extra/archive_library", message)


_CLIENTS = ("postgres", "backup")


def listener() -> Listener:
    """The port that the other host reaches."""
    return Listener(PORT, "group backup", "pgbackrest", "pgbackrest.service", open_to=_CLIENTS)


def parameters(node: Node) -> dict[str, str]:
    """What PostgreSQL's configuration says about archiving."""
    if backup_host(node.estate) is None:
        return {}
    return {
        "archive_mode": "on",
        "archive_command": f"pgbackrest --stanza={stanza(node)} archive-push %p",
        "archive_timeout": "60s",
        "wal_compression": "on",
    }


def recovery(node: Node, server: Service, data: str, etc: str, port: int) -> list[Entry]:
    """The script that restores the whole cluster, where PostgreSQL is.

    Args:
        data: the data directory.
        etc: where postgresql.conf is.
    """
    host = backup_host(node.estate)
    if host is None:
        return []
    directory = keeper().scripts_dir(host)
    content = render(
        "backup/restore-cluster.sh.j2",
        data=data,
        etc=etc,
        bin=server.command.split()[0].rpartition("/")[0],
        port=port,
        psql=psql.SHELL,
        stanza=stanza(node),
        service=server,
        supervisor=node.place.functions(),
    )
    return [Directory(directory), File(f"{directory}/restore-cluster.sh", content, mode="755")]


def rivals_probe() -> Probe[list[str]]:
    """Configurations that pgBackRest reads and that are not ours."""
    places = "/etc/pgbackrest/pgbackrest.conf /etc/pgbackrest/conf.d/*.conf"
    return Probe(f"ls -d {places} 2>/dev/null || true", list)


def rivals(node: Node, found: Sequence[str]) -> list[Problem]:
    """Our jobs would write into the repository of others, or ours would not be read at all."""
    if backup_host(node.estate) is None:
        return []
    message = f"pgBackRest reads it with or before {CONFIG}, which Datatier writes: move it away"
    return [Problem(node.name, path, message) for path in found]


# --- Certificates --------------------------------------------------------------------------------

# Each host makes its own key, and trusts exactly the other's certificate.


def certificate_probe(node: Node) -> Probe[str]:
    """Reads this host's certificate; empty where there is none for its address and key."""
    return certificates.probe(node, HOME)


def trusted(node: Node, component: str, other: Node, others: str) -> str:
    """The certificate that a host should trust: the other's, or what it trusts already.

    While the other host cannot be reached nothing changes here.

    Raises:
        Unreadable: there is none, and it will not be made in this run.
    """
    is_active = other in node.estate.active
    if is_active:
        found = str(other.read(others)["certificate"])
    else:
        found = str(node.read(component)["files"][TRUSTED].content.decode().rstrip())
    if not found and (node.host.state.is_executing or not is_active):
        raise Unreadable(f"{other.name} has no certificate yet: run deploy.py on both hosts")
    return found


def trusted_of_all(node: Node, component: str, others: Sequence[Node], of: str) -> str:
    """The same of several hosts; of those that cannot be reached it keeps what it has.

    Raises:
        Unreadable: as `trusted`.
    """
    if len(others) == 1:
        return trusted(node, component, others[0], of)
    away = [each for each in others if each not in node.estate.active]
    present = str(node.read(component)["files"][TRUSTED].content.decode())
    kept = re.findall(r"(?ms)^-----BEGIN.*?^-----END [^\n]*", present) if away else []
    known = [trusted(node, component, each, of) for each in others if each not in away]
    return "\n".join(sorted({*kept, *filter(None, known)}))


def make_key(node: Node, certificate: str) -> Change | None:
    """The key and certificate of a host, made once."""
    if not is_remote(node) or certificate:
        return None
    return certificates.make(node, HOME)


Options = dict[str, str | int | list[str]]


def tls(node: Node, others: Sequence[Node], certificate: str) -> tuple[Options, list[Entry]]:
    """Options of a host's own server and the file that says whom it trusts."""
    accepted_from = [f"{other.address}={stanza(node)}" for other in others]
    options: Options = {
        "lock-path": LOCKS,
        "tls-server-address": node.address,
        "tls-server-port": PORT,
        "tls-server-ca-file": TRUSTED,
        "tls-server-cert-file": f"{HOME}/certificate.pem",
        "tls-server-key-file": f"{HOME}/key.pem",
        "tls-server-auth": accepted_from if accepted_from[1:] else accepted_from[0],
    }
    accepted = File(TRUSTED, f"{certificate}\n", group="postgres", mode="640")
    return options, [Directory(HOME, mode="750", group="postgres"), accepted]


def repositories(node: Node, other: Node, *, to_come: bool = False) -> list[int]:
    """What pgBackRest calls those that take WAL; while the other host is away, as it stands.

    Args:
        to_come: with those that a run has yet to make. No segment is archived while one of them
            refuses it.
    """
    if other in node.estate.active:
        return keeper().repositories(other) if to_come else keeper().ready(other)
    text = node.read("postgres")["files"][CONFIG].content.decode()
    return [int(number) for number in re.findall(r"(?m)^repo(\d)-host=", text)] or [1]


def peer(prefix: str, other: Node) -> Options:
    """Options that reach the other host; prefix is 'repo1' or 'pg1'."""
    return {
        f"{prefix}-host": other.address,
        f"{prefix}-host-type": "tls",
        f"{prefix}-host-port": PORT,
        f"{prefix}-host-ca-file": TRUSTED,
        f"{prefix}-host-cert-file": f"{HOME}/certificate.pem",
        f"{prefix}-host-key-file": f"{HOME}/key.pem",
    }


def config_file(
    node: Node, common: Mapping[str, object], cluster: Mapping[str, object], path: str = CONFIG
) -> File:
    """pgBackRest's configuration."""
    content = render(
        "backup/pgbackrest.conf.j2", common=common, stanza=stanza(node), cluster=cluster
    )
    return File(path, content, mode="640", group="postgres", secret=r"^repo\d-cipher-pass=(.*)$")


def _ping(node: Node) -> str:
    return f"pgbackrest server-ping --tls-server-port={PORT} {node.address}"


def rows(node: Node) -> Iterator[Check]:
    """Its row of the health table: WAL and backups stop where it does, and nothing else tells."""
    if is_remote(node):
        ping = f"timeout 10 {_ping(node)} >/dev/null 2>&1"
        script = f"{ping} || {{ echo no answer at {node.address}; exit 1; }}; echo answers"
        yield Check("pgbackrest", node, f"{node.address}:{PORT}", script, "-", 4)


def service(node: Node) -> Service:
    """pgBackRest's server, which the other host talks to."""
    return Service(
        name="pgbackrest",
        description="pgBackRest server",
        command="/usr/bin/pgbackrest server",
        user="postgres",
        group="postgres",
        unit="pgbackrest.service",
        program="/usr/bin/pgbackrest",
        package="pgbackrest",
        ready=f"{_ping(node)} 2>/dev/null",
        reload=":",
        confined="mostly",
    )
