"""Story: one host with everything on it; what is planned, what the gate says, what a run does."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e import behind, changes, live
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.changes import EVERYTHING, TASKS
from tests.e2e.project import Data, Project, Run, embedded, footprint
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

CANARIES = {
    "POSTGRES_PASSWORD": "canary-of-the-superuser-1",
    "POSTGRES_ROLE_PSSCRIPT_PASSWORD": "canary-of-the-role-2",
    "PGBOUNCER_AUTH_PASSWORD": "canary-of-the-pooler-3",
    "REDIS_PASSWORD": "canary-of-redis-4",
    "BACKUP_ROLE_PASSWORD": "canary-of-the-backup-5",
    "REDIS_ADMIN_PASSWORD": "canary-of-redis-runs-6",
    "REDIS_REPLICA_PASSWORD": "canary-of-redis-replicas-7",
    "REDIS_SENTINEL_PASSWORD": "canary-of-redis-sentinels-8",
    "REDIS_BACKUP_PASSWORD": "canary-of-redis-backups-9",
}


SEED = 1
# Where the drawn changes start and where they go back to.
BASE: dict[str, Any] = {**NO_SCHEDULES, "postgres_max_connections": 200, "postgres_work_mem": "6MB"}


@dataclass
class Site:
    """The host, the project that deploys to it, and what a change left to look at.

    Attributes:
        settings: those of the last run.
        changed: operations of runs that no plan has found done since.
        untouched: what the servers said before any change was drawn.
        lost: a change failed, and what the next ones start from is not known.
    """

    host: Host
    project: Project
    settings: Data = field(default_factory=lambda: BASE)
    changed: Set[str] = frozenset()
    untouched: dict[str, str] = field(default_factory=dict)
    lost: bool = False

    def live(self) -> dict[str, str]:
        """What the servers say."""
        secrets, chosen = self.project.secrets, self.settings
        doors = live.Doors(
            chosen.get("postgres_port", 5432),
            chosen.get("pgbouncer_listen_port", 6432),
            chosen.get("postgres_password", secrets["POSTGRES_PASSWORD"]),
            chosen.get("redis_password", secrets["REDIS_PASSWORD"]),
        )
        return live.settings(self.host, doors)

    def carry_out(self, settings: Data, operations: Set[str], task: str = EVERYTHING) -> list[str]:
        """Plans a change, makes it, and holds one against the other.

        Args:
            operations: those that the change may concern.
        """
        if self.lost:
            pytest.skip("the change before this one failed")
        self.lost = True
        self.project.settings(settings)
        plan, before = self.project.plan(task), live.invocations(self.host)
        planned = {operation for operation, _ in plan.planned}
        assert planned and planned <= operations
        if planned & self.changed:
            self._check_nothing_is_left(settings)
        looked_at = TASKS.get(task, self.changed)
        run = self.project.deploy(task)
        assert (run.changed, run.announced) == (plan.planned, plan.announced)
        after = live.invocations(self.host)
        replaced = {name for name in after if after[name] != before[name]}
        assert replaced == {name for name, what in _services(run) if what == "restart"}
        self.settings, self.changed = settings, (self.changed - looked_at) | planned
        self.lost = False
        return run.announced

    def _check_nothing_is_left(self, settings: Data) -> None:
        """Of the last runs: it would be no stranger in a plan of the same operations."""
        self.project.settings(self.settings)
        assert self.project.plan().planned == set()
        self.project.settings(settings)
        self.changed = frozenset()


def _services(run: Run) -> list[tuple[str, str]]:
    """What is announced to happen to services."""
    said = (re.match(r"\[one\] (\S+): (\w+)", line) for line in run.announced)
    return [(match[1], match[2]) for match in said if match]


@pytest.fixture(scope="module")
def site(lab: Lab, project: Project) -> Site:
    """The embedded stack with passwords that one can search for."""
    host = lab.installed_host("one")
    project.inventory(embedded("one", host))
    project.settings(BASE)
    secrets = project.directory / ".env"
    secrets.write_text("".join(f"{name}={value}\n" for name, value in CANARIES.items()))
    secrets.chmod(0o600)
    project.deploy()
    return Site(host, project)


def test_a_second_clone_without_secrets_is_refused(site: Site) -> None:
    """It would have taken the passwords from every client; the hosts are as they were."""
    before = footprint(site.host)
    with site.project.without_secrets() as env:
        run = site.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert run.code != 0 and not env.exists()
    names = ", ".join(sorted(name for name in CANARIES if name in site.project.secrets))
    assert f"one: secrets: {names}: in use here, but not in {env}" in run.stderr
    assert footprint(site.host) == before


# --- The gate ------------------------------------------------------------------------------------


def _gate(site: Site, *arguments: str) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and changes with their impact; the host is as it was."""
    before = footprint(site.host)
    run = site.project.drift("--json", *arguments)
    assert footprint(site.host) == before
    changes = json.loads(run.stdout)["changes"]
    assert {each["host"] for each in changes} <= {"one"}
    return run.code, [(each["change"], each["impact"]) for each in changes]


