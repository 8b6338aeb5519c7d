"""Debian's loader that knows what it would ask says the same as the one that asks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.lab import loader

# Where the kernel has put the program, and the number of the processor that it was on.
_OTHERWISE = re.compile(r"auxv\[|x86\.cpu_features\.features\[0x0\]\.cpuid\[0x1\]=")


def test_it_says_what_it_would_have_been_told(tmp_path: Path) -> None:
    """Of this machine, if that has such a loader."""
    if not (loader.PATH.is_file() and loader.places_of(loader.PATH.read_bytes())):
        pytest.skip("the loader of this machine is another one")
    dump = _said("perl", "-e", loader.DUMP)
    file = tmp_path / loader.PATH.name
    file.write_bytes(loader.knowing(loader.PATH.read_bytes(), dump))
    file.chmod(0o755)
    for option, word in (("tunables", "x86_shared_cache_size"), ("diagnostics", "cpu_features")):
        asked, knows = (_lines(each, f"--list-{option}") for each in (loader.PATH, file))
        assert any(word in line for line in asked)
        assert knows == asked
    assert _said(str(file), "/bin/echo", "runs") == "runs\n"


def _lines(file: Path, option: str) -> list[str]:
    return [line for line in _said(str(file), option).splitlines() if not _OTHERWISE.match(line)]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_another_loader_is_left_alone() -> None:
    assert loader.places_of(Path("/bin/sh").read_bytes()) is None
