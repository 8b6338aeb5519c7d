"""Services under systemd and runit: fingerprints, impacts, and the files of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tasks.core import services
from tasks.core.files import Directory, File, digest
from tasks.core.places import Place, Service
from tasks.core.places.container import Container
from tasks.core.places.runit import RUNIT
from tasks.core.places.systemd import SYSTEMD
from tasks.core.scripts import assignments, quoted, shell
from tasks.core.services import Activation, Status
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
HOSTS: tuple[Place, ...] = (SYSTEMD, RUNIT)
NETWORK = IPv4Network("172.25.0.0/16")
CONTAINER = Container("shop_redis-master", "/var/lib/datatier/docker/shop", NETWORK, NETWORK)
PLACES = (*HOSTS, CONTAINER)


# --- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", HOSTS, ids=lambda place: place.name)
def test_golden_files(place: Place, update_golden: bool) -> None:
    rendered = {
        entry.path.lstrip("/"): entry.content
        for service in (REDIS, POSTGRES, SIGNALLED)
        for entry in place.files(service)
        if isinstance(entry, File)
    }
    golden.check(f"services-{place.name}", rendered, update=update_golden)


def test_a_unit_of_our_own_and_a_drop_in_for_the_distributions() -> None:
    (unit,) = SYSTEMD.files(REDIS)
    directory, dropin = SYSTEMD.files(POSTGRES)
    assert unit.path == "/etc/systemd/system/redis-6379.service"
    assert isinstance(directory, Directory)
    assert dropin.path == "/etc/systemd/system/postgresql@17-main.service.d/datatier.conf"


def test_who_starts_and_stops_a_service_restarts_nothing() -> None:
    """Estates of before have no such line, and what runs has that user already."""
    _, dropin = SYSTEMD.files(POSTGRES)
    assert isinstance(dropin, File)
    before = dropin.content.replace("User=postgres\n", "")
    assert before != dropin.content
    assert services.activation(POSTGRES, SYSTEMD).restart == digest(before, "")


def test_runit_scripts_can_be_executed_and_come_after_their_directories() -> None:
    entries = RUNIT.files(POSTGRES)
    known = {"/etc/sv", "/var/log"}
    for entry in entries:
        assert str(Path(entry.path).parent) in known
        known.add(entry.path)
    assert {entry.mode for entry in entries if isinstance(entry, File)} == {"755"}
    assert any(entry.path == "/etc/sv/postgres/control/t" for entry in entries)
    assert not any("control" in entry.path for entry in RUNIT.files(REDIS))


@pytest.mark.parametrize("service", [REDIS, POSTGRES, SIGNALLED], ids=lambda s: s.name)
def test_runit_scripts_are_shell(service: Service) -> None:
    for entry in RUNIT.files(service):
        if isinstance(entry, File):
            assert helpers.syntax_error(entry.content) == ""


def test_only_runit_needs_a_package() -> None:
    assert [place.packages for place in HOSTS] == [(), ("runit",)]


# --- Fingerprints --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_fingerprints_follow_what_they_stand_for(place: Place) -> None:
    one = services.activation(REDIS, place, restart="a", reload="b")
    assert services.activation(REDIS, place, restart="a", reload="b") == one
    assert services.activation(REDIS, place, restart="x", reload="b").restart != one.restart
    assert services.activation(REDIS, place, restart="x", reload="b").reload == one.reload
    assert services.activation(REDIS, place, restart="a", reload="x").restart == one.restart
    assert services.activation(REDIS, place, restart="a", reload="x").reload != one.reload


@pytest.mark.parametrize("place", HOSTS, ids=lambda place: place.name)
def test_a_changed_unit_is_a_restart(place: Place) -> None:
    before = services.activation(POSTGRES, place)
    after = services.activation(replace(POSTGRES, open_files=2000), place)
    assert after.restart != before.restart
    assert after.reload == before.reload


def test_how_it_is_asked_is_no_part_of_the_fingerprint() -> None:
    before = services.activation(REDIS, SYSTEMD)
    after = services.activation(replace(REDIS, ready="x", reload="x", check="x"), SYSTEMD)
    assert (after.restart, after.reload) == (before.restart, before.reload)


def test_a_fingerprint_tells_no_secret() -> None:
    wanted = services.activation(REDIS, RUNIT, restart="hunter2", reload="hunter2")
    change = services.compare([wanted], {"redis-6379": Status(False, False, "", "")}, RUNIT)
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


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
@pytest.mark.parametrize(("status", "impact"), IMPACTS)
def test_the_impact_is_the_least_that_does(
    status: Status, impact: str | None, place: Place
) -> None:
    change = services.compare([WANTED], {"redis-6379": status}, place)
    assert (change.lines if change else None) == ([f"redis-6379: {impact}"] if impact else None)


ACTS = [
    (Status(True, False, "R", "L"), ":"),
    (Status(True, True, "R", "old"), "config_set 6379"),
    (Status(True, True, "old", "L"), "again redis-6379 redis-6379.service"),
    (Status(False, True, "R", "L"), "start_service redis-6379 redis-6379.service"),
]


def _whole(ready: str, check: str, names: str, act: str) -> list[str]:
    """The lines of a step for which no clients wait."""
    service = names.partition(" ")[0]
    functions = (("ready", ready), ("hold", ":"), ("release", ":"))
    return [
        *(line for name, body in functions for line in (f"{name}() {{", body, "}")),
        check,
        f"enable_service {names}",
        act,
        f"answer {names}",
        "release",
        f"is_started {names}",
        f"settle {service} ",
        f"record {service} R L",
    ]


@pytest.mark.parametrize(("status", "act"), ACTS)
def test_every_act_is_checked_before_and_proved_after(status: Status, act: str) -> None:
    change = services.compare([WANTED], {"redis-6379": status}, SYSTEMD)
    assert change is not None
    assert change.script.splitlines()[-17:] == _whole(
        "accepted 6379", "check_configuration", "redis-6379 redis-6379.service", act
    )


def test_a_file_that_is_newer_than_the_record_is_loaded_again(tmp_path: Path) -> None:
    status = Status(True, True, "R", "L", outdated=True)
    change = services.compare([WANTED], {"redis-6379": status}, SYSTEMD)
    assert change is not None and change.lines == ["redis-6379: reload"]
    file, record = tmp_path / "redis.conf", tmp_path / "redis.active"
    script = f"{shell('records', records=str(tmp_path))}recorded redis '' '' '' {file}\n"
    record.write_text("R L lfu-log-factor\n")
    file.write_text("")
    for moment, newer in ((3, True), (1, False)):
        os.utime(record, (2, 2))
        os.utime(file, (moment, moment))
        said = services._record(helpers.shell(script).stdout.strip())
        assert said == ("R", "L", frozenset({"lfu-log-factor"}), newer)


def test_a_distributions_unit_is_enabled_by_its_own_name() -> None:
    wanted = Activation(POSTGRES, "R", "L")
    change = services.compare([wanted], {"postgres": Status(False, False, "", "")}, SYSTEMD)
    assert change is not None
    assert "enable_service postgres postgresql.service\n" in change.script
    assert "start_service postgres postgresql@17-main.service\n" in change.script


def test_a_container_does_the_same_within() -> None:
    """What it is told goes on standard input, and secrets with it."""
    service = replace(
        REDIS, name="redis-master", functions="f() {", variables={"SECRET": "hunter2"}
    )
    change = services.change([(Activation(service, "R", "L"), "reload")], CONTAINER)
    assert change.script.splitlines()[-17:] == _whole(
        'inside shop_redis-master "$READY_SHOP_REDIS_MASTER"',
        'inside shop_redis-master "$CHECK_SHOP_REDIS_MASTER"',
        "redis-master shop_redis-master",
        'reload redis-master shop_redis-master "$RELOAD_SHOP_REDIS_MASTER"',
    )
    assert "hunter2" not in change.script
    assert change.variables.keys() == {
        f"{part}_SHOP_REDIS_MASTER" for part in ("CHECK", "READY", "RELOAD")
    }
    for script in change.variables.values():
        assert script.startswith("SECRET=hunter2\n")


WAITS = ["check", "hold", "restart shop_redis-master", "ready", "release"]
# Its containers are this machine.
DOCKER = """
case $1 in
  exec) exec sh ;;
  restart) echo "restart $4" >>"${0%/*}/log" ;;
