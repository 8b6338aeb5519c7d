"""Story: six plain hosts over TLS; what a run changes there, and what it leaves to Sentinel."""

from __future__ import annotations

import base64
import json
import random
import re
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tasks.tls import authority
from tasks.tls.probes import ROOT as TLS
from tests import authorities
from tests.e2e import applications, proof, strangers, website
from tests.e2e.applications import Application
from tests.e2e.backups import amid_a_full
from tests.e2e.project import Project, Run
from tests.e2e.proof import CommandLines, command_lines, processes, said
from tests.e2e.redis_writers import Either
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.e2e.wire import Wire, listening
from tests.lab import Host, Lab
from tests.lab.images import Release

RELEASES: Mapping[str, Release] = {
    "db1": "debian12",
    "pool1": "debian13",
    "backup1": "debian12",
    "cache1": "debian12",
    "cache2": "debian12",
    "cache3": "debian12",
}
CACHES = ("cache1", "cache2", "cache3")
# They get what cache1 gets; its packages are those that a run installs.
INSTALLED = CACHES[1:]
CANARIES = {
    "POSTGRES_PASSWORD": "canary-of-the-superuser-1",
    "POSTGRES_ROLE_PSSCRIPT_PASSWORD": "canary-of-the-role-2",
    "REDIS_PASSWORD": "canary-of-redis-3",
    "TLS_CA_SECRET": "canary-of-the-authority-4",
    "REDIS_USER_CACHE_PASSWORD": "canary-of-the-cache-5",
}
# All clients come with TLS; one has the keys of a cache and no more.
BASE = {
    "tls_enabled": True,
    "pgbouncer_client_tls": "require",
    "apps": [website.WEBSITE],
    "redis_users": {"cache": applications.documented_users()["cache"]},
}
TASKS = [
    f"tasks.{component}.{verb}"
    for component in ("postgres", "pgbouncer", "redis", "sentinel", "backup")
    for verb in ("deploy", "install", "configure", "activate")
] + ["tasks.health.verify"]
# An order that nobody thought of, the same in every run of the tests.
random.Random(20).shuffle(TASKS)

Changes = set[tuple[str, str]]


