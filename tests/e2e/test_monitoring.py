"""Story: each host tells how it is, to who has the password, and the health check asks all."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tests.e2e.alerts import promtool_tests
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.project import ROOT, Project
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

UNIT = "prometheus-node-exporter"
PROM = "/var/lib/prometheus/node-exporter/datatier-host.prom"


@dataclass(frozen=True)
class Estate:
    """Two hosts of both releases: one has the data and the backups, the other one a pooler."""

    project: Project
    data: Host
    pool: Host

    @property
    def password(self) -> str:
        """Of the exporters."""
        return self.project.secrets["MONITORING_PASSWORD"]

    def metrics(self, host: Host, password: str) -> str:
        """What an exporter tells; its certificate is verified for the address."""
        authority = self.data.run("cat /etc/datatier/tls/ca.pem").stdout
        login = base64.b64encode(f"prometheus:{password}".encode()).decode()
        request = urllib.request.Request(
            f"https://{host.address}:9100/metrics", headers={"Authorization": f"Basic {login}"}
        )
        context = ssl.create_default_context(cadata=authority)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return str(answer.read().decode())

    def has(self, unwell: dict[str, str]) -> None:
        """These rows of the health check are not well, and no others.

        What the kernel has killed is told of all hosts of a lab, since they have one kernel, and
        which updates are due is Debian's to say.
        """
        others = ("out of memory", " updates", " binaries")
        rows = {name: level for name, level in self.levels().items() if not name.endswith(others)}
        assert {name: level for name, level in rows.items() if level != "ok"} == unwell

    def levels(self) -> dict[str, str]:
        """The level of each row of the health check."""
        done = self.data.run("/scripts/health-check.sh --json", check=False)
        return {row["check"]: row["level"] for row in json.loads(done.stdout)["rows"]}


@pytest.fixture(scope="module")
def estate(lab: Lab, project: Project) -> Estate:
    """With certificates, a firewall, and a full backup."""
    data, pool = lab.installed_host("data", "debian12"), lab.installed_host("pool", "debian13")
    # As systemd does on a machine: who has a view of its own sees what is mounted later.
    pool.run("mount --make-rshared /")
    entries = {
        each: (each.name, {**each.ssh_data(), "address": each.address}) for each in (data, pool)
    }
    project.inventory(
        {"postgres": [entries[data]], "backup": [entries[data]], "pgbouncer": [entries[pool]]}
    )
    on = {"monitoring_enabled": True, "tls_enabled": True, "firewall_enabled": True}
    # This machine asks as somebody of the estate would.
    gateway = data.run("ip route show default").stdout.split()[2]
    project.settings({**NO_SCHEDULES, **on, "firewall_allow": [gateway]})
    project.deploy()
    data.run("/scripts/postgres-backup.sh full")
    return Estate(project, data, pool)


def test_who_has_the_password_is_told_and_nobody_else(estate: Estate) -> None:
    for host in (estate.data, estate.pool):
        assert "node_memory_MemAvailable_bytes" in estate.metrics(host, estate.password)
        for wrong in ("", "another-password"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                estate.metrics(host, wrong)
            assert refused.value.code == 401
        listening = host.run("ss -Hltn 'sport = :9100'").stdout.split()
        assert listening[3] == f"{host.address}:9100"
        read = "cat /etc/datatier/exporter/web.yml /etc/datatier/tls/exporter/key.pem"
        assert host.run(f"runuser -u nobody -- {read}", check=False).stdout == ""


def test_it_changes_nothing_of_its_host_and_sees_what_it_measures(estate: Estate) -> None:
    for host in (estate.data, estate.pool):
        said = host.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1").stdout
        assert float(said.split(": ")[1].split()[0]) <= 2.0, said
        told = estate.metrics(host, estate.password)
        for collector in ("filesystem", "meminfo", "vmstat", "systemd", "textfile", "timex"):
            assert f'node_scrape_collector_success{{collector="{collector}"}} 1' in told, collector
        assert 'node_systemd_unit_state{name="cron.service",state="active"' in told


def test_a_second_run_changes_nothing(estate: Estate) -> None:
    assert estate.project.deploy().changed == set()
    assert estate.project.drift().code == 0


def test_all_is_well_and_the_check_is_shown_to_prometheus(estate: Estate) -> None:
    estate.has({})
    told = estate.metrics(estate.data, estate.password)
    assert 'datatier_health_level{check="host pool"} 0' in told
    assert 'datatier_backup_last_success_timestamp_seconds{job="full"}' in told
    assert "node_textfile_scrape_error 0" in told


FAULTS = {
    "a disk is full": (
        "mount -t tmpfs -o size=1m none /var/log && head -c 1020000 /dev/zero >/var/log/full",
        "umount -l /var/log",
        {"host pool disk /var/log": "critical"},
    ),
    "inodes have run out": (
        "mount -t tmpfs -o nr_inodes=20 none /var/log && touch /var/log/$(seq -s ' /var/log/' 19)",
        "umount -l /var/log",
        {"host pool inodes /var/log": "critical"},
    ),
    "a unit of ours has failed": (
        "systemd-run -q --unit=app-broken false; sleep 0.5",
        "systemctl reset-failed app-broken",
        {"host pool units": "critical"},
    ),
    "a unit of others has failed": (
        "systemd-run -q --unit=broken false; sleep 0.5",
        "systemctl reset-failed broken",
        {"host pool units": "warning"},
    ),
    "the exporter is down": (
        f"systemctl stop {UNIT}",
        f"systemctl start {UNIT}",
        {"host pool": "critical"},
    ),
    "the exporter hangs": (
        f"kill -STOP $(systemctl show -p MainPID --value {UNIT})",
        f"kill -CONT $(systemctl show -p MainPID --value {UNIT})",
        {"host pool": "critical"},
    ),
}


@pytest.mark.parametrize("fault", [*FAULTS])
def test_a_fault_turns_its_row_and_no_other(estate: Estate, fault: str) -> None:
    do, undo, rows = FAULTS[fault]
    estate.pool.run(do)
    try:
        eventually(lambda: estate.has(rows), 30)
    finally:
        estate.pool.run(undo)
    eventually(lambda: estate.has({}), 30)


def test_what_a_host_has_looked_at_itself_is_told(estate: Estate) -> None:
    units = "datatier-host.timer datatier-host.service"
    estate.pool.run(f"systemctl stop {units}", check=False)
    due = 'datatier_updates_due{kind="security"} 2\ndatatier_old_binary{unit="redis"} 1\n'
    try:
        estate.pool.run(f"cat >{PROM}", stdin=due)
        levels = estate.levels()
        assert levels["host pool updates"] == levels["host pool binaries"] == "warning"
    finally:
        estate.pool.run(f"rm {PROM}; systemctl start {units}", check=False)
    assert estate.levels().get("host pool binaries", "ok") == "ok"


def test_what_runs_otherwise_is_named_and_put_back(estate: Estate) -> None:
    """Arguments, who owns where root writes, and who reads the hash."""
    estate.pool.run(
        f"sed -i 's/ --collector.systemd / --collector.systemd --collector.processes /'"
        f" /etc/default/{UNIT}\n"
        f"systemctl restart {UNIT}\n"
        "chmod 644 /etc/datatier/exporter/web.yml; chown prometheus /var/lib/prometheus"
    )
    assert estate.project.drift().code == 2
    said = estate.project.deploy().output
    for what in (
        f"/etc/default/{UNIT}: change",
        f"{UNIT}: restart (it runs with other arguments)",
        "/etc/datatier/exporter/web.yml: owner root:prometheus, mode 640",
        "/var/lib/prometheus: owner root:root, mode 755",
    ):
        assert f"[pool] {what}" in said or f"[pool]   {what}" in said, what
    assert estate.project.drift().code == 0


def test_another_password_takes_no_restart_and_the_old_one_is_refused(estate: Estate) -> None:
    before, start = estate.password, f"systemctl show -p MainPID --value {UNIT}"
    processes = [host.run(start).stdout for host in (estate.data, estate.pool)]
    estate.project.deploy("tasks.rotate.monitoring_password")
    estate.has({})
    estate.project.deploy("tasks.rotate.finish")
    estate.has({})
    assert estate.password != before
    assert [host.run(start).stdout for host in (estate.data, estate.pool)] == processes
    with pytest.raises(urllib.error.HTTPError):
        estate.metrics(estate.pool, before)


# --- Prometheus and Alertmanager -----------------------------------------------------------------


class _Receiver(BaseHTTPRequestHandler):
    """What gets alerts."""

    told: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told.extend(body["alerts"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *_: Any) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class Watch:
    """Prometheus on the host with the data, and what Alertmanager has told."""

    estate: Estate
    told: list[dict[str, Any]]

    def ask(self, expression: str) -> list[dict[str, str]]:
        """The labels of what Prometheus finds."""
        where = f"https://{self.estate.data.address}:9090"
        query = urllib.parse.urlencode({"query": expression})
        login = base64.b64encode(f"prometheus:{self.estate.password}".encode()).decode()
        request = urllib.request.Request(
            f"{where}/api/v1/query?{query}", headers={"Authorization": f"Basic {login}"}
        )
        authority = self.estate.data.run("cat /etc/datatier/tls/ca.pem").stdout
        context = ssl.create_default_context(cadata=authority)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return [each["metric"] for each in json.load(answer)["data"]["result"]]

    def firing(self) -> set[tuple[str, str]]:
        """Alerts and what they are of, but for what all hosts of a lab have in common."""
        found = self.ask('ALERTS{alertstate="firing",alertname!="DatatierOutOfMemory"}')
        return {(each["alertname"], each.get("check", each.get("host", ""))) for each in found}

    def fires(self, *wanted: tuple[str, str]) -> None:
        assert self.firing() == {*wanted}


@pytest.fixture(scope="module")
def watch(estate: Estate, lab: Lab) -> Iterator[Watch]:
    data, pool = estate.data, estate.pool
    gateway = data.run("ip route show default").stdout.split()[2]
    server = ThreadingHTTPServer((gateway, 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entries = {
        each: (each.name, {**each.ssh_data(), "address": each.address}) for each in (data, pool)
    }
    groups = {"postgres": data, "backup": data, "monitoring": data, "pgbouncer": pool}
    estate.project.inventory({name: [entries[host]] for name, host in groups.items()})
    on = {"monitoring_enabled": True, "tls_enabled": True, "firewall_enabled": True}
    told = {
        "alertmanager_webhook": f"http://{gateway}:{server.server_port}/",
        "prometheus_scrape_seconds": 5,
    }
    estate.project.settings({**NO_SCHEDULES, **on, **told, "firewall_allow": [gateway]})
    estate.project.deploy()
    estate.levels()
    yield Watch(estate, _Receiver.told)
    server.shutdown()


def test_prometheus_reaches_every_host_and_a_second_run_changes_nothing(watch: Watch) -> None:
    assert {each["host"] for each in watch.ask('up{job="datatier"} == 1')} == {"data", "pool"}
    assert watch.ask("up == 0") == []
    assert watch.estate.project.deploy().changed == set()
    assert watch.estate.project.drift().code == 0
    eventually(watch.fires, 30)
    listening = watch.estate.data.run("ss -Hltn '( sport = :9090 or sport = :9093 )'").stdout
    assert {line.split()[3] for line in listening.splitlines()} == {
        f"{watch.estate.data.address}:9090",
        f"{watch.estate.data.address}:9093",
    }
    for port in (9090, 9093):
        place = f"</dev/tcp/{watch.estate.data.address}/{port}"
        assert watch.estate.pool.run(f"bash -c '{place}'", check=False).returncode


def test_each_rule_fires_for_its_fault_and_no_other_does(watch: Watch) -> None:
    host, rules = watch.estate.data, "/etc/datatier/prometheus/rules.yml"
    host.run("cat >/root/tests.yml", stdin=promtool_tests(rules))
    assert "SUCCESS" in host.run("promtool test rules /root/tests.yml 2>&1").stdout
    host.run(f"sed 's/> 900$/> 9000/' {rules} >/root/rules.yml")
    host.run("cat >/root/tests.yml", stdin=promtool_tests("/root/rules.yml"))
    assert host.run("promtool test rules /root/tests.yml", check=False).returncode


# What there is none of where all is well.
_EMPTY = {"Not well now", "Alerts now", "Units that have failed", "Updates that are due"}
# Of what this estate does not have.
_ABSENT = {"Memory of Redis", "Age of the last drill that passed"}


def test_each_panel_of_the_dashboard_shows_something(watch: Watch) -> None:
    panels = json.loads((ROOT / "templates/monitoring/dashboard.json").read_text())["panels"]

    def shown() -> None:
        empty = {
            panel["title"]
            for panel in panels
            for target in panel["targets"]
            if not watch.ask(target["expr"].replace("$host", ".*"))
        }
        assert empty - _EMPTY == _ABSENT

    # A rate needs two looks.
    eventually(shown, 30)


def test_a_fault_is_an_alert_that_arrives_and_ends(watch: Watch) -> None:
    estate = watch.estate
    estate.pool.run("systemctl stop pgbouncer")
    try:
        levels = estate.levels()
        wrong = {("DatatierCritical", name) for name, each in levels.items() if each == "critical"}
        assert wrong
        eventually(lambda: watch.fires(*wrong), 40)

        def arrived() -> None:
            told = {each["labels"].get("check") for each in watch.told}
            assert {name for _, name in wrong} <= told

        eventually(arrived, 60)
    finally:
        estate.pool.run("systemctl start pgbouncer")
    estate.levels()
    eventually(watch.fires, 40)


def test_another_configuration_is_named_and_put_back(watch: Watch) -> None:
    """One that was reloaded by hand, and is away again."""
    host, path = watch.estate.data, "/etc/prometheus/prometheus.yml"
    host.run(
        f"cp -p {path} /root/kept; sed -i 's/job_name: alertmanager/job_name: other/' {path}"
        f"; systemctl reload prometheus; sleep 2; cp -p /root/kept {path}"
    )
    assert watch.estate.project.drift().code == 2
    said = watch.estate.project.deploy().output
    assert "prometheus: reload (it uses another configuration)" in said
    assert watch.estate.project.drift().code == 0
