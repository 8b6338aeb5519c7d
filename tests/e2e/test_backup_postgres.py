"""Story: PostgreSQL is backed up, changed and broken, and comes back exactly as it was."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import hostile
from tests.e2e.backup_site import Site, site
from tests.e2e.groups import estates
from tests.e2e.project import Project
from tests.e2e.proof import exposures
from tests.e2e.wait import eventually
from tests.lab import Lab

# What a story finds may differ by the release, whose PostgreSQL and pgBackRest are other ones, and
# by the place of the repository: two estates have each of these once. A third is for what the older
# pgBackRest might allow between two hosts; that it restores there tests/e2e/test_cluster.py shows,
# and tests/e2e/test_lost_directory.py has Debian 13 with all of it on one host.
BOTH = estates(
    "test_backup_postgres", debian13_own=("debian13", True), debian12_same=("debian12", False)
)
NEWER = BOTH[:1]
TWO_HOSTS = NEWER + estates("test_backup_postgres", debian12_own=("debian12", True))
on_the_newer = pytest.mark.parametrize("estate", NEWER, indirect=True)
on_two_hosts = pytest.mark.parametrize("estate", TWO_HOSTS, indirect=True)


@pytest.fixture(scope="module", params=BOTH)
def estate(
    request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A deployed estate; the repository is on the server's host, or on a host of its own."""
    release, own_host = request.param
    name = f"{release}-{'own' if own_host else 'same'}"
    project = Project(tmp_path_factory.mktemp(name))
    db = lab.installed_host(f"{name}-db", release)
    keeper = lab.installed_host(f"{name}-keeper", release) if own_host else db
    made = site(project, db, keeper)
    yield made
    for host in {made.db, made.keeper}:
        host.remove()


@pytest.fixture(scope="module")
def history(estate: Site) -> dict[str, Any]:
    """Full, change, incremental, change, a moment, change, incremental, change, DROP TABLE."""
    estate.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, what text); ALTER TABLE orders OWNER TO"
        " psscript; INSERT INTO orders SELECT g, md5(g::text) FROM generate_series(1, 20000) g;"
        " REVOKE CONNECT ON DATABASE psscript FROM PUBLIC;"
        " ALTER TABLE orders ENABLE ROW LEVEL SECURITY; SELECT lo_from_bytea(0, 'a large object')"
    )
    # Nobody else can read it, and a backup does not have to.
    session = "CREATE TEMP TABLE of_a_session AS SELECT 1; SELECT pg_sleep(60)"
    estate.db.run(f'setsid -f psql -qd psscript -c "{session}" >/dev/null 2>&1', user="postgres")
    estate.sql("CREATE TABLE items AS SELECT g AS id FROM generate_series(1, 50) g", "shop")
    estate.sql("CREATE DATABASE spaces")
    estate.sql("CREATE DATABASE quiet")
    estate.sql("CREATE TABLE kept AS SELECT g AS id FROM generate_series(1, 77) g", "quiet")
    tablespace(estate, "old")
    points: dict[str, Any] = {"full": estate.rows(), "shop": estate.rows("shop")}
    estate.done("postgres-backup.sh full")
    estate.sql("UPDATE orders SET what = 'first' WHERE id <= 100")
    points["first"] = estate.rows()
    estate.done("postgres-backup.sh incremental")
    estate.sql("DELETE FROM orders WHERE id > 15000; CREATE TABLE notes (note text)")
    points["moment"], points["second"] = estate.rows(), estate.moment()
    estate.sql("INSERT INTO notes VALUES ('after the moment')")
    points["last"] = estate.rows()
    estate.done("postgres-backup.sh incremental")
    estate.sql("DROP TABLE orders")
    return points


def tablespace(estate: Site, name: str) -> None:
    """A tablespace, and a table in it."""
    estate.db.run(f"install -d -o postgres /srv/{name}")
    estate.sql(f"CREATE TABLESPACE {name} LOCATION '/srv/{name}'")
    rows = "SELECT g AS id FROM generate_series(1, 2000) g"
    # Vacuum would write to its files meanwhile.
    options = f"WITH (autovacuum_enabled = off) TABLESPACE {name}"
    estate.sql(f"CREATE TABLE {name} {options} AS {rows}", "spaces")


def incrementals(estate: Site) -> list[str]:
    return [str(manifest["name"]) for manifest in estate.manifests("incremental")]


