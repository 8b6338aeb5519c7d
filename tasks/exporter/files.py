"""The files of the exporter: its arguments, and who may ask it."""

from __future__ import annotations

import bcrypt

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry, File, Found, render
from tasks.core.secrets import Secrets
from tasks.exporter.layout import DEFAULTS, HOME, SERVICE, STATE, TEXTFILES, WEB
from tasks.exporter.service import arguments, is_encrypted, service_of
from tasks.exporter.settings import SECRET, USER
from tasks.tls import certificates


def hashed(store: Secrets, found: Found) -> str:
    """The hash of the password: the one that is there, as long as it is of the same password."""
    password = store.get(SECRET).encode()
    for line in found.content.decode(errors="replace").splitlines():
        name, _, value = line.strip().partition(": ")
        if name == USER and _is_of(password, value.strip("'").encode()):
            return value.strip("'")
    return bcrypt.hashpw(_short(password), bcrypt.gensalt(_ROUNDS)).decode()


# 2^10 rounds, as exporters of Prometheus recommend; each run of ours takes as long for each host.
_ROUNDS = 10


def _short(password: bytes) -> bytes:
    """What of it counts for bcrypt."""
    return password[:72]


def _is_of(password: bytes, value: bytes) -> bool:
    try:
        return bcrypt.checkpw(_short(password), value)
    except ValueError:
        return False


def web_file(path: str, service: str, value: str, *, is_encrypted: bool) -> File:
    """Who may ask, and the certificate, as programs of Prometheus read them.

    Args:
        service: whose certificate it shows.
        value: the hash of the password.
        is_encrypted: it shows one.
    """
    text = render(
        "exporter/web.yml.j2",
        user=USER,
        value=value,
        certificate=certificates.certificate_file(service) if is_encrypted else "",
        key=certificates.key_file(service),
    )
    return File(path, text, "640", group=USER, secret=rf"^  {USER}: (.*)$")


def files_of(node: Node, value: str = "") -> list[Entry]:
    """Every file.

    Args:
        value: the hash of the password.
    """
    defaults = render("exporter/defaults.j2", arguments=arguments(node))
    return [
        Directory("/etc/datatier"),
        Directory(HOME, "750", group=USER),
        web_file(WEB, SERVICE, value, is_encrypted=is_encrypted(node)),
        File(DEFAULTS, defaults),
        Directory(STATE),
        Directory(TEXTFILES),
        *node.place.files(service_of(node)),
    ]


def missing_files(node: Node) -> Change | None:
    """What is missing or differs."""
    found: dict[str, Found] = node.read(SERVICE)["files"]
    value = hashed(node.estate.secrets, found[WEB])
    return files.compare(files_of(node, value), found)
