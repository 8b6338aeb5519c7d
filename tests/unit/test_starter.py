"""A repository of its own begins with what is safe."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("starter", "group_data", "inventory.py", "config.py", ".env.example")


def _made(tmp_path: Path) -> Path:
    """What `make init` makes of this project's files."""
    source = tmp_path / "datatier"
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    git = ["git", "-C", str(source), "-c", "user.name=me", "-c", "user.email=me@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    made = tmp_path / "shop"
    subprocess.run([source / "starter" / "init.sh", made], check=True, capture_output=True)
    return made


def test_hosts_have_tls_and_this_machine_alone_has_none(tmp_path: Path) -> None:
    made = _made(tmp_path)
    chosen: dict[str, Any] = runpy.run_path(str(made / "group_data" / "all.py"))
    assert chosen["tls_enabled"] is True and chosen["redis_default_user"] == "application"
    inventory: dict[str, Any] = runpy.run_path(str(made / "inventory.py"))
    assert dict(inventory["postgres"])["@local"]["tls_enabled"] is False
    assert "tls_enabled" not in (ROOT / "inventory.py").read_text()