@pytest.mark.parametrize("point", ["first", "last", "moment", "full"])
def test_every_point_comes_back_exactly(estate: Site, history: dict[str, Any], point: str) -> None:
    first, last = incrementals(estate)
    (full,) = (m["name"] for m in estate.manifests("full") if m["of"] == "psscript")
    what = {
        "first": f"--incremental {first} --database psscript",
        "last": f"--incremental {last} --database psscript",
        "moment": f"--time {shlex.quote(history['second'])} --database psscript",
        "full": f"/backups/postgres/{full}",
    }
    before, shop = estate.rows(), estate.sql("SELECT oid FROM pg_database WHERE datname = 'shop'")
    kept = estate.databases()
    estate.done(f"restore-postgres.sh {what[point]}")
    assert estate.rows() == history[point] != before
    (old,) = estate.databases() - kept
    assert estate.rows(old) == before
    assert estate.sql("SELECT oid FROM pg_database WHERE datname = 'shop'") == shop
    # The application goes on: through the pooler, as the owner, with its settings and rights.
    assert estate.pooled("SELECT count(*) FROM orders") != "0"
    assert estate.pooled("SHOW work_mem") == "7MB"
    estate.pooled("INSERT INTO orders VALUES (-1, 'new')")
    entry = "SELECT has_database_privilege('public', 'psscript', 'CONNECT')"
    assert estate.sql(entry) == "f"
    estate.sql("DELETE FROM orders WHERE id = -1")
    estate.sql(f'DROP DATABASE "{old}"')


def test_all_databases_come_back_in_one_go(estate: Site, history: dict[str, Any]) -> None:
    estate.sql("DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS notes")
    estate.sql("DELETE FROM items", "shop")
    estate.done(f"restore-postgres.sh --incremental {incrementals(estate)[1]}")
    assert (estate.rows(), estate.rows("shop")) == (history["last"], history["shop"])
    # Once more from its dump, whatever an application wants of its sessions.
    if estate.keeper is estate.db:
        (dump,) = (m["name"] for m in estate.manifests("full") if m["of"] == "shop")
        estate.sql("DELETE FROM items", "shop")
        estate.done(f"restore-postgres.sh /backups/postgres/{dump}")
        estate.done(f"restore-postgres.sh /backups/postgres/{dump} --table public.items")
        assert history["shop"] == estate.rows("shop")


def test_what_is_there_after_a_restore_is_what_the_settings_say(
    estate: Site, history: dict[str, Any]
) -> None:
    assert estate.project.deploy().changed == set()


def test_a_drill_restores_measures_and_cleans_up(estate: Site, history: dict[str, Any]) -> None:
    server = estate.sql("SELECT pg_postmaster_start_time(), count(*) FROM pg_database")
    estate.done("backup.sh drill")
    result = json.loads(estate.keeper.run("cat /backups/logs/drill.json").stdout)
    assert result["outcome"] == "passed"
    assert result["postgres"]["restore_point"] == incrementals(estate)[-1].replace("psscript_", "")
    assert result["postgres"]["rto"] > 0 < result["postgres"]["rpo"]
    assert estate.keeper.run("find /backups/scratch -mindepth 1 -not -name .lock").stdout == ""
    assert estate.keeper.run("pgrep -f '[/]backups/scratch'", check=False).stdout == ""
    assert estate.sql("SELECT pg_postmaster_start_time(), count(*) FROM pg_database") == server
    checks = [check["what"] for check in estate.manifests("incremental")[-1]["verified"]]
    assert "restored in a drill" in checks


def test_a_locale_that_only_the_servers_host_has_is_told_before_a_drill(
    estate: Site, history: dict[str, Any]
) -> None:
    make = "localedef --no-archive -i de_DE -f UTF-8 de_DE.UTF-8"
    estate.db.run(make)
    estate.sql("CREATE DATABASE far LOCALE 'de_DE.UTF-8' TEMPLATE template0")
    told = f"{estate.keeper.name} has no locale 'de_DE.UTF-8', so drills and --time cannot read "
    is_apart = estate.keeper is not estate.db
    for line in ("database far: ", ""):
        status = estate.script("backup.sh status")
        assert (told + line in status.stderr) == bool(line and is_apart), status.stderr
        estate.keeper.run(make)
    estate.sql("DROP DATABASE far")


def test_what_is_listed_verified_and_told(estate: Site, history: dict[str, Any]) -> None:
    listed = estate.done("backup.sh list")
    assert all(m["name"] in listed for kind in ("full", "incremental", "globals")
               for m in estate.manifests(kind))  # fmt: skip
    estate.done("backup.sh verify")
    told = estate.done("backup.sh status")
    assert "passed" in told and "restored in" in told
    assert estate.script("health-check.sh").returncode == 0
    links = estate.keeper.run("cd /backups/postgres && readlink *_LATEST*").stdout.split()
    assert sorted(links) == sorted(str(m["name"]) for m in estate.manifests("full"))


