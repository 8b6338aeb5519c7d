"""Loads plain SQL with the rights of those who own what is in it, and without psql.

To define a thing can run code as well as to fill it: a default `'{1}'::public.d[]` or a partition's
bound runs the check of the domain `d` when it is parsed, a foreign key the cast between its types.
So every entry of pg_dump is made by a session that logged in as a role which has its owner's rights
and no others. (SET ROLE by a superuser is no protection: what runs can say RESET ROLE.)

| entry of | is made by |
|---|---|
| a role | a login of ours that is a member of this role only |
| a superuser | a login that is a member of all owners and no superuser; handed over at the end |
| no matter whom, in `_OURS` | the superuser: it evaluates nothing of the database's |
| what only a superuser may define | the superuser, where the caller admits it |

Grants come before the rows, since checks may read other tables, and once more at the end.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache

import psycopg
from psycopg import errors, sql

from backup.config import SUPERUSERS_OPTIONS, Postgres
from backup.job import Failed, Log
from backup.postgres.script import Header, Script, Statement, Stream, require_known
from backup.postgres.session import Connection, Login, connect, connect_as, quoted

SUPERUSER = "postgres"
PREFIX = "datatier_load_"
_VALID = "1 day"

# Opens the SQL again; with True its rows may be missing.
Opener = Callable[[bool], AbstractContextManager[Stream]]
# Whether the superuser makes what its login may not: of a statement, and whose login it would be.
Admission = Callable[[Statement, str], bool]

_GRANTS = {"GRANT", "REVOKE", "SET", "RESET"}
_ROWS = {"TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS", "BLOB METADATA"}
_AFTER_ROWS = {
    *("CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "TRIGGER"),
    *("RULE", "POLICY", "ROW SECURITY", "STATISTICS", "MATERIALIZED VIEW DATA", "PUBLICATION"),
}
_EXTENSION = ("IF", "NOT", "EXISTS", "WITH", "SCHEMA")
_FUNCTIONS = {"FUNCTION", "PROCEDURE"}
# They would have an effect on what is loaded after them.
_LAST = {"DEFAULT ACL", "EVENT TRIGGER"}

# What only a superuser may do, and what evaluates nothing of the database's.
_OURS = (
    # Of sequences and large objects (see `require_known`).
    ("SELECT", "PG_CATALOG"),
    ("COMMENT", "ON"),
    ("SECURITY", "LABEL"),
    ("CREATE", "SERVER"),
    ("CREATE", "USER", "MAPPING"),
    ("CREATE", "FOREIGN", "DATA", "WRAPPER"),
    ("CREATE", "OPERATOR", "CLASS"),
    ("CREATE", "OPERATOR", "FAMILY"),
    ("ALTER", "OPERATOR", "FAMILY"),
    ("CREATE", "SUBSCRIPTION"),
    ("CREATE", "EVENT", "TRIGGER"),
    ("ALTER", "EVENT", "TRIGGER"),
    ("ALTER", "DEFAULT", "PRIVILEGES"),
    ("BEGIN",),
    ("COMMIT",),
)
# Entries that can need a superuser's rights to make, and evaluate nothing (see `_is_inert`).
_INERT = {
    *("FUNCTION", "PROCEDURE", "AGGREGATE", "SHELL TYPE", "TYPE", "PROCEDURAL LANGUAGE"),
    *("TRANSFORM", "CAST", "ACCESS METHOD", "TEXT SEARCH PARSER", "TEXT SEARCH TEMPLATE"),
    *("TRIGGER",),
}


def load(
    server: Postgres,
    database: str,
    opened: Opener,
    log: Log,
    schemas: Sequence[str] = (),
    *,
    admits: Admission,
) -> dict[str, int]:
    """Loads SQL into a database, statement by statement; what fails is for the caller to drop.

    Args:
        admits: `anything` in a scratch server; in a live one what is `same_as` in one we trust.
        schemas: those that it goes to, quoted, in a database that is in use; else the database
            is only ours until it is loaded.

    Returns:
        The number of rows that the server has taken for each table, by qualified name.

    Raises:
        Failed: a statement failed, is not of pg_dump, or an owner is missing; nothing of the
            latter two was begun.
    """
    with opened(True) as stream:
        outline = _outlined(stream)
    with _sessions(server, database, outline, whole=not schemas) as sessions:
        return _Load(sessions, outline, log, schemas, admits).run(opened)


def sweep(server: Postgres, log: Log) -> None:
    """Drops the roles that a killed load has left; a lock says that none is running.

    One that cannot be dropped yet holds up nothing: its login ends by itself.
    """
    with connect(server, "postgres", admin=True) as connection:
        left = connection.execute(
            "SELECT rolname, ARRAY(SELECT DISTINCT datname FROM pg_shdepend"
            "  JOIN pg_database d ON d.oid = dbid OR (dbid = 0 AND d.oid = objid)"
            "  WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid)"
            " FROM pg_roles r WHERE starts_with(rolname, %s)",
            (PREFIX,),
        ).fetchall()
        for role, databases in left:
            try:
                for database in databases:
                    with connect(server, database, admin=True) as inside:
                        _execute(inside, _UNGUARD)
                        _execute(inside, "DROP OWNED BY {} CASCADE", role)
                _execute(connection, "DROP ROLE {}", role)
            except (Failed, psycopg.Error) as obstacle:
                log.line(f"role {role}, left by a restore, cannot be dropped yet: {obstacle}")


def _execute(connection: Connection, statement: str, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


# --- What the superuser makes --------------------------------------------------------------------


def anything(_statement: Statement, _login: str) -> bool:
    """Admits everything: for a scratch server, whose superuser has no rights anywhere else."""
    return True


def nothing(_statement: Statement, _login: str) -> bool:
    """Admits nothing."""
    return False


def same_as(opened: Opener) -> Admission:
    """Admits what superusers own if it runs nothing and is, word for word, in the given SQL."""

    @cache
    def known() -> set[tuple[Header, bytes]]:
        with opened(True) as stream:
            script = Script(stream)
            return {(s.header, s.text.strip()) for s in script if s.header.type in _INERT}

    def admits(statement: Statement, login: str) -> bool:
        # What a role owns would be the superuser's for a while, and in a forged dump for good.
        inert = (not login or statement.header.type == "TRIGGER") and _is_inert(statement)
        return inert and (statement.header, statement.text.strip()) in known()

    return admits


def _is_inert(statement: Statement) -> bool:
    """Whether to make it evaluates nothing: no body, condition or literal of an owner's type."""
    kind, tokens = statement.header.type, statement.tokens
    if kind in _FUNCTIONS:
        defaults = "DEFAULT" in tokens and "." in tokens[tokens.index("(") :]
        return not {"ATOMIC", "RETURN"} & {*tokens} and not defaults
    if kind == "AGGREGATE":
        return not {"INITCOND", "MINITCOND"} & {*tokens}
    return kind in _INERT and not (kind == "TRIGGER" and "WHEN" in tokens)


