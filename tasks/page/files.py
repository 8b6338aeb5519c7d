"""The files of the status page's server: who may ask, and where the page is."""

from __future__ import annotations

import secrets

from backup import serve
from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import MARK, Directory, Entry, File, Found
from tasks.core.secrets import Secrets
from tasks.core.users import missing_users
from tasks.page.layout import DIRECTORY, GROUP, HOME, NAME, PASSWORD
from tasks.page.service import service_of
from tasks.page.settings import SECRET


def hashed(store: Secrets, found: Found) -> str:
    """The hash of the password: the one that is there, as long as it is of the same password."""
    password = store.get(SECRET)
    there = found.content.decode(errors="replace").splitlines()[-1:]
    if there and serve.is_of(password, there[0]):
        return there[0]
    return serve.hashed(password, secrets.token_bytes(16))


def files_of(node: Node, value: str = "") -> list[Entry]:
    """Every file.

    Args:
        value: the hash of the password.
    """
    text = f"# {MARK}; changes are overwritten.\n{value}\n"
    return [
        Directory("/etc/datatier"),
        Directory(HOME, "750", group=NAME),
        File(PASSWORD, text, "640", group=NAME, secret=r"^(scrypt:.*)$"),
        Directory(DIRECTORY, "750", group=NAME),
        *node.place.files(service_of(node)),
    ]


def missing_user(node: Node) -> Change | None:
    """The user that runs it and can read nothing else."""
    return missing_users([NAME] if node.read(GROUP)["user"] == "none" else [])


def missing_files(node: Node) -> Change | None:
    """What is missing or differs."""
    found: dict[str, Found] = node.read(GROUP)["files"]
    value = hashed(node.estate.secrets, found[PASSWORD])
    return files.compare(files_of(node, value), found)