def _data(**values: Any) -> list[str]:
    return [word for key, value in values.items() for word in ("--data", f"{key}={value}")]


def test_gate_where_nothing_is_pending(site: Site) -> None:
    assert _gate(site) == (0, [])


def test_gate_where_a_reload_is_pending(site: Site) -> None:
    changes = [("/etc/pgbouncer/pgbouncer.ini: change", "none"), ("pgbouncer: reload", "reload")]
    assert _gate(site, *_data(pgbouncer_default_pool_size=20)) == (2, changes)


def test_gate_where_a_restart_is_pending(site: Site) -> None:
    code, changes = _gate(site, "tasks.postgres.configure", *_data(postgres_max_connections=120))
    restart = (
        "postgres: restart (max_connections: postmaster context; clients of PgBouncer wait)",
        "restart",
    )
    assert (code, changes[1:]) == (2, [restart])


@pytest.mark.parametrize(
    ("data", "why"),
    [({"redis_maxmemory": "much"}, "redis_maxmemory"), ({"ssh_port": 9}, "Could not connect")],
)
def test_gate_that_cannot_compare(site: Site, data: dict[str, Any], why: str) -> None:
    """A setting that is wrong, a host that cannot be reached."""
    run = site.project.drift("--json", *_data(**data))
    assert (run.code, run.stdout) == (1, "")
    assert why in run.stderr


def test_gate_shows_no_secret(site: Site) -> None:
    """Neither the old password nor the new one."""
    site.project.settings({**BASE, "redis_password": "canary-of-another-6"})
    runs = [site.project.drift("--diff", "-vvv", *form) for form in ([], ["--json"])]
    site.project.settings(BASE)
    for run in runs:
        assert run.code == 2 and "redis-sentinel-26379: another password lets in" in run.stdout
        assert "+requirepass <secret" in run.stderr
        canaries = (*CANARIES.values(), "canary-of-another-6")
        assert [word for word in canaries if word in run.output] == []


def test_gate_finds_what_somebody_edited(site: Site) -> None:
    """By hand on the host; a run takes it back."""
    site.host.run("sed -i 's/^default_pool_size = .*/default_pool_size = 7/' /etc/pgbouncer/*.ini")
    changes = [("/etc/pgbouncer/pgbouncer.ini: change", "none"), ("pgbouncer: reload", "reload")]
    assert _gate(site) == (2, changes)
    site.project.deploy()
    assert _gate(site) == (0, [])


def test_gate_finds_what_somebody_stopped(site: Site) -> None:
    """A service, a role's attribute and a user that lets nobody in any more are no files."""
    site.host.run("systemctl stop redis-sentinel-26381")
    site.host.run('runuser -u postgres -- psql -qc "ALTER ROLE psscript CREATEDB"')
    for port, rules in ((26380, "-@all"), (6380, "off"), (6381, "+@all '-acl|setuser'")):
        site.host.run(f"redis-cli -p {port} ACL SETUSER default {rules}")
    # The one way in that is left.
    site.host.run("redis-cli -p 6380 ACL DELUSER datatier-admin", check=False)
    locked = "restart (password or ACL user default: changed by hand)"
    changes = [
        ("role psscript: NOCREATEDB", "none"),
        (f"redis-6380: {locked}", "restart"),
        ("redis-6381: reload (ACL user default: changed by hand)", "reload"),
        (f"redis-sentinel-26380: {locked}", "restart"),
        ("redis-sentinel-26381: start", "none"),
    ]
    assert _gate(site) == (2, changes)
    # Another change that is due does not stand in the way.
    site.project.deploy("deploy.py", *_data(redis_maxmemory="300mb"))
    site.project.deploy()
    assert _gate(site) == (0, [])


def _chosen(site: Site) -> dict[str, str]:
    """What all servers say, without what changes by itself."""
    times = ("info-refresh", "-reply", "-sent", "-time", "link-pending-commands")
    return {name: value for name, value in site.live().items() if not name.endswith(times)}