# --- The outline ---------------------------------------------------------------------------------


@dataclass
class _Outline:
    """What has to be known of a script before any of it is run."""

    owners: dict[str, str] = field(default_factory=dict)
    schemas: dict[str, Statement] = field(default_factory=dict)
    extensions: list[Statement] = field(default_factory=list)
    grants: list[Statement] = field(default_factory=list)
    last: list[Statement] = field(default_factory=list)


def _outlined(stream: Stream) -> _Outline:
    outline = _Outline()
    for statement in Script(stream):
        require_known(statement)
        header = statement.header
        if header.owner not in ("-", ""):
            outline.owners.setdefault(header.owner, str(header))
        if statement.starts("CREATE", "SCHEMA"):
            outline.schemas[statement.name_after("SCHEMA")] = statement
        elif statement.starts("CREATE", "EXTENSION"):
            outline.extensions.append(statement)
        elif _is_last(header):
            outline.last.append(statement)
        elif _is_grant(statement) and _has_its_time(statement):
            outline.grants.append(statement)
    return outline


# --- Who does it ---------------------------------------------------------------------------------


@dataclass
class _Sessions:
    """Connections of the superuser and of the logins, opened when they are first needed.

    Attributes:
        superusers: names of the roles that are superusers.
        owner: of the database.
        logins: by owner; '' is the one for what superusers own.
    """

    server: Postgres
    database: str
    admin: Connection
    superusers: frozenset[str]
    owner: str
    logins: dict[str, Login]
    settings: dict[tuple[str, ...], Statement] = field(default_factory=dict)
    opened: dict[str | None, Connection] = field(default_factory=dict)

    def of(self, owner: str | None) -> Connection:
        """The session for what a role owns; None is the superuser's."""
        if owner not in self.opened:
            if owner is None:
                session = connect(self.server, self.database, admin=True)
                session.execute("SET synchronous_commit = off")
                for setting in self.settings.values():
                    send(session, setting)
            else:
                session = connect_as(self.server, self.database, self.logins[owner])
                # Its code could give the role another password, and come back with it.
                _execute(self.admin, "ALTER ROLE {} NOLOGIN", self.logins[owner].user)
            session.prepare_threshold = None
            self.opened[owner] = session
        if owner is not None:
            # What code of the database has set, a path say, would change what comes next.
            settings = [each.text for each in self.settings.values()]
            first = (b"RESET ALL", b"RESET ROLE", b"SET synchronous_commit = off")
            self.opened[owner].execute(b"\n;".join([*first, *settings]))
        return self.opened[owner]

    def set(self, setting: Statement) -> None:
        """Sets something in all sessions, those to come too."""
        self.settings[setting.tokens[:2]] = setting
        if None in self.opened:
            send(self.opened[None], setting)

    def login_of(self, owner: str) -> str:
        """Whose login makes what a role owns."""
        if owner == "pg_database_owner":
            owner = self.owner
        return "" if owner in self.superusers or owner not in self.logins else owner

    @property
    def roles(self) -> list[str]:
        """Those who make things: the owners, and the login that stands in for superusers."""
        return [owner or self.logins[""].user for owner in self.logins]


