"""A manifest is changed by several jobs at once, and says what each of them had to say."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.job import Failed
from backup.manifest import Manifest, update
from tests.unit.backup import builders

ROOT = Path(__file__).parents[3]
_NOTE = """
import sys
from pathlib import Path
from backup.manifest import update
for number in range(25):
    what = f"{sys.argv[3]} {number}"
    update(Path(sys.argv[1]), sys.argv[2], lambda now: now.with_verification(what, "2026"))
"""


def test_no_change_is_lost(tmp_path: Path) -> None:
    made = builders.manifest("redis", "redis", datetime.now(UTC), verified=False)
    made.write(tmp_path)
    jobs = [
        subprocess.Popen([sys.executable, "-c", _NOTE, tmp_path, made.name, job], cwd=ROOT)
        for job in ("mirror", "verify", "drill")
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert len(Manifest.read(made.beside(tmp_path)).verified) == 75


def test_what_is_gone_stays_gone(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="is not a manifest"):
        update(tmp_path, "redis_20260101_000000.rdb.gz", lambda now: now)
    assert not list(tmp_path.glob("*.json"))
