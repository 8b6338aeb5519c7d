"""The status page's server: which hosts have it, who reads its files, what a run is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backup import serve
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.preflight import System
from tasks.core.secrets import Secrets
from tasks.page import files, health, layout, probes, rules, service
from tasks.page.settings import SECRET, PageSettings
from tests.unit import helpers
from tests.unit.test_components import knows

ON = {"status_page_port": 8443, "address": "10.0.0.1"}
GROUPS = {"postgres": ["db1"], "backup": ["db1"]}


def made(directory: Path, **data: Any) -> Node:
    everything = helpers.estate({"db1": {**ON, **data}}, GROUPS, directory)
    assert helpers.problems(everything) == []
    (one,) = everything.nodes
    one.system = System(systemd=True)
    return one


def test_the_backup_host_has_it_where_there_is_a_port(tmp_path: Path) -> None:
    data = {"db1": {**ON}, "db2": {**ON, "address": "10.0.0.2"}}
    everything = helpers.estate(data, {"postgres": ["db1"], "backup": ["db2"]}, tmp_path)
    assert [node.name for node in everything.having(PageSettings)] == ["db2"]
    without = helpers.estate({"db1": {"address": "10.0.0.1"}}, GROUPS, tmp_path)
    assert without.having(PageSettings) == []


@pytest.mark.parametrize(
    ("address", "shown"), [("10.0.0.1", "10.0.0.1:8443"), ("fd00::6", "[fd00::6]:8443")]
)
def test_it_listens_at_the_address_of_its_host_alone(
    address: str, shown: str, tmp_path: Path
) -> None:
    one = made(tmp_path, address=address)
    assert f"backup/serve.py {address} 8443 " in service.service_of(one).command
    assert service.url(one) == f"http://{shown}/"
    assert service.url(made(tmp_path, address=address, tls_enabled=True)) == f"https://{shown}/"


def test_a_certificate_is_served_where_there_is_one(tmp_path: Path) -> None:
    assert "tls" not in service.service_of(made(tmp_path)).command
    assert service.service_of(made(tmp_path, tls_enabled=True)).command.endswith(
        "/etc/datatier/tls/page/certificate.pem /etc/datatier/tls/page/key.pem"
    )


def test_root_owns_all_and_its_user_reads_what_it_needs(tmp_path: Path) -> None:
    entries = {each.path: each for each in files.files_of(made(tmp_path), "x")}
    for path, mode in ((layout.PASSWORD, "640"), (layout.HOME, "750"), (layout.DIRECTORY, "750")):
        each = entries[path]
        assert (each.mode, each.user, each.group) == (mode, "root", layout.NAME)


@pytest.mark.parametrize("password", ["page-Secret-11", "a" * 80, "with : and ' \" # %"])
def test_the_hash_is_of_the_password_and_stays(password: str, tmp_path: Path) -> None:
    (tmp_path / "kept.env").write_text("")
    secrets = Secrets(tmp_path / "kept.env")
    secrets.generated[SECRET] = password
    first = files.hashed(secrets, Found("absent"))
    assert serve.is_of(password, first)
    there = Found("file", content=f"# ours\n{first}\n".encode())
    assert files.hashed(secrets, there) == first
    secrets.generated[SECRET] = "another-Secret-12"
    assert files.hashed(secrets, there) != first


def test_a_port_of_ours_is_refused(tmp_path: Path) -> None:
    data = {"db1": {**ON, "status_page_port": 5432}}
    everything = helpers.estate(data, GROUPS, tmp_path)
    said = "db1: status_page_port: port 5432 is also that of postgres (postgres_port)"
    assert helpers.problems(everything) == [said]


def test_a_user_of_others_is_refused(tmp_path: Path) -> None:
    one = made(tmp_path)
    for said, refused in (("none", 0), ("ours", 0), ("others", 1)):
        knows(one, layout.GROUP, user=said)
        assert len(rules.checks(one)) == refused
        assert (files.missing_user(one) is not None) == (said == "none")


def test_docker_is_refused(tmp_path: Path) -> None:
    everything = helpers.estate({"one": {"status_page_port": 8443}}, {"docker": ["one"]}, tmp_path)
    (problem,) = helpers.problems(everything)
    assert (
        problem == "one: status_page_port: is not served from Docker: make status fetches the page"
    )


def test_its_shell_is_shell_and_no_script_has_the_password(tmp_path: Path) -> None:
    for encrypted in (False, True):
        one = made(tmp_path, tls_enabled=encrypted)
        password = one.estate.secrets.get(SECRET)
        (row,) = health.rows(one)
        scripts = [row.script, service.service_of(one).ready]
        scripts += [probe.script for probe in probes.probes_of(one).values()]
        for script in scripts:
            assert helpers.syntax_error(script) == ""
            assert password not in script
