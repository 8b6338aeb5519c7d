"""One change at a time on a host, and plans of what stays: real shells on this machine."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyinfra import logger
from pyinfra.api import Host

from tasks.core import lock, remote
from tasks.core.remote import Probe, Unreadable
from tests.unit import helpers

SHELLS = pytest.mark.parametrize("shell", ["sh", "bash"])


@contextmanager
def held() -> Iterator[None]:
    """Another run's change is at work until the block ends."""
    script = lock.alone("echo begun; read line || true")
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as change:
        assert change.stdout is not None
        assert change.stdout.readline() == "begun\n"
        yield
        change.communicate()


@SHELLS
def test_a_change_has_its_variables_and_its_status(shell: str) -> None:
    script = lock.alone("set -eu\necho $WORD\n(exit 7)\necho later")
    done = helpers.shell(script, {"WORD": "it's"}, shell)
    assert (done.stdout, done.returncode) == ("it's\n", 7)
    assert helpers.shell(lock.alone("true"), shell=shell).returncode == 0


@SHELLS
def test_a_change_cleans_up(shell: str, tmp_path: Path) -> None:
    script = lock.alone(f"trap 'touch {tmp_path}/cleaned' EXIT\nexit 3")
    assert helpers.shell(script, shell=shell).returncode == 3
    assert (tmp_path / "cleaned").exists()


@SHELLS
def test_a_change_waits_for_another_one(shell: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    first = lock.alone(f"echo begun; sleep 1.5; echo first >>{lines}")
    with subprocess.Popen([shell, "-c", first], stdout=subprocess.PIPE, text=True) as change:
        assert change.stdout is not None and change.stdout.readline() == "begun\n"
        assert helpers.shell(lock.alone(f"echo second >>{lines}"), shell=shell).returncode == 0
    assert lines.read_text().split() == ["first", "second"]


def test_a_change_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0)
    with held():
        done = helpers.shell(lock.alone("echo never"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "another run is changing this host: run again when it has ended\n"


@SHELLS
def test_what_a_change_starts_does_not_keep_the_lock(shell: str) -> None:
    daemon = subprocess.run(
        [shell, "-c", lock.alone("sleep 60 >/dev/null 2>&1 & echo $!")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    try:
        assert helpers.shell(lock.unless_busy("echo free")).stdout == "free\n"
    finally:
        subprocess.run(["kill", daemon], check=True)


def test_reading_leaves_nothing_behind() -> None:
    assert helpers.shell(lock.unless_busy("echo free")).stdout == "free\n"
    assert not Path(lock.PATH).exists()


def test_reading_does_not_begin_while_something_changes() -> None:
    with held():
        assert helpers.shell(lock.unless_busy("echo free")).stdout == f"{lock.BUSY}\n"
    assert helpers.shell(lock.unless_busy("echo free")).stdout == "free\n"


def test_others_cannot_keep_a_run_from_its_work() -> None:
    helpers.shell(lock.alone("true"))
    assert Path(lock.PATH).stat().st_mode & 0o077 == 0


# --- Plans ---------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """This machine; its commands run in real shells."""
    made = helpers.local(tmp_path)
    yield made
    remote.forget(made)


BATCHES = {"redis": {"word": Probe("echo read", "".join)}}


def test_a_plan_waits_and_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with held(), caplog.at_level(logging.INFO, logger=logger.name):
        monkeypatch.setattr(remote, "BUSY_SECONDS", 0.0)
        with pytest.raises(Unreadable, match="another run is still changing this host"):
            remote.read(host, lambda: BATCHES, "redis")
    assert "another run is changing this host: waiting until it rests" in caplog.text
    remote.forget(host)
    assert remote.read(host, lambda: BATCHES, "redis") == {"word": "read"}


def test_a_run_that_changes_the_host_itself_does_not_wait(host: Host) -> None:
    host.state.is_executing = True
    with held():
        assert remote.read(host, lambda: BATCHES, "redis") == {"word": "read"}
