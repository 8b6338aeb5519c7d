"""Story: the backup service by itself: cron starts it, it tells of failures, it expires."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.backup_site import DATABASES, Site, site
from tests.e2e.project import Project
from tests.e2e.receiver import Receiver, receiving
from tests.e2e.wait import KNOWN, eventually
from tests.lab import Lab

NEVER = "0 0 1 1 *"
GERMAN = "de_DE.UTF-8"
OF_POSTGRES = {"postgres_extra": {"lc_messages": GERMAN}}
JOBS = ("full", "incremental", "cleanup", "health", "verify", "drill")


@pytest.fixture(scope="module")
def receiver(lab: Lab) -> Iterator[Receiver]:
    """Where the host's alerts arrive."""
    with receiving(lab.gateway) as found:
        yield found


@pytest.fixture(scope="module")
def estate(
    lab: Lab, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A host whose jobs cron starts every minute; it and its PostgreSQL speak German."""
    host = lab.installed_host("db", "debian12")
    host.run(f"localedef -i de_DE -f UTF-8 {GERMAN}")
    host.run(f"printf 'LANG={GERMAN}\\nLANGUAGE=de\\n' >/etc/default/locale")
    settings = {
        **OF_POSTGRES,
        **{f"backup_schedule_{job}": "* * * * *" for job in JOBS},
        "backup_alert_webhook": f"{receiver.address}/hook",
        "backup_heartbeat_url": f"{receiver.address}/alive",
        "backup_retention_min_full": 1,
    }
    made = site(Project(tmp_path_factory.mktemp("service")), host, host, settings)
    made.sql("CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g")
    yield made


@pytest.fixture(scope="module")
def sums() -> dict[str, str]:
    """What `sha256sum` said of artifacts that retention has removed since."""
    return {}


def choose(estate: Site, receiver: Receiver, **given: Any) -> set[tuple[str, str]]:
    """Deploys other schedules, or settings; what that changed."""
    schedules = {job: given.pop(job, NEVER) for job in JOBS}
    estate.project.settings(
        {
            **{f"backup_schedule_{job}": when for job, when in schedules.items()},
            "backup_alert_webhook": f"{receiver.address}/hook",
            "backup_heartbeat_url": f"{receiver.address}/alive",
            "backup_retention_min_full": 1,
            "postgres_databases": DATABASES,
            **OF_POSTGRES,
            **given,
        }
    )
    return estate.project.deploy().changed


def test_cron_starts_every_job_and_its_output_is_kept(estate: Site, receiver: Receiver) -> None:
    def everything_ran() -> None:
        said = estate.log()
        for job in ("postgres full", "postgres incremental", "verify", "drill", "cleanup"):
            assert f" {job}[" in said, job
        assert estate.manifests("full")
        health = estate.keeper.run("cat /backups/logs/health.log").stdout
        assert "ok        postgres" in health
        assert estate.keeper.run("cat /backups/logs/cron.log").stdout
        assert receiver.heartbeats
        # Those of the first minute may have failed for want of a full; a deployment says so.
        assert not estate.keeper.run("grep -l failed /backups/logs/*.json", check=False).stdout

    eventually(everything_ran, 300)
    assert estate.sql("SHOW lc_messages") == GERMAN
    # Two of them want the same lock: one says so, and does not count as failed.
    assert "another postgres job is running" in estate.log()


def test_a_changed_schedule_changes_one_file_and_nothing_else(
    estate: Site, receiver: Receiver
) -> None:
    choose(estate, receiver)
    jobs = f"{KNOWN}systemctl show -p MainPID --value cron postgresql@15-main pgbouncer"
    before = estate.keeper.run(jobs).stdout
    stamps = "find /etc /usr/lib/datatier /scripts -newer /var/tmp/mark -type f"
    estate.keeper.run("touch /var/tmp/mark; sleep 1.1")
    changed = choose(estate, receiver, full="30 1 * * *")
    assert changed == {("Backup: configuration", "db")}
    assert estate.keeper.run(stamps).stdout.split() == ["/etc/cron.d/datatier-backup"]
    assert estate.keeper.run(jobs).stdout == before
    assert "30 1 * * * root" in estate.keeper.run("cat /etc/cron.d/datatier-backup").stdout
    assert estate.project.deploy().changed == set()


def test_a_failure_is_told_and_so_is_its_end(estate: Site, receiver: Receiver) -> None:
    estate.keeper.run("systemctl stop postgresql@15-main")
    try:
        estate.refused("postgres-backup.sh full")
        receiver.told("postgres full", "failed")
        before = receiver.heartbeats
        estate.refused("health-check.sh", 2)
        receiver.told("health", "failed")
        assert receiver.heartbeats == before
    finally:
        estate.keeper.run("systemctl start postgresql@15-main")
    estate.done("postgres-backup.sh full")
    receiver.told("postgres full", "recovered")
    estate.done("health-check.sh")
    receiver.told("health", "recovered")
    assert receiver.heartbeats == before + 1


def test_an_alert_that_cannot_be_delivered_fails_nothing(estate: Site, receiver: Receiver) -> None:
    receiver.broken = True
    try:
        estate.done("postgres-backup.sh incremental")
        estate.refused("restore-postgres.sh /backups/postgres/nothing")
    finally:
        receiver.broken = False
    assert "webhook" in estate.log().splitlines()[-1]
    # It is told of as soon as somebody listens.
    estate.refused("restore-postgres.sh /backups/postgres/nothing")
    receiver.told("restore-postgres", "failed")


def test_a_drill_finds_a_broken_chain_and_tells(estate: Site, receiver: Receiver) -> None:
    newest = estate.manifests("incremental")[-1]
    archive = "/backups/pgbackrest/archive/psscript"
    path = estate.keeper.run(f"find {archive} -name '{newest['facts']['wal']}-*'").stdout.strip()
    estate.keeper.run(f"mv {path} /backups/pgbackrest/away")
    try:
        estate.refused("backup.sh drill")
        receiver.told("drill", "failed")
        assert newest["facts"]["wal"] in estate.refused("backup.sh verify")
        receiver.told("verify", "failed")
    finally:
        estate.keeper.run(f"mv /backups/pgbackrest/away {path}")
    estate.done("backup.sh drill")
    receiver.told("drill", "recovered")
    estate.done("backup.sh verify")
    receiver.told("verify", "recovered")


def test_old_backups_go_and_what_stays_can_be_restored(
    estate: Site, receiver: Receiver, sums: dict[str, str]
) -> None:
    lines = estate.keeper.run("cd /backups/postgres && sha256sum psscript_full_2*.gz").stdout
    sums |= {name: digest for digest, name in map(str.split, lines.splitlines())}
    estate.keeper.run("apt-get install -y -q faketime", timeout=300)

    def later(days: int, command: str) -> str:
        done = estate.keeper.run(
            f"faketime -f +{days}d /scripts/{command}", check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    old = {str(m["name"]) for kind in ("full", "globals", "incremental")
           for m in estate.manifests(kind)}  # fmt: skip
    later(40, "postgres-backup.sh full")
    estate.sql("INSERT INTO orders VALUES (-1)")
    content = estate.rows()
    later(40, "postgres-backup.sh incremental")
    estate.sql("INSERT INTO orders VALUES (-2)")
    # A clock that was ahead for a while makes nothing old.
    estate.done("cleanup-backups.sh")
    assert old <= {name.removesuffix(".manifest.json") for name in estate.visible()}
    # Nothing goes before the checks of that time have passed.
    later(41, "backup.sh verify")
    later(41, "backup.sh drill")
    listed = later(41, "cleanup-backups.sh --dry-run").splitlines()
    assert {line.split()[5] for line in listed if line.startswith("delete")} == old
    assert old <= {name.removesuffix(".manifest.json") for name in estate.visible()}
    later(41, "cleanup-backups.sh")
    left = {name.removesuffix(".manifest.json") for name in estate.visible()}
    assert not old & left
    (incremental,) = estate.manifests("incremental")
    labels = estate.keeper.run("ls /backups/pgbackrest/backup/psscript | grep F").stdout.split()
    assert labels == [incremental["facts"]["label"]]
    archive = "find /backups/pgbackrest/archive -name '0000*-*' -printf '%f\\n' | sort | head -n 1"
    oldest = estate.keeper.run(archive).stdout
    assert oldest.startswith(incremental["facts"]["wal_start"]), "WAL that nothing needs is left"
    estate.done(f"restore-postgres.sh --incremental {incremental['name']} --database psscript")
    assert estate.rows() == content
    estate.done("backup.sh verify")


def test_a_months_evidence_survives_what_retention_removes(
    estate: Site, sums: dict[str, str]
) -> None:
    first = min(sums, key=lambda name: name.split("_")[2]).split("_")[2]
    month = f"{first[:4]}-{first[4:6]}"
    report = f"backup.sh report --month {month}"
    text = estate.done(f"{report} --json")
    told = json.loads(text)
    known = {each["name"]: each for each in told["backups"]}
    assert not set(sums) & estate.visible()
    assert {name: known[name]["sha256"] for name in sums} == sums
    assert not any(known[name]["kept"] for name in sums)
    checked = {check["what"] for name in sums for check in known[name]["verified"]}
    assert "restored in a drill" in checked
    assert {each["outcome"] for each in told["drills"]} == {"passed", "failed"}
    assert all(each["postgres"]["rto"] > 0 for each in told["drills"] if "postgres" in each)
    refused = [each for each in told["restores"] if each["outcome"] == "failed"]
    assert {each["what"]["file"] for each in refused} == {"/backups/postgres/nothing"}
    # Each failure of the log is one of the report, and each drill of it ended with one that passed.
    failed = len(re.findall(r"(?m)^\S+ drill\[\d+\] FAILED", estate.log()))
    drills = [each for each in told["failures"] if each["job"] == "drill"]
    assert sum(each["times"] for each in drills) == failed
    assert all(each["recovered"] for each in drills)
    # Nothing was made for 40 days: by the host's clock they end with that full.
    full = str(estate.manifests("full")[-1]["stamp"])
    later = json.loads(
        estate.keeper.run(
            f"faketime -f +41d /scripts/backup.sh report --month {full[:4]}-{full[4:6]} --json"
        ).stdout
    )
    assert later["backups"]
    secrets = [value for value in estate.project.secrets.values() if value]
    page = estate.done(f"{report} --html").strip()
    assert page == f"/backups/report-{month}.html"
    assert estate.keeper.run(f"stat -c '%U:%G %a' {page}").stdout == "root:adm 640\n"
    content = estate.keeper.run(f"cat {page}").stdout
    assert all(name in content for name in sums)
    everything = content + text + estate.done(report)
    everything += estate.keeper.run("cat /backups/logs/record/*").stdout
    assert not [value for value in secrets if value in everything]


# What its owner calls immutable tells who runs it, and tries to be more than that.
TRAP = r"""
\set ON_ERROR_STOP on
SET ROLE psscript;
CREATE SCHEMA "Odd-1";
CREATE TABLE "Odd-1".seen (who text, tried text);
CREATE FUNCTION "Odd-1".deed() RETURNS void LANGUAGE plpgsql AS $f$
DECLARE tried text := 'became more';
BEGIN
  BEGIN SET LOCAL ROLE postgres; EXCEPTION WHEN OTHERS THEN tried := SQLSTATE; END;
  INSERT INTO "Odd-1".seen VALUES (current_user, tried);
END $f$;
CREATE FUNCTION "Odd-1".trap(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$
BEGIN PERFORM "Odd-1".deed(); RETURN $1; END $f$;
CREATE FUNCTION public.count(text) RETURNS int LANGUAGE sql AS 'SELECT 1/0';
CREATE TABLE "Odd-1".orders AS SELECT g AS id FROM generate_series(1, 500) g;
CREATE INDEX ON "Odd-1".orders ("Odd-1".trap(id));
CREATE TABLE "Odd-1".held AS SELECT 1 AS id;
TRUNCATE "Odd-1".seen;
DELETE FROM "Odd-1".orders WHERE id > 100;
"""
VACUUMED = (
    "SELECT relname, vacuum_count, analyze_count, n_dead_tup FROM pg_stat_all_tables"
    " WHERE schemaname = 'Odd-1' AND relname IN ('orders', 'held') ORDER BY 1 DESC"
)


def test_named_tables_are_vacuumed_with_their_owners_rights(
    estate: Site, receiver: Receiver
) -> None:
    estate.sql("GRANT CREATE ON SCHEMA public TO psscript")
    estate.sql(TRAP)
    tables = ["Odd-1.orders", "Odd-1.held", "Odd-1.gone"]
    named = {**DATABASES, "psscript": {**DATABASES["psscript"], "vacuum": tables}}
    choose(estate, receiver, postgres_databases=named, backup_schedule_vacuum="30 1 * * *")
    jobs = estate.keeper.run("cat /etc/cron.d/datatier-backup").stdout
    assert "30 1 * * * root /scripts/backup.sh vacuum >>" in jobs
    hold = 'BEGIN; LOCK TABLE \\"Odd-1\\".held; SELECT pg_sleep(600)'
    estate.db.run(
        f'setsid -f psql -qd psscript -c "{hold}" >/dev/null 2>&1 </dev/null', user="postgres"
    )
    locked = (
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
        " AND relation = '\"Odd-1\".held'::regclass"
    )
    eventually(lambda: _is(estate.sql(locked), "1"), 30)
    said = estate.refused("backup.sh vacuum")
    receiver.told("vacuum", "failed")
    assert "psscript: Odd-1.gone: there is no such table" in said
    assert "Odd-1.held or a part of it is locked, and left to the next run" in said
    eventually(lambda: _is(estate.sql(VACUUMED), "orders|1|1|0\nheld|0|0|0"), 30)
    assert estate.sql('SELECT DISTINCT who, tried FROM "Odd-1".seen') == "psscript|42501"
    estate.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LO%'"
    )
    estate.sql('CREATE TABLE "Odd-1".gone ()')
    estate.done("backup.sh vacuum")
    receiver.told("vacuum", "recovered")
    eventually(lambda: _is(estate.sql(VACUUMED), "orders|2|2|0\nheld|1|1|0"), 30)
    choose(estate, receiver)
    assert "vacuum" not in estate.keeper.run("cat /etc/cron.d/datatier-backup").stdout


INDEXES = r"""
\set ON_ERROR_STOP on
SET ROLE psscript;
CREATE TABLE "Odd-1".twice AS SELECT 1 AS id FROM generate_series(1, 2);
CREATE TABLE "Odd-1".busy AS SELECT g AS id FROM generate_series(1, 9) g;
CREATE INDEX trapped ON "Odd-1".busy ("Odd-1".trap(id));
TRUNCATE "Odd-1".seen;
"""
STATE = (
    "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
    " JOIN pg_namespace AS n ON n.oid = relnamespace"
    " WHERE nspname = 'Odd-1' AND indrelid <> '\"Odd-1\".orders'::regclass ORDER BY 1"
)


def psql(estate: Site, query: str) -> str:
    """What psql as the superuser says to a statement that may fail."""
    script = f"psql -X -d psscript 2>&1 <<'END'\n{query}\nEND\n"
    return estate.db.run(script, user="postgres", check=False).stdout


def test_invalid_indexes_are_built_again_and_leftovers_of_that_go(estate: Site) -> None:
    estate.sql(INDEXES)
    for name in ("twice_id", "lonely_ccnew"):
        psql(estate, f'CREATE UNIQUE INDEX CONCURRENTLY {name} ON "Odd-1".twice (id);')
    # A REINDEX that ends in the middle, as one would with its host, leaves an index of its own.
    old = "BEGIN; SELECT txid_current(); SELECT pg_sleep(600)"
    begin = 'setsid -f psql -qX -d psscript -c "{}" >/dev/null 2>&1 </dev/null'
    estate.db.run(begin.format(f'{old} FROM \\"Odd-1\\".busy LIMIT 1'), user="postgres")
    waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{}%'"
    eventually(lambda: _is(estate.sql(waits.format("BEGIN; SELECT txid")), "1"), 30)
    again = 'REINDEX INDEX CONCURRENTLY \\"Odd-1\\".trapped'
    estate.db.run(begin.format(again), user="postgres")
    eventually(lambda: _is("trapped_ccnew|f" in estate.sql(STATE), True), 30)
    # Another session is at it: that is none of ours.
    listed = estate.done("backup.sh reindex --dry-run")
    assert re.search("trapped_ccnew on busy, .*: left alone", listed)
    for query in ("REINDEX", "BEGIN; SELECT txid"):
        estate.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE query LIKE '{query}%' AND pid <> pg_backend_pid()"
        )
    left = "lonely_ccnew|f\ntrapped|t\ntrapped_ccnew|f\ntwice_id|f"
    eventually(lambda: _is(estate.sql(STATE), left), 30)
    lines = estate.done("backup.sh reindex --dry-run").splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["rebuild", "drop", "rebuild"]
    assert estate.sql(STATE) == left
    assert "twice_id" in estate.refused("backup.sh reindex")
    # What that left beside the ones that are not unique goes with the next run.
    assert "twice_id_ccnew|f" in estate.sql(STATE)
    estate.sql("DELETE FROM \"Odd-1\".twice WHERE ctid = '(0,1)'")
    estate.done("backup.sh reindex --database psscript")
    assert estate.sql(STATE) == "lonely_ccnew|t\ntrapped|t\ntwice_id|t"
    assert estate.done("backup.sh reindex") == ""
    node = "SELECT relfilenode FROM pg_class WHERE relname = 'trapped'"
    before = estate.sql(node)
    estate.done("backup.sh reindex Odd-1.trapped")
    assert estate.sql(node) != before and estate.sql(STATE).count("|t") == 3
    assert estate.sql('SELECT DISTINCT who, tried FROM "Odd-1".seen') == "psscript|42501"
    assert "there is no index Odd-1.gone" in estate.refused("backup.sh reindex Odd-1.gone")


def _is(found: object, expected: object) -> None:
    assert found == expected