@contextlib.contextmanager
def _sessions(
    server: Postgres, database: str, outline: _Outline, *, whole: bool
) -> Iterator[_Sessions]:
    with connect(server, database, admin=True) as admin:
        roles: dict[str, bool] = dict(
            admin.execute("SELECT rolname, rolsuper FROM pg_roles").fetchall()
        )
        row = admin.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        for owner, what in outline.owners.items():
            if owner not in roles:
                raise Failed(f"{what} belongs to role {owner}, which is missing: create it first")
        superusers = frozenset(name for name, is_super in roles.items() if is_super)
        owners = [o for o in outline.owners if o not in superusers and not o.startswith("pg_")]
        owner = row[0] if row else ""
        if owner not in superusers and owner not in owners:
            owners.append(owner)
        logins = {each: _login(admin, [each], each) for each in owners}
        logins[""] = _login(admin, owners, "none")
        sessions = _Sessions(server, database, admin, superusers, owner, logins)
        try:
            _admit(sessions, whole=whole)
            admin.execute(_GUARD)
            yield sessions
        except BaseException:
            # What is left of them is dropped by the next `sweep`.
            with contextlib.suppress(psycopg.Error):
                _leave(sessions)
            raise
        _leave(sessions)


def _leave(sessions: _Sessions) -> None:
    for session in sessions.opened.values():
        session.close()
    _execute(sessions.admin, _UNGUARD)
    # What is theirs still is no owner's.
    for statement in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}"):
        for login in sessions.logins.values():
            _execute(sessions.admin, statement, login.user)


def _login(admin: Connection, owners: list[str], role: str) -> Login:
    """A login of ours with the rights of some roles; it ends by itself if we cannot end it."""
    user, password = f"{PREFIX}{secrets.token_hex(6)}", secrets.token_urlsafe(24)
    # The server, and whatever it logs, never sees the password.
    verifier = admin.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256")
    until = admin.execute("SELECT (now() + %s::interval)::text", (_VALID,)).fetchone()
    assert until is not None
    statement = sql.SQL("CREATE ROLE {} LOGIN INHERIT PASSWORD {} VALID UNTIL {}").format(
        sql.Identifier(user), sql.Literal(verifier.decode()), sql.Literal(until[0])
    )
    if owners:
        groups = sql.SQL(", ").join(map(sql.Identifier, owners))
        statement = sql.SQL("{} IN ROLE {}").format(statement, groups)
    admin.execute(statement)
    for key, value in SUPERUSERS_OPTIONS.items():
        option = sql.SQL("ALTER ROLE {} SET {} = {}")
        admin.execute(option.format(sql.Identifier(user), sql.Identifier(key), sql.Literal(value)))
    return Login(user, password, role)


