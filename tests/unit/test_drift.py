"""The gate as a pipeline runs it: its exit code, what it prints and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.core.change import Impact, summary
from tests.e2e.project import ROOT

CANARY = "canary-of-a-file-1"

PENDING = f"""
from pyinfra.operations import server
from tasks.core import files
from tasks.core.change import Change, Line, converge
from tasks.core.files import File, Found

secret = File("/etc/secret.conf", "password={CANARY}\\n", secret="^password=(.*)$")
lines = [Line("a: reload", "reload"), Line("b: moves", "restart"), "b: [enable]"]
converge("Nothing", lambda: None)
converge("A file", lambda: files.compare([secret], {{secret.path: Found("absent")}}))
converge("Services", lambda: Change(lines, "exit 1"))
server.shell(name="A stranger's operation", commands=["exit 1"])
print("said by the deploy file")
"""
NOTHING = """
from tasks.core.change import converge
converge("Nothing", lambda: None, notices=lambda: ["somebody's \\x1b[2J[/]"])
"""
REFUSED = """
from pyinfra.api.exceptions import PyinfraError
raise PyinfraError("1 problem; nothing was changed")
"""
# Nobody listens there.
UNREACHABLE = '("away", {"ssh_hostname": "127.0.0.1", "ssh_port": 9})'


class Gate:
    """A directory with an inventory and a deploy file, and the gate run in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files("hosts = ['@local']", PENDING)

    def files(self, inventory: str, deploy: str) -> None:
        """Writes both files."""
        (self.directory / "inventory.py").write_text(inventory)
        (self.directory / "deploy.py").write_text(deploy)

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`python -m tasks.drift` with these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "tasks.drift", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A project with pending changes on this machine."""
    return Gate(tmp_path)


def test_what_is_pending_is_a_table_and_exit_2(gate: Gate) -> None:
    """Each change in a row of its own; what is not one of ours is there by its name."""
    done = gate.run("inventory.py", PYINFRA_YES="1")
    assert (done.returncode, done.stderr) == (2, "")
    rows = [[*map(str.strip, row.split("  "))] for row in done.stdout.splitlines()]
    assert [[word for word in row if word] for row in rows] == [
        ["host", "operation", "change", "impact"],
        ["@local", "A file", "/etc/secret.conf: create", "-"],
        ["@local", "Services", "a: reload", "reload"],
        ["@local", "Services", "b: moves", "restart"],
        ["@local", "Services", "b: [enable]", "-"],
        ["@local", "A stranger's operation", "A stranger's operation", "-"],
        ["1 host compared: 5 changes: 1 reload, 1 restart"],
    ]


def test_json_is_all_there_is_on_standard_output(gate: Gate) -> None:
    done = gate.run("inventory.py", "deploy.py", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    plan = json.loads(done.stdout)
    assert plan["changes"][2] == {
        "host": "@local",
        "operation": "Services",
        "change": "b: moves",
        "impact": "restart",
    }
    assert plan["summary"] == {
        "changes": 5,
        "impacts": {"none": 3, "reload": 1, "restart": 1},
        "failed_hosts": [],
    }


@pytest.mark.parametrize("format", [(), ("--json",)])
def test_no_secret_is_shown(gate: Gate, format: Sequence[str]) -> None:
    """The diff that somebody asks for goes to standard error, masked."""
    done = gate.run("inventory.py", "--diff", "-vvv", *format)
    assert "+password=<secret " in done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_nothing_pending_is_exit_0(gate: Gate) -> None:
    """What a run would only tell of is told, and is no drift."""
    gate.files("hosts = ['@local']", NOTHING)
    done = gate.run("inventory.py")
    said = "1 host compared: 0 changes\n[@local] somebody's \\x1b[2J[/]\n"
    assert (done.returncode, done.stdout) == (0, said)
    plan = json.loads(gate.run("inventory.py", "--json").stdout)
    notice = {"host": "@local", "notice": "somebody's \\x1b[2J[/]"}
    assert (plan["changes"], plan["notices"]) == ([], [notice])


def test_a_host_that_cannot_be_reached_is_exit_1(gate: Gate) -> None:
    """What is pending on the others is still told."""
    gate.files(f"hosts = ['@local', {UNREACHABLE}]", PENDING)
    done = gate.run("inventory.py", "--json")
    assert done.returncode == 1
    assert "could not be compared: away" in done.stderr
    plan = json.loads(done.stdout)
    assert plan["summary"]["failed_hosts"] == ["away"]
    assert {each["host"] for each in plan["changes"]} == {"@local"}


def test_no_host_that_can_be_reached_is_exit_1(gate: Gate) -> None:
    gate.files(f"hosts = [{UNREACHABLE}]", NOTHING)
    done = gate.run("inventory.py", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No hosts remaining" in done.stderr


def test_refused_settings_are_exit_1(gate: Gate) -> None:
    gate.files("hosts = ['@local']", REFUSED)
    done = gate.run("inventory.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 problem; nothing was changed" in done.stderr


def test_what_compares_nothing_is_exit_1(gate: Gate) -> None:
    """A misspelt limit, or a file that only defines functions, must not look green."""
    for arguments in (["--limit", "@lokal"], ["empty.py"]):
        (gate.directory / "empty.py").write_text("def deploy(): ...\n")
        done = gate.run("inventory.py", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nothing was compared" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["inventory.py", "--nonsense"], ["inventory.py", "-y"]])
def test_a_wrong_command_line_is_exit_1(gate: Gate, arguments: list[str]) -> None:
    """And not 2, which is what command lines usually give for that."""
    done = gate.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Usage: python -m tasks.drift" in done.stderr


@pytest.mark.parametrize(
    ("impacts", "said"),
    [
        ([], "0 changes"),
        (["none"], "1 change"),
        (["restart", "none", "reload", "restart"], "4 changes: 1 reload, 2 restart"),
        (["destroys data", "failover"], "2 changes: 1 failover, 1 destroys data"),
    ],
)
def test_a_summary_counts_by_impact(impacts: list[Impact], said: str) -> None:
    assert summary(impacts) == said
