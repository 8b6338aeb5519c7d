"""Stories of trouble: one line says what is wrong and where, and the next run repairs it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.project import PYINFRA, Data, Project, Run, footprint
from tests.e2e.proof import Stack, admin, main_process, psql, redis, said
from tests.e2e.wait import eventually
from tests.lab import OPERATOR_PASSWORD, Host, Lab
from tests.lab.images import Release

DATABASE = ("postgres", "pgbouncer")


@dataclass
class Estate:
    """Hosts, the groups each is in, and the directory they are deployed from."""

    project: Project
    members: Mapping[str, tuple[Host, Sequence[str]]]

    def describe(self, user: str = "root", **extra: Data) -> None:
        """Writes the inventory, with more data for some hosts."""
        groups: dict[str, list[tuple[str, Data]]] = {}
        for name, (host, of) in self.members.items():
            data = {**host.ssh_data(user), "address": host.address, **extra.get(name, {})}
            for group in of:
                groups.setdefault(group, []).append((name, data))
        self.project.inventory(groups)

    def host(self, name: str) -> Host:
        """The machine of that name."""
        return self.members[name][0]

    @property
    def hosts(self) -> list[Host]:
        """All machines."""
        return [host for host, _ in self.members.values()]

    @property
    def secrets(self) -> dict[str, str]:
        """What `.env` holds."""
        return self.project.secrets

    def run(self, *arguments: str) -> Run:
        """A real run, which may fail."""
        return self.project.pyinfra("-y", *arguments, "inventory.py", "deploy.py")

    def fails(self, *lines: tuple[str, ...]) -> Run:
        """A run that ends with exit code 1 and says each thing once, in one line."""
        run = self.run()
        assert run.code == 1, run.output
        check_lines(run, lines)
        return run

    def refuses(self, *lines: tuple[str, ...]) -> None:
        """A run that says each thing once and leaves every host as it was."""
        before = footprint(*self.hosts)
        self.fails(*lines, ("nothing was changed",))
        assert footprint(*self.hosts) == before

    def plans(self) -> set[tuple[str, str]]:
        """What a dry run would change; it must not be refused."""
        return self.project.plan().planned

    def repairs(self) -> set[tuple[str, str]]:
        """What a run repairs; the run after it has nothing left to do."""
        changed = self.project.deploy().changed
        assert self.project.deploy().changed == set()
        return changed


Scratch = Callable[..., Estate]


def check_lines(run: Run, lines: Sequence[tuple[str, ...]]) -> None:
    """Asserts that there is one line with all words of each tuple, and no noise."""
    assert "Traceback" not in run.output, run.output
    printed = run.output.splitlines()
    for words in lines:
        found = [line for line in printed if all(word in line for word in words)]
        assert len(found) == 1, f"{words} stand in {found}:\n{run.output}"
    assert "could not change directory" not in run.output, run.output


def _boot(lab: Lab, members: Mapping[str, tuple[Sequence[str], str | None]]) -> Any:
    """Hosts with their groups, booted side by side."""

    def host(name: str) -> Host:
        return lab.host(name, small_disk=members[name][1])

    with ThreadPoolExecutor() as pool:
        hosts = pool.map(host, members)
        return {
            name: (host, groups)
            for host, (name, (groups, _)) in zip(hosts, members.items(), strict=True)
        }


@pytest.fixture
def scratch(lab: Lab, tmp_path: Path) -> Iterator[Scratch]:
    """Makes an estate of one host, which is removed at the end of the story."""
    made: list[Estate] = []

    def make(name: str, groups: Sequence[str], small_disk: str | None = None) -> Estate:
        members = _boot(lab, {name: (groups, small_disk)})
        estate = Estate(Project(tmp_path), members)
        made.append(estate)
        estate.describe()
        return estate

    yield make
    for estate in made:
        for host in estate.hosts:
            host.remove()


@pytest.fixture(scope="module")
def bare(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """Two hosts on which nothing of ours has been yet; the stories leave them so."""
    db, cache = (DATABASE, None), (("redis",), "/etc/redis:256k")
    members = _boot(lab, {"db1": db, "cache1": cache})
    estate = Estate(Project(tmp_path_factory.mktemp("trouble")), members)
    estate.describe()
    return estate


@pytest.fixture(scope="module")
def estate(bare: Estate) -> Estate:
    """The same two hosts at work: PostgreSQL and PgBouncer on one, Redis on the other."""
    bare.repairs()
    return bare


@pytest.fixture
def settings(bare: Estate) -> Iterator[Project]:
    """The project, whose settings are the defaults again at the end of the story."""
    yield bare.project
    bare.project.settings({})
    bare.describe()


# --- Refused before anything is touched ----------------------------------------------------------


def _sudo(estate: Estate, password: str | None) -> None:
    data = {} if password is None else {"_sudo_password": password}
    estate.describe("operator", db1=data, cache1=data)


def test_without_a_sudo_password(bare: Estate, settings: Project) -> None:
    _sudo(bare, None)
    asks = ("sudo: a password is needed", "--same-sudo-password")
    bare.refuses(("db1: ", *asks), ("cache1: ", *asks))


def test_with_a_wrong_sudo_password(bare: Estate, settings: Project) -> None:
    _sudo(bare, "not-this-one")
    bare.refuses(("db1: sudo: the password is wrong",), ("cache1: sudo: the password is wrong",))
    for host in bare.hosts:
        assert host.run("grep -rl not-this-one /tmp /home /root", check=False).stdout == ""
    _sudo(bare, OPERATOR_PASSWORD)
    assert ("PostgreSQL: cluster", "db1") in bare.plans()


# The hosts' Python is Debian's minimal one, without http.server.
_LISTEN = "import socket, time; s = socket.create_server(('', {port})); time.sleep(300)"


@contextmanager
def _intruder(host: Host, port: int) -> Iterator[int]:
    """Somebody else's program on a port of ours; gives its process id."""
    host.run("cat >/run/intruder.py", stdin=_LISTEN.format(port=port))
    command = "setsid python3 /run/intruder.py >/dev/null 2>&1 </dev/null"
    host.run(f"{command} & echo $! >/run/intruder.pid")
    pid = int(host.run("cat /run/intruder.pid").stdout)
    try:
        eventually(lambda: _listens(host, port), 10)
        yield pid
    finally:
        host.run(f"kill {pid}")
        eventually(lambda: _is_free(host, port), 10)


