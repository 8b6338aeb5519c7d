"""What the services' own clients, the supervisor and the kernel say; never our own code."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.e2e.wait import KNOWN, eventually
from tests.lab import Host

MASTER_NAME = "mymaster"
# What clients verify servers with.
AUTHORITY = "/etc/datatier/tls/ca.pem"
Done = subprocess.CompletedProcess[str]
# Shell: psql is the newest there is, not Debian's Perl that looks for one three times as long.
NEWEST = "for each in /usr/lib/postgresql/*/bin; do PATH=$each:$PATH; done; "


def said(done: Done) -> str:
    """What a client printed; it must have succeeded."""
    assert done.returncode == 0, done.stderr.strip() or done.stdout.strip()
    return done.stdout.strip()


def psql(
    host: Host,
    sql: str,
    *,
    role: str = "psscript",
    password: str = "",
    database: str = "psscript",
    address: str = "127.0.0.1",
    port: int = 6432,
    limit: int = 60,
    tls: bool = False,
) -> Done:
    """One statement by psql on the host; through the pooler unless a port is given."""
    verify = f"PGSSLMODE=verify-full PGSSLROOTCERT={AUTHORITY}; export PGSSLMODE PGSSLROOTCERT; "
    client = f"timeout {limit} psql -XAtqw -h {address} -p {port} -U {role} -d {database}"
    before = f"{NEWEST}{verify if tls else ''}"
    script = f'{before}IFS= read -r PGPASSWORD; export PGPASSWORD; exec {client} -c "$(cat)"'
    return host.run(script, stdin=f"{password}\n{sql}", check=False)


def admin(host: Host, sql: str, database: str = "psscript", *, options: str = "") -> str:
    """What PostgreSQL answers its superuser, over the socket."""
    client = f"PGOPTIONS='{options}' psql -XAtqw -d {database}"
    return said(host.run(f"{client} -f -", user="postgres", stdin=sql, check=False))


def redis(
    host: Host,
    port: int,
    *words: str,
    password: str = "",
    address: str = "127.0.0.1",
    tls: bool = False,
) -> Done:
    """One command by Debian's redis-cli, not by the one that lends root the password."""
    how = f"--tls --cacert {AUTHORITY} " if tls else ""
    client = f"/usr/bin/redis-cli -e {how}-h {address} -p {port} {shlex.join(words)}"
    script = f"IFS= read -r REDISCLI_AUTH; export REDISCLI_AUTH; timeout 5 {client}"
    return host.run(script, stdin=f"{password}\n", check=False)


def replication(host: Host, port: int, password: str, *, tls: bool = False) -> dict[str, str]:
    """INFO replication of an instance."""
    answer = redis(host, port, "INFO", "replication", password=password, tls=tls)
    lines = said(answer).splitlines()
    return dict(line.strip().split(":", 1) for line in lines if ":" in line)


def sentinel_master(host: Host, port: int, password: str, *, tls: bool = False) -> dict[str, str]:
    """What a Sentinel knows of the master."""
    asked = "SENTINEL", "MASTER", MASTER_NAME
    words = said(redis(host, port, *asked, password=password, tls=tls)).splitlines()
    return dict(zip(words[::2], words[1::2], strict=True))


def check_quorum(host: Host, port: int, password: str, *, tls: bool = False) -> None:
    """Asserts that a Sentinel sees two replicas, two other Sentinels and nothing that is down."""
    seen = sentinel_master(host, port, password, tls=tls)
    assert (seen["num-slaves"], seen["num-other-sentinels"]) == ("2", "2"), seen
    assert seen["flags"] == "master", seen


@dataclass(frozen=True)
class Process:
    """The main process of a service: its id alone could be given out again."""

    pid: int
    started: str


def main_process(host: Host, service: str) -> Process:
    """The process that the supervisor calls the service's; `service` is a unit under systemd."""
    if host.systemd:
        pid = host.run(f"{KNOWN}systemctl show -p MainPID --value {service}").stdout.strip()
    else:
        status = host.run(f"sv status /etc/service/{service}", check=False).stdout
        match = re.match(r"run: .*?: \(pid (\d+)\)", status)
        pid = match[1] if match else "0"
    assert pid != "0", f"{host.name}: {service} has no process"
    started = host.run(f"ps -o lstart= -p {pid}", check=False).stdout.strip()
    assert started, f"{host.name}: process {pid} of {service} is gone"
    return Process(int(pid), started)


def processes(hosts: Sequence[Host]) -> dict[str, Process]:
    """The main process of every service of ours on these hosts, as `host/unit`."""
    units = "systemctl list-units -q --plain --no-legend 'postgresql@*' pgbouncer.service 'redis-*'"
    found = {}
    for host in hosts:
        for line in host.run(units).stdout.splitlines():
            unit = line.split()[0]
            found[f"{host.name}/{unit}"] = main_process(host, unit)
    return found


