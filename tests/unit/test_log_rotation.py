"""Whatever keeps a log in a file on a host shortens it too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pgbouncer import probes
from tasks.postgres import packages
from tests.unit import helpers


@pytest.mark.parametrize(("manager", "is_needed"), [("systemd", True), ("runit", False)])
def test_logs_in_files_are_rotated(tmp_path: Path, manager: str, is_needed: bool) -> None:
    """With runit, svlogd keeps a few files of what services print."""
    data = {"address": "10.0.0.1", "service_manager": manager}
    groups = {"postgres": ["a"], "pgbouncer": ["a"]}
    (node,) = helpers.estate({"a": data}, groups, tmp_path).nodes
    for found in (packages.packages_of(node), probes.packages_of(node)):
        assert ("logrotate" in found.names) == is_needed
