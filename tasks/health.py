"""The health table: every service, seen by a real request."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, replace

import gevent
from pyinfra import logger
from pyinfra.api import Host, StringCommand, operation
from pyinfra.context import ctx_host
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.core import asking, estate, leavings, preflight, remote
from tasks.core.change import announced, impact_of, summary
from tasks.core.check import Check
from tasks.core.estate import Estate, Node
from tasks.core.hide import shown
from tasks.core.scripts import quoted, shell
from tasks.core.settings import Problem

# Sentinels find replicas and each other within two of their 10 s rounds (INFO and hello).
SETTLE_SECONDS = 45


@dataclass(frozen=True)
class Row:
    """A check and its answer.

    Attributes:
        cluster: the system identifier of the PostgreSQL that has answered.
    """

    check: Check
    healthy: bool
    answer: str
    cluster: str = ""


# Of a server that is not ours: a pooler that leads there is not well either.
_ELSEWHERE = "elsewhere"

Place = tuple[str, str]


def _place(check: Check) -> Place:
    return check.node.name, check.service


def _checks(node: Node) -> Iterator[Check]:
    for component in node.components():
        yield from component.rows(node)


def _ask(checks: list[Check]) -> list[Row]:
    """Checks of one host, with one command."""
    if not checks:
        return []
    functions = dict.fromkeys(check.functions for check in checks)
    script = "".join(["cd /\n", remote.PROGRAMS, remote.PATHS, *functions, shell("check")])
    node = checks[0].node
    listening = preflight.listeners_probe([listener.port for listener in node.listeners()])
    script += "".join(
        f"{{ out=$( ({check.script}\n) 2>&1 </dev/null); answered {n} $?; }} &\n"
        for n, check in enumerate(checks)
    )
    script += f"held=$( (\n{_redirected(checks)}{listening.script}\n) </dev/null)\n"
    script += "wait\nprintf '%s\\n' \"$held\"\n"
    variables = {k: v for check in checks for k, v in check.variables.items()}
    output = remote.run(node.host, script, variables)
    said = dict(line.split("\t", 1) for line in output.stdout[: len(checks)] if "\t" in line)
    if said.keys() != {str(n) for n in range(len(checks))}:
        return [Row(check, False, output.last_word or "no answer") for check in checks]
    lines = [line for line in output.stdout[len(checks) :] if line]
    redirected = {line.partition(" ")[2] for line in lines if line.startswith("redirected ")}
    held = listening.parse([line for line in lines if not line.startswith("redirected ")])
    found = [_of_ours(_row(check, said[str(n)]), held) for n, check in enumerate(checks)]
    return [_not_elsewhere(row, redirected) for row in found]


def _redirected(checks: list[Check]) -> str:
    """Shell that says at which places of this host another one answers than who listens there."""
    node = checks[0].node
    ports = [] if node.place.given else [str(each.port) for each in node.listeners()]
    places = [check.where.rpartition(":")[::2] for check in checks if check.where[:1] != "/"]
    words = [word for place in places if place[1] in ports for word in place]
    script = quoted(shell("redirected"), "-", *words)
    return f"timeout 5 bash -c {script}\n" if words else ""


def _not_elsewhere(row: Row, redirected: Collection[str]) -> Row:
    if row.check.where not in redirected:
        return row
    answer = "another server answers there: rules of nftables or iptables redirect its packets"
    return replace(row, healthy=False, answer=answer)


def _of_ours(row: Row, holders: list[preflight.Holder]) -> Row:
    """An answer is that of our service where this one has the address: another may answer there."""
    at, _, port = row.check.where.rpartition(":")
    wanted = [each for each in row.check.node.listeners() if str(each.port) == port]
    place = "127.0.0.1" if at.startswith("/") else at
    other = next((o for each in wanted if (o := preflight.stranger(each, holders, place))), None)
    return replace(row, healthy=False, answer=f"held by {shown(str(other))}") if other else row


def _row(check: Check, line: str) -> Row:
    said, _, status = line.rpartition("\tstatus ")
    answer, _, served = said.rpartition("\tcluster ")
    cluster, _, data = served.partition(" ")
    if check.data and data and data != check.data:
        return Row(check, False, f"the server there has its data in {shown(data)}", _ELSEWHERE)
    return Row(check, status == "0", shown(answer).replace("\t", " "), cluster)


def rows(nodes: list[Node], only: Collection[Place] = ()) -> list[Row]:
    """Asks every service of these hosts once; the rows come in the order of deployment."""
    asked = ([c for c in _checks(n) if not only or _place(c) in only] for n in nodes if n.settings)
    jobs = [gevent.spawn(_ask, checks) for checks in asked]
    gevent.joinall(jobs)
    answers = _of_one_cluster([row for job in jobs for row in job.get()])
    return sorted(answers, key=lambda row: row.check.rank)


def _of_one_cluster(answers: list[Row]) -> list[Row]:
    """A pooler leads to the PostgreSQL of the settings: its address may be another server's."""
    servers = {_stack(row): row.cluster for row in answers if row.check.data}
    return [
        replace(row, healthy=False, answer=f"leads to another PostgreSQL (cluster {row.cluster})")
        if row.cluster and (known := servers.get(_stack(row))) and known != row.cluster
        else row
        for row in answers
    ]


def _stack(row: Row) -> str:
    """A Docker host has a stack of its own."""
    return row.check.node.name if row.check.node.inside else ""


