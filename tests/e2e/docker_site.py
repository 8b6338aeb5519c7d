"""A stack in containers with the directory it is deployed from: what its stories do and compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.docker_stack import Container, DockerStack, containers, footprint
from tests.e2e.project import Data, Project
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host

# A health check every 10 s, and Sentinels that have to find each other.
WELL_SECONDS = 60


@dataclass
class Site:
    """The stack, its directory, what the settings have become, and how its containers were."""

    project: Project
    stack: DockerStack
    settings: dict[str, Any] = field(default_factory=dict)
    before: Mapping[str, Container] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The machine."""
        return self.stack.host

    def look(self) -> None:
        """Remembers the containers as they are."""
        self.before = containers(self.host)

    def restarted(self) -> set[str]:
        """The services whose container is another one, or has been started again."""
        return self._differ("id", "started")

    def replaced(self) -> set[str]:
        """The services whose container is another one."""
        return self._differ("id")

    def _differ(self, *names: str) -> set[str]:
        now = containers(self.host)

        def seen(container: Container | None) -> list[object]:
            return [getattr(container, name) for name in names] if container else []

        return {s for s in {*now, *self.before} if seen(now.get(s)) != seen(self.before.get(s))}

    def settles(self, word: str) -> None:
        """Waits until all is well, with that row and key."""
        eventually(lambda: self.stack.check_all(word), WELL_SECONDS)

    def changes_nothing(self) -> None:
        """A run that has nothing to do."""
        assert self.project.deploy().changed == set()

    def changes(self, settings: Data, *lines: str) -> None:
        """Settings that differ from now on: the plan has these lines, and a run makes it true."""
        self.settings.update(settings)
        self.project.settings(self.settings)
        plan = self.project.plan()
        assert [line for line in lines if line not in plan.output] == [], plan.output
        assert self.project.deploy().changed == plan.planned
        assert self.project.plan().planned == set()

    def refuses(self, *words: str, **settings: Any) -> None:
        """A run that changes nothing and says why in one line, with the host's name."""
        self.project.settings({**self.settings, **settings})
        before = footprint(self.host)
        run = self.project.pyinfra("-y", "inventory.py", "deploy.py")
        self.project.settings(self.settings)
        assert run.code == 1, run.output
        check_lines(run, [(self.host.name, *words), ("nothing was changed",)])
        assert footprint(self.host) == before
