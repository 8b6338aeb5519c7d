"""A project whose runs are interrupted: the controller dies, or the SSH connection breaks.

What interrupts is on this side of the wire: the run is changed before it begins. Nothing of the
product knows of it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.e2e.project import Project, Run

if TYPE_CHECKING:
    from pyinfra.api.arguments import ConnectorArguments
    from pyinfra.api.command import StringCommand
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

Strike = Literal["kill", "cut"]

# How a run ends that is killed, and one that has lost a host.
STATUS: dict[Strike, int] = {"kill": -signal.SIGKILL, "cut": 1}

_CHANGES, _STRUCK = Path("changes.jsonl"), Path("struck")


class Interruptible(Project):
    """Runs pyinfra to its end, or not."""

    def pyinfra(self, *arguments: str, stdin: str = "", timeout: float = 300) -> Run:
        """Runs pyinfra in the directory and returns what it did, whatever its exit code."""
        return self._struck("", "", *arguments, stdin=stdin, timeout=timeout)

    def interrupt(self, strike: Strike, moment: str, task: str = "deploy.py") -> Run:
        """A deployment, or another task, that is interrupted once, unless it has ended before.

        Args:
            moment: `after:N`, between two operations when N changes have been made on all hosts
                together, or `during:N:SECONDS`, that long after the N-th change was sent to its
                host, and at the latest when it has ended. An operation that finds nothing to do is
                no change: it leaves a host as it was.
        """
        return self._struck(strike, moment, "-y", "--json", "inventory.py", task)

    def to_its_end(
        self,
        task: str = "deploy.py",
        *,
        every: int = 1,
        after: Callable[[], object] = lambda: None,
    ) -> list[tuple[str, str]]:
        """Runs of a task that are killed after some changes, until one ends.

        That one has changed less than the others: nothing where each of them makes one change.

        Args:
            every: how many changes each of them makes.
            after: what is done after each of them.

        Returns:
            What they changed, as (operation, host).
        """
        made = list[tuple[str, str]]()
        for _ in range(60):
            run = self.interrupt("kill", f"after:{every}", task)
            made += self.made
            after()
            if not self.is_struck:
                assert run.code == 0, run.output
                return made
            assert run.code == STATUS["kill"], run.output
        raise AssertionError(made)

    def _struck(
        self, strike: str, moment: str, *arguments: str, stdin: str = "", timeout: float = 300
    ) -> Run:
        prepare = (__name__, "prepare", strike, moment)
        return self._run("pyinfra", *arguments, stdin=stdin, timeout=timeout, prepare=prepare)

    @property
    def made(self) -> list[tuple[str, str]]:
        """The changes that the last run made, as (operation, host), in order."""
        lines = (self.directory / _CHANGES).read_text().splitlines()
        return [(name, host) for name, host in map(json.loads, lines)]

    @property
    def is_struck(self) -> bool:
        """Whether the last run was interrupted."""
        return (self.directory / _STRUCK).exists()


# --- Within the run ------------------------------------------------------------------------------


def kill(_host: Host) -> None:
    """The controller is gone at once, as when its machine loses power."""
    os.kill(os.getpid(), signal.SIGKILL)


def cut(host: Host) -> None:
    """The connection is reset: both ends see it break."""
    connector: Any = host.connector
    connection = connector.client.get_transport().sock
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


_STRIKES: dict[str, Callable[[Host], None]] = {"kill": kill, "cut": cut}


class Interruption:
    """Counts the changes that were made, and strikes once."""

    def __init__(self, strike: str, moment: str) -> None:
        kind, number, *seconds = (moment or "never:0").split(":")
        self.strike = _STRIKES.get(strike)
        self.after = int(number) if kind == "after" else None
        self.during = int(number) if kind == "during" else None
        self.seconds = float(seconds[0]) if seconds else 0.0
        self.made = 0

    def strike_now(self, host: Host) -> None:
        """Strikes, unless it has done so."""
        strike, self.strike = self.strike, None
        if strike is not None:
            _STRUCK.touch()
            strike(host)

    def between(self, host: Host) -> None:
        """Strikes when as many changes have been made as were to be."""
        if self.made == self.after:
            self.strike_now(host)

    def note(self, operation: str, host: Host) -> None:
        """Counts a change and writes it down."""
        self.made += 1
        with _CHANGES.open("a") as changes:
            changes.write(json.dumps([operation, host.name]) + "\n")

    def within(self, host: Host, execute: Callable[[], Any]) -> Any:
        """Carries a change out; strikes meanwhile if it is the chosen one."""
        import gevent

        if self.made + 1 != self.during:
            return execute()
        strike = gevent.spawn_later(self.seconds, self.strike_now, host)
        try:
            return execute()
        finally:
            strike.kill()
            self.strike_now(host)


def prepare(strike: str, moment: str) -> None:
    """Makes this process one that is interrupted, and that writes its changes down."""
    from pyinfra.api import operations
    from pyinfra.api.command import StringCommand

    _CHANGES.write_text("")
    _STRUCK.unlink(missing_ok=True)
    interruption = Interruption(strike, moment)
    run_operation, execute = operations._run_host_op, StringCommand.execute

    def interrupted_operation(state: State, host: Host, op_hash: str) -> bool:
        interruption.between(host)
        is_well = run_operation(state, host, op_hash)
        if state.get_op_data_for_host(host, op_hash).operation_meta.did_change():
            (name,) = state.get_op_meta(op_hash).names
            interruption.note(name, host)
            interruption.between(host)
        return is_well

    def interrupted_command(
        self: StringCommand, state: State, host: Host, connector_arguments: ConnectorArguments
    ) -> Any:
        return interruption.within(host, lambda: execute(self, state, host, connector_arguments))

    operations._run_host_op = interrupted_operation
    StringCommand.execute = interrupted_command  # type: ignore[method-assign]