# What code of the database does in our sessions, it does with the rights of all whose things are
# loaded. So it defines nothing: who is called by a statement has more than itself in its context.
# In a temporary schema both go with the session; only a server that crashes leaves them.
_GUARD = f"""
DROP EVENT TRIGGER IF EXISTS datatier_load;
CREATE FUNCTION pg_temp.datatier_load() RETURNS event_trigger LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  IF starts_with(session_user, '{PREFIX}') AND strpos(context, chr(10)) > 0 THEN
    RAISE 'code of the database defines something while it is loaded: look at what its checks and '
      'defaults call, in a scratch server';
  END IF;
END $$;
CREATE EVENT TRIGGER datatier_load ON ddl_command_start EXECUTE FUNCTION pg_temp.datatier_load();
ALTER EVENT TRIGGER datatier_load ENABLE ALWAYS;
""".encode()
_UNGUARD = "DROP EVENT TRIGGER IF EXISTS datatier_load"


# Nor does it change rows with the rights of others: those of superusers and of all other owners are
# in one session, whose own statements alone write to tables. The condition of a trigger asks, and
# never holds: a session keeps a plan of a trigger's own function for each table, and looks at all
# of those after each statement.
_KEEP = """
CREATE FUNCTION pg_temp.datatier_rows(name text) RETURNS boolean LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
DECLARE context text;
BEGIN
  GET DIAGNOSTICS context = PG_CONTEXT;
  IF strpos(context, chr(10)) > 0 THEN
    RAISE 'code of the database changes rows of % while it is loaded: look at what checks and '
      'defaults call, in a scratch server', name;
  END IF;
  RETURN false;
END $$;
GRANT EXECUTE ON FUNCTION pg_temp.datatier_rows TO PUBLIC
"""
_KEPT = """
SELECT format('%%I.%%I', nspname, relname),
  format('%%L', format('%%I.%%I', nspname, relname)),
  'INSERT OR UPDATE OR DELETE' || CASE relkind WHEN 'f' THEN '' ELSE ' OR TRUNCATE' END
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'f') AND c.oid >= 16384 AND relpersistence <> 't'
  AND (%s OR pg_get_userbyid(relowner) = %s)
"""


def _admit(sessions: _Sessions, *, whole: bool) -> None:
    database, users = sessions.database, [login.user for login in sessions.logins.values()]
    for user in users:
        _execute(sessions.admin, "GRANT CONNECT ON DATABASE {} TO {}", database, user)
    if whole:
        for role in sessions.roles:
            _execute(sessions.admin, "GRANT CREATE, TEMPORARY ON DATABASE {} TO {}", database, role)


# --- The load ------------------------------------------------------------------------------------


