"""What PostgreSQL uses in the place of our file's values, and who sets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tasks.postgres import parameters
from tasks.postgres.sql import Server
from tests.unit import helpers

OURS = "/etc/postgresql/15/main/conf.d/datatier.conf"
MAIN = "/etc/postgresql/15/main/postgresql.conf"
LATER = "/etc/postgresql/15/main/conf.d/zz.conf"
AUTO = "/var/lib/postgresql/15/main/postgresql.auto.conf"

# As pg_settings has them.
KINDS: dict[str, tuple[str, str | None, str]] = {
    "work_mem": ("integer", "kB", "user"),
    "shared_buffers": ("integer", "8kB", "postmaster"),
    "max_connections": ("integer", None, "postmaster"),
    "statement_timeout": ("integer", "ms", "user"),
    "random_page_cost": ("real", None, "user"),
    "jit": ("bool", None, "user"),
    **dict.fromkeys(("fsync", "autovacuum"), ("bool", None, "sighup")),
    "wal_level": ("enum", None, "postmaster"),
    "datestyle": ("string", None, "user"),
    "log_file_mode": ("integer", None, "sighup"),
    "hba_file": ("string", None, "postmaster"),
}


def server(lines: Sequence[tuple[str, str, str]], **used: str | tuple[str, str]) -> Server:
    """A server whose files have these lines, and what it uses: the value and its source."""
    says = {
        name: (value, "configuration file") if isinstance(value, str) else value
        for name, value in used.items()
    }
    facts: dict[str, Any] = {
        "lines": [(n, value, file, at) for at, (n, value, file) in enumerate(lines, 1)],
        "used": {n: [value, *KINDS[n][:2], source] for n, (value, source) in says.items()},
        "contexts": {name: context for name, (_, _, context) in KINDS.items()},
        "config": MAIN,
    }
    return Server("up", 5432, facts)


def found(there: Server, text: str, **options: Any) -> list[tuple[str, str, str, bool]]:
    """Who wins, as (name, value, how, whether a restart is due)."""
    others = parameters.others(there, text, OURS, **options)
    return [(each.name, each.value, each.how, each.restarts) for each in others]


WANTS = "work_mem = '4MB'\n"
MINE = ("work_mem", "4MB", OURS)


def test_what_keeps_data_whole_is_as_postgresql_has_it() -> None:
    """Unless the settings say else; who says the same is no other."""
    lines = [MINE, ("fsync", "off", MAIN), ("fsync", "no", AUTO), ("autovacuum", "true", AUTO)]
    there = server(lines, work_mem="4096", fsync="off", autovacuum="on")
    expected = [("fsync", "off", "line", False), ("fsync", "no", "reset", False)]
    assert found(there, WANTS) == expected
    assert found(there, f"{WANTS}fsync = 'off'\n") == []
    there = server([MINE], work_mem="4096", fsync=("off", "command line"))
    assert found(there, WANTS) == [("fsync", "off", "option", True)]


def test_what_only_alter_system_says_is_told() -> None:
    lines = [MINE, ("work_mem", "1MB", AUTO), ("fsync", "off", AUTO), ("jit", "off", AUTO)]
    assert parameters.unsaid(server(lines), WANTS) == [("jit", f"{AUTO}:4")]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (None, True),
        ("# auto: by itself\n# manual\n\nauto\n", True),
        ("# auto: by itself\n\n manual # now\n", False),
        ("disabled", False),
    ],
)
def test_whether_a_boot_starts_the_cluster(text: str | None, starts: bool) -> None:
    there = Server("up", 5432, {"start": text})
    assert parameters.starts_at_boot(there) is starts


def test_a_server_that_says_nothing_differs_in_nothing() -> None:
    assert parameters.others(Server("down"), WANTS, OURS) == []


@pytest.mark.parametrize(
    ("lines", "used", "expected"),
    [
        ([MINE], "4096", []),
        ([("work_mem", "64MB", MAIN), MINE], "4096", []),
        ([MINE, ("work_mem", "1MB", AUTO)], "1024", [("work_mem", "1MB", "reset", False)]),
        ([MINE, ("work_mem", "1MB", LATER)], "1024", [("work_mem", "1MB", "line", False)]),
        # Who says the same, or is not the last word, changes nothing.
        ([MINE, ("work_mem", "4096kB", AUTO)], "4096", []),
        ([MINE, ("work_mem", "1MB", LATER), ("work_mem", "4096", AUTO)], "4096", []),
        (
            [MINE, ("work_mem", "1MB", LATER), ("work_mem", "2MB", AUTO)],
            "2048",
            [("work_mem", "1MB", "line", False), ("work_mem", "2MB", "reset", False)],
        ),
        # Loaded once, and gone from the disk.
        ([MINE], "1024", [("work_mem", "1024kB", "reload", False)]),
        # Not loaded yet.
        ([MINE, ("work_mem", "1MB", AUTO)], "4096", [("work_mem", "1MB", "reset", False)]),
        # The run is about to write ours.
        ([("work_mem", "8MB", OURS)], "8192", []),
    ],
)
def test_who_wins_over_our_file(lines: Any, used: str, expected: Any) -> None:
    assert found(server(lines, work_mem=used), WANTS) == expected


def test_the_command_line_takes_a_restart() -> None:
    there = server([MINE], work_mem=("1024", "command line"))
    assert found(there, WANTS) == [("work_mem", "1024", "option", True)]
    (other,) = parameters.others(there, WANTS, OURS)
    assert other.file == "/etc/postgresql/15/main/pg_ctl.conf"


@pytest.mark.parametrize(("used", "restarts"), [("50", True), ("100", False)])
def test_what_only_a_restart_changes(used: str, restarts: bool) -> None:
    """Only where the server has started with the other value."""
    there = server(
        [("max_connections", "100", OURS), ("max_connections", "50", AUTO)], max_connections=used
    )
    expected = [("max_connections", "50", "reset", restarts)]
    assert found(there, "max_connections = '100'") == expected


def test_a_cluster_that_is_to_be_adopted() -> None:
    """Its files come before ours, which is to be written; ALTER SYSTEM does not."""
    there = server([("work_mem", "1MB", MAIN), ("work_mem", "2MB", AUTO)], work_mem="2048")
    assert found(there, WANTS, is_there=False) == [("work_mem", "2MB", "reset", False)]


def test_a_file_that_the_server_does_not_read() -> None:
    there = server([("work_mem", "1MB", MAIN)], work_mem="1024")
    assert found(there, WANTS) == [("include_dir", "", "include", False)]


def test_another_file_of_access() -> None:
    ours = "/etc/postgresql/15/main/pg_hba.conf"
    lines = [("hba_file", ours, MAIN), MINE, ("hba_file", "/tmp/x", MAIN)]
    there = server(lines, work_mem="4096", hba_file="/tmp/x")
    assert found(there, WANTS, access=ours) == [("hba_file", "/tmp/x", "line", True)]


@pytest.mark.parametrize(
    ("name", "wanted", "used"),
    [
        ("shared_buffers", "128MB", "16384"),
        ("shared_buffers", "100kB", "12"),
        ("statement_timeout", "300s", "300000"),
        ("statement_timeout", "5min", "300000"),
        ("statement_timeout", "1.5s", "1500"),
        ("statement_timeout", "0", "0"),
        ("random_page_cost", "1.10", "1.1"),
        ("jit", "off", "off"),
        ("jit", "FALSE", "off"),
        ("jit", "1", "on"),
        ("log_file_mode", "0640", "0640"),
        ("max_connections", "0x64", "100"),
        # The server has a word of its own.
        ("wal_level", "hot_standby", "replica"),
        ("datestyle", "iso, ymd", "ISO, YMD"),
    ],
)
def test_another_word_for_the_same(name: str, wanted: str, used: str) -> None:
    there = server([(name, wanted, OURS)], **{name: used})
    assert found(there, f"{name} = '{wanted}'") == []


def test_what_is_said_of_it() -> None:
    text = "work_mem = '4MB'\nssl_passphrase_command = 'echo old'\n"
    lines = [
        *(MINE, ("ssl_passphrase_command", "echo old", OURS), ("work_mem", "1MB", LATER)),
        ("ssl_passphrase_command", "echo hunter2", AUTO),
    ]
    said = parameters.sentences(parameters.others(server(lines, work_mem="1024"), text, OURS))
    place = "/etc/postgresql/15/main/conf.d/zz.conf:3"
    line = f"PostgreSQL: work_mem: 1MB by {place}, not 4MB: that line becomes a comment"
    assert said[1] == line
    assert (
        "hunter2" not in said[0] and "<secret" in said[0] and f"ALTER SYSTEM ({AUTO}:4)" in said[0]
    )


def test_what_puts_it_back_is_shell() -> None:
    assert helpers.syntax_error(parameters.SHELL) == ""
