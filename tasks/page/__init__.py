"""The status page as a browser sees it: served by the backup host, to who has a password."""

from __future__ import annotations

from tasks.core.change import converge
from tasks.core.component import Component
from tasks.core.estate import Node, on
from tasks.core.packages import install_packages
from tasks.page.activation import due_activation
from tasks.page.files import missing_files, missing_user
from tasks.page.health import rows
from tasks.page.layout import GROUP, NAME
from tasks.page.leaves import LEAVES
from tasks.page.probes import packages_of, probes_of
from tasks.page.rules import checks, contradictions, listens, secrets_in_use
from tasks.page.settings import SECRET, PageSettings
from tasks.tls import certificates


@on(PageSettings)
def install(node: Node) -> None:
    """Installs what it runs with; the backup service brings its program."""
    install_packages(node, "Status page", packages_of(node))


def configure() -> None:
    """Makes its user, writes its files and makes it take them."""
    _join()
    _certify()
    _write()
    activate()


@on(PageSettings)
def _join(node: Node) -> None:
    converge("Status page: user", lambda: missing_user(node))


@on(PageSettings)
def _certify(node: Node) -> None:
    certificates.certify(node, GROUP, NAME)


@on(PageSettings)
def _write(node: Node) -> None:
    converge("Status page: configuration", lambda: missing_files(node))


@on(PageSettings)
def activate(node: Node) -> None:
    """Starts it, or restarts it for another port or program."""
    converge("Status page: service", lambda: due_activation(node))


def deploy() -> None:
    """The server of the status page as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    group=GROUP,
    settings=PageSettings,
    everywhere=True,
    within="backup",
    is_confined=True,
    in_docker=False,
    secrets=lambda _node: [SECRET],
    in_use=secrets_in_use,
    rotates=lambda _node: {SECRET.lower(): SECRET},
    rules=contradictions,
    listens=listens,
    packages=packages_of,
    probes=probes_of,
    checks=checks,
    rows=rows,
    leaves=LEAVES,
)