class _Load:
    """One load, in the order in which it is done."""

    def __init__(
        self,
        sessions: _Sessions,
        outline: _Outline,
        log: Log,
        schemas: Sequence[str],
        admits: Admission,
    ) -> None:
        self._sessions = sessions
        self._admits = admits
        self._admin = sessions.admin
        self._outline = outline
        self._log = log
        self._rows_begun = False
        self._handed_over: list[Statement] = []
        self._by_superuser = set[Header]()
        self._counts: dict[str, int] = {}
        self._attached: list[Statement] = []
        self._whole = not schemas
        self._schemas_in_use = schemas or ["public"]
        self._opened: list[tuple[str, str]] = []
        self._kept: list[tuple[str, str, str]] = []
        self._again = set[Header]()
        self._tablespace = ""
        # The empty string, which is no name, stands for the database's own.
        self._tablespaces = {"'": False}

    def run(self, opened: Opener) -> dict[str, int]:
        """All of it; returns how many rows each table got."""
        self._schemas()
        with opened(False) as stream:
            script = Script(stream)
            for statement in script:
                require_known(statement)
                if statement.header.type in _AFTER_ROWS:
                    self._end_rows(opened)
                self._one(statement, script)
        self._end_rows(opened)
        for statement in self._attached:
            self._make(statement)
        self._release_rows()
        for statement in self._handed_over:
            self._send(None, statement)
        self._close_schemas()
        self._grant(lambda _: True, final=True)
        for statement in self._outline.last:
            self._send(None, statement)
        return self._counts

    def _schemas(self) -> None:
        for name, statement in self._outline.schemas.items():
            if len(statement.tokens) != len(("CREATE", "SCHEMA", name)):
                raise Failed(f"{statement.header}: it is not as pg_dump writes it")
            role = self._sessions.login_of(statement.header.owner) or SUPERUSER
            self._admin.execute(f"CREATE SCHEMA {name} AUTHORIZATION {quoted(role)}".encode())
        for statement in self._outline.extensions:
            if statement.tokens[2:5] + statement.tokens[6:8] != _EXTENSION:
                raise Failed(f"{statement.header}: it is not as pg_dump writes it")
            self._send(None, statement)
        self._open_schemas()

    def _open_schemas(self) -> None:
        """Roles that make things may use all schemas for that long."""
        for schema in {**self._outline.schemas, **dict.fromkeys(self._schemas_in_use)}:
            for role in self._sessions.roles:
                row = self._admin.execute(
                    "SELECT has_schema_privilege(%s, %s::regnamespace, 'CREATE')"
                    " AND has_schema_privilege(%s, %s::regnamespace, 'USAGE')",
                    (role, schema, role, schema),
                ).fetchone()
                if row and not row[0]:
                    self._admin.execute(
                        f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {quoted(role)}".encode()
                    )
                    self._opened.append((schema, role))

    def _close_schemas(self) -> None:
        for schema, role in self._opened:
            revoke = f"REVOKE USAGE, CREATE ON SCHEMA {schema} FROM {quoted(role)}"
            self._admin.execute(revoke.encode())

    def _one(self, statement: Statement, script: Script) -> None:
        header, tokens = statement.header, statement.tokens
        if header.type in _ROWS:
            self._begin_rows()
        if _has_its_time(statement):
            return
        if _is_grant(statement):
            self._grant_once(statement)
        elif tokens[0] == "SET" or statement.starts("SELECT", "PG_CATALOG", ".", "SET_CONFIG"):
            self._set(statement)
        elif header.type == "TABLE ATTACH" and not self._whole:
            # A partition is not seen before all of its rows are there.
            self._attached.append(statement)
        elif statement.copies:
            self._copy(statement, script)
        elif statement.starts("REFRESH"):
            self._refresh(statement)
        elif tokens[0] == "ALTER" and tokens[-3:-1] == ("OWNER", "TO"):
            self._own(statement)
        else:
            self._make(statement)
            if header.type == "SEQUENCE SET":
                # Once more at the end, since code may have moved it.
                self._handed_over.append(statement)

    def _set(self, statement: Statement) -> None:
        if statement.starts("SET", "DEFAULT_TABLESPACE"):
            self._tablespace = self._known_tablespace(statement.name_after("="))
        elif not statement.starts("SET", "LOCK_TIMEOUT"):
            # That one says to wait without end; ours stays.
            self._sessions.set(statement)

    def _known_tablespace(self, name: str) -> str:
        """The name, or '' for one that is not here: then things are where the database is."""
        if name not in self._tablespaces:
            row = self._admin.execute(
                "SELECT 1 FROM pg_tablespace WHERE spcname = (parse_ident(%s))[1]", (name,)
            ).fetchone()
            self._tablespaces[name] = row is not None
            if row is None:
                self._log.line(f"not as it was: there is no tablespace {name} here")
        return name if self._tablespaces[name] else ""

    def _begin_rows(self) -> None:
        if not self._rows_begun:
            self._rows_begun = True
            # Those of schemas would close what is open for the load.
            self._grant(lambda name: not name.startswith("SCHEMA "))
            self._keep_rows()

    def _keep_rows(self) -> None:
        """Lets code of an owner change no rows where it has the rights of others."""
        user = self._sessions.logins[""].user
        owners = {self._sessions.login_of(owner) for owner in self._outline.owners}
        if len(owners) == 1:
            return
        self._admin.execute(_KEEP.encode())
        self._kept = self._admin.execute(_KEPT, (self._whole, user)).fetchall()
        for table, name, events in self._kept:
            self._admin.execute(
                f"CREATE TRIGGER datatier_rows BEFORE {events} ON {table} FOR EACH STATEMENT"
                f" WHEN (session_user = '{user}' AND pg_temp.datatier_rows({name}))"
                f" EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()".encode()
            )

    def _release_rows(self) -> None:
        for table, *_ in self._kept:
            self._admin.execute(f"DROP TRIGGER datatier_rows ON {table}".encode())

    def _end_rows(self, opened: Opener) -> None:
        self._begin_rows()
        again, self._again = self._again, set()
        if again:
            with opened(False) as stream:
                script = Script(stream)
                for statement in script:
                    if statement.copies and statement.header in again:
                        self._copy(statement, script, again=True)

    def _grant(self, which: Callable[[str], bool], *, final: bool = False) -> None:
        for statement in self._outline.grants:
            if which(statement.header.name):
                self._grant_once(statement, final=final)

    def _grant_once(self, statement: Statement, *, final: bool = True) -> None:
        try:
            self._send(None, statement)
        except _Missing as missing:
            # A role that is gone gives no rights.
            if final:
                self._log.line(f"not restored: {missing}")

    def _grant_new_function(self, kind: str) -> None:
        row = self._admin.execute(
            "SELECT format('%I(%s)', proname, pg_get_function_identity_arguments(p.oid)), nspname"
            " FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
            " ORDER BY age(p.xmin) LIMIT 1"
        ).fetchone()
        assert row is not None
        for statement in self._outline.grants:
            header = statement.header
            if (header.name, header.schema) == (f"{kind} {row[0]}", row[1]):
                self._grant_once(statement, final=False)

    def _own(self, statement: Statement) -> None:
        """Gives a thing to its owner: at the end if that is a superuser, whose login made it."""
        header = statement.header
        if "," in statement.top:
            raise Failed(f"{header}: it is not as pg_dump writes it")
        if self._sessions.login_of(header.owner) or header in self._by_superuser:
            self._send(None, statement)
        else:
            self._handed_over.append(statement)

    def _make(self, statement: Statement) -> None:
        header = statement.header
        if self._is_ours(statement):
            self._send(None, statement)
            self._by_superuser.add(header)
            if header.type in ("SERVER", "FOREIGN DATA WRAPPER"):
                self._grant(lambda name: name.endswith(f" {header.name}"))
            return
        by_superuser = self._make_as_owner(statement)
        if by_superuser:
            self._by_superuser.add(header)
        if header.type in _FUNCTIONS and (by_superuser or "SECURITY" in statement.tokens):
            # It has others' rights, so no code may call it before its own grants are made.
            self._grant_new_function(header.type)
        if self._tablespace and (thing := _placed(statement)):
            # Its owner needs no right to the tablespace.
            self._admin.execute(f"ALTER {thing} SET TABLESPACE {self._tablespace}".encode())

    def _make_as_owner(self, statement: Statement) -> bool:
        """Makes a thing with its owner's rights, or the superuser's where that is admitted.

        Returns:
            Whether it was the superuser.
        """
        owner = login = self._sessions.login_of(statement.header.owner)
        if owner and len(self._sessions.logins) > 1 and self._has_others_parents(statement, owner):
            owner = ""
        with self._may_refer(statement, owner):
            try:
                self._send(owner, statement)
            except _Orphans as orphans:
                self._log.line(f"not as it was: NOT VALID: {orphans}")
                self._send(owner, replace(statement, text=statement.text + b" NOT VALID"))
            except _Denied:
                if not self._admits(statement, login):
                    raise
                # To check a body is to run some of it.
                self._sessions.of(None).execute("SET check_function_bodies = off")
                self._send(None, statement)
                return True
        return False

    def _refresh(self, statement: Statement) -> None:
        """Fills a view from other rows; what keeps it from that now is no reason to lose those."""
        session = self._sessions.of(self._sessions.login_of(statement.header.owner))
        # As its owner does it, who may see a part of the rows only.
        session.execute("SET row_security = on")
        try:
            _sent(session, statement)
        except Failed as failure:
            self._log.line(f"not restored: {failure}; REFRESH MATERIALIZED VIEW fills it")

    def _is_ours(self, statement: Statement) -> bool:
        if statement.starts("CREATE", "FOREIGN", "DATA", "WRAPPER"):
            # A function of the database's would be called with our rights.
            return not {"VALIDATOR", "HANDLER"} & {*statement.tokens}
        if statement.starts("CREATE", "SUBSCRIPTION"):
            return "connect = false" in statement.text.decode(errors="replace")
        if statement.starts("CREATE", "PUBLICATION") or statement.starts("ALTER", "PUBLICATION"):
            # Each is a superuser's; of single tables it may have a condition, which is parsed.
            return " FOR ALL TABLES" in " ".join(statement.top) or (
                statement.tokens[3:7] == ("ADD", "TABLES", "IN", "SCHEMA")
            )
        return any(statement.starts(*words) for words in _OURS)

    def _has_others_parents(self, statement: Statement, owner: str) -> bool:
        """Whether it joins a table to another owner's, which only an owner of both may."""
        tokens = statement.tokens
        if statement.header.type in ("TABLE ATTACH", "INDEX ATTACH"):
            names = [statement.name_after("ONLY" if "ONLY" in tokens else "INDEX")]
        elif statement.header.type == "TABLE" and "INHERITS" in statement.top:
            names = statement.names_in(len(tokens) - 1 - tokens[::-1].index("INHERITS"))
        else:
            return False
        return any(self._owner_of(name) != owner for name in names)

    def _owner_of(self, name: str) -> str:
        row = self._admin.execute(
            "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass(%s)", (name,)
        ).fetchone()
        return row[0] if row else ""

    @contextlib.contextmanager
    def _may_refer(self, statement: Statement, owner: str) -> Iterator[None]:
        """What an owner has stands whether or not that role could make it today."""
        role, lent = owner or self._sessions.logins[""].user, ""
        for kind, privilege, name in _refers(statement):
            if self._lacks(role, kind, name, privilege):
                lent = f"{privilege} ON {kind} {name}"
                self._admin.execute(f"GRANT {lent} TO {quoted(role)}".encode())
        try:
            yield
        finally:
            if lent:
                self._admin.execute(f"REVOKE {lent} FROM {quoted(role)}".encode())

    def _lacks(self, role: str, kind: str, name: str, privilege: str) -> bool:
        row = self._admin.execute(_HAS[kind].encode(), (role, name, privilege)).fetchone()
        return row is not None and row[0] is False

    def _copy(self, statement: Statement, script: Script, *, again: bool = False) -> None:
        owner = self._sessions.login_of(statement.header.owner)
        role, table = owner or self._sessions.logins[""].user, statement.name_after("COPY")
        if self._lacks(role, "TABLE", table, "INSERT"):
            # Its owner may have no right to; and tables of extensions are not the stand-in's.
            self._admin.execute(f"GRANT INSERT ON TABLE {table} TO {quoted(role)}".encode())
            self._usable(table, role)
        cursor, sent, rows = self._sessions.of(owner).cursor(), 0, script.rows()
        try:
            with cursor.copy(statement.text) as copy:
                for piece in rows:
                    sent += piece.count(b"\n")
                    copy.write(piece)
        except psycopg.Error as error:
            if again or isinstance(error, psycopg.OperationalError):
                raise _failed(statement, error) from None
            # A check may read a table whose rows come later.
            self._again.add(statement.header)
            for _ in rows:
                pass
            return
        if cursor.rowcount != sent:
            raise Failed(f"{table}: {cursor.rowcount} rows have arrived of {sent}")
        # Several times where pg_dump loads partitions through their root.
        self._counts[table] = self._counts.get(table, 0) + sent

    def _usable(self, table: str, role: str) -> None:
        row = self._admin.execute(
            "SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', nspname, %s::text) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(%s)"
            " AND NOT has_schema_privilege(%s, n.oid, 'USAGE')",
            (role, table, role),
        ).fetchone()
        if row:
            self._admin.execute(row[0].encode())

    def _send(self, owner: str | None, statement: Statement) -> None:
        _sent(self._sessions.of(owner), statement)


