"""Roles, databases, extensions and grants: read together, compared, changed by one psql."""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Literal

from tasks.core import hide
from tasks.core.change import Change
from tasks.core.files import mask, render
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell
from tasks.postgres import psql, rights
from tasks.postgres.psql import identifier, literal
from tasks.postgres.rights import Step
from tasks.postgres.settings import LOOKUP_ROLE, logins_of

# PostgreSQL's own default (src/include/common/scram-common.h, SCRAM_SHA_256_DEFAULT_ITERATIONS).
_ITERATIONS = 4096

SUPERUSER = "postgres"

# In a function of the superuser no name is looked up where others can create something. Who may
# pass by row security or read everything logs in without the pooler, as the superuser does.
LOOKUP_BODY = """
  SELECT r.rolname::pg_catalog.text, r.rolpassword FROM pg_catalog.pg_authid r
  WHERE r.rolname OPERATOR(pg_catalog.=) i_username
    AND r.rolname OPERATOR(pg_catalog.<>) 'pgbouncer'::pg_catalog.text
    AND r.rolcanlogin AND NOT r.rolsuper AND NOT r.rolreplication AND NOT r.rolbypassrls
    AND (r.rolvaliduntil IS NULL OR r.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())
    AND r.rolpassword OPERATOR(pg_catalog.~~) 'SCRAM-SHA-256$%'::pg_catalog.text
"""
# As the server describes it.
LOOKUP: Mapping[str, Any] = {
    "body": LOOKUP_BODY,
    "arguments": "i_username text, OUT uname text, OUT phash text",
    "config": ["search_path=pg_catalog, pg_temp"],
    "is": ["sql", "f", "v", True, True, False],
    "trusted": True,
    "rights": [
        ["function", LOOKUP_ROLE, "EXECUTE", False],
        ["schema", LOOKUP_ROLE, "USAGE", False],
    ],
}


@dataclass(frozen=True)
class Role:
    """A role as it should be; what is not said is not granted.

    Attributes:
        functions: signatures that it may execute besides what every role may.
    """

    name: str
    password: str | None = None
    attributes: Mapping[str, bool] = field(default_factory=dict)
    connection_limit: int = -1
    valid_until: datetime | None = None
    member_of: frozenset[str] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Database:
    """A database as it should be; grants are privileges on the database by role."""

    name: str
    owner: str
    extensions: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """What a server said: 'absent' has no cluster yet, 'down' has one that does not run.

    Attributes:
        keeps_passwords: whether pg_stat_statements has a statement with a password in it.
        alone: the process, where the service has not started it.
        follows: it is down, and would start as a standby.
    """

    kind: Literal["absent", "down", "up"]
    port: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    databases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keeps_passwords: bool = False
    alone: str = ""
    follows: bool = False


ATTRIBUTES = {
    "login": "LOGIN",
    "superuser": "SUPERUSER",
    "createdb": "CREATEDB",
    "createrole": "CREATEROLE",
    "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
    "inherit": "INHERIT",
}

# What may hold a secret, for masks: libpq's connection string, commands of the shell but our own,
# and parameters of extensions and applications by their names. PostgreSQL has no others.
SECRET_PARAMETERS = (
    r"(?i)^(?!archive_command = 'pgbackrest --stanza=\w+ archive-push %p'$)[ \t]*"
    r"(?:primary_conninfo|(?:ssl_passphrase|(?:archive|restore|archive_cleanup|recovery_end))_command"
    r"|\w+\.\w*(?:pass|pwd|secret|token|salt|jwt|key|credential|conninfo|connection_options|dsn)\w*)"
    r"[ \t=]+(.*)$"
)

# Of pg_file_settings: a parameter that is written, and that only a restart sets or forgets.
WAITS = (
    "(error = 'setting could not be applied'"
    " OR error LIKE 'parameter % cannot be changed without restarting%')"
)