def test_gate_names_who_wins_over_the_settings(site: Site) -> None:
    """In each server, by whatever way; a run takes all of it back."""
    before = _chosen(site)
    ways = [*behind.POSTGRES, *behind.PGBOUNCER, *behind.REDIS, *behind.SENTINEL]
    behind.go(site.host, ways, 15)
    behind.check_named(site.project.drift("--json"), ways, 15)
    run = site.project.deploy()
    assert "redis-6381: reload (requirepass: changed by hand)" in run.output
    assert _gate(site) == (0, [])
    assert _chosen(site) == before


def test_gate_names_who_started_the_server_with_other_settings(site: Site) -> None:
    """A restart is due, since nothing less takes it back."""
    before = _chosen(site)
    behind.go(site.host, behind.STARTED, 15)
    site.host.run("systemctl restart postgresql@15-main")
    behind.check_named(site.project.drift("--json"), behind.STARTED, 15)
    reasons = "hba_file, max_connections, random_page_cost"
    assert f"postgres: restart ({reasons}; clients" in site.project.deploy().output
    assert _gate(site) == (0, [])
    assert _chosen(site) == before


def test_gate_names_who_wins_over_a_unit(site: Site) -> None:
    """A drop-in by hand, loaded or not: its line becomes a comment, and the service restarts."""
    before = _chosen(site)
    behind.go(site.host, behind.UNITS, 15)
    site.host.run("cp -p /etc/pgbouncer/pgbouncer.ini /etc/pgbouncer/hand.ini")
    behind.check_named(site.project.drift("--json"), behind.UNITS, 15)
    site.host.run("systemctl daemon-reload; systemctl restart pgbouncer")
    behind.check_named(site.project.drift("--json"), behind.UNITS, 15)
    site.project.deploy()
    assert _gate(site) == (0, [])
    assert _chosen(site) == before
    shown = site.host.run("systemctl show -p ExecStart pgbouncer; ps -o user= -C redis-server")
    assert "hand.ini" not in shown.stdout and "root" not in shown.stdout
    # What other clusters have as well is left to hands.
    shared = "/etc/systemd/system/postgresql@.service.d"
    site.host.run(
        f"rm /etc/systemd/system/*.d/zz.conf; mkdir {shared};"
        f"echo '[Service]\nGroup=daemon' >{shared}/zz.conf; systemctl daemon-reload"
    )
    refused = site.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert refused.code == 1
    told = f"postgres: {shared}/zz.conf:2 (Group) wins over its unit: take that line out, "
    assert told in refused.output
    site.host.run(f"rm -r {shared}; systemctl daemon-reload")
    assert _gate(site) == (0, [])


# --- Others behind an address of ours -------------------------------------------------------------

_OTHER = "/etc/postgresql/15/other"
_OTHERS = f"""
pg_createcluster -p 5433 15 other >/dev/null
echo 'local all all trust' >{_OTHER}/pg_hba.conf
pg_ctlcluster 15 other start
runuser -u postgres -- sh -c 'pg_dumpall -s | psql -qp 5433' >/dev/null 2>&1
systemd-run -q --unit=other-redis --uid=redis redis-server --port 7001 --protected-mode no --save ''
"""
_POOLER = "/etc/pgbouncer/pgbouncer.ini"
_SENTINELS = (26379, 26380, 26381)


def _failing(site: Site) -> dict[str, str]:
    """What the rows of the table say that fail."""
    run = site.project.pyinfra("inventory.py", "tasks.health.verify")
    # A long answer goes on in the next line.
    lines = re.sub(r"\s*\n {50,}", " ", run.stdout).splitlines()
    return {line.split()[0]: line.partition("FAILS")[2] for line in lines if "FAILS" in line}