def test_the_plain_sql_is_what_psql_reads(estate: Site, history: dict[str, Any]) -> None:
    """With nothing of ours: gunzip and psql, into an empty database, errors not forgiven."""
    estate.sql("CREATE DATABASE by_hand TEMPLATE template0", "postgres")
    file = "/backups/postgres/psscript_full_LATEST.sql.gz"
    if estate.keeper is not estate.db:
        content = estate.keeper.run(f"base64 -w0 $(readlink -f {file})").stdout
        estate.db.run("base64 -d >/var/tmp/dump.sql.gz", stdin=content)
        file = "/var/tmp/dump.sql.gz"
    load = "runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d by_hand"
    estate.db.run(f"set -e; gunzip -c {file} >/var/tmp/dump.sql; {load} </var/tmp/dump.sql")
    assert estate.rows("by_hand") == history["full"]
    estate.sql("DROP DATABASE by_hand", "postgres")


@on_the_newer
def test_while_one_host_is_away_the_other_goes_on_trusting_it(
    estate: Site, history: dict[str, Any]
) -> None:
    seen = (
        "sha256sum /etc/datatier/pgbackrest/* /etc/pgbackrest.conf;"
        " systemctl show -p MainPID,ExecMainStartTimestamp pgbackrest cron"
    )
    before = estate.keeper.run(seen).stdout
    estate.db.kill()
    try:
        run = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert run.code == 1 and "was not reached" in run.stdout, run.output
        assert estate.keeper.run(seen).stdout == before
    finally:
        estate.db.start()
    assert estate.project.deploy().changed == set()
    estate.done("postgres-backup.sh incremental")


# --- One table, and only to look -----------------------------------------------------------------


@on_two_hosts
def test_another_server_gets_no_password_from_the_backup_host(estate: Site) -> None:
    """One that shows another certificate."""
    lines = estate.db.run("grep -h ^host /etc/postgresql/*/main/pg_hba.conf").stdout.split("\n")
    assert [each.split()[0] for each in lines if estate.keeper.address in each] == ["hostssl"]
    estate.done("health-check.sh")
    snakeoil = "/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"
    for key, path in zip(("ssl_cert_file", "ssl_key_file"), snakeoil, strict=True):
        estate.sql(f"ALTER SYSTEM SET {key} = '{path}'")
    estate.sql("SELECT pg_reload_conf()")
    eventually(lambda: estate.refused("health-check.sh", 2), 10)
    assert "certificate verify failed" in estate.script("health-check.sh").stdout
    for key in ("ssl_cert_file", "ssl_key_file"):
        estate.sql(f"ALTER SYSTEM RESET {key}")
    estate.sql("SELECT pg_reload_conf()")
    eventually(lambda: estate.done("health-check.sh"), 10)


@on_two_hosts
def test_pgbackrest_has_few_rights(estate: Site) -> None:
    for host in (estate.db, estate.keeper):
        assert exposures(host)["pgbackrest.service"] < 2


# What postgres of PostgreSQL's host may try in pgBackRest's protocol.
_ORDERS = (
    "repo-put backup/psscript/evil </etc/hostname",
    "repo-put archive/psscript/archive.info </etc/hostname",
    "repo-put --repo1-path=/var/lib/postgresql evil </etc/hostname",
    "--type=full backup",
    "--force stanza-delete",
)
# The programs of Debian 12 refuse the last two by themselves.
_REFUSALS = r"Read-only file system|command must be run on the repository host"


@on_two_hosts
def test_postgresqls_host_makes_and_removes_no_backup(
    estate: Site, history: dict[str, Any]
) -> None:
    """It may take WAL away, without which a full backup still restores."""
    sums = "cd /backups/pgbackrest && find backup archive/*/archive.info* -type f | xargs md5sum"
    before = estate.keeper.run(sums).stdout
    label = estate.manifests("full")[-1]["facts"]["label"]
    estate.keeper.run("cp -a /backups/pgbackrest /backups/saved")
    try:
        for order in _ORDERS:
            ask = f"cd /tmp && pgbackrest --stanza=psscript {order} 2>&1"
            if "delete" in order:
                ask = ask.replace("&&", "&& pgbackrest --stanza=psscript stop &&", 1)
            done = estate.db.run(ask, user="postgres", check=False)
            assert done.returncode and re.search(_REFUSALS, done.stdout), (order, done.stdout)
        assert estate.keeper.run(sums).stdout == before
        estate.keeper.run("rm -r /backups/pgbackrest/archive/psscript/1*/0*")
        out = "install -d -m 700 -o postgres /var/tmp/out /var/tmp/spaces"
        out += " && runuser -u postgres -- pgbackrest --tablespace-map-all=/var/tmp/spaces"
        scratch = "--config=/etc/datatier/pgbackrest-scratch.conf --stanza=psscript"
        where = f"--set={label} --pg1-path=/var/tmp/out --type=immediate restore"
        estate.keeper.run(f"cd /tmp && {out} {scratch} {where}")
        wal = estate.manifests("full")[-1]["facts"]["wal_start"]
        assert wal in estate.keeper.run("ls /var/tmp/out/pg_wal").stdout
    finally:
        estate.db.run("pgbackrest --stanza=psscript start", user="postgres")
        estate.keeper.run("cp -a /backups/saved/. /backups/pgbackrest && rm -r /backups/saved")
        estate.keeper.run("rm -rf /var/tmp/out /var/tmp/spaces")


