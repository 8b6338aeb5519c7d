"""Story: a second PostgreSQL server that follows the first one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest

from tests.e2e.backups import NO_SCHEDULES, script, succeeded
from tests.e2e.handing import Handing
from tests.e2e.project import Run, footprint
from tests.e2e.proof import NEWEST, Done, admin, processes, psql, said
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

NAMES = ("db-1", "db-2")
FOLLOWED_SECONDS = 20
CLIENTS, RATE = 20, 100
# Until a switchover that is not told to go on is taken back.
TAKEN_BACK_SECONDS = 30
ROLES: dict[str, Any] = {"psscript": {}, "reader": {}}
SETTINGS: dict[str, Any] = {"postgres_max_connections": 90, "postgres_roles": ROLES}
MORE = {**SETTINGS, "postgres_max_connections": 120}
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass
class Estate:
    """Two hosts of group postgres, and one with the pooler and the backups."""

    hosts: Mapping[str, Host]
    project: Handing

    def describe(
        self,
        *names: str,
        data: Mapping[str, Mapping[str, Any]] = _NONE,
        backup: str = "keeper",
        **settings: Any,
    ) -> None:
        """Writes an inventory with these servers, with data of their own."""

        def host(name: str) -> tuple[str, dict[str, Any]]:
            of = self.hosts[name]
            return name, {**of.ssh_data(), "address": of.address, **data.get(name, {})}

        groups = {"postgres": names, "pgbouncer": ["keeper"], "backup": [backup]}
        self.project.inventory({group: [*map(host, of)] for group, of in groups.items()})
        self.project.settings({**NO_SCHEDULES, **settings})

    def sql(self, statement: str) -> Done:
        """What the application gets, through the pooler."""
        keeper = self.hosts["keeper"]
        secret = self.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        return psql(keeper, statement, password=secret, address=keeper.address)

    def load(self, seconds: int) -> Done:
        """Clients of the pooler that write for so long: what pgbench says of them."""
        file, secret = "/tmp/acks.sql", self.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        keeper = self.hosts["keeper"]
        keeper.run(f"cat >{file}", stdin="INSERT INTO acks VALUES (:client_id, clock_timestamp())")
        client = f"pgbench -h {keeper.address} -p 6432 -U psscript -n -f {file}"
        rate = f"-c {CLIENTS} -R {RATE} -T {seconds}"
        script = (
            f"IFS= read -r PGPASSWORD; export PGPASSWORD; {NEWEST}exec {client} {rate} psscript"
        )
        return keeper.run(script, stdin=f"{secret}\n", check=False, timeout=seconds + 60)

    def leads(self, name: str) -> None:
        """Asserts that this server takes writes, and no other one."""
        state = "SELECT pg_is_in_recovery()"
        found = {each: admin(self.hosts[each], state) for each in NAMES}
        assert found == {each: "tf"[each == name] for each in NAMES}

    def limited(self) -> tuple[str, ...]:
        """The arguments of a run that leaves the first server out."""
        return ("deploy.py", "--limit", "db-2", "--limit", "keeper")

    def refused(self, *data: str) -> Run:
        """A run that ends with exit code 1."""
        run = self.project.pyinfra("-y", *data, "inventory.py", "deploy.py")
        assert run.code == 1, run.output
        return run

    def settled(self) -> None:
        """Asserts that a further run changes nothing."""
        assert self.project.plan().planned == set()
        assert self.project.deploy().changed == set()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Handing:
    """A user's project directory, whose switchovers may be cut off."""
    return Handing(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def estate(lab: Lab, project: Handing) -> Estate:
    """One server with data and one without, which was a standby from the estate's first run on."""
    with ThreadPoolExecutor() as pool:
        hosts = {host.name: host for host in pool.map(lab.installed_host, (*NAMES, "keeper"))}
    made = Estate(hosts, project)
    made.describe(*NAMES)
    project.deploy()
    assert admin(hosts["db-2"], "SELECT status FROM pg_stat_wal_receiver") == "streaming"
    hosts["db-2"].run("pg_dropcluster 15 main --stop")
    made.describe("db-1")
    project.deploy("deploy.py", "--data", "postgres_prune=true")
    said(made.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id"))
    return made


def _follows(estate: Estate, count: int) -> None:
    two = estate.hosts["db-2"]
    assert admin(two, "SELECT pg_is_in_recovery(), (SELECT count(*) FROM t)") == f"t|{count}"


def _refuses(estate: Estate, *words: str) -> None:
    hosts = estate.hosts.values()
    before = footprint(*hosts)
    check_lines(estate.refused(), [words, ("1 problem; nothing was changed",)])
    assert footprint(*hosts) == before


def test_what_could_not_lead_one_day_is_refused(estate: Estate) -> None:
    """Another setting on one of them, and backups that would be lost with one of them."""
    more = {"db-2": {"postgres_max_connections": 200}}
    estate.describe(*NAMES, data=more)
    _refuses(estate, "db-2: postgres_max_connections: should be as on db-1")
    estate.describe(*NAMES, backup="db-1")
    _refuses(estate, "db-1: group backup: should be a host of its own")


def test_a_copy_that_was_killed_is_made_by_the_next_run(estate: Estate) -> None:
    """Nothing of it is taken for a cluster."""
    two = estate.hosts["db-2"]
    estate.describe(*NAMES)
    two.run("setsid -f sh -c 'until pkill -9 pg_basebackup; do sleep 0.01; done' >/dev/null 2>&1")
    estate.refused()
    assert two.run("ls /var/lib/postgresql/15").stdout.split() == ["main.datatier-creating"]


def test_a_second_host_becomes_a_standby(estate: Estate) -> None:
    """The plan says so, and rows arrive."""
    plan = estate.project.plan()
    assert "copy that of db-1, and follow it" in plan.output
    run = estate.project.deploy()
    assert run.changed == plan.planned
    estate.settled()
    assert "standby of" in run.output and "followed by 1 of 1" in run.output
    # Not a word is needed of the server that leads.
    assert estate.project.plan("deploy.py", "--limit", "db-2").planned == set()
    _follows(estate, 1000)
    admin(estate.hosts["db-1"], "INSERT INTO t SELECT generate_series(1, 50)")
    eventually(lambda: _follows(estate, 1050), FOLLOWED_SECONDS)
    # Nobody but the standby needs it.
    secret = estate.project.secrets["REPLICATION_PASSWORD"]
    find = f"grep -rlF '{secret}' /etc /var/lib/postgresql || true"
    found = [host.run(find).stdout.split() for host in estate.hosts.values()]
    assert found == [[], ["/etc/datatier/postgres/replication.pgpass"], []]


def test_the_link_is_encrypted_and_opens_nothing_else(estate: Estate) -> None:
    """The role of standbys enters no database, and reads no WAL without TLS."""
    one, two, _ = estate.hosts.values()
    ssl = "SELECT ssl, usename FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
    assert admin(one, ssl) == "t|datatier_replication"
    secret = estate.project.secrets["REPLICATION_PASSWORD"]
    for database in ("psscript", "'replication=true sslmode=disable dbname=replication'"):
        refused = psql(
            two,
            "SELECT 1",
            role="datatier_replication",
            password=secret,
            address=one.address,
            database=database,
            port=5432,
        )
        assert "no pg_hba.conf entry" in refused.stderr


def test_a_setting_reaches_both_and_rows_only_one(estate: Estate) -> None:
    """A limit that a standby may not be the first to have: no copy is made again, clients wait."""
    estate.describe(*NAMES, **SETTINGS)
    run = estate.project.deploy()
    waits = [line for line in run.output.splitlines() if "clients of PgBouncer wait" in line]
    assert len(waits) == 1 and "[db-1]" in waits[0]
    services = {("PostgreSQL: service", name) for name in NAMES}
    assert run.changed >= services | {("PostgreSQL: roles and databases", "db-1")}
    assert not {("PostgreSQL: cluster", name) for name in NAMES} & run.changed
    eventually(lambda: _follows(estate, 1050), FOLLOWED_SECONDS)
    shown = "SELECT current_setting('max_connections'), (SELECT count(*) FROM pg_roles)"
    assert admin(estate.hosts["db-1"], shown) == admin(estate.hosts["db-2"], shown)
    estate.settled()


def test_its_password_rotates(estate: Estate) -> None:
    """The standby has the new one before it connects again."""
    before = estate.project.secrets["REPLICATION_PASSWORD"]
    estate.project.deploy("tasks.rotate.replication_password")
    assert estate.project.secrets["REPLICATION_PASSWORD"] != before
    admin(estate.hosts["db-1"], "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    admin(estate.hosts["db-1"], "INSERT INTO t SELECT generate_series(1, 50)")
    eventually(lambda: _follows(estate, 1100), FOLLOWED_SECONDS)
    estate.settled()


def test_a_standby_that_is_away_is_told_and_catches_up(estate: Estate) -> None:
    """Its row is red, the other one's is not; its slot keeps WAL within a limit."""
    one, two, _ = estate.hosts.values()
    two.run("systemctl stop postgresql@15-main")
    admin(one, "INSERT INTO t SELECT generate_series(1, 50)")
    seen = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert seen.code == 1
    assert "db-2: postgres" in seen.output or "postgres on db-2" in seen.output
    assert "postgres on db-1" not in seen.output
    assert admin(one, "SHOW max_slot_wal_keep_size") == "2GB"
    assert estate.project.deploy().changed == {("PostgreSQL: service", "db-2")}
    eventually(lambda: _follows(estate, 1150), FOLLOWED_SECONDS)


def _switches(estate: Estate, name: str) -> None:
    plan = estate.project.plan("tasks.postgres.switchover")
    assert f"PostgreSQL: switchover: {name} leads from then on; clients of PgBouncer wait" in (
        plan.output
    )
    assert estate.project.deploy("tasks.postgres.switchover").changed <= plan.planned


def _acknowledged(estate: Estate, load: Future[Done]) -> None:
    """No client has failed, and every row is there that was said to be."""
    done = load.result()
    assert done.returncode == 0 and "number of failed transactions: 0" in done.stdout, done
    assert "aborted" not in done.stderr, done.stderr
    written = done.stdout.partition("actually processed: ")[2].split()[0]
    assert int(written) > CLIENTS
    assert said(estate.sql("SELECT count(*) FROM acks")) == written


def test_no_client_notices_a_switchover(
    estate: Estate, record_property: Callable[[str, object], None]
) -> None:
    """The standby leads, the other one follows without a copy, and a backup can be made at once."""
    one, two, keeper = estate.hosts.values()
    said(estate.sql("CREATE TABLE acks (client int, at timestamptz)"))
    before = processes([keeper])
    with ThreadPoolExecutor() as pool:
        load = pool.submit(estate.load, 30)
        eventually(lambda: said(estate.sql("SELECT FROM acks HAVING count(*) > 0")), 10)
        _switches(estate, "db-2")
    _acknowledged(estate, load)
    estate.leads("db-2")
    assert processes([keeper]) == before
    gap = "SELECT max(gap) FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM acks) gaps"
    record_property("without writes", f"{said(estate.sql(gap))} of {CLIENTS} clients")
    succeeded(script(keeper, "postgres-backup.sh full"))
    estate.settled()
    slots = "SELECT slot_name, active FROM pg_replication_slots"
    assert (admin(one, slots), admin(two, slots)) == ("", "datatier_db_1|t")


def test_a_restart_becomes_a_switchover(estate: Estate) -> None:
    """Of a setting that takes one: the standby has it before it leads."""
    estate.describe(*NAMES, **MORE)
    plan = estate.project.plan()
    assert "PostgreSQL: switchover: db-1 leads from then on" in plan.output
    assert estate.project.deploy().changed <= plan.planned
    estate.leads("db-1")
    shown = {admin(estate.hosts[name], "SHOW max_connections") for name in NAMES}
    assert shown == {"120"}
    estate.settled()


@pytest.mark.parametrize(
    ("step", "leads"), [("caught-up", "db-1"), ("promote", "db-2"), ("turn", "db-1")]
)
def test_a_switchover_that_is_cut_off_comes_to_its_end(
    estate: Estate, step: str, leads: str
) -> None:
    """By itself, or by the next run: no row is lost, no client fails, one server takes writes."""
    old = estate.hosts["db-2" if step == "turn" else "db-1"]
    said(estate.sql("TRUNCATE acks"))
    with ThreadPoolExecutor() as pool:
        load = pool.submit(estate.load, 25)
        eventually(lambda: said(estate.sql("SELECT FROM acks HAVING count(*) > 0")), 10)
        assert estate.project.cut_off(step).code == -signal.SIGKILL
        down = old.run("systemctl is-active postgresql@15-main", check=False).stdout.strip()
        assert down == "inactive"
        if step == "caught-up":
            eventually(lambda: admin(old, "SELECT 1"), TAKEN_BACK_SECONDS)
        run = estate.project.deploy()
    assert (("PostgreSQL: switchover", old.name) in run.changed) == (step != "caught-up")
    _acknowledged(estate, load)
    estate.leads(leads)
    estate.settled()
    left = [host.run("ls /var/lib/datatier").stdout for host in estate.hosts.values()]
    assert not any("postgres.hand" in each or ".held" in each for each in left)


def test_a_switchover_needs_a_standby_that_follows(estate: Estate) -> None:
    """And all who have to know: else nothing is touched."""
    two, task = estate.hosts["db-2"], ("-y", "inventory.py", "tasks.postgres.switchover")
    needs = estate.project.pyinfra("--limit", "db-1", "--limit", "db-2", *task)
    check_lines(needs, [("tasks.postgres.switchover: needs keeper as well: run on all hosts",)])
    estate.hosts["keeper"].run("systemctl stop pgbackrest")
    stuck = estate.project.pyinfra(*task)
    assert stuck.code == 1 and "of WAL wait for the archive: see the health table" in stuck.output
    estate.hosts["keeper"].run("systemctl start pgbackrest")
    two.run("systemctl stop postgresql@15-main")
    away = estate.project.pyinfra(*task)
    check_lines(away, [("tasks.postgres.switchover: db-2 does not follow db-1",)])
    estate.project.deploy()
    estate.leads("db-1")


def test_a_backup_is_the_primarys(estate: Estate) -> None:
    """The standby archives nothing, and is not restored beside the primary."""
    _, two, keeper = estate.hosts.values()
    succeeded(script(keeper, "postgres-backup.sh full"))
    refused = script(two, "restore-cluster.sh --yes")
    assert refused.returncode == 1 and "this server is a standby" in refused.stderr
    assert admin(two, "SHOW restore_command").startswith(
        "pgbackrest --stanza=psscript --io-timeout"
    )
    assert admin(two, "SELECT pg_is_in_recovery()") == "t"


def test_after_a_failover_by_hand_the_new_server_leads(estate: Estate) -> None:
    """A run without the lost host changes what is missing, one with both refuses to guess."""
    one, two, keeper = estate.hosts.values()
    one.run("systemctl kill -s KILL postgresql@15-main; systemctl stop postgresql@15-main")
    assert admin(two, "SELECT pg_promote()") == "t"
    _refuses(estate, "db-1 and db-2 have each a cluster that takes writes")
    run = estate.project.deploy(*estate.limited())
    assert run.changed == {
        ("PostgreSQL: configuration", "db-2"),
        ("PostgreSQL: service", "db-2"),
        ("PostgreSQL: roles and databases", "db-2"),
        ("PgBouncer: certificate of PostgreSQL", "keeper"),
        ("PgBouncer: configuration", "keeper"),
        ("PgBouncer: service", "keeper"),
        ("Backup: certificate of PostgreSQL", "keeper"),
        ("Backup: configuration", "keeper"),
    }
    assert estate.project.plan(*estate.limited()).planned == set()
    assert admin(two, "SELECT slot_name FROM pg_replication_slots") == "datatier_db_1"
    assert said(estate.sql("INSERT INTO t VALUES (0); SELECT count(*) FROM t")) == "1151"
    assert admin(two, "SELECT count(*) FROM t") == "1151"
    assert "incremental" in succeeded(script(keeper, "postgres-backup.sh incremental")).stderr


def test_the_lost_server_comes_back_as_a_standby(estate: Estate) -> None:
    """Once its cluster is out of the way, by the words of the refusal; backups know both ages."""
    one, two, keeper = estate.hosts.values()
    before = processes([two, keeper])
    one.run("pg_dropcluster 15 main --stop")
    run = estate.project.deploy()
    assert "copy that of db-2, and follow it" in run.output
    assert processes([two, keeper]) == before
    estate.settled()
    state = "SELECT pg_is_in_recovery(), (SELECT count(*) FROM t)"
    assert admin(one, state) == "t|1151"
    succeeded(script(keeper, "backup.sh drill"))
    succeeded(script(keeper, "backup.sh verify"))


def test_a_standby_leaves(estate: Estate) -> None:
    """Its slot is told, bounded, and goes with postgres_prune."""
    two = estate.hosts["db-2"]
    assert estate.project.deploy("tasks.remove.deploy", "--limit", "db-1").changed
    estate.describe("db-2", **MORE)
    run = estate.project.deploy()
    assert "replication slot datatier_db_1 (physical, holds" in run.output
    assert admin(two, "SHOW max_slot_wal_keep_size") == "2GB"
    estate.project.deploy("deploy.py", "--data", "postgres_prune=true")
    assert admin(two, "SELECT count(*) FROM pg_replication_slots") == "0"
    assert admin(two, "SELECT count(*) FROM pg_roles WHERE rolname ~ 'replication$'") == "0"
    assert estate.project.deploy("deploy.py", "--data", "postgres_prune=true").changed <= {
        (operation, "db-2") for operation in ("PostgreSQL: configuration", "PostgreSQL: service")
    }
    assert admin(two, "SHOW max_slot_wal_keep_size") == "-1"
