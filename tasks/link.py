"""The link to PostgreSQL from a PgBouncer on another host: encrypted, the certificate pinned."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.estate import Node
from tasks.core.remote import Probe

HOME = "/etc/datatier/postgres"
# Of these in postgres_extra one is enough: then the certificate is somebody's own.
_OWN = {"ssl", "ssl_cert_file", "ssl_key_file"}

# What the server uses is asked of the server: a file may have been written and not loaded yet.
_SERVED = """
if [ -s {home}/certificate.pem ]; then
  served=$(timeout 3 openssl s_client -starttls postgres -connect {place} </dev/null \\
    2>/dev/null | openssl x509 2>/dev/null) || served=
  if [ "$served" = "$(openssl x509 -in {home}/certificate.pem)" ]; then echo "$served"; fi
fi
"""


def is_remote(server: Node, pooler: Node) -> bool:
    """Whether the link leaves the host; containers of one project share a bridge."""
    return pooler is not server and not server.estate.subnet


def is_ours(server: Node, extra: Mapping[str, object]) -> bool:
    """Whether the server gets a certificate of ours: poolers elsewhere pin it."""
    poolers = server.estate.in_group("pgbouncer")
    return any(is_remote(server, pooler) for pooler in poolers) and not _OWN & extra.keys()


def parameters() -> dict[str, str]:
    """What PostgreSQL's configuration says of it."""
    return {
        "ssl": "on",
        "ssl_cert_file": f"{HOME}/certificate.pem",
        "ssl_key_file": f"{HOME}/key.pem",
    }


def served_probe(server: Node, port: int) -> Probe[str]:
    """The certificate of ours that the running server shows; empty where it shows another."""
    host = f"[{server.address}]" if ":" in server.address else server.address
    return Probe(_SERVED.format(home=HOME, place=f"{host}:{port}"), "\n".join)
