"""Stories of runs that are interrupted, between any two changes and within them.

The controller is killed, or the SSH connection is cut. The next run then makes exactly the changes
that are left, everything works, what was written before is there, and the run after it changes
nothing. One estate is interrupted at every boundary: each run makes the next change and no other.
From some boundaries on one run makes the rest. Between two operations that change nothing a host is
the same, so the boundaries are those between changes; which ones there are the product's own plan
says.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.e2e import live
from tests.e2e.interrupted import STATUS, Interruptible, Strike
from tests.e2e.project import Data, embedded
from tests.e2e.proof import Stack
from tests.lab import Host, Lab

STRIKES: tuple[Strike, ...] = ("kill", "cut")
ORDERS = STRIKES, STRIKES[::-1]
COMPONENTS = {"PostgreSQL", "PgBouncer", "Redis", "Sentinel", "Backup"}
KEPT = "written before the interruptions"
# What a run says that finds the command of another one at work.
WAITS = "another run is changing this host"

# Two estates; each is made of the other by restarts, reloads, statements, CONFIG SET, SENTINEL SET,
# another unit and another crontab, with other passwords throughout. A backup of the hour would fail
# where a restart ends it, and its row with it.
QUIET = {"backup_schedule_incremental": "15 4 1 1 *"}
BEFORE: Data = {
    **QUIET,
    "postgres_max_connections": 100,
    "postgres_work_mem": "8MB",
    "postgres_roles": {"psscript": {"connection_limit": 40}},
    "pgbouncer_max_client_conn": 1000,
    "pgbouncer_default_pool_size": 25,
    "redis_maxmemory": "512mb",
    "sentinel_down_after_milliseconds": 5000,
    "backup_schedule_verify": "0 2 * * *",
    "backup_retention_days": 30,
}
AFTER: Data = {
    **QUIET,
    "postgres_max_connections": 120,
    "postgres_work_mem": "16MB",
    "postgres_roles": {"psscript": {"connection_limit": 50}},
    "pgbouncer_max_client_conn": 40000,
    "pgbouncer_default_pool_size": 20,
    "redis_maxmemory": "256mb",
    "sentinel_down_after_milliseconds": 6000,
    "backup_schedule_verify": "0 3 * * *",
    "backup_retention_days": 20,
}


def as_servers_say(wanted: Data) -> dict[str, str]:
    """Settings as `live.settings` has them, and what Sentinels say that see everybody."""
    return {
        "postgres max_connections": str(wanted["postgres_max_connections"]),
        "postgres work_mem": wanted["postgres_work_mem"],
        "sql psscript limit": str(wanted["postgres_roles"]["psscript"]["connection_limit"]),
        "pgbouncer max_client_conn": str(wanted["pgbouncer_max_client_conn"]),
        "pgbouncer default_pool_size": str(wanted["pgbouncer_default_pool_size"]),
        "redis maxmemory": str(int(wanted["redis_maxmemory"].removesuffix("mb")) * 1024**2),
        "sentinel down-after-milliseconds": str(wanted["sentinel_down_after_milliseconds"]),
        "sentinel num-slaves": "2",
        "sentinel num-other-sentinels": "2",
        "sentinel flags": "master",
        "backup retention_days": str(wanted["backup_retention_days"]),
        "cron verify": wanted["backup_schedule_verify"],
    }


@dataclass(frozen=True)
class Site:
    """A host and the project that deploys to it."""

    project: Interruptible
    host: Host

    @property
    def stack(self) -> Stack:
        """The services, asked with the current passwords."""
        return Stack(self.host, self.project.secrets)

    @property
    def made(self) -> list[str]:
        """The operations by which the last run changed something, in order."""
        assert {host for _, host in self.project.made} <= {self.host.name}
        return [operation for operation, _ in self.project.made]

    def plan(self) -> list[str]:
        """The operations by which a run would change something, in order."""
        plan = json.loads(self.project.plan().stdout)["plan"]
        changes = [
            operation["name"]
            for operation in plan
            if operation["hosts_with_change"] or operation["hosts_with_conditional_change"]
        ]
        assert {name.split(":")[0] for name in changes} >= COMPONENTS
        return changes

    def interrupt(self, strike: Strike, moment: str) -> None:
        """A run that is interrupted at a moment, or else ends well; see `Interruptible`."""
        run = self.project.interrupt(strike, moment)
        assert run.code == (STATUS[strike] if self.project.is_struck else 0), run.output
        assert "Traceback" not in run.output, run.output

    def interrupt_twice(self, changes: Sequence[str], strikes: Sequence[Strike]) -> None:
        """Two runs that are interrupted at one boundary: the second before its first change."""
        self.interrupt_after(changes, strikes[0])
        self.interrupt_after([], strikes[1])

    def interrupt_after(self, changes: Sequence[str], strike: Strike) -> None:
        """A run that is interrupted when it has made these changes, and before its next one."""
        self.interrupt(strike, f"after:{len(changes)}")
        assert self.project.is_struck and self.made == [*changes]

    def interrupt_throughout(self, changes: Sequence[str]) -> None:
        """Two runs at every boundary, in either way; one of them makes the next change."""
        self.interrupt_twice([], ORDERS[0])
        for number, change in enumerate(changes, 1):
            self.interrupt_twice([change], ORDERS[number % 2])

    def settles(self, left: Sequence[str]) -> None:
        """Asserts that the next run makes exactly these changes, and the one after it none."""
        run = self.project.deploy()
        assert self.made == [*left], run.output
        assert run.changed == {(operation, self.host.name) for operation in left}
        if left:
            run = self.project.deploy()
            assert (self.made, run.changed) == ([], set()), run.output

    def check(self, wanted: Data) -> None:
        """Asserts that what was chosen is what runs, with the current passwords."""
        secrets = self.project.secrets
        doors = live.Doors(5432, 6432, secrets["POSTGRES_PASSWORD"], secrets["REDIS_PASSWORD"])
        found, expected = live.settings(self.host, doors), as_servers_say(wanted)
        assert {name: found.get(name) for name in expected} == expected
        assert self.stack.sql("SELECT 1") == "1"


def _site(directory: Path, host: Host, user: str = "root") -> Site:
    project = Interruptible(directory)
    project.inventory(embedded(host.name, host, user))
    project.settings(BEFORE)
    return Site(project, host)


def some_of(changes: Sequence[str]) -> list[int]:
    """Boundaries from which one run makes the rest: the first, and two on the way."""
    return [len(changes) * third // 3 for third in range(3)]


Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Three interruptions at a time, of different hosts: they mostly wait."""
    with ThreadPoolExecutor(3) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