def _listeners(host: Host, port: int) -> str:
    return host.run(f"ss -Hltn sport = :{port}").stdout


def _listens(host: Host, port: int) -> None:
    assert _listeners(host, port)


def _is_free(host: Host, port: int) -> None:
    assert not _listeners(host, port)


def test_a_port_is_somebody_elses(bare: Estate, settings: Project) -> None:
    with _intruder(bare.host("cache1"), 6379) as pid:
        says = ("cache1: redis_ports: port 6379 is held by python3", f"pid {pid}", "redis-6379")
        bare.refuses(says)
    assert ("Packages", "cache1") in bare.plans()


@contextmanager
def _old_cluster(host: Host) -> Iterator[None]:
    data = "/var/lib/postgresql/13/main"
    host.run(f"install -d /etc/postgresql/13/main {data} && echo 13 >{data}/PG_VERSION")
    try:
        yield
    finally:
        host.run("rm -r /etc/postgresql /var/lib/postgresql")


def test_a_cluster_of_another_version(bare: Estate, settings: Project) -> None:
    with _old_cluster(bare.host("db1")):
        bare.refuses(("db1: postgres_version: ", "13", "15", "pg_upgradecluster"))
    assert ("PostgreSQL: cluster", "db1") in bare.plans()


@contextmanager
def _release(host: Host, version: str) -> Iterator[None]:
    host.run("cp /usr/lib/os-release /run/os-release.kept")
    host.run(f"sed -i 's/^VERSION_ID=.*/VERSION_ID=\"{version}\"/' /usr/lib/os-release")
    try:
        yield
    finally:
        host.run("cp /run/os-release.kept /usr/lib/os-release")


def test_an_unsupported_system(bare: Estate, settings: Project) -> None:
    with _release(bare.host("cache1"), "11"):
        bare.refuses(("cache1: operating system: debian 11 ", "inventory/docker.py"))
    assert bare.plans()


def test_everything_wrong_is_in_one_list(bare: Estate, settings: Project) -> None:
    bare.describe(
        db1={"pgbouncer_pool_mode": "sesion", "postgres_prt": 5433},
        cache1={"redis_maxmemory_policy": "allkeys-lur"},
    )
    with _release(bare.host("cache1"), "11"):
        bare.refuses(
            ("db1: pgbouncer_pool_mode: should be 'session'",),
            ("db1: postgres_prt: unknown key (postgres_port?)",),
            ("cache1: redis_maxmemory_policy: should be ",),
            ("cache1: operating system: debian 11",),
            ("4 problems",),
        )


def test_everything_found_on_the_hosts_is_in_one_list(bare: Estate, settings: Project) -> None:
    db, cache = bare.host("db1"), bare.host("cache1")
    with _old_cluster(db), _intruder(db, 6432), _intruder(cache, 6379):
        bare.refuses(
            ("db1: postgres_version: ",),
            ("db1: pgbouncer_listen_port: port 6432 is held by python3",),
            ("cache1: redis_ports: port 6379 is held by python3",),
            ("3 problems",),
        )


# --- A host that is down -------------------------------------------------------------------------


def _maxmemory(estate: Estate) -> str:
    """What the running Redis says."""
    secret = estate.secrets["REDIS_PASSWORD"]
    answer = redis(estate.host("cache1"), 6379, "CONFIG", "GET", "maxmemory", password=secret)
    return said(answer).splitlines()[1]


def _pool_size(estate: Estate) -> str:
    """What the running PgBouncer says."""
    return pgbouncer_setting(estate, "default_pool_size")


def pgbouncer_setting(estate: Estate, key: str) -> str:
    """A value of SHOW CONFIG."""
    command = "psql -XAtqw -h 127.0.0.1 -p 6432 -U postgres -d pgbouncer -c 'SHOW CONFIG'"
    script = f"IFS= read -r PGPASSWORD; export PGPASSWORD; {command}"
    secret = estate.secrets["POSTGRES_PASSWORD"]
    shown = estate.host("db1").run(script, stdin=f"{secret}\n").stdout
    rows = dict(line.split("|")[:2] for line in shown.splitlines())
    return rows[key]


def test_a_host_is_switched_off(estate: Estate, settings: Project) -> None:
    db = estate.host("db1")
    settings.settings({"redis_maxmemory": "200mb", "pgbouncer_default_pool_size": 21})
    db.kill()
    try:
        estate.fails(("[db1]", "onnect"))
        assert _maxmemory(estate) == str(200 * 1024**2)
    finally:
        db.start()
    assert {host for _, host in estate.repairs()} == {"db1"}
    assert _pool_size(estate) == "21"


