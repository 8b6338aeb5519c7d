"""Story: Redis of a deployed estate, backed up and restored by the scripts on its hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from redis import Redis as Client
from redis import exceptions

from backup.config import Endpoint
from tests.e2e import proof, redis_estate
from tests.e2e.project import Project
from tests.e2e.proof import Done, command_lines
from tests.e2e.redis_estate import Data
from tests.e2e.wait import eventually
from tests.lab import Host, Lab
from tests.lab.images import Release

RELEASES: tuple[Release, ...] = ("debian12", "debian13")
NODES = (6379, 6380, 6381)
SENTINELS = (26379, 26380, 26381)
PASSPHRASE = "canary of the passphrase 'in' \"quotes\""
LATEST = "/backups/redis/redis_LATEST.rdb.gz"
# Time to do something while a dump is being taken.
SLOW_SECONDS = 6

encrypted = pytest.mark.parametrize("bare", ["debian12"], indirect=True)
plain = pytest.mark.parametrize("bare", ["debian13"], indirect=True)


@dataclass(frozen=True)
class Site:
    """Three instances and three Sentinels on one host, backed up by it or by another one."""

    project: Project
    caches: Host
    vault: Host
    encrypted: bool
    deployment: str = field(repr=False)

    @property
    def password(self) -> str:
        """The password of Redis and Sentinel."""
        return self.project.secrets["REDIS_PASSWORD"]

    @property
    def latest(self) -> str:
        """The link to the newest snapshot."""
        return f"{LATEST}.gpg" if self.encrypted else LATEST

    def place(self, port: int) -> Endpoint:
        """Where an instance or a Sentinel listens."""
        return Endpoint(self.caches.address, port)

    def client(self, port: int) -> Client:
        """A client of an instance."""
        return Client(self.caches.address, port, password=self.password, decode_responses=True)

    def script(self, line: str, *, code: int = 0) -> Done:
        """Runs one of the scripts; it must end with this exit code."""
        done = self.vault.run(f"/scripts/{line}", check=False, timeout=180)
        assert done.returncode == code, done.stderr
        return done

    def back_up(self) -> dict[str, Any]:
        """Takes a snapshot; returns the manifest of what is the newest then."""
        before = self.artifacts()
        self.script("redis-backup.sh")
        (name,) = set(self.artifacts()) - set(before)
        assert self.vault.run(f"readlink {self.latest}").stdout.strip() == name
        manifest: dict[str, Any] = json.loads(
            self.vault.run(f"cat /backups/redis/{name}.manifest.json").stdout
        )
        return manifest

    def restore(self, options: str = "") -> None:
        """Restores the newest snapshot."""
        self.script(f"restore-redis.sh {options} {self.latest}")

    def artifacts(self) -> dict[str, str]:
        """Finished snapshots and the sha256 that each has now."""
        command = "cd /backups/redis && find . -type f -name 'redis_*.gz*' -exec sha256sum {} +"
        rows = [line.split("  ./") for line in self.vault.run(command).stdout.splitlines()]
        return {name: digest for digest, name in rows if not name.endswith(".manifest.json")}

    def sentinels(self) -> list[dict[str, str]]:
        """What every Sentinel knows, without what changes by itself."""
        keys = ("ip", "port", "flags", "config-epoch", "down-after-milliseconds", "num-slaves")
        rows = [proof.sentinel_master(self.caches, port, self.password) for port in SENTINELS]
        return [{key: row[key] for key in keys} for row in rows]

    def master(self) -> int:
        """The port of the master by the word of all Sentinels."""
        (port,) = {row["port"] for row in self.sentinels()}
        return int(port)

    def fill(self, mark: str, count: int = 1000) -> Data:
        """Puts keys that bear a mark in the place of all others; returns them, once level."""
        redis_estate.fill(self.place(self.master()), self.password, mark, count)
        return self.level()

    def data(self, port: int) -> Data:
        """What an instance holds; none that answers is an AssertionError."""
        try:
            return redis_estate.data(self.place(port), self.password)
        except exceptions.RedisError as error:
            raise AssertionError(f"{port}: {error}") from None

    def level(self) -> Data:
        """Waits until all instances hold the same; returns it."""
        eventually(lambda: self.check_data(self.data(self.master())), 30)
        return self.data(self.master())

    def check_data(self, wanted: Data) -> None:
        """Asserts that every instance holds exactly this."""
        for port in NODES:
            found = self.data(port)
            assert found.keys() == wanted.keys(), port
            assert found == wanted, port

    def check_whole(self) -> None:
        """Asserts that everything is there, replicates, and is known to every Sentinel."""
        for port in SENTINELS:
            proof.check_quorum(self.caches, port, self.password)
        roles = [proof.replication(self.caches, port, self.password) for port in NODES]
        assert [role["role"] for role in roles].count("master") == 1
        assert {role.get("master_link_status", "up") for role in roles} == {"up"}

    def units(self, verb: str, *ports: int) -> None:
        """Lets systemd do something with instances and Sentinels."""
        names = [f"redis-{'sentinel-' * (port in SENTINELS)}{port}" for port in ports]
        self.caches.run(f"systemctl {verb} {' '.join(names)}")


@pytest.fixture(scope="module")
def sites(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    """One Debian 12 host for all of it, encrypted; on Debian 13 the backups have their own."""
    project = {release: Project(tmp_path_factory.mktemp(release)) for release in RELEASES}
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda release: _deploy(lab, project[release], release), RELEASES)
        return dict(zip(RELEASES, made, strict=True))


def _deploy(lab: Lab, project: Project, release: Release) -> Site:
    alone = release == "debian12"
    caches = lab.installed_host(f"cache-{release}", release)
    vault = caches if alone else lab.installed_host(f"backup-{release}", release)
    # The default waits five seconds for more replicas before every dump.
    project.settings({"redis_extra": {"repl-diskless-sync-delay": 1}})
    project.inventory(_groups(caches, vault))
    if alone:
        secrets = project.directory / ".env"
        secrets.write_text(f"BACKUP_ENCRYPTION_PASSPHRASE={json.dumps(PASSPHRASE)}\n")
        secrets.chmod(0o600)
    first = project.deploy("deploy.py", "-vvv", "--diff")
    return Site(project, caches, vault, alone, first.output)


def _groups(caches: Host, vault: Host) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    rows = {
        "redis": (caches, {"redis_ports": list(NODES)}),
        "sentinel": (caches, {"sentinel_ports": list(SENTINELS)}),
        "backup": (vault, {}),
    }
    return {
        group: [(host.name, {**host.ssh_data(), "address": host.address, **data})]
        for group, (host, data) in rows.items()
    }


@pytest.fixture(params=RELEASES)
def bare(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """One of the sites, for what changes who is master."""
    return sites[request.param]


@pytest.fixture
def site(bare: Site) -> Iterator[Site]:
    """The site with known data; afterwards whole, with settings as they were and no failover."""
    eventually(bare.check_whole, 30)
    bare.fill("old")
    before = bare.sentinels()
    assert {row["down-after-milliseconds"] for row in before} == {"5000"}
    yield bare
    eventually(bare.check_whole, 30)
    assert bare.sentinels() == before


@dataclass(frozen=True)
class Outage:
    """A site where nothing of Redis runs, and a backup that has begun there."""

    site: Site
    before: dict[str, str]
    running: Future[Done]


@pytest.fixture(scope="module")
def outage(sites: dict[str, Site]) -> Iterator[Outage]:
    """The last story of the Debian 12 site; its minute of waiting goes by during others."""
    site = sites["debian12"]
    site.units("stop", *NODES, *SENTINELS)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(partial(site.script, "redis-backup.sh", code=1))
        yield Outage(site, site.artifacts(), running)


@contextmanager
def _background(site: Site, line: str, *, code: int = 0) -> Iterator[Future[Done]]:
    """Runs a script beside the block, which begins when the dump is being taken."""
    for port in NODES:
        site.client(port).config_set("repl-diskless-sync-delay", SLOW_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(partial(site.script, line, code=code))
        try:
            eventually(lambda: _dumping(site), 20)
            yield running
            running.result()
        finally:
            eventually(site.check_whole, 30)
            for port in NODES:
                site.client(port).config_set("repl-diskless-sync-delay", 1)


def _dumping(site: Site) -> int:
    """The port of the instance that a dump is being taken from."""
    done = site.vault.run("pgrep -ax redis-cli", check=False)
    words = done.stdout.split()
    assert "--rdb" in words
    return int(words[words.index("-p") + 1])


# --- There and back -------------------------------------------------------------------------------


def test_second_run_changes_nothing(site: Site) -> None:
    """Nothing is done twice."""
    assert site.project.deploy().changed == set()


def test_comes_back_exactly_and_survives_restarts(site: Site) -> None:
    """Keys deleted, added and altered since are as they were, on every node and after a restart."""
    wanted = site.level()
    manifest = site.back_up()
    assert manifest["facts"]["role"] == "replica"
    assert manifest["facts"]["keys"] == len(wanted)
    client = site.client(site.master())
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.delete("old:1", "hash:3") == 2
    client.set("new", "since")
    client.rpush("list:4", "since")
    client.persist("session:1")
    assert site.level() != wanted
    site.restore()
    site.check_data(wanted)
    for port in NODES:
        refused = site.client(port).acl_log()
        assert [each for each in refused if "datatier-" in str(each["username"])] == []
    for port in (*NODES, *SENTINELS):
        site.units("restart", port)
        eventually(site.check_whole, 30)
        eventually(lambda: site.check_data(wanted), 10)


def test_what_has_expired_since_the_dump_is_no_damage(site: Site) -> None:
    """Keys and, with Redis 8, fields of hashes, the last of which takes its key with it."""
    lasting = site.level()
    client = site.client(site.master())
    knows_fields = str(client.info("server")["redis_version"]).startswith("8.")
    end = int(time.time() * 1000) + 12000
    for number in range(30):
        client.set(f"key:{number}", "passing", pxat=end)
        if knows_fields:
            client.hset(f"whole:{number}", mapping={"a": "1", "b": "2"})
            client.hpexpireat(f"whole:{number}", end, "a", "b")
            client.hset(f"part:{number}", mapping={"a": "1", "b": "2"})
            client.hpexpireat(f"part:{number}", end, "a")
    facts = site.back_up()["facts"]
    assert facts["keys"] == len(lasting) + (90 if knows_fields else 30)
    time.sleep(max(0, end / 1000 + 1 - time.time()))
    site.script("backup.sh verify")
    site.script("backup.sh drill")
    site.restore()
    parts = {f"0:part:{number}": ({"b": "2"}, False) for number in range(30)}
    site.check_data(lasting | (parts if knows_fields else {}))


@encrypted
def test_gpg_alone_opens_an_encrypted_snapshot(site: Site) -> None:
    """Whoever has the passphrase needs none of our programs; nobody else finds it."""
    with command_lines([site.vault]) as lines:
        name = site.back_up()["name"]
        site.restore()
    assert name.endswith(".rdb.gz.gpg")
    opened = "gpg --batch --quiet --pinentry-mode loopback --passphrase-fd 0 -d"
    script = f"{opened} /backups/redis/{name} | gunzip >/tmp/opened.rdb"
    site.vault.run(script, stdin=PASSPHRASE + "\n")
    said = site.vault.run("redis-check-rdb /tmp/opened.rdb; rm /tmp/opened.rdb").stdout
    assert "RDB looks OK" in said and f"{len(site.level())} keys read" in said
    words = [PASSPHRASE, json.dumps(PASSPHRASE), site.password]
    seen = lines.by_host[site.vault.name]
    assert "redis-backup.sh" in seen and "restore-redis" in seen
    journal = site.vault.run("journalctl -q --no-pager -a").stdout
    for place in (seen, journal, site.deployment):
        assert [word for word in words if word in place] == []
    assert proof.readers(site.vault, "nobody", words, "/etc", "/backups", "/var", "/tmp") == []
    assert proof.readers(site.vault, "root", words, "/backups", "/var/log", "/tmp") == []
    assert proof.readers(site.vault, "root", words, "/etc/datatier") != []


# --- Kills ----------------------------------------------------------------------------------------

_KILLS = """
for moment in 0.3 0.7 1.1 1.5 1.9 2.3; do
  /scripts/redis-backup.sh 2>/dev/null & sleep $moment
  kill -9 $! 2>/dev/null; wait $!; echo $?
