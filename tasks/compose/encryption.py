"""TLS of the published port of PgBouncer: key and certificate are made by the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.compose.inside import one
from tasks.compose.services import inside_of
from tasks.compose.settings import POSTGRES, DockerSettings
from tasks.core import certificates, files
from tasks.core.change import Change
from tasks.core.estate import DOCKER, Node
from tasks.core.remote import Probe
from tasks.core.settings import Problem
from tasks.pgbouncer import console
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.tls.probes import leading_to


def is_on(node: Node) -> bool:
    """Whether clients of the project's pooler may use TLS."""
    return console.is_pinned(one(inside_of(node), PgbouncerSettings))


def _home(node: Node) -> str:
    return f"{node.the(DockerSettings).project_dir}/docker/pgbouncer/tls"


def probes(node: Node) -> dict[str, Probe[Any]]:
    """The certificate that clients have to know, and whether another one could be made."""
    if not is_on(node):
        return {}
    return {
        "console": certificates.probe(node, _home(node)),
        "openssl": certificates.OPENSSL,
    }


def checks(node: Node) -> Iterator[Problem]:
    """A host that could make none."""
    if is_on(node) and not node.read(DOCKER)["openssl"]:
        message = "needs openssl, which makes the key: apt-get install openssl"
        yield Problem(node.name, "pgbouncer_client_tls", message)


def missing_key(node: Node) -> Change | None:
    """The key and the certificate, made once, before a configuration names them."""
    if not is_on(node) or node.read(DOCKER)["console"]:
        return None
    home = _home(node)
    change = certificates.make(node, home, owner=POSTGRES)
    there = files.compare(leading_to(home), node.read(DOCKER)["files"])
    return there.followed_by(change) if there else change
