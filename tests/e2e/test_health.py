"""Story: each fault turns its row of the health check and no other, until it is mended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest

from backup.health.remedies import remedies, remedy
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.documented import anchor, headings, steps
from tests.e2e.project import ROOT, Project, embedded
from tests.e2e.proof import Done, Stack, redis, said
from tests.e2e.receiver import Receiver, receiving
from tests.e2e.served import PASSWORD, Site
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

# Nothing takes minutes here; these are hours and minutes of an operator's.
SHORT: dict[str, list[float]] = {
    "archive_queue": [0, 0.01],
    "transaction": [0.02, 0],
    "slots": [0.01, 0],
    "idle_in_transaction": [1, 0],
    "lock_wait": [0, 0.5],
    "pool_wait": [0.5, 0],
    "connections": [50, 0],
}


def _lowered(limits: dict[str, list[float]]) -> str:
    """Shell: other limits in the configuration of the program."""
    return f"""python3 - <<'_END_'
import json
path = "/etc/datatier/backup.json"
told = json.load(open(path))
told["limits"] |= {limits!r}
json.dump(told, open(path, "w"))
_END_
"""


@pytest.fixture(scope="module")
def receiver(lab: Lab) -> Iterator[Receiver]:
    """Where alerts arrive."""
    with receiving(lab.gateway) as found:
        yield found


@pytest.fixture(scope="module")
def stack(lab: Lab, project: Project, receiver: Receiver) -> Stack:
    """The whole stack on one host, with a full; its limits are reached within seconds."""
    host = lab.installed_host("whole", "debian13")
    project.inventory(embedded("whole", host))
    extra = {"max_prepared_transactions": 2}
    told = {"backup_alert_webhook": receiver.address, "status_page_port": 8443}
    project.settings({**NO_SCHEDULES, **told, "redis_maxmemory": "100mb", "postgres_extra": extra})
    project.deploy()
    host.run("/scripts/postgres-backup.sh full")
    host.run(_lowered(SHORT))
    # An index of the whole table is not valid before all partitions have theirs, which is no fault.
    host.run(
        sql(
            "CREATE TABLE parts (id int) PARTITION BY RANGE (id); CREATE INDEX ON ONLY parts (id);"
            " CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (9)"
        )
    )
    return Stack(host, project.secrets)


@dataclass(frozen=True)
class Fault:
    """What is done to a host, how it is undone, and the rows that are not well meanwhile.

    Attributes:
        runbook: if the section that the first row leads to mends it: what its words stand for.
        events: what is told beside the rows, by a job of its own.
        spreads: whether others suffer too for some seconds, and the rows are told as they turn.
    """

    name: str
    do: str
    undo: str
    critical: tuple[str, ...] = ()
    warning: tuple[str, ...] = ()
    runbook: dict[str, str] | None = None
    unknown: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    spreads: bool = False

    def levels(self, **values: str) -> dict[str, str]:
        """The rows that are not well; their names may have values in them."""
        names = {"critical": self.critical, "unknown": self.unknown, "warning": self.warning}
        return {name.format(**values): level for level, of in names.items() for name in of}

    @property
    def code(self) -> int:
        """What the check exits with."""
        return 2 if self.critical else 3 if self.unknown else 1

    @property
    def told(self) -> set[str]:
        """The events that are told."""
        own = {"health"} if self.critical or self.unknown else set()
        return own | ({"health warning"} if self.warning else set()) | {*self.events}


def sql(text: str) -> str:
    """Shell: a statement of the superuser in the database of the settings."""
    return f"runuser -u postgres -- psql -Xqd psscript <<'_SQL_'\n{text}\n_SQL_\n"


def session(text: str) -> str:
    """Shell: statements of a session that stays, until `ENDED`."""
    return (
        f"(printf '%s\\n' \"{text}\"; exec sleep 60) | setsid runuser -u postgres -- "
        "psql -Xqd psscript >/dev/null 2>&1 </dev/stdin &\n"
    )


ENDED = "pkill -x psql || true\n" + sql(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND usename IN ('postgres', 'psscript') AND backend_type = 'client backend'"
)
HELD = (
    'until runuser -u postgres -- psql -XAtqd psscript -c "SELECT 1 FROM pg_locks'
    " WHERE relation = 'held'::regclass AND granted\" | grep -q 1; do sleep 0.1; done\n"
)
LATE = "kill -{} $(systemctl show -p MainPID --value {})"

RUNBOOKS = ROOT / "docs/runbooks.md"
POOLER = "pgbouncer 127.0.0.1:6432"

# Shell: the newest full, kept, and what its verification says is no failure of the story.
FULL = "full=$(ls -d /backups/postgres/psscript_full_2*.sql.gz)\n"
VERIFY = "/scripts/backup.sh verify 2>/dev/null"
SENTINEL = "redis-cli -p 26381 SENTINEL"


def outages(name: str, unit: str, row: str) -> Iterator[Fault]:
    """A server that is down, and one that hangs."""
    # The pooler's section has the same two tasks for a login that fails.
    book = None if row == POOLER else dict[str, str]()
    yield Fault(
        f"{name} is down", f"systemctl stop {unit}", f"systemctl start {unit}", (row,), (), book
    )
    yield Fault(
        f"{name} hangs", LATE.format("STOP", unit), LATE.format("CONT", unit), critical=(row,)
    )


FAULTS = (
    *outages("postgres", "postgresql@17-main", "postgres"),
    *outages("the pooler", "pgbouncer", POOLER),
    Fault(
        "the pooler cannot log in",
        sql("ALTER ROLE pgbouncer NOLOGIN"),
        sql("ALTER ROLE pgbouncer LOGIN"),
        critical=(f"{POOLER} query",),
        runbook={},
    ),
    *outages("a replica", "redis-6381", "redis {address}:6381"),
    *outages("a Sentinel", "redis-sentinel-26381", "redis-sentinel {address}:26381"),
    Fault(
        "idle in a transaction",
        session("BEGIN; SELECT 1;"),
        ENDED,
        warning=("postgres idle in transaction",),
        runbook={},
    ),
    Fault(
        "a transaction that has worked long and waits now",
        session("BEGIN; SELECT pg_sleep(3);"),
        ENDED,
        warning=("postgres idle in transaction", "postgres long transaction"),
        spreads=True,
    ),
    Fault(
        "a long transaction",
        session("SELECT pg_sleep(50);"),
        ENDED,
        warning=("postgres long transaction",),
        runbook={},
    ),
    Fault(
        "a lock is waited for",
        sql("CREATE TABLE held (id int)")
        + session("BEGIN; LOCK TABLE held; SELECT pg_sleep(50);")
        + HELD
        + session("BEGIN; LOCK TABLE held;"),
        ENDED + sql("DROP TABLE held"),
        critical=("postgres lock wait",),
        warning=("postgres long transaction",),
    ),
    Fault(
        "a slot keeps what nobody reads",
        sql(
            "SELECT pg_create_physical_replication_slot('gone', true);"
            " CREATE TABLE filler AS SELECT generate_series(1, 20000) AS id; DROP TABLE filler"
        ),
        sql("SELECT pg_drop_replication_slot('gone')"),
        warning=("postgres slots",),
        runbook={"NAME": "gone"},
    ),
    Fault(
        "an archive that cannot be written",
        "cd /backups/pgbackrest/archive/psscript/17-1; chown -R root .; chmod 755 .\n"
        + sql("SELECT pg_switch_wal(), txid_current()")
        + sql("SELECT pg_switch_wal()"),
        "chown -R postgres /backups/pgbackrest/archive/psscript/17-1\n"
        + sql("SELECT txid_current(); SELECT pg_switch_wal()"),
        critical=("wal archive", "wal archive queue"),
        runbook={},
        spreads=True,
    ),
    Fault(
        "a setting that waits for a restart",
        sql("ALTER SYSTEM SET max_connections = 90") + sql("SELECT pg_reload_conf()"),
        sql("ALTER SYSTEM RESET max_connections") + sql("SELECT pg_reload_conf()"),
        warning=("postgres settings",),
        runbook={},
    ),
    Fault(
        "a sequence that ends",
        sql("CREATE SEQUENCE short AS smallint; SELECT setval('short', 32000)"),
        sql("DROP SEQUENCE short"),
        critical=("postgres psscript sequences",),
        runbook={"NAME": "short"},
    ),
    Fault(
        "an index that is not valid",
        sql("CREATE TABLE twice AS SELECT 1 AS id FROM generate_series(1, 2)")
        + sql("CREATE UNIQUE INDEX CONCURRENTLY once ON twice (id)")
        + "true",
        sql("DROP TABLE twice"),
        warning=("postgres psscript indexes",),
        runbook={"NAME": "once"},
    ),
    Fault(
        "another version of the collations",
        sql(
            "CREATE DATABASE sorted TEMPLATE template0 LOCALE 'C.UTF-8'"
            " LOCALE_PROVIDER icu ICU_LOCALE 'en'"
        )
        + sql("UPDATE pg_database SET datcollversion = '1' WHERE datname = 'sorted'"),
        sql("DROP DATABASE sorted"),
        warning=("postgres collations",),
        runbook={"NAME": "sorted"},
    ),
    Fault(
        "a pool that is full",
        "for one in $(seq 32); do echo 'SELECT pg_sleep(20)' | PGPASSWORD=$ROLE setsid"
        " psql -Xqh 127.0.0.1 -p 6432 -U psscript psscript >/dev/null 2>&1 & done",
        ENDED,
        warning=(f"{POOLER} waiting", "postgres long transaction"),
        spreads=True,
    ),
    Fault(
        "most connections are used",
        "setsid runuser -u postgres -- python3 -c 'import psycopg, time;"
        ' every = [psycopg.connect("dbname=psscript") for _ in range(60)]; time.sleep(50)\''
        " >/dev/null 2>&1 &",
        ENDED,
        warning=("postgres connections",),
        runbook={},
    ),
    Fault(
        "a transaction waits to be committed",
        sql("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'one'"),
        sql("ROLLBACK PREPARED 'one'"),
        warning=("postgres prepared transaction",),
        runbook={"NAME": "one"},
    ),
    Fault(
        "a page that is not what was written",
        sql("CREATE TABLE bad AS SELECT generate_series(1, 1000) AS id")
        + "path=$(runuser -u postgres -- psql -XAtqd psscript -c"
        " \"SELECT pg_relation_filepath('bad')\")\n"
        "systemctl stop postgresql@17-main\n"
        "printf damaged | dd of=/var/lib/postgresql/17/main/$path bs=1 seek=4000 conv=notrunc"
        " status=none\n"
        "systemctl start postgresql@17-main\n" + sql("SELECT count(*) FROM bad") + "true",
        sql("DROP TABLE bad") + sql("SELECT pg_stat_reset()"),
        critical=("postgres checksums",),
    ),
    Fault(
        "limits that are reached by what there is",
        _lowered({"disk": [1, 0], "transaction_ids": [0.00001, 0]}),
        _lowered({"disk": [85, 95], "transaction_ids": [500, 1200]}),
        warning=("disk /backups", "inodes /backups", "postgres transaction ids"),
    ),
    Fault(
        "memory is nearly used",
        "redis-cli -p 6380 CONFIG SET maxmemory 1200000",
        "redis-cli -p 6380 CONFIG SET maxmemory 104857600",
        critical=("redis {address}:6380 memory",),
        runbook={},
    ),
    Fault(
        "a save that fails",
        "chmod 555 /var/lib/redis/6380; redis-cli -p 6380 BGSAVE",
        "chmod 750 /var/lib/redis/6380; redis-cli -p 6380 SAVE",
        critical=("redis {address}:6380 disk",),
        runbook={"6379": "6380"},
    ),
    Fault(
        "two Sentinels are down",
        "systemctl stop redis-sentinel-26380 redis-sentinel-26381",
        "systemctl start redis-sentinel-26380 redis-sentinel-26381",
        critical=(
            "redis-sentinel {address}:26379 quorum",
            "redis-sentinel {address}:26380",
            "redis-sentinel {address}:26381",
        ),
        runbook={},
        spreads=True,
    ),
    Fault(
        "the pooler is paused",
        "systemctl kill -s USR1 pgbouncer",
        "systemctl kill -s USR2 pgbouncer",
        critical=(f"{POOLER} query",),
    ),
    Fault(
        "a replica cannot log in at its master",
        "redis-cli -p 6381 CONFIG GET masterauth | tail -n 1 >/root/kept\n"
        "redis-cli -p 6381 CONFIG SET masterauth wrong; redis-cli -p 6381 CLIENT KILL TYPE master",
        'redis-cli -p 6381 CONFIG SET masterauth "$(cat /root/kept)"; rm /root/kept',
        critical=("redis {address}:6381",),
    ),
    Fault(
        "a full that is old",
        FULL + "cp -a $full.manifest.json /root/kept\n"
        """sed -i 's/"stamp": "[0-9_]*"/"stamp": "20200101_000000"/; """
        """s/"ended": "[^"]*"/"ended": "2020-01-01T00:00:09+00:00"/' $full.manifest.json""",
        FULL + "cp -a /root/kept $full.manifest.json",
        critical=("backup-service",),
        events=("overdue: full psscript", "overdue: incremental psscript"),
    ),
    Fault(
        "a full that is gone",
        FULL + f"mv $full /root/kept; ! {VERIFY}",
        f"mv /root/kept /backups/postgres/$(basename /backups/postgres/*_full_2*.json"
        f" .manifest.json); {VERIFY}",
        critical=("backup-service",),
        events=("verify",),
    ),
    Fault(
        "a full that is corrupt",
        FULL + f"cp -a $full /root/kept; printf damaged | dd of=$full bs=1 seek=99 conv=notrunc"
        f" status=none; ! {VERIFY}",
        FULL + f"cp -a /root/kept $full; {VERIFY}",
        critical=("backup-service",),
        events=("verify",),
    ),
    Fault(
        "Sentinels disagree",
        "cp -a /var/lib/redis/sentinel-26381 /root\n"
        f"{SENTINEL} REMOVE mymaster; {SENTINEL} MONITOR mymaster $ADDRESS 6380 2\n"
        f'{SENTINEL} SET mymaster auth-pass "$REDIS"',
        "systemctl stop redis-sentinel-26381; rm -r /var/lib/redis/sentinel-26381\n"
        "mv /root/sentinel-26381 /var/lib/redis\n"
        "systemctl start redis-sentinel-26381",
        critical=("redis-sentinel agreement",),
        spreads=True,
    ),
    Fault(
        "the master is down",
        "systemctl stop redis-$MASTER",
        "systemctl start redis-$MASTER",
        critical=("redis {address}:{master}",),
        spreads=True,
    ),
    Fault(
        "the master hangs",
        LATE.format("STOP", "redis-$MASTER"),
        LATE.format("CONT", "redis-$MASTER"),
        critical=("redis {address}:{master}",),
        spreads=True,
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_turns_its_row_and_no_other(
    stack: Stack, receiver: Receiver, project: Project, fault: Fault
) -> None:
    """The exit code is that of the worst; what its row leads to mends it, word by word.

    It is told once, by the names of its rows, and once that it is over.
    """
    host, password = stack.host, stack.secrets["REDIS_PASSWORD"]
    ask = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"
    master = said(redis(host, 26379, *ask, password=password)).split()[1]
    wanted = fault.levels(address=host.address, master=master)
    values = (
        f"ROLE='{stack.secrets['POSTGRES_ROLE_PSSCRIPT_PASSWORD']}' REDIS='{password}'"
        f" MASTER={master} ADDRESS={host.address}\n"
    )
    receiver.alerts.clear()
    host.run("exec sh -s", stdin=values + fault.do, timeout=60)
    try:
        # Some need a second or two to be one, and a failover more.
        eventually(lambda: _shows(host, wanted, fault.code), 40 if fault.spreads else 15)
        # A warning is told when it is found again.
        eventually(lambda: _is_told(host, receiver, fault, wanted), 10)
        if fault.runbook is not None:
            _mend(host, project, next(iter(wanted)), fault.runbook)
            eventually(lambda: _shows(host, {}, 0), 20)
    finally:
        host.run("exec sh -s", stdin=values + fault.undo, timeout=60)
    eventually(lambda: _shows(host, {}, 0), 40 if fault.spreads else 20)
    counts = receiver.counts()
    told = {event for event, _ in counts} - {"health warning"}
    assert told == fault.told - {"health warning"}, receiver.alerts
    for event in fault.told:
        assert counts[event, "recovered"] == 1, receiver.alerts
        assert counts[event, "failed"] == 1 or fault.spreads, receiver.alerts


def _is_told(host: Host, receiver: Receiver, fault: Fault, wanted: dict[str, str]) -> None:
    if fault.warning:
        _shows(host, wanted, fault.code)
    told = {each["event"]: each for each in receiver.alerts if each["status"] == "failed"}
    assert {*told} == fault.told, receiver.alerts
    for event, levels in (("health", ("critical", "unknown")), ("health warning", ("warning",))):
        if event in told:
            message = told[event]["message"].partition(" (at ")[0]
            named = message.partition(": ")[2].split(", ")
            names = {name for name, level in wanted.items() if level in levels}
            assert {*named} == {*told[event]["details"]} == names


def _section(row: str) -> str:
    """The runbook that a row leads to, as the status page would say."""
    known = remedy(remedies(), row)
    assert known
    (link,) = re.findall(r"runbooks\.md#([\w-]+)", known.todo)
    return next(each for each in headings(RUNBOOKS) if anchor(each) == link)


def _mend(host: Host, project: Project, row: str, words: dict[str, str]) -> None:
    """Types what the runbook of a row says; a process is the first that it shows."""
    shown = ""
    for step in steps(RUNBOOKS, _section(row)):
        text = re.sub("|".join(words) or "(?!)", lambda found: words[found[0]], step.text)
        if "PID" in text:
            (pid, *_) = re.findall(r"(?m)^ *(\d+) \|", shown)
            text = text.replace("PID", pid)
        if step.where:
            # What is down says so by its exit code too.
            shown += host.run(text, check=step.block > 0, timeout=60).stdout
        else:
            run = project.pyinfra(*text.removeprefix("pyinfra ").split())
            assert run.code == 0, run.output


# Of what is not on this host.
ELSEWHERE = ("A host does not answer", "Certificates", "Monitoring")


@pytest.mark.parametrize("section", [each for each in headings(RUNBOOKS) if each not in ELSEWHERE])
def test_a_runbook_shows_more(stack: Stack, section: str) -> None:
    """Each command that only looks works as it is written, and says something."""
    looks = [each for each in steps(RUNBOOKS, section) if each.block == 0]
    assert [each.text for each in looks if each.where == ""] == []
    said = [stack.host.run(each.text, timeout=60) for each in looks]
    assert any(each.stdout for each in said)
    assert [each.stderr for each in said if "rror" in each.stderr] == []


def _shows(host: Host, wanted: dict[str, str], code: int) -> None:
    done = host.run("/scripts/health-check.sh --json", check=False)
    rows = json.loads(done.stdout)["rows"]
    ill = {row["check"]: row for row in rows if row["level"] != "ok"}
    assert {name: row["level"] for name, row in ill.items()} == wanted, ill
    assert done.returncode == code
    assert all(row["said"] and row["since"] for row in rows)


SENTINELS = (26379, 26380, 26381)
HUNG = (
    *("postgresql@17-main", "pgbouncer", "redis-6380", "redis-6381"),
    *(f"redis-sentinel-{port}" for port in SENTINELS),
)


def test_where_all_hang_but_one_the_table_is_there_within_seconds(
    stack: Stack,
) -> None:
    """None of them makes another one's row late or wrong."""
    host = stack.host
    hang = "\n".join(LATE.format("{0}", unit) for unit in HUNG)
    _, usual = _timed(host)
    host.run("exec sh -s", stdin=hang.format("STOP"))
    try:
        done, took = _timed(host)
    finally:
        host.run("exec sh -s", stdin=hang.format("CONT"))
    rows = {row["check"]: row["level"] for row in json.loads(done.stdout)["rows"]}
    places = [f"redis {host.address}:{port}" for port in (6380, 6381)]
    places += [f"redis-sentinel {host.address}:{port}" for port in SENTINELS]
    ill = {name for name, level in rows.items() if level != "ok"}
    assert ill == {"postgres", POOLER, *places}
    assert rows[f"redis {host.address}:6379"] == "ok"
    # Six seconds for those that hang; the program itself is slow where much else runs.
    assert took < 6 + 2 * usual, (took, usual)
    eventually(lambda: _shows(host, {}, 0), 40)


def _timed(host: Host) -> tuple[Done, float]:
    begun = time.monotonic()
    done = host.run("/scripts/health-check.sh --json", check=False)
    return done, time.monotonic() - begun


def _page(host: Host, code: int = 0) -> str:
    """What the status page says after a run of the check, without its markup."""
    done = host.run("/scripts/health-check.sh", check=False)
    assert done.returncode == code, done.stdout
    return Text(host.run("cat /backups/status.html").stdout).said


class Text(HTMLParser):
    """The text of a page whose elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said, self.open = "", list[str]()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_status_page_names_a_fault_and_its_remedy(stack: Stack) -> None:
    """Until it is mended, and to those who may read logs."""
    host = stack.host
    host.run(sql("CREATE SEQUENCE short AS smallint; SELECT setval('short', 32000)"))
    try:
        wrong, topology = _page(host, 2).split("What is wrong now")[1].split("Topology")[:2]
    finally:
        host.run(sql("DROP SEQUENCE short"))
    assert "critical postgres psscript sequences" in wrong
    assert "What to do: ALTER SEQUENCE … AS bigint, and the column's type too" in wrong
    assert re.search(r"postgres on .*ok pgbouncer .*ok redis \S+: master", topology)
    assert "replica of " in topology and "full of psscriptNewest: 2" in topology
    well = _page(host)
    assert "all is well" in well and "What is wrong" not in well
    assert host.run("stat -c '%a %U %G' /backups/status.html").stdout.split() == [
        *("640", "root", "adm")
    ]
    page = host.run("cat /backups/status.html").stdout
    assert not [name for name, secret in stack.secrets.items() if secret in page]


def test_slow_queries_are_shown_without_secrets(stack: Stack) -> None:
    """Also those that were kept while utility statements were tracked, and literals that stayed."""
    host = stack.host
    host.run(
        sql(
            "SELECT public.pg_stat_statements_reset();"
            "SET pg_stat_statements.track_utility = on;"
            "CREATE ROLE canary PASSWORD 'canary-of-a-role'; ALTER ROLE canary PASSWORD 'canary-2';"
        )
        + sql("SELECT pg_sleep(0.2) /* canary-of-a-comment */")
        + sql("DROP ROLE canary; RESET pg_stat_statements.track_utility")
    )
    kept = "SELECT count(*) FROM public.pg_stat_statements WHERE query LIKE '%canary%'"
    assert int(host.run(sql(kept).replace("-Xqd", "-XAtqd")).stdout) >= 3
    slow = _page(host).split("Slow queries")[1]
    assert "SELECT pg_sleep($1)psscriptpostgres1" in slow
    assert "(not shown: no query)" in slow
    assert "canary" not in slow + host.run("cat /backups/logs/statements.json").stdout
    host.run(sql("SELECT public.pg_stat_statements_reset()"))


def test_a_history_that_is_damaged_and_a_page_that_cannot_be_written(stack: Stack) -> None:
    """Neither turns a row or the exit code, and both are in the log."""
    host = stack.host
    host.run("echo damaged >/backups/logs/history.sqlite; rm /backups/status.html")
    host.run("mkdir /backups/status.html")
    host.run("/scripts/health-check.sh")
    host.run("rmdir /backups/status.html")
    log = host.run("tail -n 5 /backups/logs/backup.log").stdout
    assert "history.sqlite is damaged" in log and "status page: not written: " in log
    assert host.run("cat /backups/logs/history.sqlite.damaged").stdout == "damaged\n"
    read = """
import sqlite3
file = sqlite3.connect("/backups/logs/history.sqlite")
print(*file.execute("SELECT count(*) FROM found WHERE name = 'postgres connections'").fetchone())
"""
    # Once for each length of interval.
    assert host.run("python3 -", stdin=read).stdout == "3\n"
    assert "24 hours: at most" in _page(host)


def test_the_page_is_served(stack: Stack) -> None:
    """Without certificates; what kills the server, or takes its page, is over by itself."""
    host, login = stack.host, f"status:{stack.secrets[PASSWORD]}"
    site = Site(host.address, 8443)
    host.run("/scripts/health-check.sh")
    assert site.ask(login).body == host.run("cat /backups/status.html").stdout
    assert site.ask().status == 401
    said = host.run("systemd-analyze security --no-pager datatier-page | tail -n 1").stdout
    assert float(said.split(": ")[1].split()[0]) <= 1.4, said
    pid = host.run("systemctl show -p MainPID --value datatier-page").stdout.strip()
    assert host.run(f"grep ^Seccomp: /proc/{pid}/status").stdout.split()[1] == "2"
    host.run("rm /var/lib/datatier-page/status.html")
    assert site.ask(login).status == 503
    host.run(f"kill -9 {pid}; /scripts/health-check.sh")
    eventually(lambda: _is_shown(site, login), 20)


def _is_shown(site: Site, login: str) -> None:
    assert site.ask(login).status == 200


def test_the_page_is_fetched_with_its_age(stack: Stack, project: Project) -> None:
    """Whole, and for no one else to read; one that is old, or not there, is told."""
    host, command = stack.host, ("inventory.py", "tasks.status.fetch")
    host.run("/scripts/health-check.sh")
    run = project.pyinfra("-y", *command)
    fetched = project.directory / "status-whole.html"
    assert run.code == 0 and f"{fetched}: written 0 min ago" in run.output
    assert fetched.read_text() == host.run("cat /backups/status.html").stdout
    assert fetched.stat().st_mode & 0o777 == 0o600
    host.run("touch -d '40 minutes ago' /backups/status.html")
    assert (
        "written 40 min ago: old, the health check does not run"
        in project.pyinfra("-y", *command).output
    )
    host.run("rm /backups/status.html")
    run = project.pyinfra("-y", *command)
    assert run.code == 1 and "/backups/status.html is not there: run health-check.sh" in run.output
