"""TLS: certificates of the estate's own authority, which clients verify with one file."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import Packages, install_packages
from tasks.tls.certificates import missing_authority
from tasks.tls.leaves import LEAVES
from tasks.tls.probes import probes_of
from tasks.tls.rules import checks, contradictions, secrets_in_use
from tasks.tls.settings import SECRET, TlsSettings

_PACKAGES = Packages(["openssl"])


@on(TlsSettings)
def install(node: Node) -> None:
    """Installs openssl, which makes keys."""
    install_packages(node, "TLS", _PACKAGES)


@on(TlsSettings)
def configure(node: Node) -> None:
    """Writes the certificate of the authority."""
    converge("TLS: authority", lambda: missing_authority(node))


def deploy() -> None:
    """What clients verify servers with: install, configure. Servers' own come with them."""
    install()
    configure()


COMPONENT = Component(
    group="tls",
    settings=TlsSettings,
    everywhere=True,
    secrets=lambda _node: [SECRET],
    in_use=secrets_in_use,
    rules=contradictions,
    packages=lambda _node: _PACKAGES,
    probes=probes_of,
    checks=checks,
    leaves=LEAVES,
)