_FACTS = f"""
SELECT json_build_object(
  'roles', (SELECT json_object_agg(rolname, json_build_object(
      'login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
      'createrole', rolcreaterole, 'replication', rolreplication, 'bypassrls', rolbypassrls,
      'inherit', rolinherit, 'connection_limit', rolconnlimit, 'password', rolpassword,
      'valid_until', CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil) END,
      'member_of', ARRAY(SELECT pg_get_userbyid(roleid) FROM pg_auth_members WHERE member = a.oid),
      'shy', ARRAY(SELECT pg_get_userbyid(roleid) FROM pg_auth_members
                   WHERE member = a.oid AND NOT pg_has_role(member, roleid, 'USAGE')),
      'granted', (SELECT json_agg(json_build_array(pg_get_userbyid(roleid), CASE
          WHEN grantor <> 10 AND current_setting('server_version_num')::int >= 160000
          THEN pg_get_userbyid(grantor) END)) FROM pg_auth_members WHERE member = a.oid),
      'settings', (SELECT setconfig FROM pg_db_role_setting
                   WHERE setrole = a.oid AND setdatabase = 0),
      'functions', ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(p.proacl) x
                         WHERE x.grantee = a.oid AND x.privilege_type = 'EXECUTE'
                           AND p.pronamespace = 'pg_catalog'::regnamespace)
    )) FROM pg_authid a),
  'owned', (SELECT json_agg(json_build_array(
      r.rolname, d.datname, s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass,
      o.datname, s.count))
    FROM (SELECT refobjid, dbid, deptype, classid,
                 CASE WHEN classid = 'pg_database'::regclass THEN objid END AS base, count(*)
          FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass GROUP BY 1, 2, 3, 4, 5) s
    JOIN pg_authid r ON r.oid = s.refobjid
    LEFT JOIN pg_database d ON d.oid = s.dbid LEFT JOIN pg_database o ON o.oid = s.base),
  'slots', (SELECT json_agg(json_build_array(slot_name,
      CASE WHEN database IS NULL THEN slot_type ELSE slot_type || ' in ' || database END, active,
      pg_size_pretty(pg_wal_lsn_diff(last, restart_lsn))) ORDER BY slot_name)
    FROM pg_replication_slots, (SELECT CASE WHEN pg_is_in_recovery()
      THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) AS now (last)
    WHERE NOT temporary),
  'lost', ARRAY(SELECT slot_name FROM pg_replication_slots
                WHERE wal_status = 'lost' AND NOT active),
  'requires', (SELECT json_object_agg(name, v.requires)
               FROM pg_available_extensions e JOIN pg_available_extension_versions v USING (name)
               WHERE v.version = e.default_version
                 AND v.requires IS NOT NULL),
  'databases', (SELECT json_object_agg(datname, json_build_object(
      'owner', pg_get_userbyid(datdba),
      'oid', d.oid, 'template', datistemplate, 'allows', datallowconn,
      'connection_limit', datconnlimit,
      'settings', (SELECT setconfig FROM pg_db_role_setting
                   WHERE setdatabase = d.oid AND setrole = 0),
      'grants', (SELECT json_agg(json_build_array(pg_get_userbyid(grantee), privilege_type,
                   CASE WHEN grantor <> datdba THEN pg_get_userbyid(grantor) END))
                 FROM aclexplode(datacl) WHERE grantee <> 0),
      'public', (SELECT json_agg(json_build_array(privilege_type,
                   CASE WHEN grantor <> datdba THEN pg_get_userbyid(grantor) END))
                 FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0),
      'lacks', ARRAY(SELECT p FROM unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) p
                 WHERE p NOT IN (SELECT privilege_type FROM aclexplode(coalesce(datacl,
                   acldefault('d', datdba))) WHERE grantee = datdba))
    )) FROM pg_database d),
  'contexts', (SELECT json_object_agg(name, context) FROM pg_settings),
  'waiting', ARRAY(SELECT coalesce(name, substring(error FROM '"(.*)" cannot be changed without'))
                   FROM pg_file_settings WHERE {WAITS}),
  'lines', (SELECT json_agg(json_build_array(lower(name), setting, sourcefile, sourceline)
                            ORDER BY seqno)
            FROM pg_file_settings WHERE name IS NOT NULL AND (error IS NULL OR {WAITS})),
  'config', current_setting('config_file'),
  'start', pg_read_file(regexp_replace(current_setting('config_file'), '[^/]+$', 'start.conf'),
                        0, 4096, true),
  'everywhere', (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0),
  'costs', (SELECT json_agg(json_build_array(spcname, o.option_name) ORDER BY 1::text)
            FROM pg_tablespace, pg_options_to_table(spcoptions) o
            WHERE spcname IN ('pg_default', 'pg_global')),
  'recovers', pg_is_in_recovery(),
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'inside', (SELECT json_agg(json_build_array(r.rolname, d.datname, s.setconfig))
             FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
             JOIN pg_database d ON d.oid = s.setdatabase),
  'checksums', current_setting('data_checksums'),
  'access', current_setting('hba_file'),
  'identity', current_setting('ident_file'),
  'mappings', :mappings,
  'sources', ARRAY(SELECT DISTINCT sourcefile FROM pg_file_settings
                   WHERE sourcefile IS NOT NULL ORDER BY 1)
)
"""

