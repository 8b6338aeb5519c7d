"""What is measured in PostgreSQL: each a number, and what is said of it."""

from __future__ import annotations

from typing import NamedTuple

from backup.config import Limits


class Measure(NamedTuple):
    """A row of the health check.

    Attributes:
        limits: what the settings call them, or the limits themselves.
        unit: of the number and of its limits.
        sql: it gives one row of the number and the words, or none: then there is nothing of it.
    """

    name: str
    limits: str | Limits
    unit: str
    sql: bytes


_ONE_IS_A_WARNING, _ONE_IS_CRITICAL = Limits(1, 0), Limits(0, 1)

OF_THE_SERVER = (
    Measure(
        "postgres connections",
        "connections",
        "%",
        b"""
        SELECT 100.0 * used / room, format('%s of %s', used, room) FROM (
          SELECT count(*) AS used, current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0) AS room
          FROM pg_stat_activity WHERE backend_type = 'client backend') AS found
        """,
    ),
    Measure(
        "postgres transaction ids",
        "transaction_ids",
        "million",
        b"""
        SELECT age / 1e6, format('%s million in %s', round(age / 1e6, 1), datname) FROM (
          SELECT datname, greatest(age(datfrozenxid), mxid_age(datminmxid)) AS age
          FROM pg_database) AS found ORDER BY age DESC LIMIT 1
        """,
    ),
    Measure(
        "wal archive",
        _ONE_IS_CRITICAL,
        "",
        b"""
        SELECT failing::int, CASE
          WHEN failing THEN last_failed_wal || ' could not be archived; see the server''s log'
          ELSE coalesce('archived up to ' || last_archived_wal, 'nothing archived yet') END
        FROM pg_stat_archiver, LATERAL (
          SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
            AS failing) AS found
        """,
    ),
    Measure(
        "wal archive queue",
        "archive_queue",
        "min",
        b"""
        SELECT extract(epoch FROM clock_timestamp() - min(modification)) / 60,
          format('%s segments wait, the first since %s', count(*),
            date_trunc('second', min(modification)))
        FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready' HAVING count(*) > 0
        """,
    ),
    Measure(
        "postgres slots",
        "slots",
        "MB",
        b"""
        SELECT CASE WHEN broken THEN 'infinity' ELSE kept / 1048576 END::float8,
          CASE WHEN broken THEN format('%s is %s', slot_name, wal_status)
            ELSE format('%s keeps %s', slot_name, pg_size_pretty(kept)) END
        FROM pg_replication_slots, LATERAL (
          SELECT coalesce(wal_status IN ('lost', 'unreserved'), false) AS broken,
            coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
              ELSE pg_current_wal_lsn() END, restart_lsn), 0) AS kept) AS found
        ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "postgres idle in transaction",
        "idle_in_transaction",
        "s",
        b"""
        SELECT extract(epoch FROM clock_timestamp() - state_change) AS seconds,
          format('%s in %s, pid %s', usename, datname, pid)
        FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND usename <> current_user
        ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "postgres long transaction",
        "transaction",
        "min",
        # Dumps are ours. That it is idle now has a row of its own, and makes it no shorter.
        b"""
        SELECT extract(epoch FROM CASE WHEN state LIKE 'idle in transaction%' THEN state_change
            ELSE clock_timestamp() END - xact_start) / 60,
          format('%s in %s, pid %s', usename, datname, pid)
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> current_user
          AND xact_start IS NOT NULL ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "postgres prepared transaction",
        "transaction",
        "min",
        b"""
        SELECT extract(epoch FROM clock_timestamp() - prepared) / 60,
          format('%s in %s', gid, database)
        FROM pg_prepared_xacts ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "postgres lock wait",
        "lock_wait",
        "s",
        b"""
        SELECT extract(epoch FROM clock_timestamp() - waitstart),
          format('pid %s waits for %s', pid, array_to_string(pg_blocking_pids(pid), ', '))
        FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "postgres checksums",
        _ONE_IS_CRITICAL,
        "",
        b"""
        SELECT sum(checksum_failures), format('%s failures in %s', sum(checksum_failures),
          string_agg(coalesce(datname, 'what all databases share'), ', '))
        FROM pg_stat_database WHERE checksum_failures > 0 HAVING count(*) > 0
        """,
    ),
    Measure(
        "postgres collations",
        _ONE_IS_A_WARNING,
        "",
        b"""
        SELECT count(*), 'of another version than the indexes of ' || string_agg(datname, ', ')
        FROM pg_database WHERE datallowconn
          AND datcollversion IS NOT NULL
          AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
        HAVING count(*) > 0
        """,
    ),
    Measure(
        "postgres settings",
        _ONE_IS_A_WARNING,
        "",
        b"""
        SELECT count(*), string_agg(name, ', ') || ' wait for a restart'
        FROM pg_settings WHERE pending_restart HAVING count(*) > 0
        """,
    ),
)

OF_A_DATABASE = (
    Measure(
        "sequences",
        "sequences",
        "%",
        b"""
        SELECT used, format('%I.%I has used %s %%', schemaname, sequencename, round(used, 1))
        FROM pg_sequences, LATERAL (SELECT 100.0 * last_value / max_value AS used) AS found
        WHERE increment_by > 0 AND NOT cycle AND last_value > 0 ORDER BY 1 DESC LIMIT 1
        """,
    ),
    Measure(
        "indexes",
        _ONE_IS_A_WARNING,
        "",
        # One that is being made is not valid yet, nor that of a table whose partitions lack theirs.
        b"""
        SELECT count(*), 'not valid: ' || string_agg(indexrelid::regclass::text, ', ')
        FROM pg_index JOIN pg_class ON oid = indexrelid AND relkind = 'i'
        WHERE NOT indisvalid AND indexrelid NOT IN (
          SELECT index_relid FROM pg_stat_progress_create_index WHERE index_relid IS NOT NULL)
        HAVING count(*) > 0
        """,
    ),
)
