"""Consoles of PgBouncers on other hosts: encrypted, the certificate pinned.

Two hosts give the superuser's password there: PostgreSQL's, whose clients wait during a restart,
and the backup host. libpq before 16 would tell it in clear to any server that asks for that.
"""

from __future__ import annotations

import re

from tasks.core import certificates, files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.remote import Probe
from tasks.core.scripts import quoted
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import link
from tasks.postgres.clients import network_of
from tasks.postgres.settings import PostgresSettings

HOME = "/etc/datatier/pgbouncer/console"
TRUSTED = "/etc/datatier/poolers.pem"
_GROUPS = ("postgres", "backup")

# The file may hold a key as well.
_READ_OWN = "sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' {file} 2>/dev/null || :"


def _users(pooler: Node) -> list[Node]:
    """The hosts that give orders at a pooler's console."""
    return [node for group in _GROUPS for node in pooler.estate.in_group(group)]


def is_reached(pooler: Node) -> bool:
    """Whether a pooler's console is reached over the network."""
    return any(link.is_remote(pooler, node) for node in _users(pooler))


def clients(pooler: Node) -> list[str]:
    """From where a pooler's console is reached by password, as networks."""
    hosts = map(network_of, [pooler, *_users(pooler)])
    return [*dict.fromkeys(["127.0.0.1/32", "::1/128", *hosts])]


def is_ours(pooler: Node) -> bool:
    """Whether a pooler gets a certificate of ours, and pgbouncer_extra has no own TLS."""
    chosen = pooler.the(PgbouncerSettings)
    is_wanted = chosen.client_tls is not None or is_reached(pooler)
    return is_wanted and not any(key.startswith("client_tls_") for key in chosen.extra)


def _own_file(pooler: Node) -> str:
    extra = pooler.the(PgbouncerSettings).extra
    is_off = extra.get("client_tls_sslmode", "disable") == "disable"
    return "" if is_off else str(extra.get("client_tls_cert_file", ""))


def sslmode(pooler: Node, client: Node) -> str:
    """How a host verifies who answers; empty where it is near, or pgbouncer_extra forbids TLS."""
    if not link.is_remote(pooler, client):
        return ""
    if is_ours(pooler):
        return "verify-full"
    return "verify-ca" if _own_file(pooler) else ""


def parameters(pooler: Node) -> dict[str, str]:
    """What PgBouncer's configuration says of it."""
    if not is_ours(pooler):
        return {}
    return {
        "client_tls_sslmode": pooler.the(PgbouncerSettings).client_tls or "allow",
        # It refuses certificates of clients; with 1.3 they would hear of it when it is too late to
        # go on without TLS.
        "client_tls_protocols": "tlsv1.2",
        "client_tls_key_file": f"{HOME}/key.pem",
        "client_tls_cert_file": f"{HOME}/certificate.pem",
    }


def probe(pooler: Node) -> Probe[str]:
    """The certificate that other hosts have to know; empty where there is none."""
    if is_ours(pooler):
        return certificates.probe(pooler, HOME)
    file = _own_file(pooler)
    return Probe(_READ_OWN.format(file=quoted(file)) if file else ":", "\n".join)


def certificate(pooler: Node) -> str:
    """The one of ours that PgBouncer has to load."""
    return str(pooler.read("pgbouncer")["console"]) if is_ours(pooler) else ""


def missing_key(pooler: Node) -> Change | None:
    """The key and certificate, made once."""
    if not is_ours(pooler) or certificate(pooler):
        return None
    return certificates.make(pooler, HOME)


def trusting(client: Node) -> list[Entry]:
    """The file with the certificates of poolers, where a host has one."""
    return _trusted("") if _poolers(client) else []


def missing_certificates(client: Node) -> Change | None:
    """The certificates of poolers, on a host that reaches their consoles over the network."""
    if not _poolers(client):
        return None
    found = client.read("postgres" if PostgresSettings in client.settings else "backup")["files"]
    content = known_certificates(client, found[TRUSTED])
    return files.compare(_trusted(content), found) if content else None


def _trusted(content: str) -> list[Entry]:
    return [Directory("/etc/datatier"), File(TRUSTED, content)]


def _poolers(client: Node) -> list[Node]:
    """Those whose certificate a host has to know."""
    if client.groups.isdisjoint(_GROUPS):
        return []
    return [node for node in client.estate.having(PgbouncerSettings) if sslmode(node, client)]


def known_certificates(client: Node, before: Found) -> str:
    """The content of that file; who is not in the run keeps what is known of it."""
    poolers = _poolers(client)
    known = dict(re.findall(r"(?ms)^# (\S+)\n(.*?)(?=^# |\Z)", before.content.decode()))
    for pooler in poolers:
        if pooler in client.estate.active:
            said = str(pooler.read("pgbouncer")["console"]).rstrip()
            if said or not client.host.state.is_executing:
                known[pooler.address] = f"{said or link.TO_COME}\n"
    wanted = {pooler.address for pooler in poolers}
    return "".join(f"# {name}\n{text}" for name, text in known.items() if name in wanted)