# PostgreSQL 14 does not tell of pg_ident.conf.
_MAPPINGS = r"""
SELECT CASE WHEN to_regclass('pg_ident_file_mappings') IS NULL THEN 'NULL' ELSE
  '(SELECT json_agg(concat_ws(chr(32), map_name, sys_name, pg_username)) FROM pg_ident_file_mappings
    WHERE map_name IS NOT NULL)' END AS mappings \gset
"""

# What a session begins with, whatever it was told since; not what our start options say.
_USED = """
SELECT json_object_agg(lower(name), json_build_array(reset_val, vartype, unit, source))
FROM pg_settings
WHERE source = 'command line'
  OR source <> 'client' AND lower(name) IN (SELECT lower(name) FROM pg_file_settings)
"""

_DATABASE_FACTS = """
SELECT json_build_object(
  'extensions', ARRAY(SELECT extname FROM pg_extension),
  'bare', NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public'),
  'executors', (SELECT json_agg(json_build_array(
      CASE WHEN x.grantee = 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END,
      p.oid::regprocedure::text,
      CASE WHEN x.grantor <> p.proowner THEN pg_get_userbyid(x.grantor) END)
      ORDER BY p.oid, x.grantee)
    FROM pg_init_privs i JOIN pg_proc p ON p.oid = i.objoid AND i.classoid = 'pg_proc'::regclass,
      aclexplode(p.proacl) x
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND x.privilege_type = 'EXECUTE'
      AND x.grantee <> p.proowner
      AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) y WHERE y.grantee = x.grantee)),
  'mighty', (SELECT json_agg(what ORDER BY what) FROM (
      SELECT 'event trigger ' || evtname, 'pg_event_trigger'::regclass, oid
      FROM pg_event_trigger WHERE evtenabled <> 'D'
      UNION ALL SELECT 'subscription ' || subname, 'pg_subscription'::regclass, s.oid
      FROM pg_subscription s JOIN pg_roles r ON r.oid = subowner
      JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database() AND rolsuper
      UNION ALL SELECT 'function ' || p.oid::regprocedure, 'pg_proc'::regclass, p.oid
      FROM pg_proc p JOIN pg_roles r ON r.oid = proowner JOIN pg_language l ON l.oid = prolang
      WHERE p.oid >= 16384 AND rolsuper AND (prosecdef OR NOT lanpltrusted)
        AND p.oid::regprocedure::text <> 'pgbouncer.user_lookup(text)'
      UNION ALL SELECT DISTINCT 'rights of ' || CASE x.grantee WHEN 0 THEN 'public'
          ELSE pg_get_userbyid(x.grantee) END || ' to ' || c.relname, 'pg_class'::regclass, 0::oid
      FROM (SELECT oid, 0 AS part, relacl AS acl FROM pg_class
            UNION ALL SELECT attrelid, attnum, attacl FROM pg_attribute) AS held (oid, part, acl)
      JOIN pg_class c USING (oid), aclexplode(held.acl) x
      WHERE c.relnamespace = 'pg_catalog'::regnamespace AND x.grantee <> c.relowner
        AND NOT EXISTS (SELECT FROM pg_init_privs i, aclexplode(i.initprivs) y
                        WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid
                          AND i.objsubid = held.part AND y.grantee = x.grantee
                          AND y.privilege_type = x.privilege_type)
      UNION ALL SELECT job::text, 'pg_class'::regclass, 0
      FROM unnest(xpath('//job/text()', CASE WHEN EXISTS (
          SELECT FROM pg_depend JOIN pg_extension e ON e.oid = refobjid
          WHERE extname = 'pg_cron' AND deptype = 'e' AND objid = to_regclass('cron.job'))
        THEN query_to_xml($$SELECT format('job %s of pg_cron as %s', jobid, username) AS job
          FROM cron.job JOIN pg_roles ON rolname = username WHERE active AND rolsuper$$,
          false, false, '') ELSE '<none/>' END)) AS jobs (job)
    ) AS found (what, class, object)
    WHERE NOT EXISTS (SELECT FROM pg_depend
                      WHERE classid = class AND objid = object AND deptype = 'e')),
  'public', (SELECT json_build_object(
      'by', json_agg(CASE WHEN x.grantor <> n.nspowner THEN pg_get_userbyid(x.grantor) END),
      'owners', bool_or(n.nspowner = 'pg_database_owner'::regrole OR EXISTS (
          SELECT FROM aclexplode(n.nspacl) y
          WHERE y.grantee = 'pg_database_owner'::regrole AND y.privilege_type = 'CREATE')),
      'makers', ARRAY(SELECT DISTINCT pg_get_userbyid(maker) FROM (
          SELECT relowner, relnamespace FROM pg_class
          UNION ALL SELECT proowner, pronamespace FROM pg_proc
          UNION ALL SELECT typowner, typnamespace FROM pg_type) AS made (maker, place)
        WHERE place = n.oid AND maker NOT IN (SELECT grantee FROM aclexplode(n.nspacl)
                                              WHERE privilege_type = 'CREATE') ORDER BY 1))
    FROM pg_namespace n, aclexplode(n.nspacl) x
    WHERE n.nspname = 'public' AND x.grantee = 0 AND x.privilege_type = 'CREATE' GROUP BY n.oid),
  'squatter', (SELECT r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
               WHERE n.nspname = 'pgbouncer' AND NOT r.rolsuper),
  'lookup', (SELECT json_build_object(
      'body', p.prosrc, 'arguments', pg_get_function_arguments(p.oid), 'config', p.proconfig,
      'is', json_build_array(l.lanname, p.prokind, p.provolatile, p.prosecdef, p.proretset,
                             p.proisstrict),
      'trusted', (SELECT bool_and(rolsuper) FROM pg_roles WHERE oid IN (p.proowner, n.nspowner)),
      'rights', (SELECT json_agg(json_build_array(x.what,
          CASE WHEN x.grantee = 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END,
          x.privilege_type, x.is_grantable)
                                 ORDER BY x.what, x.grantee, x.privilege_type)
        FROM (SELECT 'function' AS what, * FROM aclexplode(p.proacl)
              UNION ALL SELECT 'schema', * FROM aclexplode(n.nspacl)) x
        WHERE x.grantee NOT IN (p.proowner, n.nspowner)))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_language l ON l.oid = p.prolang
    WHERE n.nspname = 'pgbouncer' AND p.proname = 'user_lookup' AND p.pronargs = 1
      AND p.proargtypes[0] = 'text'::regtype)
)
"""

