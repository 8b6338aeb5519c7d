"""Stories of harm to containers: killed runs, crashes, stopped engines, changes, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.e2e import docker_stack, standin
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.docker_stack import APP_SETTINGS, SERVICES, DockerStack, containers
from tests.e2e.project import PYINFRA, Data, Project
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

pytestmark = pytest.mark.xdist_group("docker-harm")

KEPT = "written before the harm"
WELL_SECONDS = 60
SETTINGS: Data = {**NO_SCHEDULES, "docker_debian": "12", "apps": APP_SETTINGS}

# One of each kind at a time: whoever is not killed is the same as before.
WAVES = (
    ("postgres", "redis-replica-1", "redis-sentinel-1", "frontend"),
    ("pgbouncer", "redis-master", "redis-sentinel-2", "backend"),
    ("backup-service", "redis-replica-2", "redis-sentinel-3", "ai-service"),
)


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """A Debian 12 host with an engine and the application's image."""
    host = lab.engine_host("containers", "debian12", bases=("debian12", "debian13"))
    standin.build(host)
    return host


def _killed(project: Project, reached: Callable[[], bool]) -> None:
    """A run that is killed as soon as it has come so far."""
    command = [str(PYINFRA), "-y", "inventory.py", "deploy.py"]
    with subprocess.Popen(
        command,
        cwd=project.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        end = time.monotonic() + 240
        while run.poll() is None and not reached() and time.monotonic() < end:
            time.sleep(0.1)
        came_so_far = run.poll() is None and time.monotonic() < end
        os.killpg(run.pid, signal.SIGKILL)
    assert came_so_far, run.returncode


@dataclass(frozen=True)
class Site:
    """The stack and the directory it is deployed from."""

    project: Project
    stack: DockerStack

    @property
    def host(self) -> Host:
        """The machine."""
        return self.stack.host

    def check_nothing_is_left_to_do(self) -> None:
        """Asserts that neither a dry run nor a run has anything to change."""
        assert self.project.plan().planned == set()
        assert self.project.deploy().changed == set()


@pytest.fixture(scope="module")
def site(project: Project, host: Host) -> Site:
    """A stack whose first runs were killed, with a row and a key in it."""
    docker_stack.describe(project, host)
    project.settings(SETTINGS)
    points = (
        "docker images -q --filter label=datatier.inputs",
        "docker ps -q",
        "docker ps -q --filter name=psscript-postgres --filter health=healthy",
    )
    for point in points:
        _killed(project, lambda point=point: bool(host.run(point).stdout))  # type: ignore[misc]
    project.deploy()
    stack = DockerStack(host, project.secrets)
    stack.check_well()
    stack.write(KEPT)
    return Site(project, stack)


def test_after_killed_runs_the_next_one_ends_well(site: Site) -> None:
    """Killed while images were built, while containers started, and while they were waited for."""
    site.stack.check_all(KEPT)
    site.check_nothing_is_left_to_do()


@pytest.mark.parametrize("wave", WAVES, ids=" ".join)
def test_crashed_containers_come_back(site: Site, wave: tuple[str, ...]) -> None:
    """Their main processes are killed; the engine starts them again, the others go on."""
    before = containers(site.host)
    site.host.run(f"kill -9 {' '.join(str(before[name].pid) for name in wave)}")

    def back() -> None:
        now = containers(site.host)
        again = {name for name in SERVICES if now[name].restarts != before[name].restarts}
        assert again == set(wave)
        site.stack.check_all(KEPT)

    eventually(back, WELL_SECONDS)
    now = containers(site.host)
    assert {n for n in SERVICES if now[n].id != before[n].id} == set()
    assert {n for n in SERVICES if now[n].started != before[n].started} == set(wave)


def test_killed_containers_stay_stopped_until_somebody_starts_them(site: Site) -> None:
    """For the engine `docker kill` is what somebody wanted."""
    before = containers(site.host)
    site.host.run(f"docker kill {' '.join(before[name].id for name in SERVICES)}")
    # Longer than the engine waits before it starts a container that has crashed again and again.
    time.sleep(5)
    assert {containers(site.host)[name].status for name in SERVICES} == {"exited"}
    site.stack.compose("up -d")
    eventually(lambda: site.stack.check_all(KEPT), WELL_SECONDS)
    assert {n: c.id for n, c in containers(site.host).items()} == {
        n: c.id for n, c in before.items()
    }
    site.check_nothing_is_left_to_do()


def test_engine_that_is_restarted_brings_everything_back(site: Site) -> None:
    """As a machine that boots does."""
    before = containers(site.host)
    site.host.run("systemctl restart docker", timeout=180)
    eventually(lambda: site.stack.check_all(KEPT), WELL_SECONDS)
    assert {n for n, c in containers(site.host).items() if c.started == before[n].started} == set()
    site.check_nothing_is_left_to_do()


def test_down_and_up_keep_the_data(site: Site) -> None:
    """What is removed are containers and network; a dry run in between says so."""
    site.stack.compose("down")
    assert containers(site.host) == {}
    plan = site.project.plan()
    assert plan.planned == {("Docker: containers", site.host.name)}, plan.output
    site.stack.compose("up -d")
    eventually(lambda: site.stack.check_all(KEPT), WELL_SECONDS)
    site.check_nothing_is_left_to_do()
