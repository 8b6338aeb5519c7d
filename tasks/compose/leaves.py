"""What a project leaves on its host: containers, networks, volumes and files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tasks.compose import engine
from tasks.compose.settings import DockerSettings
from tasks.core import remote
from tasks.core.change import Change, Line
from tasks.core.estate import Node
from tasks.core.files import MARK
from tasks.core.places.container import RECORDS
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.core.traces import Here, Leaves


def _project(node: Node) -> Change | None:
    """The containers go, and what was written for them; volumes and backups are data."""
    found, home = _in_project(node), node.the(DockerSettings).project_dir
    destroys = node.stack.destroy_data
    kinds = ("container", "network", "path", *(("volume", "data") if destroys else ()))
    if not any(kind in found for kind in kinds):
        return None
    lines: list[str] = [
        *(Line(f"container {name}: stop and remove", "restart") for name in found["container"]),
        *(f"network {name}: remove" for name in found["network"]),
        *(f"{path}: remove" for path in found["path"]),
    ]
    script = ":\n"
    if found["container"] or found["network"]:
        script += engine.COMPOSE + shell(
            "down", "compose", stack=node.stack.stack_name, project=home
        )
    script += f"remove {quoted(*found['path'])}\n"
    if destroys:
        lines += [Line(f"volume {name}: remove", "destroys data") for name in found["volume"]]
        lines += [Line(f"{path}: remove", "destroys data") for path in found["data"]]
        script += f"echo {quoted(*found['volume'])} | xargs -r docker volume rm >/dev/null\n"
        script += f"remove {quoted(*found['data'])}\n"
    script += f"rmdir --ignore-fail-on-non-empty {quoted(home)} 2>/dev/null || :\n"
    return Change(lines, script)


def _in_project(node: Node) -> Mapping[str, list[str]]:
    """What there is of a project: names of containers, networks and volumes, paths."""
    stack = node.stack.stack_name
    home, records = node.the(DockerSettings).project_dir, f"{RECORDS}/{stack}"
    values = {"MARK": MARK, "project": home, "stack": stack, "records": records}
    probe = Probe(shell("ours") + shell("project", "compose", **values), _by_kind)
    found: Mapping[str, list[str]]
    found = remote.read(node.host, lambda: {"project": {"project": probe}}, "project")["project"]
    return found


def _by_kind(lines: list[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        kind, _, name = line.partition(" ")
        found[kind].append(name)
    return found


def _kept(node: Node) -> Iterator[str]:
    """What a removal leaves of a project."""
    found = _in_project(node)
    if found["container"]:
        yield "images stay"
    for path in found["keeps"]:
        yield f"{path}: stays; it has the passwords, and what others have written there"
    if not node.stack.destroy_data:
        for name in (*(f"volume {name}" for name in found["volume"]), *found["data"]):
            yield f"{name}: stays; destroy_data and confirm would remove it"


def _takes(node: Node) -> tuple[Change | None, list[str]]:
    return (_project(node), [*_kept(node)]) if node.inside else (None, [])


def _here(node: Node) -> Here:
    return Here(frozenset({"kernel"} if DockerSettings in node.settings else ()))


LEAVES = Leaves(here=_here, title="containers", takes=_takes)
