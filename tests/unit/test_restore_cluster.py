"""The restore script's own reading of its command line; the story is in tests/e2e."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tasks.core.files import File
from tests.unit.test_templates import entries, shape


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return rendered(tmp_path, "cluster", "db1")


def rendered(tmp_path: Path, name: str, host: str) -> Path:
    (node,) = (n for n in shape(name, tmp_path).nodes if n.name == host)
    (content,) = (
        entry.content
        for entry in entries(node)
        if isinstance(entry, File) and entry.path == "/scripts/restore-cluster.sh"
    )
    path = tmp_path / "restore-cluster.sh"
    path.write_text(content)
    return path


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As nobody: even a mistake of ours must not restore anything here.
    command = ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-s", "--", *arguments]
    with script.open() as source:
        return subprocess.run(command, stdin=source, capture_output=True, text=True, check=False)


def test_help(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: restore-cluster.sh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "2026-11-22 14:03:00"], "not a moment with a zone"),
        (["--time", "2026-11-22"], "not a moment with a zone"),
        (["--time", "yesterday"], "not a moment with a zone"),
        (["--time", "2026-13-22 14:03:00+00"], "not a moment with a zone"),
        (["--time", "2999-01-01 00:00:00Z"], "in the future"),
        (["--time"], "not a moment with a zone"),
        (["--incremental", "psscript_full_20261122_140300"], "not an incremental backup"),
        (["--incremental", "psscript_incremental_20261122_140300'; x"], "not an incremental"),
        (["--incremental", "other_incremental_20261122_140300"], "not an incremental backup"),
        (["--incremental", "psscript_incremental_20269999_140300"], "no date in its name"),
        (["--latest", "--time", "2026-11-22 14:03:00Z"], "give one of"),
        (["--time", "1 minute ago"], "run this as root"),
        (["--time", "3 days ago"], "run this as root"),
        (["--time", "1 minute ago; id"], "not a moment with a zone"),
        (["--time", "5 minutes"], "not a moment with a zone"),
        (["--timeline", "x"], "needs a number"),
        (["--delta"], "Usage:"),
        (["--time", "2026-11-22 14:03:00+01:00"], "run this as root"),
        (["--incremental", "psscript_incremental_20261122_140300"], "run this as root"),
        ([], "run this as root"),
    ],
)
def test_wrong_use(script: Path, arguments: list[str], message: str) -> None:
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(("name", "host"), [("cluster", "db1"), ("embedded", "@local")])
def test_shell_reads_it(tmp_path: Path, name: str, host: str) -> None:
    subprocess.run(["sh", "-n", rendered(tmp_path, name, host)], check=True)


# --- Servers that run ----------------------------------------------------------------------------

DATA = "/var/lib/postgresql/17/main"
SOMEBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"


def found(script: Path) -> list[str]:
    """What the script takes for servers, as root of a container: without CAP_SYS_PTRACE."""
    function = re.search(r"^servers\(\) \{\n.*?^\}", script.read_text(), re.MULTILINE | re.DOTALL)
    assert function
    shell = f'data={DATA}\nas_postgres() {{ {SOMEBODY} "$@"; }}\n{function[0]}\nservers'
    command = ["setpriv", "--bounding-set=-sys_ptrace", "sh", "-euc", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(("data", "is_ours"), [(DATA, True), (f"{DATA}2", False)])
def test_a_server_is_found_without_the_right_to_look_into_others(
    script: Path, data: str, is_ours: bool
) -> None:
    stands_for = ["bash", "-c", f"exec -a '/bin/postgres -D {data}' sleep 60"]
    with subprocess.Popen([*SOMEBODY.split(), *stands_for]) as server:
        try:
            line = Path(f"/proc/{server.pid}/cmdline")
            until = time.monotonic() + 10
            while not line.read_text().startswith("/bin/postgres"):
                assert time.monotonic() < until
                time.sleep(0.01)
            assert (str(server.pid) in found(script)) == is_ours
        finally:
            server.kill()
