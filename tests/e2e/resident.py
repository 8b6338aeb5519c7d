"""pyinfra, loaded once: every run is a fork of one process, and begins with the same memory.

That saves a run the second in which it would load itself. Nothing of one run is left for the
next: what it remembers, starts or changes of itself dies with it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from runpy import run_module
from tempfile import TemporaryFile
from typing import IO, NoReturn

_ROOT = Path(__file__).resolve().parents[2]
_ORDER_BYTES, _ANSWER_BYTES = 1 << 17, 64


class Resident:
    """The process of a project's directory; it ends when this object does."""

    def __init__(self, directory: Path) -> None:
        self._orders, its = _pair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=directory,
                # The tasks are those of the directory, which comes first.
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdin=its.fileno(),
            )

    def run(
        self, command: Sequence[str], stdin: str, timeout: float, prepare: Sequence[str]
    ) -> tuple[int, str, str]:
        """Carries out a command; its exit code and what it printed.

        Args:
            command: `pyinfra` or a module, with arguments.
            timeout: in seconds; a run that takes longer is killed.
            prepare: a module, one of its functions, and arguments: what the run does first.
        """
        with _file() as given, _file() as out, _file() as err:
            given.write(stdin)
            given.seek(0)
            code = self._order((command, prepare), (given, out, err), timeout)
            return code, _whole(out), _whole(err)

    def _order(
        self, order: tuple[Sequence[str], Sequence[str]], files: Sequence[IO[str]], timeout: float
    ) -> int:
        answers, its = _pair()
        with answers:
            with its:
                ends = [*(file.fileno() for file in files), its.fileno()]
                text = json.dumps([*order, dict(os.environ)])
                socket.send_fds(self._orders, [text.encode()], ends)
            run = int(answers.recv(_ANSWER_BYTES))
            answers.settimeout(timeout)
            try:
                return int(answers.recv(_ANSWER_BYTES))
            except TimeoutError:
                os.kill(run, signal.SIGKILL)
                answers.settimeout(None)
                answers.recv(_ANSWER_BYTES)
                raise subprocess.TimeoutExpired(list(order[0]), timeout) from None


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _file() -> IO[str]:
    return TemporaryFile("w+", encoding="utf-8")


def _whole(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


# --- Within the process --------------------------------------------------------------------------


def _serve() -> None:
    """Forks for every order, until nobody gives any more."""
    import pyinfra_cli.main  # noqa: F401  patches the standard library before it is used
    from gevent.monkey import get_original

    # Those of gevent would have a loop, and the children would inherit it.
    fork, wait = get_original("os", "fork"), get_original("os", "waitpid")
    orders = get_original("socket", "socket")(fileno=os.dup(0))
    _load()
    while True:
        text, ends, _, _ = socket.recv_fds(orders, _ORDER_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        if not text:
            return
        if fork() == 0:
            _keep(fork, wait, text, ends)
        for end in ends:
            os.close(end)
        _reap(wait)


def _load() -> None:
    """What deploy.py would import and compile; nothing of it does anything yet."""
    for file in Path("tasks").glob("*"):
        if file.stem not in ("drift", "__init__", "__pycache__"):
            import_module(f"tasks.{file.stem}")
    templates = import_module("tasks.core.files").environment()
    for name in templates.list_templates(["j2"]):
        templates.get_template(name)
    import_module("pyinfra.api.connectors").get_all_connectors()
    # No run needs to look for garbage in what all have, and copies none of it by looking.
    gc.freeze()
    # From here on the directory alone is looked at, as in a process of its own.
    sys.path.remove(str(_ROOT))


def _keep(
    fork: Callable[[], int],
    wait: Callable[[int, int], tuple[int, int]],
    text: bytes,
    ends: Sequence[int],
) -> NoReturn:
    """The life of a child: it tells which process the run is, and how that ended."""
    *files, answer = ends
    run = fork()
    if run == 0:
        _become(files, *json.loads(text))
    os.write(answer, str(run).encode())
    _, status = wait(run, 0)
    os.write(answer, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(
    files: list[int], command: list[str], prepare: list[str], environment: dict[str, str]
) -> NoReturn:
    """The life of a run: what `pyinfra`, or `python -m`, does with a command line."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    code = 1
    try:
        if prepare:
            module, function, *arguments = prepare
            getattr(import_module(module), function)(*arguments)
        _main(command[0])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(program: str) -> None:
    if program != "pyinfra":
        run_module(program, run_name="__main__", alter_sys=True)
        return
    from pyinfra_cli.main import main

    main()


def _reap(wait: Callable[[int, int], tuple[int, int]]) -> None:
    """Lets children go that have ended."""
    try:
        while wait(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    _serve()
