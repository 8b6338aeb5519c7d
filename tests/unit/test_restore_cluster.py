"""The restore script's own reading of its command line; the story is in tests/e2e."""

from __future__ import annotations

import subprocess
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
