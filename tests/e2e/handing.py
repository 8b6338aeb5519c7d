"""A project whose switchovers of PostgreSQL are cut off: the controller dies between two steps."""

from __future__ import annotations

from tests.e2e.interrupted import kill
from tests.e2e.project import Project, Run

# The steps that follow the end of the first server, in order.
STEPS = ("caught-up", "hand", "promote", "turn", "handed", "checkpoint")


class Handing(Project):
    """Runs switchovers to their end, or not."""

    def cut_off(self, step: str) -> Run:
        """A switchover whose controller dies before this step."""
        arguments = ("-y", "inventory.py", "tasks.postgres.switchover")
        return self._run("pyinfra", *arguments, prepare=(__name__, "prepare", step))


def prepare(step: str) -> None:
    """Makes this process one that dies before a step."""
    from tasks.postgres import handover

    run, at = handover._run, iter(STEPS)

    def steps(node, script, change):  # type: ignore[no-untyped-def]
        if next(at) == step:
            kill(node.host)
        return run(node, script, change)

    handover._run = steps
