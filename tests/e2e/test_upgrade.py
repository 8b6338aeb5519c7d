"""Story: packages are upgraded while clients work; what others upgrade restarts nothing."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest

from tests.e2e import newer
from tests.e2e.backups import NO_SCHEDULES, amid_a_full
from tests.e2e.project import Project, embedded
from tests.e2e.redis_writers import Background, Writers
from tests.e2e.wait import KNOWN
from tests.lab import Host, Lab


@dataclass
class Site:
    """The host, and the project that deploys to it."""

    host: Host
    project: Project


@pytest.fixture(scope="module")
def site(lab: Lab, project: Project) -> Site:
    """The embedded stack."""
    host = lab.installed_host("one")
    project.inventory(embedded("one", host))
    project.settings(NO_SCHEDULES)
    project.deploy()
    return Site(host, project)


class Rows(Background):
    """A client of PgBouncer that adds a row a transaction, and notes each that was acknowledged."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.place: dict[str, Any] = {
            "host": site.host.address,
            "port": 6432,
            "user": "psscript",
            "password": site.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"],
            "dbname": "psscript",
        }
        self.acknowledged, self.errors = 0, list[str]()
        self._do("DROP TABLE IF EXISTS upgraded")
        self._do("CREATE TABLE upgraded (n int)")
        self.threads = [threading.Thread(target=self._write)]

    def _do(self, sql: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.place, autocommit=True, prepare_threshold=None) as client:
            done = client.execute(sql)
            return done.fetchall() if done.description else []

    def _write(self) -> None:
        with psycopg.connect(**self.place, autocommit=True, prepare_threshold=None) as client:
            while not self.ended.wait(0.01):
                try:
                    client.execute("INSERT INTO upgraded VALUES (%s)", (self.acknowledged,))
                except psycopg.Error as error:
                    self.errors.append(str(error))
                    return
                self.acknowledged += 1

    def kept(self) -> int:
        """How many there are."""
        return int(self._do("SELECT count(*) FROM upgraded")[0][0])


def _processes(site: Site) -> list[str]:
    units = "'postgresql@*' pgbouncer 'redis-*'"
    return site.host.run(f"{KNOWN}systemctl show -p Id,MainPID {units}").stdout.split()


def _old(site: Site) -> set[str]:
    """Services that say of themselves that their program is old."""
    told = "/var/lib/prometheus/node-exporter/datatier-host.prom"
    said = site.host.run(f"systemctl start datatier-host && cat {told}").stdout
    return {*re.findall(r'datatier_old_binary\{unit="(.+)\.service"\} 1', said)}


def test_an_upgrade_fails_no_transaction_and_loses_no_write(site: Site) -> None:
    task, names = "tasks.upgrade.deploy", ("postgresql-15", "redis-tools", "redis-server")
    before = {name: newer.version(site.host, name) for name in names}
    newer.offer(site.host, *names)
    with amid_a_full(site.host, site.host):
        refused = site.project.pyinfra("-y", "inventory.py", task)
    why = "one: a backup job holds /run/datatier/backup-postgres.lock: wait until it is done"
    assert why in refused.stderr and newer.version(site.host, names[0]) == before[names[0]]
    plan = site.project.plan(task)
    for name in names:
        line = f"package {name}: upgrade {before[name]} -> {before[name]}{newer.MORE} (security)"
        assert f"[one] {line}" in plan.announced, plan.announced
    why = "an upgrade replaces its program; clients of PgBouncer wait"
    assert f"[one] postgres: restart ({why})" in plan.announced, plan.announced
    ports = (26379, 26380, 26381)
    sentinels = [(site.host.address, port) for port in ports]
    with Rows(site) as rows, Writers(sentinels, site.project.secrets["REDIS_PASSWORD"]) as writers:
        run = site.project.deploy(task)
    assert run.changed == plan.planned
    assert rows.errors == [] and rows.kept() == rows.acknowledged > 0
    assert writers.keys and writers.lost() == []
    after = {name: newer.version(site.host, name) for name in names}
    assert after == {name: f"{version}{newer.MORE}" for name, version in before.items()}
    assert _old(site) == set()
    assert site.project.deploy(task).changed == set()


def test_apt_by_hand_restarts_nothing_and_the_next_run_does(site: Site) -> None:
    before = _processes(site)
    site.host.run("apt-get install -qq -y --reinstall postgresql-15 pgbouncer redis-tools cron")
    assert _processes(site) == before
    assert site.host.run("ls /usr/sbin/policy-rc.d", check=False).returncode
    assert {"postgresql@15-main", "pgbouncer", "redis-6379", "redis-sentinel-26379"} <= _old(site)
    plan = site.project.plan()
    assert "[one] pgbouncer: restart (an upgrade has replaced its program)" in plan.announced
    assert site.project.deploy().changed == plan.planned
    assert _old(site) == set()
    assert site.project.deploy().changed == set()
