"""Stories of a PostgreSQL that restarts while clients of its poolers work."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests import authorities
from tests.e2e import applications
from tests.e2e.interrupted import Interruptible
from tests.e2e.project import Data
from tests.e2e.proof import Done, Process, admin, main_process, psql, said
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

# Transactions a second: without a limit they would take the processors from what they watch.
RATE = 200
CLIENTS = 20
LOAD_SECONDS = 22
# Between logins: each takes more of the processors than what it asks.
PAUSE_SECONDS = 0.2
BINARIES = "/usr/lib/postgresql/15/bin"
SERVER_LOG = "/var/log/postgresql/postgresql-15-main.log"


@dataclass(frozen=True)
class Estate:
    """PostgreSQL with a pooler beside it and one on another host."""

    project: Interruptible
    db: Host
    pool: Host

    @property
    def password(self) -> str:
        """The application role's password."""
        return self.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]

    def pgbench(self, *options: str, address: str = "127.0.0.1", port: int = 6432) -> str:
        """What PostgreSQL's own load generator reports; its clients must all have lived."""
        client = f"{BINARIES}/pgbench -h {address} -p {port} -U psscript {' '.join(options)}"
        script = f"IFS= read -r PGPASSWORD; export PGPASSWORD; exec {client} psscript"
        done = self.db.run(script, stdin=f"{self.password}\n", check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "aborted" not in done.stderr and "error:" not in done.stderr, done.stderr
        return done.stdout

    def starts(self) -> int:
        """How many times PostgreSQL has started."""
        return int(self.db.run(f"grep -c 'starting PostgreSQL' {SERVER_LOG}").stdout)

    def started(self) -> float:
        """When it has started last, in seconds since 1970."""
        return float(admin(self.db, "SELECT extract(epoch FROM pg_postmaster_start_time())"))

    def connect(self) -> psycopg.Connection[object]:
        """A client of the pooler beside PostgreSQL."""
        return psycopg.connect(
            host=self.db.address, port=6432, user="psscript", password=self.password
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Interruptible:
    """A user's project directory, whose runs may be interrupted."""
    return Interruptible(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def estate(lab: Lab, project: Interruptible) -> Estate:
    """Two hosts at work, one of each release."""
    with ThreadPoolExecutor() as boots:
        db, pool = boots.map(lab.installed_host, ("db1", "pool1"), ("debian12", "debian13"))
    members = {host: {**host.ssh_data(), "address": host.address} for host in (db, pool)}
    project.inventory(
        {
            "postgres": [("db1", members[db])],
            "pgbouncer": [("db1", members[db]), ("pool1", members[pool])],
        }
    )
    project.deploy()
    made = Estate(project, db, pool)
    made.pgbench("-i", "-q", "-s", "2", port=5432)
    return made


def poolers(estate: Estate) -> list[Process]:
    """The processes of both poolers."""
    return [main_process(host, "pgbouncer") for host in (estate.db, estate.pool)]


@pytest.fixture
def poolers_stay(estate: Estate) -> Iterator[None]:
    """No pooler restarts."""
    before = poolers(estate)
    yield
    assert poolers(estate) == before


@dataclass(frozen=True)
class Load:
    """What pgbench wrote of its transactions: their ends and what they took, in seconds."""

    report: str
    transactions: list[tuple[float, float]]

    @property
    def failed(self) -> str:
        """How many failed, as it counts them."""
        match = re.search(r"number of failed transactions: (\d+)", self.report)
        return match[1] if match else self.report

    def longest(self, moment: float) -> tuple[float, float]:
        """Of the transactions that this moment was in, the one that took longest."""
        during = [(end, took) for end, took in self.transactions if end - took < moment < end]
        return max(during, key=lambda transaction: transaction[1])


def _load(estate: Estate, name: str, address: str) -> Load:
    prefix = f"/var/tmp/load-{name}"
    estate.db.run(f"rm -f {prefix}*")
    options = f"-n -c {CLIENTS} -j 2 -R {RATE} -T {LOAD_SECONDS} -l --log-prefix={prefix}"
    report = estate.pgbench(options, address=address)
    lines = estate.db.run(f"cat {prefix}.*").stdout.splitlines()
    transactions = []
    for _, _, took, _, second, microsecond in (line.split()[:6] for line in lines):
        transactions.append((int(second) + int(microsecond) / 1e6, int(took) / 1e6))
    return Load(report, transactions)


@contextmanager
def load(estate: Estate) -> Iterator[list[Future[Load]]]:
    """Clients at work through both poolers meanwhile."""
    with ThreadPoolExecutor() as pool:
        loads = [
            pool.submit(_load, estate, name, address)
            for name, address in (("beside", "127.0.0.1"), ("apart", estate.pool.address))
        ]

        def work() -> None:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pgbench%'"
            assert int(admin(estate.db, sql)) > 0
            assert not any(each.done() for each in loads)

        eventually(work, 10)
        yield loads


TWO: Data = {
    "postgres_max_connections": 150,
    "postgres_shared_buffers": "192MB",
    "postgres_work_mem": "5MB",
}
WAITS = (
    "[db1]     postgres: restart"
    " (max_connections, shared_buffers: postmaster context; clients of PgBouncer wait)"
)


@pytest.mark.usefixtures("poolers_stay")
def test_no_client_notices_a_restart(
    estate: Estate, record_property: Callable[[str, object], None]
) -> None:
    estate.project.settings(TWO)
    starts = estate.starts()
    plan = estate.project.plan()
    assert WAITS in plan.stderr
    with load(estate) as loads:
        run = estate.project.deploy()
    assert run.changed == plan.planned
    assert estate.starts() == starts + 1
    shown = [admin(estate.db, f"SHOW {key.removeprefix('postgres_')}") for key in TWO]
    assert shown == ["150", "192MB", "5MB"]
    for name, each in zip(("beside PostgreSQL", "on another host"), loads, strict=True):
        done = each.result()
        assert done.failed == "0", done.report
        # They waited for the restart, and they worked before it and after it.
        end, took = done.longest(estate.started())
        assert done.transactions[0][0] < end - took and end < done.transactions[-1][0]
        record_property(
            "longest stall",
            f"{took:.2f} s for {CLIENTS} clients of a pooler {name},"
            f" {len(done.transactions)} transactions, {done.failed} failed",
        )
    assert estate.project.deploy().changed == set()


# --- Clients that cannot be held -----------------------------------------------------------------


# The wait for a transaction is half of it.
SECONDS = "pgbouncer_query_wait_timeout"
WAITING = 124


def answers(estate: Estate) -> list[int]:
    """The exit code of a client of each pooler, WAITING if it has no answer after a second."""
    return [
        psql(estate.db, "SELECT 1", password=estate.password, address=address, limit=1).returncode
        for address in ("127.0.0.1", estate.pool.address)
    ]


@pytest.fixture
def transaction(
    estate: Estate, request: pytest.FixtureRequest
) -> Iterator[psycopg.Connection[object]]:
    """A client that is amid a transaction, which outlasts the wait for it."""
    estate.project.settings({**TWO, SECONDS: request.param})
    estate.project.deploy()
    with estate.connect() as connection:
        connection.execute("SELECT 1")
        yield connection


def finishes(estate: Estate, starts: int, settings: Data) -> None:
    """Asserts that the next run restarts PostgreSQL, once."""
    assert estate.starts() == starts
    assert {("PostgreSQL: service", "db1")} == estate.project.deploy().changed
    assert estate.starts() == starts + 1
    for key, value in settings.items():
        assert admin(estate.db, f"SHOW {key.removeprefix('postgres_')}") == str(value)
    assert estate.project.deploy().changed == set()


@pytest.mark.usefixtures("poolers_stay")
@pytest.mark.parametrize("transaction", [6], indirect=True)
def test_a_transaction_that_does_not_end_keeps_the_server(
    estate: Estate, transaction: psycopg.Connection[object]
) -> None:
    settings, starts = {"postgres_max_connections": 160}, estate.starts()
    estate.project.settings({**TWO, SECONDS: 6, **settings})
    run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert run.code == 1
    assert "PgBouncer (db1) cannot hold its clients: transactions have been running" in run.output
    holds_nobody(estate)
    transaction.execute("SELECT 1")
    transaction.commit()
    finishes(estate, starts, settings)


# The guard waits in cat; its parent is the shell of the change.
_GUARD = "guard=$(ps -o ppid= -p $(pgrep -x cat)); shell=$(ps -o ppid= -p $guard)"


def is_guarded(estate: Estate) -> None:
    """Asserts that the run is about to hold clients: a slow machine keeps them waiting as well."""
    assert estate.db.run("pgrep -x cat", check=False).returncode == 0


@contextmanager
def holding(estate: Estate, settings: Data) -> Iterator[None]:
    """A run that wants to restart PostgreSQL, while every pooler holds its clients for it."""
    estate.project.settings({**TWO, SECONDS: 60, **settings})
    with ThreadPoolExecutor() as pool:
        run = pool.submit(estate.project.pyinfra, "-y", "inventory.py", "deploy.py")
        eventually(lambda: is_guarded(estate), 60)
        eventually(lambda: holds(estate), 20)
        yield
        assert run.result().code == 1


@pytest.mark.usefixtures("poolers_stay")
@pytest.mark.parametrize("transaction", [60], indirect=True)
def test_clients_go_on_when_the_run_is_killed(
    estate: Estate, transaction: psycopg.Connection[object]
) -> None:
    settings, starts = {"postgres_max_connections": 170}, estate.starts()
    with holding(estate, settings):
        estate.db.run(f"{_GUARD}; kill -9 $shell")
    eventually(lambda: holds_nobody(estate), 10)
    transaction.execute("SELECT 1")
    transaction.commit()
    finishes(estate, starts, settings)


@pytest.mark.usefixtures("poolers_stay")
@pytest.mark.parametrize("transaction", [60], indirect=True)
def test_the_next_run_lets_clients_go_on_when_nobody_is_left_to_do_it(
    estate: Estate, transaction: psycopg.Connection[object]
) -> None:
    """As when PostgreSQL's host dies: the guard goes with the shell."""
    settings, starts = {"postgres_max_connections": 180}, estate.starts()
    with holding(estate, settings):
        estate.db.run(f"{_GUARD}; kill -9 $guard $shell $(pgrep -x cat)")
    transaction.commit()
    eventually(lambda: holds(estate), 10)
    finishes(estate, starts, settings)
    holds_nobody(estate)


def holds(estate: Estate) -> None:
    """Asserts that every pooler holds its clients."""
    assert answers(estate) == [WAITING, WAITING]


def holds_nobody(estate: Estate) -> None:
    """Asserts that no pooler holds its clients."""
    assert answers(estate) == [0, 0]


@pytest.mark.usefixtures("poolers_stay")
def test_a_pooler_that_is_cut_off_keeps_nobody_else(estate: Estate) -> None:
    """Its host is left out of the run; clients of the other one wait, and go on."""
    settings, starts = {"postgres_max_connections": 190}, estate.starts()
    estate.project.settings({**TWO, SECONDS: 60, **settings})
    estate.project.deploy("tasks.pgbouncer.configure")
    estate.pool.pause()
    try:
        with _at_work(estate) as answered:
            run = estate.project.pyinfra("-y", "--json", "inventory.py", "tasks.postgres.configure")
            count = len(answered)
        assert (run.code, run.changed) == (1, _restarts("db1")), run.output
        assert len(answered) > count > 0
        assert estate.starts() == starts + 1
    finally:
        estate.pool.unpause()
    eventually(lambda: holds_nobody(estate), 10)
    assert estate.project.deploy().changed == set()


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Lets a thread work until the event is set; what it raises is raised here."""
    done = threading.Event()
    with ThreadPoolExecutor() as pool:
        working = pool.submit(work, done)
        try:
            yield
        finally:
            done.set()
        working.result()


@contextmanager
def _at_work(estate: Estate) -> Iterator[list[object]]:
    """A client of the pooler beside PostgreSQL that asks all the time, and for once more."""
    answered = list[object]()

    def work(done: threading.Event) -> None:
        with estate.connect() as connection:
            connection.autocommit, connection.prepare_threshold = True, None
            while not done.wait(0.01):
                answered.append(connection.execute("SELECT 1").fetchone())
            answered.append(connection.execute("SELECT 1").fetchone())

    with meanwhile(work):
        yield answered


def _restarts(name: str) -> set[tuple[str, str]]:
    return {("PostgreSQL: configuration", name), ("PostgreSQL: service", name)}


# --- The poolers themselves ----------------------------------------------------------------------


def _listens(host: Host) -> bool:
    try:
        with socket.create_connection((host.address, 6432), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def watched(estate: Estate) -> Iterator[set[tuple[bool, bool]]]:
    """Which of the poolers listened, fifty times a second."""
    seen = set[tuple[bool, bool]]()

    def watch(done: threading.Event) -> None:
        while not done.wait(0.02):
            seen.add((_listens(estate.db), _listens(estate.pool)))

    with meanwhile(watch):
        yield seen


def test_poolers_restart_one_after_the_other(estate: Estate) -> None:
    """For what RELOAD does not take; the plan says what that is."""
    estate.project.settings({**TWO, "pgbouncer_extra": {"listen_backlog": 256}})
    before, plan = poolers(estate), estate.project.plan()
    why = "pgbouncer: restart (listen_backlog: RELOAD does not take it)"
    assert plan.stderr.count(why) == len(before)
    with watched(estate) as seen:
        assert estate.project.deploy().changed == plan.planned
    assert all(a != b for a, b in zip(before, poolers(estate), strict=True))
    # Two samples may lie on both sides of a restart; one of a pooler that is down was seen.
    assert (False, False) not in seen
    assert seen & {(False, True), (True, False)}


def test_documented_clients_are_back_after_a_restart_by_hand(
    estate: Estate, tmp_path: Path
) -> None:
    """Nobody holds them then; PgBouncer of either release tries again at once."""
    clients = ("psycopg", "asyncpg", "SQLAlchemy", "SQLAlchemy with asyncpg")
    beside = applications.database(estate.db.address, estate.password)
    apart = applications.database(estate.pool.address, estate.password)
    with (
        applications.running(clients, beside, tmp_path / "beside") as near,
        applications.running(clients, apart, tmp_path / "apart") as far,
    ):
        estate.db.run("systemctl restart postgresql@15-main")
        # PgBouncer's own default would keep them waiting for longer.
        applications.back([*near, *far], 8)


# --- The link to PostgreSQL from another host ----------------------------------------------------


def _link(estate: Estate) -> set[str]:
    """Whether the sessions of the pooler on the other host are encrypted, as PostgreSQL sees it."""
    estate.pgbench("-n", "-S", "-c", "2", "-T", "1", address=estate.pool.address)
    sessions = f"SELECT pid FROM pg_stat_activity WHERE client_addr = '{estate.pool.address}'"
    query = f"SELECT DISTINCT ssl FROM pg_stat_ssl WHERE pid IN ({sessions})"
    return set(admin(estate.db, query).split())


@contextmanager
def new_links(estate: Estate) -> Iterator[None]:
    """The pooler on the other host opens links all the time until it reloads; no client fails."""
    place = f"host={estate.pool.address} port=6432 connect_timeout=10"
    secret = estate.project.secrets["POSTGRES_PASSWORD"]
    served = list[object]()

    def work(done: threading.Event) -> None:
        order, console = "SET server_lifetime = 1", "pgbouncer"
        said(psql(estate.pool, order, role="postgres", password=secret, database=console))
        # However short a run is.
        while not (done.wait(PAUSE_SECONDS) and len(served) > 10):
            with psycopg.connect(f"{place} user=psscript", password=estate.password) as client:
                served.append(client.execute("SELECT 1").fetchone())

    with meanwhile(work):
        yield
    assert len(served) > 10


def _as_before(estate: Estate) -> None:
    """What the previous release has written, and both have taken."""
    access = "/etc/postgresql/15/main/pg_hba.conf"
    estate.db.run(f"sed -i 's/^hostssl /host    /' {access}")
    admin(estate.db, "SELECT pg_reload_conf()")
    estate.pool.run(
        "sed -i 's/^server_tls_sslmode.*/server_tls_sslmode = disable/; /^server_tls_ca/d'"
        " /etc/pgbouncer/pgbouncer.ini; kill -HUP $(cat /var/run/postgresql/pgbouncer.pid)"
    )
    old = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr = '{}'"
    admin(estate.db, old.format(estate.pool.address))


def _direct(estate: Estate, mode: str) -> Done:
    """A client on the pooler's host that goes to PostgreSQL itself."""
    return psql(
        estate.pool,
        "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        password=estate.password,
        database=f"'dbname=psscript sslmode={mode}'",
        address=estate.db.address,
        port=5432,
    )


def test_the_pooler_of_another_host_gets_tls_first_and_then_has_to_have_it(estate: Estate) -> None:
    _as_before(estate)
    assert _link(estate) == {"f"}
    plan = estate.project.plan()
    with new_links(estate):
        run = estate.project.deploy()
    access = ("PostgreSQL: access of poolers", "db1")
    assert access in run.changed and run.changed == plan.planned
    assert estate.project.deploy().changed == set()
    assert _link(estate) == {"t"}
    refused = _direct(estate, "disable")
    assert refused.returncode == 2 and "no encryption" in refused.stderr
    assert said(_direct(estate, "require")) == "t"


# Answers in PgBouncer's place, asks for the password in clear, and keeps what it hears.
_IMPOSTOR = """
import socket, sys
with socket.create_server((sys.argv[1], 6432)) as server, open("/var/tmp/heard", "ab", 0) as heard:
    while True:
        client, _ = server.accept()
        for answer in (b"N", bytes([82, 0, 0, 0, 8, 0, 0, 0, 3]), b""):
            heard.write(client.recv(1024) + b"|")
            try:
                client.sendall(answer)
            except OSError:
                break
        client.close()
"""


@contextmanager
def _impostor(host: Host) -> Iterator[None]:
    """Another user of a pooler's host listens at its address while it is down."""
    host.run("cat >/var/tmp/impostor.py", stdin=_IMPOSTOR)
    host.run(
        "systemctl stop pgbouncer && touch /var/tmp/heard && chown nobody /var/tmp/heard &&"
        f" systemd-run -q --unit impostor --uid nobody python3 /var/tmp/impostor.py {host.address}"
    )
    eventually(lambda: said(host.run(f"ss -ltn | grep {host.address}:6432", check=False)), 10)
    try:
        yield
    finally:
        host.run("systemctl stop impostor; systemctl start pgbouncer")


def test_who_answers_in_the_place_of_a_pooler_on_another_host_is_told_nothing(
    estate: Estate,
) -> None:
    """libpq of Debian 12 would send the superuser's password to whoever asks for it."""
    starts = estate.starts()
    estate.project.settings({"postgres_max_connections": 160})
    with _impostor(estate.pool):
        run = estate.project.pyinfra(
            "-y", "--limit", "db1", "inventory.py", "tasks.postgres.configure"
        )
        heard = estate.pool.run("cat /var/tmp/heard").stdout
    assert run.code != 0
    assert "PgBouncer (pool1) cannot hold its clients: another key answers there" in run.output
    assert estate.starts() == starts
    # It asks for TLS, and goes without a word.
    assert heard.endswith("||") and "postgres" not in heard
    estate.project.settings({})
    # Also what stories before have set of the poolers, which restart for it.
    estate.project.deploy()


def test_the_link_to_another_host_is_encrypted_and_its_certificate_pinned(estate: Estate) -> None:
    """The next one takes over from one that is lost or ends; a stranger's gets no password."""
    assert _link(estate) == {"t"}
    estate.db.run("rm /etc/datatier/postgres/certificate.pem")
    refusals = "grep -c 'verify failed' /var/log/postgresql/pgbouncer.log"
    before = estate.pool.run(refusals, check=False).stdout
    with new_links(estate):
        changed = estate.project.deploy().changed
    assert changed == {
        ("PostgreSQL: key", "db1"),
        ("PostgreSQL: service", "db1"),
        ("PgBouncer: certificate of PostgreSQL", "pool1"),
        ("PgBouncer: service", "pool1"),
    }
    assert estate.pool.run(refusals, check=False).stdout == before
    assert _link(estate) == {"t"}

    mine = "/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"
    admin(estate.db, f"ALTER SYSTEM SET ssl_cert_file = '{mine[0]}'")
    admin(estate.db, f"ALTER SYSTEM SET ssl_key_file = '{mine[1]}'")
    admin(estate.db, "SELECT pg_reload_conf()")
    old = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr = '{}'"
    eventually(lambda: admin(estate.db, old.format(estate.pool.address)), 5)
    reached: Data = {"password": estate.password, "address": estate.pool.address, "limit": 4}
    refused = psql(estate.pool, "SELECT 1", **reached)
    assert refused.returncode != 0
    log = estate.pool.run("tail -n 20 /var/log/postgresql/pgbouncer.log").stdout
    assert "verify failed" in log, log
    estate.project.deploy()
    eventually(lambda: said(psql(estate.pool, "SELECT 1", **reached)), 10)


# --- Certificates of the estate's authority ------------------------------------------------------

AUTHORITY = "/etc/datatier/tls/ca.pem"


def _verifies(estate: Estate, host: Host, port: int, trusted: Path) -> str:
    """Who a client is that takes the server's certificate for its address; or why it does not."""
    try:
        with psycopg.connect(
            host=host.address,
            port=port,
            user="psscript",
            password=estate.password,
            connect_timeout=5,
            sslmode="verify-full",
            sslrootcert=str(trusted),
        ) as client:
            return str(client.execute("SELECT current_user").fetchone())
    except psycopg.OperationalError as error:
        return str(error)


def _shown(estate: Estate) -> list[str]:
    """The serial of each server's certificate, as the servers show them."""
    ask = "openssl s_client -starttls postgres -connect {}:{} </dev/null 2>/dev/null"
    serial = f"{ask} | openssl x509 -noout -serial"
    places = ((estate.db, 6432), (estate.pool, 6432), (estate.db, 5432))
    return [host.run(serial.format(host.address, port)).stdout for host, port in places]


@pytest.fixture
def certified(estate: Estate, lab: Lab) -> Iterator[Data]:
    """Settings with an authority, and a line that lets this machine in."""
    lines = [f"hostssl all all {lab.gateway}/32 scram-sha-256"]
    yield {"tls_enabled": True, "postgres_hba": lines}
    estate.project.settings({})


def test_servers_go_over_to_an_authority_and_back_without_an_error(
    estate: Estate, certified: Data, poolers_stay: None, tmp_path: Path
) -> None:
    """Clients work meanwhile, and the pooler of the other host opens new links all the time."""
    project, starts = estate.project, estate.starts()
    project.settings(certified)
    plan = project.plan()
    with new_links(estate):
        run = project.deploy()
    assert run.changed == plan.planned
    assert ("PostgreSQL: certificate of the authority", "db1") in run.changed
    assert project.deploy().changed == set()
    known, foreign = tmp_path / "ca.pem", tmp_path / "foreign.pem"
    known.write_text(estate.db.run(f"cat {AUTHORITY}").stdout)
    foreign.write_text(estate.db.run("cat /etc/datatier/postgres/certificate.pem").stdout)
    ways = [(estate.db, 6432), (estate.pool, 6432), (estate.db, 5432)]
    for host, port in ways:
        assert _verifies(estate, host, port, known) == "('psscript',)"
        assert "certificate verify failed" in _verifies(estate, host, port, foreign)
    _check_renewal(estate)
    _check_repair(estate)
    _check_refusals(estate)
    _check_another(estate, known)
    for host, port in ways:
        assert _verifies(estate, host, port, known) == "('psscript',)"
    # The way by which PostgreSQL's host lets clients of the other one wait.
    project.settings({**certified, "postgres_max_connections": 130})
    with new_links(estate):
        project.deploy()
    assert estate.starts() == starts + 1
    project.settings({"postgres_max_connections": 130})
    plan = project.plan()
    with new_links(estate):
        run = project.deploy()
    assert run.changed == plan.planned
    assert project.deploy().changed == set()
    assert _link(estate) == {"t"} and estate.starts() == starts + 1
    for host in (estate.db, estate.pool):
        assert host.run(f"ls {AUTHORITY}", check=False).returncode != 0


def _check_renewal(estate: Estate) -> None:
    """All servers show a new certificate, and clients that were there go on."""
    before = _shown(estate)
    with estate.connect() as client, new_links(estate):
        done = estate.project.pyinfra("-y", "inventory.py", "tasks.tls.renew")
        assert done.code == 0, done.output
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert not {*before} & {*_shown(estate)}


def _check_repair(estate: Estate) -> None:
    """What hands did to files: nothing of it is loaded, and a run puts it right."""
    place = "/etc/datatier/tls/pgbouncer"
    estate.pool.run(f"truncate -s 100 {place}/certificate.pem")
    estate.db.run(f"openssl ecparam -genkey -name prime256v1 -noout -out {place}/key.pem")
    estate.db.run("rm /etc/datatier/tls/postgres/key.pem")
    before = _shown(estate)
    plan = estate.project.plan()
    with new_links(estate):
        run = estate.project.deploy()
    assert run.changed == plan.planned
    assert not {*before} & {*_shown(estate)}
    assert estate.project.deploy().changed == set()


def _check_refusals(estate: Estate) -> None:
    """The `.env` of another estate, and none: clients would trust no server any more."""
    env = estate.project.directory / ".env"
    mine = env.read_text()
    secret = estate.project.secrets["TLS_CA_SECRET"]
    for text, why in (
        (mine.replace(secret, secret[::-1]), f"TLS_CA_SECRET: is not the one of {AUTHORITY} here"),
        (mine.replace(f"TLS_CA_SECRET={secret}", ""), "TLS_CA_SECRET: in use here, but not in"),
    ):
        env.write_text(text)
        run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert run.code == 1 and f"db1: {why}" in run.output.replace("secrets: ", "")
        assert "nothing was changed" in run.output
    env.write_text(mine)


def _check_another(estate: Estate, known: Path) -> None:
    """An authority takes the place of another one; clients with the present file see no error."""
    project, env = estate.project, estate.project.directory / ".env"
    mine, old = env.read_text(), project.secrets["TLS_CA_SECRET"]
    rest, new = mine.replace(f"TLS_CA_SECRET={old}\n", ""), old[::-1]
    for signs, further in ((old, new), (new, old), (new, "")):
        also = f"TLS_CA_SECRET_ALSO={further}\n" if further else ""
        env.write_text(f"{rest}TLS_CA_SECRET={signs}\n{also}")
        with new_links(estate):
            project.deploy()
        assert project.deploy().changed == set()
        if not further:
            # Clients have the file with both until here.
            assert _verifies(estate, estate.pool, 6432, known) == "('psscript',)"
        known.write_text(estate.db.run(f"cat {AUTHORITY}").stdout)
        assert known.read_text().count("BEGIN") == (2 if further else 1)
        assert _verifies(estate, estate.pool, 6432, known) == "('psscript',)"


@contextmanager
def _logins(estate: Estate, login: tuple[str, str] | None = None) -> Iterator[list[object]]:
    """New clients of both poolers all the time, which fail for no one."""
    served = list[object]()
    role, password = login or ("psscript", estate.password)

    def work(done: threading.Event) -> None:
        while not done.wait(PAUSE_SECONDS):
            for host in (estate.db, estate.pool):
                with psycopg.connect(
                    host=host.address,
                    port=6432,
                    user=role,
                    password=password,
                    dbname="psscript",
                    connect_timeout=10,
                ) as client:
                    served.append(client.execute("SELECT 1").fetchone())

    with meanwhile(work):
        yield served


def test_going_over_to_an_authority_is_interrupted_at_every_boundary(
    estate: Estate, certified: Data
) -> None:
    """There and back; clients get links, and PostgreSQL's host the console of the other pooler."""
    short: Data = {"pgbouncer_server_lifetime": 1}
    estate.project.settings(short)
    estate.project.deploy()
    for settings in ({**certified, **short}, short):
        estate.project.settings(settings)
        with _logins(estate) as served:
            made = estate.project.to_its_end(after=lambda: said(_from_db(estate)))
        assert len(served) > 50 and len(made) > 6


def _from_db(estate: Estate) -> Done:
    """What the console of the other host's pooler tells PostgreSQL's, which verifies it."""
    verified = "sslmode=verify-full sslrootcert=/etc/datatier/poolers.pem"
    return psql(
        estate.db,
        "SHOW VERSION",
        role="postgres",
        password=estate.project.secrets["POSTGRES_PASSWORD"],
        database=f"'dbname=pgbouncer {verified}'",
        address=estate.pool.address,
    )


@contextmanager
def _verifying(estate: Estate, trusted: Path) -> Iterator[list[str]]:
    """New clients of all servers all the time, which verify them."""
    served = list[str]()

    def work(done: threading.Event) -> None:
        while not done.wait(PAUSE_SECONDS):
            for host, port in ((estate.db, 6432), (estate.pool, 6432), (estate.db, 5432)):
                served.append(_verifies(estate, host, port, trusted))

    with meanwhile(work):
        yield served


def test_servers_go_over_to_own_certificates_and_back(
    estate: Estate, certified: Data, tmp_path: Path
) -> None:
    """Trust first, then the files, then newer ones; each run is killed after each change."""
    project = estate.project
    steps = authorities.own_files(tmp_path, [estate.db.address, estate.pool.address])
    short: Data = {**certified, "pgbouncer_server_lifetime": 1}
    project.settings(short)
    project.deploy()
    both, mine = tmp_path / "both.pem", tmp_path / "root.pem"
    both.write_text(estate.db.run(f"cat {AUTHORITY}").stdout + mine.read_text())
    project.settings({**short, **steps[1]})
    early = project.pyinfra("-y", "inventory.py", "deploy.py")
    assert early.code == 1 and "db1: tls_certificate: deploy once without it" in early.output
    for settings in steps:
        project.settings({**short, **settings})
        with _verifying(estate, both) as served:
            project.to_its_end(after=lambda: said(_from_db(estate)))
        assert len(served) > 10 and {*served} == {"('psscript',)"}
        is_own = "tls_key" in settings
        assert (_verifies(estate, estate.pool, 6432, mine) == "('psscript',)") is is_own
        assert (_verifies(estate, estate.db, 5432, mine) == "('psscript',)") is is_own


# --- Rotation ------------------------------------------------------------------------------------

_ROTATING: Data = {
    "postgres_roles": {"psscript": {"rotating": True}},
    # New links to the server all the time, which look passwords up.
    "pgbouncer_server_lifetime": 1,
}


def test_rotation_is_interrupted_at_every_boundary(estate: Estate) -> None:
    """Of the superuser, of poolers' lookup and of an application; its clients see none of it."""
    project, before = estate.project, estate.project.secrets
    project.settings(_ROTATING)
    project.deploy()
    roles = {
        "postgres": "POSTGRES_PASSWORD",
        "pgbouncer": "PGBOUNCER_AUTH_PASSWORD",
        "psscript": "POSTGRES_ROLE_PSSCRIPT_PASSWORD",
    }
    with _logins(estate, ("psscript", before[roles["psscript"]])) as served:
        for name in roles.values():
            project.to_its_end(f"tasks.rotate.{name.lower()}")
            assert project.secrets[f"{name}_PREVIOUS"] == before[name]
            assert project.deploy().changed == set()
    assert len(served) > 50
    coming = ("psscript_a", project.secrets["POSTGRES_ROLE_PSSCRIPT_A_PASSWORD"])
    with _logins(estate, coming) as served:
        project.to_its_end("tasks.rotate.finish")
    assert len(served) > 10
    assert project.deploy().changed == set()
    assert not [name for name in project.secrets if name.endswith("_PREVIOUS")]
    for role, name in roles.items():
        old = psql(estate.db, "SELECT 1", role=role, password=before[name], port=5432)
        assert re.search("authentication failed|not permitted", old.stderr), (role, old)
