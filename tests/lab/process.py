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


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"
