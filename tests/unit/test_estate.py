"""All that is wrong comes in one list, before anything is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_config, ctx_host, ctx_state

from tasks.core import estate
from tasks.core.estate import Estate
from tasks.core.places import Place
from tasks.core.places.runit import RUNIT
from tasks.core.places.systemd import SYSTEMD
from tasks.core.preflight import System
from tasks.postgres.settings import PostgresSettings
from tasks.redis.settings import RedisSettings
from tests.unit import helpers
from tests.unit.test_components import knows

DEBIAN = ["debian 12", "none", "2048000", "0", "no"]
# How a probe ends that has found nothing.
NOTHING_THERE = [f"\x1ehost/{name} 0" for name in ("rivals", "pristine", "traces")]
NOTHING_THERE += ["as 0", "absent", "\x1ehost/had 0"]
FAKE = {"address": "10.0.0.1", "fake_delay": 0, "fake_delay_jitter": 0}


def connected(
    groups: tuple[str, ...], directory: Path, answers: list[str] = DEBIAN, **data: Any
) -> Estate:
    """One simulated host that says `answers` when asked what it is, and nothing else."""
    responses = {"/etc/os-release": answers, "host/traces": [*NOTHING_THERE]}
    hosts = {"@fake/db1": {**FAKE, "fake_responses": responses, **data}}
    everything = helpers.estate(hosts, {group: ["@fake/db1"] for group in groups}, directory)
    for node in everything.nodes:
        everything.state.activate_host(node.host)
    return everything


def wrong(everything: Estate) -> list[str]:
    return [str(problem) for problem in estate.everything_wrong(everything)]


def test_the_host_is_looked_at_even_when_settings_are_wrong(tmp_path: Path) -> None:
    answers = ["debian 11", *DEBIAN[1:]]
    everything = connected(("postgres",), tmp_path, answers, postgres_port=0)
    assert wrong(everything) == [
        "@fake/db1: postgres_port: should be at least 1",
        "@fake/db1: operating system: debian 11 is not among Debian 12, Debian 13, Ubuntu 22.04, "
        "Ubuntu 24.04: inventory/docker.py runs the stack in containers",
    ]


def test_a_shell_that_does_not_answer(tmp_path: Path) -> None:
    (problem,) = wrong(connected(("postgres",), tmp_path, ["This account is not available."]))
    assert problem == (
        "@fake/db1: connection: a shell command could not be run: This account is not available."
    )


@pytest.mark.parametrize(("group", "needed"), [("pgbouncer", "postgres"), ("sentinel", "redis")])
def test_a_component_without_the_one_that_it_needs(group: str, needed: str, tmp_path: Path) -> None:
    everything = connected((group,), tmp_path, sentinel_quorum=1)
    assert wrong(everything) == [f"@fake/db1: group {group}: needs a host in group '{needed}'"]


def test_what_cannot_be_read_is_a_problem_of_its_host(tmp_path: Path) -> None:
    (problem,) = wrong(connected(("redis",), tmp_path))
    assert problem.startswith("@fake/db1: state: ")
    assert "could not be read" in problem


def test_what_the_host_is(tmp_path: Path) -> None:
    answers = ["debian 13", "systemd", "16777216", "0", "no"]
    everything = connected(("redis",), tmp_path, answers)
    wrong(everything)
    (node,) = everything.nodes
    assert (node.system.release.name, node.system.memory) == ("Debian 13", 16384)
    assert node.place is SYSTEMD


@pytest.mark.parametrize(("chosen", "place"), [("auto", RUNIT), ("systemd", SYSTEMD)])
def test_the_supervisor_may_be_chosen(chosen: str, place: Place, tmp_path: Path) -> None:
    (node,) = connected(("redis",), tmp_path, service_manager=chosen).nodes
    assert node.place is place


@pytest.mark.parametrize(
    ("uid", "sudo", "data", "expected"),
    [
        ("0", "no", {}, (False, [])),
        ("1000", "sudo", {}, (True, [])),
        (
            "1000",
            "tty",
            {},
            (True, ["@fake/db1: sudo: wants a terminal (requiretty): add Defaults:USER !requiretty "
                    "in /etc/sudoers.d"]),
        ),
        (
            "1000",
            "no",
            {},
            (True, ["@fake/db1: sudo: a password is needed: --same-sudo-password asks for it, or "
                    "set _sudo_password"]),
        ),
    ],
)  # fmt: skip
def test_how_to_become_root(
    uid: str, sudo: str, data: dict[str, Any], expected: tuple[bool, list[str]], tmp_path: Path
) -> None:
    answers = [*DEBIAN[:3], uid, sudo]
    everything = connected((), tmp_path, answers, **data)
    found = wrong(everything)
    assert (everything.nodes[0].host.data._sudo, found) == expected


@pytest.mark.parametrize(("group", "asked"), [("redis", True), ("apps", False), ("docker", False)])
def test_where_services_are_confined_systemd_is_asked_whether_it_can(
    group: str, asked: bool, tmp_path: Path
) -> None:
    answers = [*DEBIAN[:1], "systemd", *DEBIAN[2:]]
    (node,) = connected((group,), tmp_path, answers).nodes
    assert ("unable" in node.batches()[estate.HOST]) is asked


@pytest.mark.parametrize("confined", [True, False])
def test_only_where_the_settings_want_it_systemd_is_asked(confined: bool, tmp_path: Path) -> None:
    (node,) = connected(("redis",), tmp_path, confine_services=confined).nodes
    node.system = System(systemd=True)
    assert node.place.unable().script.count("systemd-run") == confined


def test_where_systemd_cannot_confine_services_a_run_is_refused(tmp_path: Path) -> None:
    """Else PostgreSQL would be down after the next boot."""
    (node,) = connected(("redis",), tmp_path).nodes
    knows(node, estate.HOST, unable="")
    assert [*estate._unable(node)] == []
    knows(node, estate.HOST, unable="226")
    (problem,) = estate._unable(node)
    assert problem.message.startswith("systemd cannot take rights from services here (status 226)")


# --- Tasks ---------------------------------------------------------------------------------------


def run(task: Any, host: Host) -> None:
    with ctx_state.use(host.state), ctx_config.use(host.state.config), ctx_host.use(host):
        task()


def test_a_task_on_a_host_outside_its_group_does_nothing(tmp_path: Path) -> None:
    called: list[str] = []
    task = estate.on(PostgresSettings)(lambda node: called.append(node.name))
    everything = connected((), tmp_path)
    run(task, everything.nodes[0].host)
    assert called == []


def test_every_host_is_told_of_the_same_refusal(tmp_path: Path) -> None:
    task = estate.on(RedisSettings)(lambda _node: None)
    host = connected(("redis",), tmp_path, redis_ports=[]).nodes[0].host
    for _ in range(2):
        with pytest.raises(PyinfraError, match=r"^1 problem; nothing was changed$"):
            run(task, host)


def test_only_hosts_of_this_run_are_active(tmp_path: Path) -> None:
    hosts = {"a": {"address": "10.0.0.1"}, "b": {"address": "10.0.0.2"}}
    everything = helpers.estate(hosts, {"redis": ["a", "b"]}, tmp_path)
    everything.state.activate_host(everything.nodes[1].host)
    assert [node.name for node in everything.active] == ["b"]
    assert [node.name for node in everything.having(RedisSettings)] == ["a", "b"]
    assert everything.node(everything.nodes[0].host) is everything.nodes[0]


def test_hosts_outside_the_limit_are_not_active(tmp_path: Path) -> None:
    hosts = {"a": {"address": "10.0.0.1"}, "b": {"address": "10.0.0.2"}}
    everything = helpers.estate(hosts, {"redis": ["a", "b"]}, tmp_path)
    for node in everything.nodes:
        everything.state.activate_host(node.host)
    everything.state.limit_hosts = [everything.nodes[0].host]
    assert [node.name for node in everything.active] == ["a"]
