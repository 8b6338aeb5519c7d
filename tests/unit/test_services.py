"""Services under systemd and runit: fingerprints, impacts, and the files of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core import services
from tasks.core.files import Directory, File, digest
from tasks.core.services import Activation, Manager, Service, Status
from tests.unit import golden, helpers

REDIS = Service(
    name="redis-6379",
    description="Redis on port 6379",
    command="/usr/bin/redis-server /x --supervised systemd",
    foreground="/usr/bin/redis-server /x",
    user="redis",
    group="redis",
    ready="accepted 6379",
    reload="config_set 6379",
    check="check_configuration",
    before_start=("/bin/sed -i /x/d /x",),
)
POSTGRES = Service(
    name="postgres",
    description="PostgreSQL",
    command="/usr/lib/postgresql/17/bin/postgres -D /x",
    user="postgres",
    group="postgres",
    ready="psql -c 'SELECT 1'",
    reload="reload_postgres",
    unit="postgresql@17-main.service",
    enabled_by="postgresql.service",
    runtime_directory="/var/run/postgresql",
    stop_signal="INT",
    open_files=1000,
)
SIGNALLED = replace(REDIS, name="signalled", reload_signal="HUP", before_start=(), foreground="")
MANAGERS: tuple[Manager, ...] = ("systemd", "runit")


# --- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", MANAGERS)
def test_golden_files(manager: Manager, update_golden: bool) -> None:
    rendered = {
        entry.path.lstrip("/"): entry.content
        for service in (REDIS, POSTGRES, SIGNALLED)
        for entry in services.files(service, manager)
        if isinstance(entry, File)
    }
    golden.check(f"services-{manager}", rendered, update=update_golden)


def test_a_unit_of_our_own_and_a_drop_in_for_the_distributions() -> None:
    (unit,) = services.files(REDIS, "systemd")
    directory, dropin = services.files(POSTGRES, "systemd")
    assert unit.path == "/etc/systemd/system/redis-6379.service"
    assert isinstance(directory, Directory)
    assert dropin.path == "/etc/systemd/system/postgresql@17-main.service.d/datatier.conf"


def test_who_starts_and_stops_a_service_restarts_nothing() -> None:
    """Estates of before have no such line, and what runs has that user already."""
    _, dropin = services.files(POSTGRES, "systemd")
    assert isinstance(dropin, File)
    before = dropin.content.replace("User=postgres\n", "")
    assert before != dropin.content
    assert services.activation(POSTGRES, "systemd").restart == digest(before, "")


def test_runit_scripts_can_be_executed_and_come_after_their_directories() -> None:
    entries = services.files(POSTGRES, "runit")
    known = {"/etc/sv", "/var/log"}
    for entry in entries:
        assert str(Path(entry.path).parent) in known
        known.add(entry.path)
    assert {entry.mode for entry in entries if isinstance(entry, File)} == {"755"}
    assert any(entry.path == "/etc/sv/postgres/control/t" for entry in entries)
    assert not any("control" in entry.path for entry in services.files(REDIS, "runit"))


@pytest.mark.parametrize("service", [REDIS, POSTGRES, SIGNALLED], ids=lambda s: s.name)
def test_runit_scripts_are_shell(service: Service) -> None:
    for entry in services.files(service, "runit"):
        if isinstance(entry, File):
            assert helpers.syntax_error(entry.content) == ""


def test_only_runit_needs_a_package() -> None:
    assert services.packages("runit") == ["runit"]
    assert services.packages("systemd") == []


# --- Fingerprints --------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", MANAGERS)
def test_fingerprints_follow_what_they_stand_for(manager: Manager) -> None:
    one = services.activation(REDIS, manager, restart="a", reload="b")
    assert services.activation(REDIS, manager, restart="a", reload="b") == one
    assert services.activation(REDIS, manager, restart="x", reload="b").restart != one.restart
    assert services.activation(REDIS, manager, restart="x", reload="b").reload == one.reload
    assert services.activation(REDIS, manager, restart="a", reload="x").restart == one.restart
    assert services.activation(REDIS, manager, restart="a", reload="x").reload != one.reload


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_changed_unit_is_a_restart(manager: Manager) -> None:
    before = services.activation(POSTGRES, manager)
    after = services.activation(replace(POSTGRES, open_files=2000), manager)
    assert after.restart != before.restart
    assert after.reload == before.reload


def test_how_it_is_asked_is_no_part_of_the_fingerprint() -> None:
    before = services.activation(REDIS, "systemd")
    after = services.activation(replace(REDIS, ready="x", reload="x", check="x"), "systemd")
    assert (after.restart, after.reload) == (before.restart, before.reload)


def test_a_fingerprint_tells_no_secret() -> None:
    wanted = services.activation(REDIS, "runit", restart="hunter2", reload="hunter2")
    change = services.compare([wanted], {"redis-6379": Status(False, False, "", "")}, "runit")
    assert change is not None
    assert "hunter2" not in change.script


# --- Impacts -------------------------------------------------------------------------------------

WANTED = Activation(REDIS, "R", "L")
IMPACTS = [
    (Status(True, True, "R", "L"), None),
    (Status(True, False, "R", "L"), "enable"),
    (Status(True, True, "R", "old"), "reload"),
    (Status(True, False, "R", "old"), "reload"),
    (Status(True, True, "R", "L", frozenset({"a-key-that-is-gone"})), "reload"),
    (Status(True, True, "old", "L"), "restart"),
    (Status(True, True, "old", "old"), "restart"),
    (Status(True, True, "none", "none"), "restart"),
    (Status(False, True, "R", "L"), "start"),
    (Status(False, False, "none", "none"), "start"),
]


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize(("status", "impact"), IMPACTS)
def test_the_impact_is_the_least_that_does(
    status: Status, impact: str | None, manager: Manager
) -> None:
    change = services.compare([WANTED], {"redis-6379": status}, manager)
    assert (change.lines if change else None) == ([f"redis-6379: {impact}"] if impact else None)


ACTS = [
    (Status(True, False, "R", "L"), ":"),
    (Status(True, True, "R", "old"), "config_set 6379"),
    (Status(True, True, "old", "L"), "again redis-6379 redis-6379.service"),
    (Status(False, True, "R", "L"), "start_service redis-6379 redis-6379.service"),
]


@pytest.mark.parametrize(("status", "act"), ACTS)
def test_every_act_is_checked_before_and_proved_after(status: Status, act: str) -> None:
    change = services.compare([WANTED], {"redis-6379": status}, "systemd")
    assert change is not None
    assert change.script.splitlines()[-16:] == [
        "ready() {",
        "accepted 6379",
        "}",
        "hold() {",
        ":",
        "}",
        "release() {",
        ":",
        "}",
        "check_configuration",
        "enable_service redis-6379 redis-6379.service",
        act,
        "answer redis-6379 redis-6379.service",
        "release",
        "settle redis-6379 ",
        "record redis-6379 R L",
    ]


def test_a_file_that_is_newer_than_the_record_is_loaded_again(tmp_path: Path) -> None:
    status = Status(True, True, "R", "L", outdated=True)
    change = services.compare([WANTED], {"redis-6379": status}, "systemd")
    assert change is not None and change.lines == ["redis-6379: reload"]
    file, record = tmp_path / "redis.conf", tmp_path / "redis.active"
    script = services._READ_RECORD.format(record=record, files=file, deaf=":")
    record.write_text("R L lfu-log-factor\n")
    file.write_text("")
    for moment, newer in ((3, True), (1, False)):
        os.utime(record, (2, 2))
        os.utime(file, (moment, moment))
        said = services._record(helpers.shell(script).stdout.strip())
        assert said == ("R", "L", frozenset({"lfu-log-factor"}), newer)


def test_a_distributions_unit_is_enabled_by_its_own_name() -> None:
    wanted = Activation(POSTGRES, "R", "L")
    change = services.compare([wanted], {"postgres": Status(False, False, "", "")}, "systemd")
    assert change is not None
    assert "enable_service postgres postgresql.service\n" in change.script
    assert "start_service postgres postgresql@17-main.service\n" in change.script


def test_only_what_is_due_is_touched() -> None:
    others = [Activation(replace(REDIS, name=f"redis-{port}"), "R", "L") for port in (1, 2, 3)]
    found = {f"redis-{port}": Status(True, True, "R", "L") for port in (1, 2, 3)}
    found["redis-2"] = Status(False, True, "R", "L")
    change = services.compare(others, found, "runit")
    assert change is not None
    assert change.lines == ["redis-2: start"]
    assert "redis-1" not in change.script


@pytest.mark.parametrize("manager", MANAGERS)
def test_the_scripts_are_shell(manager: Manager) -> None:
    change = services.compare([WANTED], {"redis-6379": Status(True, True, "", "")}, manager)
    assert change is not None
    assert helpers.syntax_error(change.script) == ""
    assert helpers.syntax_error(services.probe([REDIS, POSTGRES], manager).script) == ""


# --- What the supervisor says --------------------------------------------------------------------


def read(
    manager: Manager, directory: Path, of: Sequence[Service], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Status]:
    """Runs the real probe, with the records of `directory`."""
    monkeypatch.setattr(services, "STATE_DIRECTORY", str(directory))
    probe = services.probe(of, manager)
    output = helpers.shell(f"PATH={directory}:$PATH\n{probe.script}")
    assert output.returncode == 0, output.stderr
    return probe.parse(output.stdout.splitlines())


def stub(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


SYSTEMCTL = """
case "$*" in
  "show "*" redis-6379.service") printf '%s\\n' ActiveState=active SubState=running ;;
  "show "*) printf '%s\\n' ActiveState=inactive SubState=dead ;;
  "is-enabled postgresql.service") echo enabled ;;
  *) exit 1 ;;