# Names with a line break are for hands; one that is being dropped refuses all logins.
_NAMES = """
SELECT datname FROM pg_database
WHERE datallowconn AND datconnlimit <> -2 AND datname !~ '[[:cntrl:]]' ORDER BY datname
"""


def probe(data_directory: str, databases: Iterable[str], unit: str = "") -> Probe[Server]:
    """Reads roles, databases and settings, and what is in each database.

    Args:
        databases: those that have to answer where they are there.
        unit: of systemd, on a host.
    """
    script = shell(
        "server",
        "postgres",
        data=data_directory,
        facts=_MAPPINGS + _FACTS,
        used=_USED,
        names=_NAMES,
        database_facts=_DATABASE_FACTS,
    )
    return Probe(psql.SHELL + owned(unit) + script, partial(_parse, frozenset(databases)))


def owned(unit: str) -> str:
    """Shell: `is_of_service PID`, of systemd's unit or of runit; of any where there is no unit."""
    return shell("owned", "postgres", owner=unit)


def _parse(wanted: Collection[str], lines: list[str]) -> Server:
    if lines[0] in ("absent", "down", "down standby"):
        return Server("absent" if lines[0] == "absent" else "down", follows="standby" in lines[0])
    if len(lines) > len(("up", "")) and not lines[1]:
        raise Unreadable(f"PostgreSQL does not let its superuser in: {_refusal(lines[2])}")
    if len(lines) < 3 or any(not line.startswith("{") for line in lines[1:3]) or not len(lines) % 2:
        raise Unreadable("PostgreSQL runs but does not answer; see its log")
    port, kept, by = lines[0].removeprefix("up ").split()
    answers = dict(zip(lines[3::2], lines[4::2], strict=True))
    for name in sorted(wanted):
        if answers.get(name) == "":
            raise Unreadable(f"the database {name} does not answer; see PostgreSQL's log")
    inside = {name: json.loads(facts) for name, facts in answers.items() if facts}
    facts = {**json.loads(lines[1]), "used": json.loads(lines[2])}
    alone = "" if by == "service" else by
    return Server("up", int(port), facts, inside, keeps_passwords=kept != "0", alone=alone)


def _refusal(said: str) -> str:
    """Why psql was refused, and what to do where pg_hba.conf is what refuses."""
    why = said.rpartition("FATAL:")[2].removeprefix("psql: error: ").strip()
    is_access = re.search(r"pg_hba|uthenti|password", why)
    out = "; put 'local all postgres peer' first in its pg_hba.conf and reload it"
    return why + (out if is_access else "")


