"""The rooms of tasks/: who may know whom. A circle, or an arrow that is not in the table, fails."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A room, and the others that it imports; `stack` and the loops are modules of their own.
ARROWS = {
    "core": {"stack"},
    "postgres": {"core", "tls"},
    "pgbouncer": {"core", "postgres", "tls"},
    "redis": {"core", "tls"},
    "sentinel": {"core", "redis", "tls"},
    "backup": {"core", "exporter", "postgres", "pgbouncer", "prometheus", "redis", "tls"},
    "apps": {"core"},
    "exporter": {"core", "tls"},
    "prometheus": {"core", "exporter", "tls"},
    "page": {"core", "backup", "tls"},
    "firewall": {"core"},
    "tls": {"core"},
    "compose": {
        "core",
        "apps",
        "postgres",
        "pgbouncer",
        "redis",
        "sentinel",
        "backup",
        "tls",
        "upgrade",
    },
    "drift": {"core"},
    "drill": {"core", "compose", "redis"},
    "health": {"core"},
    "packages": {"core"},
    "remove": {"core"},
    "rotate": {"core"},
    "upgrade": {"core", "health"},
    "status": {"core", "backup", "compose"},
    "stack": {
        "postgres",
        "pgbouncer",
        "redis",
        "sentinel",
        "backup",
        "apps",
        "compose",
        "exporter",
        "prometheus",
        "page",
        "firewall",
        "tls",
        "upgrade",
    },
}
# The list of components is read when somebody asks for it: it imports all of them.
LAZY = {("tasks.core.component", "tasks.stack")}


def _modules(root: Path) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (root / "tasks").rglob("*.py")
    }


def _imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules that one imports, and whether only when a function of it runs."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in known else node.module, id(node) not in at_top
        elif isinstance(node, ast.Import):
            yield from ((name.name, id(node) not in at_top) for name in node.names)
        elif isinstance(node, ast.Constant) and node.value in known:
            yield str(node.value), True


def _graph(root: Path) -> tuple[dict[str, set[str]], set[tuple[str, str]]]:
    """What each module imports, and the imports that are made late."""
    known = _modules(root)
    graph, late = {module: set[str]() for module in known}, set[tuple[str, str]]()
    for module, path in known.items():
        for other, is_late in _imports(path, known):
            if other in known and other != "tasks":
                graph[module].add(other)
                if is_late:
                    late.add((module, other))
    return graph, late


def _room(module: str) -> str:
    return module.split(".")[1]


def test_no_module_imports_itself_by_a_detour() -> None:
    graph, late = _graph(ROOT)
    early = {m: {o for o in others if (m, o) not in late} for m, others in graph.items()}
    assert [*TopologicalSorter(early).static_order()]


def test_rooms_know_only_whom_they_may() -> None:
    graph, _ = _graph(ROOT)
    arrows = {_room(module): set[str]() for module in graph if module != "tasks"}
    for module, others in graph.items():
        for other in others:
            if module != "tasks" and _room(module) != _room(other):
                arrows[_room(module)].add(_room(other))
    assert arrows == ARROWS


def test_components_do_not_ask_which_place_it_is() -> None:
    """They ask `node.place` what it can do; Compose alone makes containers."""
    graph, _ = _graph(ROOT)
    places = {module for module in graph if module.startswith("tasks.core.places.")}
    who = {module for module, others in graph.items() if others & places}
    assert {each for each in who if _room(each) != "compose"} == {"tasks.core.estate"}
    asked = re.compile(r"isinstance\([^)]*\b(Container|Runit|Systemd)\b|\bplace\.name\b")
    assert [
        module for module, path in _modules(ROOT).items() if asked.search(path.read_text())
    ] == []


def test_imports_are_made_at_the_top() -> None:
    assert _graph(ROOT)[1] == LAZY


def test_a_circle_is_found(tmp_path: Path) -> None:
    room = tmp_path / "tasks/one"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("def late():\n    from tasks.one.a import b\n")
    (room / "a.py").write_text("from tasks.one import b\n")
    (room / "b.py").write_text("from tasks.one.a import c\n")
    graph, late = _graph(tmp_path)
    assert late == {("tasks.one", "tasks.one.a")}
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter(graph).prepare()


_WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("psycopg", "redis", "boto3"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import tasks.stack
"""


def test_a_controller_needs_nothing_that_only_backup_hosts_have() -> None:
    """The tests have it all in one environment; `make setup` installs requirements.txt alone."""
    done = subprocess.run([sys.executable, "-c", _WITHOUT], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def _named(path: Path) -> set[str]:
    """The packages that a module imports, by the first word of their names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_what_a_run_imports_is_installed_for_it() -> None:
    """Not only where tests run, whose machine has more."""
    imported = {name for path in _modules(ROOT).values() for name in _named(path)}
    foreign = imported - {*sys.stdlib_module_names, "tasks", "backup"}
    lines = (ROOT / "requirements.txt").read_text().lower().splitlines()
    locked = {line.partition("==")[0] for line in lines if "==" in line}
    installed = packages_distributions()
    made = {name: {each.lower().replace("_", "-") for each in installed[name]} for name in foreign}
    assert {"pyinfra", "pydantic", "yaml"} <= foreign
    assert {name for name, by in made.items() if by.isdisjoint(locked)} == set()