esac
"""


@pytest.mark.parametrize(
    ("parts", "log", "wrong"),
    [
        ({}, ["check", "reload", "ready", "release"], ""),
        ({"reload": "again x y"}, WAITS, ""),
        ({"reload": "restart_service x y"}, WAITS, ""),
        ({"check": "echo wrong >&2; exit 1"}, [], "shop_redis-master: wrong\n"),
        ({"reload": "false; log reload"}, ["check"], "shop_redis-master: \n"),
    ],
)  # fmt: skip
def test_a_container_is_restarted_from_outside_while_clients_wait(
    parts: dict[str, str], log: list[str], wrong: str, tmp_path: Path
) -> None:
    stub(tmp_path / "docker", DOCKER)
    says = f"log() {{ echo $1 >>{tmp_path}/log; }}\n"
    named = ("check", "reload", "ready", "hold", "release")
    every: dict[str, Any] = {**{part: f"log {part}" for part in named}, **parts}
    service = replace(REDIS, name="redis-master", functions=says, **every)
    place = replace(CONTAINER, records=str(tmp_path))
    change = services.change([(Activation(service, "R", "L"), "reload")], place)
    script = f"PATH={tmp_path}:$PATH\nset -eu\n{says}{change.script}"
    done = helpers.shell(f"{assignments(change.variables)}{script}")
    assert (done.stderr, done.returncode) == (wrong, bool(wrong))
    said, record = tmp_path / "log", tmp_path / "redis-master.active"
    assert (said.read_text().splitlines() if said.exists() else []) == log
    assert record.exists() != bool(wrong)


def test_scaled_containers_take_it_one_by_one_and_it_is_recorded_once() -> None:
    place = replace(CONTAINER, scaled=("shop-redis-replica-1",))
    step = services.step(WANTED, "restart", place).splitlines()
    acts = [line for line in step if line.startswith(("again", "answer", "record"))]
    one, other = "redis-6379 shop_redis-master", "redis-6379 shop-redis-replica-1"
    assert acts == [
        *(f"again {one}", f"answer {one}", f"again {other}", f"answer {other}"),
        "record redis-6379 R L",
    ]


def test_a_new_container_is_waited_for_like_a_restart() -> None:
    step = services.step(WANTED, "recreate", CONTAINER, "up redis").splitlines()
    names = "redis-6379 shop_redis-master"
    assert step[-7:] == [
        *("hold", "up redis", f"answer {names}", "release", f"is_started {names}"),
        *("settle redis-6379 ", "record redis-6379 R L"),
    ]
    assert not any("CHECK" in line for line in step), "the old one does not have the new files"


def test_a_container_has_the_records_of_before() -> None:
    """Estates of before have one fingerprint of a unit less than hosts."""
    wanted = services.activation(REDIS, CONTAINER, restart="a", reload="b")
    assert (wanted.restart, wanted.reload) == (digest("a"), digest("b"))


def test_every_place_can_do_the_same() -> None:
    """What steps and removals call."""
    of_steps = "enable_service start_service restart_service stop_service last_log"
    of_steps += " is_failing is_starting is_started"
    for place in PLACES:
        for script, names in (
            (place.functions(), of_steps),
            (place.removal(), "leave_service forget_units last_log"),
        ):
            assert [n for n in names.split() if f"\n{n}() {{" not in f"\n{script}"] == []


def test_only_what_is_due_is_touched() -> None:
    others = [Activation(replace(REDIS, name=f"redis-{port}"), "R", "L") for port in (1, 2, 3)]
    found = {f"redis-{port}": Status(True, True, "R", "L") for port in (1, 2, 3)}
    found["redis-2"] = Status(False, True, "R", "L")
    change = services.compare(others, found, RUNIT)
    assert change is not None
    assert change.lines == ["redis-2: start"]
    assert "redis-1" not in change.script


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_the_scripts_are_shell(place: Place) -> None:
    change = services.compare([WANTED], {"redis-6379": Status(True, True, "", "")}, place)
    assert change is not None
    assert helpers.syntax_error(change.script) == ""
    assert helpers.syntax_error(services.probe([REDIS, POSTGRES], place).script) == ""


# --- What the supervisor says --------------------------------------------------------------------


def read(
    place: Place, directory: Path, of: Sequence[Service], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Status]:
    """Runs the real probe, with the records of `directory`."""
    monkeypatch.setattr(Place, "records", str(directory))
    probe = services.probe(of, place)
    output = helpers.shell(f"PATH={directory}:$PATH\n{probe.script}")
    assert output.returncode == 0, output.stderr
    return probe.parse(output.stdout.splitlines())


def stub(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


SYSTEMCTL = """
case "$*" in
  "show "*" redis-6379.service postgresql@17-main.service")
    printf '%s\\n' ActiveState=active SubState=running '' ActiveState=inactive SubState=dead ;;
  "is-enabled "*postgresql.service) echo enabled ;;
  *) exit 1 ;;
