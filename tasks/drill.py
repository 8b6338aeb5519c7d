"""Drills on a running estate: a planned failover of Redis, and what a client notices of it."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Generator
from typing import NamedTuple

import gevent
from pyinfra import logger
from pyinfra.api import StringCommand, operation
from rich.console import Console
from rich.table import Table

from tasks.compose.content import asked
from tasks.compose.rolling import hand_over
from tasks.core import estate, lock, remote
from tasks.core.change import Change, announce, refusing
from tasks.core.estate import Estate, Node
from tasks.core.remote import Output, Unreadable
from tasks.core.scripts import quoted
from tasks.core.settings import Problem
from tasks.redis import drill as client
from tasks.redis import rolling
from tasks.redis.drill import Measured
from tasks.redis.leader import current_master
from tasks.redis.settings import RedisSettings

# Until the client has written twice; with TLS and a busy host one write takes 0.1 s.
_BEGIN_SECONDS = 20


class _Drill(NamedTuple):
    """A hand-over, and the node that a client runs on meanwhile."""

    change: Change
    writer: Node
    key: str

    def ask(self, step: str) -> Output:
        """Runs a step of the client where it is."""
        script, variables = client.client(self.writer, step, self.key)
        if self.writer.container:
            script, variables = asked(self.writer, script, variables)
        return remote.run(self.writer.host, f"cd /\n{remote.PATHS}{script}", variables)

    def require(self, step: str) -> None:
        """The same of a step that has to end well.

        Raises:
            Unreadable: with its reason.
        """
        output = self.ask(step)
        if not output.ok:
            raise Unreadable(output.last_word or "the client of the drill does not answer")


def failover() -> None:
    """Hands the Redis master over while a client writes, measures it, and prints what it saw."""
    node = estate.here(_wrong)
    with refusing(node.host):
        drill = _drill(node)
        if drill:
            drill.require("fit")
    if drill:
        _failover(drill=drill, name="Drill: failover")


def _wrong(everything: Estate) -> list[Problem]:
    wrong = estate.everything_wrong(everything)
    is_there = any(node.having(RedisSettings) for node in [everything, *_stacks(everything)])
    if wrong or is_there:
        return wrong
    return [Problem("inventory", "redis", "is in no group of it: there is no failover to drill")]


def _stacks(everything: Estate) -> list[Estate]:
    return [node.inside for node in everything.nodes if node.inside]


def _drill(node: Node) -> _Drill | None:
    """The hand-over of the master that this host has, if it has one.

    Raises:
        Unreadable: the master is unknown, or no instance can replace it.
    """
    if node.inside:
        change, inside = hand_over(node), node.inside
    elif RedisSettings in node.settings and (found := rolling.failover(node)()):
        change, inside = found, node.estate
    else:
        return None
    members = [each for each in inside.having(RedisSettings) if each in inside.active]
    writer = client.beside(current_master(inside), members)
    key = f"datatier:failover-drill:{secrets.token_hex(8)}"
    return _Drill(change, writer, key)


@operation()
def _failover(drill: _Drill) -> Generator[StringCommand, None, None]:
    node = estate.here()
    told = f"a client on {drill.writer.name} writes meanwhile, and says what it noticed"
    announce(node.host, [*drill.change.lines, told])
    if not node.host.state.is_executing:
        yield StringCommand("true")
        return
    try:
        drill.require("begin")
        measuring = gevent.spawn(drill.ask, "measure")
        _wait(drill)
    except Unreadable as unreadable:
        yield _failed(str(unreadable))
        return
    remote.count_command(node.host)
    script = lock.alone(f"set -eu\numask 022\ncd /\n{remote.PATHS}{drill.change.script}")
    yield remote.command(script, drill.change.variables)
    remote.forget(node.host)
    logger.info(f"{node.host.print_prefix}  handed over: waiting until the estate is whole again")
    try:
        measured = client.parsed(measuring.get().stdout)
    except Unreadable as unreadable:
        yield _failed(str(unreadable))
        return
    Console(stderr="--json" in sys.argv).print(_table(node, measured))
    if why := drill.change.wrong() or measured.failure:
        yield _failed(why)


def _wait(drill: _Drill) -> None:
    end = time.monotonic() + _BEGIN_SECONDS
    while not drill.ask("writing").ok:
        if time.monotonic() > end:
            raise Unreadable("the client of the drill does not write: run again")


def _failed(why: str) -> StringCommand:
    return StringCommand("echo", quoted(why), ">&2; exit 1")


def _table(node: Node, measured: Measured) -> Table:
    result = Table("failover drill", node.name, box=None)
    result.add_row("time without writes", f"{measured.seconds:.2f} s")
    lost = f"{measured.lost} of {measured.written}"
    result.add_row("acknowledged writes lost", lost)
    result.add_row("master before", measured.before)
    result.add_row("master now", measured.after)
    result.add_row("replicas and Sentinels", measured.wrong or "all follow it")
    return result
