"""The loader of Debian 12 that knows what it would ask says the same as the one that asks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab import loader


def test_it_says_what_it_would_have_been_told(tmp_path: Path) -> None:
    """Of this machine, if that has such a loader."""
    known = loader.PATH.is_file() and loader.knowing(loader.PATH.read_bytes())
    if not known:
        pytest.skip("the loader of this machine is another one")
    file = tmp_path / loader.PATH.name
    file.write_bytes(known)
    file.chmod(0o755)
    said = [_said(each) for each in (loader.PATH, file)]
    assert "x86_shared_cache_size" in said[0]
    assert said[1] == said[0]


def _said(file: Path) -> str:
    done = subprocess.run([file, "--list-tunables"], capture_output=True, text=True, check=True)
    return done.stdout


def test_another_loader_is_left_alone() -> None:
    assert loader.knowing(Path("/bin/sh").read_bytes()) is None