def compare(
    server: Server,
    roles: Sequence[Role],
    databases: Sequence[Database],
    data_directory: str,
    *,
    pooled: bool,
    system: Sequence[Database] = (),
    components: Collection[str] = (LOOKUP_ROLE,),
    forgets: bool = True,
    slots: Collection[str] = (),
) -> Change | None:
    """The statements that make the server what the settings say, or None.

    Args:
        system: databases that the cluster comes with, with whom the settings let in.
        components: roles that components want.
        pooled: whether a PgBouncer looks passwords up in these databases.
        forgets: whether pg_stat_statements is to keep no statement with a password.
        slots: what keeps WAL for standbys.
    """
    if server.kind == "down":
        return None
    doors = accesses(server, roles, databases, system, components)
    after = as_wanted(server, roles)
    steps = [*_steps(server, roles, databases, doors, after, pooled)]
    steps[:0] = _slots(server, slots)
    if forgets and server.keeps_passwords:
        line = "pg_stat_statements: reset, because it keeps statements with passwords"
        steps.insert(0, Step(line, _RESET))
    return _change(steps, data_directory)


def _slots(server: Server, wanted: Collection[str]) -> Iterator[Step]:
    there = {each[0] for each in server.facts.get("slots") or []}
    lost = {*wanted} & {*server.facts.get("lost", ())}
    for name in sorted(lost):
        why = "its reader was away for too long, and has to be copied again"
        yield Step(f"replication slot {name}: drop; {why}", drop_slot(name))
    for name in sorted({*wanted} - there | lost):
        statement = f"SELECT pg_create_physical_replication_slot({literal(name)}, true);"
        yield Step(f"replication slot {name}: create", statement)


def drop_slot(name: str) -> str:
    """The statement that lets go of the WAL of a slot."""
    return f"SELECT pg_drop_replication_slot({literal(name)});"


def without_slots(names: Collection[str], data_directory: str) -> Change | None:
    """Drops what keeps WAL on a server that no other one reads."""
    steps = [
        Step(f"replication slot {n}: drop; no server follows here", drop_slot(n)) for n in names
    ]
    return _change(steps, data_directory)


def _change(steps: Sequence[Step], data_directory: str) -> Change | None:
    if not steps:
        return None
    variables = {"DATA": data_directory, "SQL": _script(steps)}
    lines = [step.line for step in steps if step.line]
    return Change(lines, psql.SHELL + shell("apply", "postgres"), variables)


# Its counters are one for all databases and follow no transaction. In an application's database
# the function of this name could be another one by now.
_RESET = """BEGIN;
DROP EXTENSION IF EXISTS pg_stat_statements CASCADE;
CREATE SCHEMA datatier_reset;
CREATE EXTENSION pg_stat_statements SCHEMA datatier_reset;
SELECT datatier_reset.pg_stat_statements_reset();
ROLLBACK;"""


def _script(steps: Sequence[Step]) -> str:
    lines, connected = [], "postgres"
    for step in steps:
        if step.database != connected:
            lines.append(psql.connect(step.database))
            connected = step.database
        lines.append(step.statement)
    return "\n".join(lines)


def accesses(
    server: Server,
    roles: Iterable[Role],
    databases: Iterable[Database],
    system: Iterable[Database],
    components: Collection[str],
) -> list[rights.Access]:
    """Whom the settings let into each database; see `compare`."""
    known, ours = frozenset(role.name for role in roles), frozenset(components)
    existing = server.facts.get("databases", {})
    return [
        *(
            rights.Access(each.name, each.owner, _grants(server, each), known, ours)
            for each in databases
        ),
        *(
            rights.Access(
                each.name,
                existing.get(each.name, {}).get("owner", each.owner),
                each.grants,
                known,
                ours | {*each.grants},
            )
            for each in system
        ),
    ]


def _grants(server: Server, database: Database) -> Mapping[str, frozenset[str]]:
    """What the settings grant; the lookup of another would run with our role's rights."""
    ours = {LOOKUP_ROLE, *logins_of(LOOKUP_ROLE)}
    out = ours if database.name in squatters(server) else set[str]()
    return {role: rights for role, rights in database.grants.items() if role not in out}


def as_wanted(server: Server, roles: Iterable[Role]) -> dict[str, Any]:
    """What the server says of itself, with the groups of roles, and who is a superuser, as wanted.

    What a run takes from a role in the same breath is no reason to let it in.
    """
    now = server.facts.get("roles", {})
    known = {
        role.name: {
            **now.get(role.name, {}),
            "member_of": sorted(role.member_of),
            "superuser": role.attributes.get("superuser", False),
        }
        for role in roles
    }
    return {**server.facts, "roles": {**now, **known}}


