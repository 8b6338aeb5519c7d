"""Upgrades: what keeps others from restarting our services, and what a host tells of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core import packages
from tasks.core.estate import Estate
from tasks.core.files import File
from tasks.core.preflight import System
from tasks.upgrade import files
from tests.unit import golden, helpers

GROUPS = {"postgres": ["db1"], "pgbouncer": ["db1"], "redis": ["db1"], "backup": ["db1"]}


def estate(directory: Path, *, systemd: bool = True) -> Estate:
    made = helpers.estate({"db1": {"address": "10.0.0.1"}, "bare": {}}, GROUPS, directory)
    for node in made.nodes:
        node.system = System(systemd=systemd)
    return made


def texts(made: Estate, name: str = "db1") -> dict[str, str]:
    entries = files.files_of(helpers.node(made, name))
    return {each.path: each.content for each in entries if isinstance(each, File)}


def test_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    under = {path.lstrip("/"): text for path, text in texts(estate(tmp_path)).items()}
    golden.check("upgrade", under, update=request.config.getoption("--update-golden"))


def test_what_is_kept_running_is_what_the_components_say(tmp_path: Path) -> None:
    made = estate(tmp_path)
    held = packages.of_all(helpers.node(made, "db1")).held
    text = texts(made)
    (pattern,) = re.findall(r"qr\((.*)\)}", text[files.NEEDRESTART])
    blacklisted = re.findall(r'"(\^.*?)"', text[files.APT].split("\n")[2])
    for name in ("postgresql@15-main.service", "pgbouncer.service", "redis-6379.service"):
        assert re.match(pattern, name) and any(re.match(each, name) for each in blacklisted)
        assert name.startswith(held)
    for other in ("ssh.service", "cron.service", "app-postgresql", "mypgbouncer"):
        assert not re.match(pattern, other) and not other.startswith(held)


def test_a_host_without_packages_of_ours_tells_of_itself_alone(tmp_path: Path) -> None:
    assert {*texts(estate(tmp_path), "bare")} == {files.SCRIPT, files.UNIT, files.TIMER}


def test_without_systemd_cron_runs_it(tmp_path: Path) -> None:
    paths = {*texts(estate(tmp_path, systemd=False))}
    assert files.CRON in paths and not paths & {files.UNIT, files.TIMER}
