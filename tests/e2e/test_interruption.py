"""Stories of runs that are interrupted, between any two changes and within them.

The controller is killed, or the SSH connection is cut. The next run then makes exactly the changes
that are left, everything works, what was written before is there, and the run after it changes
nothing. Between two operations that change nothing a host is the same, so the boundaries are those
between changes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Protocol

import pytest

from tests.e2e import interrupted, proof
from tests.e2e.project import Data, Project, Run, embedded
from tests.e2e.proof import Stack, said
from tests.lab import Host, Lab

pytestmark = pytest.mark.xdist_group("interruption")

KEPT = "written before the interruptions"
PORTS = (6379, 6380, 6381)

# What a first deployment changes, in its order.
INSTALLED = (
    "Secrets: generate what is missing",
    "PostgreSQL: packages",
    "PostgreSQL: cluster",
    "Backup: packages",
)
STARTED = (
    "PostgreSQL: configuration",
    "PostgreSQL: service",
    "PostgreSQL: roles and databases",
    "PgBouncer: packages",
    "PgBouncer: configuration",
    "PgBouncer: service",
    "Redis: configuration",
    "Redis: service",
    "Sentinel: configuration",
    "Sentinel: service",
    "Sentinel: monitoring",
    "Backup: configuration",
    "Backup: services",
    "Backup: repository",
)

# Two estates; each is made of the other by a restart, a reload, statements, CONFIG SET, SENTINEL
# SET, another unit and another crontab, with other passwords throughout.
BEFORE: Data = {
    "postgres_max_connections": 100,
    "postgres_work_mem": "8MB",
    "postgres_roles": {"psscript": {"connection_limit": 40}},
    "pgbouncer_max_client_conn": 1000,
    "pgbouncer_default_pool_size": 25,
    "redis_maxmemory": "512mb",
    "sentinel_down_after_milliseconds": 5000,
    "backup_schedule_full": "0 2 * * *",
    "backup_retention_days": 30,
}
AFTER: Data = {
    "postgres_max_connections": 120,
    "postgres_work_mem": "16MB",
    "postgres_roles": {"psscript": {"connection_limit": 50}},
    "pgbouncer_max_client_conn": 40000,
    "pgbouncer_default_pool_size": 20,
    "redis_maxmemory": "256mb",
    "sentinel_down_after_milliseconds": 6000,
    "backup_schedule_full": "0 3 * * *",
    "backup_retention_days": 20,
}
CHANGES = (
    "PostgreSQL: configuration",
    "PostgreSQL: service",
    "PostgreSQL: roles and databases",
    "PgBouncer: configuration",
    "PgBouncer: service",
    "Redis: configuration",
    "Redis: service",
    "Sentinel: configuration",
    "Sentinel: service",
    "Sentinel: monitoring",
    "Backup: configuration",
)

# What a run says that finds the command of another one at work.
WAITS = "another run is changing this host"
STATUS = {"kill": -9, "cut": 1}


@dataclass(frozen=True)
class Site:
    """A host and the project that deploys to it."""

    project: Project
    host: Host

    @property
    def stack(self) -> Stack:
        """The services, asked with the passwords of now."""
        return Stack(self.host, self.project.secrets)


def _site(directory: Path, host: Host) -> Site:
    project = Project(directory)
    project.inventory(embedded(host.name, host))
    project.settings(BEFORE)
    return Site(project, host)


def interrupt(project: Project, strike: str, moment: str) -> Run:
    """A run that is interrupted at a moment, unless it has ended before; see `interrupted`."""
    done = subprocess.run(
        [sys.executable, interrupted.__file__, strike, moment, "-y", "inventory.py", "deploy.py"],
        cwd=project.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def made(project: Project) -> list[str]:
    """The operations that an interrupted run has carried out, of those that changed something."""
    lines = (project.directory / interrupted.CHANGES).read_text().splitlines()
    return [json.loads(line)[0] for line in lines]


def interrupt_between(project: Project, count: int, changes: Sequence[str]) -> None:
    """A run that is killed after `count` of its changes, and one that is cut off before its first.

    Both leave the host at the same boundary.
    """
    run = interrupt(project, "kill", f"after:{count}")
    assert (run.code, made(project)) == (STATUS["kill"], [*changes[:count]]), run.output
    run = interrupt(project, "cut", "after:0")
    assert (run.code, made(project)) == (STATUS["cut"], []), run.output
    assert "Traceback" not in run.output


def interrupt_within_all(project: Project, strikes: Sequence[str]) -> int:
    """Runs until one ends, each interrupted within its first change; returns how many were."""
    moments = random.Random("-".join(strikes))
    for count in range(3 * len(CHANGES)):
        strike = strikes[count % len(strikes)]
        # A hundredth of a second to two seconds: so long do the changes take.
        run = interrupt(project, strike, f"during:1:{0.01 * 200 ** moments.random():.3f}")
        assert "Traceback" not in run.output
        if run.code == 0:
            return count
        assert run.code == STATUS[strike], run.output
    raise AssertionError("the change is never done")


def settles(site: Site, left: Sequence[str]) -> None:
    """Asserts that the next run makes exactly these changes, and the one after it none."""
    rerun = site.project.deploy()
    assert rerun.changed == {(operation, site.host.name) for operation in left}
    assert site.project.deploy().changed == set()


def check(site: Site, wanted: Data) -> None:
    """Asserts that what was chosen is what runs, with the passwords of now."""
    stack = site.stack
    settings = "current_setting('max_connections'), current_setting('work_mem'), rolconnlimit"
    answer = stack.sql(f"SELECT {settings} FROM pg_roles WHERE rolname = current_user")
    limit = wanted["postgres_roles"]["psscript"]["connection_limit"]
    chosen = wanted["postgres_max_connections"], wanted["postgres_work_mem"], limit
    assert answer == "|".join(map(str, chosen))
    pooler = configuration_of_pooler(site)
    for key in ("max_client_conn", "default_pool_size"):
        assert pooler[key] == str(wanted[f"pgbouncer_{key}"])
    for port in PORTS:
        memory = stack.redis(port, "CONFIG", "GET", "maxmemory").split()[1]
        assert int(memory) == int(wanted["redis_maxmemory"].removesuffix("mb")) * 1024**2
        seen = proof.sentinel_master(site.host, 20000 + port, stack.redis_password)
        assert seen["down-after-milliseconds"] == str(wanted["sentinel_down_after_milliseconds"])
        assert (seen["num-slaves"], seen["num-other-sentinels"]) == ("2", "2"), seen
    assert wanted["backup_schedule_full"] in site.host.run("cat /etc/cron.d/datatier-backup").stdout


def configuration_of_pooler(site: Site) -> dict[str, str]:
    """SHOW CONFIG of PgBouncer."""
    console = proof.psql(
        site.host,
        "SHOW CONFIG",
        role="postgres",
        password=site.project.secrets["POSTGRES_PASSWORD"],
        database="pgbouncer",
    )
    rows = (line.split("|") for line in said(console).splitlines())
    return {row[0]: row[1] for row in rows}


def check_kept(site: Site) -> None:
    """Asserts that what was written is on every server."""
    for service in ("pgbouncer", *(f"redis-{port}" for port in PORTS)):
        site.stack.check(service, KEPT)


def starts_of_postgres(site: Site) -> int:
    """How often PostgreSQL has started."""
    log = site.host.run("cat /var/log/postgresql/postgresql-15-main.log").stdout
    return log.count("starting PostgreSQL")


# --- A first deployment --------------------------------------------------------------------------


class Tried(Protocol):
    """Counts interruptions, for the end of the report."""

    def __call__(self, of: str, count: int) -> None: ...


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Tells conftest how many interruptions a test has tried."""
    return lambda of, count: record_property("interruptions", [of, count])


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Two interruptions at a time, of different hosts: they mostly wait."""
    with ThreadPoolExecutor(2) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def installed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str]:
    """A host on which everything is installed and nothing was ever started, and an image of it.

    Its runs were interrupted at every boundary so far, and within the last change.
    """
    site = _site(tmp_path_factory.mktemp("installed"), lab.host("installed"))
    for done in range(len(INSTALLED) - 1):
        interrupt_between(site.project, 1, INSTALLED[done:])
    interrupt(site.project, "kill", "during:1:1")
    run = interrupt(site.project, "kill", "after:0")
    assert run.code == STATUS["kill"] and WAITS in run.output, run.output
    interrupt_between(site.project, 0, ())
    return site, lab.commit(site.host)


class Hosts:
    """Copies of the host on which everything is installed."""

    def __init__(self, lab: Lab, installed: tuple[Site, str], directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.first, self.image = installed

    def site(self, name: str) -> Site:
        """Boots a copy for a project that goes on with the same passwords."""
        directory = self.directory / name
        directory.mkdir()
        site = _site(directory, self.lab.host(name, image=self.image))
        shutil.copy(self.first.project.directory / ".env", directory)
        return site


@pytest.fixture(scope="module")
def hosts(lab: Lab, installed: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Where a deployment may go on."""
    return Hosts(lab, installed, tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def first_runs(pool: ThreadPoolExecutor, hosts: Hosts) -> list[Future[None]]:
    """Interrupts the rest of the first deployment at every boundary, on a host for each."""

    def interrupted_at(point: int) -> None:
        site = hosts.site(f"first-{point}")
        interrupt_between(site.project, point, STARTED)
        settles(site, STARTED[point:])
        check(site, BEFORE)
        site.host.remove()

    return [pool.submit(interrupted_at, point) for point in range(len(STARTED) + 1)]


@pytest.mark.parametrize("point", range(len(STARTED) + 1))
def test_a_first_deployment_is_interrupted(
    first_runs: list[Future[None]], point: int, tried: Tried
) -> None:
    """Between any two of its changes."""
    first_runs[point].result()
    tried("first deployment", 2 if point else 2 + 2 * len(INSTALLED))


# --- A change ------------------------------------------------------------------------------------


@dataclass
class Changing:
    """A site that goes from one of two estates to the other, and back."""

    site: Site
    now: Data
    passwords: Mapping[str, str]

    def turn(self) -> None:
        """States the other estate."""
        self.now = AFTER if self.now is BEFORE else BEFORE
        self.site.project.settings(self.now)
        suffix = "-changed" if self.now is AFTER else ""
        secrets = (f"{name}={value}{suffix}\n" for name, value in self.passwords.items())
        (self.site.project.directory / ".env").write_text("".join(secrets))

    def settles(self, left: Sequence[str]) -> None:
        """Asserts that a run makes what is left, the next one nothing, and all is as stated."""
        settles(self.site, left)
        check(self.site, self.now)
        check_kept(self.site)


@pytest.fixture(scope="module")
def free(pool: ThreadPoolExecutor, hosts: Hosts) -> Queue[Changing]:
    """Sites with a row and a key, and one change made without an interruption."""

    def changed(name: str) -> Changing:
        site = hosts.site(name)
        site.project.deploy()
        site.stack.remember(KEPT)
        changing = Changing(site, BEFORE, site.project.secrets)
        changing.turn()
        changing.settles(CHANGES)
        return changing

    free: Queue[Changing] = Queue()
    for changing in pool.map(changed, ("one", "two")):
        free.put(changing)
    return free


@contextmanager
def taken(free: Queue[Changing]) -> Iterator[Changing]:
    """A site that nobody else interrupts meanwhile, on its way to the other estate."""
    changing = free.get()
    try:
        changing.turn()
        yield changing
    finally:
        free.put(changing)


@pytest.fixture(scope="module")
def changes(pool: ThreadPoolExecutor, free: Queue[Changing]) -> list[Future[None]]:
    """Interrupts a change of everything at every boundary, there and back by turns."""

    def interrupted_at(point: int) -> None:
        with taken(free) as changing:
            interrupt_between(changing.site.project, point, CHANGES)
            changing.settles(CHANGES[point:])

    return [pool.submit(interrupted_at, point) for point in range(len(CHANGES) + 1)]


@pytest.mark.parametrize("point", range(len(CHANGES) + 1))
def test_a_change_is_interrupted_between_operations(
    changes: list[Future[None]], point: int, tried: Tried
) -> None:
    """Between any two of its operations."""
    changes[point].result()
    tried("change", 2)


ORDERS = ("kill", "cut"), ("cut", "kill")


@pytest.fixture(scope="module")
def harried(pool: ThreadPoolExecutor, free: Queue[Changing]) -> list[Future[int]]:
    """Interrupts a change of everything within each of its operations, in either way."""

    def interrupted_throughout(strikes: Sequence[str]) -> int:
        with taken(free) as changing:
            count = interrupt_within_all(changing.site.project, strikes)
            changing.settles(())
            return count

    return [pool.submit(interrupted_throughout, strikes) for strikes in ORDERS]


@pytest.mark.parametrize("order", range(len(ORDERS)), ids=map("-".join, ORDERS))
def test_a_change_is_interrupted_within_operations(
    harried: list[Future[int]], order: int, tried: Tried
) -> None:
    """Every run is interrupted within its first change, until one has none left."""
    count = harried[order].result()
    assert count >= len(CHANGES)
    tried("within a change", count)


def test_a_run_waits_for_what_an_interrupted_one_is_doing(free: Queue[Changing]) -> None:
    """The command of a killed run goes on; the next run starts when it has ended."""
    with taken(free) as changing:
        site = changing.site
        starts = starts_of_postgres(site)
        interrupt(site.project, "kill", "after:1")
        run = interrupt(site.project, "kill", "during:1:0.1")
        assert run.code == STATUS["kill"], run.output
        rerun = site.project.pyinfra("-y", "--json", "inventory.py", "deploy.py")
        assert rerun.code == 0 and WAITS in rerun.stderr, rerun.output
        assert rerun.changed == {(operation, site.host.name) for operation in CHANGES[2:]}
        assert starts_of_postgres(site) == starts + 1
        changing.settles(())
