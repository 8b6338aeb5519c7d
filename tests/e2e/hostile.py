"""What the owner of a database can leave in it for others to run, and whether anybody did.

`plant` fills a database as its owner; `assert_harmless` asks afterwards who executed any of it.
Each trap tells by every way there is: a line in the server's log, a row in `public.hostile_log`, a
command of the operating system, and the owner as superuser. Who loads for the owner is made to own
a function, which a superuser might inherit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

from tests.e2e.project import ROOT
from tests.e2e.proof import said
from tests.lab import Host

# Written by whoever may start programs on the server's host, which a scratch server's log outlives.
MARK = "/var/tmp/datatier-hostile"
_CLOSED = " ".join(
    f"-c {setting}"
    for setting in (
        "search_path=pg_catalog,pg_temp",
        "role=none",
        "local_preload_libraries=",
        "default_transaction_read_only=off",
        "default_tablespace=",
        "default_table_access_method=heap",
        "standard_conforming_strings=on",
        "statement_timeout=0",
        "lock_timeout=0",
        "idle_session_timeout=0",
        "idle_in_transaction_session_timeout=0",
    )
)

# Settings by which an owner makes the sessions of others do something else.
SETTINGS = {
    "search_path": "public, pg_catalog",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_tablespace": "nowhere",
    "default_table_access_method": "nothing",
    "temp_tablespaces": "nowhere",
    "row_security": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "client_min_messages": "error",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    '"DateStyle"': "SQL, DMY",
    "lock_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "statement_timeout": "1ms",
}

_TYPES = ("text", "name", "oid", "int4", "bool", '"char"', "_text", "int8", "varchar")
_OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "~", "!~", "~~", "!~~", "||", "->", "->>", "+", "-")
_CATALOGS = (
    "pg_authid", "pg_roles", "pg_shadow", "pg_user", "pg_auth_members", "pg_database", "pg_class",
    "pg_namespace", "pg_proc", "pg_type", "pg_attribute", "pg_index", "pg_extension", "pg_settings",
    "pg_db_role_setting", "pg_file_settings", "pg_hba_file_rules", "pg_stat_activity",
    "pg_stat_archiver", "pg_shdepend", "pg_available_extensions", "pg_available_extension_versions",
    "pg_tablespace", "pg_inherits", "pg_depend", "pg_trigger", "pg_event_trigger", "pg_sequences",
    "pg_subscription", "pg_publication", "pg_replication_slots",
)  # fmt: skip

_TRAP = """
CREATE TABLE public.hostile_log (what text, who text, session text);
GRANT ALL ON public.hostile_log TO PUBLIC;
CREATE FUNCTION public.hostile_bequeath() RETURNS void LANGUAGE plpgsql AS $trap$
BEGIN
  SET ROLE NONE;
  CREATE OR REPLACE FUNCTION public.hostile_heir() RETURNS name LANGUAGE sql SECURITY DEFINER
    AS 'SELECT current_user';
  SET ROLE "{role}";
EXCEPTION WHEN OTHERS THEN NULL;
END $trap$;
CREATE FUNCTION public.hostile_tell(what text) RETURNS void LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $trap$
BEGIN
  BEGIN
    EXECUTE pg_catalog.format('COPY (SELECT %L) TO PROGRAM %L',
      what || ' as ' || current_user, 'cat >>{mark}');
  EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN
    EXECUTE pg_catalog.format('INSERT INTO public.hostile_log VALUES (%L, %L, %L)',
      what, current_user, session_user);
  EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN
    EXECUTE 'ALTER ROLE "{role}" SUPERUSER';
  EXCEPTION WHEN OTHERS THEN NULL; END;
