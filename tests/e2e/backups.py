"""What stories of backups have in common: scripts run on hosts, and the application's rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.proof import Done, Stack, admin
from tests.e2e.wait import eventually
from tests.lab import Host

# Nothing runs but what the story tells.
NO_SCHEDULES = {
    f"backup_schedule_{job}": "0 0 1 1 *"
    for job in ("full", "incremental", "redis", "cleanup", "health", "verify", "drill")
}


def script(host: Host, command: str) -> Done:
    """A script of the deployment, whatever its exit code."""
    return host.run(f"/scripts/{command}", check=False, timeout=300)


def succeeded(done: Done) -> Done:
    """The same; it must have ended with 0."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def amid_a_full(db: Host, keeper: Host) -> Iterator[None]:
    """One that PostgreSQL knows of waits as long as this lasts, and then has to end well."""
    backup = "'^pgbackrest .* backup$'"
    known = "SELECT application_name FROM pg_stat_activity"
    # A small cluster is soon backed up.
    begun = f"until psql -XAtqc '{known}' | grep -q '^pgBackRest'; do sleep 0.02; done"
    with ThreadPoolExecutor() as pool:
        full = pool.submit(lambda: succeeded(script(keeper, "postgres-backup.sh full")))
        db.run(begun, user="postgres", timeout=20)
        keeper.run(f"pkill -STOP -f {backup}")
        try:
            yield
        finally:
            keeper.run(f"pkill -CONT -f {backup}")
        full.result()


def rows(stack: Stack) -> list[str]:
    """What the application sees, through the pooler."""
    return stack.sql("SELECT word FROM notes ORDER BY id").splitlines()


def write(stack: Stack, *words: str) -> None:
    """What the application writes, a row for each word."""
    values = ", ".join(f"('{word}')" for word in words)
    stack.sql(f"INSERT INTO notes (word) VALUES {values}")


def archive(host: Host) -> None:
    """Ends the WAL segment and waits until it is in the repository."""
    last = admin(host, "SELECT pg_walfile_name(pg_create_restore_point('story'))")
    admin(host, "SELECT pg_switch_wal()")

    def archived() -> None:
        now = admin(host, "SELECT last_archived_wal FROM pg_stat_archiver")
        assert now[8:24] >= last[8:], now

    eventually(archived, 30)