def _steps(
    server: Server,
    roles: Sequence[Role],
    databases: Sequence[Database],
    doors: Sequence[rights.Access],
    after: Mapping[str, Any],
    pooled: bool,
) -> Iterator[Step]:
    now = server.facts.get("roles", {})
    for role in roles:
        yield from _role(role, now.get(role.name))
    for role in roles:
        yield from _memberships(role, now.get(role.name, {}))
    for role in roles:
        there = set(now.get(role.name, {}).get("functions", []))
        for function in sorted(role.functions - there):
            statement = f"GRANT EXECUTE ON FUNCTION {function} TO {identifier(role.name)};"
            yield Step(f"role {role.name}: execute {function}", statement)
    yield from _nearer(server, roles, databases)
    existing = server.facts.get("databases", {})
    closed, names = closed_databases(server), {database.name for database in databases}
    # A new database has the schema of the template.
    yield from _rights(server, after, [each for each in doors if each.database not in names])
    for database in databases:
        yield from _database(database, existing.get(database.name))
    yield from _rights(server, after, [each for each in doors if each.database in names])
    if pooled:
        without = closed | squatters(server).keys()
        served = [database.name for database in databases if database.name not in without]
        yield from _lookups(server, served)
    extensions = [*_extensions(server, databases)]
    if extensions:
        # One that cannot be created keeps no other one waiting: see `extensions`.
        yield Step("", "\\set ON_ERROR_STOP off", extensions[0].database)
    yield from extensions


def extensions(server: Server, databases: Iterable[Database], data_directory: str) -> Change | None:
    """The extensions that could not be created, once more: the first that still cannot is told."""
    steps = [
        Step(step.line, _naming(step), step.database)
        for step in (_extensions(server, databases) if server.kind == "up" else ())
    ]
    return _change(steps, data_directory)


def _naming(step: Step) -> str:
    """Its statement, whose error says of what it is."""
    create = step.statement.removeprefix(":open\n").removesuffix("\n:closed")
    what = literal(step.line.removesuffix(": create"))
    caught = f"EXCEPTION WHEN OTHERS THEN RAISE '%: %', {what}, SQLERRM; END"
    return f":open\nDO $datatier$ BEGIN {create} {caught} $datatier$;\n:closed"


def _extensions(server: Server, databases: Iterable[Database]) -> Iterator[Step]:
    closed = closed_databases(server)
    for database in [each for each in databases if each.name not in closed]:
        inside = server.databases.get(database.name, {})
        missing = sorted(set(database.extensions) - set(inside.get("extensions", [])))
        if missing and inside.get("bare"):
            # Its owner may drop it, and the extensions with it.
            create = "CREATE SCHEMA public AUTHORIZATION pg_database_owner;"
            yield Step(f"schema public of {database.name}: create", create, database.name)
        for extension in missing:
            line = f"extension {extension} in {database.name}: create"
            # Where our sessions look first nothing of an application's is created.
            create = f"CREATE EXTENSION {identifier(extension)} SCHEMA public CASCADE;"
            yield Step(line, f":open\n{create}\n:closed", database.name)


def _rights(
    server: Server, after: Mapping[str, Any], doors: Iterable[rights.Access]
) -> Iterator[Step]:
    fresh = rights.SYSTEM if server.kind == "absent" else {}
    existing = server.facts.get("databases", fresh)
    for access in doors:
        now = existing.get(access.database) or {}
        yield from rights.of_database(access, now, after)
        inside = server.databases.get(access.database, {})
        yield from rights.of_schema(access.database, access.owner, inside.get("public"))


def closed_databases(server: Server) -> set[str]:
    """Those that no one may enter, we neither."""
    found: Mapping[str, Mapping[str, Any]] = server.facts.get("databases", {})
    return {name for name, facts in found.items() if facts.get("allows") is False}


def squatters(server: Server) -> dict[str, str]:
    """Roles whose schema stands where the lookup should, by database: they could replace it."""
    found = {name: inside.get("squatter") for name, inside in server.databases.items()}
    return {name: owner for name, owner in found.items() if owner}


def _lookups(server: Server, served: Sequence[str]) -> Iterator[Step]:
    """The function is what its owner may do: what is not ours to the letter is replaced.

    Where another owns its schema it would not last, and is left to `squatters`.
    """
    others = squatters(server)
    spread = [name for name, inside in server.databases.items() if inside.get("lookup")]
    for name in dict.fromkeys(["template1", *served, *spread]):
        if name in others:
            continue
        found = server.databases.get(name, {}).get("lookup")
        if found != LOOKUP:
            has = {each[1] for each in (found or {}).get("rights") or []}
            statement = render(
                "postgres/lookup.sql.j2",
                body=LOOKUP_BODY,
                role=LOOKUP_ROLE,
                others=[identifier(each) for each in sorted(has - {LOOKUP_ROLE, "public"})],
            )
            verb = "replace" if found else "create"
            yield Step(f"password lookup of PgBouncer in {name}: {verb}", statement, name)


