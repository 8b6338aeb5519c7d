"""Story: damage, kills and full disks, during backups and restores; nothing is ever lost."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import proof
from tests.e2e.backup_site import DATABASES, OF_AN_APPLICATION, Site, site
from tests.e2e.project import Project
from tests.e2e.wait import eventually
from tests.lab import Lab

DIRECTORY = "/backups/postgres"
# A PAUSE under way ends with the transactions that it waits for, 15 s in one story; a login that
# was cut short makes PgBouncer wait for 15 s (server_login_retry) before the next.
RETRY_SECONDS = 45


@pytest.fixture(scope="module")
def estate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A deployed host whose backups are on a small filesystem."""
    host = lab.installed_host("db", "debian12")
    host.run("mkdir /backups && mount -t tmpfs -o size=1g,mode=755 backups /backups")
    made = site(Project(tmp_path_factory.mktemp("harm")), host, host)
    yield made


@pytest.fixture(scope="module")
def backed_up(estate: Site) -> dict[str, str]:
    """A full, a change, an incremental, a full, a change: names and contents."""
    estate.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, what text); ALTER TABLE orders OWNER TO"
        " psscript; INSERT INTO orders SELECT g, md5(g::text) FROM generate_series(1, 20000) g"
    )
    estate.sql("CREATE TABLE items AS SELECT g AS id FROM generate_series(1, 50) g", "shop")
    estate.done("postgres-backup.sh full")
    old = estate.rows()
    estate.sql("DELETE FROM orders WHERE id > 19000")
    estate.done("postgres-backup.sh incremental")
    incremental = estate.manifests("incremental")[-1]["name"]
    fulls = {m["of"]: m["name"] for m in estate.manifests("full")}
    estate.sql("INSERT INTO orders VALUES (0, 'not in any backup')")
    return {**fulls, "incremental": incremental, "content": old}


def state(estate: Site) -> tuple[Any, ...]:
    """All that a refused restore must leave as it is."""
    oids = estate.sql("SELECT string_agg(oid || datname, ',' ORDER BY oid) FROM pg_database")
    return oids, estate.rows(), estate.rows("shop"), estate.visible()


# --- Corrupted artifacts -------------------------------------------------------------------------


def run_cases(estate: Site, names: dict[str, str]) -> list[dict[str, Any]]:
    """Damages one thing after the other on the host, and tries to restore it each time."""
    script = (Path(__file__).parent / "corrupt.py").read_text()
    words = shlex.quote(json.dumps(names))
    done = estate.keeper.run(f"python3 - {words}", stdin=script, timeout=900)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_damaged_artifact_is_refused_before_anything_is_touched(
    estate: Site, backed_up: dict[str, str]
) -> None:
    before = state(estate)
    cases = run_cases(estate, backed_up)
    assert len(cases) >= 100
    wrong = [
        case
        for case in cases
        if case["code"] != case["refused"] or not re.search(case["expected"], case["said"])
    ]
    assert [(case["name"], case["code"], case["said"]) for case in wrong] == []
    assert state(estate) == before
    # What was put into a dump was not obeyed either.
    assert estate.keeper.run("test -e /var/tmp/obeyed", check=False).returncode == 1
    assert estate.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'psscript'") == "f"
    # The same artifacts, whole again, are accepted: it was the damage that was refused.
    assert "verified" in estate.script("backup.sh verify").stderr


# --- Faults during a backup ----------------------------------------------------------------------


@contextmanager
def locked_table(estate: Site) -> Iterator[None]:
    """A table that nobody can read, so that a dump waits."""
    lock = "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"
    estate.db.run(
        f'setsid -f runuser -u postgres -- psql -XAtqd psscript -c "{lock}" >/dev/null 2>&1'
    )
    query = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"

    def is_held() -> None:
        assert estate.sql(query, "postgres") != "0"

    eventually(is_held, 10)
    try:
        yield
    finally:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%'"
        estate.sql(f"{end} AND pid <> pg_backend_pid()", "postgres")


def start(estate: Site, command: str) -> None:
    """Starts a script as cron would, its output in a file."""
    estate.keeper.run(f"setsid -f /scripts/{command} >/var/tmp/out 2>&1; echo >>/var/tmp/out")


