"""Upgrades: what keeps others from restarting our services, and what a host tells of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core import packages, services
from tasks.core.estate import Estate
from tasks.core.files import File
from tasks.core.places import Service
from tasks.core.preflight import System
from tasks.core.scripts import quoted, shell
from tasks.core.services import Activation, Status
from tasks.upgrade import files, updates
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


LINES = [
    "stale Could not resolve 'deb.debian.org'",
    "due pgbouncer 1.18.0-1 1.18.0-2 security",
    "due redis-tools 5:7.0.15-1 5:7.0.16-1 other",
    "kept python3 3.13.5-1 that is of Debian 13",
]


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [("security", ["pgbouncer"]), ("all", ["pgbouncer", "redis-tools"])],
)
def test_which_updates_are_taken(tmp_path: Path, wanted: str, taken: list[str]) -> None:
    data = {"db1": {"address": "10.0.0.1", "upgrade_packages": wanted}}
    made = helpers.estate(data, GROUPS, tmp_path)
    found = updates.parse(LINES)
    assert [each.name for each in updates.chosen(helpers.node(made, "db1"), found)] == taken
    assert found.kept == (("python3", "3.13.5-1", "that is of Debian 13"),)
    assert found.stale == "Could not resolve 'deb.debian.org'"


def test_another_word_is_refused(tmp_path: Path) -> None:
    made = helpers.estate({"db1": {"upgrade_packages": "most"}}, GROUPS, tmp_path)
    assert any("upgrade_packages: should be 'security' or 'all'" in str(p) for p in made.problems)


def test_a_plan_says_what_an_upgrade_would_restart() -> None:
    service = Service("x", "x", "x", "x", "x", ":", ":", package="pgbouncer")
    runs = Status(running=True, enabled=True, restart="a", reload="a")
    due = services.upgraded(service, runs, {"pgbouncer"})
    wanted = Activation(service, "a", "a")
    assert services.impact(wanted, due) == "restart"
    assert services.unasked(wanted, due) == services.WHY_UPGRADED
    assert services.upgraded(service, runs, {"redis-tools"}) == runs
    stopped = replace(runs, running=False)
    assert services.upgraded(service, stopped, {"pgbouncer"}) == stopped


def test_a_program_that_was_replaced_is_seen(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        words = quoted("x", str(program), "", "")
        read = f"pids='{process.pid} '\n{shell('records', records='/nowhere')}recorded {words}\n"
        while Path(f"/proc/{process.pid}/exe").readlink() != program:
            time.sleep(0.01)
        assert helpers.shell(read).stdout == "none none\n"
        # As dpkg does it.
        shutil.copy("/bin/sleep", tmp_path / "new")
        (tmp_path / "new").rename(program)
        assert helpers.shell(read).stdout == "program none\n"
        process.kill()