@on_the_newer
def test_a_pgbackrest_that_hangs_is_a_row_of_the_table(estate: Site) -> None:
    """WAL and backups go through it, and for a while nothing else tells."""
    signal = "kill -{} $(systemctl show -p MainPID --value pgbackrest)"
    estate.db.run(signal.format("STOP"))
    try:
        table = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify").stdout
    finally:
        estate.db.run(signal.format("CONT"))
    rows = [line.split() for line in table.splitlines() if line.startswith(" pgbackrest ")]
    assert [row[3] for row in rows] == ["FAILS", "ok"], table


def test_a_table_that_is_gone_comes_back_in_its_place(
    estate: Site, history: dict[str, Any]
) -> None:
    estate.sql("DROP TABLE IF EXISTS orders; CREATE TABLE bystander AS SELECT 1 AS one")
    before = estate.rows()
    file = "/backups/postgres/psscript_full_LATEST.sql.gz"
    estate.done(f"restore-postgres.sh {file} --table public.orders")
    assert set(estate.rows().splitlines()) == {*before.splitlines(), history["full"]}
    index = "SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'"
    owner = "SELECT tableowner, rowsecurity FROM pg_tables WHERE tablename = 'orders'"
    assert (estate.sql(index), estate.sql(owner)) == ("1", "psscript|t")
    estate.sql("DROP TABLE bystander")


def test_beside_a_table_that_is_there_stands_the_backups(
    estate: Site, history: dict[str, Any]
) -> None:
    estate.sql("DELETE FROM orders")
    before, databases = estate.rows(), estate.databases()
    first = incrementals(estate)[0]
    estate.done(
        f"restore-postgres.sh --incremental {first} --database psscript --table public.orders"
    )
    schema = estate.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored_%'")
    assert estate.rows() == before
    assert estate.sql(f"SELECT count(*) FROM {schema}.orders WHERE what = 'first'") == "100"
    assert estate.databases() == databases
    estate.sql(f"DROP SCHEMA {schema} CASCADE")


@contextlib.contextmanager
def look(estate: Site, options: str) -> Iterator[Callable[[str, str], str]]:
    """A scratch server, as long as the block lasts, and a way to ask it."""
    script = f"/scripts/restore-postgres.sh {options} --to-scratch"
    estate.keeper.run(f"rm -f /var/tmp/look; setsid -f {script} >/var/tmp/look 2>/var/tmp/said")

    def is_up() -> None:
        said = estate.keeper.run("cat /var/tmp/said").stdout
        assert "psql -h" in estate.keeper.run("cat /var/tmp/look").stdout, said

    # The job's own limit for what is not archived yet is 120 s; then its words are shown.
    eventually(is_up, 200)
    there = estate.keeper.run("cat /var/tmp/look").stdout.rpartition(" ")[0]
    yield lambda query, database: estate.keeper.run(
        f'{there} {database} -XAtc "{query}"'
    ).stdout.strip()
    estate.keeper.run("pkill -INT -f 'm [b]ackup restore-postgres'")

    def is_gone() -> None:
        left = estate.keeper.run("ls -A --ignore=.lock /backups/scratch").stdout
        assert left == ""

    eventually(is_gone, 30)


@pytest.mark.parametrize("what", ["dump", "incremental"])
def test_a_look_at_a_backup_touches_nothing(
    estate: Site, history: dict[str, Any], what: str
) -> None:
    before, databases = estate.rows(), estate.databases()
    files = {
        "dump": "/backups/postgres/psscript_full_LATEST.sql.gz",
        "incremental": f"--incremental {incrementals(estate)[1]}",
    }
    with look(estate, files[what]) as asked:
        count = asked("SELECT count(*) FROM orders", "psscript")
        assert count == {"dump": "20000", "incremental": "15000"}[what]
        # A backup does not wait until somebody has looked enough.
        estate.done("postgres-backup.sh incremental")
    assert (estate.rows(), estate.databases()) == (before, databases)


