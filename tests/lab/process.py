"""Running commands and telling the user about it."""

import subprocess
import sys
from collections.abc import Sequence


class LabError(Exception):
    """Something the lab needs is missing or failed; the message is one line."""


def say(message: str) -> None:
    """Report progress without touching standard output, which carries data."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def call(
    command: Sequence[str],
    *,
    data: bytes | None = None,
    check: bool = True,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command with both streams captured; a failure is a LabError."""
    try:
        done = subprocess.run(
            command, input=data or b"", capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed") from None
    result = subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )
    if check and result.returncode:
        raise LabError(f"{' '.join(command[:3])} failed: {_last_line(result)}")
    return result


def docker(
    *args: str, data: bytes | None = None, check: bool = True, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one docker command."""
    return call(["docker", *args], data=data, check=check, timeout=timeout)


def pipe(source: Sequence[str], target: Sequence[str], *, timeout: float = 300) -> None:
    """Run two commands, the first one's output being the other's input; a failure is a LabError."""
    with subprocess.Popen(source, stdout=subprocess.PIPE) as writer:
        try:
            done = subprocess.run(
                target, stdin=writer.stdout, capture_output=True, timeout=timeout, check=False
            )
        except BaseException:
            writer.kill()
            raise
    if done.returncode or writer.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise LabError(f"{' '.join(source[:2])} | {' '.join(target[:2])} failed: {reason}")


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"
