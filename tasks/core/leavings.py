"""What of each component is on a host, and whether it belongs there by the settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from tasks.core import packages, remote, traces
from tasks.core.component import Component, components
from tasks.core.remote import Probe
from tasks.core.settings import Problem
from tasks.core.traces import Traces

if TYPE_CHECKING:
    from tasks.core.estate import Estate, Node

# What is read of every host, whatever it carries.
HOST = "host"


def probes(node: Node) -> dict[str, Probe[Any]]:
    """What one read of a host tells about what Datatier and others have left there."""
    every = [component.leaves for component in components()]
    mine = [component.leaves for component in components() if component.settings in node.settings]
    around = (component.around(node) for component in components())
    return {
        **{name: probe for each in around for name, probe in each.items()},
        "pristine": packages.pristine_probe([name for each in every for name in each.packages]),
        "traces": traces.probe(
            every,
            [each.here(node) for each in every],
            {user: home for each in mine for user, home in each.users.items()},
        ),
    }


def found(node: Node) -> Traces:
    """What is on a host, by the one read of it."""
    return cast(Traces, node.read(HOST)["traces"])


def found_alone(node: Node) -> Traces:
    """The same, whatever else of the host cannot be read."""
    return cast(Traces, remote.read(node.host, lambda: {HOST: probes(node)}, HOST)["traces"])


def component_of(owner: str) -> Component | None:
    """The component that something belongs to, None for what all of them share."""
    owning = [
        (each, component)
        for component in components()
        for each in component.leaves.owns
        if owner.startswith(each)
    ]
    return max(owning, key=lambda pair: len(pair[0]))[1] if owning else None


def in_order(owners: Iterable[str]) -> list[str]:
    """The order in which they go: who asks before who answers, and last what they share."""
    every = [component.group for component in reversed(components())]

    def rank(owner: str) -> tuple[int, str]:
        component = component_of(owner)
        return every.index(component.group) if component else len(every), owner

    return sorted(owners, key=rank)


def surplus(node: Node) -> list[str]:
    """What is on a host and belongs to a component, but not there by the settings."""
    wanted = {name for component in components() for name in component.leaves.here(node).wanted}
    owners = in_order(found(node).paths)
    return [owner for owner in owners if component_of(owner) and owner not in wanted]


def prunes(node: Node, owner: str) -> bool:
    """Whether what belongs to a component is removed: its key counts on hosts outside its group."""
    component = component_of(owner)
    return component is not None and _is_pruned(node, component)


def _is_pruned(node: Node, component: Component) -> bool:
    if component.everywhere:
        return True
    if chosen := node.of(component.settings):
        return bool(cast(Any, chosen).prune)
    key = component.settings.key_of("prune")
    try:
        return TypeAdapter(bool).validate_python(node.host.data.get(key, False))
    except ValidationError:
        return False


def going(node: Node) -> list[str]:
    """What this run removes of a host."""
    return [owner for owner in surplus(node) if prunes(node, owner)]


def blocked(node: Node, owners: Sequence[str]) -> Iterator[Problem]:
    """Why some of it cannot go."""
    for component in components():
        yield from component.leaves.blocked(node, owners)


def examine(everything: Estate) -> list[Problem]:
    """What a run is refused for that would remove what has left the settings."""
    problems: list[Problem] = []
    for node in everything.active:
        problems += blocked(node, going(node))
        for component in node.components():
            problems += component.unprunable(node)
    return problems


def in_our_place(path: str) -> Component | None:
    """Whose place it is where only we have a reason to put a file.

    Drop-ins of units and files in conf.d may be an administrator's, and so may be what is in a
    chosen directory of scripts, such as /usr/local/bin.
    """
    return next((c for c in components() if path.startswith(c.leaves.places)), None)


def of_components(owners: Iterable[str]) -> dict[Component, list[str]]:
    """The same by the component that they belong to."""
    found: dict[Component, list[str]] = {}
    for owner in owners:
        if component := component_of(owner):
            found.setdefault(component, []).append(owner)
    return found


def title(owner: str) -> str:
    """What people call it."""
    component = component_of(owner)
    is_hosts = component is not None and component.leaves.shared == owner
    return f"{component.group}-service" if component and is_hosts else owner


def is_cleared(node: Node, path: str) -> bool:
    """Whether this run removes a file beside ours."""
    component = in_our_place(path)
    return component is not None and _is_pruned(node, component)


# --- What is said of it --------------------------------------------------------------------------


def told(node: Node) -> Iterator[str]:
    """Sentences on what is no longer in the settings, and stays."""
    for owner in surplus(node):
        component = component_of(owner)
        if component is not None and not prunes(node, owner):
            paths = found(node).paths[owner]
            what = title(owner) if traces.is_service(paths) else ", ".join(paths)
            key = component.settings.key_of("prune")
            yield f"{what}: is no longer in this host's settings; {key} would remove it"


def strangers(node: Node) -> Iterator[str]:
    """Sentences on files of others that take effect, and stay."""
    for path in found(node).beside:
        if not is_cleared(node, path):
            component = in_our_place(path)
            key = component.settings.key_of("prune") if component else ""
            way_out = f"{key} would remove it" if component else "remove it if it is not yours"
            yield f"{path}: not written by Datatier, but takes effect beside its files; {way_out}"
    for path in found(node).acting:
        what = "not written by Datatier, but acts as the user of a service"
        yield f"{path}: {what}; remove it if it is not yours"


def beside(node: Node) -> Iterator[str]:
    """All that is beside ours and stays, as plan, run and drift tell of it."""
    yield from told(node)
    yield from strangers(node)
    for each in (node, *(node.inside.nodes if node.inside else ())):
        for component in each.components():
            yield from component.beside(each)
    for component in node.components():
        for path, now in node.read(component.group).get("files", {}).items():
            yield from (f"{path}: {line!r} was added by hand; {_RUN}" for line in now.by_hand)


_RUN = "a run takes it out"
