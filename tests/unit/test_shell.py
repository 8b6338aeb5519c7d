"""Shell is source: files that shellcheck reads, and no text in Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.scripts import assignments, shell, side_by_side
from tests.unit import helpers

ROOT = Path(__file__).resolve().parents[2]
# What begins or ends a line of shell, and nothing of SQL or prose.
_SHELL = re.compile(r"(?m)^ *(?:if |for |while |case |\[ |fi$|done|esac|\}$|\w+\(\) *\{)|\$\(")


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Literals of three lines or more, but for docstrings."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in said or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "x"
            for part in parts
        )
        if (node.end_lineno or 0) - node.lineno > 1 and text.count("\n") > 1:
            yield node.lineno, text


def _with_shell(path: Path) -> list[int]:
    return [line for line, text in _texts(ast.parse(path.read_text())) if _SHELL.search(text)]


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=str)
def test_python_has_no_shell(path: Path) -> None:
    assert _with_shell(path) == []


def test_shell_in_python_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text('A = """\nfor x in y; do\n  echo\ndone\n"""\nB = """\nSELECT\nx\n"""\n')
    assert _with_shell(path) == [1]


# Names of values that mean the same wherever functions use them.
_EVERYWHERE = {"data", "name", "records"}


def _given(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Files of shell and the names of the values that they are given."""
    dicts = {
        target.id: [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "shell" and node.args:
            words = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
            file = f"tasks/{[*words, 'core'][1]}/shell/{words[0]}.sh" if words else ""
            for keyword in node.keywords:
                names = [keyword.arg] if keyword.arg else dicts.get(ast.unparse(keyword.value), [])
                yield from ((file, str(name)) for name in names if file)


def _used_late(file: str, name: str) -> bool:
    """Whether a function of the file uses the value: by then another file may have set it."""
    bodies = re.findall(r"(?ms)^\w+\(\) *\{(?:.*?^\}|[^\n]*\}$)", (ROOT / file).read_text())
    return any(re.search(rf"\$\{{?{name}\b", body) for body in bodies)


def test_no_file_changes_the_values_of_anothers_functions() -> None:
    """Files are put together into one script, and a value is a variable of all of it."""
    given: dict[str, set[str]] = {}
    for path in (ROOT / "tasks").rglob("*.py"):
        for file, name in _given(ast.parse(path.read_text())):
            given.setdefault(name, set()).add(file)
    late = {name for name, files in given.items() for file in files if _used_late(file, name)}
    assert {"held_in", "pause_seconds", "start_seconds"} <= late
    assert {name for name in late if len(given[name]) > 1} <= _EVERYWHERE


def test_a_value_is_a_variable_and_nothing_of_the_text() -> None:
    value = 'it\'s $(false) `x` "y"\n* \\'
    script = f'{assignments({"value": value})}printf %s "$value"'
    assert helpers.shell(script).stdout == value
    assert shell("unless-busy", lock="/nowhere", busy=value).endswith(shell("unless-busy"))


# --- At the same time ----------------------------------------------------------------------------


def test_what_runs_side_by_side_is_printed_in_order() -> None:
    """Each more than a pipe holds; one fails, one ends its shell, one reads what it is given."""
    numbers = "seq %s | sed 's/^/%s /'"
    parts = [numbers % (20000, "a"), "echo b; exit 3", numbers % (20000, "c"), "false", "cat"]
    done = helpers.shell(side_by_side([f"({part}) </dev/null" for part in parts]) + "echo end")
    told = [line.split()[0] for line in done.stdout.splitlines()]
    assert told == ["a"] * 20000 + ["b"] + ["c"] * 20000 + ["end"]
    assert (done.stderr, side_by_side([])) == ("", "")
    assert helpers.shell(side_by_side(["echo alone"])).stdout == "alone\n"


def test_they_run_at_the_same_time(tmp_path: Path) -> None:
    """Each needs the other one to go on: one after the other they would never end."""
    there, back = (f"{tmp_path}/{name}" for name in ("there", "back"))
    parts = [f"echo 1 >{there}; cat {back}", f"cat {there}; echo 2 >{back}"]
    done = helpers.shell(f"mkfifo {there} {back}\n{side_by_side(parts)}")
    assert done.stdout == "2\n1\n"
