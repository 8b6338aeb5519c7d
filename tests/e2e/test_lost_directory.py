"""Story: a data directory is lost, and restore-cluster.sh brings the cluster back in place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e import links
from tests.e2e.backups import NO_SCHEDULES, archive, rows, script, succeeded, write
from tests.e2e.project import Project, embedded
from tests.e2e.proof import Stack, admin, said
from tests.e2e.wait import eventually
from tests.lab import Host, Lab


@pytest.fixture(scope="module")
def alone(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Everything on one host, with a full backup, rows, an incremental, rows, a moment, rows."""
    host = lab.installed_host("alone", "debian13")
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
    host.run(f"rm -rf {DATA}; echo mine >/root/victim; chmod 600 /root/victim")
    for beside in ("restoring", "restore.log"):
        host.run(f"ln -s /root/victim {DATA}.{beside}", user="postgres")
    done = succeeded(script(host, "restore-cluster.sh"))
    assert "timeline 2" in done.stderr
    assert said(host.run("stat -c '%U %a' /root/victim; cat /root/victim")) == "root 600\nmine"
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
    assert missed.returncode == 1 and "--timeline chooses another" in missed.stderr, missed.stderr
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

    def let_go() -> None:
        # What it had just begun, such as a question to the repository, ends by itself.
        assert script(host, "restore-cluster.sh").returncode == 2

    eventually(let_go, 60)
    succeeded(script(host, "restore-cluster.sh --yes"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == wanted


def test_a_backup_from_after_the_way_back_is_not_the_base(alone: Stack) -> None:
    """Gone back behind the newest backup, written on, and lost before the next full one."""
    host = alone.host
    write(alone, "before the way back")
    time.sleep(1)
    moment = admin(host, "SELECT now()")
    time.sleep(1)
    write(alone, "taken back")
    succeeded(script(host, "postgres-backup.sh full"))
    succeeded(script(host, f"restore-cluster.sh --yes --time '{moment}'"))
    eventually(lambda: rows(alone), 20)
    wanted = rows(alone)
    assert wanted[-1] == "before the way back"

    write(alone, "after the way back")
    archive(host)
    host.run(f"rm -rf {DATA}/*")
    succeeded(script(host, "restore-cluster.sh"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == [*wanted, "after the way back"]

    # Asked for by name, the backup from after it leads nowhere, and that is said.
    label = "pgbackrest info | awk '/ full backup: / { label = $3 } END { print label }'"
    newest = said(host.run(f"runuser -u postgres -- {label}"))
    wrong = script(host, f"restore-cluster.sh --yes --backup {newest}")
    assert wrong.returncode == 1 and "could not restore" in wrong.stderr + wrong.stdout
    succeeded(script(host, "restore-cluster.sh --yes"))
    eventually(lambda: rows(alone), 20)
    assert rows(alone) == [*wanted, "after the way back"]


def test_wal_that_cannot_be_archived_is_not_left_behind(alone: Stack) -> None:
    """The server stays up, unless it is said that its last rows may go."""
    host = alone.host
    admin(host, "ALTER SYSTEM SET archive_command = 'false'")
    admin(host, "SELECT pg_reload_conf()")
    write(alone, "not archived")
    kept = rows(alone)
    refused = script(host, "restore-cluster.sh --yes")
    assert refused.returncode == 1 and "--without-last-wal" in refused.stderr
    assert rows(alone) == kept
    admin(host, "ALTER SYSTEM RESET archive_command")
    admin(host, "SELECT pg_reload_conf()")
    archive(host)


def test_another_job_is_waited_for(alone: Stack) -> None:
    command = "flock /run/datatier/backup-postgres.lock /scripts/restore-cluster.sh --yes"
    assert alone.host.run(command, check=False).returncode == 75


# Where the users of services have directories.
PLACES = (
    *("/backups", "/var/lib/pgbackrest", "/var/spool/pgbackrest", "/var/log"),
    *("/etc/postgresql", "/run/postgresql", "/var/lib/postgresql", "/var/lib/redis"),
)
RESTORE_REDIS = "restore-redis.sh /backups/redis/redis_LATEST.rdb.gz"
# Jobs that wait for each other, and those that need not.
JOBS = (
    (
        *("postgres-backup.sh full", "restore-cluster.sh --yes", "cleanup-backups.sh"),
        "restore-postgres.sh /backups/postgres/psscript_full_LATEST.sql.gz",
    ),
    ("redis-backup.sh", RESTORE_REDIS),
    ("backup.sh drill", "health-check.sh"),
)
# User and group, what becomes a link as soon as it is there, and the job that works with it.
INTRUDERS = (
    ("redis", "redis", "dump.rdb", "redis-backup.sh"),
    ("redis", "redis", "dump.rdb", RESTORE_REDIS),
    ("datatier-scratch", "postgres", "log", "backup.sh drill"),
)


def _said(host: Host, jobs: Sequence[str]) -> str:
    done = [script(host, job) for job in jobs]
    return "".join(each.stdout + each.stderr for each in done)


def test_links_of_service_users_lead_no_job_anywhere(alone: Stack) -> None:
    """What they lead to is neither changed nor read, whatever becomes of the jobs."""
    host = alone.host
    wanted = rows(alone)
    # A restore that succeeds brings back what is there now.
    for job in ("postgres-backup.sh full", "redis-backup.sh"):
        succeeded(script(host, job))
    found = links.entries(host, *PLACES)
    for wave in (links.waves(found)[0], links.tops(found)):
        with links.planted(host, wave, is_unread=True), ThreadPoolExecutor() as pool:
            said = "".join(pool.map(partial(_said, host), JOBS))
            host.run("logrotate -f /etc/logrotate.d/datatier-backup")
            assert links.CONTENT not in said
    host.run("systemctl restart postgresql@17-main")
    eventually(lambda: rows(alone), 20)
    with links.planted(host, ["/var/lib/redis/6379/redis.conf"]):
        for user, group, name, job in INTRUDERS:
            with links.intruder(host, user, group, name) as has_struck:
                for _ in range(5):
                    said = _said(host, [job])
                    assert links.CONTENT not in said
                    if has_struck():
                        break
                else:
                    pytest.fail(f"{job} gave {user} no chance: {said}")
    for job in ("postgres-backup.sh full", "backup.sh drill"):
        succeeded(script(host, job))
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
    # Nor by the next run: the first leaves no timeline behind that ends at the gap.
    for _ in range(2):
        gap = script(host, "restore-cluster.sh --yes")
        assert gap.returncode == 1 and "the archive goes on to" in gap.stderr
        assert said(host.run("systemctl is-active postgresql@17-main || true")) != "active"
    assert said(host.run(f"test -e {DATA}.restoring || echo complete")) == "complete"