def _of_failed(everything: Estate, well: list[Node]) -> list[Row]:
    """Rows for hosts on which this run failed, or that it did not reach at all."""
    failed = [n for n in everything.nodes if n not in well and estate.is_wanted(n.host)]
    checks = (check for node in failed if not node.host.connected for check in _checks(node))
    lost = [Row(check, False, "the host was not reached") for check in checks]
    return [*rows([node for node in failed if node.host.connected]), *lost]


def _settled(nodes: list[Node], seconds: float) -> list[Row]:
    """The rows once all are healthy, or as they are when the time is over."""
    end = time.monotonic() + seconds
    answers = rows(nodes)
    if seconds and _may_settle(answers):
        logger.info(f"--> Waiting up to {SETTLE_SECONDS} s for the services to find each other")
    while time.monotonic() < end and _may_settle(answers):
        ill = {_place(row.check) for row in answers if not row.healthy}
        time.sleep(1)
        # Asking them all takes the processors that they find each other with.
        while time.monotonic() < end and _may_settle(rows(nodes, ill)):
            time.sleep(1)
        answers = rows(nodes)
    return answers


def _may_settle(answers: list[Row]) -> bool:
    is_cut_off = any(row.answer.startswith(remote.BROKEN) for row in answers)
    is_due = any(not row.healthy and row.check.settles for row in answers)
    return is_due and not is_cut_off


def table(answers: list[Row], *, crop: bool = False) -> Table:
    """The rows as a table for people.

    Args:
        crop: to one line each, except what fails.
    """
    result = Table("service", "host", "listens on", "health", box=None)
    for column in result.columns[:-1]:
        column.no_wrap = crop
    for row in answers:
        check = row.check
        mark = ("ok", "green") if row.healthy else ("FAILS", "bold red")
        answer = Text.assemble(mark, f"  {row.answer}")
        if crop and row.healthy:
            answer.no_wrap, answer.overflow = True, "ellipsis"
        result.add_row(*map(Text, (check.service, check.node.name, check.where)), answer)
    return result


def _wrong(everything: Estate) -> list[Problem]:
    """What a table is refused for; what hangs, or has the port of ours, is what it is to show."""
    wrong = estate.everything_wrong(everything, ports=False)
    return [each for each in wrong if each.key != estate.UNREAD]


def _verify(settle: float) -> None:
    estate.here(_wrong)
    _verified(settle=settle, name="Health: every service answers")


@operation()
def _verified(settle: float) -> Generator[StringCommand, None, None]:
    host = ctx_host.get()
    if not host.state.is_executing:
        _summarise(host)
        return
    everything = estate.here().estate
    nodes = [node for node in everything.active if node.host in host.state.active_hosts]
    if not nodes or nodes[0].host is not host:
        return
    answers = [*_settled(nodes, settle), *_of_failed(everything, nodes)]
    console = Console(stderr="--json" in sys.argv)
    lines, columns = console.height, console.width
    console.width = max(columns, 130)
    console.print(table(answers))
    if not settle:
        for name, line in _beside(nodes):
            console.print(Text(f"[{name}] {shown(line)}"), soft_wrap=True)
    failing = [f"{r.check.service} on {r.check.node.name}" for r in answers if not r.healthy]
    # A worker listens nowhere, and no client connects to some services.
    by_rank = {r.check.rank: r.check.connect for r in reversed(answers) if r.check.connect != "-"}
    connect = [line for _, line in sorted(by_rank.items())]
    _print_connect(console, connect)
    if settle and console.is_terminal:
        # pyinfra's results follow, and scroll this off the terminal.
        atexit.register(_end, Console(width=columns), answers, connect, lines)
    sent = sum(remote.commands(node.host) for node in nodes)
    logger.info(f"    {sent} commands to {len(nodes)} host{'s' * (len(nodes) > 1)}")
    if failing:
        yield StringCommand(f"echo 'not healthy: {', '.join(failing)}' >&2; exit 1")


def _print_connect(console: Console, connect: list[str]) -> None:
    block = "\n".join(["connect (passwords: .env)", *(f"  {line}" for line in connect)])
    console.print(f"\n{block}", highlight=False, markup=False)


def _end(console: Console, answers: list[Row], connect: list[str], height: int) -> None:
    """What is seen at the very end: a line a service where the terminal has room, and the ways in.

    Args:
        height: of the terminal, in lines; the last is for the prompt.
    """
    shown = short(answers, height - len(connect) - 6)
    console.print()
    if shown:
        console.print(table(shown, crop=True))
    rest = len(answers) - len(shown)
    if rest:
        what = f"{rest} more answer" if shown else f"all {rest} services answer"
        console.print(f" {what}", highlight=False)
    _print_connect(console, connect)


def short(answers: list[Row], lines: int) -> list[Row]:
    """All rows if so many lines have room for them; else those that fail."""
    return answers if len(answers) <= lines else [row for row in answers if not row.healthy]


def _beside(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """What is on the hosts beside ours; a run has told of it before."""
    for node in nodes:
        try:
            yield from [(node.name, line) for line in leavings.beside(node)]
        except remote.Unreadable as unreadable:
            yield node.name, str(unreadable)


def _summarise(host: Host) -> None:
    """Ends the plan of a host that has changes to come."""
    lines = [line for lines in announced(host).values() for line in lines]
    if lines:
        logger.info(f"{host.print_prefix}{summary(map(impact_of, lines))}")


def report() -> None:
    """Ends a run: waits until the services have found each other, and prints the table."""
    _verify(SETTLE_SECONDS)


def verify() -> None:
    """Prints the table alone; fails when a row fails, and asks no question before."""
    asking.only_looks()
    _verify(0)
