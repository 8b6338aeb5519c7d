"""Story: a data directory is lost, and restore-cluster.sh brings the cluster back in place."""

from __future__ import annotations

import time

import pytest

from tests.e2e.backups import NO_SCHEDULES, archive, rows, script, succeeded, write
from tests.e2e.project import Project, embedded
from tests.e2e.proof import Stack, admin, said
from tests.e2e.wait import eventually
from tests.lab import Lab

pytestmark = pytest.mark.xdist_group("lost-directory")


@pytest.fixture(scope="module")
def alone(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Everything on one host, with a full backup, rows, an incremental, rows, a moment, rows."""
    host = lab.host("alone", "debian13")
    project = Project(tmp_path_factory.mktemp("alone"))
    project.settings(NO_SCHEDULES)
    project.inventory(embedded("alone", host))
    project.deploy()
    stack = Stack(host, project.secrets)
    stack.sql("CREATE TABLE notes (id serial PRIMARY KEY, word text)")
    succeeded(script(host, "postgres-backup.sh full"))
    write(stack, "incremental")
    succeeded(script(host, "postgres-backup.sh incremental"))
    write(stack, "moment")
    return stack


DATA = "/var/lib/postgresql/17/main"


def test_a_lost_data_directory_comes_back(alone: Stack) -> None:
    """While the server runs, and with a client in it: to the moment, the point, and the end."""
    host = alone.host
    time.sleep(1)
    moment = admin(host, "SELECT now()")
    time.sleep(1)
    write(alone, "end")
    archive(host)
    name = host.run("ls /backups/postgres | grep -o 'psscript_incremental_[0-9_]*'").stdout.strip()

    # To the end, with nothing there any more; the others with the last one's cluster there.
    host.run(f"rm -rf {DATA}")
    done = succeeded(script(host, "restore-cluster.sh"))
    assert "timeline 2" in done.stderr
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == ["incremental", "moment", "end"]

    succeeded(script(host, f"restore-cluster.sh --yes --time '{moment}'"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == ["incremental", "moment"]

    host.run(f"rm -rf {DATA}/*")
    done = succeeded(script(host, f"restore-cluster.sh --incremental {name}"))
    assert f'at restore point "{name.removeprefix("psscript_")}"' in done.stderr
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == ["incremental"]

    # What an earlier restore left behind is on another timeline.
    missed = script(host, f"restore-cluster.sh --yes --time '{moment}'")
    assert missed.returncode == 1 and "--timeline chooses another" in missed.stderr
    succeeded(script(host, f"restore-cluster.sh --yes --timeline 1 --time '{moment}'"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == ["incremental", "moment"]
    succeeded(script(host, "postgres-backup.sh full"))
    kept = host.run(f"ls -d {DATA}.*_2*").stdout.split()
    assert len(kept) == 3 and all(host.run(f"ls {path}/PG_VERSION").stdout for path in kept)


def test_an_interrupted_restore_is_repaired_by_the_next(alone: Stack) -> None:
    """Killed in the middle of it, with a server left behind that recovers."""
    host = alone.host
    archive(host)
    wanted = rows(alone)
    host.run("cd / && setsid /scripts/restore-cluster.sh --yes >/dev/null 2>&1 &")
    restoring = f"test -e {DATA}.restoring -a -e {DATA}/postmaster.pid"
    eventually(lambda: said(host.run(restoring, check=False)), 30)
    host.run("kill -9 $(pgrep -f [r]estore-cluster.sh)")
    assert script(host, "restore-cluster.sh").returncode == 2
    succeeded(script(host, "restore-cluster.sh --yes"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == wanted


def test_a_missing_segment_is_not_passed_over(alone: Stack) -> None:
    """Recovery would end there without a word."""
    host = alone.host
    write(alone, "before the gap")
    archive(host)
    last = admin(host, "SELECT pg_walfile_name(pg_current_wal_lsn())")
    write(alone, "in the gap")
    archive(host)
    write(alone, "after the gap")
    archive(host)
    host.run(f"rm /backups/pgbackrest/archive/psscript/17-1/*/{last}-*")
    gap = script(host, "restore-cluster.sh --yes")
    assert gap.returncode == 1 and "the archive goes on to" in gap.stderr
    assert said(host.run("systemctl is-active postgresql@17-main || true")) != "active"
