"""What a Sentinel reads at its start and never writes."""

from __future__ import annotations

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, render
from tasks.redis import tls
from tasks.redis.acl import quote
from tasks.redis.files import DIRECTORY, client, kept
from tasks.redis.sentinels import SentinelSettings
from tasks.sentinel.orders import default_rules, master_password, passwords_of
from tasks.sentinel.service import services_of


def missing_configuration(node: Node) -> Change | None:
    return kept(files.compare(files_of(node), node.read("sentinel")["files"]))


def files_of(node: Node) -> list[Entry]:
    entries: list[Entry] = [DIRECTORY, client()]
    for port, service in zip(node.the(SentinelSettings).ports, services_of(node), strict=True):
        home = f"/var/lib/redis/sentinel-{port}"
        state = File(f"{home}/sentinel.conf", "", "640", "redis", "redis", seed=True)
        managed = managed_file(node, port)
        entries += [Directory(home, mode="750", user="redis", group="redis"), managed, state]
        entries += node.place.files(service)
    return entries


def managed_file(node: Node, port: int) -> File:
    path, content = f"/etc/redis/sentinel-{port}.conf", configuration(node, port)
    return File(path, content, mode="640", group="redis", secret=SECRET_LINES, live=_LIVE)


# Passwords, which are set at run time too: see passwords.py.
_LIVE = r"requirepass |sentinel sentinel-pass |user default "
SECRET_LINES = r"^(?:(?:requirepass|sentinel sentinel-pass) |user [^#]*)(.*)$"


def fixed(node: Node, port: int) -> str:
    """What of the configuration takes a restart."""
    return files.without(configuration(node, port), _LIVE)


def configuration(node: Node, port: int) -> str:
    """What a Sentinel reads at its start and never writes.

    Containers have one address each, and one file together.
    """
    is_shared = node.place.shares_files
    addresses = " ".join(dict.fromkeys(("127.0.0.1", node.address)))
    return render(
        "sentinel/sentinel.conf.j2",
        tls=tls.parameters(node, port),
        port=port,
        addresses="* -::*" if is_shared else addresses,
        announced=[] if is_shared else [node.address],
        password=quote(master_password(node)),
        lasting=quote(passwords_of(node)[-1]),
        # Without this line there is one password.
        default=default_rules(node) if passwords_of(node)[1:] else "",
    )
