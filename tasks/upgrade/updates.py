"""Updates of our packages: what is due, and their installation, which restarts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.core import packages, remote
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell
from tasks.upgrade.settings import UpgradeSettings

# Shell: `candidates PACKAGES` prints a name, two versions and a kind of each with a newer one.
CANDIDATES = shell("candidates", "upgrade")


@dataclass(frozen=True)
class Update:
    """A newer version of a package that is installed."""

    name: str
    now: str
    to: str
    is_security: bool


@dataclass(frozen=True)
class Found:
    """What a host says of its packages.

    Attributes:
        due: what could be upgraded.
        kept: packages whose newer version is not taken, that version, and why.
        stale: why the lists of packages could not be read again.
    """

    due: tuple[Update, ...] = ()
    kept: tuple[tuple[str, str, str], ...] = ()
    stale: str = ""


def parse(lines: Sequence[str]) -> Found:
    """What the lines of shell/updates.sh say."""
    due, kept, stale = list[Update](), list[tuple[str, str, str]](), ""
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "due":
            name, now, to, of = rest.split(" ")
            due.append(Update(name, now, to, of == "security"))
        elif kind == "kept":
            name, to, why = rest.split(" ", 2)
            kept.append((name, to, why))
        elif kind == "stale":
            stale = rest
    return Found(tuple(due), tuple(kept), stale)


def _found(node: Node) -> Found:
    names = packages.of_all(node).names
    if not names:
        return Found()
    script = CANDIDATES + shell("updates", "upgrade", names=" ".join(names))
    probe = Probe(script, parse)
    said: Found = remote.read(node.host, lambda: {"updates": {"found": probe}}, "updates")["found"]
    return said


def chosen(node: Node, found: Found) -> tuple[Update, ...]:
    """Those that the settings ask for."""
    wants_all = node.the(UpgradeSettings).packages == "all"
    return tuple(each for each in found.due if wants_all or each.is_security)


def due_upgrade(node: Node) -> Change | None:
    """The upgrade of a host's packages; what runs goes on, and restarts later.

    Raises:
        Unreadable: (during a run) it has failed on another host.
    """
    updates = chosen(node, _found(node))
    if not updates:
        return None
    if node.host.state.is_executing:
        require_others(node)
    else:
        node.upgrades = frozenset(each.name for each in updates)
    lines = [
        f"package {each.name}: upgrade {each.now} -> {each.to}{' (security)' * each.is_security}"
        for each in updates
    ]
    words = " ".join(f"{each.name}={each.to}" for each in updates)
    return Change(lines, f"{shell('install', packages=words)}install_packages\n")


def require_others(node: Node) -> None:
    """A run that has failed on another host upgrades no further one.

    Raises:
        Unreadable: it has.
    """
    state = node.host.state
    lost = [each for each in node.estate.active if each.host not in state.active_hosts]
    if lost:
        raise Unreadable(f"packages are not upgraded here because of the failure on {lost[0].name}")


def told(node: Node) -> Iterator[str]:
    """Sentences on what is not upgraded."""
    found = _found(node)
    if found.stale:
        yield f"packages: their lists could not be read again: {found.stale}"
    for name, to, why in found.kept:
        yield f"package {name}: {to} is not taken: {why}"
    rest = [each for each in found.due if each not in chosen(node, found)]
    if rest:
        names = ", ".join(each.name for each in rest)
        yield f"packages with other updates: {names}; --data upgrade_packages=all takes them too"