def all_of(points: Mapping[str, Future[Any]]) -> list[Any]:
    """The results; what went wrong says at which point."""
    results = []
    for point, future in points.items():
        try:
            results.append(future.result())
        except BaseException as error:
            error.add_note(f"interrupted: {point}")
            raise
    return results


# --- A first deployment --------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """A host on which everything is installed and nothing was ever started.

    Attributes:
        image: to boot copies of the host.
        done, left: the changes of a first deployment before and after it was taken.
    """

    site: Site
    image: str
    done: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def origin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Its runs were interrupted at every boundary so far, in either way, and within a change.

    Every run is the rerun of the one before it and makes one change more: the copies of the host
    go on from there, to the end.
    """
    host = lab.host("origin")
    site = _site(tmp_path_factory.mktemp("origin"), host)
    changes = site.plan()
    count = next(i for i, name in enumerate(changes) if name.endswith(": configuration"))
    done, left = changes[:count], changes[count:]
    site.interrupt_after([], "kill")
    # The first is made on this side, also for a host that is cut off.
    site.interrupt("cut", "after:0")
    assert site.project.is_struck and site.made == done[:1]
    site.interrupt_twice([], STRIKES)
    packages = done.index("Packages")
    for change in done[1:packages]:
        site.interrupt_twice([change], STRIKES)
    site.interrupt("kill", "during:1:1")
    run = site.project.interrupt("kill", "after:0")
    assert run.code == STATUS["kill"] and WAITS in run.output, run.output
    for change in done[packages + 1 :]:
        site.interrupt_twice([change], STRIKES)
    return Origin(site, lab.commit(host), done, left)


class Hosts:
    """Copies of a host, each with a project that goes on with the same passwords."""

    def __init__(self, lab: Lab, origin: Origin, directory: Path) -> None:
        self.lab, self.origin, self.directory = lab, origin, directory

    @contextmanager
    def site(self, name: str, user: str = "root") -> Iterator[Site]:
        """Boots a copy; afterwards it is removed."""
        directory = self.directory / name
        directory.mkdir()
        host = self.lab.host(name, image=self.origin.image)
        shutil.copy(self.origin.site.project.directory / ".env", directory)
        yield _site(directory, host, user)
        host.remove()