def _role(role: Role, now: Mapping[str, Any] | None) -> Iterator[Step]:
    name = identifier(role.name)
    if now is None and role.name == SUPERUSER:
        now = {**dict.fromkeys(ATTRIBUTES, True), "connection_limit": -1}
    if now is None:
        yield Step(f"role {role.name}: create", f"CREATE ROLE {name};")
    current = now or {"inherit": True, "connection_limit": -1}
    for key, keyword in ATTRIBUTES.items():
        wanted = role.attributes.get(key, key == "inherit")
        if bool(current.get(key)) != wanted:
            change = keyword if wanted else f"NO{keyword}"
            statement = f"ALTER ROLE {name} {change};"
            if now and change == "NOLOGIN":
                change, statement = f"{change}, and its sessions end", no_login(role.name)
            yield Step(f"role {role.name}: {change}", statement)
    if current.get("connection_limit", -1) != role.connection_limit:
        limit = f"CONNECTION LIMIT {role.connection_limit}"
        yield Step(f"role {role.name}: {limit}", f"ALTER ROLE {name} {limit};")
    if role.password and not verifies(current.get("password"), role.password):
        verifier = scram(role.password, role.name)
        statement = f"ALTER ROLE {name} PASSWORD {literal(verifier)};"
        yield Step(f"role {role.name}: password", statement)
    yield from _validity(role, current.get("valid_until"))
    yield from _settings(f"ROLE {name}", f"role {role.name}", role.settings, current)


def no_login(role: str) -> str:
    """Takes the login of a role away, and ends its sessions."""
    sessions = f"FROM pg_stat_activity WHERE usename = {literal(role)}"
    return f"ALTER ROLE {identifier(role)} NOLOGIN; SELECT pg_terminate_backend(pid) {sessions};"


def _validity(role: Role, now: float | None) -> Iterator[Step]:
    wanted = role.valid_until.timestamp() if role.valid_until else None
    if wanted != (None if now is None else float(now)):
        until = role.valid_until.isoformat() if role.valid_until else "infinity"
        statement = f"ALTER ROLE {identifier(role.name)} VALID UNTIL {literal(until)};"
        yield Step(f"role {role.name}: valid until {until}", statement)


def _settings(
    target: str, name: str, wanted: Mapping[str, str], now: Mapping[str, Any]
) -> Iterator[Step]:
    # PostgreSQL stores a parameter under its own spelling: `timezone` becomes TimeZone.
    wanted = {key.lower(): value for key, value in wanted.items()}
    items = [item.split("=", 1) for item in now.get("settings") or []]
    current = {key.lower(): value for key, value in items}
    spelled = {key.lower(): key for key, _ in items}
    for key in sorted(set(wanted) | set(current)):
        if key not in wanted:
            statement = f"ALTER {target} RESET {_parameter(spelled[key])};"
            if key in _RESET_WITH_ALL:
                again = (f" ALTER {target} SET {k} = {_value(k, v)};" for k, v in wanted.items())
                statement = f"ALTER {target} RESET ALL;{''.join(again)}"
            yield Step(f"{name}: reset {key}", statement)
        elif key not in current or not _is_same(key, wanted[key], current[key]):
            shown = mask(f"{key} = {wanted[key]}", SECRET_PARAMETERS)
            statement = f"ALTER {target} SET {key} = {_value(key, wanted[key])};"
            yield Step(f"{name}: {shown}", statement)


# PostgreSQL takes these and does not reset them alone (GUC_NO_RESET in guc_tables.c).
_RESET_WITH_ALL = {"transaction_deferrable", "transaction_isolation", "transaction_read_only"}


def _nearer(server: Server, roles: Sequence[Role], databases: Sequence[Database]) -> Iterator[Step]:
    """Settings that no key of ours says: of all roles, and of a role in one database.

    The cluster's own databases are those in which backups and lookups of passwords have sessions.
    """
    everywhere = {"settings": server.facts.get("everywhere")}
    yield from _settings("ROLE ALL", "all roles", {}, everywhere)
    ours, served = {role.name for role in roles}, {database.name for database in databases}
    for name in sorted(rights.SYSTEM.keys() - served):
        found = server.facts.get("databases", {}).get(name) or {}
        yield from _settings(f"DATABASE {name}", f"database {name}", {}, found)
    for tablespace, key in server.facts.get("costs") or ():
        statement = f"ALTER TABLESPACE {identifier(tablespace)} RESET ({_parameter(key)});"
        yield Step(f"tablespace {tablespace}: reset {key}", statement)
    served |= rights.SYSTEM.keys()
    for role, database, found in server.facts.get("inside") or ():
        if role in ours and database in served:
            target = f"ROLE {identifier(role)} IN DATABASE {identifier(database)}"
            yield from _settings(target, f"role {role} in {database}", {}, {"settings": found})