@dataclass
class Estate:
    """The hosts, the project that deploys to them, and the choices made so far."""

    hosts: Mapping[str, Host]
    project: Project
    plan: Run
    first: Run
    lines: CommandLines
    choices: dict[str, Any] = field(default_factory=dict)

    @property
    def password(self) -> str:
        """The password of Redis and Sentinel."""
        return CANARIES["REDIS_PASSWORD"]

    def choose(self, **choices: Any) -> None:
        """States choices in group_data, beside those made before."""
        self.choices.update(choices)
        self.project.settings({**BASE, **self.choices})

    def sql(self, statement: str) -> str:
        """What the application's role is answered through the pooler, from another host."""
        address = self.hosts["pool1"].address
        password = CANARIES["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        pool1 = self.hosts["pool1"]
        return said(proof.psql(pool1, statement, password=password, address=address, tls=True))

    def redis(self, name: str, *words: str) -> str:
        """What the instance on a host answers."""
        host = self.hosts[name]
        return said(proof.redis(host, 6379, *words, password=self.password, tls=True))

    def replication(self, name: str) -> dict[str, str]:
        """INFO replication of the instance on a host."""
        return proof.replication(self.hosts[name], 6379, self.password, tls=True)

    def watched(self, name: str) -> dict[str, str]:
        """What the Sentinel on a host knows of the master."""
        return proof.sentinel_master(self.hosts[name], 26379, self.password, tls=True)

    def processes(self) -> dict[str, proof.Process]:
        """The main process of every service of the estate."""
        return processes(list(self.hosts.values()))

    def master_according_to(self, name: str) -> str:
        """The host that a host's Sentinel says is the master."""
        seen = self.watched(name)
        return next(host.name for host in self.hosts.values() if host.address == seen["ip"])

    def check_master(self, master: str, *, down: str = "") -> None:
        """Asserts that the instances and the Sentinels that are up agree on who leads."""
        up = [name for name in CACHES if name != down]
        assert {name: self.master_according_to(name) for name in up} == dict.fromkeys(up, master)
        roles = {name: self.replication(name) for name in up}
        assert roles.pop(master)["role"] == "master"
        for role in roles.values():
            followed = role.get("master_host"), role.get("master_link_status")
            assert followed == (self.hosts[master].address, "up"), role

    def check_whole(self, master: str) -> None:
        """Asserts that all three instances and Sentinels work together."""
        self.check_master(master)
        for name in CACHES:
            proof.check_quorum(self.hosts[name], 26379, self.password, tls=True)


def _groups(
    hosts: Mapping[str, Host], **further: Mapping[str, Any]
) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """The inventory; `further` is data of single hosts."""
    data = {
        name: {**host.ssh_data(), "address": host.address, **further.get(name, {})}
        for name, host in hosts.items()
    }
    members = {
        "postgres": ["db1"],
        "pgbouncer": ["pool1"],
        "redis": CACHES,
        "sentinel": CACHES,
        "backup": ["backup1"],
        "apps": ["backup1"],
    }
    return {group: [(name, data[name]) for name in names] for group, names in members.items()}


def _boot(lab: Lab) -> dict[str, Host]:
    def boot(name: str, release: Release) -> Host:
        return (lab.installed_host if name in INSTALLED else lab.host)(name, release)

    with ThreadPoolExecutor() as pool:
        return {host.name: host for host in pool.map(boot, RELEASES, RELEASES.values())}


@pytest.fixture(scope="module")
def wire(lab: Lab) -> Iterator[Wire]:
    """All that the hosts tell each other, from the first run on."""
    with listening(lab) as told:
        yield told


@pytest.fixture(scope="module")
def estate(lab: Lab, project: Project, wire: Wire) -> Estate:
    """Six hosts, most of them bare, planned and deployed with secrets that one can search for."""
    hosts = _boot(lab)
    project.inventory(_groups(hosts))
    secrets = project.directory / ".env"
    secrets.write_text("".join(f"{name}={value}\n" for name, value in CANARIES.items()))
    secrets.chmod(0o600)
    project.settings(BASE)
    website.put(hosts["backup1"])
    plan = project.plan()
    with command_lines(list(hosts.values())) as lines:
        first = project.deploy("deploy.py", "-vvv", "--diff")
    return Estate(hosts, project, plan, first, lines)


def test_first_run_does_what_the_dry_run_said(estate: Estate) -> None:
    """The plan of six hosts names every operation that then changed something."""
    assert len(estate.first.changed) > 20
    assert estate.plan.planned == estate.first.changed
    assert {host for _, host in estate.first.changed} == set(RELEASES)


def test_the_estate_serves(estate: Estate) -> None:
    """SQL over the network through the pooler; one master, two replicas, three Sentinels."""
    assert estate.sql("SELECT inet_server_addr()") == estate.hosts["db1"].address
    estate.check_whole("cache1")
    website.check(estate.hosts["backup1"])
    estate.redis("cache1", "SET", "kept", "from the start")
    eventually(lambda: _check_kept(estate), 5)


def test_no_service_answers_in_clear(estate: Estate) -> None:
    """Instances, Sentinels and the pooler refuse whom they would let in over TLS."""
    for name in CACHES:
        for port in (6379, 26379):
            done = proof.redis(estate.hosts[name], port, "PING", password=estate.password)
            assert done.returncode != 0 and "PONG" not in done.stdout, (name, port)
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        psycopg.connect(_url(estate), sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(_url(estate), sslmode="verify-full", sslrootcert="system")


# Python says so of each TLS version that no server may speak.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_nobody_may_is_refused(estate: Estate, tmp_path: Path) -> None:
    """By this machine, which is in no group, with the right passwords and with wrong ones."""
    servers = _servers(estate, tmp_path)
    for request in strangers.allowed():
        assert request.accepted(servers) is None, request.name
    # Most of the time goes by in waits of the servers for who has no right.
    with ThreadPoolExecutor(8) as pool:
        asked = {each.name: pool.submit(each.accepted, servers) for each in strangers.requests()}
        every = {name: answer.result() for name, answer in asked.items()}
    assert len(every) > 200
    assert {name: said for name, said in every.items() if said is not None} == {}
    estate.check_whole("cache1")


def _servers(estate: Estate, directory: Path) -> strangers.Servers:
    """Where a stranger finds the estate's servers, who has got its file of the authority."""
    verifying = directory / "ca.pem"
    verifying.write_text(estate.hosts["cache1"].run(f"cat {proof.AUTHORITY}").stdout)
    return strangers.Servers(
        postgres=estate.hosts["db1"].address,
        pooler=estate.hosts["pool1"].address,
        cache=estate.hosts["cache1"].address,
        replica=estate.hosts["cache2"].address,
        authority=str(verifying),
        secrets=estate.project.secrets,
    )


# Where pgBackRest's servers listen, who has the key that each trusts, and what that one asks.
_ARCHIVES = {
    "backup1": ("db1", "repo1", "info"),
    "db1": ("backup1", "pg1", "check --no-archive-check"),
}
_HOME = "/etc/datatier/pgbackrest"


def test_pgbackrest_knows_one_host_and_no_other(estate: Estate) -> None:
    """Not by a certificate of the estate, by one under the right name, or by one that is over."""
    for name, (client, side, order) in _ARCHIVES.items():
        asking = estate.hosts[client]
        own = load_pem_private_key(asking.run(f"cat {_HOME}/key.pem").stdout.encode(), None)
        names = [asking.address]
        foreign = authorities.make(asking.address, names=names)
        over = authorities.make(asking.address, names=names, days=(-20, -3), key=own)
        other = estate.hosts["cache1"]
        pairs = [(made.pem, made.secret()) for made in (foreign, over)]
        files = (other.run(f"cat {TLS}/redis/{file}.pem").stdout for file in ("certificate", "key"))
        pairs.append((next(files), next(files)))
        for certificate, key in pairs:
            said = _archive(asking, side, order, certificate, key)
            assert "alert unknown ca" in said, (name, said)
        mine = (asking.run(f"cat {_HOME}/{file}.pem").stdout for file in ("certificate", "key"))
        assert "TLS" not in _archive(asking, side, order, next(mine), next(mine))
        place = f"{estate.hosts[name].address}:8432"
        talk = f"openssl s_client -tls1_1 -connect {place} </dev/null 2>&1"
        assert "Cipher is (NONE)" in asking.run(talk, check=False).stdout
    another = "cd /tmp; pgbackrest --stanza=other info"
    assert "access denied" in estate.hosts["db1"].run(another, user="postgres").stdout


def _archive(host: Host, side: str, order: str, certificate: str, key: str) -> str:
    """What pgBackRest of a host is answered that shows another certificate."""
    place = "/var/lib/postgresql/shown"
    host.run(
        f"install -d -o postgres -m 700 {place}; cat >{place}/certificate.pem", stdin=certificate
    )
    host.run(f"cat >{place}/key.pem; chown postgres {place}/*; chmod 600 {place}/*", stdin=key)
    shown = (
        f"--{side}-host-cert-file={place}/certificate.pem --{side}-host-key-file={place}/key.pem"
    )
    ask = f"cd /tmp; pgbackrest --stanza=psscript {shown} {order} 2>&1"
    said = host.run(ask, user="postgres", check=False).stdout
    host.run(f"rm -r {place}")
    return said


# Servers that show the certificate of their host, and the hosts.
_SHOWING = {"postgres": "db1", "pgbouncer": "pool1", "redis": "cache1"}


def test_what_has_expired_is_refused_told_and_renewed(estate: Estate, tmp_path: Path) -> None:
    """By clients, by the pooler, replicas and backups of the estate; nothing is lost meanwhile."""
    for service, name in _SHOWING.items():
        _expire(estate.hosts[name], service)
    db1, pool1, cache1 = (estate.hosts[name] for name in _SHOWING.values())
    db1.run("systemctl reload postgresql@15-main")
    pool1.run("systemctl restart pgbouncer")
    with redis.Redis(
        cache1.address, ssl=True, ssl_cert_reqs="none", password=estate.password
    ) as before:
        place = f"{TLS}/redis"
        before.config_set(
            "tls-cert-file", f"{place}/certificate.pem", "tls-key-file", f"{place}/key.pem"
        )
        before.execute_command("CLIENT KILL TYPE replica")
    cache1.run("systemctl restart redis-sentinel-26379")
    servers = _servers(estate, tmp_path)
    for at in ("PostgreSQL", "PgBouncer", "Redis", "Sentinel"):
        assert "certificate has expired" in strangers.handshake(servers, at=at), at
    # Who does not verify the pooler finds that the pooler verifies PostgreSQL.
    eventually(lambda: _has_no_server(servers), 10)
    eventually(lambda: _has_no_master(estate, "cache2"), 10)
    backup = estate.hosts["backup1"].run("/scripts/postgres-backup.sh full 2>&1", check=False)
    assert backup.returncode and "certificate verify failed" in backup.stdout
    backup = estate.hosts["backup1"].run("/scripts/redis-backup.sh 2>&1", check=False)
    assert backup.returncode and "certificate has expired" in backup.stdout
    table = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert table.code == 1
    for row in (
        r"pgbouncer +pool1 .*FAILS",
        r"redis-6379 +cache1 .*FAILS  clients refuse its certificate",
        r"redis-sentinel-26379 +cache1 .*FAILS  clients refuse its certificate",
        *(f"certificates +{name} .*FAILS .*has expired" for name in _SHOWING.values()),
    ):
        assert re.search(row, table.stdout), (row, table.stdout)
    run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert "not healthy: backup-service on backup1" in run.output
    estate.hosts["backup1"].run("/scripts/postgres-backup.sh full", timeout=180)
    assert estate.sql("SELECT 1") == "1"
    eventually(lambda: estate.check_whole("cache1"), 30)
    _check_kept(estate)


def _expire(host: Host, service: str) -> None:
    """The estate's authority has signed for a host's key long ago."""
    names = [host.address, "127.0.0.1", "::1", host.name]
    _sign(host, service, names, datetime.now(UTC) - timedelta(days=740))


def _sign(host: Host, service: str, names: Sequence[str], since: datetime) -> None:
    place = f"{TLS}/{service}"
    key = host.run(f"openssl pkey -in {place}/key.pem -pubout -outform DER | base64 -w0").stdout
    signed = authority.of(CANARIES["TLS_CA_SECRET"]).sign(base64.b64decode(key), names, since)
    host.run(f"cat >{place}/certificate.pem", stdin=signed)


def test_a_certificate_for_another_name_is_refused_and_put_right(
    estate: Estate, tmp_path: Path
) -> None:
    """By clients, by the pooler and by backups of the estate; Redis itself reads no names.

    docs/security.md says so of replicas and Sentinels.
    """
    for service, name in _SHOWING.items():
        _sign(estate.hosts[name], service, ["192.0.2.1", "other.example"], datetime.now(UTC))
    estate.hosts["db1"].run("systemctl reload postgresql@15-main")
    estate.hosts["pool1"].run("systemctl restart pgbouncer")
    place = f"{TLS}/redis"
    files = f"tls-cert-file {place}/certificate.pem tls-key-file {place}/key.pem"
    estate.redis("cache1", "CONFIG", "SET", *files.split())
    servers = _servers(estate, tmp_path)
    for at in ("PostgreSQL", "PgBouncer", "Redis"):
        assert "IP address mismatch" in strangers.handshake(servers, at=at), at
    eventually(lambda: _has_no_server(servers), 10)
    for job in ("postgres-backup.sh full", "redis-backup.sh"):
        done = estate.hosts["backup1"].run(f"/scripts/{job} 2>&1", check=False)
        assert done.returncode, job
        assert re.search("IP address mismatch|does not match host name", done.stdout), done.stdout
    # Replicas that come anew and Sentinels follow it still: the chain is the estate's.
    estate.redis("cache1", "CLIENT", "KILL", "TYPE", "replica")
    eventually(lambda: estate.check_whole("cache1"), 30)
    run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert "not healthy: backup-service on backup1" in run.output
    for job in ("postgres-backup.sh full", "redis-backup.sh"):
        estate.hosts["backup1"].run(f"/scripts/{job}", timeout=180)
    assert estate.sql("SELECT 1") == "1"
    eventually(lambda: estate.check_whole("cache1"), 30)
    assert estate.project.plan().planned == set()


def _has_no_server(servers: strangers.Servers) -> None:
    said = strangers.sql(servers, "SELECT 1", sslmode="require")
    assert "server login" in said or "certificate" in said, said


def _has_no_master(estate: Estate, name: str) -> None:
    assert estate.replication(name)["master_link_status"] == "down"


def _url(estate: Estate) -> str:
    password = CANARIES["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    return f"postgresql://psscript:{password}@{estate.hosts['pool1'].address}:6432/psscript"


def _check_kept(estate: Estate) -> None:
    kept = [estate.redis(name, "GET", "kept") for name in CACHES]
    assert kept == ["from the start"] * 3


def test_no_password_shows_while_deploying(estate: Estate) -> None:
    """Not in the output at -vvv with diffs, nor in the hosts' process lists."""
    assert ">>> " in estate.first.stderr and "+requirepass" in estate.first.stderr
    for name in RELEASES.keys() - {*INSTALLED}:
        assert "apt-get" in estate.lines.by_host[name]
    for place in (estate.first.output, *estate.lines.by_host.values()):
        assert [word for word in estate.project.secrets.values() if word in place] == []


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_no_password_can_be_read_by_others(estate: Estate, name: str) -> None:
    """An unprivileged user finds none in any file, root finds none in any log."""
    host, words = estate.hosts[name], list(estate.project.secrets.values())
    places = ("/etc", "/var", "/run", "/tmp", "/usr/local", "/home", "/opt", "/srv", "/dev/shm")
    assert proof.readers(host, "nobody", words, *places) == []
    if name not in ("db1", "backup1"):
        assert proof.readers(host, "root", words, "/etc") != []
    assert proof.readers(host, "root", words, "/var/log") == []
    journal = host.run("journalctl -q --no-pager -a").stdout
    assert journal and [word for word in words if word in journal] == []


def test_second_run_changes_nothing(estate: Estate) -> None:
    """Nothing is done twice, and nothing is planned."""
    before = estate.processes()
    assert estate.project.deploy().changed == set()
    assert estate.project.plan().planned == set()
    assert estate.processes() == before


@pytest.mark.parametrize("task", TASKS)
def test_a_task_alone_changes_nothing(estate: Estate, task: str) -> None:
    """Each verb of each component, in whatever order, on what is deployed already."""
    run = estate.project.deploy(task)
    assert '"name"' in run.stdout
    assert run.changed == set()


def test_limited_to_a_group_nothing_changes(estate: Estate) -> None:
    """A run on some of the hosts knows what it cannot see."""
    assert estate.project.deploy("deploy.py", "--limit", "redis").changed == set()


# Who does not connect to these ports: this machine, and hosts of other groups.
PORTS = {
    "db1": (5432, 8432),
    "pool1": (6432,),
    "backup1": (8432,),
    **dict.fromkeys(CACHES, (6379, 26379)),
}
STRANGERS = {"db1": "cache1", "pool1": "cache2", "backup1": "pool1", "cache1": "db1"}
# Who does, of the others.
FRIENDS = {
    "db1": ("pool1", "backup1"),
    "pool1": ("db1",),
    "backup1": ("db1",),
    "cache1": ("cache2", "cache3", "backup1"),
}
TABLE = "table inet datatier"


def _reached(estate: Estate) -> set[tuple[str, int]]:
    """The ports that take a connection from this machine."""
    reached = set()
    for name, port in [(name, port) for name, ports in PORTS.items() for port in ports]:
        with suppress(ConnectionRefusedError):
            socket.create_connection((estate.hosts[name].address, port), timeout=5).close()
            reached.add((name, port))
    return reached


def _connect(estate: Estate, client: str, name: str) -> subprocess.CompletedProcess[str]:
    """What a host says that connects to another one."""
    place = f"/dev/tcp/{estate.hosts[name].address}/{PORTS[name][0]}"
    return estate.hosts[client].run(f"bash -c ': <>{place}'", check=False)


def _encrypted(estate: Estate, name: str) -> ssl.SSLSocket:
    """A connection of this machine to the instance on a host."""
    host = estate.hosts[name]
    context = ssl.create_default_context(cadata=host.run(f"cat {proof.AUTHORITY}").stdout)
    plain = socket.create_connection((host.address, 6379), timeout=5)
    return context.wrap_socket(plain, server_hostname=host.address)


def test_strangers_reach_no_port(estate: Estate) -> None:
    """Behind the firewall the estate works, connections live on, and others connect as before."""
    every = {(name, port) for name, ports in PORTS.items() for port in ports}
    assert _reached(estate) == every
    estate.hosts["db1"].run("apt-get -qq install nftables && nft add table inet other")
    with _encrypted(estate, "cache1") as open_before:
        estate.choose(firewall_enabled=True)
        plan = estate.project.plan()
        assert plan.planned == estate.project.deploy().changed
        open_before.sendall(b"PING\r\n")
        assert open_before.recv(100)
    assert _reached(estate) == set()
    for name, stranger in STRANGERS.items():
        tried = _connect(estate, stranger, name)
        assert "Connection refused" in tried.stderr, (stranger, name)
    for name, friends in FRIENDS.items():
        for friend in friends:
            assert _connect(estate, friend, name).returncode == 0, (friend, name)
    estate.hosts["backup1"].run("/scripts/postgres-backup.sh full", timeout=180)
    assert estate.sql("SELECT inet_server_addr()") == estate.hosts["db1"].address
    estate.check_whole("cache1")
    estate.project.deploy("tasks.health.verify")
    assert "inet other" in estate.hosts["db1"].run("nft list tables").stdout


def test_a_port_that_moves_is_never_open(estate: Estate) -> None:
    """Neither the one of before, as long as the pooler has it, nor the new one."""
    place, project = estate.hosts["pool1"].address, estate.project
    with _knocking([(place, 6432), (place, 6433)]) as knocked:
        for port in (6433, 6432):
            estate.choose(pgbouncer_listen_port=port)
            plan = project.plan("deploy.py", "--limit", "pool1")
            assert ("Firewall: ports of before", "pool1") in plan.planned
            assert plan.planned == project.deploy("deploy.py", "--limit", "pool1").changed
    assert len(knocked) > 20 and set(knocked) == {False}
    assert _connect(estate, "db1", "pool1").returncode == 0
    assert project.plan().planned == set()


@contextmanager
def _knocking(places: Sequence[tuple[str, int]]) -> Iterator[list[bool]]:
    """Whether this machine was let in at one of these places, asked until the block ends."""
    knocked, done = list[bool](), threading.Event()

    def knock() -> None:
        while not done.wait(0.05):
            for place in places:
                with socket.socket() as client:
                    client.settimeout(5)
                    knocked.append(client.connect_ex(place) == 0)

    worker = threading.Thread(target=knock)
    worker.start()
    try:
        yield knocked
    finally:
        done.set()
        worker.join()


@pytest.mark.parametrize("name", ["db1", "pool1"])
def test_what_empties_the_kernel_leaves_ours(estate: Estate, name: str) -> None:
    """Debian's own unit takes all rules of all tables, from its first start on; ours are there."""
    host = estate.hosts[name]
    rules = host.run(f"nft list {TABLE}").stdout
    assert host.run("systemctl is-active nftables", check=False).stdout == "inactive\n"
    for act in ("start", "restart", "reload", "stop"):
        host.run(f"nft add table inet emptied && systemctl {act} nftables")
        assert "emptied" not in host.run("nft list tables").stdout
        assert host.run(f"nft list {TABLE}").stdout == rules, act
    assert estate.project.plan().planned == set()


# One server with one connection, in a network of its own with the rules of the host.
_UNTRACKED = r"""
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 6379))
client = socket.create_connection(server.getsockname())
there, _ = server.accept()
there.settimeout(5)
rules = open(sys.argv[1]).read().replace('iifname "lo" accept', "")
subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
client.send(b"still there")
print(there.recv(99).decode())
try:
    socket.create_connection(server.getsockname(), 5)
except ConnectionRefusedError:
    print("refused")
"""


def test_open_connections_stay_where_nothing_is_tracked(estate: Estate) -> None:
    """The kernel knows no connection of before: it tracks them since the first rule that asks."""
    for name in ("cache1", "pool1"):
        host = estate.hosts[name]
        alone = "unshare --net sh -c 'ip link set lo up; exec python3 - /etc/datatier/firewall.nft'"
        port = PORTS[name][0]
        talk = host.run(alone, stdin=_UNTRACKED.replace("6379", str(port)))
        assert talk.stdout.splitlines() == ["still there", "refused"], name


def test_an_address_that_rules_lead_to_another_server_is_a_row_of_the_table(
    estate: Estate,
) -> None:
    """Whoever answers there; what comes by another way would say that all is well."""
    led = {"cache2": (6379, 26379), "pool1": (6432, 22)}
    for name, (port, other) in led.items():
        estate.hosts[name].run(
            "nft add table ip other && nft 'add chain ip other o { type nat hook output priority"
            f" -100; }}' && nft add rule ip other o tcp dport {port} redirect to :{other}"
        )
    run = estate.project.pyinfra("inventory.py", "tasks.health.verify")
    for name in led:
        estate.hosts[name].run("nft delete table ip other")
    failing = [line.split()[:2] for line in run.stdout.splitlines() if "FAILS  another ser" in line]
    assert failing == [["pgbouncer", "pool1"], ["redis-6379", "cache2"]], run.stdout
    assert estate.project.pyinfra("inventory.py", "tasks.health.verify").code == 0


def test_rules_changed_by_hand_are_named_and_put_back(estate: Estate) -> None:
    """What the kernel has counts; other programs may empty it."""
    estate.hosts["cache1"].run(f"nft flush {TABLE}")
    estate.hosts["db1"].run("nft insert rule inet datatier input tcp dport 5432 accept")
    estate.hosts["pool1"].run("nft flush ruleset")
    assert estate.project.drift().code == 2
    plan = estate.project.plan()
    assert plan.planned == {("Firewall: rules", name) for name in ("cache1", "pool1", "db1")}
    said = " ".join(plan.stderr.split())
    assert "[db1] firewall: load (the kernel has 'tcp dport 5432 accept')" in said
    assert "[pool1] firewall: load (its table is missing)" in said
    assert "[cache1] firewall: load (the kernel lacks " in said
    assert estate.project.deploy().changed == plan.planned
    assert _reached(estate) == set()


# A host of each release, and the first of its units that listen to the network.
REBOOTED = {"db1": "postgresql@15-main", "pool1": "pgbouncer"}


def test_a_reboot_keeps_the_rules(estate: Estate) -> None:
    """They are there before there is a network, so before anything listens to it."""
    before = {name: estate.hosts[name].run(f"nft list {TABLE}").stdout for name in REBOOTED}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _reboot(estate.hosts[name]), REBOOTED))
    for name, unit in REBOOTED.items():
        host = estate.hosts[name]
        assert host.run(f"nft list {TABLE}").stdout == before[name]
        loaded = _moment(host, "ActiveEnter", "datatier-firewall")
        assert 0 < loaded <= _moment(host, "InactiveExit", "network-pre.target")
        assert loaded < _moment(host, "InactiveExit", unit)
    eventually(lambda: estate.sql("SELECT 1"), 60)
    assert _reached(estate) == set()
    assert estate.project.plan().planned == set()


def _reboot(host: Host) -> None:
    host.kill()
    host.start()


def _moment(host: Host, event: str, unit: str) -> int:
    """When systemd saw this of a unit, by its clock."""
    return int(host.run(f"systemctl show -P {event}TimestampMonotonic {unit}").stdout)


def test_strangers_reach_no_port_over_ipv6(estate: Estate) -> None:
    """By no kind of address; neighbors are found, ICMP and other ports answer as before."""
    host, stranger, friend = (estate.hosts[name] for name in ("cache2", "db1", "cache3"))
    for number, each in enumerate((host, stranger, friend), start=1):
        each.run(f"ip -6 addr add fd00:f1::{number}/64 dev eth0 nodad")
    estate.redis("cache2", "CONFIG", "SET", "bind", "* -::*")
    link = host.run("ip -6 -o addr show dev eth0 scope link").stdout.split()[3].split("/")[0]
    places = ["fd00:f1::1", f"{link}%eth0"]
    try:
        for place in places:
            assert _asks(stranger, place, 6379) == "Connection refused"
            assert _asks(friend, place, 6379) == "Connection refused"
            assert _asks(stranger, place, 22) == ""
            stranger.run(f"ping -6 -c 1 {place}")
        estate.choose(firewall_allow=["fd00:f1::3"])
        changed = estate.project.deploy("tasks.firewall.deploy").changed
        assert changed == {("Firewall: rules", name) for name in RELEASES}
        assert _asks(friend, places[0], 6379) == ""
        assert _asks(stranger, places[0], 6379) == "Connection refused"
        host.run("systemctl stop datatier-firewall")
        assert [_asks(stranger, place, 6379) for place in places] == ["", ""]
    finally:
        for each in (host, stranger, friend):
            each.run("ip -6 addr flush dev eth0 scope global")
    plan = estate.project.plan()
    # What CONFIG SET has changed is put back by the same run.
    assert ("Firewall: rules", "cache2") in plan.planned
    assert estate.project.deploy().changed == plan.planned


def _asks(client: Host, place: str, port: int) -> str:
    """What keeps a host from a port of another one; nothing if it is reached."""
    talk = f"import socket; socket.create_connection(({place!r}, {port}), 5)"
    done = client.run(f"python3 -c {shlex.quote(talk)}", check=False)
    return "Connection refused" if "ConnectionRefusedError" in done.stderr else done.stderr


def test_who_leaves_firewall_allow_is_refused_and_ssh_is_not(estate: Estate, lab: Lab) -> None:
    """An open connection stays. The port of SSH comes from the user's own configuration."""
    pool1 = estate.hosts["pool1"]
    pool1.run("echo Port 2222 >/etc/ssh/sshd_config.d/port.conf; systemctl restart ssh")
    estate.project.inventory(_groups(estate.hosts, pool1=_by_ssh_config(estate, 2222)))
    estate.choose(firewall_allow=[lab.gateway])
    estate.project.deploy("tasks.firewall.deploy")
    assert len(_reached(estate)) == sum(map(len, PORTS.values()))
    with _encrypted(estate, "cache1") as open_before:
        estate.choose(firewall_allow=["192.0.2.1", "0.0.0.0/32", "2001:db8::/32"])
        estate.project.deploy("tasks.firewall.deploy")
        open_before.sendall(b"PING\r\n")
        assert open_before.recv(100)
    assert _reached(estate) == set()
    # Each run comes in by a new connection.
    assert estate.project.plan().planned == set()
    pool1.run("rm /etc/ssh/sshd_config.d/port.conf; systemctl restart ssh")
    estate.project.inventory(_groups(estate.hosts))


def _by_ssh_config(estate: Estate, port: int) -> dict[str, Any]:
    """Data of a host whose port stands in a file of ssh's, and in no setting."""
    directory, pool1 = estate.project.directory, estate.hosts["pool1"]
    data = pool1.ssh_data()
    known = Path(str(data["ssh_known_hosts_file"])).read_text()
    (directory / "ssh_config").write_text(f"Host {pool1.address}\n  Port {port}\n")
    other = known.replace(f"{pool1.address} ", f"[{pool1.address}]:{port} ")
    (directory / "known_hosts").write_text(known + other)
    return {
        "ssh_config_file": str(directory / "ssh_config"),
        "ssh_known_hosts_file": str(directory / "known_hosts"),
    }


def test_what_the_firewall_would_cut_off_is_refused(estate: Estate) -> None:
    """SSH at a port of ours, at another address; a host that comes to others from another one."""
    pool1, backup1 = estate.hosts["pool1"], estate.hosts["backup1"]
    way = f"ip route {{}} {estate.hosts['db1'].address} dev eth0 src 192.0.2.88"
    pool1.run(
        "ip addr add 192.0.2.77/32 dev lo; /usr/sbin/sshd -p 6432 -o ListenAddress=192.0.2.77"
        " -o PidFile=/run/sshd-other.pid"
    )
    backup1.run(f"ip addr add 192.0.2.88/32 dev lo; {way.format('add')}")
    run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
    pool1.run("kill $(cat /run/sshd-other.pid); ip addr del 192.0.2.77/32 dev lo")
    backup1.run(f"{way.format('del')}; ip addr del 192.0.2.88/32 dev lo")
    assert run.code == 1
    check_lines(
        run,
        [
            ("pool1", "port 6432 at 192.0.2.77 is held by sshd", "would close it there too"),
            ("backup1", "connects to db1 from 192.0.2.88", "add 192.0.2.88 to firewall_allow"),
            ("nothing was changed",),
        ],
    )
    assert estate.project.plan().planned == set()


def test_a_firewall_that_is_turned_off_leaves_nothing(estate: Estate) -> None:
    """No table, no unit and no file; rules of others stay."""
    estate.hosts["db1"].run("nft add table inet other")
    estate.choose(firewall_enabled=False)
    plan = estate.project.plan()
    assert plan.planned == {("Prune: services", name) for name in RELEASES}
    assert estate.project.deploy().changed == plan.planned
    for host in estate.hosts.values():
        assert "datatier" not in host.run("nft list tables").stdout
        assert not host.run("find /etc -name '*firewall*' | grep datatier", check=False).stdout
    assert "inet other" in estate.hosts["db1"].run("nft list tables").stdout
    assert len(_reached(estate)) == sum(map(len, PORTS.values()))


def _changed_lines(run: Run) -> list[str]:
    """The lines of a diff that are not its headers."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", run.stderr)
    return re.findall(r"^[-+](?![-+]).*", plain, re.MULTILINE)


def test_pool_size_is_reloaded(estate: Estate) -> None:
    """One setting: two lines of one file, the second one following from it, and one RELOAD."""
    before = estate.processes()
    estate.choose(pgbouncer_default_pool_size=20)
    wanted = {("PgBouncer: configuration", "pool1"), ("PgBouncer: service", "pool1")}
    plan = estate.project.plan("deploy.py", "--diff")
    assert plan.planned == wanted
    assert _changed_lines(plan) == [
        "-default_pool_size = 25",
        "+default_pool_size = 20",
        "-max_db_connections = 32",
        "+max_db_connections = 27",
    ]
    assert estate.project.deploy().changed == wanted
    assert _pooler(estate)["default_pool_size"] == "20"
    assert estate.processes() == before


def _pooler(estate: Estate) -> dict[str, str]:
    """SHOW CONFIG of the pooler."""
    console = proof.psql(
        estate.hosts["pool1"],
        "SHOW CONFIG",
        role="postgres",
        password=CANARIES["POSTGRES_PASSWORD"],
        database="pgbouncer",
        tls=True,
    )
    rows = (line.split("|") for line in said(console).splitlines())
    return {row[0]: row[1] for row in rows}


def _on_caches(*operations: str) -> Changes:
    return {(operation, name) for operation in operations for name in CACHES}


def test_redis_settings_are_set_at_run_time(estate: Estate) -> None:
    """A key of ours and one that is only upstream's; no instance restarts."""
    before = estate.processes()
    estate.choose(redis_maxmemory="256mb")
    assert estate.project.deploy().changed == _on_caches("Redis: configuration", "Redis: service")
    for name in CACHES:
        assert estate.redis(name, "CONFIG", "GET", "maxmemory").split() == [
            "maxmemory",
            "268435456",
        ]
    assert estate.processes() == before


def test_an_upstream_key_is_set_at_run_time(estate: Estate) -> None:
    """What has no key of its own goes through `redis_extra`; no instance restarts."""
    before = estate.processes()
    estate.choose(redis_extra={"slowlog-max-len": 256})
    assert estate.project.deploy().changed == _on_caches("Redis: configuration", "Redis: service")
    for name in CACHES:
        answer = estate.redis(name, "CONFIG", "GET", "slowlog-max-len")
        assert answer.split() == ["slowlog-max-len", "256"]
    assert estate.processes() == before


def test_sentinel_settings_are_set_at_run_time(estate: Estate) -> None:
    """SENTINEL SET on every Sentinel; none restarts."""
    before = estate.processes()
    estate.choose(sentinel_down_after_milliseconds=3000)
    assert estate.project.deploy().changed == _on_caches("Sentinel: monitoring")
    for name in CACHES:
        seen = estate.watched(name)
        assert seen["down-after-milliseconds"] == "3000"
    assert estate.processes() == before


def _on_database(*operations: str) -> Changes:
    return {(operation, "db1") for operation in operations}


def test_work_mem_is_reloaded(estate: Estate) -> None:
    """A setting that PostgreSQL takes while it runs."""
    before = estate.processes()
    estate.choose(postgres_work_mem="8MB")
    wanted = _on_database("PostgreSQL: configuration", "PostgreSQL: service")
    assert estate.project.deploy().changed == wanted
    assert estate.sql("SHOW work_mem") == "8MB"
    assert estate.processes() == before


def test_max_connections_restarts_postgres_once(estate: Estate) -> None:
    """A setting that takes a restart: one, of PostgreSQL alone."""
    before, starts = estate.processes(), _starts(estate)
    estate.choose(postgres_max_connections=120)
    wanted = _on_database("PostgreSQL: configuration", "PostgreSQL: service")
    with _own_certificate(estate.hosts["db1"], "postgres", mode="600"):
        assert estate.project.deploy().changed == wanted
    assert estate.sql("SHOW max_connections") == "120"
    assert _starts(estate) == starts + 1
    after = estate.processes()
    assert {key for key in after if after[key] != before[key]} == {"db1/postgresql@15-main.service"}
    assert estate.project.plan().planned == set()


@contextmanager
def _own_certificate(host: Host, user: str, *, mode: str) -> Iterator[None]:
    """A user has one for other servers, where libpq looks for it."""
    made = authorities.make("a user of other servers")
    place = f"{host.run(f'getent passwd {user} | cut -d: -f6').stdout.strip()}/.postgresql"
    host.run(f"install -d {place}; cat >{place}/postgresql.crt", stdin=made.pem)
    host.run(f"cat >{place}/postgresql.key", stdin=made.secret())
    host.run(f"chown -R {user} {place}; chmod {mode} {place}/postgresql.key")
    try:
        yield
    finally:
        host.run(f"rm -r {place}")


def _starts(estate: Estate) -> int:
    log = estate.hosts["db1"].run("cat /var/log/postgresql/postgresql-15-main.log").stdout
    return log.count("starting PostgreSQL")


def test_a_frozen_master_is_replaced_and_stays_replaced(estate: Estate, tmp_path: Path) -> None:
    """Sentinel promotes; runs during and after the outage leave its decision alone.

    Clients with the documented settings find the new master while the old one says nothing.
    """
    old = estate.master_according_to("cache2")
    # The first Sentinel that they ask is as silent as the master.
    places = sorted(CACHES, key=lambda name: name != old)
    variables = applications.sentinels(
        [estate.hosts[name].address for name in places], estate.password
    )
    trusted = estate.hosts["cache1"].run(f"cat {proof.AUTHORITY}").stdout
    with applications.running(("redis-py", "Celery"), variables, tmp_path, trusted) as clients:
        _replaced(estate, old, clients)


def _replaced(estate: Estate, old: str, clients: Sequence[Application]) -> None:
    estate.hosts[old].pause()
    try:
        new = _promoted(estate, old)
        applications.back(clients, 60)
        # Pyinfra leaves an unreachable host out, goes on with the others, and exits with 1.
        during = estate.project.pyinfra("-y", "--json", "inventory.py", "deploy.py")
        assert (during.code, during.changed) == (1, set())
        assert re.search(rf"\[{old}\].*SSH error", during.stderr), during.stderr
        estate.check_master(new, down=old)
    finally:
        estate.hosts[old].unpause()
    eventually(lambda: estate.check_whole(new), 60)
    assert estate.project.deploy().changed == set()
    estate.check_whole(new)
    _check_kept(estate)


def _promoted(estate: Estate, old: str) -> str:
    """The master that the other hosts agree on once the old one is out."""
    others = [name for name in CACHES if name != old]

    def promoted() -> None:
        new = estate.master_according_to(others[0])
        assert new != old
        estate.check_master(new, down=old)

    eventually(promoted, 40)
    return estate.master_according_to(others[0])


def test_a_setting_reaches_every_node_after_a_failover(estate: Estate) -> None:
    """The setting is everywhere, and the master is where Sentinel put it."""
    before, master = estate.processes(), estate.master_according_to("cache1")
    assert master != "cache1"
    estate.choose(redis_maxmemory="300mb")
    assert estate.project.deploy().changed == _on_caches("Redis: configuration", "Redis: service")
    for name in CACHES:
        assert estate.redis(name, "CONFIG", "GET", "maxmemory").split()[1] == "314572800"
    estate.check_whole(master)
    assert estate.processes() == before


def test_a_stopped_master_is_replaced_and_stays_replaced(estate: Estate) -> None:
    """Somebody stops the instance, and starts it again after the failover."""
    old = estate.master_according_to("cache1")
    estate.hosts[old].run("systemctl stop redis-6379")
    others = [name for name in CACHES if name != old]

    def promoted() -> None:
        assert len({estate.master_according_to(name) for name in CACHES} - {old}) == 1
        new = estate.master_according_to(others[0])
        role = estate.replication(new)
        assert new != old and role["role"] == "master"

    eventually(promoted, 40)
    new = estate.master_according_to(others[0])
    estate.hosts[old].run("systemctl start redis-6379")
    eventually(lambda: estate.check_whole(new), 60)
    assert estate.project.deploy().changed == set()
    estate.check_whole(new)
    _check_kept(estate)


def _script(estate: Estate, line: str) -> str:
    """What a script of the backup host said; it has to succeed."""
    return said(estate.hosts["backup1"].run(f"/scripts/{line}", check=False, timeout=300))


def test_backups_restore(estate: Estate) -> None:
    """A drill; then what was lost comes back in the running servers, from a host of its own."""
    estate.sql("CREATE TABLE kept AS SELECT 'backed up' AS word")
    keeper = estate.hosts["backup1"]
    # The way to the server is TLS, and a renewal ends no backup.
    with _own_certificate(keeper, "root", mode="644"), amid_a_full(estate.hosts["db1"], keeper):
        assert estate.project.deploy("tasks.tls.renew").changed
    _script(estate, "redis-backup.sh")
    _script(estate, "backup.sh drill")
    drill = json.loads(estate.hosts["backup1"].run("cat /backups/logs/drill.json").stdout)
    assert drill["outcome"] == "passed"
    estate.sql("DROP TABLE kept")
    master = estate.master_according_to("cache1")
    estate.redis(master, "DEL", "kept")
    _script(estate, "restore-postgres.sh /backups/postgres/psscript_full_LATEST.sql.gz")
    _script(estate, "restore-redis.sh /backups/redis/redis_LATEST.rdb.gz")
    assert estate.sql("SELECT word FROM kept") == "backed up"
    eventually(lambda: _check_kept(estate), 30)
    estate.check_whole(estate.master_according_to("cache1"))
    assert estate.project.deploy().changed == set()
    estate.project.deploy("tasks.health.verify")


def _verifies(estate: Estate, name: str, port: int, trusted: Path) -> bool:
    """Whether a client that trusts this file alone takes a host's server for the one it asked."""
    address = estate.hosts[name].address
    context = ssl.create_default_context(cafile=trusted)
    with socket.create_connection((address, port), timeout=5) as plain:
        try:
            context.wrap_socket(plain, server_hostname=address).close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_own_certificates_take_the_place_of_the_estates(estate: Estate, tmp_path: Path) -> None:
    """There, to newer ones, and back, under writers that trust both: no error, nothing lost."""
    both, mine = tmp_path / "both.pem", tmp_path / "root.pem"
    addresses = [host.address for host in estate.hosts.values()]
    steps = authorities.own_files(tmp_path, addresses)
    both.write_text(estate.hosts["cache1"].run(f"cat {proof.AUTHORITY}").stdout + mine.read_text())
    before, master = estate.processes(), estate.master_according_to("cache1")
    caches = [estate.hosts[name].address for name in CACHES]
    with Either(caches, 26379, estate.password, both) as writers:
        for step in steps:
            estate.project.settings({**BASE, **estate.choices, **step})
            plan = estate.project.plan()
            assert plan.planned == estate.project.deploy().changed != set()
            places = [(name, port) for name in CACHES for port in (6379, 26379)]
            shown = {_verifies(estate, *place, mine) for place in places}
            assert shown == {"tls_key" in step}
            website.check(estate.hosts["backup1"])
            _script(estate, "redis-backup.sh")
    assert writers.errors == {} and writers.lost() == [] and len(writers.keys) > 1000
    estate.check_whole(master)
    assert estate.project.deploy().changed == set()
    after = estate.processes()
    assert {key for key in after if after[key] != before[key]} <= {
        f"{name}/redis-sentinel-26379.service" for name in CACHES
    }


# Words of each protocol: of SQL and its logins, of replication, of Sentinels.
_WORDS = ("SELECT ", "COPY ", "pg_catalog", "SCRAM-SHA-256", "REPLCONF", "PSYNC", "__sentinel__")
_VERIFIERS = "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"


def test_nothing_can_be_read_on_the_wire(estate: Estate, wire: Wire) -> None:
    """No secret, verifier, row or statement, through all that this module does."""
    master, keeper = estate.master_according_to("cache1"), estate.hosts["backup1"]
    url = f"{_url(estate)}?sslmode=verify-full&sslrootcert=/etc/datatier/tls/ca.pem"
    statement = "CREATE TABLE said AS SELECT 'canary-of-a-row' AS word"
    keeper.run(f"psql -qX {shlex.quote(url)} -c {shlex.quote(statement)}")
    estate.redis(master, "SET", "said", "canary-of-a-value")
    _script(estate, "postgres-backup.sh full")
    _script(estate, "postgres-backup.sh incremental")
    _script(estate, "redis-backup.sh")
    assert estate.project.deploy("tasks.drill.failover").changed
    estate.choose(redis_maxmemory="310mb", postgres_work_mem="9MB")
    assert estate.project.deploy().changed
    verifiers = estate.hosts["db1"].run(f'psql -XAtqc "{_VERIFIERS}"', user="postgres").stdout
    secrets = estate.project.secrets.values()
    hashes = [sha256(secret.encode()).hexdigest() for secret in secrets]
    canaries = ["canary-of-a-row", "canary-of-a-value", *secrets, *verifiers.split(), *hashes]
    assert len(verifiers.split()) > 2 and len(canaries) > 20
    # It hears: what is told in clear, and each of the links.
    estate.hosts["db1"].run(f"bash -c 'echo canary-in-clear >/dev/udp/{keeper.address}/9'")
    eventually(lambda: _heard(wire, "canary-in-clear"), 10)
    assert {5432, 6379, 6432, 8432, 26379} <= wire.ports()
    assert (wire.readable([*canaries, *_WORDS]), wire.lost) == ({}, 0)


def _heard(wire: Wire, word: str) -> None:
    assert word in wire.readable([word])


def test_a_removal_leaves_no_key(estate: Estate) -> None:
    """All services go, and all certificates; the data stay."""
    plan = estate.project.plan("tasks.remove.deploy")
    assert estate.project.deploy("tasks.remove.deploy").changed == plan.planned
    for host in estate.hosts.values():
        assert not host.run("ls -d /etc/datatier /etc/redis/redis-tls", check=False).stdout
    assert proof.processes(list(estate.hosts.values())) == {}
    assert estate.project.plan("tasks.remove.deploy").planned == set()
