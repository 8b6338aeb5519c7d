"""Stories of harm to containers: killed runs, crashes, engines that stop, lost masters."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.e2e import docker_stack, standin
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.docker_site import WELL_SECONDS, Site
from tests.e2e.docker_stack import SERVICES, DockerStack, apps, containers
from tests.e2e.project import PYINFRA, Data, Project
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

KEPT = "written before the harm"
APPLICATION_SECONDS = 30
SETTINGS: Data = {**NO_SCHEDULES, "docker_debian": "12", "apps": apps()}

# While images are built, while containers start, and while they are waited for.
POINTS = (
    "docker images -q --filter label=datatier.inputs",
    "docker ps -q",
    "docker ps -q --filter label=com.docker.compose.service=postgres --filter health=healthy",
)
# Of those that serve each other one at a time: whoever is not killed is the same as before.
WAVES = (
    ("postgres", "redis-replica-1", "redis-replica-2", "redis-sentinel-1", "backend"),
    ("pgbouncer", "redis-master", "redis-sentinel-2", "backup-service", "frontend"),
    ("redis-sentinel-3", "ai-service"),
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
            # The engine is busy enough with what is asked for.
            time.sleep(0.3)
        came_so_far = run.poll() is None and time.monotonic() < end
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert came_so_far, run.returncode


@pytest.fixture(scope="module")
def site(project: Project, host: Host) -> Site:
    """A stack whose first runs were killed, with a row and a key in it."""
    docker_stack.describe(project, host)
    project.settings(SETTINGS)
    for point in POINTS:
        _killed(project, lambda point=point: bool(host.run(point).stdout))  # type: ignore[misc]
    project.deploy()
    stack = DockerStack(host, project.secrets)
    eventually(stack.check_well, WELL_SECONDS)
    stack.write(KEPT)
    return Site(project, stack, dict(SETTINGS))


def test_after_killed_runs_the_next_one_ends_well(site: Site) -> None:
    """All is there, and nothing is left to do."""
    site.settles(KEPT)
    site.changes_nothing()


@pytest.mark.parametrize("wave", WAVES, ids=" ".join)
def test_crashed_containers_come_back(site: Site, wave: tuple[str, ...]) -> None:
    """Their main processes are killed; the engine starts them again, the others go on."""
    site.look()
    site.host.run(f"kill -9 {' '.join(str(site.before[name].pid) for name in wave)}")

    def started_again() -> None:
        assert site.restarted() == set(wave)

    eventually(started_again, WELL_SECONDS)
    site.settles(KEPT)
    assert site.restarted() == set(wave)
    assert site.replaced() == set()


def test_killed_containers_stay_stopped_until_somebody_starts_them(site: Site) -> None:
    """For the engine `docker kill` is what somebody wanted."""
    site.look()
    site.host.run(f"docker kill {' '.join(site.before[name].id for name in SERVICES)}")
    # Longer than the engine takes to start one that has crashed.
    time.sleep(5)
    assert {containers(site.host)[name].status for name in SERVICES} == {"exited"}
    site.stack.compose("up -d")
    site.settles(KEPT)
    assert site.replaced() == set()
    site.changes_nothing()


def test_engine_that_is_restarted_brings_everything_back(site: Site) -> None:
    """As a machine that boots does; while it is down a run says so."""
    site.look()
    site.host.run("systemctl stop docker docker.socket", timeout=180)
    site.refuses("docker", "does not answer")
    site.host.run("systemctl start docker", timeout=180)
    site.settles(KEPT)
    assert site.restarted() == set(SERVICES)
    assert site.replaced() == set()


def test_down_and_up_keep_the_data(site: Site) -> None:
    """What is removed are containers and network; a dry run in between says so."""
    site.stack.compose("down")
    assert containers(site.host) == {}
    plan = site.project.plan()
    operations = {operation for operation, _ in plan.planned}
    assert operations == {"Docker: containers", "Docker: applications"}, plan.output
    assert [s for s in SERVICES if f"  {s}: create" not in plan.output] == [], plan.output
    site.stack.compose("up -d")
    site.settles(KEPT)
    site.changes_nothing()


def test_applications_survive_a_failover(site: Site) -> None:
    """The backend finds the next master; the table names the old one, and a run starts it."""
    old = site.stack.master
    site.host.run(f"docker kill {containers(site.host)[old].id}")
    eventually(site.stack.check_apps, APPLICATION_SECONDS)
    new = site.stack.master
    assert new != old
    table = site.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert table.code == 1, table.output
    (row,) = [line for line in table.output.splitlines() if line.startswith(f" {old} ")]
    assert "FAILS" in row
    assert site.project.deploy().changed == {("Docker: containers", site.host.name)}
    site.settles(KEPT)
    assert site.stack.master == new
    site.project.deploy("tasks.health.verify")


def test_master_that_lost_its_volume_does_not_empty_the_others(site: Site) -> None:
    """It does not lead before one that has the data does, and comes back as its replica."""
    lost = site.stack.master
    volume = f"psscript_{lost.replace('-', '_')}_data"
    site.stack.compose(f"rm --stop --force {lost}")
    site.host.run(f"docker volume rm {volume}")
    site.stack.compose(f"up -d {lost}")
    eventually(lambda: site.stack.check_all(KEPT), 2 * WELL_SECONDS)
    assert site.stack.master != lost
    site.changes_nothing()


def test_applications_survive_a_restart_of_postgresql(site: Site) -> None:
    """The backend answers again, and nobody else was restarted."""
    site.look()
    site.stack.compose("restart postgres")
    eventually(site.stack.check_apps, APPLICATION_SECONDS)
    assert site.restarted() == {"postgres"}
    site.settles(KEPT)
    site.changes_nothing()
