"""The one pyinfra operation: compare, say what is pending, change it with one command."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Self, cast, get_args
from weakref import WeakKeyDictionary

from pyinfra import logger
from pyinfra.api import Host, StringCommand, operation, util
from pyinfra.api.command import QuoteString
from pyinfra.api.output import echo, format_text
from pyinfra.context import ctx_host

from tasks.core import lock, remote
from tasks.core.asking import Refusal
from tasks.core.hide import shown

# pyinfra puts operations in order by the lines that call them: numbers are enough, and reading the
# lines themselves took as long as all else that it does.
_lines = cast(Any, util)
_lines.stack = partial(inspect.stack, 0)
_lines.getframeinfo = partial(inspect.getframeinfo, context=0)

# What a change does to those who use the service, from the least to the most.
Impact = Literal["none", "reload", "restart", "failover", "destroys data"]


class Line(str):
    """A sentence of the plan with its impact; a plain string has none."""

    impact: Impact

    def __new__(cls, text: str, impact: Impact) -> Self:
        """The sentence, which names the impact in words."""
        line = super().__new__(cls, text)
        line.impact = impact
        return line


def impact_of(line: str) -> Impact:
    """What a sentence of a plan says that will happen to a service."""
    return line.impact if isinstance(line, Line) else "none"


def summary(impacts: Iterable[Impact]) -> str:
    """Counts changes by what they do, such as `3 changes: 1 reload, 1 restart`."""
    counts = Counter(impacts)
    count = counts.total()
    said = [f"{counts[impact]} {impact}" for impact in get_args(Impact)[1:] if counts[impact]]
    return f"{count} change{'s' * (count != 1)}" + (f": {', '.join(said)}" if said else "")


@dataclass(frozen=True)
class Trial:
    """A server's own reading of a configuration that is not written yet.

    Attributes:
        script: shell that refuses it with one clear line on standard error.
        variables: shell variables for it, which no trial shares with another.
    """

    script: str
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """What differs from the settings and the script that removes the difference.

    Attributes:
        lines: one sentence per pending change, a `Line` where it has an impact; no secrets.
        script: shell; prints one clear line on standard error when it fails.
        variables: shell variables for it, sent on standard input.
        diff: unified diff of the files it writes, secrets masked.
        then: what follows on this side, such as waiting; returns what is wrong, or nothing.
    """

    lines: list[str]
    script: str
    variables: Mapping[str, str] = field(default_factory=dict)
    diff: list[str] = field(default_factory=list)
    then: Callable[[], str] | None = None

    def wrong(self) -> str:
        """What `then` finds wrong; a host that cannot be read any more is that too."""
        try:
            return self.then() if self.then else ""
        except remote.Unreadable as unreadable:
            return str(unreadable)

    def followed_by(self, other: Change) -> Change:
        """Both changes, the other one only if this one ends well."""
        mine, renamed = dict(self.variables), ""
        for name in sorted(self.variables.keys() & other.variables.keys()):
            kept = f"{name}_"
            while kept in mine or kept in other.variables:
                kept += "_"
            mine[kept] = mine.pop(name)
            renamed += f"{name}=${kept}\n"
        return Change(
            [*self.lines, *other.lines],
            f"(\n{renamed}{self.script}\n)\n{other.script}",
            {**mine, **other.variables},
            [*self.diff, *other.diff],
            other.then,
        )

    def after(self, trials: Iterable[Trial]) -> Change:
        """The same change, which does not begin unless all trials end well."""
        tried = list(trials)
        script = "".join(f"(\n{trial.script}\n)\n" for trial in tried) + self.script
        variables = {k: v for trial in tried for k, v in trial.variables.items()}
        return replace(self, script=script, variables={**self.variables, **variables})


@contextmanager
def refusing(host: Host) -> Iterator[None]:
    """For what has to be known before anything is touched: a run with -y plans nothing.

    Raises:
        Refusal: in place of Unreadable.
    """
    try:
        yield
    except remote.Unreadable as obstacle:
        why = shown(str(obstacle))
        raise Refusal(f"{host.name}: {why}; nothing was changed") from obstacle


def converge(
    name: str,
    compare: Callable[[], Change | None],
    *,
    room: str = "",
    one_by_one: bool = False,
    notices: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Makes one aspect of a host what the settings say: a pyinfra operation.

    Args:
        name: what pyinfra calls it in the plan and in the results.
        compare: reads the host and returns what is pending, or None.
        room: whose change it is, if it touches nothing that belongs to none or to another.
        one_by_one: a host after the other, each waited for, where several serve the same.
        notices: what is to be said of the host although nothing is changed for it.
    """
    _converge(compare=compare, room=room, notices=notices, name=name, _serial=one_by_one)


@operation()
def _converge(
    compare: Callable[[], Change | None],
    room: str = "",
    notices: Callable[[], Iterable[str]] = tuple,
) -> Generator[StringCommand, None, None]:
    host = ctx_host.get()
    is_first = not host.state.is_executing or not host.state.check_for_changes
    try:
        change = compare()
        told = [*notices()] if is_first else []
    except remote.Unreadable as unreadable:
        if not host.state.is_executing:
            with refusing(host):
                raise
        yield StringCommand("echo", QuoteString(shown(str(unreadable))), ">&2; exit 1")
        return
    _noticed.setdefault(host, []).extend(map(shown, told))
    for line in map(shown, told):
        logger.info(f"{host.print_prefix}  {line}")
    if change is None:
        host.noop("as the settings say")
        return
    announce(host, change.lines, change.diff)
    if host.state.is_executing:
        remote.count_command(host)
    script = lock.alone(f"set -eu\numask 022\ncd /\n{remote.PATHS}{change.script}")
    yield remote.command(script, change.variables)
    remote.forget(host, room)
    if wrong := change.wrong():
        yield StringCommand("echo", QuoteString(shown(wrong)), ">&2; exit 1")


_noticed: WeakKeyDictionary[Host, list[str]] = WeakKeyDictionary()
_announced: WeakKeyDictionary[Host, dict[str | None, Sequence[str]]] = WeakKeyDictionary()


def announce(host: Host, lines: Sequence[str], diff: Sequence[str] = ()) -> None:
    """Prints what the host's current operation changes, and the diff when it was asked for.

    Once in a run: while it plans, or where nothing is planned (-y) while it is carried out.
    """
    if host.state.is_executing and host.state.check_for_changes:
        return
    _announced.setdefault(host, {})[host.current_op_hash] = lines
    for line in lines:
        logger.info(f"{host.print_prefix}{format_text('  ' + shown(_plain(line)), 'yellow')}")
    if host.state.config.DIFF:
        for line in diff:
            echo(_coloured(shown(line)), err=True)


def announced(host: Host) -> Mapping[str | None, Sequence[str]]:
    """What `announce` was told in this run, by the operation's hash."""
    return _announced.get(host, {})


def noticed(host: Host) -> Sequence[str]:
    """What was said of a host in this run although nothing is changed for it."""
    return _noticed.get(host, [])


def _plain(line: str) -> str:
    """The sentence, with its impact where its own words do not say it."""
    impact = impact_of(line)
    return line if impact == "none" or impact in line else f"{line} ({impact})"


def _coloured(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return format_text(line, colour) if colour else line
