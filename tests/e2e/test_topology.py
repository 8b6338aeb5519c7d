"""Story: an estate that grows and shrinks; what left the settings is told, and then removed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e import proof
from tests.e2e.project import Project, Run, footprint
from tests.e2e.proof import admin, replication, said, sentinel_master
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

NAMES = ("one", "two", "three")
# Sentinel asks the master for its replicas every 10 s.
FOUND_SECONDS = 30
DROPPED = "/var/lib/postgresql/dropped"


@dataclass
class Estate:
    """Three hosts, who is in which group with which data, and the settings so far."""

    hosts: Mapping[str, Host]
    project: Project
    groups: dict[str, list[str]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> None:
        """Writes inventory and settings as they are now."""
        common = {n: {**host.ssh_data(), "address": host.address} for n, host in self.hosts.items()}
        groups = {
            group: [(name, {**common[name], **self.data.get(name, {})}) for name in names]
            for group, names in self.groups.items()
        }
        self.project.inventory(groups)
        self.project.settings(
            {"tls_enabled": True, "pgbouncer_default_pool_size": 10, **self.settings}
        )

    def plan(self, *data: str) -> Run:
        """A dry run of what is described."""
        self.describe()
        return self.project.plan("deploy.py", *_given(data))

    def deploy(self, *data: str) -> set[tuple[str, str]]:
        """A run that does what its dry run says, and leaves nothing for the next one."""
        plan = self.plan(*data)
        run = self.project.deploy("deploy.py", *_given(data))
        assert run.changed == plan.planned
        assert self.project.plan("deploy.py", *_given(data)).planned == set()
        return run.changed

    def refuses(self, words: Sequence[str], *data: str) -> None:
        """A run that changes nothing and says why, in one line."""
        self.describe()
        before = footprint(*self.hosts.values())
        run = self.project.pyinfra("-y", *_given(data), "inventory.py", "deploy.py")
        assert run.code == 1, run.output
        check_lines(run, [tuple(words), ("1 problem; nothing was changed",)])
        assert footprint(*self.hosts.values()) == before

    @property
    def password(self) -> str:
        """The password of Redis and Sentinel."""
        return self.project.secrets["REDIS_PASSWORD"]

    def redis(self, name: str, port: int, *words: str) -> str:
        """What an instance or a Sentinel answers."""
        return said(proof.redis(self.hosts[name], port, *words, password=self.password, tls=True))

    def check_watched(self, replicas: int, sentinels: int, *names: str) -> None:
        """Asserts that the Sentinels on these hosts know so many others, and that none is down."""
        for name in names:
            seen = sentinel_master(self.hosts[name], 26379, self.password, tls=True)
            assert seen["num-slaves"] == str(replicas), seen
            assert seen["num-other-sentinels"] == str(sentinels - 1), seen
            assert seen["flags"] == "master", seen

    def master(self) -> str:
        """The host of the master, by a Sentinel's word."""
        seen = sentinel_master(self.hosts["one"], 26379, self.password, tls=True)
        return next(name for name, host in self.hosts.items() if host.address == seen["ip"])


def _given(data: Sequence[str]) -> list[str]:
    return [word for item in data for word in ("--data", item)]


def _active(host: Host, unit: str) -> str:
    done = host.run(f"systemctl is-active {unit}; systemctl is-enabled {unit}", check=False)
    return " ".join(done.stdout.split())


def _marks(host: Host, name: str) -> list[str]:
    """What stands on a host under the name of a service, outside its data and its logs."""
    places = "/etc /usr/local /usr/lib/datatier /var/lib/datatier"
    return host.run(f"find {places} -name '*{name}*' 2>/dev/null", check=False).stdout.splitlines()