done
"""


@encrypted
def test_a_killed_backup_leaves_no_final_name(site: Site) -> None:
    """Whatever the moment: what was there is intact, and what has a name passes every check."""
    site.back_up()
    before = site.artifacts()
    codes = site.vault.run(_KILLS).stdout.split()
    assert len(codes) == 6 and set(codes) <= {"137", "0"} and codes.count("137") >= 3
    after = site.artifacts()
    assert before.items() <= after.items()
    assert len(after) - len(before) <= codes.count("0") + 1
    site.script("backup.sh verify")
    site.back_up()
    assert site.vault.run("find /backups/redis -name '.redis_*'").stdout == ""


# --- Who is master --------------------------------------------------------------------------------


@plain
@pytest.mark.usefixtures("outage")
def test_only_a_master_is_running(site: Site) -> None:
    """What the complete recovery of the manual starts; the others take the data when they come."""
    wanted = site.level()
    leader = site.master()
    others = [port for port in (*NODES, *SENTINELS) if port != leader]
    site.units("stop", *others)
    try:
        assert site.back_up()["facts"]["role"] == "master"
        redis_estate.fill(site.place(leader), site.password, "new", 10)
        site.restore()
        assert site.data(leader) == wanted
    finally:
        site.units("start", *others)
    eventually(site.check_whole, 60)
    eventually(lambda: site.check_data(wanted), 30)


@plain
def test_after_a_failover_the_right_nodes_are_asked(bare: Site) -> None:
    """The snapshot is of a replica of the new master, and the restore goes to that one."""
    site, old = bare, bare.master()
    wanted = site.fill("old")
    site.units("stop", old)
    eventually(lambda: _check_promoted(site, old), 40)
    site.units("start", old)
    eventually(site.check_whole, 60)
    eventually(lambda: site.check_data(wanted), 30)
    new, before = site.master(), site.sentinels()
    facts = site.back_up()["facts"]
    assert facts["master"] == str(site.place(new))
    assert (facts["role"], facts["source"] == facts["master"]) == ("replica", False)
    site.fill("new", 10)
    site.restore()
    site.check_data(wanted)
    eventually(site.check_whole, 30)
    assert (site.master(), site.sentinels()) == (new, before)


def _check_promoted(site: Site, old: int) -> None:
    ports = {row["port"] for row in site.sentinels()}
    assert len(ports) == 1 and ports != {str(old)}
    role = proof.replication(site.caches, int(ports.pop()), site.password)
    assert role["role"] == "master"


@plain
def test_where_the_master_comes_to_can_be_chosen(site: Site) -> None:
    """A fixed port, for firewalls; an address that is not this host's changes nothing."""
    wanted = site.level()
    site.back_up()
    live = site.fill("new", 10)
    done = site.script(f"restore-redis.sh --address 192.0.2.1 {site.latest}", code=1)
    assert "192.0.2.1" in done.stderr.splitlines()[-1]
    site.check_data(live)
    site.restore(f"--address {site.vault.address} --port 7777")
    site.check_data(wanted)
    log = site.caches.run("journalctl -q --no-pager -u 'redis-63*'").stdout
    assert f"MASTER {site.vault.address}:7777" in log


