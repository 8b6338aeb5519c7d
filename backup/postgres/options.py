"""What sessions of ours begin with, of psycopg, PostgreSQL's programs and pgBackRest."""

from __future__ import annotations

from backup.config import SUPERUSERS_OPTIONS, Postgres

# A session that waits for a lock holds up all who come after it, so ours gives up.
_LOCK_TIMEOUT = "1min"

# Given at the start, where they win over what is set for the database or the role.
_OPTIONS = {
    "search_path": "pg_catalog,pg_temp",
    "local_preload_libraries": "",
    "statement_timeout": "0",
    "lock_timeout": _LOCK_TIMEOUT,
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    "client_min_messages": "notice",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "exit_on_error": "off",
}
# From 17.
_TRANSACTION_TIMEOUT = 17
_EVENT_TRIGGERS = 17


def for_pgbackrest(postgres: Postgres | None) -> dict[str, str]:
    """Its session says nothing of limits by itself, and is idle while files are copied."""
    return {"PGOPTIONS": start_options(postgres, superuser=True)} if postgres else {}


def start_options(postgres: Postgres, *, superuser: bool, role: str = "none") -> str:
    """The start options of a session, as PGOPTIONS and a connection string take them."""
    chosen = {**_OPTIONS, "role": role}
    if postgres.version >= _TRANSACTION_TIMEOUT:
        chosen["transaction_timeout"] = "0"
    if superuser:
        chosen |= SUPERUSERS_OPTIONS
        # No trigger and no event trigger of others runs with a superuser's rights.
        chosen["session_replication_role"] = "replica"
        if postgres.version >= _EVENT_TRIGGERS:
            chosen["event_triggers"] = "off"
    return " ".join(f"-c {key}={_escaped(value)}" for key, value in chosen.items())


def _escaped(value: str) -> str:
    return "".join(f"\\{each}" if each in " \\\t\n\r\f\v" else each for each in value)