@pytest.fixture(scope="module")
def estate(lab: Lab, project: Project) -> Estate:
    """PostgreSQL, a pooler, a Redis and its replica, three Sentinels; all of them over TLS."""
    with ThreadPoolExecutor() as pool:
        hosts = {host.name: host for host in pool.map(lab.installed_host, NAMES)}
    groups = {
        "postgres": ["one"],
        "pgbouncer": ["one"],
        "redis": ["one", "two"],
        "sentinel": list(NAMES),
    }
    made = Estate(hosts, project, groups)
    made.describe()
    project.deploy()
    made.redis("one", 6379, "SET", "kept", "from the start")
    return made


def _direct(estate: Estate) -> str:
    """Whether PostgreSQL lets the application's role in from the second host."""
    secret = estate.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    server, two = estate.hosts["one"].address, estate.hosts["two"]
    done = proof.psql(two, "SELECT 'let in'", password=secret, address=server, port=5432)
    refused = re.search("Connection refused|no pg_hba.conf entry", done.stderr)
    return "refused" if refused else said(done)


GROWN: dict[str, Any] = {
    "postgres_databases": {
        "psscript": {"owner": "psscript", "extensions": ["pg_trgm", "earthdistance"]},
        "reports": {"owner": "analyst"},
    },
    "postgres_roles": {"psscript": {}, "analyst": {}, "reader": {}},
}


def test_it_grows(estate: Estate) -> None:
    """A pooler, two replicas, two Sentinels, a database, roles and extensions."""
    estate.groups |= {"pgbouncer": ["one", "two"], "redis": list(NAMES)}
    estate.data = {
        "three": {"redis_ports": [6379, 6380]},
        "two": {"sentinel_ports": [26379, 26380, 26381]},
    }
    estate.settings = {**GROWN, "sentinel_quorum": 3}
    estate.deploy()
    eventually(lambda: estate.check_watched(3, 5, *NAMES), FOUND_SECONDS)
    for name, port in (("two", 6379), ("three", 6379), ("three", 6380)):
        assert estate.redis(name, port, "GET", "kept") == "from the start"
    secret = estate.project.secrets["POSTGRES_ROLE_ANALYST_PASSWORD"]
    rows = "CREATE TABLE sales AS SELECT generate_series(1, 1000) AS id; SELECT count(*) FROM sales"
    two = estate.hosts["two"]
    answer = proof.psql(two, rows, role="analyst", password=secret, database="reports")
    assert said(answer) == "1000"
    assert _direct(estate) == "let in"