def test_recovery_reaches_no_live_tablespace(estate: Site, history: dict[str, Any]) -> None:
    """Made before the backup, after it, and dropped since; then a DROP on a quiet server."""
    tablespace(estate, "young")
    tablespace(estate, "gone")
    estate.sql("DROP TABLE gone", "spaces")
    estate.sql("DROP TABLESPACE gone")
    time.sleep(1)
    moment = estate.moment()
    time.sleep(1)
    estate.sql("DROP DATABASE quiet")
    for name in ("old", "young"):
        estate.sql(f"INSERT INTO {name} SELECT generate_series(2001, 9000)", "spaces")
    estate.sql("CHECKPOINT")
    files = "find /srv -printf '%p %u %m %t\\n' -type f -exec sha256sum {} +"
    before = estate.db.run(files).stdout
    with look(estate, f"--time {moment}") as asked:
        assert asked(
            "SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM young)", "spaces"
        ) == ("2000|2000")
        assert asked("SELECT count(*) FROM kept", "quiet") == "77"
        # Nor can whoever is superuser in it: it has no live path, network, or right to anything.
        asked(
            "COPY (SELECT 1) TO PROGRAM 'ls -d /var/lib/postgresql /srv/o* >/tmp/seen;"
            " cat >/dev/null'",
            "quiet",
        )
        assert asked("SELECT pg_read_file('/tmp/seen')", "quiet") == ""
        # Root works in directories that neither it nor postgres can put a link in.
        links = "find /backups/scratch -writable ! -type s 2>/dev/null"
        assert estate.keeper.run(f"runuser -u postgres -- {links} || :").stdout == ""
    assert estate.db.run(files).stdout == before
    user = "setpriv --reuid=datatier-scratch --regid=postgres --clear-groups"
    writable = "find /srv /var/lib/postgresql /backups /etc ! -type l -writable 2>/dev/null"
    assert estate.keeper.run(f"{user} {writable} || :").stdout == ""


# --- What an owner leaves for others to run ------------------------------------------------------

_OTHERS = """
CREATE FUNCTION public.power() RETURNS boolean LANGUAGE plpgsql LEAKPROOF SECURITY DEFINER
  AS 'BEGIN PERFORM public.hostile_ran(''power''); RETURN true; END';
REVOKE ALL ON FUNCTION public.power() FROM PUBLIC;
SET ROLE psscript;
CREATE FUNCTION public.powerful() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE DOMAIN public.wants AS int CHECK (public.powerful());
CREATE TABLE public.wanting (d public.wants[] DEFAULT '{1}'::public.wants[]);
CREATE OR REPLACE FUNCTION public.powerful() RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN PERFORM public.power(); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END';
RESET ROLE;
CREATE SCHEMA hidden AUTHORIZATION other;
CREATE TABLE hidden.keys (i int PRIMARY KEY); ALTER TABLE hidden.keys OWNER TO other;
INSERT INTO hidden.keys VALUES (1);
GRANT USAGE ON SCHEMA hidden TO psscript; GRANT SELECT, REFERENCES ON hidden.keys TO psscript;
CREATE FUNCTION public.known(i int) RETURNS boolean LANGUAGE sql
  AS 'SELECT EXISTS (SELECT FROM hidden.keys k WHERE k.i = known.i)';
CREATE TABLE public.refers (i int CHECK (public.known(i)) REFERENCES hidden.keys);
INSERT INTO public.refers VALUES (1); ALTER TABLE public.refers OWNER TO psscript;
REVOKE INSERT ON public.refers FROM psscript; REVOKE REFERENCES ON hidden.keys FROM psscript;
CREATE TYPE public.mood AS ENUM ('1', '2'); ALTER TYPE public.mood OWNER TO psscript;
CREATE FUNCTION public.as_int(m public.mood) RETURNS int LANGUAGE plpgsql IMMUTABLE
  AS 'BEGIN PERFORM public.hostile_ran(''cast''); RETURN m::text::int; END';
ALTER FUNCTION public.as_int OWNER TO psscript;
CREATE CAST (public.mood AS int) WITH FUNCTION public.as_int(public.mood) AS IMPLICIT;
SET ROLE psscript;
CREATE TABLE public.moods (m public.mood REFERENCES public.hostile_rows);
INSERT INTO public.moods VALUES ('1');
CREATE TABLE public.literals (d public.hostile_domain[] DEFAULT '{1}'::public.hostile_domain[]);
RESET ROLE;
CREATE FUNCTION public."+"(i int, j int DEFAULT 1) RETURNS int LANGUAGE internal AS 'int4pl';
CREATE FUNCTION public.sure(i int) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT i';
CREATE AGGREGATE public.listed(anynonarray) (
  SFUNC = array_agg_transfn, STYPE = internal, FINALFUNC = array_agg_finalfn, FINALFUNC_EXTRA);
CREATE TYPE public.based;
CREATE FUNCTION public.based_in(cstring) RETURNS public.based LANGUAGE internal STRICT AS 'int4in';
CREATE FUNCTION public.based_out(public.based) RETURNS cstring LANGUAGE internal STRICT
  AS 'int4out';
CREATE TYPE public.based (
  INPUT = public.based_in, OUTPUT = public.based_out, INTERNALLENGTH = 4, PASSEDBYVALUE);
CREATE CAST (public.based AS int) WITHOUT FUNCTION;
CREATE TABLE public.bases (b public.based); ALTER TABLE public.bases OWNER TO psscript;
INSERT INTO public.bases VALUES ('5');
ALTER DATABASE shop CONNECTION LIMIT 77; COMMENT ON DATABASE shop IS 'it''s';
SELECT set_config('search_path', 'public;ALTER/**/ROLE/**/psscript/**/SUPERUSER', false);
ALTER DATABASE shop SET search_path FROM CURRENT;
"""


