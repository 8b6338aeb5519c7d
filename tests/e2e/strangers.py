"""Requests of hosts and logins that have no right to them, and how each is refused."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import redis

# No server of the estate is known by it.
ANOTHER_NAME = "another.example"
CONSOLE = "pgbouncer"
_PORTS = {"PostgreSQL": 5432, "PgBouncer": 6432, "Redis": 6379, "Sentinel": 26379, "Replica": 6379}
# What asks PostgreSQL, and so PgBouncer, to go on with TLS.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@dataclass(frozen=True)
class Servers:
    """Where an estate over TLS is, what verifies it, and every secret of it."""

    postgres: str
    pooler: str
    cache: str
    replica: str
    authority: str
    secrets: Mapping[str, str] = field(repr=False)

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        """Its ports."""
        addresses = (self.postgres, self.pooler, self.cache, self.cache, self.replica)
        pairs = zip(_PORTS.items(), addresses, strict=True)
        return {name: (address, port) for (name, port), address in pairs}


@dataclass(frozen=True)
class Request:
    """One of the requests: `send` returns what was answered, an error as well."""

    name: str
    refused: str
    send: Callable[[Servers], str]

    def accepted(self, servers: Servers) -> str | None:
        """What it was answered if that is no refusal."""
        said = self.send(servers)
        return None if re.search(self.refused, said) else said


_SECRETS = {
    "postgres": "POSTGRES_PASSWORD",
    "psscript": "POSTGRES_ROLE_PSSCRIPT_PASSWORD",
    "pgbouncer": "PGBOUNCER_AUTH_PASSWORD",
    "datatier_backup": "BACKUP_ROLE_PASSWORD",
    "cache": "REDIS_USER_CACHE_PASSWORD",
    "default": "REDIS_PASSWORD",
}


def sql(
    servers: Servers,
    statement: str,
    *,
    at: str = "PgBouncer",
    role: str = "psscript",
    database: str = "psscript",
    password: str | None = None,
    sslmode: str = "verify-full",
) -> str:
    """What a role is answered; with its own password unless one is given."""
    address, port = servers.places[at]
    secret = servers.secrets[_SECRETS[role]] if password is None else password
    verified: dict[str, Any] = (
        {"sslrootcert": servers.authority} if sslmode == "verify-full" else {}
    )
    try:
        with psycopg.connect(
            host=address,
            port=port,
            user=role,
            dbname=database,
            password=secret,
            sslmode=sslmode,
            connect_timeout=10,
            autocommit=True,
            prepare_threshold=None,
            **verified,
        ) as connection:
            return f"accepted: {connection.execute(statement.encode()).statusmessage}"
    except psycopg.Error as error:
        return str(error)


def command(
    servers: Servers, *words: str, at: str = "Redis", user: str = "cache", password: str = ""
) -> str:
    """What a user is answered; with its own password unless one is given, "none" for none."""
    address, port = servers.places[at]
    secret = password or servers.secrets[_SECRETS[user]]
    login: dict[str, Any] = {} if password == "none" else {"username": user, "password": secret}
    try:
        with redis.Redis(
            host=address,
            port=port,
            ssl=True,
            ssl_ca_certs=servers.authority,
            ssl_check_hostname=True,
            socket_timeout=10,
            protocol=2,
            lib_name=None,
            lib_version=None,
            **login,
        ) as client:
            return f"accepted: {client.execute_command(*words)!r}"
    except redis.RedisError as error:
        return str(error)


def in_clear(servers: Servers, sent: bytes, *, at: str) -> str:
    """What who speaks no TLS is answered."""
    try:
        with socket.create_connection(servers.places[at], timeout=10) as plain:
            plain.sendall(sent)
            return f"answered: {plain.recv(100)!r}"
    except ConnectionError as error:
        return str(error)


def handshake(
    servers: Servers,
    *,
    at: str,
    name: str = "",
    is_foreign: bool = False,
    version: ssl.TLSVersion | None = None,
) -> str:
    """What comes of a TLS handshake: under another name, by another authority, of a version."""
    context = ssl.create_default_context(cafile=None if is_foreign else servers.authority)
    if version is not None:
        context.minimum_version = context.maximum_version = version
        # OpenSSL leaves such old versions to those who ask for them in this way.
        context.set_ciphers("ALL:@SECLEVEL=0")
    address, port = servers.places[at]
    try:
        with socket.create_connection((address, port), timeout=10) as plain:
            if port in (5432, 6432):
                plain.sendall(_SSL_REQUEST)
                assert plain.recv(1) == b"S"
            with context.wrap_socket(plain, server_hostname=name or address) as encrypted:
                return f"accepted: {encrypted.version()}"
    except OSError as error:
        return str(error)


def allowed() -> Iterator[Request]:
    """What the same clients may do: who is refused for another reason shows here."""
    for statement in ("SELECT 1", "CREATE TABLE mine (); DROP TABLE mine"):
        yield Request(statement, "accepted", partial(sql, statement=statement))
    for words in ("SET cache:a b", "GET cache:a", "PING"):
        yield Request(words, "accepted", _command(words))
    yield Request("Replica: GET", "accepted", _command("GET cache:a", at="Replica"))
    known = partial(command, at="Sentinel", user="default")
    yield Request("Sentinel: PING", "accepted", lambda servers: known(servers, "PING"))
    for at in _PORTS:
        yield Request(f"{at}: TLS", "accepted: TLSv1.[23]", partial(handshake, at=at))


def requests() -> Iterator[Request]:
    """What none of them may."""
    yield from _wire()
    yield from _logins()
    yield from _statements()
    yield from _commands()


def _wire() -> Iterator[Request]:
    old = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}
    for at in _PORTS:
        for title, version in old.items():
            alert = r"alert protocol version"
            yield Request(f"{at}: {title}", alert, partial(handshake, at=at, version=version))
        another = partial(handshake, at=at, name=ANOTHER_NAME)
        yield Request(f"{at}: another name", "Hostname mismatch", another)
        foreign = partial(handshake, at=at, is_foreign=True)
        yield Request(f"{at}: another authority", "certificate verify failed", foreign)
    for at in ("Redis", "Sentinel", "Replica"):
        for sent in (b"PING\r\n", b"*1\r\n$4\r\nPING\r\n", b"INFO\r\n", b"AUTH x\r\n"):
            send = partial(in_clear, sent=sent, at=at)
            yield Request(f"{at} in clear: {sent!r}", r"reset by peer|answered: b''$", send)


_NO_LINE = "no pg_hba.conf entry"
_NO_TLS = "SSL required"
_NO_LOGIN = "no such user|SASL authentication failed|login rejected|not allowed|no such database"


def _logins() -> Iterator[Request]:
    roles = ("psscript", "postgres", "pgbouncer", "datatier_backup")
    for role in roles:
        for mode in ("verify-full", "disable"):
            send = partial(sql, statement="SELECT 1", at="PostgreSQL", role=role, sslmode=mode)
            yield Request(f"PostgreSQL: {role}, {mode}", _NO_LINE, send)
        plain = partial(sql, statement="SELECT 1", role=role, sslmode="disable")
        yield Request(f"PgBouncer in clear: {role}", _NO_TLS, plain)
        console = partial(sql, statement="SHOW POOLS", role=role, database=CONSOLE)
        yield Request(f"PgBouncer's console: {role}", _NO_LOGIN, console)
        for database in ("psscript", "postgres", "template1"):
            if (role, database) != ("psscript", "psscript"):
                there = partial(sql, statement="SELECT 1", role=role, database=database)
                denied = f"{_NO_LOGIN}|permission denied for database"
                yield Request(f"PgBouncer: {role} in {database}", denied, there)
        for title, word in (("wrong", "wrong"), ("no", "")):
            wrong = partial(sql, statement="SELECT 1", role=role, password=word)
            refused = f"{_NO_LOGIN}|no password supplied|authentication failed"
            yield Request(f"PgBouncer: {role}, {title} password", refused, wrong)


_DENIED = (
    "permission denied|must be (superuser|owner|a superuser)|must have|[Oo]nly (roles|superuser)"
    "|is not allowed"
)
_STATEMENTS = """
COPY (SELECT 1) TO PROGRAM 'id'
COPY (SELECT 1) TO '/tmp/copied'
COPY pg_catalog.pg_class FROM PROGRAM 'id'
COPY pg_catalog.pg_class FROM '/etc/passwd'
SELECT pg_catalog.pg_read_file('/etc/passwd')
SELECT pg_catalog.pg_read_binary_file('/etc/passwd')
SELECT pg_catalog.pg_ls_dir('/')
SELECT pg_catalog.pg_ls_logdir()
SELECT pg_catalog.pg_stat_file('/etc/passwd')
SELECT pg_catalog.lo_import('/etc/passwd')
SELECT pg_catalog.lo_export(1, '/tmp/exported')
SELECT * FROM pg_catalog.pg_authid
SELECT * FROM pg_catalog.pg_shadow
SELECT * FROM pg_catalog.pg_hba_file_rules
SELECT * FROM pg_catalog.pg_file_settings
SELECT * FROM pg_catalog.pg_user_mapping
CREATE ROLE another
CREATE ROLE another SUPERUSER LOGIN
ALTER ROLE psscript SUPERUSER
ALTER ROLE psscript CREATEROLE
ALTER ROLE psscript REPLICATION
ALTER ROLE postgres PASSWORD 'mine'
ALTER ROLE pgbouncer PASSWORD 'mine'
DROP ROLE datatier_backup
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
GRANT pg_execute_server_program TO psscript
GRANT pg_read_server_files TO psscript
GRANT datatier_backup TO psscript
REASSIGN OWNED BY postgres TO psscript
CREATE DATABASE another
DROP DATABASE template1
ALTER DATABASE postgres OWNER TO psscript
ALTER SYSTEM SET archive_command = 'id'
SET session_replication_role = replica
SET log_statement = 'none'
CREATE EXTENSION file_fdw
CREATE EXTENSION dblink
LOAD 'dblink'
CREATE FUNCTION another() RETURNS int LANGUAGE c AS 'libc.so.6', 'getpid'
CREATE FUNCTION another() RETURNS int LANGUAGE internal AS 'pg_backend_pid'
CREATE TABLESPACE another LOCATION '/tmp'
CREATE SUBSCRIPTION another CONNECTION 'host=x' PUBLICATION y WITH (connect = false)
CREATE PUBLICATION another FOR ALL TABLES
SELECT pg_catalog.pg_reload_conf()
SELECT pg_catalog.pg_rotate_logfile()
SELECT pg_catalog.pg_switch_wal()
SELECT pg_catalog.pg_create_restore_point('another')
SELECT pg_catalog.pg_promote()
SELECT pg_catalog.pg_create_physical_replication_slot('another')
SELECT pg_catalog.pg_stat_reset()
CHECKPOINT
"""


def _statements() -> Iterator[Request]:
    for statement in _STATEMENTS.strip().splitlines():
        yield Request(statement, _DENIED, partial(sql, statement=statement))


_HARM = """
ACL LIST; ACL SETUSER default on nopass; ACL GETUSER default; BGSAVE; CLIENT KILL TYPE normal
CLIENT LIST; CLUSTER RESET; CONFIG GET requirepass; CONFIG SET dir /tmp; CONFIG REWRITE
DEBUG SLEEP 0; EVAL return(1) 0; FAILOVER ABORT; FLUSHALL; FLUSHDB; FUNCTION FLUSH; FUNCTION LOAD x
KEYS *; MEMORY PURGE; MIGRATE h 1 k 0 1; MODULE LOAD /x; MONITOR; PSYNC ? -1
REPLICAOF NO ONE; RESTORE cache:k 0 x; SAVE; SCRIPT FLUSH; SHUTDOWN NOSAVE; SLAVEOF NO ONE
SLOWLOG GET; SORT cache:k; SWAPDB 0 1; SYNC; GET other:key; SET other:key x; DEL kept
"""
_ORDERS = "PING; INFO; SENTINEL FAILOVER mymaster; SENTINEL SET mymaster quorum 1; SHUTDOWN"
_NO_SUCH_LOGIN = "WRONGPASS|invalid username-password"
_NO_RIGHT = "no permissions|command not allowed|NOAUTH|Authentication required"


def _commands() -> Iterator[Request]:
    for at in ("Redis", "Replica"):
        for words in _lines(_HARM):
            yield Request(f"{at}: cache, {words}", _NO_RIGHT, _command(words, at=at))
        for user in ("cache", "default"):
            send = _command("PING", at=at, user=user, password="wrong")
            yield Request(f"{at}: {user}, wrong password", _NO_SUCH_LOGIN, send)
    for words in ("SET cache:a c", "DEL cache:a", "EXPIRE cache:a 0"):
        yield Request(
            f"Replica: cache, {words}", "read only replica", _command(words, at="Replica")
        )
    for words in ("GET cache:a", "CONFIG GET *", "HELLO 3", "INFO"):
        send = _command(words, password="none")
        yield Request(f"Redis without a password: {words}", f"{_NO_RIGHT}|HELLO must", send)
    for user in ("cache", "default"):
        send = _command("PING", at="Sentinel", user=user, password="wrong")
        yield Request(f"Sentinel: {user}, wrong password", _NO_SUCH_LOGIN, send)
    for words in _lines(_ORDERS):
        send = _command(words, at="Sentinel", password="none")
        yield Request(f"Sentinel without a password: {words}", _NO_RIGHT, send)
        send = _command(words, at="Sentinel")
        yield Request(f"Sentinel: cache, {words}", _NO_SUCH_LOGIN, send)


def _lines(text: str) -> list[str]:
    return [words.strip() for line in text.strip().splitlines() for words in line.split(";")]


def _command(
    text: str, *, at: str = "Redis", user: str = "cache", password: str = ""
) -> Callable[[Servers], str]:
    return lambda servers: command(servers, *text.split(), at=at, user=user, password=password)
