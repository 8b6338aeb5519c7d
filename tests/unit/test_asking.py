"""How a run ends that is refused, or that nobody answers; by pyinfra's own command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = Path(sys.executable).parent / "pyinfra"
PENDING = """
from tasks.core.change import Change, converge
converge("Something", lambda: Change(["a: change"], ":"))
"""
LOOKS = "from tasks.core.asking import only_looks\nonly_looks()\n"
REFUSED = "from tasks.core.asking import Refusal\nraise Refusal('1 problem; nothing was changed')\n"


def run(
    directory: Path,
    deploy: str,
    *options: str,
    inventory: str = "hosts = ['@local']",
    name: str = "inventory.py",
) -> tuple[int, str]:
    """The exit code and what people read, where nobody can answer."""
    (directory / "inventory.py").write_text(inventory)
    (directory / "deploy.py").write_text(deploy)
    done = subprocess.run(
        [PYINFRA, *options, name, "deploy.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("deploy", "line"),
    [
        (REFUSED, "--> Refused: 1 problem; nothing was changed"),
        (PENDING, "--> Refused: no one can answer here: -y asks nothing, and --dry only looks"),
    ],
)
def test_a_refusal_is_one_line_and_looks_like_no_crash(
    deploy: str, line: str, tmp_path: Path
) -> None:
    code, said = run(tmp_path, deploy)
    assert code == 1
    assert [each.strip() for each in said.splitlines() if "Refused" in each] == [line]
    assert not any(word in said for word in ("Traceback", "pyinfra error", "EOF", "exception"))


def test_who_only_looks_is_not_asked(tmp_path: Path) -> None:
    code, said = run(tmp_path, LOOKS + PENDING)
    assert (code, "Press enter" in said) == (0, False)


GROUPED = "from tasks import postgres\npostgres.deploy()\n"


@pytest.mark.parametrize(
    "value",
    ["'db1'", "('db1', {'address': '10.0.0.1'})", "{'db1'}", "{'db1': {}}", "None", "[1]"],
)
def test_a_group_that_is_no_list_is_refused(value: str, tmp_path: Path) -> None:
    inventory = f"hosts = ['@local']\npostgres = {value}\n"
    code, said = run(tmp_path, GROUPED, "-y", inventory=inventory)
    assert code == 1
    line = "inventory.py: group postgres: should be a list of hosts, such as ['@local']"
    assert line in said and "nothing was changed" in said


def test_our_modules_leave_the_standard_library_alone() -> None:
    """The command of pyinfra replaces parts of it, and threads of a test would become one."""
    names = sorted(each.stem for each in (ROOT / "tasks").glob("*"))
    modules = ", ".join(
        f"tasks.{name}" for name in names if name not in ("__init__", "__pycache__", "drift")
    )
    ask = "from gevent import monkey; print(monkey.is_module_patched('threading'))"
    said = subprocess.run(
        [sys.executable, "-c", f"import {modules}\n{ask}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == "False\n"


# --- What is mistyped ----------------------------------------------------------------------------

CONFIG = "from tasks.core import beginning\nbeginning.guard()\n"
TOUCHES = "from pathlib import Path\nPath('touched').touch()\n"


@pytest.mark.parametrize("forbids", ["", "1"])
def test_a_run_compiles_our_modules_once(forbids: str, tmp_path: Path) -> None:
    """pyinfra would have it done in every run; its user may forbid it."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=lambda *_: {"__pycache__"})
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "inventory.py").write_text("hosts = ['@local']")
    (tmp_path / "deploy.py").write_text("import tasks.core.scripts\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": forbids}
    command = [str(PYINFRA), "--dry", "inventory.py", "deploy.py"]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120, check=True)
    assert bool([*tmp_path.rglob("scripts.*.pyc")]) is not bool(forbids)


@pytest.mark.parametrize(
    ("words", "inventory", "line"),
    [
        (["inventry.py"], "hosts = ['@local']", "there is no file inventry.py (inventory.py?)"),
        (["sites/other.py"], "hosts = ['@local']", "there is no file sites/other.py"),
        (["no-such-host"], "hosts = ['@local']", "the inventory no-such-host has no hosts"),
        (["inventory.py"], "hosts = []", "the inventory inventory.py has no hosts"),
        (
            ["inventory.py", "--limit", "db"],
            "db1 = ['@local']",
            "--limit db: no host and no group of the inventory is called that",
        ),
        (
            ["inventory.py", "--limit", "db1", "--limit", "db2"],
            "db1 = ['@local']",
            "--limit db2: no host and no group of the inventory is called that",
        ),
        (
            ["inventory.py"],
            "hosts = [('10.0.0.1', {'ssh_key': '/no/such/key'})]",
            "10.0.0.1: ssh_key: there is no file /no/such/key",
        ),
        (
            ["inventory.py"],
            "import os\nhosts = [os.environ['NO_SUCH']]",
            "inventory.py line 2: KeyError: 'NO_SUCH'",
        ),
        (["inventory.py"], "hosts = [", "inventory.py line 1: '[' was never closed"),
    ],
)
def test_what_is_mistyped_is_refused_in_a_line(
    words: list[str], inventory: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / "config.py").write_text(CONFIG)
    name, *options = words
    code, said = run(tmp_path, TOUCHES, "-y", *options, inventory=inventory, name=name)
    assert code == 1, said
    assert [each.strip() for each in said.splitlines() if "Refused" in each] == [
        f"--> Refused: {line}"
    ]
    assert not any(word in said for word in ("Traceback", "pyinfra error", "greenlet"))
    assert not (tmp_path / "touched").exists()


def test_what_is_well_typed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(CONFIG)
    inventory = "db1 = [('@local', {'ssh_key': 'inventory.py'})]"
    code, said = run(tmp_path, TOUCHES, "-y", "--limit", "db1", inventory=inventory)
    assert code == 0 and (tmp_path / "touched").exists(), said


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        ("ProxyJump me@127.0.0.1:1", "me@127.0.0.1:1: Unable to connect to port 1 on 127.0.0.1"),
        ("ProxyCommand no-such-program %h", "no-such-program 192.0.2.1: No such file or directory"),
        ("ProxyCommand sh -c 'echo no >&2; exit 3'", "sh -c echo no >&2; exit 3: no"),
        ("ProxyCommand sh -c 'exit 3'", "sh -c exit 3: it ended with 3"),
        ("Hostname 127.0.0.1", ""),
    ],
)
def test_a_host_that_is_not_reached_is_told_once_and_the_way_is_named(
    way: str, fault: str, tmp_path: Path
) -> None:
    """A fault of a host on the way is not told as the host's; and nothing looks like a crash."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "ssh").write_text(f"Host 192.0.2.1\n  {way}\n")
    data = {"ssh_config_file": "ssh", "ssh_port": 1, "ssh_known_hosts_file": "ssh"}
    code, said = run(tmp_path, TOUCHES, "-y", inventory=f"hosts = [('192.0.2.1', {data})]")
    assert code == 1 and not (tmp_path / "touched").exists()
    (told,) = [line.strip() for line in said.splitlines() if line.strip().startswith("[192.0.2.1]")]
    wanted = f"SSH error (on the way, {fault})" if fault else "Could not connect ("
    assert told.startswith(f"[192.0.2.1] {wanted}"), said
    assert "--> Refused: no host was reached, see above; nothing was changed" in said
    assert not any(word in said for word in ("Traceback", "pyinfra error", "No hosts remaining"))
