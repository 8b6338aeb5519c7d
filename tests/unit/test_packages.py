"""Packages: what is installed, what is missing, and an installation that was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.core import packages
from tasks.core.estate import Node
from tasks.core.packages import Packages
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
    assert packages.compare(node, Packages(NAMES), VERSIONS) is None


def test_what_is_missing_is_named(node: Node) -> None:
    change = packages.compare(node, Packages(NAMES, ("mask_the_unit",)), {"redis-tools": "1"})
    assert change is not None
    assert change.lines == ["package redis-server: install"]
    assert "redis-tools" not in change.script, "apt would upgrade it"
    assert "\nmask_the_unit\n" in change.script
    assert helpers.syntax_error(change.script) == ""


def test_an_interrupted_installation_is_finished(node: Node) -> None:
    found = packages.probe(NAMES).parse(
        [*(f"{name} installed {version}" for name, version in VERSIONS.items()), "! interrupted !"]
    )
    change = packages.compare(node, Packages(NAMES), found)
    assert change is not None
    assert change.lines == ["packages: finish"]


def test_a_plan_counts_on_what_an_earlier_component_installs(node: Node) -> None:
    assert packages.compare(node, Packages(["runit", "redis-server"]), {}) is not None
    later = packages.compare(node, Packages(["runit", "pgbouncer"]), {})
    assert later is not None
    assert later.lines == ["package pgbouncer: install"]
    assert packages.compare(node, Packages(["runit"]), {}) is None


def test_a_run_counts_on_nothing(node: Node) -> None:
    packages.compare(node, Packages(["runit"]), {})
    node.host.state.is_executing = True
    assert packages.compare(node, Packages(["runit"]), {}) is not None


# --- All components of a host --------------------------------------------------------------------

GROUPS = {group: ["a"] for group in ("postgres", "pgbouncer", "redis", "sentinel", "backup")}


@pytest.fixture
def full(tmp_path: Path) -> Node:
    """A host with all components, and the operations that are asked for on it."""
    made = helpers.estate({"a": {"address": "10.0.0.1"}}, GROUPS, tmp_path)
    return made.nodes[0]


def test_a_host_installs_what_all_its_components_need(full: Node) -> None:
    """Each name once, and once what keeps these packages from starting or making anything."""
    wanted = packages.of_all(full)
    assert len(set(wanted.names)) == len(wanted.names)
    for component in full.components():
        assert {*component.packages(full).names} <= {*wanted.names}
        assert {*component.packages(full).before} <= {*wanted.before}
    assert len(wanted.before) == 2
    assert packages.probes(full)[packages.INSTALLED].script.count("pgbackrest") == 1


def test_no_component_installs_what_is_installed_with_all_others(
    full: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations: list[str] = []
    monkeypatch.setattr(packages, "converge", lambda name, _compare: operations.append(name))
    alone = Packages(["pgbouncer"])
    packages.install_packages(full, "PgBouncer", alone)
    packages.install_packages(full, "Nothing", Packages())
    packages.install_together(full)
    packages.install_packages(full, "PgBouncer", alone)
    assert operations == ["PgBouncer: packages", "Packages"]


def test_a_host_of_containers_installs_nothing(tmp_path: Path) -> None:
    made = helpers.estate({"a": {"address": "10.0.0.1"}}, {"docker": ["a"]}, tmp_path)
    assert packages.probes(made.nodes[0]) == {}