@pytest.fixture(scope="module")
def hosts(lab: Lab, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Where a deployment may go on."""
    return Hosts(lab, origin, tmp_path_factory.mktemp("hosts"))


def test_a_first_deployment_is_interrupted(
    pool: ThreadPoolExecutor, origin: Origin, hosts: Hosts, record_property: Record
) -> None:
    """Between any two of its changes, in either way; the rest is made step by step, or at once."""

    def interrupted_throughout() -> None:
        with hosts.site("first") as site:
            site.interrupt_throughout(origin.left)
            site.settles([])
            site.check(BEFORE)

    def interrupted_at(point: int) -> None:
        with hosts.site(f"first-{point}") as site:
            site.interrupt_twice(origin.left[:point], ORDERS[point % 2])
            site.settles(origin.left[point:])
            site.check(BEFORE)

    points = some_of(origin.left)
    throughout = {"at every boundary": pool.submit(interrupted_throughout)}
    all_of(throughout | {f"after {n}": pool.submit(interrupted_at, n) for n in points})
    count = len(origin.done) + len(origin.left) + 1 + len(points)
    record_property("interruptions of a first deployment", 2 * count)


# --- A change ------------------------------------------------------------------------------------


class Changing:
    """A site that goes from one of two estates to the other, and back."""

    def __init__(self, site: Site) -> None:
        """Deploys the first, and writes what has to stay."""
        site.project.deploy()
        site.stack.remember(KEPT)
        self.site, self.now, self.passwords = site, BEFORE, site.project.secrets

    def turn(self) -> list[str]:
        """States the other estate; the changes that this takes."""
        self.now = AFTER if self.now is BEFORE else BEFORE
        # It goes back to the passwords of before, too.
        self.site.project.settings({**self.now, "replace_secrets": True})
        suffix = "-changed" if self.now is AFTER else ""
        secrets = (f"{name}={value}{suffix}\n" for name, value in self.passwords.items())
        (self.site.project.directory / ".env").write_text("".join(secrets))
        return self.site.plan()

    def settles(self, left: Sequence[str]) -> None:
        """Asserts that a run makes what is left, the next one nothing, and all is as stated."""
        self.site.settles(left)
        self.site.check(self.now)
        for service in ("pgbouncer", "redis-6379", "redis-6380", "redis-6381"):
            self.site.stack.check(service, KEPT)


@dataclass(frozen=True)
class Changes:
    """Sites that nobody interrupts at the moment, and how many changes it takes to turn one."""

    free: Queue[Changing]
    count: int

    @contextmanager
    def site(self) -> Iterator[Changing]:
        """One of them, for somebody alone."""
        changing = self.free.get()
        try:
            yield changing
        finally:
            self.free.put(changing)


@pytest.fixture(scope="module")
def changes(pool: ThreadPoolExecutor, hosts: Hosts) -> Iterator[Changes]:
    """Two sites, one of them through sudo, which have been changed once without an interruption."""

    def changed(site: Site) -> tuple[Changing, int]:
        changing = Changing(site)
        left = changing.turn()
        changing.settles(left)
        return changing, len(left)

    with ExitStack() as booted:
        users = {"one": "root", "two": "deploy"}
        sites = [booted.enter_context(hosts.site(*each)) for each in users.items()]
        free, counts = Queue[Changing](), set[int]()
        for changing, count in pool.map(changed, sites):
            free.put(changing)
            counts.add(count)
        yield Changes(free, counts.pop())


def test_a_change_is_interrupted_between_operations(
    pool: ThreadPoolExecutor, changes: Changes, record_property: Record
) -> None:
    """Between any two of its operations, in either way, there and back by turns."""

    def turned(changing: Changing) -> list[str]:
        planned = changing.turn()
        assert len(planned) == changes.count
        return planned

    def interrupted_throughout() -> None:
        with changes.site() as changing:
            changing.site.interrupt_throughout(turned(changing))
            changing.settles([])

    def interrupted_at(third: int) -> None:
        with changes.site() as changing:
            planned = turned(changing)
            point = some_of(planned)[third]
            changing.site.interrupt_twice(planned[:point], ORDERS[point % 2])
            changing.settles(planned[point:])

    throughout = {"at every boundary": pool.submit(interrupted_throughout)}
    all_of(throughout | {f"after {n} thirds": pool.submit(interrupted_at, n) for n in range(3)})
    record_property("interruptions of a change, between operations", 2 * (changes.count + 1 + 3))


def test_a_change_is_interrupted_within_operations(
    pool: ThreadPoolExecutor, changes: Changes, record_property: Record
) -> None:
    """Every run is interrupted within its first change, until one has none left."""

    def interrupted_throughout(strikes: Sequence[Strike]) -> int:
        moments = random.Random("-".join(strikes))
        with changes.site() as changing:
            planned = changing.turn()
            for count in range(3 * len(planned)):
                # A hundredth of a second to two seconds: so long do the changes take.
                moment = f"during:1:{0.01 * 200 ** moments.random():.3f}"
                changing.site.interrupt(strikes[count % len(strikes)], moment)
                if not changing.site.project.is_struck:
                    changing.settles([])
                    return count
        raise AssertionError("the change is never done")

    counts = all_of({"-".join(o): pool.submit(interrupted_throughout, o) for o in ORDERS})
    assert min(counts) >= changes.count
    record_property("interruptions of a change, within operations", sum(counts))


def test_a_run_waits_for_what_an_interrupted_one_is_doing(changes: Changes) -> None:
    """The command of a killed run goes on; the next run starts when it has ended."""
    with changes.site() as changing:
        site, planned = changing.site, changing.turn()
        service = planned.index("PostgreSQL: service")
        starts = starts_of_postgres(site)
        site.interrupt_after(planned[:service], "kill")
        site.interrupt("kill", "during:1:0.1")
        rerun = site.project.deploy()
        assert WAITS in rerun.stderr, rerun.output
        assert site.made == planned[service + 1 :]
        assert starts_of_postgres(site) == starts + 1
        changing.settles([])


def starts_of_postgres(site: Site) -> int:
    """How often PostgreSQL has started."""
    log = site.host.run("cat /var/log/postgresql/postgresql-15-main.log").stdout
    return log.count("starting PostgreSQL")