def test_another_server_behind_an_address_is_a_row_of_the_table(site: Site) -> None:
    """A PostgreSQL at our port or behind the pooler, a master that a replica follows."""
    host = site.host
    host.run(_OTHERS)
    host.run(
        f"sed -i.ours 's/ port=5432 / port=5433 /' {_POOLER}; systemctl restart pgbouncer;"
        " systemctl stop 'redis-sentinel-*'"
    )
    host.run(f"redis-cli -p 6380 REPLICAOF {host.address} 7001")
    failing = _failing(site)
    assert "leads to another PostgreSQL (cluster " in failing.pop("pgbouncer")
    follows = f"follows {host.address}:7001, which is not in the inventory"
    assert follows in failing.pop("redis-6380")
    assert failing.keys() == {f"redis-sentinel-{port}" for port in _SENTINELS}
    host.run(
        f"redis-cli -p 6380 REPLICAOF {host.address} 6379;"
        f" systemctl start {' '.join(f'redis-sentinel-{port}' for port in _SENTINELS)};"
        f" mv {_POOLER}.ours {_POOLER}; systemctl stop postgresql@15-main postgresql@15-other;"
        f" sed -i 's/5433/5432/' {_OTHER}/postgresql.conf; systemctl start postgresql@15-other;"
        " systemctl restart pgbouncer"
    )
    failing = _failing(site)
    assert "held by postgres (pid " in failing["postgres"]
    assert "postgresql@15-other.service)" in failing["postgres"]
    assert "leads to another PostgreSQL (cluster " in failing["pgbouncer"]
    host.run("pg_dropcluster --stop 15 other; systemctl start postgresql@15-main")
    assert _gate(site) == (0, [])


def test_another_data_directory_in_the_place_of_ours_is_a_row_of_the_table(site: Site) -> None:
    """It has neither our roles nor our databases."""
    host, data = site.host, "/var/lib/postgresql/15/main"
    unit = "systemctl {} postgresql@15-main"
    host.run(f"{unit.format('stop')}; mv {data} {data}.ours")
    host.run(f"/usr/lib/postgresql/15/bin/initdb -D {data} >/dev/null", user="postgres")
    host.run(unit.format("start"))
    assert "ERROR:  has no role " in _failing(site)["postgres"]
    host.run(f"{unit.format('stop')}; rm -r {data}; mv {data}.ours {data}; {unit.format('start')}")
    eventually(lambda: _is_well(site), 30)
    assert _gate(site) == (0, [])


def _is_well(site: Site) -> None:
    assert _failing(site) == {}


def test_sentinels_that_watch_the_master_of_others_watch_ours_again(site: Site) -> None:
    """Under our name: clients would be led there. The table says so, and a run sets it back."""
    host, before = site.host, _chosen(site)
    for port in _SENTINELS:
        ask = f"redis-cli -p {port} SENTINEL"
        host.run(f"{ask} REMOVE mymaster && {ask} MONITOR mymaster {host.address} 7001 2")
    watches = f"watches {host.address}:7001, which is not in the inventory"
    failing = _failing(site)
    assert all(watches in failing[f"redis-sentinel-{port}"] for port in _SENTINELS), failing
    _, due = _gate(site)
    others = f"forget mymaster, which is {host.address}:7001 there, and leads no instance of ours"
    for port in _SENTINELS:
        assert (f"redis-sentinel-{port}: {others}", "none") in due
    assert {operation for operation, _ in site.project.deploy().changed} == {"Sentinel: monitoring"}
    assert _gate(site) == (0, [])
    assert _chosen(site) == before
    host.run("systemctl stop other-redis")


def test_sentinels_that_anothers_hello_has_moved_watch_ours_again(site: Site) -> None:
    """They count ours as replicas of a server that lets none of them in, and cannot replace it."""
    host, before = site.host, _chosen(site)
    host.run("systemd-run -q --unit=other-redis redis-server --port 7001 --requirepass other")
    for port in _SENTINELS:
        host.run(f"redis-cli -p {port} SENTINEL SET mymaster quorum 9")
    hello = f"{host.address},26399,{'a' * 40},900,mymaster,{host.address},7001,900"
    host.run(f"redis-cli -p {_SENTINELS[0]} PUBLISH __sentinel__:hello {hello}")
    eventually(lambda: _have_lost_their_master(host), 20)
    forgets = f"forget mymaster, which is {host.address}:7001 there, and leads no instance of ours"
    _, due = _gate(site)
    assert {(f"redis-sentinel-{port}: {forgets}", "none") for port in _SENTINELS} <= {*due}
    assert {operation for operation, _ in site.project.deploy().changed} == {"Sentinel: monitoring"}
    assert _gate(site) == (0, [])
    assert _chosen(site) == before
    host.run("systemctl stop other-redis")


def _have_lost_their_master(host: Host) -> None:
    for port in _SENTINELS:
        said = host.run(f"redis-cli -p {port} SENTINEL MASTER mymaster").stdout.split()
        assert "7001" in said and "s_down" in said[said.index("flags") + 1], said