def _parameter(name: str) -> str:
    """The name of a parameter as a server has it: one of an application's may be any text."""
    is_plain = re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*", name)
    return name if is_plain else ".".join(map(identifier, name.split(".")))


# Lists: quoted as a whole, their elements would be one name (GUC_LIST_QUOTE in guc_tables.c).
_LISTS = {"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"}


def _value(key: str, value: str) -> str:
    if key not in _LISTS:
        return literal(value)
    return ", ".join(map(literal, _elements(value)))


def _is_same(key: str, wanted: str, now: str) -> bool:
    # PostgreSQL stores a list with its own blanks and quotes (flatten_set_variable_args).
    return _elements(wanted) == _elements(now) if key in _LISTS else wanted == now


def _elements(value: str) -> list[str]:
    """The names in a list, without their quotes; an empty text is the empty name."""
    (names,) = csv.reader([value], skipinitialspace=True)
    return [name.strip() for name in names] or [""]


def _memberships(role: Role, now: Mapping[str, Any]) -> Iterator[Step]:
    granted = granted_groups(now)
    # What others have granted may go with their own membership.
    for group in sorted(role.member_of - {group for group, grantor in granted if grantor is None}):
        statement = f"GRANT {identifier(group)} TO {identifier(role.name)};"
        yield Step(f"role {role.name}: grant {group}", statement)
    for group in sorted({group for group, _ in granted} - role.member_of):
        line = f"role {role.name}: revoke {group}"
        yield Step(line, " ".join(leave(group, role.name, granted)))


def granted_groups(now: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The groups of a role with who has granted each, where our REVOKE has to say that."""
    by_us = [(group, None) for group in now.get("member_of", ())]
    return [(group, grantor) for group, grantor in now.get("granted") or by_us]


def leave(group: str, role: str, granted: Collection[tuple[str, str | None]]) -> Iterator[str]:
    """Statements that end a membership, by any grantor and whatever depends on it."""
    for grantor in [grantor for each, grantor in granted if each == group]:
        by = f" GRANTED BY {identifier(grantor)}" if grantor is not None else ""
        yield f"REVOKE {identifier(group)} FROM {identifier(role)}{by} CASCADE;"


def _database(database: Database, now: Mapping[str, Any] | None) -> Iterator[Step]:
    name, owner = identifier(database.name), identifier(database.owner)
    if now is None:
        yield Step(
            f"database {database.name}: create, owner {database.owner}",
            f"CREATE DATABASE {name} OWNER {owner};"
            f" REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC;",
        )
    elif now["owner"] != database.owner:
        line = f"database {database.name}: owner {database.owner}"
        yield Step(line, f"ALTER DATABASE {name} OWNER TO {owner};")
    if (now or {}).get("connection_limit") == 0:
        # It was closed for the dump before a drop, or comes from that; see surplus.py.
        line = f"database {database.name}: CONNECTION LIMIT -1"
        yield Step(line, f"ALTER DATABASE {name} CONNECTION LIMIT -1;")
    yield from _settings(
        f"DATABASE {name}", f"database {database.name}", database.settings, now or {}
    )


def scram(password: str, role: str) -> str:
    """The SCRAM-SHA-256 verifier of a role's password (RFC 5803).

    The salt comes from the password and the role, so that PostgreSQL and PgBouncer's file hold
    the same verifier without one reading the other's.
    """
    salt = hmac.digest(password.encode(), f"datatier {role}".encode(), "sha256")[:16]
    verifier = _verifier(password, salt, _ITERATIONS)
    hide.secret(verifier)
    return verifier


def verifies(verifier: str | None, password: str) -> bool:
    """Whether a stored verifier, whatever its salt, is that of `password`."""
    try:
        mechanism, parameters, _ = (verifier or "").split("$")
        iterations, salt = parameters.split(":")
    except ValueError:
        return False
    if mechanism != "SCRAM-SHA-256":
        return False
    return hmac.compare_digest(
        verifier or "", _verifier(password, base64.b64decode(salt), int(iterations))
    )


def _verifier(password: str, salt: bytes, iterations: int) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(b).decode() for b in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"
