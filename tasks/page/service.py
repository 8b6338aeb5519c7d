"""The server of the status page as a service, and how it is asked."""

from __future__ import annotations

from backup.config import SERVED
from tasks.backup.program import LIBRARY, PROGRAM
from tasks.core import http
from tasks.core.estate import Node
from tasks.core.offer import place
from tasks.core.places import Service
from tasks.core.scripts import quoted
from tasks.page.layout import GROUP, NAME, PASSWORD
from tasks.page.settings import PageSettings
from tasks.tls import certificates
from tasks.tls.probes import AUTHORITY

_MODULE = "backup/serve.py"


def port_of(node: Node) -> int:
    """Its port, on a host that has it."""
    return node.the(PageSettings).port or 0


def listens_at(node: Node) -> str:
    """Where it is reached."""
    return place(node.address, port_of(node))


def url(node: Node) -> str:
    """What a browser opens."""
    return f"{'https' if certificates.is_on(node) else 'http'}://{listens_at(node)}/"


def program() -> str:
    """What it runs, as text: another one takes a restart."""
    return (PROGRAM.parent / _MODULE).read_text()


def asking(node: Node) -> str:
    """Shell: ask, demands."""
    authority = AUTHORITY if certificates.is_on(node) else ""
    return http.asking(node.address, port_of(node), "/", authority)


def service_of(node: Node) -> Service:
    """A program of ours that reads one page, and writes nothing."""
    files = (
        (certificates.certificate_file(GROUP), certificates.key_file(GROUP))
        if certificates.is_on(node)
        else ()
    )
    where = (node.address, str(port_of(node)))
    # Neither the environment nor a directory of others adds to what it imports.
    command = quoted("/usr/bin/python3", "-IB", f"{LIBRARY}/{_MODULE}", *where)
    return Service(
        name=NAME,
        description="status page of the estate",
        command=f"{command} {quoted(str(SERVED), PASSWORD, *files)}",
        user=NAME,
        group=NAME,
        # A connection takes some hundred KiB, and a stranger may open many.
        open_files=256,
        ready=f"{asking(node)}demands",
        reload=":",
        confined="wholly",
    )
