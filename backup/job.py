"""A job: one of its kind at a time, every step a line in the log, failure never silent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from backup.config import Config
from backup.text import shown

# Not the world-writable /run/lock: the user that makes a lock file first could keep it.
LOCKS = Path("/run/datatier")

DONE, FAILED, WRONG_USE, BUSY = 0, 1, 2, 75


# Characters of what a program says of its failure; the rest is repetition.
_GIST = 400


class Failed(Exception):
    """A step did not do what it should; the message is one line for an operator."""

    code = FAILED


class Incomplete(Failed):
    """A part could not be done; what was done counts, and what follows a job follows it."""


class WrongUse(Failed):
    """What was asked for makes no sense; nothing was done, and no alert is due."""


class Busy(Exception):
    """Another run of the same kind holds the lock."""


def stamp(moment: datetime | None = None) -> str:
    """A moment (now, if not given) as it stands in file names: UTC, `YYYYMMDD_HHMMSS`."""
    return (moment or datetime.now(UTC)).strftime("%Y%m%d_%H%M%S")


class Log:
    """Writes one line per step to the log file, and to a terminal where there is one."""

    def __init__(self, path: Path, job: str, hidden: Callable[[str], str] = str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._hidden = hidden
        self._path = path
        self._job = job

    def line(self, message: str) -> None:
        """One line, stamped; line breaks in the message are folded."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"{moment} {self._job}[{os.getpid()}] {' '.join(message.split())}"
        text = shown(self._hidden(text))
        # Neither a full disk nor a terminal that has gone may end a job or keep an alert back.
        with contextlib.suppress(OSError), self._path.open("a") as file:
            file.write(text + "\n")
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Logs how long a step took, or why it failed."""
        start = time.monotonic()
        if sys.stderr.isatty():
            with contextlib.suppress(OSError):
                print(f"  {name} ...", file=sys.stderr, flush=True)
        try:
            yield
        except BaseException as error:
            self.line(f"{name}: FAILED after {time.monotonic() - start:.1f} s: {error}")
            raise
        self.line(f"{name}: done in {time.monotonic() - start:.1f} s")


def locked(kind: str) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a kind of job; the kernel releases it however the process ends.

    Raises:
        Busy: another process holds it.
    """
    return _lock(kind, fcntl.LOCK_NB)


def waited(kind: str) -> contextlib.AbstractContextManager[None]:
    """The same, for a job that can wait until the other is done."""
    return _lock(kind, 0)


@contextlib.contextmanager
def _lock(kind: str, how: int) -> Iterator[None]:
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    with (LOCKS / f"backup-{kind}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | how)
        except BlockingIOError:
            raise Busy(f"another {kind} job is running; this one does nothing") from None
        yield


def run(
    command: Sequence[str],
    *,
    user: str = "",
    through: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    place: Path = Path("/"),
) -> str:
    """Runs a program and returns its output; secrets go into `env`, never into `command`.

    Args:
        through: the command that runs it, with other rights or in another place.
        place: its working directory.

    Raises:
        Failed: it exited with something else than 0; the message holds what it said of that.
    """
    try:
        done = subprocess.run(
            [*_as(user), *through, *command],
            env=_environment(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=place,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]}: timed out after {timeout:.0f} s") from None
    if done.returncode:
        said = _gist(done.stderr.strip(), done.stdout.strip())
        raise Failed(f"{command[0]} exited with {done.returncode}: {said}")
    return done.stdout


def _as(user: str) -> list[str]:
    """The command that runs another one as a user, and ends it with this process.

    Without a process between, which a kill would hit in its place: what goes on behind the back of
    a job that has failed holds the next one up.
    """
    if not user or os.geteuid():
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig=TERM"]


def forget_environment() -> None:
    """What the caller's shell says for clients and programs would lead ours elsewhere."""
    for name in [*os.environ]:
        if name.startswith(("PG", "REDISCLI_")) or name in ("POSIXLY_CORRECT", "TMPDIR"):
            del os.environ[name]
    # ssh hands on the caller's, and Redis 8 does not start with a locale that the host has not.
    os.environ["LC_ALL"] = "C.UTF-8"


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a program gets: messages that we can read, and of PostgreSQL's only what is given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    # With it C.UTF-8 would speak another language.
    inherited.pop("LANGUAGE", None)
    return {**inherited, "LC_ALL": "C.UTF-8", **given}


@dataclass(frozen=True)
class Program:
    """A running program whose streams are in use."""

    process: subprocess.Popen[bytes]
    _errors: IO[bytes]
    _name: str

    def finish(self) -> None:
        """Waits for its end.

        Raises:
            Failed: it exited with something else than 0; the message holds what it said of that.
        """
        if self.process.wait():
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise Failed(f"{self._name}: {_gist(said)}")


@contextlib.contextmanager
def program(command: Sequence[str], env: Mapping[str, str], *, user: str = "") -> Iterator[Program]:
    """Starts a program whose output is a pipe; one that the block does not finish is killed."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*_as(user), *command],
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
        )
        try:
            yield Program(process, errors, Path(command[0]).name)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _gist(said: str, output: str = "") -> str:
    """From the first line that calls itself an error, else the last line of both."""
    for text in (said, output):
        if error := re.search(r"(?ms)^\s*(\S+: )?(ERROR|FATAL|error):.*", text):
            return " ".join(error[0].split())[:_GIST]
    # A report names its object in the line before, and standard error may have a notice only.
    lines = [*output.splitlines()[-2:], *said.splitlines()[-1:]] or ["no output"]
    return " ".join(" ".join(lines).split())[:_GIST]


def log_of(config: Config, job: str) -> Log:
    """The log that a job writes to."""
    return Log(config.logs / "backup.log", job, config.hidden)