# --- Damage ---------------------------------------------------------------------------------------

# Runs on the backup host: damages the newest snapshot in many ways and tries to restore each.
_DAMAGES = r"""
import gzip, hashlib, json, pathlib, random, subprocess, sys
directory = pathlib.Path("/backups/redis")
other, path = (directory / name for name in sys.argv[1:])
beside = lambda p: p.with_name(p.name + ".manifest.json")
files = [other, path, beside(other), beside(path)]
good = {p: p.read_bytes() for p in files}
content, manifest = good[path], json.loads(good[beside(path)])
foreign = random.Random(7).randbytes(3000)

def flipped(data, at):
    at = int(at * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1:]

def write(data):
    path.write_bytes(data)

def say(**values):
    beside(path).write_text(json.dumps({**manifest, **values}))

def signed(data):
    write(data)
    say(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

def swap(one, two):
    one.write_bytes(good[two])
    two.write_bytes(good[one])

plain = gzip.decompress(content)
cases = {f"flip {at}": lambda at=at: write(flipped(content, at))
         for at in (0, .005, .05, .15, .3, .45, .6, .75, .9, .98, 1)}
cases |= {f"cut {at}": lambda at=at: write(content[:int(at * len(content))])
          for at in (0, .01, .2, .5, .8, .999)}
cases |= {f"flip inside {at}": lambda at=at: signed(gzip.compress(flipped(plain, at)))
          for at in (0, .1, .35, .65, .85, 1)}
cases |= {
    "cut inside": lambda: signed(gzip.compress(plain[:-50])),
    "nothing inside": lambda: signed(gzip.compress(b"")),
    "cut and signed": lambda: signed(content[:-30]),
    "garbage": lambda: signed(foreign),
    "garbage inside": lambda: signed(gzip.compress(foreign)),
    "RDB of a newer format": lambda: signed(gzip.compress(b"REDIS0099" + plain[9:])),
    "another estate's data": lambda: write(gzip.compress(b"REDIS0009\xff" + bytes(8))),
    "longer": lambda: write(content + b"x"),
    "no manifest": beside(path).unlink,
    "empty manifest": lambda: beside(path).write_text(""),
    "manifest of another": lambda: beside(path).write_bytes(good[beside(other)]),
    "manifests swapped": lambda: swap(beside(path), beside(other)),
    "files swapped": lambda: swap(path, other),
    "fewer keys": lambda: say(facts={**manifest["facts"], "keys": 1}),
    "newer server": lambda: say(facts={**manifest["facts"], "redis_version": "99.0.0"}),
    "another sha256": lambda: say(sha256="0" * 64),
    "another name": lambda: say(name=other.name),
    "another kind": lambda: say(kind="full"),
    "gone": path.unlink,
}
said = {}
for name, damage in cases.items():
    damage()
    done = subprocess.run(["/scripts/restore-redis.sh", str(path)], capture_output=True, text=True)
    said[name] = done.returncode, done.stderr
    for p, data in good.items():
        p.write_bytes(data)
print(json.dumps(said))
"""


