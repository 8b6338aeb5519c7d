"""TLS: certificates of the estate's own authority, which clients verify with one file."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component, components
from tasks.core.estate import Estate, Node, on
from tasks.core.offer import Offer, Reach
from tasks.core.packages import Packages, install_packages
from tasks.tls import certificates
from tasks.tls.certificates import AUTHORITY, missing_authority
from tasks.tls.health import rows
from tasks.tls.leaves import LEAVES
from tasks.tls.probes import probes_of
from tasks.tls.rules import checks, contradictions, secrets_in_use
from tasks.tls.settings import SECRET, TlsSettings

_PACKAGES = Packages(["openssl"])


@on(TlsSettings)
def install(node: Node) -> None:
    """Installs openssl, which makes keys."""
    if node.inside is None:
        install_packages(node, "TLS", _PACKAGES)


@on(TlsSettings)
def configure(node: Node) -> None:
    """Writes the certificate of the authority."""
    converge("TLS: authority", lambda: missing_authority(node))


def deploy() -> None:
    """What clients verify servers with: install, configure. Servers' own come with them."""
    install()
    configure()


@on(TlsSettings)
def _renew(node: Node) -> None:
    certificates.renew(node)


def renew() -> None:
    """Renews every certificate now; servers take the new ones and keep their clients."""
    _renew()
    for component in components():
        component.certified()


def _offer(everything: Estate, _reach: Reach) -> Offer | None:
    """The file with which an application verifies all servers."""
    return Offer({"TLS_CA_FILE": AUTHORITY}, {}, {}) if everything.having(TlsSettings) else None


COMPONENT = Component(
    group="tls",
    settings=TlsSettings,
    everywhere=True,
    secrets=lambda _node: [SECRET],
    in_use=secrets_in_use,
    rules=contradictions,
    packages=lambda node: _PACKAGES if node.inside is None else Packages(),
    probes=probes_of,
    checks=checks,
    rows=rows,
    offers=_offer,
    leaves=LEAVES,
)