esac
"""


def test_systemds_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path / "systemctl", SYSTEMCTL)
    (tmp_path / "redis-6379.active").write_text("R L\n")
    assert read(SYSTEMD, tmp_path, [REDIS, POSTGRES], monkeypatch) == {
        "redis-6379": Status(True, False, "R", "L"),
        "postgres": Status(False, True, "none", "none"),
    }


def test_who_wins_over_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line wins; the packages' and ours are no others', nor is what says the same."""
    unit, first, ours, last = (tmp_path / name for name in ("u", "a", "datatier.conf", "z"))
    unit.write_text("[Service]\nExecStart=/bin/a \\\n --b\nUser=redis\n")
    first.write_text("[Service]\nUser=root\nExecStartPre=/bin/true\n")
    ours.write_text("[Service]\nUser=redis\n")
    texts = {
        "": "",
        ":3 (ExecStart)": "[Service]\nExecStart=\nExecStart=/bin/c\n",
        ":1 (User)": "User = root",
        ":2 (ExecStartPre)": "# User=root\nExecStartPre=",
        " ": "ExecStart=/bin/a   --b\nUser=redis\nLimitNOFILE=9\nEnvironment=A=b",
    }
    for told, text in texts.items():
        last.write_text(text)
        said = [
            "ActiveState=active", "SubState=running", "UID=[not set]", f"FragmentPath={unit}",
            f"DropInPaths={first} {ours} {last}", "",
        ]  # fmt: skip
        stub(tmp_path / "systemctl", f"[ $1 = show ] && printf '%s\\n' {quoted(*said)}")
        (status,) = read(SYSTEMD, tmp_path, [REDIS], monkeypatch).values()
        assert status.by == (f"{last}{told}" if told.strip() else ""), text


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
    assert read(RUNIT, tmp_path, [REDIS, POSTGRES, SIGNALLED], monkeypatch) == {
        "redis-6379": Status(True, False, "none", "none"),
        "postgres": Status(False, False, "none", "none"),
        "signalled": Status(False, False, "R", "L"),
    }


