"""The health table: who is asked again until all are well."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tasks import health
from tasks.core import estate
from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.preflight import Holder
from tasks.core.scripts import shell
from tasks.core.settings import Problem
from tests.unit import helpers

LATE = {("one", "redis-6379")}


@pytest.mark.parametrize(("settles", "asked"), [(True, [(), LATE, LATE, LATE, ()]), (False, [()])])
def test_only_who_is_ill_is_asked_until_all_are_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settles: bool,
    asked: list[Collection[health.Place]],
) -> None:
    """Then everybody again; who does not become well by itself is not waited for."""
    hosts = {"one": {"address": "10.0.0.1"}}
    one = helpers.node(helpers.estate(hosts, {"postgres": ["one"]}, tmp_path), "one")
    said: list[Collection[health.Place]] = []

    def rows(_nodes: list[Node], only: Collection[health.Place] = ()) -> list[health.Row]:
        said.append(only)
        well = {"postgres": True, "redis-6379": len(said) > 3}
        checks = (Check(name, one, "", "", "", 0, settles=settles) for name in well)
        return [health.Row(check, well[check.service], "") for check in checks]

    monkeypatch.setattr(health, "rows", rows)
    monkeypatch.setattr(health.time, "sleep", lambda _: None)
    health._settled([one], 45)
    assert said == asked


def test_a_small_terminal_ends_with_what_fails(tmp_path: Path) -> None:
    """A line for each service where there is room; else what fails, in full, and a count."""
    everything = helpers.estate({"one": {"address": "10.0.0.1"}}, {"postgres": ["one"]}, tmp_path)
    one, why = helpers.node(everything, "one"), "a sentence that is longer than the line " * 2
    checks = [Check(f"redis-{port}", one, f"10.0.0.1:{port}", "", "", 0) for port in range(9)]
    answers = [health.Row(check, check.where != "10.0.0.1:4", why) for check in checks]
    said = StringIO()
    health._end(Console(file=said, width=80), answers, ["redis-cli", "psql"], 24)
    lines = said.getvalue().splitlines()
    assert [sum(f"redis-{port} " in line for line in lines) for port in range(9)] == [1] * 9
    assert len(lines) < 24 and lines[-1] == "  psql" and max(map(len, lines)) <= 80
    assert " ".join(said.getvalue().split()).count("…") == 8
    said = StringIO()
    health._end(Console(file=said, width=80), answers * 3, ["redis-cli", "psql"], 24)
    shown = said.getvalue()
    assert shown.count("redis-4 ") == 3 and "redis-5 " not in shown and "24 more answer" in shown
    said = StringIO()
    health._end(Console(file=said, width=80), answers[5:] * 9, [], 24)
    assert "all 36 services answer" in said.getvalue()


def test_what_cannot_be_read_keeps_nobody_from_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = helpers.estate({"one": {"address": "10.0.0.1"}}, {"postgres": ["one"]}, tmp_path)
    unread, wrong = Problem("one", "state", "it hangs"), Problem("one", "postgres_port", "no port")
    monkeypatch.setattr(estate, "everything_wrong", lambda *_, **__: [unread, wrong])
    assert health._wrong(everything) == [wrong]


def test_an_answer_is_ours_where_no_stranger_has_the_address(tmp_path: Path) -> None:
    everything = helpers.estate({"one": {"address": "10.0.0.1"}}, {"postgres": ["one"]}, tmp_path)
    check = Check("postgres", helpers.node(everything, "one"), "10.0.0.1:5432", "", "", 0)
    row = health.Row(check, True, "PostgreSQL 17")
    ours = Holder(5432, "0100007F", "7", "postgres", "0::/postgresql@15-main.service", "")
    other = Holder(5432, "0100000A", "8", "postgres", "0::/postgresql@15-app.service", "")
    assert health._of_ours(row, [ours]) == row
    there = health._of_ours(row, [ours, other])
    assert (there.healthy, there.answer) == (False, f"held by {other}")
    # At a socket only: the port is another one's as a whole, or not at all.
    at_socket = replace(row, check=replace(check, where="/var/run/postgresql:5432"))
    assert health._of_ours(at_socket, [ours, other]) == at_socket
    assert not health._of_ours(at_socket, [other]).healthy


@pytest.mark.parametrize(
    ("stat", "said"),
    [
        ("7 (cron) S 1 7 7 0", ""),
        ("7 (cron) T 1 7 7 0", "cron is halted: no job starts\n"),
        # Its number is another one's by now.
        ("7 (sleep) S 1 7 7 0", "cron does not run: no job starts\n"),
        ("", "cron does not run: no job starts\n"),
        (None, "cron does not run: no job starts\n"),
    ],
)
def test_no_job_starts_where_cron_does_not_run(stat: str | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(stat or "")
    if stat is not None:
        (tmp_path / "crond.pid").write_text("7\n")
    script = shell("cron-runs", "backup").replace("/run/", f"{tmp_path}/")
    done = helpers.shell(script.replace("/proc/", f"{tmp_path}/"))
    assert (done.stdout, done.returncode) == (said, 1 if said else 0)


def test_an_answer_is_short_enough_for_the_kernel_to_take_it_whole() -> None:
    """Checks write side by side into one pipe, whose lines mix from 4,096 bytes on (pipe(7))."""
    said = helpers.shell(
        shell("check") + "out=$(printf '%05000d\\ncluster %05000d' 0 0); answered 4 0"
    )
    assert len(said.stdout) < 4096, len(said.stdout)
    assert said.stdout.startswith("4\t000") and said.stdout.endswith("\tcluster \tstatus 0\n")