def until_said(estate: Site, text: str, seconds: float = 60) -> None:
    def is_said() -> None:
        assert text in estate.keeper.run("cat /var/tmp/out").stdout

    eventually(is_said, seconds)


def kill(estate: Site) -> None:
    """kill -9 of the program, wherever it is."""
    estate.keeper.run("pkill -9 -f 'python3 -P -m [b]ackup'", check=False)


def require_all_whole(estate: Site, before: set[str]) -> None:
    """Older backups are there, and whatever has a final name passes every check."""
    now = estate.visible()
    assert before <= now
    for name in {n for n in now - before if n.endswith(".gz")}:
        assert f"{name}.manifest.json" in now or "_LATEST" in name, name
    done = estate.script("backup.sh verify")
    assert done.returncode == 0, done.stderr


KILLED_AT = ["", "physical backup: done", "restore point: done", "globals: done", "LOCKED"]


@pytest.mark.parametrize("step", KILLED_AT)
def test_a_killed_backup_leaves_nothing_that_looks_like_one(
    estate: Site, backed_up: dict[str, str], step: str
) -> None:
    before = estate.visible()
    if step == "LOCKED":
        with locked_table(estate):
            start(estate, "postgres-backup.sh full")
            until_said(estate, "globals: done")
            kill(estate)
    else:
        start(estate, "postgres-backup.sh full")
        until_said(estate, step)
        kill(estate)
    require_all_whole(estate, before)


def test_after_all_these_kills_the_next_backup_is_good(
    estate: Site, backed_up: dict[str, str]
) -> None:
    content = estate.rows()
    estate.done("postgres-backup.sh full")
    estate.done("backup.sh drill")
    hidden = estate.keeper.run(f"ls -A {DIRECTORY} | grep '^[.]' || true").stdout.split()
    assert [name for name in hidden if name.endswith(".partial")] == []
    estate.sql("TRUNCATE orders")
    estate.done(f"restore-postgres.sh {DIRECTORY}/psscript_full_LATEST.sql.gz")
    assert estate.rows() == content


@pytest.mark.parametrize("number", ["TERM", "KILL"])
def test_what_a_job_has_begun_ends_with_it(
    estate: Site, backed_up: dict[str, str], number: str
) -> None:
    """It would hold pgBackRest's lock, and go on with a backup of which there is no record."""
    pgbackrest = "'^pgbackrest .* backup$'"

    def goes(code: int) -> None:
        assert estate.keeper.run(f"pkill -0 -f {pgbackrest}", check=False).returncode == code

    start(estate, "postgres-backup.sh full")
    eventually(lambda: goes(0), 20)
    # As one does that waits for a file that never ends.
    estate.keeper.run(f"pkill -STOP -f {pgbackrest}; pkill -{number} -f 'python3 -P -m [b]ackup'")
    estate.keeper.run(f"sleep 1; pkill -CONT -f {pgbackrest}", check=False)
    eventually(lambda: goes(1), 5)
    estate.done("postgres-backup.sh incremental")


def test_a_server_that_dies_during_a_backup_fails_it(
    estate: Site, backed_up: dict[str, str]
) -> None:
    before = estate.visible()
    with locked_table(estate):
        start(estate, "postgres-backup.sh full")
        until_said(estate, "globals: done")
        estate.db.run("pkill -9 -o -x postgres")
        until_said(estate, "FAILED")
        eventually(lambda: answers(estate), 60)
    globals_ = {name for name in estate.visible() - before if "globals" in name}
    assert estate.visible() - before == globals_
    require_all_whole(estate, before)


def answers(estate: Site) -> None:
    done = estate.db.run("runuser -u postgres -- psql -XAtqc 'SELECT 1'", check=False)
    assert done.returncode == 0


def test_a_second_one_says_that_the_first_is_running(
    estate: Site, backed_up: dict[str, str]
) -> None:
    with locked_table(estate):
        start(estate, "postgres-backup.sh full")
        until_said(estate, "globals: done")
        second = estate.script("postgres-backup.sh incremental")
        assert (second.returncode, "another postgres job" in second.stderr) == (75, True)
    until_said(estate, "dump of shop: done")


