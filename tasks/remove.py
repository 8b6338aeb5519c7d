"""Removal: what left the inventory is told or removed, and the whole stack comes off its hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.core import estate, leavings, preflight, remote, traces
from tasks.core.change import Change, Line, converge
from tasks.core.component import Component, components
from tasks.core.estate import Estate, Node
from tasks.core.leavings import component_of, found, found_alone, surplus
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.core.settings import Problem
from tasks.core.traces import SHARED, Leaves

# --- What left the inventory ---------------------------------------------------------------------


def prune() -> None:
    """Tells of services that are on a host and no longer its by the settings, or removes them.

    The Sentinels then forget who is not in the inventory any more.
    """
    node = estate.here()
    # What is removed is what this run could show.
    shown = {*surplus(node)}
    pruning = [component.pruning(node) for component in node.components()]
    converge(
        "Prune: services",
        lambda: _pruned(node, [owner for owner in surplus(node) if owner in shown]),
        notices=lambda: leavings.told(node),
    )
    strangers = {*found(node).beside}
    converge(
        "Prune: files beside ours",
        lambda: _cleared(node, strangers),
        notices=lambda: leavings.strangers(node),
    )
    for act in pruning:
        act()


def _cleared(node: Node, shown: set[str]) -> Change | None:
    beside = found(node).beside
    going = [path for path in beside if path in shown and leavings.is_cleared(node, path)]
    if not going:
        return None
    return Change([f"{path}: remove" for path in going], f"rm -f -- {quoted(*going)}")


def _pruned(node: Node, there: list[str]) -> Change | None:
    going = [owner for owner in there if leavings.prunes(node, owner)]
    if not going:
        return None
    if node.host.state.is_executing:
        for each in node.estate.active:
            remote.forget(each.host)
    for problem in leavings.blocked(node, going):
        raise Unreadable(f"{problem.key}: {problem.message}")
    lines, script = list[str](), node.place.removal()
    for owner in going:
        line, step = _pruning(node, owner)
        lines.append(line)
        script += f"{step}\n"
    for change in _last(node, going):
        lines += change.lines
        script += change.script
    return Change(lines, script)


def _last(node: Node, going: list[str]) -> Iterator[Change]:
    """What goes with the last of a component."""
    there = leavings.of_components(found(node).paths)
    for component in leavings.of_components(going):
        change, _ = component.leaves.last(node, found(node))
        if change is not None and {*there[component]} <= {*going}:
            yield change


def _pruning(node: Node, owner: str) -> tuple[str, str]:
    paths, leaves = found(node).paths[owner], _leaves_of(owner)
    before, place = leaves.before.get(owner, ""), node.place
    if alone := leaves.pruned(node, owner):
        return alone[0], before + traces.take(leaves, owner, paths, place, alone[1])
    step = before + traces.take(leaves, owner, paths, place)
    if not traces.is_service(paths):
        return f"{', '.join(paths)}: remove", step
    return Line(f"{leavings.title(owner)}: stop and remove", "restart"), step


def _leaves_of(owner: str) -> Leaves:
    component = component_of(owner)
    return component.leaves if component else SHARED


# --- All of it -----------------------------------------------------------------------------------


def deploy() -> None:
    """Takes the stack off the hosts; data stay, unless they are to be destroyed by name."""
    node = estate.here(_wrong)
    for component in reversed(components()):
        _remove(node, component)
    converge("Remove: what is left", lambda: _rest(node), notices=lambda: _stays(node))
    converge("Remove: data", lambda: _destroyed(node))
    converge("Remove: user", lambda: _without_users(node))


def _remove(node: Node, component: Component) -> None:
    leaves, name = component.leaves, f"Remove: {component.leaves.title}"
    if leaves.takes is not None:
        takes = leaves.takes
        converge(name, lambda: takes(node)[0], notices=lambda: takes(node)[1])
    elif leaves.goes:
        converge(name, lambda: _removed(node, leaves))


def _wrong(everything: Estate) -> list[Problem]:
    """What a removal is refused for: less than a deployment, which has to make all of it work."""
    problems = [*everything.problems, *preflight.examine(everything.active)]
    if problems:
        return problems
    for node in everything.active:
        stack = node.stack
        if stack.destroy_data and stack.confirm != stack.stack_name:
            message = f"should be '{stack.stack_name}', the stack whose data are to be destroyed"
            problems.append(Problem(node.name, "confirm", message))
    stays = (problem for each in components() for problem in each.leaves.stays(everything))
    return problems or list(stays)


def _removed(node: Node, leaves: Leaves) -> Change | None:
    there = found_alone(node)
    going = [owner for owner in leavings.in_order(there.paths) if re.match(leaves.goes, owner)]
    if not going:
        return None
    lines, script = list[str](), node.place.removal()
    for owner in going:
        paths, of = there.paths[owner], _leaves_of(owner)
        if traces.is_service(paths) and owner != of.shared:
            lines.append(Line(f"{owner}: stop and remove", "restart"))
        lines += [f"{path}: remove" for path in paths if _is_file(path)]
        script += of.before.get(owner, "")
        script += f"{traces.take(of, owner, paths, node.place, of.stopped(owner))}\n"
    return Change(lines, script)


def _is_file(path: str) -> bool:
    """Whether it is worth a line of its own: not what a service goes with."""
    return not path.startswith(("/var/lib/datatier/", "/etc/systemd/", "/etc/sv/"))


def _rest(node: Node) -> Change | None:
    """What several services have shared."""
    there, gone = found_alone(node), [c.leaves.goes for c in components() if c.leaves.goes]
    owners = leavings.in_order(there.paths)
    going = [owner for owner in owners if not any(re.match(each, owner) for each in gone)]
    if not going:
        return None
    lines, script = list[str](), node.place.removal()
    for owner in going:
        leaves = _leaves_of(owner)
        said = "unmask; it stays disabled" if owner == leaves.masked else "remove"
        lines += [f"{path}: {said}" for path in there.paths[owner]]
        script += f"{traces.take(leaves, owner, there.paths[owner], node.place)}\n"
    return Change(lines, script)


def _stays(node: Node) -> Iterator[str]:
    """What a removal leaves, for those who want it gone."""
    there = found_alone(node)
    if there.paths:
        yield "packages and logs stay"
    if not node.stack.destroy_data:
        for path in there.data:
            yield f"{path}: stays; destroy_data and confirm would remove it"
    for component in components():
        if said := component.leaves.last(node, there)[1]:
            yield said


def _without_users(node: Node) -> Change | None:
    there = found_alone(node)
    changes = [change for c in components() if (change := c.leaves.last(node, there)[0])]
    if not changes:
        return None
    lines = [line for change in changes for line in change.lines]
    return Change(lines, "".join(change.script for change in changes))


def _destroyed(node: Node) -> Change | None:
    data = found_alone(node).data
    if not node.stack.destroy_data or not data:
        return None
    every = [component.leaves for component in components()]
    lines: list[str] = [Line(f"{path}: remove", "destroys data") for path in data]
    steps = [f"destroy {quoted(path)}" for path in data]
    above = {path.rpartition("/")[0] for path in data}
    patterns = [each.emptied for each in every if each.emptied]
    emptied = sorted(a for a in above if any(re.fullmatch(each, a) for each in patterns))
    steps += [f"at {path} rmdir --ignore-fail-on-non-empty {path}" for path in emptied]
    guards = [f"for each in {quoted(*data)}; do", *(each.guard for each in every), ":", "done"]
    return Change(lines, "\n".join([*guards, shell("destroy"), *steps]))
