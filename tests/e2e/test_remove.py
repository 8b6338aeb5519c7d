"""Story: the stack comes off a host and comes back with its data, until these are to go too."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.e2e import links, proof
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.project import PYINFRA, Project, Run, embedded, footprint
from tests.e2e.proof import SERVICES, Stack
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

KEPT = "written before the removal"
TASK = "tasks.remove.deploy"
SETTINGS = {**NO_SCHEDULES, "firewall_enabled": True}
DATA = ("/var/lib/postgresql/15/main", "/var/lib/redis/6379", "/backups")


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """A host with a firewall of its own."""
    host = lab.installed_host("whole")
    host.run("DEBIAN_FRONTEND=noninteractive apt-get -qq install ufw", timeout=300)
    host.run("ufw allow 22/tcp && ufw --force enable")
    return host


@pytest.fixture(scope="module")
def others(host: Host) -> str:
    """The rules of that firewall before ours was there."""
    return _rules_of_others(host)


def _rules_of_others(host: Host) -> str:
    saved = "{ iptables-save; ip6tables-save; } | grep -v '^#' | sed 's/ \\[.*//'"
    rules = host.run(saved).stdout
    assert "ufw-user-input" in rules
    return rules


@pytest.fixture(scope="module")
def stack(host: Host, project: Project, others: str) -> Stack:
    """The whole stack on one host, with a row and a key in it."""
    project.inventory(embedded("whole", host))
    project.settings(SETTINGS)
    project.deploy()
    made = Stack(host, project.secrets)
    made.remember(KEPT)
    return made


def _check_gone(host: Host) -> None:
    """Asserts that nothing runs, would start, or is left in a file that holds a password."""
    # The engine below answers questions about names.
    listening = host.run("ss -Hltnp").stdout.splitlines()
    assert [line for line in listening if "sshd" not in line and "127.0.0.11:" not in line] == []
    names = "postgresql pgbouncer redis-server pgbackrest redis-6379 redis-sentinel-26379"
    states = host.run(f"systemctl is-enabled {names} 2>/dev/null", check=False).stdout.split()
    assert set(states) <= {"disabled", "not-found", "static"}, states
    marked = "grep -rl 'Written by Datatier' /etc /usr/local /scripts 2>/dev/null"
    # Who may log in belongs to the cluster, which stays.
    found = set(host.run(marked, check=False).stdout.split())
    assert found <= {"/etc/postgresql/15/main/pg_hba.conf"}
    assert "datatier" not in host.run("nft list tables").stdout
    assert host.run("ls -d /etc/cron.d/datatier* /usr/lib/datatier", check=False).stdout == ""
    assert host.run("systemctl is-active cron").stdout.strip() == "active"


def test_another_firewall_goes_on(stack: Stack, others: str) -> None:
    """Its rules are as they were, and ours stay whatever it does."""
    host, table = stack.host, "nft list table inet datatier"
    assert _rules_of_others(host) == others
    ours = host.run(table).stdout
    for act in ("ufw reload", "ufw disable", "ufw --force enable"):
        host.run(act)
        assert host.run(table).stdout == ours, act


def test_refused_while_a_backup_job_runs(stack: Stack, project: Project) -> None:
    """One line; nothing but the schedule has gone, and the stack serves."""
    holder = "setsid flock -o /run/datatier/backup-redis.lock sleep 300 >/dev/null 2>&1 </dev/null"
    stack.host.run(f"install -d -m 700 /run/datatier; {holder} & echo $! >/run/holder.pid")
    run = project.pyinfra("-y", "inventory.py", TASK)
    stack.host.run("kill $(cat /run/holder.pid)")
    assert run.code == 1
    check_lines(run, [("[whole]", "a backup job holds /run/datatier/backup-redis.lock")])
    for service in SERVICES:
        stack.check(service, KEPT)


# Where service users have directories; what we write there, and what else the run has to read.
PLACES = (
    *("/etc/redis", "/etc/postgresql", "/run/postgresql"),
    *("/var/lib/redis", "/var/lib/postgresql"),
)
WRITTEN = re.compile(r"/datatier\.conf|/redis\.conf|/postmaster\.opts")


def _changed(project: Project, number: int) -> Run:
    """A run with something to change in every file, and other passwords."""
    names = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "PGBOUNCER_AUTH_PASSWORD")
    secrets = {name: f"{project.secrets[name]}{number}" for name in names}
    choices = {
        "postgres_work_mem": f"{number}MB",
        "postgres_hba": [f"host psscript psscript 203.0.113.{number}/32 scram-sha-256"],
        "pgbouncer_query_wait_timeout": 100 + number,
        "redis_maxmemory": f"{300 + number}mb",
        "redis_password": secrets["REDIS_PASSWORD"],
        "postgres_password": secrets["POSTGRES_PASSWORD"],
    }
    project.settings({**SETTINGS, **choices})
    return project.pyinfra("-y", "--diff", "inventory.py", "deploy.py")


def test_links_of_service_users_lead_root_nowhere(stack: Stack, project: Project) -> None:
    """Every entry of their directories in turn: no victim is touched, and none is shown."""
    found = links.entries(stack.host, *PLACES)
    ours = [path for path in found if WRITTEN.search(path)]
    assert len(ours) == 5
    with links.planted(stack.host, ours):
        run = _changed(project, 5)
        assert run.code == 0, run.output
        assert links.CONTENT not in run.output
        assert proof.admin(stack.host, "SHOW work_mem") == "5MB"
    # Debian's program reads them before it becomes the user that it starts or reloads for.
    (conf,) = (path for path in ours if "/conf.d/" in path)
    with links.planted(stack.host, [conf], is_unread=True):
        stack.host.run("systemctl reload 'postgresql@*'", check=False)
    others = [path for path in found if path not in ours]
    for number, wave in enumerate(links.waves(others), 6):
        with links.planted(stack.host, wave):
            assert links.CONTENT not in _changed(project, number).output
    project.settings(SETTINGS)
    users = "/etc/pgbouncer/userlist.txt"
    stack.host.run(f"mv {users} /root/users && ln -s /root/users {users}")
    refused = project.pyinfra("-y", "inventory.py", "deploy.py")
    check_lines(refused, [(f"pgbouncer: {users} is not Datatier's",), ("nothing was changed",)])
    stack.host.run(f"mv -T /root/users {users}")
    project.deploy()
    for service in SERVICES:
        eventually(lambda service=service: stack.check(service, KEPT), 60)  # type: ignore[misc]
    assert project.plan().planned == set()


def _killed_at(project: Project, operation: str) -> None:
    """A run whose process is killed when an operation begins."""
    command = [str(PYINFRA), "-y", "inventory.py", TASK]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=project.directory, stderr=pipe, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if operation in line:
                break
        else:
            pytest.fail(f"{operation} never began")
        run.kill()


def test_an_interrupted_removal_is_finished_by_the_next(
    stack: Stack, project: Project, others: str
) -> None:
    """The plan names everything; what is left is in the plan of the next run, until nothing is."""
    # As a first drill makes it.
    stack.host.run("useradd --system --gid nogroup datatier-scratch")
    plan = project.plan(TASK)
    assert "user datatier-scratch: remove" in plan.output
    for line in ("redis-6379: stop and remove", "postgres: stop and remove", "pgbouncer: stop"):
        assert line in plan.output
    for path in DATA:
        assert f"{path}: stays; destroy_data and confirm would remove it" in plan.output
    _killed_at(project, "Remove: Redis")
    plan = project.plan(TASK)
    assert ("Remove: PostgreSQL", "whole") in plan.planned
    assert ("Remove: Sentinel", "whole") not in plan.planned
    assert project.deploy(TASK).changed == plan.planned
    assert project.deploy(TASK).changed == project.plan(TASK).planned == set()
    _check_gone(stack.host)
    assert _rules_of_others(stack.host) == others
    assert stack.host.run("id datatier-scratch", check=False).returncode == 1
    words = list(project.secrets.values())
    places = ("/etc", "/var/lib", "/usr/local", "/opt", "/root", "/run")
    assert proof.readers(stack.host, "root", words, *places) == []


def test_it_comes_back_with_its_data(stack: Stack, project: Project) -> None:
    """A deployment finds the row, the key and the backups where they were."""
    project.deploy()
    for service in SERVICES:
        eventually(lambda service=service: stack.check(service, KEPT), 60)  # type: ignore[misc]
    assert project.deploy().changed == set()


@pytest.mark.parametrize("given", [(), ("confirm=psscrpt",)])
def test_data_are_destroyed_by_name_only(
    stack: Stack, project: Project, given: tuple[str, ...]
) -> None:
    """Without the stack's name, or with a misspelt one, nothing is touched."""
    before = footprint(stack.host)
    words = [word for item in ("destroy_data=true", *given) for word in ("--data", item)]
    run = project.pyinfra("-y", *words, "inventory.py", TASK)
    assert run.code == 1
    refusal = ("whole: confirm: should be 'psscript'", "whose data are to be destroyed")
    check_lines(run, [refusal, ("nothing was changed",)])
    assert footprint(stack.host) == before


def test_data_are_destroyed(stack: Stack, project: Project) -> None:
    """Cluster, Redis directories and backups; what links in them lead to stays."""
    given = ("--data", "destroy_data=true", "--data", "confirm=psscript")
    plan = project.plan(TASK, *given)
    for path in DATA:
        assert f"{path}: remove" in plan.output
    old = f"{DATA[1]}/old"
    stack.host.run(f"runuser -u redis -- touch {old}")
    with links.planted(stack.host, [f"{DATA[0]}/pg_serial", old]):
        assert project.deploy(TASK, *given).changed == plan.planned
    assert project.deploy(TASK, *given).changed == project.plan(TASK, *given).planned == set()
    _check_gone(stack.host)
    left = "ls -A /var/lib/postgresql /etc/postgresql /var/lib/redis; ls -d /backups"
    assert stack.host.run(left, check=False).stdout.split() == [
        "/etc/postgresql:",
        "/var/lib/postgresql:",
        "/var/lib/redis:",
    ]