def test_a_full_disk_fails_the_backup_and_leaves_the_older_ones(
    estate: Site, backed_up: dict[str, str]
) -> None:
    before = estate.visible()
    free = int(estate.keeper.run("df -Pk /backups | awk 'END { print $4 }'").stdout)
    estate.keeper.run(f"fallocate -l {free - 3000}K /backups/filler")
    try:
        said = estate.refused("postgres-backup.sh full")
    finally:
        estate.keeper.run("rm /backups/filler")
    assert "MB left)" in said, said
    assert estate.visible() == before
    require_all_whole(estate, before)
    estate.done("postgres-backup.sh full")


def test_one_bad_database_stops_no_other(estate: Site, backed_up: dict[str, str]) -> None:
    """A name that pgBackRest cannot write, a closed database, one under a lock: all others go on.

    With the first one the dumps build on the physical backup before it, and WAL.
    """
    with bad(estate, 'CREATE DATABASE U&"line\\000Abreak"', 'DROP DATABASE U&"line\\000Abreak"'):
        for kind in ("full", "incremental"):
            latest = newest(estate)
            assert "line break in its name" in estate.refused(f"postgres-backup.sh {kind}")
            assert (newest(estate) == latest) is (kind == "incremental")
        estate.sql("CREATE TABLE passing (id int)")
        name = estate.manifests("incremental")[-1]["name"]
        estate.done(f"restore-postgres.sh --incremental {name} --database psscript")
        assert estate.sql("SELECT to_regclass('public.passing') IS NULL") == "t"
    closed = "ALTER DATABASE shop ALLOW_CONNECTIONS"
    with bad(estate, f"{closed} false", f"{closed} true"):
        latest = newest(estate)
        assert "no dump of shop: " in estate.refused("postgres-backup.sh full")
        assert newest(estate)["shop"] == latest["shop"]
        assert newest(estate)["psscript"] != latest["psscript"]
    # It is waited for ten minutes, which is too long for a story.
    session = "/usr/lib/datatier/backup/postgres/session.py"
    estate.keeper.run(f'sed -i.as-it-was \'s/"10min"/"2s"/\' {session}')
    with locked_table(estate):
        latest = newest(estate)
        assert "statement timeout" in estate.refused("postgres-backup.sh full")
        assert newest(estate)["psscript"] == latest["psscript"]
        assert newest(estate)["shop"] != latest["shop"]
    estate.keeper.run(f"mv {session}.as-it-was {session}")
    estate.done("postgres-backup.sh full")


@contextmanager
def bad(estate: Site, begin: str, end: str) -> Iterator[None]:
    """Something is wrong with a database, and is not any more."""
    estate.sql(begin, "postgres")
    try:
        yield
    finally:
        estate.sql(end, "postgres")


def newest(estate: Site) -> dict[str, str]:
    """Where the link to the newest dump of each database leads."""
    names = ("psscript", "shop")
    links = " ".join(f"{DIRECTORY}/{name}_full_LATEST.sql.gz" for name in names)
    return dict(zip(names, estate.keeper.run(f"readlink {links}").stdout.split(), strict=True))


_EACH = "DO $$ BEGIN FOR n IN 1..700 LOOP {} COMMIT; END LOOP; END $$"
_MAKE = """
EXECUTE format('CREATE TABLE public.many_%s (a int, b int, c int, d int, e int)', n);
FOR m IN 1..5 LOOP
  EXECUTE format('CREATE INDEX ON public.many_%s (%s)', n, substr('abcde', m, 1));
END LOOP;
"""
_DROP = "EXECUTE format('DROP TABLE public.many_%s', n);"


def test_more_tables_and_indexes_than_locks_are_dumped(
    estate: Site, backed_up: dict[str, str]
) -> None:
    """The server has room for some 1,100 locks here; a dump takes one of each table only."""
    estate.sql("ALTER SYSTEM SET max_locks_per_transaction = 10", "postgres")
    estate.db.run("systemctl restart postgresql@15-main")
    try:
        estate.sql(_EACH.format(_MAKE))
        estate.done("postgres-backup.sh full")
    finally:
        estate.sql(_EACH.format(_DROP))
        estate.sql("ALTER SYSTEM RESET max_locks_per_transaction", "postgres")
        estate.db.run("systemctl restart postgresql@15-main")


