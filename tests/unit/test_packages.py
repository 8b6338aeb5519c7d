"""Packages: what is installed, what is missing, and an installation that was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.core import packages
from tasks.core.estate import Node
from tests.unit import helpers

NAMES = ["redis-server", "redis-tools"]
VERSIONS = {"redis-server": "5:7.0.15-1", "redis-tools": "5:7.0.15-1"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return helpers.estate({"a": {"address": "10.0.0.1"}}, {"redis": ["a"]}, tmp_path).nodes[0]


def test_only_what_is_installed_whole_counts() -> None:
    probe = packages.probe(NAMES)
    lines = [
        "redis-server installed 5:7.0.15-1",
        "redis-tools config-files 5:7.0.15-1",
        "x not-installed ",
    ]
    assert probe.parse(lines) == {"redis-server": "5:7.0.15-1"}
    assert probe.parse([]) == {}


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="not a Debian system")
def test_this_machine_is_read() -> None:
    probe = packages.probe(["dpkg", "no-such-package-1"])
    output = helpers.shell(probe.script)
    assert output.returncode == 0
    found = probe.parse(output.stdout.splitlines())
    assert list(found) == ["dpkg"]
    assert found["dpkg"][0].isdigit()


def test_nothing_is_missing(node: Node) -> None:
    assert packages.compare(node, NAMES, VERSIONS) is None


def test_what_is_missing_is_named(node: Node) -> None:
    change = packages.compare(node, NAMES, {"redis-tools": "1"}, "mask_the_unit")
    assert change is not None
    assert change.lines == ["package redis-server: install"]
    assert "redis-tools" not in change.script, "apt would upgrade it"
    assert "\nmask_the_unit\n" in change.script
    assert helpers.syntax_error(change.script) == ""


def test_an_interrupted_installation_is_finished(node: Node) -> None:
    found = packages.probe(NAMES).parse(
        [*(f"{name} installed {version}" for name, version in VERSIONS.items()), "! interrupted !"]
    )
    change = packages.compare(node, NAMES, found)
    assert change is not None
    assert change.lines == ["packages: finish"]


def test_a_plan_counts_on_what_an_earlier_component_installs(node: Node) -> None:
    assert packages.compare(node, ["runit", "redis-server"], {}) is not None
    later = packages.compare(node, ["runit", "pgbouncer"], {})
    assert later is not None
    assert later.lines == ["package pgbouncer: install"]
    assert packages.compare(node, ["runit"], {}) is None


def test_a_run_counts_on_nothing(node: Node) -> None:
    packages.compare(node, ["runit"], {})
    node.host.state.is_executing = True
    assert packages.compare(node, ["runit"], {}) is not None
