"""Story: the whole stack on one host over SSH, by every kind of user who may log in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.e2e import website
from tests.e2e.groups import estates
from tests.e2e.project import Project, Run, embedded
from tests.e2e.proof import (
    SERVICES,
    CommandLines,
    Done,
    Stack,
    command_lines,
    main_process,
    readers,
    said,
)
from tests.e2e.wait import eventually
from tests.lab import OPERATOR_PASSWORD, Host, Lab
from tests.lab.images import installed_image
from tests.lab.process import docker

KEPT = "written before the kills"


@dataclass(frozen=True)
class Site:
    """A host that has been deployed to, with what was seen meanwhile."""

    project: Project
    stack: Stack
    plan: Run
    first: Run
    lines: CommandLines
    log: str

    @property
    def hidden(self) -> dict[str, str]:
        """What nobody may see."""
        return {**self.project.secrets, "sudo password": OPERATOR_PASSWORD}


ESTATES = estates(
    "test_ssh_hosts",
    debian12_root=("debian12", "root"),
    debian13_sudo=("debian13", "deploy"),
    debian12_sudo_password=("debian12", "operator"),
)
# Units are the same, whoever has put them there.
once_a_release = pytest.mark.parametrize("site", ESTATES[:2], indirect=True)


# What people have exported for their own servers, and what an administrator's psql does.
_EXPORTED = """
PGHOST=203.0.113.9
PGPORT=9
PGUSER=guest
PGPASSWORD=guess
PGSERVICE=elsewhere
PGSSLMODE=verify-full
PGOPTIONS="-c search_path=nowhere -c statement_timeout=1"
PGBACKREST_STANZA=other
REDISCLI_AUTH=guess
POSIXLY_CORRECT=1
TMPDIR=/nowhere
"""
_PSQLRC = "\\timing on\n\\pset format html\nSELECT 1/0;\n"


def _mislead(host: Host) -> None:
    """Leads psql, pgBackRest and redis-cli elsewhere, for every session over SSH."""
    host.run("cat >>/etc/environment", stdin=_EXPORTED)
    for home in ("/root", "/home/deploy", "/home/operator"):
        host.run(f"cat >{home}/.psqlrc", stdin=_PSQLRC)


@pytest.fixture(scope="module", params=ESTATES)
def site(
    request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A bare host, planned and then deployed, everything printed that can be."""
    release, user = request.param
    name = f"{user}-on-{release}"
    host = lab.host(name, release)
    _mislead(host)
    project = Project(tmp_path_factory.mktemp(name))
    sudo = {"_sudo_password": OPERATOR_PASSWORD} if user == "operator" else {}
    project.inventory(embedded(name, host, user, **sudo))
    project.settings({"apps": website.APPS})
    website.put(host)
    plan = project.plan()
    assert not (project.directory / ".env").exists()
    with command_lines([host]) as lines:
        first = project.deploy("deploy.py", "-vvv", "--diff")
    stack = Stack(host, project.secrets)
    stack.remember(KEPT)
    yield Site(project, stack, plan, first, lines, host.run("journalctl -q --no-pager -a").stdout)
    host.remove()


def test_first_run_does_what_the_dry_run_said(site: Site) -> None:
    """The plan of the bare host names every operation that then changed something."""
    assert len(site.first.changed) > 10
    assert site.plan.planned == site.first.changed


def test_second_run_changes_nothing(site: Site) -> None:
    """Nothing is done twice, and nothing is planned."""
    assert site.project.deploy().changed == set()
    again = site.project.plan("deploy.py", "--diff")
    assert again.planned == set()
    assert "/dev/null" not in again.stderr and "@@" not in again.stderr


@once_a_release
def test_what_a_user_has_exported_leads_no_job_elsewhere(site: Site) -> None:
    """A backup by hand, over SSH, where psql alone is led to another server."""

    def asked(command: str) -> Done:
        words = [*site.stack.host.ssh_command(), command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)

    assert said(asked("printenv PGHOST PGSERVICE")) == "203.0.113.9\nelsewhere"
    assert asked("psql -c 'SELECT 1'").returncode == 2
    said(asked("/scripts/postgres-backup.sh full"))


def test_an_installed_host_has_what_was_installed(site: Site) -> None:
    """The hosts on which other stories begin: not a package more or less, in no other version."""
    ask = ["dpkg-query", "-W"]
    image = installed_image(site.stack.host.release)
    listed = docker("run", "--rm", image, *ask).stdout
    assert listed == site.stack.host.run(" ".join(ask)).stdout


def test_services_answer_those_with_a_password(site: Site) -> None:
    """SQL through the pooler, replication, quorum; nothing for anybody else."""
    assert site.stack.sql("SELECT current_user, current_database()") == "psscript|psscript"
    site.stack.check_replicates()
    for port in (26379, 26380, 26381):
        eventually(lambda: site.stack.check(f"redis-sentinel-{port}", KEPT), 10)  # noqa: B023
    site.stack.check_refuses_strangers()


