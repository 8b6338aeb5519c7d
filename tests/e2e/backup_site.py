"""An estate with backups, used as its operator would: through the deployed scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.e2e import proof
from tests.e2e.project import Project
from tests.e2e.proof import Done
from tests.lab import Host

# What an application, or an administrator for it, may set. No session of ours has to do with it.
OF_AN_APPLICATION = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_session_timeout"), "1ms"),
    "idle_in_transaction_session_timeout": "1ms",
    "search_path": "",
    "role": "psscript",
    "session_replication_role": "replica",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "timezone_abbreviations": "India",
    **dict.fromkeys(("lc_messages", "lc_monetary", "lc_numeric", "lc_time"), "C.UTF-8"),
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "xmloption": "document",
    "xmlbinary": "hex",
    "synchronous_commit": "off",
    "temp_tablespaces": "",
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "default_toast_compression": "lz4",
    "check_function_bodies": "off",
    "work_mem": "64kB",
    "maintenance_work_mem": "1MB",
    "temp_file_limit": "1kB",
    "exit_on_error": "on",
    "client_min_messages": "error",
    "log_statement": "all",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "app.tenant": "a, b",
}
DATABASES = {
    "psscript": {"owner": "psscript", "settings": {"work_mem": "7MB"}},
    "shop": {"owner": "psscript", "settings": OF_AN_APPLICATION},
}
# What the stories ask is not about that either.
_AS_USUAL = " ".join(
    f"-c {key}={value}"
    for key, value in {
        **dict.fromkeys((key for key in OF_AN_APPLICATION if key.endswith("timeout")), "0"),
        "search_path": "public",
        "role": "none",
        "session_replication_role": "origin",
        **dict.fromkeys(("default_transaction_read_only", "exit_on_error"), "off"),
        "default_transaction_deferrable": "off",
        "standard_conforming_strings": "on",
        "DateStyle": "ISO",
        "extra_float_digits": "1",
        "temp_file_limit": "-1",
    }.items()
)


@dataclass(frozen=True)
class Site:
    """PostgreSQL behind a pooler on one host, and backups there or on a host of their own."""

    project: Project
    db: Host
    keeper: Host

    def script(self, command: str, *, timeout: float = 300) -> Done:
        """What a script of /scripts did, whatever its exit code."""
        return self.keeper.run(f"/scripts/{command}", check=False, timeout=timeout)

    def done(self, command: str) -> str:
        """What a script said that must have succeeded."""
        done = self.script(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, command: str, code: int = 1) -> str:
        """What a script said that must have failed."""
        done = self.script(command)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stderr

    def sql(self, query: str, database: str = "psscript") -> str:
        """What PostgreSQL answers its superuser."""
        return proof.admin(self.db, query, database, options=_AS_USUAL)

    def pooled(self, query: str, database: str = "psscript") -> str:
        """What the application gets through the pooler."""
        password = self.project.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        return proof.said(proof.psql(self.db, query, password=password, database=database))

    def rows(self, database: str = "psscript") -> str:
        """Every row of every table of `public`, summed up."""
        count = self.sql(
            "SELECT string_agg(format('SELECT %L || md5(string_agg(t::text, chr(10)"
            " ORDER BY t::text)) FROM public.%I t', tablename || '=', tablename),"
            " ' UNION ALL ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'",
            database,
        )
        return self.sql(count, database) if count else ""

    def databases(self) -> set[str]:
        """The names of all databases."""
        return set(self.sql("SELECT datname FROM pg_database").split())

    def manifests(self, kind: str) -> list[dict[str, Any]]:
        """The manifests of a kind, oldest first."""
        read = "cat /backups/postgres/*.manifest.json /backups/redis/*.manifest.json"
        text = self.keeper.run(f"{read} 2>/dev/null", check=False).stdout
        found = [json.loads(each) for each in re.findall(r"(?ms)^\{$.*?^\}$", text)]
        return sorted((m for m in found if m["kind"] == kind), key=lambda m: str(m["stamp"]))

    def moment(self) -> str:
        """Now by the server's clock, as --time takes it."""
        seconds = self.sql("SELECT extract(epoch FROM clock_timestamp())")
        return datetime.fromtimestamp(float(seconds), UTC).isoformat()

    def visible(self) -> set[str]:
        """The names of all that looks like a backup."""
        return set(self.keeper.run("ls /backups/postgres /backups/redis").stdout.split())

    def log(self) -> str:
        """What backup.log says."""
        return self.keeper.run("cat /backups/logs/backup.log", check=False).stdout


def site(
    project: Project, db: Host, keeper: Host, settings: Mapping[str, Any] | None = None
) -> Site:
    """Deploys PostgreSQL and PgBouncer to one host, and backups to the same or to another."""
    database = {**db.ssh_data(), "address": db.address}
    project.inventory(
        {
            "postgres": [(db.name, database)],
            "pgbouncer": [(db.name, {})],
            "backup": [(keeper.name, {**keeper.ssh_data(), "address": keeper.address})],
        }
    )
    project.settings({**(settings or {}), "postgres_databases": DATABASES})
    project.deploy()
    return Site(project, db, keeper)