def test_a_master_that_takes_no_writes_is_not_well(site: Site) -> None:
    """Its memory is full, or replicas that it has to have are missing: it says so itself."""
    leads = "for p in 6379 6380 6381; do redis-cli -p $p ROLE | grep -qx master && echo $p; done"
    ask = f"redis-cli -p {site.host.run(leads, check=False).stdout.strip()}"
    for key, value, why in (
        ("maxmemory", "1mb", "OOM command not allowed"),
        ("min-replicas-to-write", "9", "NOREPLICAS Not enough good replicas to write"),
    ):
        before = site.host.run(f"{ask} CONFIG GET {key}").stdout.split()[-1]
        site.host.run(f"{ask} CONFIG SET {key} {value}")
        table = site.project.pyinfra("inventory.py", "tasks.health.verify")
        site.host.run(f"{ask} CONFIG SET {key} {before}")
        assert table.code == 1, table.output
        (line,) = [line for line in table.output.splitlines() if "FAILS" in line]
        assert f"takes no writes: {why}" in line
        assert not site.host.run(f"{ask} EXISTS datatier:health").stdout.strip("0\n")
    site.project.deploy("tasks.health.verify")


# --- Tuning, as the manual of the platform has it ------------------------------------------------

_RELOADED = [f"redis-{port}: reload" for port in (6379, 6380, 6381)]
# A setting, what is announced, and what the servers then say of it. One component after the other:
# what a change has left is looked for before the next one of the same component.
TUNING: list[tuple[str, Any, list[str], dict[str, str]]] = [
    (
        "pgbouncer_default_pool_size",
        50,
        ["pgbouncer: reload"],
        {"pgbouncer default_pool_size": "50", "changeable default_pool_size": "yes"},
    ),
    (
        "postgres_shared_buffers",
        "512MB",
        ["postgres: restart (shared_buffers: postmaster context; clients of PgBouncer wait)"],
        {"postgres shared_buffers": "512MB", "context shared_buffers": "postmaster"},
    ),
    ("redis_maxmemory", "1gb", _RELOADED, {"redis maxmemory": str(1024**3)}),
    (
        "pgbouncer_max_client_conn",
        2000,
        ["pgbouncer: reload"],
        {"pgbouncer max_client_conn": "2000", "changeable max_client_conn": "yes"},
    ),
    (
        "postgres_effective_cache_size",
        "2GB",
        ["postgres: reload"],
        {"postgres effective_cache_size": "2GB", "context effective_cache_size": "user"},
    ),
    ("redis_maxmemory_policy", "allkeys-lfu", _RELOADED, {"redis maxmemory-policy": "allkeys-lfu"}),
    (
        "pgbouncer_query_wait_timeout",
        60,
        ["pgbouncer: reload"],
        {"pgbouncer query_wait_timeout": "60", "changeable query_wait_timeout": "yes"},
    ),
    (
        "postgres_work_mem",
        "32MB",
        ["postgres: reload"],
        {"postgres work_mem": "32MB", "context work_mem": "user"},
    ),
]
TUNED: dict[str, Any] = {key: value for key, value, _, _ in TUNING}


@pytest.mark.parametrize("row", TUNING, ids=[row[0] for row in TUNING])
def test_tuning(site: Site, row: tuple[str, Any, list[str], dict[str, str]]) -> None:
    """Each value by its setting; what it costs is what its server's documentation says."""
    key, value, lines, shows = row
    task = f"tasks.{key.split('_')[0]}.configure"
    announced = site.carry_out({**site.settings, key: value}, TASKS[task], task)
    assert [line.removeprefix("[one] ") for line in announced if "/" not in line] == lines
    assert site.live().items() >= shows.items()


# --- Whatever is changed, the run does what the plan said ----------------------------------------

# They turn some 160 settings, to 87 values.
STEPS = list(changes.steps(BASE | TUNED, SEED, 26))


@pytest.mark.parametrize("step", STEPS, ids=[f"seed{SEED}-{n}" for n in range(1, len(STEPS) + 1)])
def test_run_is_the_plan(site: Site, step: changes.Step) -> None:
    """The same sentences, operations and restarts; the servers have the values; nothing is left."""
    site.untouched = site.untouched or site.live()
    site.carry_out(step.settings, step.operations, step.task)
    said = site.live()
    usual = {name: site.untouched[name] for name in changes.NAMES if name in site.untouched}
    wanted = {**usual, **step.shows}
    assert {name: said.get(name) for name in wanted} == wanted


def test_gate_after_all_of_it(site: Site) -> None:
    assert _gate(site) == (0, [])