def _has_its_time(statement: Statement) -> bool:
    """Whether it is made before all others, or after them."""
    header = statement.header
    return (
        statement.starts("CREATE", "SCHEMA")
        or statement.starts("CREATE", "EXTENSION")
        or (_is_grant(statement) and not header.name.startswith("LARGE OBJECT"))
        or _is_last(header)
    )


def _is_grant(statement: Statement) -> bool:
    """Whether it is of rights; those to large objects are in no outline, as these are data."""
    return statement.header.type == "ACL" and statement.tokens[0] in _GRANTS


def _is_last(header: Header) -> bool:
    about = header.type in ("COMMENT", "SECURITY LABEL")
    return header.type in _LAST or (about and header.name.startswith("EVENT TRIGGER "))


def _placed(statement: Statement) -> str:
    """What a statement has made that a tablespace holds, as ALTER names it."""
    kind, tokens = statement.header.type, statement.tokens
    if statement.starts("CREATE") and kind in ("TABLE", "MATERIALIZED VIEW"):
        return f"{kind} {statement.name_after(kind.split()[-1])}"
    if kind == "INDEX" and statement.starts("CREATE"):
        schema = statement.schema_after("ONLY" if "ONLY" in tokens else "ON")
        return f"INDEX {schema}.{statement.name_after('INDEX')}"
    if kind == "CONSTRAINT" and {"PRIMARY", "UNIQUE", "EXCLUDE"} & {*tokens}:
        return f"INDEX {statement.schema_after('ONLY')}.{statement.name_after('CONSTRAINT')}"
    return ""