@plain
def test_refuses_whatever_is_damaged_and_touches_nothing(site: Site) -> None:
    """Every damaged artifact is one exit 1 and one reason, before a server is spoken to."""
    other, path = site.back_up()["name"], site.back_up()["name"]
    live = site.fill("new", 10)
    replids = _replids(site)
    done = site.vault.run(f"python3 - {other} {path}", stdin=_DAMAGES, timeout=300)
    said = json.loads(done.stdout)
    assert len(said) >= 30
    for name, (code, stderr) in said.items():
        assert code == 1, f"{name}: {stderr}"
        last = stderr.splitlines()[-1]
        assert "FAILED: " in last and "[info]" not in last and "Terminating" not in last, last
        assert "Sentinels are told" not in stderr, name
    site.check_data(live)
    assert _replids(site) == replids
    site.restore()
    assert _replids(site) != replids


def _replids(site: Site) -> list[str]:
    roles = [proof.replication(site.caches, port, site.password) for port in NODES]
    return [role["master_replid"] for role in roles]


# --- Trouble --------------------------------------------------------------------------------------


@plain
def test_a_second_one_says_so_and_does_nothing(site: Site) -> None:
    """Neither a backup nor a restore begins while a backup is running."""
    site.back_up()
    for line in ("redis-backup.sh", f"restore-redis.sh {site.latest}"):
        # One for each: on a slow machine the first would be over before the last has begun.
        with _background(site, "redis-backup.sh"):
            assert "another redis job is running" in site.script(line, code=75).stderr


