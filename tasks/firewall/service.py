"""How the rules get into the kernel, and why they have to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import ndiff

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.firewall.files import NAME, RULES, files_of, rules_text
from tasks.firewall.leaves import former_of, held
from tasks.firewall.probes import Table


def due_rules(node: Node) -> Change | None:
    """Files and rules that differ from the settings, or None.

    A port that left the settings stays closed: who listens there does so until it has restarted.
    """
    said, left = node.read("firewall"), former_of(node)
    written = files.compare(files_of(node, left), said["files"])
    is_new = not files.are_written({RULES: rules_text(node, left)}, said["files"])
    why = "; ".join(_why(said["table"].without({each.port for each in left}), is_new))
    return _loaded(written, why) if why else written


def due_opening(node: Node) -> Change | None:
    """Opens the ports that left the settings, but for those of services that were left behind."""
    said, stays = node.read("firewall"), held(node)
    opened = [str(each.port) for each in former_of(node) if each.port not in stays]
    if not opened:
        return None
    left = [each for each in former_of(node) if each.port in stays]
    written = files.compare(files_of(node, left), said["files"])
    return _loaded(written, f"{', '.join(opened)}: no longer a port of the settings")


def _loaded(written: Change | None, why: str) -> Change:
    load = Change(
        [f"firewall: load ({why})"], shell("load", "firewall", rules_file=RULES, unit=NAME)
    )
    if written is None:
        return load
    return replace(written.followed_by(load), diff=written.diff)


def _why(table: Table, is_new: bool) -> Iterator[str]:
    if not table.now:
        yield "its table is missing"
    elif table.now != table.wanted and is_new:
        yield "new rules"
    elif table.now != table.wanted:
        yield from _differences(table)
    elif not table.starts:
        yield "systemd would not load it again"


def _differences(table: Table) -> Iterator[str]:
    """What hands have changed in the kernel, or an interrupted run has not loaded, by rule."""
    for line in ndiff(table.wanted, table.now):
        kind, rule = line[:2], " ".join(line[2:].split())
        if kind in ("+ ", "- ") and rule:
            yield f"the kernel {'has' if kind == '+ ' else 'lacks'} {rule!r}"