def fill(estate: Site) -> None:
    """Everything that a database can have, in another encoding and tablespace than the others."""
    roles = 'CREATE ROLE other; CREATE ROLE "we""ird \'r"'
    spaces = {"fast": "/srv/fast", '"slow one"': "/srv/slow"}
    estate.db.run(f"install -d -o postgres {' '.join(spaces.values())}")
    for name, path in spaces.items():
        estate.sql(f"CREATE TABLESPACE {name} LOCATION '{path}'")
    for statement in (*roles.split("; "), "DROP DATABASE shop WITH (FORCE)"):
        estate.sql(statement)
    estate.sql(
        "CREATE DATABASE shop OWNER psscript TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'"
        " LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TABLESPACE fast"
    )
    psql = "PGCLIENTENCODING=UTF8 psql -Xq -v ON_ERROR_STOP=1 -d shop -f - >/dev/null"
    text = Path(__file__).with_name("everything.sql").read_text()
    estate.db.run(psql, user="postgres", stdin=text)


def content(estate: Site) -> str:
    """A dump, its lines sorted: rows of partitions may change their order."""
    command = "pg_dump -d shop --encoding=UTF8 | grep -v restrict"
    text = estate.db.run(command, user="postgres").stdout
    # A user mapping is one line.
    text = re.sub(
        r"( OPTIONS \(\n.*?\n\));", lambda m: " ".join(m[1].split()) + ";", text, flags=re.S
    )
    return "\n".join(sorted(line for line in text.splitlines() if line.strip("-")))


def as_restored(text: str) -> str:
    """With what a restore cannot bring back, and says so."""
    text = text.replace("REFERENCES app.zz_known(k);", "REFERENCES app.zz_known(k) NOT VALID;")
    gone = (
        "REFRESH MATERIALIZED VIEW app.at_home",
        "-- Name: at_home_only; Type: MATERIALIZED VIEW D",
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith(gone))


def as_the_backup_role_reads_it(text: str) -> str:
    """Without the subscription and the options of user mappings."""
    lines = re.sub(r"(?m)^(CREATE USER MAPPING .*?)OPTIONS .*$", r"\1;", text).splitlines()
    return "\n".join(sorted(line for line in lines if " sub;" not in line and " sub " not in line))


def test_what_an_owner_left_is_run_by_nobody_else(estate: Site, history: dict[str, Any]) -> None:
    """Not by a backup, a restore or a drill; and all of it is there again."""
    password = estate.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    fill(estate)
    hostile.plant(estate.db, password, database="shop", settings=False)
    hostile.admin(estate.db, _OTHERS, "shop")
    before = content(estate)
    estate.done("postgres-backup.sh full")
    history["everything"] = before, estate.moment()
    done = estate.script("restore-postgres.sh /backups/postgres/shop_full_LATEST.sql.gz")
    assert done.returncode == 0, done.stderr
    for what in ("subscription sub:", "options of the user mapping for psscript on pgs:"):
        assert f"not restored: {what}" in done.stderr, done.stderr
    assert "subscription sub stays with shop_before_" in done.stderr, done.stderr
    assert "NOT VALID: fk constraint app.orphans orphan" in done.stderr, done.stderr
    assert "at_home_only of psscript: not at home" in done.stderr, done.stderr
    assert content(estate) == as_the_backup_role_reads_it(as_restored(before))
    assert (
        estate.sql(
            "SELECT spcname FROM pg_class c JOIN pg_tablespace t ON t.oid ="
            " reltablespace WHERE relname = 'slow j'",
            "shop",
        )
        == "slow one"
    )
    like = "SELECT datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database"
    assert hostile.admin(estate.db, f"{like} WHERE datname = 'shop'") == "77|it's"
    statistics = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'hostile_partition'"
    assert hostile.admin(estate.db, statistics, "shop") == "t"
    # A dump alone does not make what only a superuser may: the live database has to have it so.
    hostile.admin(estate.db, 'ALTER FUNCTION public."+" OWNER TO psscript', "shop")
    said = estate.refused("restore-postgres.sh /backups/postgres/shop_full_LATEST.sql.gz")
    assert "function public.+(integer, integer) of postgres: permission denied" in said, said
    hostile.admin(estate.db, 'ALTER FUNCTION public."+" OWNER TO postgres', "shop")
    estate.done("backup.sh drill")
    hostile.assert_harmless(estate.db, estate.keeper, database="shop")
    assert estate.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'datatier_load%'") == "0"


