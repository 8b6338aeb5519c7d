"""What runs cost: without changes, the first one, and a restore, each against plain tools."""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.e2e.project import Project, embedded
from tests.lab import Host, Lab
from tests.lab.hosts import Release

ROUNDS = 5


def six(hosts: list[Host]) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """The cluster of inventory/cluster.py on six hosts."""
    rows = [(host.name, {**host.ssh_data(), "address": host.address}) for host in hosts]
    return {
        "postgres": rows[:1],
        "pgbouncer": rows[1:2],
        "redis": rows[2:5],
        "sentinel": rows[2:5],
        "backup": rows[5:],
    }


# As its users start it: with the modules of the run before compiled.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def seconds(project: Project, *arguments: str) -> float:
    """Wall time of the program `pyinfra`, from its start to its end, which must succeed."""
    program = Path(sys.executable).with_name("pyinfra")
    start = time.monotonic()
    subprocess.run(
        [program, *arguments],
        cwd=project.directory,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    return time.monotonic() - start


def executed(hosts: list[Host]) -> int:
    """Commands that the hosts' own SSH servers have been asked to execute so far."""
    log = (
        "journalctl -q -o cat _COMM=sshd + _COMM=sshd-session | grep -c 'Starting session' || true"
    )
    return sum(int(host.run(log).stdout) for host in hosts)


def measure(name: str, project: Project, hosts: list[Host], table: Table) -> None:
    """Adds a row: medians of rounds in turn, so that both see the same machine."""
    project.deploy()
    idle, full = [], []
    for _ in range(ROUNDS):
        idle.append(seconds(project, "-y", "inventory.py", "exec", "--", "true"))
        full.append(seconds(project, "-y", "inventory.py", "deploy.py"))
    before = executed(hosts)
    run = project.pyinfra("-y", "inventory.py", "deploy.py")
    said = re.search(r"(\d+) commands", run.output)
    ratio = statistics.median(a / b for a, b in zip(full, idle, strict=True))
    table.add_row(
        name,
        f"{statistics.median(full):.2f} s",
        f"{min(full):.2f}-{max(full):.2f} s",
        f"{ratio:.2f}",
        said.group(1) if said else "?",
        str(executed(hosts) - before),
    )


_ROWS = """
CREATE TABLE bench AS SELECT g AS id, md5(g::text) AS a, md5((g * 7)::text) AS b
  FROM generate_series(1, 1500000) g; ALTER TABLE bench OWNER TO psscript
"""
_DUMP = "/backups/postgres/psscript_full_LATEST.sql.gz"
_PLAIN = (
    f"runuser -u postgres -- createdb plain; gunzip -c {_DUMP} | runuser -u postgres -- psql -q"
)


def restore(host: Host, table: Table) -> None:
    """Adds a row: a restore of a dump against the plain tools, in wall and processor time."""
    host.run(f'psql -qd psscript -c "{_ROWS}"', user="postgres", timeout=300)
    host.run("/scripts/postgres-backup.sh full", timeout=600)
    ours, plain = (
        timed(host, f"{command} >/dev/null 2>&1")
        for command in (f"/scripts/restore-postgres.sh {_DUMP}", f"{_PLAIN} plain")
    )
    table.add_row(
        *(f"{a:.1f} s / {b:.1f} s = {a / b:.2f}" for a, b in zip(ours, plain, strict=True))
    )


def timed(host: Host, command: str) -> tuple[float, float]:
    """Seconds of a command, and those of the processors that its programs took."""
    words = ["bash", "-c", f"TIMEFORMAT='%R %U %S'; time {{ {command}; }}"]
    said = host.run(shlex.join(words), timeout=600).stderr.split()
    wall, user, system = map(float, said[-3:])
    return wall, user + system


_INSTALLED = "dpkg-query -W -f '${Package}\\n'"
_INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends"


def first(lab: Lab, release: Release, table: Table) -> None:
    """Adds a row: a first deployment against `apt-get install` of the packages that it brings.

    That one creates Debian's cluster and starts its servers, as it does for everyone.
    """
    ours, plain = (lab.host(f"{name}-{release}", release) for name in ("ours", "plain"))
    before = set(ours.run(_INSTALLED).stdout.split())
    for host in (ours, plain):
        host.run("apt-get -q update", timeout=300)
    with tempfile.TemporaryDirectory() as directory:
        project = Project(Path(directory))
        project.settings({})
        project.inventory(embedded("ours", ours))
        deployed = seconds(project, "-y", "inventory.py", "deploy.py")
    names = sorted(set(ours.run(_INSTALLED).stdout.split()) - before)
    installed, _ = timed(plain, f"{_INSTALL} {shlex.join(names)} >/dev/null")
    figures = f"{deployed:.1f} s / {installed:.1f} s = {deployed / installed:.2f}"
    table.add_row(release, str(len(names)), figures)


_BINARIES = "/usr/lib/postgresql/15/bin"
_LOADS = ("-S", "-N")
_TLS = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/etc/datatier/tls/ca.pem"}


def encrypted(lab: Lab, table: Table) -> None:
    """Adds rows: load through the pooler and runs without changes, with TLS against without."""
    with tempfile.TemporaryDirectory() as clear, tempfile.TemporaryDirectory() as private:
        estates = []
        for name, directory in (("clear", clear), ("private", private)):
            host, project = lab.installed_host(name), Project(Path(directory))
            project.settings({"tls_enabled": name == "private"})
            project.inventory(embedded(name, host))
            project.deploy()
            estates.append((host, project, _TLS if name == "private" else {}))
            pgbench(host, project, {}, "-i -q -s 5", "127.0.0.1:5432")
        for load in _LOADS:
            rates = [
                [pgbench(*estate, f"{load} -c 10 -T 10 -n") for estate in estates]
                for _ in range(ROUNDS)
            ]
            table.add_row(f"pgbench {load}, transactions/s", *compared(rates))
        runs = [
            [seconds(project, "-y", "inventory.py", "deploy.py") for _, project, _ in estates]
            for _ in range(ROUNDS)
        ]
        table.add_row("no-op run, s", *compared(runs))


def compared(rounds: list[list[float]]) -> list[str]:
    """The medians without and with TLS, and that of the rounds' ratios."""
    clear, private = zip(*rounds, strict=True)
    ratio = statistics.median(b / a for a, b in rounds)
    return [f"{statistics.median(clear):.1f}", f"{statistics.median(private):.1f}", f"{ratio:.2f}"]


def pgbench(
    host: Host, project: Project, variables: dict[str, str], options: str, server: str = ""
) -> float:
    """Transactions a second, from the host itself through the pooler at its address."""
    address, port = (server or f"{host.address}:6432").split(":")
    values = {**variables, "PGPASSWORD": project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]}
    script = "".join(
        f"{name}={shlex.quote(value)}\nexport {name}\n" for name, value in values.items()
    )
    command = f"{_BINARIES}/pgbench -h {address} -p {port} -U psscript {options} psscript"
    said = host.run(f'eval "$(cat)"; {command}', stdin=script, timeout=120)
    rate = re.search(r"tps = ([0-9.]+)", said.stdout)
    return float(rate.group(1)) if rate else 0.0


