"""The drift gate: what differs from the settings, as an exit code, a table or JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from copy import copy
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import click
import pyinfra
from pyinfra import logger
from pyinfra.api import State
from pyinfra.api.output import set_echo, set_formatter
from pyinfra.context import ctx_state
from pyinfra_cli.cli import cli
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.core import hide
from tasks.core.change import Impact, announced, impact_of, noticed, summary
from tasks.core.hide import shown

NOTHING, FAILED, PENDING = 0, 1, 2

# Options of pyinfra that would make something else of it than a plan.
_NOT_OURS = {"dry", "yes", "json_output", "support", "debug_facts", "debug_operations"}


@dataclass(frozen=True)
class Pending:
    """A change that is due: a row of the table."""

    host: str
    operation: str
    change: str
    impact: Impact


def _parameters() -> Iterator[click.Parameter]:
    """What pyinfra takes, with `deploy.py` where nothing else is named."""
    for parameter in map(copy, cli.params):
        if parameter.name == "operations":
            parameter.required = False
        if parameter.name not in _NOT_OURS:
            yield parameter
    yield click.Option(["--json", "as_json"], is_flag=True, help="JSON in place of the table.")


def _gate(as_json: bool, operations: Sequence[str], **options: Any) -> int:
    """Compares the hosts with the settings and changes nothing.

    OPERATIONS is a deploy file or a task; deploy.py where there is none. The other options are
    pyinfra's. Exits with 0 when nothing is pending, with 2 when something is, and with 1 when a
    host could not be compared or the settings are refused. What is on a host beside the settings
    and changed by no run is named below, and is no drift.
    """
    state = _dry_run(operations or ("deploy.py",), options)
    if not state.op_meta:
        raise click.ClickException("nothing was compared: no operation for these hosts")
    pending, failed = list(_pending(state)), sorted(host.name for host in state.failed_hosts)
    notices = [(host.name, line) for host in state.inventory for line in noticed(host)]
    if as_json:
        _print_json(pending, failed, notices)
    else:
        _print_table(pending, len(state.active_hosts))
        for name, line in notices:
            print(f"[{name}] {line}")
    if failed:
        raise click.ClickException(f"could not be compared: {', '.join(failed)}")
    return PENDING if pending else NOTHING


def _dry_run(operations: Sequence[str], options: dict[str, Any]) -> State:
    """The state of pyinfra after it has planned everything."""
    pyinfra.is_cli = True
    set_formatter(click.style)
    set_echo(click.echo)
    logger.addFilter(lambda record: record.levelno >= logging.WARNING)
    assert cli.callback is not None
    plan = dict.fromkeys(("debug_facts", "debug_operations", "support", "yes"), False)
    hide.begin()
    with redirect_stdout(StringIO()):
        try:
            # Asking for JSON is asking pyinfra not to wait for an answer.
            cli.callback(**options, **plan, operations=operations, dry=True, json_output=True)
        except SystemExit:
            state: State = ctx_state.get()
            return state
    raise click.ClickException("pyinfra did not come to an end")


def _pending(state: State) -> Iterator[Pending]:
    hosts = [host for host in state.inventory if host in state.activated_hosts]
    for operation in state.get_op_order():
        name = ", ".join(state.op_meta[operation].names)
        for host in hosts:
            planned = state.ops[host].get(operation)
            if planned is not None and planned.operation_meta.will_change:
                for line in announced(host).get(operation, [name]):
                    yield Pending(host.name, name, str(line), impact_of(line))


def _print_json(
    pending: Sequence[Pending], failed: Sequence[str], notices: Sequence[tuple[str, str]]
) -> None:
    impacts = Counter(each.impact for each in pending)
    totals = {"changes": len(pending), "impacts": impacts, "failed_hosts": failed}
    changes = [asdict(each) for each in pending]
    told = [{"host": name, "notice": line} for name, line in notices]
    print(json.dumps({"changes": changes, "notices": told, "summary": totals}, indent=2))


def _print_table(pending: Sequence[Pending], compared: int) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 1000
    if pending:
        table = Table("host", "operation", "change", "impact", box=None)
        for each in pending:
            cells = (each.host, each.operation, shown(each.change))
            table.add_row(*map(Text, cells), _coloured(each.impact))
        console.print(table)
    hosts = f"{compared} host{'s' * (compared != 1)} compared"
    console.print(f"{hosts}: {summary(each.impact for each in pending)}", highlight=False)


def _coloured(impact: Impact) -> Text:
    colours = {"none": "", "reload": "yellow"}
    return Text("-" if impact == "none" else impact, colours.get(impact, "bold red"))


def main(arguments: Sequence[str]) -> int:
    """Runs the gate with a command line's arguments and returns the exit code."""
    gate = click.Command(
        "python -m tasks.drift", params=list(_parameters()), callback=_gate, help=_gate.__doc__
    )
    try:
        return int(gate.main(list(arguments), "python -m tasks.drift", standalone_mode=False))
    except click.ClickException as problem:
        # A wrong option too: click's own code for it, 2, would look like drift.
        problem.show()
    except click.Abort:
        print("interrupted", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
