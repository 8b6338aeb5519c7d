"""A repository for each passphrase: pgBackRest's has the one that it was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from backup.config import Place
from tasks.backup.program import CONFIG, LIBRARY, configured, passphrases
from tasks.backup.server import server_of
from tasks.backup.settings import BackupSettings
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import shell

_FIRST = 1


@dataclass(frozen=True)
class Repository:
    """One of pgBackRest's repositories."""

    place: Place
    path: str
    passphrase: str

    @property
    def number(self) -> int:
        """What pgBackRest calls it."""
        return self.place.number

    @property
    def label(self) -> str:
        """What `repositories_probe` calls it."""
        number, name = self.place
        return name or str(number)


def root(node: Node) -> str:
    """Where the first repository is, and the others in it: copies have all that is there."""
    return f"{node.the(BackupSettings).dir}/pgbackrest"


def first(node: Node) -> Repository:
    """The only one of an estate that has not replaced its passphrase."""
    return _repository(node, Place(_FIRST), passphrases(node)[0])


def _repository(node: Node, at: Place, passphrase: str) -> Repository:
    return Repository(at, f"{root(node)}/{at.name}".rstrip("/"), passphrase)


def repositories(node: Node) -> list[Repository]:
    """That of the present passphrase, and that of the one before while there is one.

    A repository keeps its number, so that the two hosts may learn of it one after the other.
    """
    now, before = passphrases(node)
    if server_of(node) is None or not now:
        return [first(node)]
    there: list[str] = node.read("backup")["repositories"]
    if not before:
        return [_repository(node, _of(now, there) or Place(_FIRST), now)]
    old = _of(before, there) or Place(_FIRST)
    coming = _of(now, there) or _beside(old, now, there)
    return [_repository(node, coming, now), _repository(node, old, before)]


def told(node: Node, places: Sequence[Repository]) -> list[Place]:
    """What the program is told of its repositories: nothing where it has the first alone."""
    return [each.place for each in places] if places != [first(node)] else []


def _of(passphrase: str, there: list[str]) -> Place | None:
    """The place that was made for a passphrase."""
    names = [name for name in there if name.endswith(f"-{_mark(passphrase)}")] if there else []
    return Place(int(names[0][0]), names[0]) if names else None


def _beside(old: Place, passphrase: str, there: list[str]) -> Place:
    if old.name and str(_FIRST) in there:
        # A rotation that is taken back.
        return Place(_FIRST)
    number = 3 - old.number
    return Place(number, f"{number}-{_mark(passphrase)}")


@cache
def _mark(passphrase: str) -> str:
    """Enough to know it again; to try others is no easier than with what is encrypted."""
    salt = b"datatier repository"
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=4).hex()


def numbers(node: Node) -> list[int]:
    """What pgBackRest calls the repositories that WAL goes to."""
    return sorted(each.number for each in repositories(node))


def ready(node: Node) -> list[int]:
    """The same of those that were begun, which take WAL; of all where none was."""
    there: list[str] = node.read("backup")["repositories"]
    begun = sorted(each.number for each in repositories(node) if each.label in there)
    return begun or numbers(node)


def repositories_probe(directory: str) -> Probe[list[str]]:
    """The names of the repositories in a directory; of the first its number."""
    return Probe(shell("repositories", "backup", repository=directory), list)


def unready_probe() -> Probe[str]:
    """Why the passphrase of before may not go."""
    return Probe(shell("unready", "backup", config=CONFIG, library=LIBRARY), "".join)


def old_backups(node: Node) -> Change | None:
    """Sets aside what only the passphrase of before opens, when that is taken away."""
    going = configured(
        node.read("backup")["files"][CONFIG].content, "encryption_passphrase_previous"
    )
    if passphrases(node)[1] or going is None:
        return None
    where = f"{node.the(BackupSettings).dir}/before_*"
    lines = [f"backups that only the passphrase of before opens: move to {where}"]
    return Change(lines, shell("set-aside", "backup", library=LIBRARY))