def test_it_shrinks_and_that_is_told(estate: Estate) -> None:
    """Without a key nothing is stopped or dropped, and telling it is no change."""
    estate.groups |= {"pgbouncer": ["one"]}
    estate.data = {"three": {"redis_ports": [6379]}}
    estate.settings = {}
    one, two, three = (estate.hosts[name] for name in NAMES)
    admin(one, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; CREATE TABLE t ()")
    admin(
        one, "ALTER TABLE t OWNER TO reader; GRANT CONNECT ON DATABASE reports, psscript TO reader"
    )
    run = estate.plan()
    addresses = [f"{two.address}:26380", f"{two.address}:26381", f"{three.address}:6380"]
    services = [
        (
            "[two]",
            "pgbouncer: is no longer in this host's settings",
            "pgbouncer_prune would remove",
        ),
        ("[two]", "redis-sentinel-26380: is no longer", "sentinel_prune would remove"),
        ("[two]", "redis-sentinel-26381: is no longer", "sentinel_prune would remove"),
        ("[three]", "redis-6380: is no longer", "redis_prune would remove"),
        *(("[one]", f" {address}, which is not in the inventory") for address in addresses),
    ]
    data = [
        ("[one]", "database reports: is not in the settings", "postgres_prune and destroy"),
        ("[one]", "extension earthdistance in psscript: is not", "postgres_prune and destroy"),
        ("[one]", "extension cube in psscript: is not", "postgres_prune and destroy"),
        ("[one]", "role reader", "but owns 1 object in psscript: REASSIGN OWNED"),
        ("[one]", "role analyst", "but owns 1 object in reports, database reports"),
    ]
    check_lines(run, [*services, *data])
    assert {name for name, _ in run.planned if "rune" in name} == set()
    told = estate.project.deploy("tasks.remove.prune")
    check_lines(told, services)
    assert told.changed == set()
    assert estate.project.deploy("tasks.postgres.configure").changed == {
        ("PostgreSQL: configuration", "one"),
        ("PostgreSQL: service", "one"),
    }
    assert _active(two, "pgbouncer") == _active(three, "redis-6380") == "active enabled"
    assert admin(one, "SELECT count(*) FROM sales", "reports") == "1000"


def test_the_master_is_not_removed(estate: Estate) -> None:
    """Its port or its host may leave the settings, but not before somebody else leads."""
    assert estate.master() == "one"
    groups, estate.groups = estate.groups, {**estate.groups, "redis": ["two", "three"]}
    refusal = ("one: redis_prune: redis-6379 is the master: fail over first",)
    try:
        estate.refuses(refusal, "redis_prune=true")
    finally:
        estate.groups = groups


def test_nobody_of_the_inventory_is_forgotten_for_being_down(estate: Estate) -> None:
    """A Sentinel that forgets somebody forgets everybody who is down."""
    two, three = estate.hosts["two"], estate.hosts["three"]
    two.run("systemctl stop redis-6379 redis-sentinel-26380 redis-sentinel-26381")
    three.run("systemctl stop redis-6380")

    def down_are(count: int, *ports: tuple[str, int]) -> None:
        for name, port in ports:
            lines = estate.redis(name, port, "SENTINEL", "REPLICAS", proof.MASTER_NAME)
            assert lines.count("s_down,slave") == count

    eventually(lambda: down_are(2, ("one", 26379)), FOUND_SECONDS)
    estate.describe()
    given = _given(("sentinel_prune=true",))
    run = estate.project.pyinfra("-y", *given, "inventory.py", "deploy.py")
    assert run.code == 1
    down = f"{two.address}:6379 is down, and a reset would drop it as well"
    check_lines(run, [(f"{name}: sentinel_prune: {down}",) for name in NAMES])
    two.run("systemctl start redis-6379 redis-sentinel-26380 redis-sentinel-26381")
    three.run("systemctl start redis-6380")
    # A Sentinel notices a second later.
    everywhere = [*((name, 26379) for name in NAMES), ("two", 26380), ("two", 26381)]
    eventually(lambda: down_are(0, *everywhere), FOUND_SECONDS)


def test_services_are_removed(estate: Estate) -> None:
    """A pooler, a replica and two Sentinels go, and the Sentinels forget them; the data stay."""
    two, three = estate.hosts["two"], estate.hosts["three"]
    before = proof.processes(list(estate.hosts.values()))
    changed = estate.deploy("pgbouncer_prune=true", "redis_prune=true", "sentinel_prune=true")
    assert changed == {
        ("Host: upkeep", "two"),
        ("PgBouncer: configuration", "one"),
        ("PgBouncer: service", "one"),
        *(("Redis: configuration", name) for name in NAMES),
        *(("Sentinel: monitoring", name) for name in NAMES),
        ("Prune: services", "two"),
        ("Prune: services", "three"),
        *(("Sentinel: prune", name) for name in NAMES),
    }
    estate.check_watched(2, 3, *NAMES)
    gone = {
        "two": ("pgbouncer", "redis-sentinel-26380", "redis-sentinel-26381"),
        "three": ("redis-6380",),
    }
    for name, services in gone.items():
        for service in services:
            assert _active(estate.hosts[name], service).split()[0] == "inactive"
            assert _marks(estate.hosts[name], f"{service}.") == []
    assert two.run("ls /etc/pgbouncer /var/lib/redis").stdout.split()[1:] == [
        "/var/lib/redis:",
        "6379",
        "sentinel-26379",
    ]
    assert set(three.run("ls /var/lib/redis/6380").stdout.split()) >= {"dump.rdb", "appendonlydir"}
    assert _direct(estate) == "refused"
    after = proof.processes(list(estate.hosts.values()))
    removed = {f"{name}/{unit}.service" for name, units in gone.items() for unit in units}
    assert {key: before[key] for key in before.keys() - removed} == after
    assert not re.search("no longer in this host's|in the inventory", estate.plan().output)


def test_what_comes_back_follows_the_master(estate: Estate) -> None:
    """A replica that finds old data of its own has the master's soon, and goes with all of it."""
    three = estate.hosts["three"]
    estate.redis("one", 6379, "SET", "kept", "while it was away")
    estate.data = {"three": {"redis_ports": [6379, 6380]}}
    estate.describe()
    estate.project.deploy("tasks.redis.deploy")
    assert replication(three, 6380, estate.password, tls=True)["role"] == "slave"

    def followed() -> None:
        assert estate.redis("three", 6380, "GET", "kept") == "while it was away"

    eventually(followed, FOUND_SECONDS)
    estate.data = {}
    estate.describe()
    given = _given(("redis_prune=true", "destroy=true"))
    run = estate.project.deploy("tasks.remove.prune", *given)
    assert "redis-6380: stop and remove, with its data in /var/lib/redis/6380" in run.output
    assert run.changed == {("Prune: services", "three")}
    assert three.run("ls /var/lib/redis").stdout.split() == ["6379", "sentinel-26379"]


def _prune(estate: Estate, *data: str) -> set[tuple[str, str]]:
    """What PostgreSQL's own run changes with `postgres_prune`."""
    estate.describe()
    given = _given(("postgres_prune=true", *data))
    return estate.project.deploy("tasks.postgres.configure", *given).changed


def test_a_role_goes_when_it_owns_nothing(estate: Estate) -> None:
    """With its privileges wherever it has some, and its sessions."""
    one = estate.hosts["one"]
    assert _prune(estate) == set()
    admin(one, "REASSIGN OWNED BY reader TO psscript")
    secret = estate.project.secrets["POSTGRES_ROLE_READER_PASSWORD"]
    assert said(proof.psql(one, "SELECT 1", role="reader", password=secret)) == "1"
    assert _prune(estate) == {("PostgreSQL: prune", "one")}
    assert admin(one, "SELECT count(*) FROM pg_roles WHERE rolname = 'reader'") == "0"
    refused = proof.psql(one, "SELECT 1", role="reader", password=secret)
    assert refused.returncode == 2, refused.stdout
    assert admin(one, "SELECT count(*) FROM pg_roles WHERE rolname = 'analyst'") == "1"


def test_data_go_when_they_are_to_be_destroyed(estate: Estate) -> None:
    """A database after a dump that has all of it; extensions; then the role that owned it."""
    one = estate.hosts["one"]
    admin(one, "CREATE DATABASE psscript_before_20250102_030405")
    oid = admin(one, "SELECT oid FROM pg_database WHERE datname = 'reports'")
    file = f"{DROPPED}/reports-{oid}.dump"
    line = f"database reports: drop; a dump of it stays in {file}"
    plan = estate.plan("postgres_prune=true", "destroy=true")
    assert line in plan.output
    assert _prune(estate, "destroy=true") == {("PostgreSQL: prune", "one")}
    assert ("PostgreSQL: prune", "one") in plan.planned
    left = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database"
    assert admin(one, f"{left} WHERE NOT datistemplate") == (
        "postgres psscript psscript_before_20250102_030405"
    )
    assert admin(one, "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension") == (
        "pg_stat_statements plpgsql"
    )
    assert admin(one, "SELECT count(*) FROM pg_roles WHERE rolname = 'analyst'") == "0"
    assert one.run(f"stat -c '%a %U' {DROPPED} {file}").stdout.split() == [
        *("700", "postgres"),
        *("600", "postgres"),
    ]
    one.run("createuser analyst", user="postgres")
    one.run(f"pg_restore --create --exit-on-error -d postgres {file}", user="postgres")
    # The dump is of a database that nobody could enter any more: a run lets them in again.
    estate.settings = GROWN
    assert _prune(estate) == {("PostgreSQL: roles and databases", "one")}
    secret = estate.project.secrets["POSTGRES_ROLE_ANALYST_PASSWORD"]
    sales = "SELECT count(*) FROM sales"
    rows = proof.psql(one, sales, role="analyst", password=secret, database="reports", port=5432)
    assert said(rows) == "1000"


def test_what_cannot_be_dumped_is_not_dropped(estate: Estate) -> None:
    """A full disk: one line, and clients get in again, whom a killed run has left outside too."""
    one = estate.hosts["one"]
    estate.settings = {}
    admin(one, "ALTER DATABASE reports CONNECTION LIMIT 0")
    one.run(f"mount -t tmpfs -o size=4k,mode=700,uid=postgres tmpfs {DROPPED}")
    try:
        estate.describe()
        given = _given(("postgres_prune=true", "destroy=true"))
        run = estate.project.pyinfra("-y", *given, "inventory.py", "tasks.postgres.configure")
        assert run.code == 1
        check_lines(run, [("[one]", "database reports stays, because its dump is not whole: ")])
    finally:
        one.run(f"umount {DROPPED}")
    assert admin(one, "SELECT count(*) FROM sales", "reports") == "1000"
    state = "SELECT datconnlimit FROM pg_database WHERE datname = 'reports'"
    assert admin(one, state) == "-1"


def test_an_extension_that_is_used_stays(estate: Estate) -> None:
    """PostgreSQL knows who uses it; its refusal is the one line."""
    one = estate.hosts["one"]
    admin(one, "DROP DATABASE reports; DROP ROLE analyst", "postgres")
    admin(one, "CREATE EXTENSION hstore; CREATE TABLE used (h hstore)")
    estate.describe()
    given = _given(("postgres_prune=true", "destroy=true"))
    run = estate.project.pyinfra("-y", *given, "inventory.py", "tasks.postgres.configure")
    assert run.code == 1
    check_lines(run, [("[one]", "cannot drop extension hstore because other objects depend on it")])
    assert admin(one, "SELECT count(*) FROM used") == "0"
    admin(one, "DROP TABLE used")
    run = estate.project.deploy("tasks.postgres.configure", *given)
    assert run.changed == {("PostgreSQL: prune", "one")}
    assert "hstore" not in admin(one, "SELECT string_agg(extname, ' ') FROM pg_extension")


def test_a_host_is_cleared_and_leaves(estate: Estate) -> None:
    """Its services go, its data stay; without it in the inventory it is forgotten."""
    two = estate.hosts["two"]
    estate.describe()
    run = estate.project.deploy("tasks.remove.deploy", "--limit", "two")
    gone = ("Sentinel", "Redis", "certificates", "host", "what is left")
    assert run.changed == {(f"Remove: {what}", "two") for what in gone}
    assert {host for _, host in run.changed} == {"two"}
    for service in ("pgbouncer", "redis-6379", "redis-sentinel-26379"):
        assert _active(two, service).split()[0] == "inactive"
    assert _marks(two, "datatier") == []
    assert estate.redis("one", 6379, "GET", "kept") == "while it was away"
    hosts, estate.hosts = estate.hosts, {n: h for n, h in estate.hosts.items() if n != "two"}
    estate.groups |= {"sentinel": ["one", "three"], "redis": ["one", "three"]}
    assert estate.deploy("sentinel_prune=true") == {
        (operation, name)
        for operation in ("Redis: configuration", "Sentinel: prune")
        for name in ("one", "three")
    }
    estate.check_watched(1, 2, "one", "three")
    estate.hosts = hosts
