"""Commands inside a container, by a process that stays there.

`docker exec` takes a tenth of a second of processor time for each command, and stories ask
thousands of questions. So one stays open, in which a few lines of Python wait for commands.
"""

import subprocess
from collections import defaultdict
from contextlib import suppress
from threading import Event, Timer
from typing import IO, cast

# Each command is a session of its own, and its output ends when it does: what it leaves running
# is not waited for. The container's Python may be Debian's minimal one.
_WITHIN = r"""
import os, pwd, subprocess, sys
orders, answers = sys.stdin.buffer, sys.stdout.buffer
# Python itself sets one variable more.
environment = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
while sizes := orders.readline().split():
    user, command, data = (orders.read(int(size)) for size in sizes)
    name, _, uid, gid, _, home, _ = pwd.getpwnam(user.decode())
    out, err = (os.fdopen(os.memfd_create(name), "w+b") for name in ("out", "err"))
    process = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=out, stderr=err, cwd="/",
        user=uid, group=gid, extra_groups=os.getgrouplist(name, gid),
        env=environment | {"HOME": home}, start_new_session=True,
    )
    process.communicate(data)
    said = []
    for file in (out, err):
        file.seek(0)
        said.append(file.read())
        file.close()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    answers.write(b"%d %d %d\n" % (code, *map(len, said)) + b"".join(said))
    answers.flush()
"""
# Not an argument: stories look at command lines.
_START = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"

# Those of a container that nobody uses now: whoever has a command takes one, or opens another.
_idle: defaultdict[str, list["_Shell"]] = defaultdict(list)


def run(
    container: str, user: str, command: str, data: bytes, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Runs a shell command inside, as `docker exec -i -u USER CONTAINER sh -c COMMAND` does."""
    shell = _open(container)
    code, out, err = shell.run(user, command, data, timeout)
    if shell.is_open:
        _idle[container].append(shell)
    texts = (text.decode(errors="replace") for text in (out, err))
    return subprocess.CompletedProcess(["sh", "-c", command], code, *texts)


def forget(container: str) -> None:
    """Closes what a container that was switched off had open."""
    for shell in _idle.pop(container, []):
        shell.close()


def _open(container: str) -> "_Shell":
    idle = _idle[container]
    while idle:
        shell = idle.pop()
        if shell.is_open:
            return shell
    return _Shell(container)


class _Shell:
    def __init__(self, container: str) -> None:
        pipe = subprocess.PIPE
        command = ["docker", "exec", "-i", container, "python3", "-c", _START]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._send(b"%d\n" % len(_WITHIN), _WITHIN.encode())

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, user: str, command: str, data: bytes, timeout: float) -> tuple[int, bytes, bytes]:
        words = [user.encode(), command.encode(), data]
        self._send(b" ".join(b"%d" % len(word) for word in words) + b"\n", *words)
        is_late = Event()
        watchdog = Timer(timeout, self._give_up, (is_late,))
        watchdog.start()
        try:
            answer = self._answer()
        finally:
            watchdog.cancel()
        if answer is not None:
            return answer
        _, err = self._process.communicate()
        if is_late.is_set():
            raise subprocess.TimeoutExpired(command, timeout)
        return self._process.returncode, b"", err

    def _give_up(self, is_late: Event) -> None:
        is_late.set()
        self._process.kill()

    def _send(self, *words: bytes) -> None:
        # Where nobody reads there will be no answer either.
        with suppress(BrokenPipeError):
            orders = cast(IO[bytes], self._process.stdin)
            orders.write(b"".join(words))
            orders.flush()

    def _answer(self) -> tuple[int, bytes, bytes] | None:
        answers = cast(IO[bytes], self._process.stdout)
        head = answers.readline().split()
        if not head:
            return None
        code, *sizes = map(int, head)
        out, err = (answers.read(size) for size in sizes)
        return code, out, err
