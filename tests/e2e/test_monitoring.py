"""Story: each host tells how it is, to who has the password, and the health check asks all."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import quopri
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.prometheus.layout import SCRAPES
from tests.e2e.alerts import promtool_tests
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.interrupted import Interruptible
from tests.e2e.project import ROOT
from tests.e2e.proof import readers
from tests.e2e.receiver import Receiver, receiving
from tests.e2e.served import PASSWORD, Site, refuses_all_but_the_page
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

UNIT = "prometheus-node-exporter"
# What the exporter of a host shows beside what it measures.
SHOWN = "/var/lib/prometheus/node-exporter"
PROM = f"{SHOWN}/datatier-host.prom"
RULES = "/etc/datatier/prometheus/rules.yml"


def is_shared(check: str) -> bool:
    """Whether it is a row of what all hosts of a lab have in common, or of what Debian says."""
    return check.endswith(("out of memory", " updates", " binaries"))


@dataclass(frozen=True)
class Estate:
    """Two hosts of both releases: one has the data and the backups, the other one a pooler."""

    project: Interruptible
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
        levels = self.levels().items()
        rows = {name: level for name, level in levels if name in unwell or not is_shared(name)}
        assert {name: level for name, level in rows.items() if level != "ok"} == unwell

    def levels(self) -> dict[str, str]:
        """The level of each row of the health check."""
        done = self.data.run("/scripts/health-check.sh --json", check=False)
        return {row["check"]: row["level"] for row in json.loads(done.stdout)["rows"]}


@pytest.fixture(scope="module")
def estate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """With certificates, a firewall, and a full backup."""
    project = Interruptible(tmp_path_factory.mktemp("project"))
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
    served = {"status_page_port": 8443}
    # This machine asks as somebody of the estate would.
    gateway = data.run("ip route show default").stdout.split()[2]
    project.settings({**NO_SCHEDULES, **on, **served, "firewall_allow": [gateway]})
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


PAGE = "datatier-page"


def _page(estate: Estate) -> Site:
    return Site(estate.data.address, 8443, estate.data.run("cat /etc/datatier/tls/ca.pem").stdout)


def test_the_status_page_is_shown_to_who_has_the_password(estate: Estate) -> None:
    """The one of the last health check, over TLS."""
    host, site, login = estate.data, _page(estate), f"status:{estate.project.secrets[PASSWORD]}"
    host.run("/scripts/health-check.sh", check=False)
    first = site.ask(login)
    assert (first.status, first.headers["Cache-Control"]) == (200, "no-store")
    assert first.body == host.run("cat /backups/status.html").stdout
    host.run("/scripts/health-check.sh", check=False)
    second = site.ask(login).body
    assert second == host.run("cat /backups/status.html").stdout != first.body
    refuses_all_but_the_page(site, login)
    run = estate.project.pyinfra("inventory.py", "tasks.health.verify")
    assert re.search(r"status-page .*written 0 min ago", run.output), run.output


def test_strangers_are_not_shown_the_status_page(estate: Estate) -> None:
    """Nor may they guess often, or keep others out with connections that say nothing."""
    site, password = _page(estate), estate.project.secrets[PASSWORD]
    for login in ("", f"status:{password}x", f"root:{password}", f"status:{password[:-1]}"):
        said = site.ask(login)
        assert said.status == 401 and "Basic" in said.headers["WWW-Authenticate"], login
        time.sleep(1.2 if login else 0)
    statuses = [site.ask("status:a-wrong-guess").status for _ in range(3)]
    assert statuses[0] == 401 and 429 in statuses
    time.sleep(1.2)
    with contextlib.ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(site.silent())
        assert site.ask(f"status:{password}").status == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        Site(site.address, site.port).ask()
    closed = f"timeout 3 bash -c '</dev/tcp/{site.address}/8443'"
    assert estate.pool.run(closed, check=False).returncode != 0
    logged = estate.data.run(f"journalctl -qu {PAGE}").stdout
    assert "wrong user or password from" in logged and password not in logged


def test_the_user_of_the_status_page_reads_no_backup(estate: Estate) -> None:
    """Nor a password of others; and it can write nothing of its own."""
    host = estate.data
    assert host.run("ls /backups/postgres/*.gz").stdout
    secret = [*estate.project.secrets.values()]
    assert readers(host, PAGE, secret, "/etc", "/var/lib/datatier", "/backups", "/scripts") == []
    found = "find /backups /var/lib/postgresql /var/lib/datatier-page -readable -type f"
    assert host.run(f"runuser -u {PAGE} -- {found}", check=False).stdout.split() == [
        "/var/lib/datatier-page/status.html"
    ]
    mine = f"find / -xdev \\( -user {PAGE} -o -group {PAGE} -perm /020 \\) -not -path '/proc/*'"
    assert host.run(mine).stdout == ""
    said = host.run(f"systemd-analyze security --no-pager {PAGE} | tail -n 1").stdout
    assert float(said.split(": ")[1].split()[0]) <= 2.0, said


def test_another_password_of_the_status_page_takes_no_restart(estate: Estate) -> None:
    site, before = _page(estate), estate.project.secrets[PASSWORD]
    start = f"systemctl show -p MainPID --value {PAGE}"
    process = estate.data.run(start).stdout
    estate.project.deploy("tasks.rotate.status_page_password")
    assert site.ask(f"status:{before}").status == 401
    time.sleep(1.2)
    assert site.ask(f"status:{estate.project.secrets[PASSWORD]}").status == 200
    assert estate.data.run(start).stdout == process


# --- Prometheus and Alertmanager -----------------------------------------------------------------


@dataclass(frozen=True)
class Watch:
    """Prometheus on the host with the data, and what Alertmanager has told."""

    estate: Estate
    receiver: Receiver

    def told(self, check: str) -> set[str]:
        """As what a row has arrived at the webhook."""
        every = [each for body in self.receiver.alerts for each in body.get("alerts", ())]
        return {each["status"] for each in every if each["labels"].get("check") == check}

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

    def now(self) -> float:
        """By the clock of who scrapes, in seconds."""
        return float(self.estate.data.run("date +%s.%N").stdout)

    def scrapes(self, since: float) -> None:
        """Every host has answered Prometheus since then."""
        fresh = self.ask(f'up{{job="datatier"}} == 1 and timestamp(up) > {since}')
        assert {each["host"] for each in fresh} == {"data", "pool"}, fresh

    def firing(self) -> set[tuple[str, str]]:
        """Alerts and what they are of."""
        found = self.ask('ALERTS{alertstate="firing",alertname!="DatatierOutOfMemory"}')
        return {(each["alertname"], each.get("check", each.get("host", ""))) for each in found}

    def fires(self, *wanted: tuple[str, str]) -> None:
        """These alerts fire, and no others but those of what all hosts have in common."""
        assert {each for each in self.firing() if not is_shared(each[1])} == {*wanted}


MAILBOX = Path(__file__).with_name("mailbox.py")
LETTERS = "/root/letters"


def test_a_status_page_that_is_served_no_more_leaves_nothing(watch: Watch) -> None:
    host = watch.estate.data
    look = "ls -d /etc/datatier/page /var/lib/datatier-page /etc/systemd/system/datatier-page*"
    assert host.run(f"{look}; getent passwd {PAGE}", check=False).stdout == ""
    assert host.run("ss -Hltn 'sport = :8443'").stdout == ""
    host.run("/scripts/health-check.sh", check=False)
    assert host.run("ls /var/lib/datatier-page", check=False).returncode != 0


@pytest.fixture(scope="module")
def watch(estate: Estate, lab: Lab) -> Iterator[Watch]:
    data, pool = estate.data, estate.pool
    gateway = data.run("ip route show default").stdout.split()[2]
    data.run("cat >/root/mailbox.py", stdin=MAILBOX.read_text())
    data.run(f"setsid python3 /root/mailbox.py 25 {LETTERS} >/dev/null 2>&1 </dev/null &")
    entries = {
        each: (each.name, {**each.ssh_data(), "address": each.address}) for each in (data, pool)
    }
    groups = {"postgres": data, "backup": data, "monitoring": data, "pgbouncer": pool}
    estate.project.inventory({name: [entries[host]] for name, host in groups.items()})
    on = {"monitoring_enabled": True, "tls_enabled": True, "firewall_enabled": True}
    with receiving(gateway) as receiver:
        told = {
            "alertmanager_webhook": receiver.address,
            "alertmanager_slack": f"{receiver.address}/slack",
            "alertmanager_mail": "people@example.org",
            "alertmanager_mail_from": "watch@example.org",
            "prometheus_scrape_seconds": 5,
        }
        estate.project.settings({**NO_SCHEDULES, **on, **told, "firewall_allow": [gateway]})
        estate.project.deploy()
        estate.levels()
        yield Watch(estate, receiver)


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
    host, rules = watch.estate.data, RULES
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
            # A boundary of the mail may look like an encoded byte.
            mail = quopri.decodestring(estate.data.run(f"cat {LETTERS}").stdout)
            letters = mail.decode(errors="replace")
            slack = [body for body in watch.receiver.alerts if "attachments" in body]
            for _, name in wrong:
                assert watch.told(name) == {"firing"}
                assert f"{name} is critical" in letters
                assert any(f"{name} is critical" in json.dumps(body) for body in slack)

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


_OLD = f"""systemctl stop datatier-host.timer datatier-host.service
printf '%s 2\n' 'datatier_updates_due{{kind="security"}}' >{PROM}
printf '%s 1\n' 'datatier_old_binary{{unit="redis"}}' datatier_reboot_required >>{PROM}
echo "datatier_updates_due_since_timestamp_seconds $(date -d '-20 days' +%s)" >>{PROM}"""


class Fault(NamedTuple):
    """What is done to a host, how it is undone, which rows turn, and which alerts fire.

    Attributes:
        rows: None where the check does not run, or what it says is not looked at.
        alerts: what fires beside the alert of each row: names, and the host that they are of.
    """

    do: str
    undo: str
    rows: dict[str, str] | None
    alerts: set[tuple[str, str]]
    on: str = "pool"


def full(size: str, count: str) -> str:
    """Shell: a file system of its own at /var/log, so far full."""
    return f"mount -t tmpfs -o {size} none /var/log && {count}"


def filled(pages: int) -> str:
    """Shell: so many of 1024 pages are used."""
    return full("size=4m", f"head -c {4096 * pages} /dev/zero >/var/log/full")


def crowded(files: int) -> str:
    """Shell: so many of 100 inodes are used."""
    return full("nr_inodes=100", f"touch $(seq -f /var/log/%g {files - 1})")


def outdated(metric: str, days: float) -> str:
    """Shell: what the check has told so long ago."""
    before = f"$(date -d '-{round(days * 1440)} min' +%s)"
    return f'sed -i "s/^\\({metric}[^ ]*\\) .*/\\1 {before}/" {SHOWN}/datatier.prom'


EMPTIED = "umount -l /var/log"
FAULTS = {
    "a disk at 91 %": Fault(
        filled(932),
        EMPTIED,
        {"host pool disk /var/log": "warning"},
        {("DatatierDiskNearlyFull", "pool")},
    ),
    "a disk at 96 %": Fault(
        filled(984),
        EMPTIED,
        {"host pool disk /var/log": "critical"},
        {("DatatierDiskFull", "pool")},
    ),
    "inodes at 91 %": Fault(
        crowded(91),
        EMPTIED,
        {"host pool inodes /var/log": "warning"},
        set(),
    ),
    "inodes at 96 %": Fault(
        crowded(96),
        EMPTIED,
        {"host pool inodes /var/log": "critical"},
        {("DatatierInodesFull", "pool")},
    ),
    "a unit of ours has failed": Fault(
        "systemd-run -q --unit=app-broken false; sleep 0.5",
        "systemctl reset-failed app-broken",
        {"host pool units": "critical"},
        {("DatatierUnitFailed", "pool")},
    ),
    "a unit of others has failed": Fault(
        "systemd-run -q --unit=broken false; sleep 0.5",
        "systemctl reset-failed broken",
        {"host pool units": "warning"},
        set(),
    ),
    "the exporter is down": Fault(
        f"systemctl stop {UNIT}",
        f"systemctl start {UNIT}",
        {"host pool": "critical"},
        {("DatatierHostSilent", "pool")},
    ),
    "the exporter hangs": Fault(
        f"kill -STOP $(systemctl show -p MainPID --value {UNIT})",
        f"kill -CONT $(systemctl show -p MainPID --value {UNIT})",
        {"host pool": "critical"},
        {("DatatierHostSilent", "pool")},
    ),
    "an update has been due for weeks": Fault(
        _OLD,
        f"rm {PROM}; systemctl start datatier-host.timer datatier-host.service",
        {"host pool updates": "critical", "host pool binaries": "warning"},
        {(f"Datatier{each}", "pool") for each in ("UpdatesDue", "RebootRequired", "OldBinary")},
    ),
    "a file of metrics is not whole": Fault(
        f"echo damaged >{SHOWN}/broken.prom",
        f"rm {SHOWN}/broken.prom",
        {},
        {("DatatierTextfileError", "pool")},
    ),
    "the pooler cannot log in": Fault(
        "runuser -u postgres -- psql -Xqc 'ALTER ROLE pgbouncer NOLOGIN'",
        "runuser -u postgres -- psql -Xqc 'ALTER ROLE pgbouncer LOGIN'",
        {"pgbouncer {pool}:6432 query": "critical"},
        set(),
        "data",
    ),
    "cron is dead": Fault(
        outdated("datatier_health_last_run_timestamp_seconds", 0.02),
        "true",
        None,
        {("DatatierHealthStale", "data")},
        "data",
    ),
    "what the check has told is gone": Fault(
        f"rm {SHOWN}/datatier.prom",
        "true",
        None,
        {("DatatierHealthMissing", "")},
        "data",
    ),
    "no full for ten days": Fault(
        outdated("datatier_backup_last_success_timestamp_seconds", 10),
        "true",
        None,
        {("DatatierBackupOld", "data")},
        "data",
    ),
    "Prometheus refuses its rules": Fault(
        "mkdir -p /etc/prometheus/rules; echo damaged >/etc/prometheus/rules/wrong.yml"
        "; systemctl reload prometheus || true",
        "rm /etc/prometheus/rules/wrong.yml; systemctl reload prometheus",
        {},
        {("DatatierConfigRefused", "data")},
        "data",
    ),
}


@pytest.fixture(scope="module")
def hasty(watch: Watch) -> Iterator[Watch]:
    """For this story only, rules fire at once, and all is asked each second.

    Two keep their time: a disk of a lab may fill up, and its clock is set by no other.
    """
    host, slow = watch.estate.data, ("DatatierDiskFills", "DatatierClockAlone")
    kept = {path: host.run(f"cat {path}").stdout for path in (RULES, SCRAPES)}
    every = re.split(r"(?m)^(?=      - alert: )", kept[RULES])
    hurried = "".join(
        each if each[15:].startswith(slow) else re.sub(r"(?m)^        for: .*\n", "", each)
        for each in every
    )
    host.run(f"cat >{RULES}", stdin=hurried)
    asked = re.sub(r"(?m)(_interval: )5s$", r"\g<1>1s", kept[SCRAPES])
    host.run(f"cat >{SCRAPES}; systemctl reload prometheus", stdin=asked)
    yield watch
    for path, content in kept.items():
        host.run(f"cat >{path}", stdin=content)
    host.run("systemctl reload prometheus")


@pytest.mark.parametrize("name", [*FAULTS])
def test_a_fault_turns_its_row_fires_its_alert_and_no_other(hasty: Watch, name: str) -> None:
    estate, fault = hasty.estate, FAULTS[name]
    host, pool = getattr(estate, fault.on), estate.pool.address
    rows = {check.format(pool=pool): level for check, level in (fault.rows or {}).items()}
    of_rows = {(f"Datatier{level.title()}", check) for check, level in rows.items()}
    alerts = {each for each in of_rows if not is_shared(each[1])} | fault.alerts
    host.run(fault.do)
    try:
        if fault.rows is not None:
            eventually(lambda: estate.has(rows), 30)
        eventually(lambda: hasty.fires(*alerts), 30)
    finally:
        host.run(fault.undo)
    eventually(lambda: estate.has({}), 30)
    eventually(hasty.fires, 30)


def test_a_rotation_that_is_killed_at_each_change_goes_on(watch: Watch) -> None:
    """Exporters and who asks them agree again at the end of each step."""
    project, before = watch.estate.project, watch.estate.password
    made = list[tuple[str, str]]()
    for step in ("monitoring_password", "finish"):
        made += project.to_its_end(f"tasks.rotate.{step}")
        assert project.deploy().changed == set()
        eventually(partial(watch.scrapes, watch.now()), 30)
    assert len(made) > 3, made
    assert "MONITORING_PASSWORD_PREVIOUS" not in project.secrets
    for host in (watch.estate.data, watch.estate.pool):
        assert watch.estate.metrics(host, watch.estate.password)
        with pytest.raises(urllib.error.HTTPError):
            watch.estate.metrics(host, before)
