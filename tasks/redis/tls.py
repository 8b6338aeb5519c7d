"""TLS of instances and Sentinels: what their files say of it, and who has to speak it."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.tls import certificates
from tasks.tls.certificates import AUTHORITY, is_on, is_shown

# Instances and Sentinels are of one user, and so is what scratch servers of a backup host show.
SERVICE, GROUP = "redis", "redis"

# How one listens and reaches its master, and what a server has without TLS: set in operations of
# their own, see moving.py. Of what it comes with, only what is there no more.
MOVED = {"tls-port": "0", "tls-replication": "no"}
SHOWN = {"tls-cert-file": "", "tls-key-file": "", "tls-ca-cert-file": "", "tls-auth-clients": "yes"}
APART = frozenset({"port", *MOVED})


def certify(node: Node) -> None:
    """A key and a certificate for what serves and asks as Redis on a host."""
    certificates.certify(node, SERVICE, GROUP)


def parameters(node: Node, port: int) -> dict[str, str]:
    """What the file of an instance or a Sentinel says; without TLS only its port.

    Clients show no certificate: they have passwords, and one that is shown and has expired would
    shut out who has the right password.
    """
    shown = {
        "tls-cert-file": certificates.certificate_file(SERVICE, node),
        "tls-key-file": certificates.key_file(SERVICE, node),
        "tls-auth-clients": "no",
    }
    if is_on(node):
        ca = {"tls-ca-cert-file": AUTHORITY}
        return {"port": "0", "tls-port": str(port), "tls-replication": "yes", **shown, **ca}
    if is_shown(node):
        return {"port": str(port), "tls-port": str(published(node, port)), **shown}
    return {"port": str(port)}


def published(node: Node, port: int) -> int:
    """The port of a container that its host publishes; with certificates that is TLS's own."""
    return port + is_shown(node)


def files(node: Node) -> dict[str, str]:
    """Where a program that is no server finds what it comes with; empty without TLS."""
    if not is_on(node):
        return {}
    certificate = certificates.certificate_file(SERVICE, node)
    key = certificates.key_file(SERVICE, node)
    return {"authority": AUTHORITY, "certificate": certificate, "private": key}


def fingerprint(node: Node) -> str:
    """What a server should have loaded of certificates; empty without TLS."""
    return certificates.fingerprint(node, SERVICE)


def variables(node: Node) -> dict[str, str]:
    """What shell that talks to servers has to know, as variables: see shell/link.sh."""
    return {"REDIS_TLS": "yes"} if is_on(node) else {}


def options(node: Node) -> str:
    """What redis-cli is told to reach a server, for people."""
    return f"--tls --cacert {AUTHORITY} " if is_on(node) else ""
