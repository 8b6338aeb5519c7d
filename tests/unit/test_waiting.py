"""Clients of poolers wait while PostgreSQL restarts: the shell, with consoles that are files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.places import STATE_DIRECTORY
from tasks.core.remote import Unreadable
from tasks.core.services import Status
from tasks.pgbouncer import activation as pgbouncer_activation
from tasks.pgbouncer import pause as pgbouncer_pause
from tasks.postgres import activation as postgres_activation
from tests.unit import helpers
from tests.unit.test_components import knows

GROUPS = {"postgres": ["db"], "pgbouncer": ["@ssh/app", "db", "pool"]}
HOSTS = {"@ssh/app": "10.0.0.1", "db": "10.0.0.2", "pool": "10.0.0.3"}
CUT_OFF = 'psql: error: connection to server at "10.0.0.1", port 6432 failed: timeout expired'
WRONG = "psql: error: FATAL:  SASL authentication failed"

# A pooler answers with what its file says, and fails if that is anything; commands are listed.
CONSOLE = """
answer() {{ # POOLER COMMAND
  echo "$1 $2" >>{place}/log
  if [ -s "{place}/$1.$2" ]; then cat "{place}/$1.$2" >&2; return 1; fi
  if [ -s "{place}/$1" ]; then cat "{place}/$1" >&2; return 1; fi
}}
"""


def server(directory: Path, away: str = "", **data: str) -> Node:
    """PostgreSQL's host, in an estate with three poolers."""
    hosts = {name: {"address": address} for name, address in HOSTS.items()}
    hosts["pool"].update(data)
    everything = helpers.estate(hosts, GROUPS, directory)
    for node in everything.nodes:
        if node.name not in away:
            node.host.state.activate_host(node.host)
    return helpers.node(everything, "db")


def label(node: Node) -> str:
    return node.name.removeprefix("@ssh/")


def restart(directory: Path, away: str = "") -> subprocess.CompletedProcess[str]:
    """Holds, restarts and releases, as a change of PostgreSQL does; `away` is not connected."""
    with pytest.MonkeyPatch.context() as patch:
        answer = lambda _server, node: f'answer {label(node)} "$3"'  # noqa: E731
        patch.setattr(pgbouncer_pause, "console", answer)
        hold, release = pgbouncer_pause.hold(server(directory, away))
    text = CONSOLE.format(place=directory) + f"{hold}\necho RESTART >>{directory}/log\n{release}"
    text = text.replace(STATE_DIRECTORY, f"{directory}/held").replace("-p /run", f"-p {directory}")
    return helpers.shell(f"set -eu\n{text}")


def log(directory: Path) -> list[str]:
    """What poolers were told, and when PostgreSQL restarted."""
    return (directory / "log").read_text().splitlines()


def left(directory: Path) -> list[str]:
    """The poolers that a later run has to let go on."""
    return sorted(path.name for path in (directory / "held").iterdir())


def test_every_pooler_waits_and_goes_on(tmp_path: Path) -> None:
    done = restart(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = log(tmp_path)
    at = said.index("RESTART")
    assert {f"{name} PAUSE" for name in ("app", "db", "pool")} <= {*said[:at]}
    assert sorted(said[at + 1 :]) == ["app RESUME", "db RESUME", "pool RESUME"]
    assert left(tmp_path) == []


APP = "@ssh/app"


def test_one_that_is_away_keeps_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "app").write_text(CUT_OFF)
    done = restart(tmp_path, away=APP)
    assert (done.returncode, done.stderr) == (0, "")
    said = log(tmp_path)
    assert sorted(said[said.index("RESTART") + 1 :]) == ["db RESUME", "pool RESUME"]
    assert "app PAUSE" not in said
    assert left(tmp_path) == []


@pytest.mark.parametrize("answer", [CUT_OFF, "ERROR: admin access needed"])
def test_one_that_does_not_let_go_is_an_error_and_the_others_go_on(
    answer: str, tmp_path: Path
) -> None:
    (tmp_path / "app.RESUME").write_text(answer)
    done = restart(tmp_path)
    assert done.returncode == 1
    assert f"PgBouncer (@ssh-app) does not take RESUME, give it by hand or run again: {answer}" in (
        done.stderr
    )
    assert {"db RESUME", "pool RESUME"} <= {*log(tmp_path)}
    assert left(tmp_path) == ["pgbouncer-@ssh-app.held"]


def test_one_that_was_left_waiting_goes_on_when_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "app.RESUME").write_text(CUT_OFF)
    assert restart(tmp_path).returncode == 1
    assert restart(tmp_path, away=APP).returncode == 0
    assert left(tmp_path) == ["pgbouncer-@ssh-app.held"]
    assert pgbouncer_pause.resume(server(tmp_path, APP), ["@ssh-app"]) is None
    change = pgbouncer_pause.resume(server(tmp_path), ["@ssh-app"])
    assert change is not None
    assert change.lines == ["PgBouncer (@ssh-app): RESUME"]
    assert helpers.syntax_error(change.script) == ""
    (tmp_path / "app.RESUME").unlink()
    assert restart(tmp_path).returncode == 0
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("pooler", "answer", "why"),
    [
        ("app", WRONG, "does not take the password of postgres: run tasks.pgbouncer.configure"),
        ("app", CUT_OFF, "its console does not answer: psql"),
        ("app.PAUSE", "ERROR: already paused", "is already paused; whoever paused it"),
    ],
)
def test_nothing_restarts_where_one_cannot_wait(
    pooler: str, answer: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / pooler).write_text(answer)
    done = restart(tmp_path)
    assert done.returncode == 1
    assert f"because PgBouncer (@ssh-app) cannot hold its clients: {why}" in done.stderr
    said = log(tmp_path)
    assert "RESTART" not in said
    assert {"db PAUSE", "pool PAUSE", "db RESUME", "pool RESUME"} <= {*said}
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "waits"),
    [
        ({}, True),
        ({"pgbouncer_listen_addr": "127.0.0.1"}, False),
        ({"pgbouncer_listen_addr": "127.0.0.1, 10.0.0.3"}, True),
        ({"pgbouncer_listen_addr": "*"}, True),
        ({"pgbouncer_pool_mode": "session"}, False),
    ],
)
def test_the_plan_says_that_clients_wait_only_where_they_are_told(
    data: dict[str, str], waits: bool, tmp_path: Path
) -> None:
    assert (
        "clients of PgBouncer wait" in postgres_activation.restarts(server(tmp_path, **data), "x")
    ) is waits


def test_a_pooler_is_not_restarted_after_another_one_failed(tmp_path: Path) -> None:
    everything = server(tmp_path).estate
    db, pool = (helpers.node(everything, name) for name in ("db", "pool"))
    pinned = {"/etc/datatier/pgbouncer/postgres.pem": Found("file", content=b"certificate")}
    knows(db, "postgres", served="certificate", key="certificate", next="next")
    for node in (db, pool):
        status = {"pgbouncer": Status(True, True, "old", "old")}
        knows(node, "pgbouncer", services=status, files=pinned, console="")
    everything.state.is_executing = True
    change = pgbouncer_activation.due_activation(db)
    assert change is not None
    with pytest.raises(
        Unreadable, match="PgBouncer is not restarted here because of the failure on db"
    ):
        pgbouncer_activation.due_activation(pool)
    assert change.wrong() == ""
    assert pgbouncer_activation.due_activation(pool) is not None