@dataclass(frozen=True)
class Stack:
    """The whole stack on one host, asked by its clients."""

    host: Host
    secrets: Mapping[str, str] = field(repr=False)

    @property
    def role_password(self) -> str:
        """The password of the application's role."""
        return self.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]

    @property
    def redis_password(self) -> str:
        """The password of Redis and Sentinel."""
        return self.secrets["REDIS_PASSWORD"]

    @property
    def postgres_unit(self) -> str:
        """What the supervisor calls PostgreSQL."""
        if not self.host.systemd:
            return "postgres"
        return f"postgresql@{'15' if self.host.release == 'debian12' else '17'}-main"

    def unit(self, service: str) -> str:
        """What the supervisor calls a service."""
        return self.postgres_unit if service == "postgres" else service

    def sql(self, statement: str, port: int = 6432) -> str:
        """What the application's role is answered, through the pooler unless a port is given."""
        return said(psql(self.host, statement, password=self.role_password, port=port))

    def redis(self, port: int, *words: str) -> str:
        """What an instance or a Sentinel answers somebody with the password."""
        return said(redis(self.host, port, *words, password=self.redis_password))

    def remember(self, word: str) -> None:
        """Writes a row and a key that must still be there whatever happens next."""
        self.sql(f"CREATE TABLE kept AS SELECT '{word}'::text AS word")
        self.redis(6379, "SET", "kept", word)

        def copied() -> None:
            self.check("redis-6380", word)
            self.check("redis-6381", word)

        eventually(copied, 5)

    def check(self, service: str, word: str) -> None:
        """Asserts that a service answers a real request, with what was remembered."""
        kind, _, port = service.rpartition("-")
        if service in ("postgres", "pgbouncer"):
            answer = self.sql("SELECT word FROM kept", {"postgres": 5432}.get(service, 6432))
        elif kind == "redis":
            answer = self.redis(int(port), "GET", "kept")
        else:
            check_quorum(self.host, int(port), self.redis_password)
            return
        assert answer == word, answer

    def check_survives_kill(self, service: str, word: str, seconds: float) -> None:
        """Kills a service's main process; it must come back by itself, with its data."""
        # A Sentinel asks a server that was killed before this one again after a second.
        eventually(lambda: self.check(service, word), seconds)
        before = main_process(self.host, self.unit(service))
        self.host.run(f"kill -9 {before.pid}")
        eventually(lambda: self.check(service, word), seconds)

        def replaced() -> None:
            assert main_process(self.host, self.unit(service)) != before

        # The wrapper that starts PostgreSQL names its process seconds after that one answers.
        eventually(replaced, 30)

    def check_replicates(self) -> None:
        """Asserts that what is written to the master is read from both replicas."""
        self.redis(6379, "SET", "copied", "twice")

        def copied() -> None:
            assert [self.redis(port, "GET", "copied") for port in (6380, 6381)] == ["twice"] * 2

        eventually(copied, 5)

    def check_refuses_strangers(self) -> None:
        """Asserts that nobody is served without the right password."""
        for port in (6379, 6380, 6381, 26379, 26380, 26381):
            assert "NOAUTH" in redis(self.host, port, "PING").stderr
            assert "WRONGPASS" in redis(self.host, port, "PING", password="wrong").stderr
            lent = self.host.run(f"redis-cli -e -p {port} PING", user="nobody", check=False)
            assert "NOAUTH" in lent.stderr, lent
        for port in (5432, 6432):
            for password in ("", "wrong"):
                done = psql(self.host, "SELECT 1", password=password, port=port)
                assert done.returncode == 2 and not done.stdout, done


SERVICES = (
    "postgres",
    "pgbouncer",
    *(f"redis-{port}" for port in (6379, 6380, 6381)),
    *(f"redis-sentinel-{port}" for port in (26379, 26380, 26381)),
)

_SAMPLER = """
import os, time
os.umask(0o077)
seen = set()
while not os.path.exists("/run/sampler.stop"):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                seen.add(line.read().replace(b"\\0", b" "))
        except OSError:
            pass
    time.sleep(0.02)
with open("/run/sampler.new", "wb") as out:
    out.write(b"\\n".join(sorted(seen)))
os.rename("/run/sampler.new", "/run/sampler.out")
"""


@dataclass
class CommandLines:
    """Every command line that the process list of some hosts has shown for a while."""

    by_host: dict[str, str] = field(default_factory=dict)


@contextmanager
def command_lines(hosts: Sequence[Host]) -> Iterator[CommandLines]:
    """Looks at the process lists of the hosts, fifty times a second, until the block ends."""
    for host in hosts:
        host.run("rm -f /run/sampler.*; cat >/run/sampler.py", stdin=_SAMPLER)
        host.run("setsid python3 /run/sampler.py </dev/null >/dev/null 2>&1 &")
    found = CommandLines()
    try:
        yield found
    finally:
        for host in hosts:
            host.run("touch /run/sampler.stop")
        for host in hosts:
            found.by_host[host.name] = _sampled(host)


def _sampled(host: Host) -> str:
    def written() -> None:
        assert host.run("test -e /run/sampler.out", check=False).returncode == 0

    eventually(written, 10)
    return host.run("cat /run/sampler.out").stdout


def readers(host: Host, user: str, words: Sequence[str], *places: str) -> list[str]:
    """The files under `places` in which this user can read one of the words."""
    patterns = "".join(f"{word}\n" for word in words)
    done = host.run(f"grep -rlsF -f - {' '.join(places)}", user=user, stdin=patterns, check=False)
    return done.stdout.split()


def exposures(host: Host) -> dict[str, float]:
    """How much systemd leaves to each service: 0 for nothing, 10 for everything.

    What runs has as little if it was started with the unit: `Seccomp` says so.
    """
    found = {}
    for line in host.run("systemd-analyze security --no-pager 2>&1").stdout.splitlines():
        unit, exposure, *_ = [*line.split(), "", ""]
        if re.match(r"(redis|postgresql@|pgbouncer|pgbackrest)", unit):
            pid = host.run(f"systemctl show -p MainPID --value {unit}").stdout.strip()
            if pid != "0":
                assert host.run(f"grep ^Seccomp: /proc/{pid}/status").stdout.split()[1] == "2"
                found[unit] = float(exposure)
    return found