def test_a_record_lost_in_a_crash_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path / "sv", SV)
    (tmp_path / "redis-6379.active").write_text("")
    assert read(RUNIT, tmp_path, [REDIS], monkeypatch)["redis-6379"].restart == "none"


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
    probe = services.probe([REDIS], SYSTEMD)
    assert probe.parse([word, "enabled", "R L"])["redis-6379"].running is running


@pytest.mark.parametrize(
    ("word", "enabled"),
    [("enabled", True), ("enabled-runtime", True), ("disabled", False), ("masked", False)],
)
def test_what_counts_as_enabled(word: str, enabled: bool) -> None:
    probe = services.probe([REDIS], SYSTEMD)
    assert (
        probe.parse(["ActiveState=active SubState=running", word, "R L"])["redis-6379"].enabled
        is enabled
    )


@pytest.mark.parametrize("unit", ["", "pgbouncer.service"])
def test_what_is_taken_from_a_program_restarts_nothing(unit: str) -> None:
    """It counts from the next start on, so that a new release ends no client's connection."""
    free = replace(REDIS, unit=unit)
    for confined in (replace(free, confined="mostly"), replace(free, confined="wholly")):
        assert SYSTEMD.files(confined) != SYSTEMD.files(free)
        assert SYSTEMD.fingerprinted(confined) == SYSTEMD.fingerprinted(free)