def test_everything_comes_back_as_it_was_at_a_moment(estate: Site, history: dict[str, Any]) -> None:
    before, moment = history["everything"]
    done = estate.script(f"restore-postgres.sh --time {moment} --database shop")
    assert done.returncode == 0, done.stderr
    assert "not restored: app.unl: it is unlogged" in done.stderr, done.stderr
    assert content(estate) == as_restored(before).replace("\n987654321\n", "\n")
    like = "SELECT pg_encoding_to_char(encoding), datlocprovider, spcname FROM pg_database d"
    like += " JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = 'shop'"
    assert estate.sql(like) == "LATIN1|i|fast"
    hostile.assert_harmless(estate.db, estate.keeper, database="shop")


def test_a_table_that_comes_back_says_what_it_lost(estate: Site, history: dict[str, Any]) -> None:
    hostile.admin(estate.db, "DROP TABLE hidden.keys CASCADE", "shop")
    file = "/backups/postgres/shop_full_LATEST.sql.gz"
    said = estate.script(f"restore-postgres.sh {file} --table hidden.keys").stderr
    assert "not restored: foreign key refers_i_fkey of public.refers: ALTER TABLE" in said, said
    assert hostile.admin(estate.db, "SELECT i FROM hidden.keys", "shop") == "1"


_USURPER = """
CREATE FUNCTION public.lent() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
REVOKE ALL ON FUNCTION public.lent() FROM PUBLIC;
CREATE TABLE public.lent_too (i int, m money);
CREATE POLICY fair ON public.lent_too USING (m = m);
CREATE TABLE public.lent_rows (t text); CREATE SEQUENCE public.lent_numbers START 42;
INSERT INTO public.lent_rows VALUES ('lent, as it was');
CREATE TABLE public.unlent (t text); ALTER TABLE public.unlent OWNER TO other;
INSERT INTO public.unlent VALUES ('lent, as it was too');
SET ROLE psscript;
CREATE FUNCTION public.two() RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE FUNCTION public.same(money, money) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = money, RIGHTARG = money);
CREATE FUNCTION public.usurps() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION public.usurp() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF session_user ~ '^datatier_load' THEN {} END IF;
  RETURN true;
END $$;
CREATE TABLE public.usurping (i int CHECK (public.usurp()));
INSERT INTO public.usurping VALUES (1);
RESET ROLE;
CREATE TABLE public.usurping_too (i int CHECK (public.usurp()));
INSERT INTO public.usurping_too VALUES (1);
CREATE FUNCTION public.usurp_late(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM public.usurp(); RETURN i; END'; ALTER FUNCTION public.usurp_late OWNER TO psscript;
CREATE INDEX usurps_late ON public.usurping_too (public.usurp_late(i));
"""
# What code of an owner might do to what a superuser owns, or to what is made after it.
_USURPING = (
    "DROP FUNCTION public.lent(); CREATE FUNCTION public.lent() RETURNS int LANGUAGE sql AS"
    " 'SELECT 2';",
    "DROP TABLE public.lent_too; CREATE TABLE public.lent_too (i int, m money);"
    " ALTER TABLE public.lent_too OWNER TO pg_database_owner;",
    "CREATE TRIGGER usurps BEFORE INSERT ON public.lent_too FOR EACH ROW"
    " EXECUTE FUNCTION public.usurps();",
    "CREATE RULE usurps AS ON INSERT TO public.lent_too DO ALSO SELECT public.two();",
    "CREATE POLICY usurps ON public.lent_too USING (public.two() = 2);",
    "ALTER TABLE public.lent_too ALTER i SET DEFAULT public.two();",
    "GRANT ALL ON public.lent_too TO psscript;",
    "GRANT ALL ON FUNCTION public.lent() TO psscript;",
    "CREATE DOMAIN pg_temp.text AS int;",
    "INSERT INTO public.lent_rows VALUES ('usurped');",
    "UPDATE public.lent_rows SET t = 'usurped';",
    "INSERT INTO public.unlent VALUES ('usurped');",
    "DELETE FROM public.unlent;",
    "TRUNCATE public.lent_rows;",
    "PERFORM setval('public.lent_numbers', 666);",
    "ALTER ROLE SESSION_USER PASSWORD 'usurped';",
    "SET search_path = public, pg_catalog;",
    "SET ROLE psscript;",
)
_CAUGHT = "BEGIN {} EXCEPTION WHEN OTHERS THEN NULL; END;"