def test_bytes_of_no_encoding_come_back(estate: Site, backed_up: dict[str, str]) -> None:
    """SQL_ASCII takes any byte, and so has a restore."""
    estate.sql("ALTER DATABASE shop RENAME TO shop_before", "postgres")
    estate.sql(
        "CREATE DATABASE shop TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' OWNER psscript",
        "postgres",
    )
    try:
        estate.project.deploy()
        estate.sql("CREATE TABLE words AS SELECT E'caf\\xe9 \\xff'::text AS word", "shop")
        estate.done("postgres-backup.sh full")
        estate.sql("UPDATE words SET word = 'changed'", "shop")
        estate.done(f"restore-postgres.sh {DIRECTORY}/{newest(estate)['shop']}")
        query = "SELECT encode(word::bytea, 'hex'), current_setting('server_encoding') FROM words"
        assert estate.sql(query, "shop") == "636166e920ff|SQL_ASCII"
    finally:
        for name in estate.databases():
            if name.startswith("shop") and name != "shop_before":
                estate.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
        estate.sql("ALTER DATABASE shop_before RENAME TO shop", "postgres")
        estate.project.deploy()
    estate.done("postgres-backup.sh full")


# What an estate may set for all that its applications do.
_FOR_ALL = {
    **dict.fromkeys(("idle_session_timeout", "idle_in_transaction_session_timeout"), "300ms"),
    **dict.fromkeys(("default_transaction_read_only", "default_transaction_deferrable"), "on"),
    "default_transaction_isolation": "serializable",
    "search_path": "nowhere",
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": 0,
    "temp_file_limit": "1kB",
    "row_security": "off",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
}
# The health table logs in as that role, as its clients do: limits that it meets would end it too.
_OF_A_ROLE = OF_AN_APPLICATION | dict.fromkeys(("statement_timeout", "idle_session_timeout"), "20s")


def test_what_an_estate_sets_for_all_sessions_ends_no_job(
    estate: Site, backed_up: dict[str, str]
) -> None:
    """pgBackRest's session, which is idle while it copies files, is nobody's forgotten one.

    Meanwhile the application's role has settings of its own, and others in each database.
    """
    usual = {"postgres_databases": DATABASES}
    for_all = {"postgres_statement_timeout": "1s", "postgres_extra": _FOR_ALL}
    roles = {"psscript": {"settings": _OF_A_ROLE}}
    content = estate.rows("shop")
    estate.project.settings({**usual, **for_all, "postgres_roles": roles})
    try:
        estate.project.deploy()
        assert estate.project.plan().planned == set()
        assert proof.admin(estate.db, "SHOW idle_session_timeout") == "300ms"
        _set_in_each_database(estate)
        estate.done("postgres-backup.sh full")
        estate.done("backup.sh drill")
        estate.done("postgres-backup.sh incremental")
        incremental = estate.manifests("incremental")[-1]["name"]
        estate.done(f"restore-postgres.sh {DIRECTORY}/{newest(estate)['shop']}")
        estate.done(f"restore-postgres.sh --incremental {incremental} --database shop")
        assert estate.rows("shop") == content
        assert _set_of_roles(estate, "psscript")["everywhere"] == len(_OF_A_ROLE)
        assert _set_of_roles(estate, "guest")["shop"] == len(_OF_A_ROLE)
        # A setting of a role in one database is none of the settings.
        assert estate.project.deploy().changed == {("PostgreSQL: roles and databases", "db")}
        assert not _set_of_roles(estate, "psscript").keys() & {"psscript", "shop"}
        assert estate.project.deploy().changed == set()
    finally:
        estate.sql("DROP ROLE IF EXISTS guest")
        estate.project.settings(usual)
        estate.project.deploy()


def _set_in_each_database(estate: Site) -> None:
    """Gives the application's role, and one that a hand has made, settings in every database."""
    estate.sql("CREATE ROLE guest LOGIN")
    for role, database in product(("psscript", "guest"), ("psscript", "shop")):
        inside = f"ALTER ROLE {role} IN DATABASE {database} SET"
        # Of a path one value is a list.
        estate.sql("; ".join(f"{inside} {k} = '{v}'" for k, v in _OF_A_ROLE.items()))


def _set_of_roles(estate: Site, role: str) -> dict[str, int]:
    """How many settings a role has, by database."""
    ask = "SELECT coalesce(datname, 'everywhere') || '=' || cardinality(setconfig)"
    ask += " FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase"
    ask += f" WHERE setrole = '{role}'::regrole"
    pairs = (line.split("=") for line in estate.sql(ask).splitlines())
    return {name: int(count) for name, count in pairs}


