"""The exporter: at which address it listens, who gets in, and what a run is refused for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tasks.core import services
from tasks.core.estate import Node
from tasks.core.files import Directory, File, Found
from tasks.core.preflight import System
from tasks.core.secrets import Secrets
from tasks.core.services import Status
from tasks.exporter import activation, files, health, layout, probes, rules, service
from tests.unit import helpers
from tests.unit.test_components import knows

PASSWORD = "exporter-Secret-11"
ON = {"monitoring_enabled": True, "address": "10.0.0.1"}
RUNS = Status(True, True, "", "")


def made(directory: Path, groups: str = "postgres", **data: Any) -> Node:
    everything = helpers.estate({"db1": {**ON, **data}}, {groups: ["db1"]}, directory)
    assert helpers.problems(everything) == []
    one = everything.nodes[0]
    one.system = System(systemd=True)
    return one


def store(directory: Path, password: str = PASSWORD) -> Secrets:
    (directory / "kept.env").write_text(f"MONITORING_PASSWORD={password}\n")
    return Secrets(directory / "kept.env")


@pytest.mark.parametrize(
    ("address", "shown"),
    [("10.0.0.1", "10.0.0.1:9100"), ("fd00::6", "[fd00::6]:9100"), ("127.0.0.1", "127.0.0.1:9100")],
)
def test_it_listens_at_the_address_of_its_host_alone(
    address: str, shown: str, tmp_path: Path
) -> None:
    one = made(tmp_path, address=address)
    listening = [each for each in service.arguments(one) if "listen" in each]
    assert listening == [f"--web.listen-address={shown}"]


def test_no_argument_has_what_splits_it(tmp_path: Path) -> None:
    """systemd splits the line of a file of defaults at blanks, and takes quotes and backslashes."""
    for each in service.arguments(made(tmp_path)):
        assert not re.search(r"[\s\"'\\`]", each)


def test_units_of_ours_are_known_and_others_are_not(tmp_path: Path) -> None:
    (pattern,) = (each for each in service.arguments(made(tmp_path)) if "unit-include" in each)
    ours = re.compile(pattern.partition("=")[2])
    for unit in ("postgresql@15-main", "redis-6379", "pgbouncer", "cron", "app-web"):
        assert ours.search(f"{unit}.service")
    for unit in ("ssh", "systemd-journald", "my-redis-6379", "nginx"):
        assert not ours.search(f"{unit}.service")


def test_where_data_may_be_is_measured(tmp_path: Path) -> None:
    """Debian's own arguments leave out /mnt and /media."""
    (pattern,) = (each for each in service.arguments(made(tmp_path)) if "mount-points" in each)
    left_out = re.compile(pattern.partition("=")[2])
    assert not [each for each in ("/", "/mnt", "/mnt/data", "/media/x") if left_out.search(each)]
    assert left_out.search("/proc/sys/fs")
    assert left_out.search("/var/lib/docker/overlay2/x/merged")


@pytest.mark.parametrize("password", [PASSWORD, "a" * 80, "with : and ' \" # %", "$2b$10$"])
def test_the_hash_is_of_the_password_and_stays(password: str, tmp_path: Path) -> None:
    (tmp_path / "kept.env").write_text("")
    secrets = Secrets(tmp_path / "kept.env")
    secrets.generated["MONITORING_PASSWORD"] = password
    first = files.hashed(secrets, Found("absent"))
    assert bcrypt.checkpw(password.encode()[:72], first.encode())
    text = next(
        each.content
        for each in files.files_of(made(tmp_path), first)
        if isinstance(each, File) and each.path == layout.WEB
    )
    assert files.hashed(secrets, Found("file", content=text.encode())) == first
    secrets.generated["MONITORING_PASSWORD"] = "another-Secret-12"
    assert files.hashed(secrets, Found("file", content=text.encode())) != first


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"  prometheus: 'not a hash'\n"])
def test_what_is_no_hash_is_written_again(content: bytes, tmp_path: Path) -> None:
    made_of = files.hashed(store(tmp_path), Found("file", content=content))
    assert bcrypt.checkpw(PASSWORD.encode(), made_of.encode())


def test_only_root_and_its_user_read_the_hash_and_root_owns_where_root_writes(
    tmp_path: Path,
) -> None:
    entries = {each.path: each for each in files.files_of(made(tmp_path), "x")}
    web = entries[layout.WEB]
    assert (web.mode, web.user, web.group) == ("640", "root", "prometheus")
    for path in (layout.STATE, layout.TEXTFILES):
        each = entries[path]
        assert isinstance(each, Directory)
        assert (each.mode, each.user) == ("755", "root")


def test_tls_is_in_the_file_where_the_settings_have_it(tmp_path: Path) -> None:
    def web(one: Node) -> str:
        return next(
            each.content
            for each in files.files_of(one)
            if isinstance(each, File) and each.path == layout.WEB
        )

    assert "tls" not in web(made(tmp_path))
    assert "cert_file: /etc/datatier/tls/exporter/certificate.pem" in web(
        made(tmp_path, tls_enabled=True)
    )


def test_other_arguments_of_the_running_one_are_a_restart(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.host.state.is_executing = False
    wanted = services.activation(
        service.service_of(one), one.place, restart=str([service.arguments(one), False])
    )
    runs = replace(RUNS, restart=wanted.restart, reload=wanted.reload)

    def lines(command: list[str]) -> list[str]:
        knows(one, "exporter", services={layout.NAME: runs}, command=command)
        change = activation.due_activation(one)
        return [str(line) for line in change.lines] if change else []

    ours = [layout.PROGRAM, *service.arguments(one)]
    assert lines(ours) == []
    assert lines([*ours, "--web.listen-address=:9100"]) == [
        f"{layout.NAME}: restart (it runs with other arguments)"
    ]


def test_docker_with_certificates_sends_no_password_in_clear(tmp_path: Path) -> None:
    data = {**ON, "tls_enabled": True}
    everything = helpers.estate({"one": data}, {"docker": ["one"]}, tmp_path)
    (problem,) = helpers.problems(everything)
    assert "would send its password in clear" in problem
    near = {**data, "address": "127.0.0.1"}
    everything = helpers.estate({"one": near}, {"docker": ["one"]}, tmp_path)
    assert helpers.problems(everything) == []


def test_a_host_without_apt_or_systemd_is_refused(tmp_path: Path) -> None:
    one = made(tmp_path)
    knows(one, "exporter", tool=False)
    (problem,) = rules.checks(one)
    assert "apt-get" in problem.message
    knows(one, "exporter", tool=True)
    assert rules.checks(one) == []
    one.system = System(systemd=False)
    (problem,) = rules.checks(one)
    assert str(problem) == "db1: monitoring_enabled: needs systemd: leave it False here"


def test_its_shell_is_shell_and_no_script_has_the_password(tmp_path: Path) -> None:
    for encrypted in (False, True):
        one = made(tmp_path, tls_enabled=encrypted)
        password = one.estate.secrets.get("MONITORING_PASSWORD")
        (row,) = health.rows(one)
        scripts = [row.script, service.service_of(one).ready, *probes.packages_of(one).before]
        scripts += [probe.script for probe in probes.probes_of(one).values()]
        for script in scripts:
            assert helpers.syntax_error(script) == ""
            assert password not in script