def main() -> None:
    """Measures one host, six, and the stack in containers; a restore, first runs, and TLS."""
    secured = Table("what", "in clear", "over TLS", "ratio")
    restores = Table("restore of a dump / gunzip and psql", "processor time of clients")
    firsts = Table("release", "packages", "first deployment / apt-get install")
    table = Table("estate", "no-op run", "range", "x bare connection", "commands", "by sshd's log")
    with (
        Lab("bench") as lab,
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as n,
        tempfile.TemporaryDirectory() as boxed,
    ):
        for release in ("debian12", "debian13"):
            first(lab, release, firsts)
        encrypted(lab, secured)
        hosts = [*lab.hosts(7), lab.engine_host("engine", "debian13")]
        for host in hosts:
            host.run("echo 'LogLevel VERBOSE' >>/etc/ssh/sshd_config; systemctl restart ssh")
        single = Project(Path(one))
        single.inventory(embedded("one", hosts[0]))
        measure("one host, the whole stack", single, hosts[:1], table)
        restore(hosts[0], restores)
        cluster = Project(Path(n))
        cluster.inventory(six(hosts[1:7]))
        measure("six hosts", cluster, hosts[1:7], table)
        containers = Project(Path(boxed))
        containers.inventory({"docker": [("engine", hosts[7].ssh_data())]})
        measure("one host, the stack in Docker", containers, hosts[7:], table)
    Console(file=sys.stdout, width=120).print(table, restores, firsts, secured)


if __name__ == "__main__":
    main()
