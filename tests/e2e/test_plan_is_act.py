"""Story: one host with everything on it; what is planned, what the gate says, what a run does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.project import Project, embedded, footprint
from tests.e2e.proof import Stack
from tests.lab import Host, Lab

pytestmark = pytest.mark.xdist_group("plan-is-act")

CANARIES = {
    "POSTGRES_PASSWORD": "canary-of-the-superuser-1",
    "POSTGRES_ROLE_PSSCRIPT_PASSWORD": "canary-of-the-role-2",
    "PGBOUNCER_AUTH_PASSWORD": "canary-of-the-pooler-3",
    "REDIS_PASSWORD": "canary-of-redis-4",
    "BACKUP_ROLE_PASSWORD": "canary-of-the-backup-5",
}


@dataclass
class Site:
    """The host, the project that deploys to it, and the choices made so far."""

    host: Host
    project: Project
    choices: dict[str, Any] = field(default_factory=dict)

    @property
    def stack(self) -> Stack:
        """What its clients say."""
        return Stack(self.host, self.project.secrets)

    def choose(self, **choices: Any) -> None:
        """States choices in group_data, beside those made before."""
        self.choices.update(choices)
        self.project.settings(self.choices)


@pytest.fixture(scope="module")
def site(lab: Lab, project: Project) -> Site:
    """The embedded stack with passwords that one can search for."""
    host = lab.host("one")
    project.inventory(embedded("one", host, **NO_SCHEDULES))
    secrets = project.directory / ".env"
    secrets.write_text("".join(f"{name}={value}\n" for name, value in CANARIES.items()))
    secrets.chmod(0o600)
    project.deploy()
    return Site(host, project)


# --- The gate ------------------------------------------------------------------------------------


def _gate(site: Site, *arguments: str) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and changes with their impact; the host is as it was."""
    before = footprint(site.host)
    run = site.project.drift("--json", *arguments)
    assert footprint(site.host) == before
    changes = json.loads(run.stdout)["changes"]
    assert {each["host"] for each in changes} <= {"one"}
    return run.code, [(each["change"], each["impact"]) for each in changes]


def _data(**values: Any) -> list[str]:
    return [word for key, value in values.items() for word in ("--data", f"{key}={value}")]


def test_gate_where_nothing_is_pending(site: Site) -> None:
    assert _gate(site) == (0, [])


def test_gate_where_a_reload_is_pending(site: Site) -> None:
    changes = [("/etc/pgbouncer/pgbouncer.ini: change", "none"), ("pgbouncer: reload", "reload")]
    assert _gate(site, *_data(pgbouncer_default_pool_size=20)) == (2, changes)


def test_gate_where_a_restart_is_pending(site: Site) -> None:
    code, changes = _gate(site, "tasks.postgres.configure", *_data(postgres_max_connections=120))
    restart = ("postgres: restart (max_connections: postmaster context)", "restart")
    assert (code, changes[1:]) == (2, [restart])


@pytest.mark.parametrize(
    ("data", "why"),
    [({"redis_maxmemory": "much"}, "redis_maxmemory"), ({"ssh_port": 9}, "Could not connect")],
)
def test_gate_that_cannot_compare(site: Site, data: dict[str, Any], why: str) -> None:
    """A setting that is wrong, a host that cannot be reached."""
    run = site.project.drift("--json", *_data(**data))
    assert (run.code, run.stdout) == (1, "")
    assert why in run.stderr


def test_gate_shows_no_secret(site: Site) -> None:
    """Neither the old password nor the new one."""
    site.project.settings({"redis_password": "canary-of-another-6"})
    runs = [site.project.drift("--diff", "-vvv", *form) for form in ([], ["--json"])]
    site.project.settings({})
    for run in runs:
        assert run.code == 2 and "redis-sentinel-26379: password of the master" in run.stdout
        assert "+requirepass <secret" in run.stderr
        canaries = (*CANARIES.values(), "canary-of-another-6")
        assert [word for word in canaries if word in run.output] == []


def test_gate_finds_what_somebody_edited(site: Site) -> None:
    """By hand on the host; a run takes it back."""
    site.host.run("sed -i 's/^default_pool_size = .*/default_pool_size = 7/' /etc/pgbouncer/*.ini")
    changes = [("/etc/pgbouncer/pgbouncer.ini: change", "none"), ("pgbouncer: reload", "reload")]
    assert _gate(site) == (2, changes)
    site.project.deploy()
    assert _gate(site) == (0, [])


def test_gate_finds_what_somebody_stopped(site: Site) -> None:
    """A service and a role's attribute are no files."""
    site.host.run("systemctl stop redis-sentinel-26381")
    site.host.run('runuser -u postgres -- psql -qc "ALTER ROLE psscript CREATEDB"')
    changes = [("role psscript: NOCREATEDB", "none"), ("redis-sentinel-26381: start", "none")]
    assert _gate(site) == (2, changes)
    site.project.deploy()
    assert _gate(site) == (0, [])
