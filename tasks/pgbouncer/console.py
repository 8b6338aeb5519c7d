"""Consoles of PgBouncers on other hosts: encrypted, the certificate pinned.

Two hosts give the superuser's password there: PostgreSQL's, whose clients wait during a restart,
and the backup host. libpq before 16 would tell it in clear to any server that asks for that.

Where hosts have an authority they trust it as well, and a pooler shows the certificate of it as
soon as they do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.core import certificates as core_certificates
from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.remote import Probe
from tasks.core.scripts import quoted
from tasks.pgbouncer.layout import INI
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import link
from tasks.postgres.clients import network_of
from tasks.postgres.settings import PostgresSettings
from tasks.tls import certificates

HOME = "/etc/datatier/pgbouncer/console"
TRUSTED = "/etc/datatier/poolers.pem"
# In a container what its host has made is beside the configuration.
INSIDE = "/etc/pgbouncer/tls"
_GROUPS = ("postgres", "backup")
# Its directory of keys; and what the file of trusted certificates calls the authority.
SERVICE = "pgbouncer"
_AUTHORITY = "authority"

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
    return is_pinned(pooler) or has_authority(pooler)


def is_pinned(pooler: Node) -> bool:
    """Whether a pooler gets a certificate that no authority has signed."""
    is_wanted = pooler.the(PgbouncerSettings).client_tls is not None or is_reached(pooler)
    return is_wanted and not _has_own(pooler)


def has_authority(pooler: Node) -> bool:
    """Whether a pooler gets a certificate of the estate's authority."""
    return certificates.is_shown(pooler) and not _has_own(pooler)


def _has_own(pooler: Node) -> bool:
    extra = pooler.the(PgbouncerSettings).extra
    return any(key.startswith("client_tls_") for key in extra)


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
        **_files(INSIDE if pooler.place.network else HOME),
    }


def _files(home: str) -> dict[str, str]:
    return {
        "client_tls_key_file": f"{home}/key.pem",
        "client_tls_cert_file": f"{home}/certificate.pem",
    }


def shown(pooler: Node) -> dict[str, str]:
    """The certificate of the authority, once all hosts that reach the console trust it."""
    if not has_authority(pooler):
        return {}
    others = [node for node in _users(pooler) if link.is_remote(pooler, node)]
    is_known = all(_trusts(node, pooler) for node in others)
    return _files(certificates.home(SERVICE, pooler)) if is_known else {}


def _trusts(client: Node, pooler: Node) -> bool:
    """Whether a host takes the certificate of the authority; a plan counts on this run."""
    if client not in client.estate.active:
        return certificates.home(SERVICE, pooler) in _now(pooler)
    is_planned = not client.host.state.is_executing
    return is_planned or certificates.is_trusted(pooler, _found(client)[TRUSTED].content.decode())


def _now(pooler: Node) -> str:
    """The configuration that a pooler has."""
    return str(pooler.read("pgbouncer")["files"][INI].content.decode(errors="replace"))


def _found(client: Node) -> Mapping[str, Found]:
    room = "postgres" if PostgresSettings in client.settings else "backup"
    found: Mapping[str, Found] = client.read(room)["files"]
    return found


def probe(pooler: Node) -> Probe[str]:
    """The certificate that other hosts have to know; empty where there is none."""
    if is_pinned(pooler):
        return core_certificates.probe(pooler, HOME)
    file = _own_file(pooler)
    return Probe(_READ_OWN.format(file=quoted(file)) if file else ":", "\n".join)


def certificate(pooler: Node) -> str:
    """What of ours PgBouncer has to load, for comparison only."""
    pinned = str(pooler.read("pgbouncer")["console"]) if is_pinned(pooler) else ""
    return pinned + certificates.fingerprint(pooler, SERVICE) if shown(pooler) else pinned


def missing_key(pooler: Node) -> Change | None:
    """The key and certificate that others pin, made once."""
    if not is_pinned(pooler) or pooler.read("pgbouncer")["console"]:
        return None
    return core_certificates.make(pooler, HOME)


def trusting(client: Node) -> list[Entry]:
    """The file with the certificates of poolers, where a host has one."""
    return _trusted("") if _poolers(client) else []


def missing_certificates(client: Node, *, is_last: bool = True) -> Change | None:
    """The certificates of poolers, on a host that reaches their consoles over the network.

    Args:
        is_last: all poolers of the run show the certificate of the settings; a plan has told what
            came before that.
    """
    if not _poolers(client):
        return None
    found = _found(client)
    is_planned = is_last and certificates.is_on(client) and not client.host.state.is_executing
    content = "" if is_planned else known_certificates(client, found[TRUSTED])
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
    if any(has_authority(pooler) for pooler in poolers):
        known[_AUTHORITY] = certificates.trusted(client)
        wanted.add(_AUTHORITY)
    elif _AUTHORITY in known and any(_shows_authority(pooler) for pooler in poolers):
        wanted.add(_AUTHORITY)
    return "".join(f"# {name}\n{text}" for name, text in known.items() if name in wanted)


def _shows_authority(pooler: Node) -> bool:
    """Whether a pooler may still do so that has to do without; a plan counts on this run."""
    if pooler not in pooler.estate.active:
        return True
    return pooler.host.state.is_executing and certificates.home(SERVICE, pooler) in _now(pooler)