def test_a_scratch_server_never_fills_the_disk(estate: Site, backed_up: dict[str, str]) -> None:
    free = int(estate.keeper.run("df -Pk /backups | awk 'END { print $4 }'").stdout)
    estate.keeper.run(f"fallocate -l {free - 100_000}K /backups/filler")
    try:
        assert "MB free" in estate.refused("backup.sh drill")
    finally:
        estate.keeper.run("rm /backups/filler")
    estate.done("backup.sh drill")


def test_wal_that_cannot_be_archived_is_seen(estate: Site, backed_up: dict[str, str]) -> None:
    def is_seen() -> None:
        done = estate.script("health-check.sh")
        assert done.returncode == 2 and "could not be archived" in done.stdout, done.stdout

    def is_over() -> None:
        assert estate.script("health-check.sh").returncode == 0

    estate.keeper.run("mv /backups/pgbackrest/archive /backups/pgbackrest/archive.away")
    estate.sql("INSERT INTO orders VALUES (-5, 'x'); SELECT pg_switch_wal()")
    eventually(is_seen, 60)
    estate.keeper.run(
        "rm -rf /backups/pgbackrest/archive; mv /backups/pgbackrest/archive.away"
        " /backups/pgbackrest/archive"
    )
    estate.sql("INSERT INTO orders VALUES (-6, 'x'); SELECT pg_switch_wal()")
    eventually(is_over, 90)


def test_a_segment_that_is_archived_after_a_later_one_is_waited_for(
    estate: Site, backed_up: dict[str, str]
) -> None:
    estate.done("postgres-backup.sh incremental")
    earlier = estate.manifests("incremental")[-1]["facts"]["wal"]
    hide = "mv $(find /backups/pgbackrest/archive -name {}-*) /backups/ && ls /backups/{}-*"
    hidden = estate.keeper.run(hide.format(earlier, earlier)).stdout.strip()
    back = f"/backups/pgbackrest/archive/psscript/15-1/{earlier[:16]}"
    estate.keeper.run(f"(sleep 5; mv {hidden} {back}/) >/dev/null 2>&1 &")
    estate.done("postgres-backup.sh incremental")


# --- Faults during a restore ---------------------------------------------------------------------

RESTORE_STEPS = [
    ("", 0.0),
    ("", 0.6),
    ("validation: done", 0.0),
    ("validation: done", 0.15),
    ("load into", 0.0),
    ("row counts: done", 0.0),
    ("row counts: done", 0.03),
    ("settings and privileges of the database: done", 0.0),
    ("settings and privileges of the database: done", 0.05),
    ("settings and privileges of the database: done", 0.1),
    ("swap: done", 0.0),
]


@pytest.mark.parametrize(("step", "delay"), RESTORE_STEPS)
def test_a_killed_restore_leaves_the_old_or_the_new(
    estate: Site, backed_up: dict[str, str], step: str, delay: float
) -> None:
    estate.sql(f"INSERT INTO orders VALUES ({time.time_ns()}, 'live')")
    live = estate.rows()
    start(estate, f"restore-postgres.sh {DIRECTORY}/{backed_up['psscript']}")
    until_said(estate, step)
    time.sleep(delay)
    kill(estate)
    eventually(lambda: goes_on(estate), RETRY_SECONDS)
    assert estate.rows() in (live, backed_up["content"])


def goes_on(estate: Site) -> None:
    """The application gets an answer at once: nobody is held back any more."""
    password = estate.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    ask = "timeout 3 psql -XAtqw -h 127.0.0.1 -p 6432 -U psscript -d psscript -c 'SELECT 1'"
    done = estate.db.run(
        f"IFS= read -r PGPASSWORD; export PGPASSWORD; {ask}", stdin=f"{password}\n", check=False
    )
    assert done.stdout.strip() == "1", done.stderr


