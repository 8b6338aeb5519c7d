"""What Datatier has left on a host, and shell that takes it away; whose it is tells its path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tasks.core import packages
from tasks.core.files import MARK
from tasks.core.places import STATE_DIRECTORY, Place
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell

if TYPE_CHECKING:
    from tasks.core.change import Change, Line
    from tasks.core.estate import Estate, Node
    from tasks.core.settings import Problem


@dataclass(frozen=True)
class Here:
    """What a component has on one host by the settings, or had.

    Attributes:
        wanted: what belongs there of what it owns.
        marked: further paths that are ours if they say so.
        beside: further places where a file beside ours takes effect.
        known: what of it is ours.
        data: globs of directories with its data, or shell that prints some.
        reads: further shell of the read; `KIND WORDS` of each line are in `Traces.said`.
    """

    wanted: frozenset[str] = frozenset()
    marked: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    reads: str = ""


def _takes_itself(_node: Node, _owner: str) -> tuple[Line, str] | None:
    return None


@dataclass(frozen=True)
class Leaves:
    """What a component leaves on a host, and how that goes. What it has not is not written.

    Attributes:
        owns: how the names of its services begin, and of what they share; the longest one counts.
        named: ours by their paths.
        marked: ours if they say so.
        owners: patterns of paths, and what they belong to.
        beside: where a file beside ours takes effect.
        expected: patterns of what of it is ours, by names: a mark is easily copied.
        places: directories that only we have a reason to put files in.
        units: names of systemd units, beside which drop-ins take effect.
        users: who runs its services, and the home of each in /var/lib.
        packages: those whose files, as the package brings them, belong to no one.
        here: what depends on the host.
        masked: a service of the distribution that is masked for ours.
        shared: a service that is the host's under systemd.
        unit_of: the unit that runs a service, and the one that starts it at boot, by its paths.
        further: what goes with a service and is not looked for.
        directories: those that dpkg is told to keep as ours, by what they go with.
        before: shell that runs before something goes, or exits.
        stopped: shell that runs when a service has stopped and all of the stack goes.
        pruned: the sentence, and that shell, where a service alone goes.
        blocked: why services cannot go alone.
        stays: why the stack cannot leave hosts.
        guard: shell before `$each`, a directory of data, is destroyed, or exits.
        emptied: a pattern of directories that go when they are empty.
        last: what goes when nothing is left of it, and what is said while it stays.
        title: what its removal is called.
        goes: a pattern of what that removes.
        takes: what it removes in another way, and what is said of what stays.
    """

    owns: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    owners: tuple[tuple[str, str], ...] = ()
    beside: tuple[str, ...] = ()
    expected: str = ""
    places: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    here: Callable[[Node], Here] = lambda _node: Here()
    masked: str = ""
    shared: str = ""
    unit_of: Callable[[str, Collection[str]], tuple[str, str]] | None = None
    further: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    stopped: Callable[[str], str] = lambda _owner: ":"
    pruned: Callable[[Node, str], tuple[Line, str] | None] = _takes_itself
    blocked: Callable[[Node, Sequence[str]], Iterator[Problem]] = lambda _node, _going: iter(())
    stays: Callable[[Estate], Iterator[Problem]] = lambda _everything: iter(())
    guard: str = ""
    emptied: str = ""
    last: Callable[[Node, Traces], tuple[Change | None, str]] = lambda _node, _found: (None, "")
    title: str = ""
    goes: str = ""
    takes: Callable[[Node], tuple[Change | None, list[str]]] | None = None


# See retired.py.
SECRETS_HAD = f"{STATE_DIRECTORY}/secrets"

# What several components share, and every service has.
SHARED = Leaves(
    named=(
        STATE_DIRECTORY,
        f"{STATE_DIRECTORY}/*.active",
        SECRETS_HAD,
        "/etc/datatier",
        "/etc/datatier/*",
    ),
    marked=("/etc/systemd/system/*.service.d/datatier*.conf", "/etc/sv/*/run"),
    owners=(
        (rf"{STATE_DIRECTORY}(/secrets)?|/etc/datatier", "state"),
        (rf"{STATE_DIRECTORY}/(.+)\.active", r"\1"),
        (r"/etc/systemd/system/(.+?)\.service(\.d/datatier(-network)?\.conf)?", r"\1"),
        (r"/etc/sv/(.+)/run", r"\1"),
        (r"/usr/sbin/policy-rc\.d", "packages"),
    ),
    expected=r"/etc/systemd/system/.*/datatier(-network)?\.conf",
)

_UNIT_PLACES = ("/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system")

# Where a person acts as the user of a service: jobs, and keys to log in with.
_AS_USER = (
    "/var/spool/cron/crontabs/{user}",
    "/var/lib/systemd/linger/{user}",
    "/var/lib/{home}/.ssh/authorized_keys*",
)
_JOBS = r"^\s*(@[a-z]+|[^[:space:]#=]+(\s+\S+){{4}})\s+({users})\s"


@dataclass(frozen=True)
class Traces:
    """What of Datatier is on a host.

    Attributes:
        paths: files and directories by what they belong to.
        data: directories with something in them.
        beside: files that are not ours in places where ours take effect.
        acting: files that are not ours and act as the user of a service.
        said: what else components have read, by its kind.
    """

    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    acting: tuple[str, ...] = ()
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def probe(
    all_leaves: Sequence[Leaves], here: Sequence[Here], users: Mapping[str, str]
) -> Probe[Traces]:
    """Reads what is there.

    Args:
        all_leaves: those of all components.
        here: the same for this host.
        users: who runs services that are this host's by the settings, with their homes.
    """
    every = [*all_leaves, SHARED]
    units = [unit for each in every for unit in each.units]
    beside = [
        *(place for each in every for place in each.beside),
        *(
            f"{place}/{unit}.service{kind}"
            for place in _UNIT_PLACES
            for unit in units
            for kind in ("", ".d/*.conf")
        ),
        *(place for each in here for place in each.beside),
    ]
    as_user = [
        each.format(user=user, home=home) for user, home in users.items() for each in _AS_USER
    ]
    values = {
        "MARK": MARK,
        "named": " ".join(path for each in every for path in each.named),
        "masked": " ".join(_masking(each.masked) for each in every if each.masked),
        "marked": " ".join(
            [
                *(path for each in every for path in each.marked),
                *(path for each in here for path in each.marked),
            ]
        ),
        "beside": " ".join(beside),
        "as_user": " ".join(as_user),
        "jobs": _JOBS.format(users="|".join(users) or "-"),
    }
    data = " ".join(glob for each in here for glob in each.data)
    script = "".join([shell("ours"), shell("traces", **values), f"with_data {data}\n"])
    script += "".join(each.reads for each in here)
    known = {path for each in here for path in each.known}
    return Probe(script, partial(parse, all_leaves, known))


def _masking(service: str) -> str:
    return f"/etc/systemd/system/{service}.service"


def parse(all_leaves: Sequence[Leaves], known: Collection[str], lines: Sequence[str]) -> Traces:
    """What the lines of a read say.

    Args:
        known: paths that are ours on this host, in places where what others put takes effect.
    """
    every = [*all_leaves, SHARED]
    expected = re.compile("|".join(each.expected for each in every if each.expected))
    patterns = [pattern for each in every for pattern in each.owners]
    paths: dict[str, tuple[str, ...]] = {}
    said = defaultdict[str, list[str]](list)
    for line in lines:
        kind, _, rest = line.partition(" ")
        is_strange = not (rest in known or expected.fullmatch(rest))
        if kind == "path":
            if owner := _owner(patterns, rest):
                paths[owner] = (*paths.get(owner, ()), rest)
        elif kind == "data":
            said[kind] += [rest] if rest.startswith("/") else []
        elif kind in ("beside", "acts"):
            said[kind] += [rest] if is_strange else []
        else:
            said[kind].append(rest)
    data, beside, acting = (tuple(said.pop(kind, ())) for kind in ("data", "beside", "acts"))
    return Traces(paths, data, beside, acting, {kind: tuple(each) for kind, each in said.items()})


def _owner(patterns: Sequence[tuple[str, str]], path: str) -> str:
    """What a path belongs to; nothing for the rest of a name with a line break in it."""
    for pattern, owner in patterns:
        if match := re.fullmatch(pattern, path):
            return match.expand(owner)
    return ""


# --- Removal -------------------------------------------------------------------------------------


def is_service(paths: Collection[str]) -> bool:
    """Whether what these belong to is a program that runs."""
    places = (f"{STATE_DIRECTORY}/", "/etc/systemd/", "/etc/sv/")
    return any(path.startswith(places) for path in paths)


def take(leaves: Leaves, owner: str, paths: Collection[str], place: Place, then: str = ":") -> str:
    """Shell that stops a service and removes what belongs to it.

    Args:
        then: shell that runs when it has stopped; the record goes last, so that a removal which
            is cut off is seen by the next run.
    """
    if owner == leaves.masked:
        return f"systemctl -q unmask {owner}.service; systemctl -q disable {owner}.service"
    steps = list[str]()
    # Where it is the host's own, other people's jobs go on; elsewhere it came with us.
    if is_service(paths) and not (owner == leaves.shared and place.is_init):
        of = leaves.unit_of or _units
        steps.append(f"leave_service {quoted(owner, *of(owner, paths))}")
    records = {path for path in paths if path.endswith(".active")}
    steps.append(then)
    further = [leaves.further[owner]] if owner in leaves.further else []
    others = [*further, *(path.removesuffix("/run") if _is_runit(path) else path for path in paths)]
    steps.append(f"remove {quoted(*(path for path in others if path not in records))}")
    if owner in leaves.directories:
        steps.append(packages.forget_directory(leaves.directories[owner]))
    dropins = [path for path in paths if path.endswith(".service.d/datatier.conf")]
    directories = [path.rpartition("/")[0] for path in dropins]
    if directories:
        steps.append(f"rmdir --ignore-fail-on-non-empty {quoted(*directories)} 2>/dev/null || :")
    return "\n".join([*steps, "forget_units", f"rm -f -- {quoted(*sorted(records))}"])


def _is_runit(path: str) -> bool:
    """Of runit's service the whole directory goes."""
    return path.startswith("/etc/sv/")


def _units(owner: str, _paths: Collection[str]) -> tuple[str, str]:
    return f"{owner}.service", f"{owner}.service"
