"""The one operation: plan, carry out, and refuse to act on what could not be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyinfra import logger
from pyinfra.api import Host, output
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_state

from tasks.core import change, remote
from tasks.core.change import Change, Line
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import assignments
from tests.unit import helpers


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """This machine, connected, within a pyinfra run."""
    made = helpers.local(tmp_path)
    with ctx_state.use(made.state), ctx_config.use(made.state.config), ctx_host.use(made):
        yield made
    remote.forget(made)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the user reads."""
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def plan(host: Host, compare: Callable[[], Change | None]) -> bool:
    """Adds the operation as the dry run does; whether it announces a change."""
    host.state.current_stage = StateStage.Prepare
    added = add_op(host.state, change._converge, name="A file", compare=compare)
    return bool(added[host].will_change)


def execute(host: Host) -> tuple[int, int]:
    """Carries out what was planned: operations that succeeded and that failed."""
    host.state.current_stage = StateStage.Execute
    host.state.is_executing = True
    try:
        run_ops(host.state)
    except PyinfraError:
        pass
    finally:
        host.state.is_executing = False
    results = host.state.results[host]
    return results.success_ops, results.error_ops


def written(path: Path, text: str) -> Callable[[], Change | None]:
    """A change that writes a secret text into a file, due until it stands there."""

    def compare() -> Change | None:
        if path.exists() and path.read_text() == text:
            return None
        script = f'printf %s "$TEXT" >{path}'
        return Change([f"{path.name}: write"], script, {"TEXT": text}, ["-a", "+b"])

    return compare


def test_a_plan_says_what_is_pending_and_changes_nothing(
    host: Host, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    assert plan(host, written(tmp_path / "a", "hunter2"))
    assert "a: write" in said.text
    assert "hunter2" not in said.text
    assert not (tmp_path / "a").exists()


def test_a_plan_says_what_an_impact_is(host: Host, said: pytest.LogCaptureFixture) -> None:
    lines = [Line("net: moves", "restart"), Line("a: restart (b)", "restart"), "c: create"]
    plan(host, lambda: Change(lines, "true"))
    assert list(dict.fromkeys(message.split("]   ")[1] for message in said.messages)) == [
        "net: moves (restart)",
        "a: restart (b)",
        "c: create",
    ]


def test_what_was_announced_is_known(host: Host, tmp_path: Path) -> None:
    plan(host, written(tmp_path / "a", "x"))
    assert list(change.announced(host).values()) == [["a: write"]]


def test_a_run_carries_out_the_plan(host: Host, tmp_path: Path) -> None:
    plan(host, written(tmp_path / "a", "it's"))
    assert execute(host) == (1, 0)
    assert (tmp_path / "a").read_text() == "it's"


def test_nothing_is_pending(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert not plan(host, written(tmp_path / "a", "x"))
    assert execute(host) == (1, 0)


def test_what_happened_since_the_plan_counts(host: Host, tmp_path: Path) -> None:
    plan(host, written(tmp_path / "a", "x"))
    (tmp_path / "a").write_text("x")
    stamp = (tmp_path / "a").stat().st_mtime_ns
    assert execute(host) == (1, 0)
    assert (tmp_path / "a").stat().st_mtime_ns == stamp


def test_a_change_makes_what_was_read_forgotten(host: Host, tmp_path: Path) -> None:
    batches = {"x": {"a": Probe(f"cat {tmp_path}/a 2>/dev/null || true", "".join)}}
    assert remote.read(host, lambda: batches, "x") == {"a": ""}
    plan(host, written(tmp_path / "a", "x\n"))
    assert execute(host) == (1, 0)
    assert remote.read(host, lambda: batches, "x") == {"a": "x"}


def test_a_script_stops_at_the_first_failure(host: Host, tmp_path: Path) -> None:
    script = f"false\ntouch {tmp_path}/later"
    plan(host, lambda: Change(["x"], script))
    assert execute(host) == (0, 1)
    assert not (tmp_path / "later").exists()


def unreadable() -> Change | None:
    raise Unreadable("redis: files could not be read: disk on fire")


def test_a_plan_refuses_what_could_not_be_read(host: Host) -> None:
    with pytest.raises(PyinfraError) as caught:
        plan(host, unreadable)
    assert str(caught.value) == (
        "@local: redis: files could not be read: disk on fire; nothing was changed"
    )


def test_a_run_fails_on_what_could_not_be_read(host: Host, tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    def compare() -> Change | None:
        return unreadable() if flag.exists() else Change(["x"], "true")

    plan(host, compare)
    flag.touch()
    assert execute(host) == (0, 1)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_diff_is_shown_when_asked_for(
    wanted: bool, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(output, "_echo", lambda line, **_: shown.append(line))
    host.state.config.DIFF = wanted
    plan(host, written(tmp_path / "a", "x"))
    assert shown == (["-a", "+b"] if wanted else [])


def test_a_change_keeps_its_variables_before_another_one() -> None:
    """Two changes of files give theirs the same name."""
    changes = [Change([], 'echo "$A$B"', {"A": each, "B": "-"}) for each in "123"]
    both = changes[0].followed_by(changes[1]).followed_by(changes[2])
    done = helpers.shell(assignments(both.variables) + both.script)
    assert done.stdout.split() == ["1-", "2-", "3-"]
