"""Runs pyinfra and interrupts it: the controller dies, or a host's SSH connection breaks.

    python interrupted.py {kill,cut} MOMENT ARGUMENTS...

MOMENT is `after:N`, between two operations when N changes have been made on all hosts together, or
`during:N:SECONDS`, that long after the N-th change was sent to its host, and at the latest when it
has ended. An operation that finds nothing to do is no change: it leaves a host as it was. Changes
that were made are lines of `changes.jsonl` in the working directory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from pyinfra.api import operations
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra_cli.main import main  # type: ignore[import-untyped]

CHANGES = Path("changes.jsonl")


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


STRIKES: dict[str, Callable[[Host], None]] = {"kill": kill, "cut": cut}


class Interruption:
    """Counts the changes that were made, and strikes once."""

    def __init__(self, strike: str, moment: str) -> None:
        kind, number, *seconds = moment.split(":")
        self.strike = STRIKES[strike]
        self.after = int(number) if kind == "after" else None
        self.during = int(number) if kind == "during" else None
        self.seconds = float(seconds[0]) if seconds else 0.0
        self.made = 0
        self.is_over = False

    def strike_now(self, host: Host) -> None:
        """Strikes, unless it has done so."""
        if not self.is_over:
            self.is_over = True
            self.strike(host)

    def between(self, host: Host) -> None:
        """Strikes when as many changes have been made as were to be."""
        if self.made == self.after:
            self.strike_now(host)

    def note(self, operation: str, host: Host) -> None:
        """Counts a change and writes it down."""
        self.made += 1
        with CHANGES.open("a") as changes:
            changes.write(json.dumps([operation, host.name]) + "\n")

    def within(self, host: Host, execute: Callable[[], Any]) -> Any:
        """Carries a change out; strikes meanwhile if it is the chosen one."""
        if self.made + 1 != self.during:
            return execute()
        strike = gevent.spawn_later(self.seconds, self.strike_now, host)
        try:
            return execute()
        finally:
            strike.kill()
            self.strike_now(host)


def _patch(interruption: Interruption) -> None:
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


if __name__ == "__main__":
    _, chosen_strike, chosen_moment, *arguments = sys.argv
    CHANGES.unlink(missing_ok=True)
    CHANGES.touch()
    _patch(Interruption(chosen_strike, chosen_moment))
    sys.argv[1:] = arguments
    sys.exit(main())