def test_a_host_hangs(estate: Estate, settings: Project) -> None:
    cache = estate.host("cache1")
    settings.settings({"redis_maxmemory": "201mb", "pgbouncer_default_pool_size": 22})
    cache.pause()
    try:
        estate.fails(("[cache1]", "rror"))
        assert _pool_size(estate) == "22"
    finally:
        cache.unpause()
    assert {host for _, host in estate.repairs()} == {"cache1"}
    assert _maxmemory(estate) == str(201 * 1024**2)


def test_a_server_that_hangs_is_a_row_of_the_table(estate: Estate) -> None:
    """What cannot be read is what the table is to show, beside all that is well."""
    servers = ((estate.host("db1"), "postgresql@15-main"), (estate.host("cache1"), "redis-6379"))
    hung = [(host, main_process(host, name).pid) for host, name in servers]
    for host, process in hung:
        host.run(f"kill -STOP {process}")
    try:
        run = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
        refused = estate.run()
    finally:
        for host, process in hung:
            host.run(f"kill -CONT {process}")
    assert run.code == 1, run.output
    health = {row[0]: row[3] for line in run.stdout.splitlines() if len(row := line.split()) > 3}
    assert (health["postgres"], health["redis-6379"]) == ("FAILS", "FAILS"), run.output
    assert "pgbouncer" in health
    check_lines(refused, [("db1: state: PostgreSQL runs but does not answer",)])
    assert estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify").code == 0


_STRANGER = "import socket, time; s = socket.create_server(('{}', 6379)); time.sleep(600)"


def test_a_stranger_at_the_address_of_ours_is_a_row_of_the_table(estate: Estate) -> None:
    """Ours answers at loopback, where the password is known, and clients reach the stranger."""
    cache, password = estate.host("cache1"), estate.secrets["REDIS_PASSWORD"]
    bind = said(redis(cache, 6379, "CONFIG", "GET", "bind", password=password)).split("\n")[1]
    redis(cache, 6379, "CONFIG", "SET", "bind", "127.0.0.1", password=password)
    stranger = f'python3 -c "{_STRANGER.format(cache.address)}"'
    cache.run(f"setsid {stranger} >/dev/null 2>&1 </dev/null & echo $! >/run/stranger.pid")
    try:
        there = f"ss -ltn | grep -qF {cache.address}:6379"
        eventually(lambda: said(cache.run(there, check=False)), 10)
        run = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
        refused = estate.run()
    finally:
        cache.run("kill $(cat /run/stranger.pid)")
    fails = [line.split() for line in run.stdout.splitlines() if " FAILS " in line]
    assert [(each[0], each[4:7]) for each in fails] == [("redis-6379", ["held", "by", "python3"])]
    check_lines(refused, [("cache1: redis_ports: port 6379 is held by python3",)])
    redis(cache, 6379, "CONFIG", "SET", "bind", bind, password=password)
    assert estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify").code == 0


def test_a_server_that_cannot_start_is_told_with_its_reason(estate: Estate) -> None:
    """PostgreSQL's own `ALTER SYSTEM` takes what it then cannot start with."""
    db, unit = estate.host("db1"), "postgresql@15-main"
    estate.project.deploy()
    admin(db, "ALTER SYSTEM SET shared_preload_libraries = '\"\"'")
    db.run(f"systemctl restart {unit}", check=False)
    try:
        failing = f'[ "$(systemctl show -p NRestarts --value {unit})" -gt 2 ]'
        eventually(lambda: db.run(failing), 30)
        drift = estate.project.drift()
        estate.fails(("postgres ends again and again as it starts", "could not access file"))
    finally:
        auto = "/var/lib/postgresql/15/main/postgresql.auto.conf"
        db.run(f"sed -i /shared_preload_libraries/d {auto}")
    assert drift.code == 2 and "postgres: start" in drift.output
    eventually(lambda: said(db.run("pg_isready", check=False)), 30)
    assert estate.project.deploy().changed <= {("PostgreSQL: service", "db1")}
    assert estate.project.drift().code == 0


def test_a_redis_that_reads_its_data_is_waited_for(estate: Estate, settings: Project) -> None:
    """It answers `LOADING`, which is neither silence nor a wrong password."""
    cache, password = estate.host("cache1"), estate.secrets["REDIS_PASSWORD"]
    ask = partial(redis, cache, 6379, password=password)
    said(ask("EVAL", "for i = 1, 20000 do redis.call('SET', 'read:' .. i, i) end", "0"))
    # Microseconds.
    settings.settings({"redis_extra": {"key-load-delay": 500}})
    settings.deploy()
    cache.run("systemctl restart --no-block redis-6379")

    def loads() -> None:
        assert "LOADING" in ask("PING").stderr + ask("PING").stdout

    eventually(loads, 10)
    settings.settings({"redis_extra": {"key-load-delay": 500}, "redis_maxmemory": "222mb"})
    run = estate.run()
    assert run.code == 0 and "accept the password" not in run.output, run.output
    assert (_maxmemory(estate), said(ask("DBSIZE"))) == (str(222 * 1024**2), "20000")
    assert estate.project.deploy().changed == set()
    said(ask("FLUSHALL"))


# --- Who else gets in ----------------------------------------------------------------------------


