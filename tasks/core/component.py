"""The contract: what a component tells the core, and other components, about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.core.packages import Packages
from tasks.core.remote import Probe
from tasks.core.secrets import Secrets
from tasks.core.settings import Problem, Settings, StackSettings
from tasks.core.traces import Leaves

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.core.change import Trial
    from tasks.core.check import Check
    from tasks.core.estate import Estate, Node
    from tasks.core.offer import Offer, Reach
    from tasks.core.preflight import Holder, Listener
    from tasks.core.services import Taking

T = TypeVar("T")


def _no_defaults(
    _stack: StackSettings, _store: Secrets, _given: Mapping[str, Any]
) -> dict[str, Any]:
    return {}


def _none(_node: Any) -> list[Any]:
    return []


def _nothing(_node: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Component:
    """What a room declares; what it has not is not written.

    Attributes:
        group: hosts of this inventory group carry it.
        settings: its keys.
        further: more keys of its own, with prefixes of theirs.
        is_confined: systemd takes from its services what they never do, where it can.
        everywhere: a host carries it by `enabled` of its settings, not by a group, and without such
            a key where it carries anything else; where not, it goes.
        within: such a one is for hosts of this group only.
        in_docker: a host of the group `docker` carries it too.
        defaults: values for fields that the user left out, secrets among them.
        secrets: names of secrets that its settings leave to `.env`.
        in_use: names of secrets that a host has already, and the file with the value, if any has.
        rotates: what `tasks.rotate` calls the secrets that it replaces, and their names.
        rules: contradictions between settings, of this component or with others.
        listens: the ports it wants on a host.
        packages: what it needs of the distribution.
        probes: what one read of a host tells about it.
        untouched_by: groups of components whose own changes alter nothing of that.
        around: what is read of every host, whatever it carries.
        memory: what its services may take by a host's settings, in bytes by key.
        checks: what was found on a host and must not be there.
        cuts: what it would cut off, also of others that listen on ports of ours.
        adopts: directories whose files of others it refuses or adopts itself.
        serves: what it is for another component, by the settings of that one; see `serving`.
        takings: how its services take what they should run with, in containers.
        trials: its servers' reading of configurations that are to change, in containers.
        rows: its rows of the health table.
        certified: the task by which its servers take a certificate that has changed.
        offers: what an application needs to use it, if this estate has that.
        leaves: what a removal looks for, and how that goes.
        beside: sentences on what a host has beside the settings and keeps.
        unprunable: what a run is refused for that would remove what is beside them.
        pruning: what removes it; it is asked before anything of the host goes.
        idle: shell that fails, in one line, while a job goes on that an upgrade would end, and its
            variables.
        upgrades: what an upgrade does for it before it deploys.
        contain: makes containers of a host's settings.
        dotenv: another place of `.env`, by a host's raw data.
    """

    group: str
    settings: type[Settings]
    further: tuple[type[Settings], ...] = ()
    is_confined: bool = False
    everywhere: bool = False
    within: str = ""
    in_docker: bool = True
    defaults: Callable[[StackSettings, Secrets, Mapping[str, Any]], dict[str, Any]] = _no_defaults
    secrets: Callable[[Node], list[str]] = _none
    in_use: Callable[[Node], Mapping[str, str]] = _nothing
    rotates: Callable[[Node], Mapping[str, str]] = _nothing
    rules: Callable[[Estate], list[Problem]] = _none
    listens: Callable[[Node], list[Listener]] = _none
    packages: Callable[[Node], Packages] = lambda _node: Packages()
    probes: Callable[[Node], dict[str, Probe[Any]]] = _nothing
    untouched_by: tuple[str, ...] = ()
    around: Callable[[Node], dict[str, Probe[Any]]] = _nothing
    memory: Callable[[Node], Mapping[str, int]] = _nothing
    checks: Callable[[Node], list[Problem]] = _none
    cuts: Callable[[Node, Sequence[Holder]], list[Problem]] = lambda _node, _holders: []
    adopts: tuple[str, ...] = ()
    serves: Mapping[type[Settings], object] = field(default_factory=dict)
    takings: Callable[[Node], Iterator[Taking]] = lambda _node: iter(())
    trials: Callable[[Node], Iterator[Trial]] = lambda _node: iter(())
    rows: Callable[[Node], Iterator[Check]] = lambda _node: iter(())
    certified: Callable[[], None] = lambda: None
    offers: Callable[[Estate, Reach], Offer | None] = lambda _everything, _reach: None
    leaves: Leaves = field(default_factory=Leaves)
    beside: Callable[[Node], Iterator[str]] = lambda _node: iter(())
    unprunable: Callable[[Node], list[Problem]] = _none
    pruning: Callable[[Node], Callable[[], None]] = lambda _node: lambda: None
    idle: Callable[[Node], tuple[str, Mapping[str, str]]] = lambda _node: ("", {})
    upgrades: Callable[[Node], None] = lambda _node: None
    contain: Callable[[Node], None] | None = None
    dotenv: Callable[[Mapping[str, object]], Path] | None = None


def keys() -> Iterator[type[Settings]]:
    """The keys of all components."""
    for component in components():
        yield from (component.settings, *component.further)


def components() -> list[Component]:
    """All components, in the order in which they are deployed."""
    # The only name that the core knows; every import the other way would be a circle.
    return list(import_module("tasks.stack").COMPONENTS)


def serving(settings: type[Settings], kind: type[T]) -> Iterator[T]:
    """What components are for another one: of a kind that it has defined."""
    for component in components():
        each = component.serves.get(settings)
        if isinstance(each, kind):
            yield each