END $trap$;
-- What an index or a statistics object calls has to be immutable, and may itself write nothing.
CREATE FUNCTION public.hostile_ran(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
  SET search_path = pg_catalog, pg_temp AS $trap$
BEGIN
  RAISE LOG 'hostile: % as % of %', what, current_user, session_user;
  IF current_user = '{role}' THEN
    IF session_user ~ '^datatier_load' THEN PERFORM public.hostile_bequeath(); END IF;
    -- With a password that it gives to this role it would come back.
    IF session_user ~ '^datatier_load' AND (SELECT rolcanlogin FROM pg_catalog.pg_roles
                                            WHERE rolname = session_user) THEN
      RAISE LOG 'hostile: % may come back as login of %', what, session_user;
    END IF;
    RETURN true;
  END IF;
  PERFORM public.hostile_tell(what);
  RETURN true;
END $trap$;
"""

# A signature of the catalog itself is preferred where `public` comes first in the path.
_SHADOWS = """
DO $plant$
DECLARE f record;
BEGIN
  FOR f IN SELECT p.oid, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments,
             pg_get_function_result(p.oid) AS result
           FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
             AND p.prokind = 'f' AND p.proname = ANY ({names})
  LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
        f.proname, f.arguments, f.result,
        format('BEGIN PERFORM public.hostile_ran(%L); RETURN%s; END', f.proname || ' (shadow)',
          CASE WHEN f.result LIKE 'SETOF %' OR f.result LIKE 'TABLE%' OR f.result = 'void'
               THEN '' ELSE ' NULL' END));
    EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
END $plant$;
"""

# Preferred whatever the path, since the catalog's own has other types.
_OVERLOADS = """
DO $plant$
DECLARE f text; a text; result text; words text;
BEGIN
  FOREACH f IN ARRAY {names} LOOP
    SELECT format_type(prorettype, NULL) INTO result FROM pg_proc
      WHERE proname = f AND pronamespace = 'pg_catalog'::regnamespace
        AND (SELECT typtype FROM pg_type t WHERE t.oid = prorettype) <> 'p' LIMIT 1;
    FOREACH a IN ARRAY {signatures} LOOP
      CONTINUE WHEN NOT EXISTS (SELECT FROM pg_proc WHERE proname = f
        AND pronamespace = 'pg_catalog'::regnamespace
        AND (provariadic <> 0 OR pronargs = array_length(string_to_array(a, ','), 1)));
      words := array_to_string(ARRAY(SELECT '$' || i FROM
        generate_series(1, array_length(string_to_array(a, ','), 1)) i), ', ');
      BEGIN
        EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
          f, a, coalesce(result, 'text'), format({body}, f || '(' || a || ')',
          format('pg_catalog.%I(%s)', f, words)));
      EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
  END LOOP;