esac
"""


def test_systemds_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path / "systemctl", SYSTEMCTL)
    (tmp_path / "redis-6379.active").write_text("R L\n")
    assert read("systemd", tmp_path, [REDIS, POSTGRES], monkeypatch) == {
        "redis-6379": Status(True, False, "R", "L"),
        "postgres": Status(False, True, "none", "none"),
    }


SV = """
case $2 in
  */redis-6379) echo 'run: /etc/service/redis-6379: (pid 7) 3s; run: log: (pid 6) 3s' ;;
  */signalled) echo 'down: /etc/service/signalled: 1s, normally up' ;;
  *) exit 1 ;;
esac
"""


def test_runits_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path / "sv", SV)
    (tmp_path / "signalled.active").write_text("R L\n")
    assert read("runit", tmp_path, [REDIS, POSTGRES, SIGNALLED], monkeypatch) == {
        "redis-6379": Status(True, False, "none", "none"),
        "postgres": Status(False, False, "none", "none"),
        "signalled": Status(False, False, "R", "L"),
    }


def test_a_record_lost_in_a_crash_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path / "sv", SV)
    (tmp_path / "redis-6379.active").write_text("")
    assert read("runit", tmp_path, [REDIS], monkeypatch)["redis-6379"].restart == "none"


@pytest.mark.parametrize(
    ("word", "running"),
    [
        ("ActiveState=active SubState=running", True),
        ("ActiveState=reloading SubState=reload", True),
        ("ActiveState=activating SubState=start", True),
        ("ActiveState=activating SubState=auto-restart", False),
        ("ActiveState=failed SubState=failed", False),
        ("ActiveState=inactive SubState=dead", False),
    ],
)
def test_what_counts_as_running(word: str, running: bool) -> None:
    probe = services.probe([REDIS], "systemd")
    assert probe.parse([word, "enabled", "R L"])["redis-6379"].running is running


@pytest.mark.parametrize(
    ("word", "enabled"),
    [("enabled", True), ("enabled-runtime", True), ("disabled", False), ("masked", False)],
)
def test_what_counts_as_enabled(word: str, enabled: bool) -> None:
    probe = services.probe([REDIS], "systemd")
    assert (
        probe.parse(["ActiveState=active SubState=running", word, "R L"])["redis-6379"].enabled
        is enabled
    )
