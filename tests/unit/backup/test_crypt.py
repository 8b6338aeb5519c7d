"""Which file is meant where artifacts are encrypted."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup.crypt import named
from backup.job import Failed


@pytest.mark.parametrize("there", ["redis_LATEST.rdb.gz", "redis_LATEST.rdb.gz.gpg"])
def test_the_ending_of_encryption_may_be_left_out(tmp_path: Path, there: str) -> None:
    (tmp_path / there).touch()
    assert named(tmp_path / "redis_LATEST.rdb.gz") == tmp_path / there


def test_what_is_nowhere_or_means_two_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "redis_LATEST.rdb.gz"
    with pytest.raises(Failed, match=r"rdb\.gz: no such file"):
        named(path)
    for each in (path, path.with_name(f"{path.name}.gpg")):
        each.touch()
    with pytest.raises(Failed, match="is ambiguous"):
        named(path)
