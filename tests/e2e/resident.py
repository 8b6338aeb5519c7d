"""A project whose pyinfra stays loaded, for stories of many runs: it saves a second on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from threading import Timer
from typing import IO, Any, cast

from tests.e2e.project import ROOT, Project, Run


class Resident(Project):
    """The same command lines, carried out one after the other by one process."""

    # The module that is this process.
    program = __name__

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._process: subprocess.Popen[str] | None = None

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Starts the process and ends it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.program],
            cwd=self.directory,
            # The tasks are those of the directory, which comes first.
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            with self._process:
                yield
        finally:
            self._process = None

    def pyinfra(self, *arguments: str, stdin: str = "", timeout: float = 600) -> Run:
        """Runs pyinfra in the directory and returns what it did, whatever its exit code."""
        if self._process is None:
            return super().pyinfra(*arguments, stdin=stdin, timeout=timeout)
        return Run(*json.loads(self.order(arguments, timeout)))

    def order(self, order: Any, timeout: float) -> str:
        """What the process answers; it is killed when the time, in seconds, is over."""
        assert self._process is not None
        orders, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        watchdog = Timer(timeout, self._process.kill)
        watchdog.start()
        try:
            print(json.dumps(order), file=orders, flush=True)
            return answers.readline()
        finally:
            watchdog.cancel()


def _serve() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = _run(json.loads(line))
        print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)


def _run(arguments: Sequence[str]) -> int:
    """What `pyinfra` does with a command line."""
    import click
    import pyinfra
    from pyinfra.api.output import set_echo, set_formatter
    from pyinfra_cli import util
    from pyinfra_cli.cli import cli

    from tasks.core import secrets

    pyinfra.is_cli = True
    # What a process remembers, and the next one would read anew.
    pyinfra.logger.handlers.clear()
    util.PYTHON_CODES.clear()
    secrets.of.cache_clear()
    set_formatter(click.style)
    set_echo(click.echo)
    sys.argv = ["pyinfra", *arguments]
    try:
        cli.main(list(arguments), "pyinfra")
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("it always exits")


if __name__ == "__main__":
    import pyinfra_cli  # noqa: F401  patches the standard library before it is used

    _serve()