def test_a_restore_that_is_killed_while_it_waits_for_clients_lets_them_go_on(
    estate: Site, backed_up: dict[str, str]
) -> None:
    live = estate.rows()
    password = estate.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    session = "BEGIN; SELECT 1; SELECT pg_sleep(15); COMMIT"
    estate.db.run(
        "IFS= read -r PGPASSWORD; export PGPASSWORD; setsid -f psql -XAtqw -h 127.0.0.1 -p 6432"
        f" -U psscript -d psscript -c '{session}' >/dev/null 2>&1",
        stdin=f"{password}\n",
    )
    start(estate, f"restore-postgres.sh {DIRECTORY}/{backed_up['psscript']}")
    until_said(estate, "settings and privileges of the database: done")
    time.sleep(1)
    kill(estate)
    eventually(lambda: goes_on(estate), RETRY_SECONDS)
    assert estate.rows() == live


# It takes two seconds before PgBouncer hears of a PAUSE.
SLOW = """#!/bin/sh
case "$*" in *PAUSE*) sleep 2 ;; esac
exec /usr/bin/timeout "$@"
"""


def test_a_restore_that_is_killed_before_pgbouncer_hears_of_its_pause(
    estate: Site, backed_up: dict[str, str]
) -> None:
    live = estate.rows()
    estate.keeper.run("cat >/usr/local/bin/timeout; chmod 755 /usr/local/bin/timeout", stdin=SLOW)
    try:
        start(estate, f"restore-postgres.sh {DIRECTORY}/{backed_up['psscript']}")
        eventually(lambda: _pauses(estate, 0), 60)
        kill(estate)
        eventually(lambda: _pauses(estate, 1), 10)
    finally:
        estate.keeper.run("rm /usr/local/bin/timeout")
    eventually(lambda: goes_on(estate), RETRY_SECONDS)
    assert estate.rows() == live


def _pauses(estate: Site, code: int) -> None:
    assert estate.keeper.run("pgrep -f '[P]AUSE'", check=False).returncode == code


def test_after_all_these_kills_the_next_restore_is_good(
    estate: Site, backed_up: dict[str, str]
) -> None:
    estate.done(f"restore-postgres.sh {DIRECTORY}/{backed_up['psscript']}")
    assert estate.rows() == backed_up["content"]
    assert [name for name in estate.databases() if "_restore_" in name] == []
    estate.done(f"restore-postgres.sh --incremental {backed_up['incremental']}")
    assert estate.keeper.run("find /backups/scratch -mindepth 1 -not -name .lock").stdout == ""


# --- A restore under load ------------------------------------------------------------------------

_CONSISTENT = """
SELECT 1 / ((SELECT generation FROM a) = (SELECT generation FROM b))::int;
"""


def test_clients_wait_and_none_sees_half_of_a_restore(
    estate: Site, backed_up: dict[str, str]
) -> None:
    estate.sql(
        "CREATE TABLE a AS SELECT 1 AS generation; CREATE TABLE b AS SELECT 1 AS generation;"
        " CREATE TABLE seen (generation int); ALTER TABLE a OWNER TO psscript;"
        " ALTER TABLE b OWNER TO psscript; ALTER TABLE seen OWNER TO psscript"
    )
    estate.done("postgres-backup.sh full")
    estate.sql("BEGIN; UPDATE a SET generation = 2; UPDATE b SET generation = 2; COMMIT")
    estate.db.run("cat >/var/tmp/half.sql", stdin=_CONSISTENT)
    password = estate.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    bench = (
        "IFS= read -r PGPASSWORD; export PGPASSWORD; exec /usr/lib/postgresql/15/bin/pgbench"
        " -n -h 127.0.0.1 -p 6432 -U psscript -f /var/tmp/half.sql -c 20 -j 1 -R 200 -T 20"
        " --log --log-prefix=/var/tmp/bench psscript"
    )
    load = subprocess.Popen(
        ["docker", "exec", "-i", estate.db.container, "sh", "-c", bench],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert load.stdin is not None and load.stdout is not None
    load.stdin.write(f"{password}\n")
    load.stdin.close()
    time.sleep(3)
    estate.done(f"restore-postgres.sh {DIRECTORY}/psscript_full_LATEST.sql.gz")
    said = load.stdout.read()
    assert load.wait(60) == 0, said
    assert "number of failed transactions: 0 " in said, said
    longest = estate.db.run("cut -d' ' -f3 /var/tmp/bench* | sort -n | tail -n 1").stdout
    print(f"longest transaction under a restore: {int(longest) / 1000:.0f} ms")
    assert estate.sql("SELECT generation FROM a") == "1"