END $plant$;
"""

# Nothing is noticed: the answer is the right one, where there is one.
_BODY = """
'BEGIN PERFORM public.hostile_ran(%L); RETURN %s; EXCEPTION WHEN OTHERS THEN RETURN NULL; END'
"""

_OPERATOR = """
DO $plant$
DECLARE o text; l text; r text; f text; result text;
BEGIN
  FOREACH l IN ARRAY {types} LOOP FOREACH r IN ARRAY {types} LOOP
    FOREACH o IN ARRAY {operators} LOOP
      f := md5(l || o || r);
      result := CASE WHEN o IN ('||', '->', '->>') THEN 'text' WHEN o IN ('+', '-') THEN 'int4'
                ELSE 'boolean' END;
      EXECUTE format('CREATE FUNCTION public.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
        f, l, r, result, format({body}, l || ' ' || o || ' ' || r,
        format('$1 OPERATOR(pg_catalog.%s) $2', o)));
      EXECUTE format('CREATE OPERATOR public.%s
        (FUNCTION = public.%I, LEFTARG = %s, RIGHTARG = %s)', o, f, l, r);
    END LOOP;
  END LOOP; END LOOP;
END $plant$;
"""

# What runs when a table is filled, checked, read or indexed.
_TABLES = """
CREATE TABLE public.hostile_rows (
  i int PRIMARY KEY CHECK (public.hostile_ran('check')),
  d boolean DEFAULT public.hostile_ran('default'),
  g boolean GENERATED ALWAYS AS (public.hostile_ran('generated column')) STORED);
CREATE INDEX hostile_expression ON public.hostile_rows ((public.hostile_ran('index' || i::text)));
CREATE INDEX hostile_partial ON public.hostile_rows (i) WHERE public.hostile_ran('partial index');
CREATE STATISTICS public.hostile_statistics
  ON (public.hostile_ran('statistics' || i::text)), d FROM public.hostile_rows;
CREATE DOMAIN public.hostile_domain AS int CHECK (public.hostile_ran('domain'));
CREATE TABLE public.hostile_partitions (i public.hostile_domain, t text) PARTITION BY RANGE (i);
CREATE TABLE public.hostile_partition PARTITION OF public.hostile_partitions
  FOR VALUES FROM (0) TO (1000);
CREATE FUNCTION public.hostile_trigger() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM public.hostile_ran(''trigger''); RETURN NEW; END';
CREATE TRIGGER hostile BEFORE INSERT OR UPDATE ON public.hostile_rows
  FOR EACH ROW EXECUTE FUNCTION public.hostile_trigger();
ALTER TABLE public.hostile_rows ENABLE ALWAYS TRIGGER hostile;
INSERT INTO public.hostile_rows SELECT generate_series(1, 50);
INSERT INTO public.hostile_partitions SELECT i, 'row' FROM generate_series(1, 50) i;
CREATE TABLE public.hostile_ruled (i int);
CREATE RULE hostile AS ON INSERT TO public.hostile_ruled
  DO ALSO SELECT public.hostile_ran('rule');
ALTER TABLE public.hostile_ruled ENABLE ALWAYS RULE hostile;
CREATE TABLE public.hostile_policy (i int);
INSERT INTO public.hostile_policy VALUES (1);
ALTER TABLE public.hostile_policy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY hostile ON public.hostile_policy USING (public.hostile_ran('policy'));
CREATE VIEW public.hostile_view AS SELECT public.hostile_ran('view') AS ran;
CREATE MATERIALIZED VIEW public.hostile_materialized AS
  SELECT public.hostile_ran('materialized view') AS ran;
-- Called under a lock of the index's, which an error that is caught here would release.
CREATE FUNCTION public.hostile_diff(a int, b int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RAISE LOG 'hostile: subtype difference as % of %', current_user, session_user;
  RETURN a - b;
END $$;
CREATE TYPE public.hostile_range AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = public.hostile_diff);
CREATE TABLE public.hostile_ranges AS
  SELECT public.hostile_range(i * 7 % 401, 500) AS r FROM generate_series(1, 400) i;
CREATE INDEX hostile_gist ON public.hostile_ranges USING gist (r);
CREATE FUNCTION public.hostile_same(what text, i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM public.hostile_ran(what); RETURN i; END';
CREATE TABLE public.hostile_exclusive (i int,
  EXCLUDE USING btree ((public.hostile_same('exclusion', i)) WITH OPERATOR(pg_catalog.=)));
INSERT INTO public.hostile_exclusive VALUES (1);
CREATE TABLE public.hostile_keyed (i int)
  PARTITION BY LIST (public.hostile_same('partition key', i));
CREATE TABLE public.hostile_keyed_1 PARTITION OF public.hostile_keyed FOR VALUES IN (1);
INSERT INTO public.hostile_keyed VALUES (1);
CREATE TABLE public.hostile_events (i int);
CREATE FUNCTION public.hostile_event() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM public.hostile_ran(TG_ARGV[0]); RETURN NULL; END';
CREATE TRIGGER hostile_when AFTER INSERT ON public.hostile_events FOR EACH ROW
  WHEN (public.hostile_ran('condition')) EXECUTE FUNCTION public.hostile_event('conditional');
CREATE TRIGGER hostile_statement BEFORE INSERT OR TRUNCATE ON public.hostile_events
  EXECUTE FUNCTION public.hostile_event('statement');
CREATE CONSTRAINT TRIGGER hostile_deferred AFTER INSERT ON public.hostile_events
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hostile_event('deferred');
INSERT INTO public.hostile_events VALUES (1);
CREATE VIEW public.hostile_door AS SELECT 1 AS i;
CREATE TRIGGER hostile_instead INSTEAD OF INSERT ON public.hostile_door
  FOR EACH ROW EXECUTE FUNCTION public.hostile_event('instead of');
CREATE TYPE public.hostile_step AS ENUM ('a');
CREATE FUNCTION public.hostile_state(s bigint, i public.hostile_step) RETURNS bigint
  LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM public.hostile_ran(''aggregate''); RETURN 1; END';
CREATE AGGREGATE public.count(public.hostile_step) (
  SFUNC = public.hostile_state, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION public.hostile_cast(s public.hostile_step) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM public.hostile_ran(''cast''); RETURN 1; END';
CREATE CAST (public.hostile_step AS int)
  WITH FUNCTION public.hostile_cast(public.hostile_step) AS IMPLICIT;
CREATE TABLE public.hostile_casts (i int DEFAULT 'a'::public.hostile_step);
CREATE DOMAIN public.hostile_nested AS int CHECK (public.hostile_ran('nested domain'));
CREATE TYPE public.hostile_pair AS (a public.hostile_nested, b public.hostile_nested[]);
CREATE TABLE public.hostile_pairs
  (p public.hostile_pair[] DEFAULT ARRAY[ROW(1, '{2}')::public.hostile_pair]);
INSERT INTO public.hostile_pairs DEFAULT VALUES;
CREATE FUNCTION public.hostile_lends() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS
  'BEGIN RETURN public.hostile_ran(''security definer''); END';
CREATE TEXT SEARCH CONFIGURATION public.english (COPY = pg_catalog.simple);
CREATE COLLATION public."C" FROM pg_catalog."C";
CREATE PUBLICATION hostile_publication FOR TABLE public.hostile_events;
"""

# What makes each of these run, beside what filling them has.
_FIRES = """
ANALYZE public.hostile_rows;
INSERT INTO public.hostile_ruled VALUES (1);
INSERT INTO public.hostile_door VALUES (1);
INSERT INTO public.hostile_casts DEFAULT VALUES;
TABLE public.hostile_policy; TABLE public.hostile_view; SELECT public.hostile_lends();
SET search_path = public, pg_catalog;
SELECT count('a'::hostile_step), format('x'::text), 'x'::text = 'y'::text, 'x'::"text";
SELECT ran FROM pg_roles;
"""
_OTHERS = {"subtype difference", "format (shadow)", "text = text", "domain text", "view pg_roles"}
_CONTROL = "control"


def plant(
    host: Host,
    password: str,
    *,
    role: str = "psscript",
    database: str = "psscript",
    port: int = 5432,
    settings: bool = True,
) -> None:
    """Fills a database with traps, as the role that owns it.

    Args:
        settings: whether the role and the database get `SETTINGS` as well.
    """
    names = _array(_functions())
    parts = [
        "BEGIN;",
        _TRAP.format(role=role, mark=MARK),
        _SHADOWS.format(names=names),
        _OVERLOADS.format(names=names, signatures=_array(_signatures()), body=_BODY),
        _OPERATOR.format(types=_array(_TYPES[:7]), operators=_array(_OPERATORS), body=_BODY),
        _TABLES,
        *(_view(name) for name in _CATALOGS),
        *(_domain(name) for name in ("text", "name", "oid", "int4", "bool", "json", "regclass")),
        "COMMIT;",
    ]
    parts.append(_FIRES)
    if settings:
        parts += _settings(role, database)
    client = f"psql -XAtqw -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {port} -U {role} -d {database}"
    script = "IFS= read -r PGPASSWORD; export PGPASSWORD PGOPTIONS"
    options = f"PGOPTIONS='{_CLOSED} -c client_min_messages=warning'"
    statements = "\n".join(parts)
    said(
        host.run(
            f"{options}; {script}; {client} -f -", stdin=f"{password}\n{statements}", check=False
        )
    )
    planted = {*re.findall(r"hostile_(?:ran|event|same)\('+([^']+)'", _TABLES)} | _OTHERS
    fired = "\n".join(line for line, who in _logged(host) if who == role)
    never = [what for what in planted if not re.search(rf"(?m)^{re.escape(what)}\d* as ", fired)]
    assert never == [], f"what cannot run proves nothing: {never}"
    _assert_that_they_tell(host, role, database)


def _assert_that_they_tell(host: Host, role: str, database: str) -> None:
    """Asserts that the traps notice somebody else, and undoes what they did then."""
    admin(host, f"SELECT public.hostile_ran('{_CONTROL}')", database)
    told = "SELECT count(*), (SELECT rolsuper FROM pg_roles WHERE rolname = '{}')"
    told += " FROM public.hostile_log WHERE what = '{}'"
    assert admin(host, told.format(role, _CONTROL), database) == "1|t"
    assert host.run(f"cat {MARK} && rm {MARK}").stdout == f"{_CONTROL} as postgres\n"
    assert (f"{_CONTROL} as postgres of postgres", "postgres") in _logged(host)
    admin(host, f'ALTER ROLE "{role}" NOSUPERUSER; TRUNCATE public.hostile_log', database)


def assert_harmless(
    host: Host, *others: Host, role: str = "psscript", database: str = "psscript", log: str = ""
) -> None:
    """Asserts that nobody but the role has executed anything that was planted.

    Args:
        host: where PostgreSQL runs.
        others: where a scratch server may have run.
        log: what a server said whose log is elsewhere.
    """
    ask = "SELECT what || ' as ' || who FROM public.hostile_log"
    kept = "SELECT pg_catalog.to_regclass('public.hostile_log') IS NOT NULL"
    rows = admin(host, ask, database) if admin(host, kept, database) == "t" else ""
    assert rows == "", rows
    strangers = executions(host, log, role)
    assert strangers == [], strangers
    for each in (host, *others):
        assert each.run(f"cat {MARK} 2>/dev/null", check=False).stdout == ""
    heirs = "SELECT count(*) FROM pg_proc p JOIN pg_roles r ON r.oid = proowner"
    assert admin(host, f"{heirs} WHERE proname = 'hostile_heir' AND rolsuper", database) == "0"
    power = f"SELECT rolsuper OR rolcreaterole FROM pg_authid WHERE rolname = '{role}'"
    assert admin(host, power) != "t"


def executions(host: Host, log: str = "", role: str = "psscript") -> list[str]:
    """What others than the role have executed, as logs tell it."""
    found = _logged(host, log)
    return sorted(
        {line for line, who in found if who != role and not line.startswith(f"{_CONTROL} as ")}
    )


def _logged(host: Host, log: str = "") -> set[tuple[str, str]]:
    """What has run, and as whom."""
    files = "cat /var/log/postgresql/*.log /var/log/postgres/current 2>/dev/null"
    text = host.run(f"{files} | grep -a 'hostile: ' || :").stdout + log
    return {*re.findall(r"hostile: (.* as (\S+) of \S+)", text)}


def admin(host: Host, sql: str, database: str = "postgres") -> str:
    """What PostgreSQL answers its superuser, whatever was planted in the database."""
    client = f"PGOPTIONS='{_CLOSED}' psql -XAtqw -d {database} -f -"
    return said(host.run(client, user="postgres", stdin=sql, check=False))


def _settings(role: str, database: str) -> Iterator[str]:
    for target in (f'DATABASE "{database}"', f'ROLE "{role}"'):
        for name, value in SETTINGS.items():
            words = value if name == "search_path" else f"'{value}'"
            yield f"ALTER {target} SET {name} = {words};"
    yield f"ALTER DATABASE \"{database}\" SET role = '{role}';"


@cache
def _functions() -> list[str]:
    """Every word that our own programs may call as a function of SQL."""
    words = set[str]()
    for folder in ("tasks", "backup", "templates"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".j2", ".sh", ".sql"):
                words |= set(re.findall(r"\b([a-z][a-z0-9_]{2,})\s*\(", path.read_text()))
    return sorted(words | {"count", "current_setting", "set_config", "json_agg"})


def _signatures() -> Iterator[str]:
    """Lists of types, each of which beats `text` where a literal has no type."""
    for count in (1, 2):
        yield from (",".join(each) for each in product(_TYPES[:8], repeat=count))
    yield from (",".join(each) for each in product(("text", "name", "oid"), repeat=3))
    yield from (",".join(each) for each in product(("text", "name"), repeat=4))
    for first, second in product(("json", "_name", "_text", "bool", "int4"), ("json", "text")):
        yield f"text,{first},text,{second}"


def _array(words: Sequence[str] | Iterator[str]) -> str:
    return "ARRAY[{}]::text[]".format(",".join(f"'{word}'" for word in words))


def _view(name: str) -> str:
    body = f"SELECT public.hostile_ran('view {name}') AS ran"
    return f"CREATE VIEW public.{name} AS {body};"


def _domain(name: str) -> str:
    trap = f"public.hostile_ran('domain {name}')"
    return f'CREATE DOMAIN public."{name}" AS pg_catalog.{name} CHECK ({trap});'