# Whether a role may do something with what a name in SQL means.
_HAS = {
    "TABLE": "SELECT has_table_privilege(%s, to_regclass(%s), %s)",
    "FUNCTION": "SELECT has_function_privilege(%s, to_regprocedure(%s), %s)",
    "FOREIGN SERVER": "SELECT has_server_privilege(%s, (parse_ident(%s))[1], %s)",
}


def _refers(statement: Statement) -> Iterator[tuple[str, str, str]]:
    """What a statement refers to: its kind, the privilege for that, and its name."""
    kind, tokens = statement.header.type, statement.tokens
    if kind == "FK CONSTRAINT" and "REFERENCES" in tokens:
        yield "TABLE", "REFERENCES", statement.name_after("REFERENCES")
    elif kind == "FOREIGN TABLE" and "SERVER" in tokens:
        yield "FOREIGN SERVER", "USAGE", statement.name_after("SERVER")
    elif kind == "TRIGGER" and statement.starts("CREATE"):
        yield "FUNCTION", "EXECUTE", f"{statement.name_after('FUNCTION')}()"


class _Missing(Failed):
    """What a statement names is not there."""


class _Orphans(Failed):
    """Rows refer to what is not there, and already did in the original."""


class _Denied(Failed):
    """Who has sent a statement may not do that."""


def send(session: Connection, statement: Statement) -> None:
    """Sends one statement, by the protocol that takes no second one."""
    session.cursor(binary=True).execute(statement.text)


def _sent(session: Connection, statement: Statement) -> None:
    try:
        send(session, statement)
    except errors.UndefinedObject as error:
        raise _Missing(str(_failed(statement, error))) from None
    except (errors.InsufficientPrivilege, errors.InvalidFunctionDefinition) as error:
        # The second is of an aggregate whose state is internal.
        raise _Denied(str(_failed(statement, error))) from None
    except errors.ForeignKeyViolation as error:
        raise _Orphans(str(_failed(statement, error))) from None
    except psycopg.Error as error:
        raise _failed(statement, error) from None


def _failed(statement: Statement, error: psycopg.Error) -> Failed:
    said = " ".join(filter(None, [error.diag.message_primary or str(error), error.diag.context]))
    # No session of a dump has the path of applications, so what a function calls is not found.
    if error.diag.context and isinstance(error, errors.UndefinedFunction | errors.UndefinedTable):
        said += "; ALTER FUNCTION ... SET search_path in the original, or restore with --time"
    return Failed(f"{statement.header} of {statement.header.owner}: {said}")
