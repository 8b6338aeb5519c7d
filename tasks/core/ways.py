"""The way to a host through another one: a fault on it is told as that, and never hangs."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import wraps
from select import select
from subprocess import TimeoutExpired
from typing import Any

_CLIENT = "pyinfra.connectors.sshuserclient.client"
_ENDS_SECONDS = 5


def name_faults() -> None:
    """Names the way, where pyinfra says of its faults that they are the host's.

    Nothing is loaded for it: a run without SSH has no client.
    """
    ssh: Any = sys.modules.get(_CLIENT)
    if ssh is None or hasattr(ssh.SSHClient.connect, "__wrapped__"):
        return
    connect, parse = ssh.SSHClient.connect, ssh.SSHClient.parse_config
    ssh.ProxyCommand = _proxy_command(ssh.ProxyCommand)

    # It reads ssh's configuration, and connects to each host on the way.
    @wraps(parse)
    def parsed(client: Any, hostname: str, *given: Any, **named: Any) -> Any:
        try:
            return parse(client, hostname, *given, **named)
        except (OSError, EOFError, ssh.SSHException) as error:
            config = ssh.get_ssh_config(named.get("ssh_config_file"))
            found = config.lookup(hostname) if config else {}
            way = found.get("proxycommand") or found.get("proxyjump") or "ssh's configuration"
            raise ssh.SSHException(f"on the way, {way}: {_why(error)}") from error

    @wraps(connect)
    def connected(client: Any, *given: Any, **named: Any) -> Any:
        try:
            return connect(client, *given, **named)
        except (OSError, EOFError, ssh.SSHException) as error:
            way = getattr(client, "_ssh_config", {}).get("sock")
            if not isinstance(way, ssh.ProxyCommand) or not (why := way.ended()):
                raise
            raise ssh.SSHException(f"on the way, {' '.join(way.cmd)}: {why}") from error

    ssh.SSHClient.parse_config, ssh.SSHClient.connect = parsed, connected


def _why(error: Exception) -> str:
    return getattr(error, "strerror", "") or str(error) or "it closed the connection"


def _proxy_command(paramikos: Any) -> Any:
    """paramiko's, which reads for ever from a program that has ended, and cannot end it again."""

    class Way(paramikos):  # type: ignore[misc]
        def recv(self, size: int) -> bytes:
            ready, _, _ = select([self.process.stdout], [], [], self.timeout)
            if not ready:
                raise TimeoutError
            return os.read(self.process.stdout.fileno(), size)

        def close(self) -> None:
            with contextlib.suppress(ProcessLookupError):
                super().close()

        def ended(self) -> str:
            """The last words of a program that has ended; nothing of one that runs."""
            try:
                # It closes what we read from a moment before.
                self.process.wait(timeout=_ENDS_SECONDS)
            except TimeoutExpired:
                return ""
            words = self.process.stderr.read().decode(errors="backslashreplace").splitlines()
            return str((words or [f"it ended with {self.process.returncode}"])[-1])

    return Way