def test_no_password_shows(site: Site) -> None:
    """Not in the output at -vvv with diffs, nor in the process list, nor in the journal."""
    seen = "\n".join(site.lines.by_host.values())
    assert "apt-get" in seen and ">>> " in site.first.stderr and "redis-6379" in site.log
    for place in (site.first.output, seen, site.log):
        assert [name for name, value in site.hidden.items() if value in place] == []


def test_pages_have_checksums(site: Site) -> None:
    """The cluster was made to notice a failing disk."""
    assert site.stack.sql("SHOW data_checksums", port=5432) == "on"


def _client(stack: Stack) -> psycopg.Connection:
    address, password = stack.host.address, stack.role_password
    return psycopg.connect(host=address, port=6432, user="psscript", password=password)


def test_prepared_statements_through_the_pooler(site: Site) -> None:
    """Two clients prepare the same name and are served by whichever connection is free."""
    if site.stack.host.release == "debian12":
        pytest.skip("needs PgBouncer 1.21")
    first, second = _client(site.stack), _client(site.stack)
    with first, second:
        for number in range(20):
            for connection, sign in ((first, 1), (second, -1)):
                query = f"SELECT %s::int * {sign}"
                row = connection.execute(query, (number,), prepare=True).fetchone()
                connection.commit()
                assert row == (number * sign,)


@once_a_release
@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_comes_back(site: Site, service: str) -> None:
    """Within ten seconds, without help, with what was written before."""
    site.stack.check_survives_kill(service, KEPT, seconds=10)


def test_an_application_reads_the_stack(site: Site) -> None:
    """Through the pooler and Sentinel, with what was stated; its passwords are its own."""
    host = site.stack.host
    website.check(host)
    place = "/etc/datatier/app-website"
    assert readers(host, "app-website", [site.stack.role_password], place) != []
    assert readers(host, "app-worker", [site.stack.role_password], place) == []


@once_a_release
def test_an_application_comes_back(site: Site) -> None:
    """Killed, after a restart of PostgreSQL, and with another master."""
    host, unit = site.stack.host, site.stack.postgres_unit
    before = website.check(host)
    host.run(f"kill -9 {before['pid']} && systemctl restart {unit}")
    eventually(lambda: website.check(host), 20)
    site.stack.redis(26379, "SENTINEL", "FAILOVER", "mymaster")

    def led_by_another() -> None:
        assert website.check(host)["master"] != before["master"]

    eventually(led_by_another, 30)
    assert website.ask(host)["pid"] != before["pid"]


@once_a_release
def test_a_changed_variable_restarts_one_application(site: Site) -> None:
    """The plan says so, and which; its neighbor goes on."""
    host, env = site.stack.host, {**website.ODD, "HASH": "#y", "NEW": "$x"}
    site.project.settings({"apps": [{**website.WEBSITE, "env": env}, website.WORKER]})
    before = {name: main_process(host, name) for name in ("app-website", "app-worker")}
    plan = site.project.plan()
    assert any(line.endswith("app-website: restart (HASH, NEW)") for line in plan.announced)
    run = site.project.deploy()
    assert (run.changed, run.announced) == (plan.planned, plan.announced)
    assert {operation for operation, _ in run.changed} == {
        "Applications: users and files",
        "Applications: services",
    }
    after = {name: main_process(host, name) for name in before}
    assert after["app-worker"] == before["app-worker"]
    assert after["app-website"] != before["app-website"]
    website.check(host, env)


def test_everything_comes_back_after_a_power_cut(site: Site) -> None:
    """All services start at boot, with what was written, and nothing is left to repair."""
    host = site.stack.host
    host.kill()
    host.start()

    def back() -> None:
        for service in SERVICES:
            site.stack.check(service, KEPT)
        website.ask(host)

    eventually(back, 60)
    assert site.project.deploy().changed == set()


@once_a_release
def test_an_application_that_left_is_named_and_goes_when_it_may(site: Site) -> None:
    """Its neighbor goes on; the user stays, with the number that its files have."""
    host, project = site.stack.host, site.project
    project.settings({"apps": [website.WEBSITE]})
    project.deploy()
    names = ("app-website", "app-worker")
    website_now, worker = (main_process(host, name) for name in names)
    told = "app-worker: is no longer in this host's settings; apps_prune would remove it"
    drift = project.drift()
    assert (drift.code, told in drift.stdout) == (0, True), drift.output
    project.settings({"apps": [website.WEBSITE], "apps_prune": True})
    plan, run = project.plan(), project.deploy()
    assert plan.planned == run.changed == {("Prune: services", f"{host.name}")}
    assert f"[{host.name}] app-worker: stop and remove (restart)" in run.announced
    assert host.run(f"test -e /proc/{worker.pid}", check=False).returncode == 1
    left = "/etc/systemd/system/*app-worker* /etc/datatier/app-worker /var/lib/datatier/app-worker*"
    assert host.run(f"ls -d {left} 2>/dev/null || :").stdout == ""
    assert host.run("id -un app-worker").stdout.strip() == "app-worker"
    assert main_process(host, names[0]) == website_now
    website.check(host)
    assert project.deploy().changed == set()