def test_each_gets_in_as_the_documentation_says(
    estate: Estate, settings: Project, lab: Lab, tmp_path: Path
) -> None:
    """Those of docs/change.md; a clone of a colleague changes nothing."""
    db, cache = estate.host("db1"), estate.host("cache1")
    access = {
        "postgres_roles": {
            "psscript": {},
            "reader": {
                "member_of": ["pg_read_all_data"],
                "settings": {"default_transaction_read_only": "on"},
            },
        },
        "redis_users": {
            "cache": {"commands": ["+@read", "+@write", "-@dangerous"], "keys": ["cache:*"]}
        },
        "postgres_listen_addresses": f"localhost, {db.address}",
        "postgres_hba": [f"hostssl psscript psscript {lab.gateway}/32 scram-sha-256"],
    }
    settings.settings(access)
    settings.deploy()
    role, reader = (estate.secrets[f"POSTGRES_ROLE_{n}_PASSWORD"] for n in ("PSSCRIPT", "READER"))
    said(psql(db, "CREATE TABLE IF NOT EXISTS seen AS SELECT 1 AS id", password=role))

    read = partial(psql, db, role="reader", password=reader)
    assert said(read("SELECT id FROM seen")) == "1"
    for statement in ("DELETE FROM seen", "CREATE TEMPORARY TABLE own (id int)"):
        assert "read-only transaction" in read(statement).stderr
        anyway = read(f"SET transaction_read_only = off; {statement}")
        assert "permission denied" in anyway.stderr, anyway

    ask = partial(
        redis, cache, 6379, "--user", "cache", password=estate.secrets["REDIS_USER_CACHE_PASSWORD"]
    )
    assert said(ask("SET", "cache:one", "1")) == "OK"
    for words in (("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "GET", "*")):
        assert "NOPERM" in ask(*words).stdout + ask(*words).stderr

    # This machine is the other host.
    for port, mode in ((6432, "prefer"), (5432, "require")):
        client = psycopg.connect(
            host=db.address,
            port=port,
            dbname="psscript",
            user="psscript",
            password=role,
            sslmode=mode,
        )
        with client:
            assert client.execute("SELECT id FROM seen").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(
            host=db.address, port=5432, dbname="psscript", user="reader", password=reader
        )

    colleague = Project(tmp_path / "clone")
    for name in ("inventory.py", "group_data/all.py"):
        shutil.copy(settings.directory / name, colleague.directory / name)
    refused = colleague.pyinfra("-y", "inventory.py", "deploy.py")
    assert refused.code == 1 and "replace_secrets" in refused.output
    shutil.copy2(settings.directory / ".env", colleague.directory)
    assert colleague.deploy().changed == set()
    said(psql(db, "DROP TABLE seen", password=role))


# --- A full disk ---------------------------------------------------------------------------------


def test_no_room_for_a_configuration_file(estate: Estate, settings: Project) -> None:
    cache = estate.host("cache1")
    estate.project.deploy()
    served, memory = main_process(cache, "redis-6379"), _maxmemory(estate)
    before = cache.run("sha256sum /etc/redis/*; ls -A /etc/redis").stdout
    cache.run("dd if=/dev/zero of=/etc/redis/filler bs=4k 2>/dev/null", check=False)
    settings.settings({"redis_maxmemory": "300mb", "pgbouncer_default_pool_size": 19})
    try:
        line = "could not write /etc/redis/redis-6379.conf: 0 left on its file system"
        estate.fails(("[cache1]", line))
    finally:
        cache.run("rm /etc/redis/filler")
    assert cache.run("sha256sum /etc/redis/*; ls -A /etc/redis").stdout == before
    assert main_process(cache, "redis-6379") == served
    assert _maxmemory(estate) == memory
    assert ("Redis: configuration", "cache1") in estate.repairs()
    assert (_maxmemory(estate), _pool_size(estate)) == (str(300 * 1024**2), "19")


def test_no_room_for_a_cluster(scratch: Scratch) -> None:
    disk = "/var/lib/postgresql:24m"  # an empty cluster needs 40
    estate = scratch("small", ["postgres"], disk)
    host = estate.host("small")
    estate.fails(("[small]", "No space left on device"))
    host.run("mount -o remount,size=512m /var/lib/postgresql")
    assert ("PostgreSQL: cluster", "small") in estate.repairs()
    assert admin(host, "SHOW data_checksums") == "on"
    assert Stack(host, estate.secrets).sql("SELECT 1", 5432) == "1"


# --- Somebody else at work on the host -----------------------------------------------------------

_HOLD_LOCK = """
import fcntl, time
with open("/var/lib/dpkg/lock-frontend", "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    open("/run/held", "w").close()
    time.sleep(%d)
"""


def _hold_dpkg(host: Host, seconds: int) -> str:
    """Holds dpkg's lock as another apt would; gives the holder's process id."""
    host.run("cat >/run/hold.py; rm -f /run/held", stdin=_HOLD_LOCK % seconds)
    host.run("setsid python3 /run/hold.py >/dev/null 2>&1 </dev/null & echo $! >/run/hold.pid")
    eventually(lambda: _held(host), 10)
    return host.run("cat /run/hold.pid").stdout.strip()


def _held(host: Host) -> None:
    assert host.run("test -e /run/held", check=False).returncode == 0


def test_apt_is_busy(scratch: Scratch) -> None:
    estate = scratch("busy1", ["redis"])
    host = estate.host("busy1")
    packages = host.run("dpkg -l").stdout
    pid = _hold_dpkg(host, 300)
    start = time.monotonic()
    estate.fails(("[busy1]", "/var/lib/dpkg/lock-frontend", f"process {pid} (python3)"))
    assert time.monotonic() - start < 90
    assert host.run("dpkg -l").stdout == packages
    host.run(f"kill {pid}")
    _hold_dpkg(host, 8)
    assert ("Packages", "busy1") in estate.repairs()
    password = estate.secrets["REDIS_PASSWORD"]
    assert said(redis(host, 6379, "PING", password=password)) == "PONG"


def test_debians_own_redis_was_there_first(scratch: Scratch) -> None:
    estate = scratch("used1", ["redis"])
    host = estate.host("used1")
    host.run("apt-get install -y -q --no-install-recommends redis-server", timeout=120)
    eventually(lambda: _listens(host, 6379), 10)
    assert said(redis(host, 6379, "SET", "theirs", "kept")) == "OK"
    pid = main_process(host, "redis-server").pid
    estate.refuses(("used1: redis_ports: port 6379 is held by redis-server", f"pid {pid}"))
    assert said(redis(host, 6379, "GET", "theirs")) == "kept"
    host.run("systemctl stop redis-server")
    data = ("used1: redis_ports: /var/lib/redis/dump.rdb has the data of another Redis",)
    disable = "would take port 6379 at the next boot: systemctl disable --now redis-server.service"
    estate.refuses(("used1: redis_ports: redis-server.service", disable), data)
    host.run("systemctl disable --now redis-server.service")
    estate.refuses(data)
    host.run("install -d -o redis -g redis -m 750 /var/lib/redis/6379")
    host.run("mv /var/lib/redis/dump.rdb /var/lib/redis/6379/")
    assert ("Redis: configuration", "used1") in estate.repairs()
    password = estate.secrets["REDIS_PASSWORD"]
    assert said(redis(host, 6379, "GET", "theirs", password=password)) == "kept"
    host.kill()
    host.start()
    eventually(lambda: _answers(host, password), 20)
    assert said(redis(host, 6379, "DEL", "theirs", password=password)) == "1"
    _check_never_starts_empty(estate, host, password)


def _answers(host: Host, password: str) -> None:
    """As ours does: only to who has the password."""
    assert redis(host, 6379, "PING", password=password).stdout == "PONG\n"
    assert "NOAUTH" in redis(host, 6379, "PING").stderr


def _check_never_starts_empty(estate: Estate, host: Host, password: str) -> None:
    """Whatever is turned on or off, alive or while nothing runs, and however it stopped."""

    def deploy(**choices: bool) -> None:
        estate.project.settings(choices)
        estate.project.deploy("tasks.redis.deploy")

    def do(*words: str) -> str:
        return said(redis(host, 6379, *words, password=password))

    def keys() -> set[str]:
        return set(do("KEYS", "*").split())

    deploy(redis_appendonly=False)
    do("SET", "a", "while it is off")
    host.run("systemctl stop redis-6379")
    deploy(redis_appendonly=True)
    assert keys() == {"a"}
    do("SET", "b", "while it is on")
    host.run("systemctl kill -s KILL redis-6379; systemctl stop redis-6379")
    deploy(redis_appendonly=False)
    assert keys() == {"a", "b"}
    # What hands and reboots do is no run, and starts it all the same.
    host.run("rm -r /var/lib/redis/6379/append*; systemctl restart redis-6379")
    deploy(redis_appendonly=True)
    assert keys() == {"a", "b"}
    host.run("systemctl stop redis-6379; rm -r /var/lib/redis/6379/append*")
    host.run("systemctl start redis-6379")
    assert keys() == {"a", "b"}
    # Hands turn it off alive, and days later the host loses its power.
    do("CONFIG", "SET", "appendonly", "no")
    host.run("touch -d '3 days ago' /var/lib/redis/6379/appendonlydir/*")
    do("SET", "c", "in the snapshot only")
    do("SAVE")
    host.run("systemctl kill -s KILL redis-6379")
    eventually(lambda: _answers(host, password), 20)
    assert keys() == {"a", "b", "c"}
    # An old snapshot that hands have put there is not read, and not overwritten.
    host.run("cp -p /var/lib/redis/6379/dump.rdb /root/")
    do("DEL", "c")
    host.run("systemctl stop redis-6379; sleep 1; cp -p /root/dump.rdb /var/lib/redis/6379/")
    refused = "/usr/local/bin/redis-before-start /var/lib/redis/6379 /etc/redis/redis-6379.conf"
    done = host.run(f"runuser -u redis -- {refused}", check=False)
    assert "dump.rdb was not saved here" in done.stderr
    # All is lost: it does not begin over by itself.
    host.run("rm -r /var/lib/redis/6379/append* /var/lib/redis/6379/dump.rdb")
    done = host.run(f"runuser -u redis -- {refused}", check=False)
    assert "/var/lib/redis/6379 is empty, and Redis ran here before" in done.stderr


# --- What is there and is not ours ---------------------------------------------------------------

_OWNER = "runuser -u postgres -- psql -XAtqw"
_CLERK = "PGPASSWORD=clerks-own psql -XAtqw -h 127.0.0.1 -U clerk -d shop"
_MARKER = "/var/lib/postgresql/.datatier-creating"


def _somebodys_database(host: Host, version: int, *options: str) -> None:
    """Debian's PostgreSQL and PgBouncer, in use: rows, a role of theirs, a client in both."""
    packages = "apt-get install -y -q --no-install-recommends postgresql pgbouncer"
    host.run(f"{packages} && pg_dropcluster --stop {version} main", timeout=180)
    # What the first release has left behind where its creation failed.
    host.run(f"touch {_MARKER}")
    create = f"pg_createcluster {version} main {' '.join(options)}"
    host.run(f"{create} && pg_ctlcluster {version} main start")
    role = "CREATE ROLE clerk LOGIN PASSWORD 'clerks-own'"
    host.run(f'cd / && {_OWNER} -c "CREATE DATABASE shop" -c "{role}"')
    grant = "GRANT SELECT ON notes TO clerk"
    host.run(f"cd / && {_OWNER} -d shop -c 'CREATE TABLE notes AS SELECT 7 AS n' -c '{grant}'")
    host.run(
        "sed -i 's/^.databases.*/&\\nshop = host=127.0.0.1/' /etc/pgbouncer/pgbouncer.ini"
        ' && echo \'"clerk" "clerks-own"\' >/etc/pgbouncer/userlist.txt'
        " && systemctl restart pgbouncer"
    )
    eventually(lambda: _serves_the_clerk(host, 5432, 6432), 20)


def _serves_the_clerk(host: Host, *ports: int) -> None:
    for port in ports:
        assert said(host.run(f"{_CLERK} -p {port} -c 'TABLE notes'")) == "7"


def _refuses_to_plan(estate: Estate, *lines: tuple[str, ...]) -> None:
    """A dry run says the same and ends with 1 too."""
    run = estate.project.pyinfra("--dry", "inventory.py", "deploy.py")
    assert run.code == 1, run.output
    check_lines(run, [*lines, ("nothing was changed",)])


@pytest.mark.parametrize(("release", "version"), [("debian12", 15), ("debian13", 17)])
def test_somebodys_cluster_and_pooler(
    lab: Lab, tmp_path: Path, release: Release, version: int
) -> None:
    """In use, elsewhere, and beside a marker of ours: refused; adopted with all that is in them."""
    host = lab.host("theirs", release)
    estate = Estate(Project(tmp_path), {"theirs": (host, DATABASE)})
    estate.describe()
    home, elsewhere = f"/var/lib/postgresql/{version}/main", f"/srv/pg/{version}"
    etc, cluster = f"/etc/postgresql/{version}/main", f"theirs: cluster {version}/main: "
    _somebodys_database(host, version, "-d", elsewhere)
    pooler = ("theirs: pgbouncer: /etc/pgbouncer/pgbouncer.ini and /etc/pgbouncer/userlist.txt",)
    estate.refuses((cluster, f"has its data in {elsewhere}", home), pooler)

    # Moved as the line says.
    host.run(f"pg_ctlcluster {version} main stop")
    host.run(f"install -d -o postgres -g postgres {home[:-5]} && mv {elsewhere} {home}")
    host.run(f"sed -i \"s,'{elsewhere}','{home}',\" {etc}/postgresql.conf")
    host.run(f"pg_ctlcluster {version} main start")
    serving = main_process(host, f"postgresql@{version}-main")
    theirs = (cluster, "is not Datatier's", "1 database", "postgres_adopt")
    _refuses_to_plan(estate, theirs, pooler)
    data = ("--data", "destroy_data=true", "--data", "confirm=psscript")
    assert estate.project.plan("tasks.remove.deploy", *data).planned == set()
    assert main_process(host, f"postgresql@{version}-main") == serving
    _serves_the_clerk(host, 5432, 6432)

    access = host.run(f"sha256sum <{etc}/pg_hba.conf").stdout
    estate.project.settings({"postgres_adopt": True, "pgbouncer_adopt": True})
    host.run(f"cp -p {etc}/pg_hba.conf /root/hba; echo 'local all all md5' >{etc}/pg_hba.conf")
    host.run(f"pg_ctlcluster {version} main reload; sleep 0.5")
    outside = "theirs: state: PostgreSQL does not let its superuser in: "
    _refuses_to_plan(estate, (outside, "put 'local all postgres peer' first in its pg_hba.conf"))
    host.run(f"cp -p /root/hba {etc}/pg_hba.conf; pg_ctlcluster {version} main reload; sleep 0.5")
    plan = estate.project.plan()
    for line in ("1 database besides PostgreSQL's own): adopt", "PgBouncer of others: adopt"):
        assert line in plan.output
    assert estate.project.deploy().changed == plan.planned
    estate.project.settings({})
    assert estate.project.deploy().changed == set()
    _serves_the_clerk(host, 5432)
    assert Stack(host, estate.secrets).sql("SELECT 1") == "1"
    copies = "/var/backups/datatier"
    assert host.run(f"sha256sum <{copies}{etc}/pg_hba.conf").stdout == access
    kept = host.run(f"stat -c '%a %U' {copies} {copies}/etc/pgbouncer/*").stdout.splitlines()
    assert kept == ["700 root", "640 root", "640 root"]
    assert "clerks-own" in host.run(f"cat {copies}/etc/pgbouncer/userlist.txt").stdout

    # From now on it is ours, and another one is not: what it leaves behind proves nothing.
    host.run(f"pg_dropcluster --stop {version} main && pg_createcluster {version} main")
    estate.refuses((cluster, "is not Datatier's", "stopped", "no databases"))
    host.run(f"pg_dropcluster {version} main")
    host.run(f"pg_createcluster {version} app --port 5432 && pg_ctlcluster {version} app start")
    estate.refuses(("theirs: postgres_port: port 5432 is held by postgres", f"{version}-app"))
    host.run(f"pg_ctlcluster {version} app stop && install -d {home} && touch {home}/their-notes")
    estate.refuses((cluster, f"{home} has files and is no cluster's"))
    host.run(f"rm -r {home}")
    assert ("PostgreSQL: cluster", "theirs") in estate.plans()
    host.remove()


def test_files_of_others_under_our_names(bare: Estate, settings: Project) -> None:
    cache = bare.host("cache1")
    cache.run("echo 'vm.swappiness = 1' >/etc/sysctl.d/60-datatier-redis.conf")
    try:
        bare.refuses(("cache1: /etc/sysctl.d/60-datatier-redis.conf: is not Datatier's",))
    finally:
        cache.run("rm /etc/sysctl.d/60-datatier-redis.conf")


# --- Interrupted ---------------------------------------------------------------------------------

CREATING = "main.datatier-creating"
POLICY = "/usr/sbin/policy-rc.d"


def _interrupt(estate: Estate, host: Host, when: str) -> None:
    """Kills pyinfra as soon as `when` is true on the host."""
    command = [str(PYINFRA), "-y", "inventory.py", "deploy.py"]
    with (estate.project.directory / "interrupted.log").open("w") as log:
        run = subprocess.Popen(command, cwd=estate.project.directory, stdout=log, stderr=log)
        try:
            host.run(f"timeout 120 sh -c 'until {when}; do sleep 0.05; done'", timeout=130)
            assert run.poll() is None, "the run was over before it could be interrupted"
        finally:
            run.kill()
            run.wait()


def _power_cut(estate: Estate, host: Host, when: str) -> None:
    """The same, and what pyinfra was running on the host dies with it."""
    _interrupt(estate, host, f"{when} >/dev/null")
    host.kill()
    host.start()


def test_a_first_run_that_is_cut_off(scratch: Scratch) -> None:
    estate = scratch("cut1", DATABASE)
    host = estate.host("cut1")
    _power_cut(estate, host, "pidof dpkg")
    assert host.run(f"cat {POLICY}").stdout
    _power_cut(estate, host, f"test -e /var/lib/postgresql/15/{CREATING} && pidof initdb")
    assert host.run("ls /var/lib/postgresql/15").stdout.split() == [CREATING]
    # Its configuration has its name already, its data have not.
    _interrupt(estate, host, "test -e /etc/postgresql/15/main")
    host.run(
        f"test ! -e /var/lib/postgresql/15/main || mv /var/lib/postgresql/15/main "
        f"/var/lib/postgresql/15/{CREATING}"
    )
    _interrupt(estate, host, "test -e /etc/postgresql/15/main/conf.d/datatier.conf")
    estate.repairs()
    _check_whole(host)
    assert Stack(host, estate.secrets).sql("SELECT 1") == "1"


def _check_whole(host: Host) -> None:
    """Asserts that an interrupted run has left nothing behind and nothing out."""
    assert host.run("dpkg --audit").stdout == ""
    assert host.run(f"ls {POLICY}", check=False).stdout == ""
    assert host.run("find /etc /var/lib/postgresql -name '*.datatier-*'").stdout == ""
    assert host.run("ls -A /var/lib/postgresql").stdout.split() == ["15"]
    assert admin(host, "SHOW data_checksums") == "on"


# --- What only the server can know to be wrong ---------------------------------------------------


_CORRECTED = {
    "postgres_extra": {"log_lock_waits": True},
    "redis_extra": {"hz": 20},
    "pgbouncer_default_pool_size": 21,
}
_FILES = "cd /etc && sha256sum {} | sort"
_ON_DB = "postgresql/15/main/pg_hba.conf postgresql/15/main/conf.d/* pgbouncer/*"


def _served(estate: Estate) -> dict[str, Any]:
    """The processes, a real answer of each, and their files."""
    db, cache = estate.host("db1"), estate.host("cache1")
    secret, lock = estate.secrets["REDIS_PASSWORD"], "SHOW log_lock_waits"
    return {
        "postgres": (main_process(db, "postgresql@15-main"), admin(db, lock)),
        "pgbouncer": (main_process(db, "pgbouncer"), _pool_size(estate)),
        "redis": (
            main_process(cache, "redis-6379"),
            said(redis(cache, 6379, "CONFIG", "GET", "hz", password=secret)),
        ),
        "files": [db.run(_FILES.format(_ON_DB)).stdout, cache.run(_FILES.format("redis/*")).stdout],
    }


KEEPS = "PostgreSQL keeps its old settings, since it would not start with the new ones: "
HBA = "host all all 10.99.0.0/24 scram-sha-256 colour=blue"


@pytest.mark.parametrize(
    ("bad", "lines"),
    [
        (
            {"postgres_hba": [HBA], "redis_extra": {"hz": "often"}},
            [
                ("[db1]", KEEPS, "colour", "/etc/postgresql/15/main/pg_hba.conf"),
                ("[cache1]", "/etc/redis/redis-6379.conf: Redis refuses it: ", "hz"),
            ],
        ),
        (
            {"postgres_extra": {"log_lock_waits": "perhaps"}, "redis_extra": {"no-such-key": 1}},
            [("[db1]", KEEPS, "log_lock_waits"), ("[cache1]", "Redis refuses it", "no-such-key")],
        ),
        # What PostgreSQL finds when it starts, and not before.
        (
            {"postgres_extra": {"ssl": True, "ssl_ca_file": "no-such-ca.pem"}},
            [("[db1]", KEEPS, "no-such-ca.pem")],
        ),
        (
            {"pgbouncer_extra": {"server_check_delay": "soon"}},
            [("[db1]", "PgBouncer refuses /etc/pgbouncer/pgbouncer.ini: ", "server_check_delay")],
        ),
        ({"pgbouncer_extra": {"no_such_key": 1}}, [("[db1]", "PgBouncer refuses", "no_such_key")]),
    ],
    ids=[
        "hba-and-redis-value",
        "postgres-value-and-redis-key",
        "postgres-start",
        "pgbouncer-value",
        "pgbouncer-key",
    ],
)
def test_a_line_that_the_server_refuses(
    estate: Estate, settings: Project, bad: Data, lines: list[tuple[str, ...]]
) -> None:
    settings.settings({})
    estate.project.deploy()
    before = _served(estate)
    settings.settings(bad)
    estate.fails(*lines)
    assert _served(estate) == before
    settings.settings(_CORRECTED)
    assert len(estate.repairs()) == len(_CORRECTED) * 2
    after = _served(estate)
    assert [after[name] for name in ("postgres", "redis")] == [
        (before["postgres"][0], "on"),
        (before["redis"][0], "hz\n20"),
    ]
    assert after["pgbouncer"] == (before["pgbouncer"][0], "21")


# --- What one thing must not keep from others -----------------------------------------------------

_BROKEN = """
cd /usr/share/postgresql/15/extension
echo "CREATE FUNCTION broken() RETURNS int AS '\\$libdir/broken' LANGUAGE C" >broken--1.0.sql
echo "default_version = '1.0'" >broken.control
"""


def test_an_extension_that_cannot_be_created_keeps_nothing_else_waiting(
    estate: Estate, settings: Project
) -> None:
    """Its package is there, and not whole: the new database is served, and has the others."""
    db = estate.host("db1")
    shop = {"owner": "psscript", "extensions": ["broken", "citext"]}
    databases = {"psscript": {"owner": "psscript"}, "shop": shop}
    settings.settings({"postgres_databases": databases, "pgbouncer_default_pool_size": 21})
    db.run(_BROKEN)
    for _ in range(2):
        estate.fails(("[db1]", "extension broken in shop: could not access file", "broken"))
        assert _pool_size(estate) == "21"
        found = "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension"
        assert admin(db, found, "shop") == "citext pg_stat_statements plpgsql"
        secret = estate.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        assert (
            said(psql(db, "SELECT current_database()", password=secret, database="shop")) == "shop"
        )
        drift = settings.drift()
        assert (drift.code, "extension broken in shop: create" in drift.stdout) == (2, True)
    db.run("echo 'CREATE TABLE whole ()' >/usr/share/postgresql/15/extension/broken--1.0.sql")
    assert estate.repairs() == {("PostgreSQL: roles and databases", "db1")}
    admin(db, "DROP DATABASE shop WITH (FORCE)", "postgres")
    db.run("rm /usr/share/postgresql/15/extension/broken*")


# --- Somebody's hands ----------------------------------------------------------------------------


def test_what_hands_have_done_is_undone(estate: Estate, settings: Project) -> None:
    db, cache = estate.host("db1"), estate.host("cache1")
    settings.settings({})
    estate.project.deploy()
    untouched = main_process(db, "postgresql@15-main"), main_process(db, "pgbouncer")
    db.run("echo 'default_pool_size = 3' >>/etc/pgbouncer/pgbouncer.ini")
    db.run("systemctl disable pgbouncer")
    admin(db, "DROP FUNCTION pgbouncer.user_lookup(text)")
    cache.run("systemctl stop redis-6379")
    assert estate.repairs() == {
        ("PostgreSQL: roles and databases", "db1"),
        ("PgBouncer: configuration", "db1"),
        ("PgBouncer: service", "db1"),
        ("Redis: service", "cache1"),
    }
    assert db.run("systemctl is-enabled pgbouncer").stdout.strip() == "enabled"
    assert _pool_size(estate) == "25"
    assert (main_process(db, "postgresql@15-main"), main_process(db, "pgbouncer")) == untouched
    assert Stack(db, estate.secrets).sql("SELECT 1") == "1"
    assert _maxmemory(estate) == str(512 * 1024**2)


def test_an_edit_that_was_loaded_is_unloaded(estate: Estate, settings: Project) -> None:
    db = estate.host("db1")
    settings.settings({})
    estate.project.deploy()
    before = main_process(db, "postgresql@15-main"), main_process(db, "pgbouncer")
    db.run(
        "echo 'default_pool_size = 3' >>/etc/pgbouncer/pgbouncer.ini; systemctl reload pgbouncer"
    )
    etc = "/etc/postgresql/15/main"
    db.run(f"echo \"lock_timeout = '3s'\" >>{etc}/conf.d/datatier.conf")
    db.run("systemctl reload postgresql@15-main")
    eventually(lambda: _loaded(estate, "3", "3s"), 10)
    estate.repairs()
    _loaded(estate, "25", "10s")
    assert (main_process(db, "postgresql@15-main"), main_process(db, "pgbouncer")) == before


def _loaded(estate: Estate, pool_size: str, lock_timeout: str) -> None:
    assert _pool_size(estate) == pool_size
    assert admin(estate.host("db1"), "SHOW lock_timeout") == lock_timeout
