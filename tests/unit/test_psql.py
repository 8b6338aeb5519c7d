"""The one way into PostgreSQL: what a session is told from outside, and that there is no other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tasks.postgres import psql
from tests.unit import helpers

ROOT = Path(__file__).resolve().parents[2]

# A line outside of psql.sh that starts psql, and why it may.
ALLOWED = {
    "tasks/pgbouncer/pause.py": (
        "psql -XAtqw ", "PgBouncer's console"
    ),
    "tasks/pgbouncer/health.py": ("timeout 30 psql -XAtqw -h {SOCKETS} -p {port}",
                                  "the application's role"),
}  # fmt: skip
# What people are told to type.
ADVICE = re.compile(
    r"sudo -u postgres psql|connect = f\"psql|script, f\"psql -h|postgres psql -U"
    r"|pgbouncer psql -h localhost"
)


def _sources() -> list[Path]:
    folders = (ROOT / "tasks", ROOT / "templates")
    paths = [path for folder in folders for path in folder.rglob("*")]
    return [path for path in paths if path.suffix in (".py", ".j2", ".sh")]


def _starts(path: Path) -> list[str]:
    """Lines that start a client of PostgreSQL which runs SQL."""
    command = re.compile(
        r"(?<![\w./:])(psql|pg_dump|pg_dumpall|vacuumdb|createdb|reindexdb|pg_amcheck) +[-\"$]"
    )
    lines = path.read_text().splitlines()
    return [line.strip() for line in lines if command.search(line) and not ADVICE.search(line)]


def test_nothing_goes_around_the_one_way_in() -> None:
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        if name == "tasks/postgres/shell/psql.sh":
            continue
        text, _ = ALLOWED.get(name, ("", ""))
        found = [line for line in _starts(path) if not (text and text in line)]
        # Another client may run inside of it.
        assert [line for line in found if not line.startswith("closed ")] == [], name


def test_what_is_allowed_is_there() -> None:
    for name, (text, why) in ALLOWED.items():
        assert text in (ROOT / name).read_text(), why


FORCED = (
    "search_path=pg_catalog,pg_temp",
    "role=none",
    "local_preload_libraries=",
    "session_replication_role=replica",
    "default_transaction_read_only=off",
    "statement_timeout=0s",
    "idle_session_timeout=0",
    "row_security=off",
    "quote_all_identifiers=off",
    "log_min_error_statement=panic",
    "track_activities=off",
)


@pytest.mark.parametrize(("version", "newer"), [("15", False), ("17", True), ("1\nroot:x", True)])
def test_a_session_begins_closed(tmp_path: Path, version: str, newer: bool) -> None:
    """Seen by what stands in for runuser: the options, and nothing of the caller's environment."""
    (tmp_path / "PG_VERSION").write_text(f"{version}\n")
    (tmp_path / "psql").write_text('#!/bin/sh\nenv; echo "database $PGDATABASE"; cat\n')
    (tmp_path / "psql").chmod(0o755)
    script = f"""{psql.SHELL}
runuser() {{ shift 3; "$@"; }}
PGHOST=evil; PGSERVICE=evil; export PGHOST PGSERVICE
echo 'SELECT 1' | closed_psql {tmp_path} 5433 'dbname=x host=evil'
"""
    script = script.replace("path=/usr/lib/", f"path={tmp_path}:/usr/lib/")
    done = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    (options,) = (line for line in lines if line.startswith("PGOPTIONS="))
    words = options.removeprefix("PGOPTIONS=").split()
    assert {*FORCED} <= {*words}
    assert ("event_triggers=off" in words) == ("transaction_timeout=0" in words) == newer
    assert {"PGPORT=5433", "LC_ALL=C", "PGCLIENTENCODING=UTF8"} <= {*lines}
    assert f"PATH={tmp_path}:/usr/lib/postgresql/{version.split()[0]}/bin:" in done.stdout
    assert "evil" not in done.stdout.replace("dbname=x host=evil", "")
    assert "database dbname=x host=evil" in lines
    assert lines[-2:] == [":closed", "SELECT 1"]


def test_a_session_that_says_what_the_server_uses_is_as_closed(tmp_path: Path) -> None:
    """It is told nothing else, and no variable of the caller's makes others like it."""
    (tmp_path / "psql").write_text("#!/bin/sh\nenv; cat\n")
    (tmp_path / "psql").chmod(0o755)
    script = f"""{psql.SHELL}
runuser() {{ shift 3; "$@"; }}
echo 'SELECT 1' | (plain=1; closed_psql {tmp_path} 5433 x)
echo 'SELECT 2' | closed_psql {tmp_path} 5433 x
"""
    script = script.replace("bin:/usr/local/bin:", f"bin:{tmp_path}:")
    done = subprocess.run(
        ["sh", "-eu"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        env={"plain": "1", "PATH": "/usr/bin:/bin"},
    )
    plain, usual = (
        line.removeprefix("PGOPTIONS=").split("-c ")
        for line in done.stdout.splitlines()
        if line.startswith("PGOPTIONS=")
    )
    told = {word.partition("=")[0].strip() for word in plain if word.strip()}
    assert told <= {*(word.partition("=")[0].strip() for word in usual)}
    assert {"search_path", "role", "local_preload_libraries", "session_replication_role"} <= told
    assert not told & {"statement_timeout", "lock_timeout", "log_min_duration_statement"}
    assert "SET statement_timeout = 0;" in done.stdout


@pytest.mark.parametrize("name", ["shop", "dbname=x host=evil", "it's", 'a"b', "back\\slash"])
def test_another_database_is_entered_by_its_name(name: str) -> None:
    first, second = psql.connect(name).split("\n")
    inner = first.removeprefix('\\connect "').removesuffix('"').replace('""', '"')
    value = inner.removeprefix("dbname='").removesuffix("'")
    assert re.sub(r"\\(.)", r"\1", value) == name
    assert second == ":closed"


def test_it_is_shell() -> None:
    assert helpers.syntax_error(psql.SHELL) == ""