@plain
def test_a_replica_that_dies_while_it_is_dumped(site: Site) -> None:
    """One failure with a reason, and what was there is what is there."""
    site.back_up()
    before = site.artifacts()
    with _background(site, "redis-backup.sh", code=1) as running:
        port = _dumping(site)
        site.units("kill -s KILL", port)
        last = running.result().stderr.splitlines()[-1]
    assert f"FAILED: dump from {site.place(port)}: redis-cli exited with" in last
    assert site.artifacts() == before


# As soon as the last Sentinel is told to wait.
_KILL_RESTORE = """
IFS= read -r REDISCLI_AUTH; export REDISCLI_AUTH
/scripts/restore-redis.sh {file} >/dev/null 2>&1 &
while kill -0 $! && ! redis-cli -u redis://{place} SENTINEL MASTER mymaster | grep -qx 3600000
do :; done
kill -9 $!; wait $!; echo $?
"""


@plain
def test_an_interrupted_restore_is_repaired_by_the_health_check(site: Site) -> None:
    """A kill leaves the Sentinels waiting for an hour; the next check ends that."""
    wanted = site.level()
    site.back_up()
    live = site.fill("new", 10)
    kill = _KILL_RESTORE.format(file=site.latest, place=site.place(SENTINELS[-1]))
    assert site.vault.run(kill, stdin=f"{site.password}\n").stdout.split() == ["137"]
    assert {row["down-after-milliseconds"] for row in site.sentinels()} == {"3600000"}
    # Its exit code is not known: the replicas may still be fetching what the master has.
    done = site.vault.run("/scripts/health-check.sh", check=False, timeout=120)
    assert "ok        redis-restore: what an interrupted one left is undone" in done.stdout
    assert {row["down-after-milliseconds"] for row in site.sentinels()} == {"5000"}
    assert site.level() in (wanted, live)
    assert "none was interrupted" in site.script("health-check.sh").stdout


def test_nothing_of_redis_is_running(outage: Outage) -> None:
    """A backup waits a minute for somebody to become master, then it says that nobody has."""
    last = outage.running.result().stderr.splitlines()[-1]
    assert "FAILED: no majority of Sentinels names a master" in last
    assert outage.site.artifacts() == outage.before
    assert "CRITICAL  redis " in outage.site.script("health-check.sh", code=2).stdout
