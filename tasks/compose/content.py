"""Changes that are carried out in containers."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.compose.inside import place_of
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.places.container import INSIDE


def within(changes: Mapping[Node, Change | None]) -> Change | None:
    """Changes that are carried out in containers."""
    due = {container: change for container, change in changes.items() if change is not None}
    if not due:
        return None
    script, lines, variables = INSIDE, list[str](), dict[str, str]()
    for container, change in due.items():
        inner = f"set -eu\numask 022\n{change.script}"
        run, given = place_of(container).inside("change", inner, change.variables)
        script += f"{run} >/dev/null\n"
        variables |= given
        lines += change.lines
    return Change(lines, script, variables)


def asked(container: Node, script: str, variables: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Shell that runs a script in a container and prints what it says, and its variable."""
    run, given = place_of(container).inside("question", script, variables)
    return f"{INSIDE}\n{run}", given