def _usurped(estate: Site) -> list[str]:
    # Line by line: a pattern that begins with `.*` takes minutes for a line of a large object.
    named = re.compile("lent|usurp|fair|two|money")
    return [line for line in content(estate).splitlines() if named.search(line)]


@pytest.mark.parametrize("is_caught", [True, False], ids=["silent", "loud"])
def test_code_of_an_owner_takes_no_superusers_place(estate: Site, is_caught: bool) -> None:
    """It may drop what is in its schema, and run with rights to more: it changes nothing."""
    acts = " ".join(_CAUGHT.format(act) for act in _USURPING) if is_caught else _USURPING[0]
    hostile.admin(estate.db, _USURPER.format(acts), "shop")
    before = _usurped(estate)
    estate.done("postgres-backup.sh full")
    restore = "restore-postgres.sh /backups/postgres/shop_full_LATEST.sql.gz"
    if is_caught:
        estate.done(restore)
    else:
        assert "code of the database defines something while it is" in estate.refused(restore)
    assert _usurped(estate) == before
    gone = "DROP TABLE public.usurping, public.usurping_too, public.lent_too, public.lent_rows,"
    gone += " public.unlent; DROP SEQUENCE public.lent_numbers;"
    gone += (
        " DROP FUNCTION public.usurp_late, public.usurp, public.usurps, public.lent, public.two;"
    )
    hostile.admin(estate.db, f"{gone} DROP FUNCTION public.same CASCADE", "shop")


# More tables of a superuser's than plans that a session may keep: an index counts those.
_MANY = """
GRANT pg_read_all_stats TO psscript;
CREATE FUNCTION public.counted(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE kept int;
BEGIN
  SELECT count(*) INTO kept FROM pg_catalog.pg_backend_memory_contexts
    WHERE name OPERATOR(pg_catalog.=) 'CachedPlanSource';
  IF kept OPERATOR(pg_catalog.>) 25 THEN
    RAISE 'a session keeps % plans', kept;
  END IF;
  RETURN i;
END $$;
DO $$ BEGIN FOR i IN 1..50 LOOP
  EXECUTE format('CREATE TABLE public.many_%s AS SELECT 1 AS i', i);
END LOOP; END $$;
CREATE TABLE public.many_of_another AS SELECT 1 AS i;
ALTER TABLE public.many_of_another OWNER TO psscript;
CREATE INDEX ON public.many_50 (public.counted(i));
CREATE INDEX ON public.many_of_another (public.counted(i));
"""


@on_the_newer
def test_no_session_of_a_load_keeps_a_plan_for_each_table(estate: Site) -> None:
    """It would look at all of them after each statement: as many times as the square of them."""
    hostile.admin(estate.db, _MANY, "psscript")
    estate.done("postgres-backup.sh full")
    estate.done("restore-postgres.sh /backups/postgres/psscript_full_LATEST.sql.gz")
    tables = [f"public.many_{number}" for number in range(1, 51)] + ["public.many_of_another"]
    gone = f"DROP TABLE {', '.join(tables)}; DROP FUNCTION public.counted;"
    hostile.admin(estate.db, f"{gone} REVOKE pg_read_all_stats FROM psscript", "psscript")


def test_no_job_fails_while_passwords_are_replaced(estate: Site) -> None:
    """Of the backup role and of the superuser; one job runs for the whole of it, beside cron's."""
    done, ends = list[tuple[int, str]](), threading.Event()

    def work() -> None:
        while not ends.is_set():
            for job in ("health-check.sh", "postgres-backup.sh full"):
                said = estate.script(job)
                done.append((said.returncode, said.stderr))

    with ThreadPoolExecutor() as pool:
        jobs = pool.submit(work)
        try:
            for name in ("BACKUP_ROLE_PASSWORD", "POSTGRES_PASSWORD"):
                before = estate.project.secrets[name]
                estate.project.deploy(f"tasks.rotate.{name.lower()}")
                assert estate.project.deploy().changed == set()
                assert estate.project.secrets[name] != before
        finally:
            ends.set()
        jobs.result()
    ran = [each for each in done if "job is running" not in each[1]]
    assert len(ran) > 3 and [each for each in ran if each[0]] == []
    estate.project.deploy("tasks.rotate.finish")
    assert "_previous" not in estate.keeper.run("cat /etc/datatier/backup.json").stdout
