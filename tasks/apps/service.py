"""An application as a supervised service of a host."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.apps import health
from tasks.apps.settings import App
from tasks.core.estate import Node
from tasks.core.files import render
from tasks.core.places import Service
from tasks.core.scripts import quoted


@dataclass(frozen=True)
class AppService(Service):
    """The service of an application: what its unit has beside that of a server.

    Attributes:
        words: the program and its arguments.
        directory: where it starts.
        environment: the file with its variables.
        is_low: it listens on a port that only root may take.
    """

    words: tuple[str, ...] = ()
    directory: str = "/"
    environment: str = ""
    is_low: bool = False
    unit_template: str = "apps/unit.service.j2"
    run_template: str = "apps/run.j2"

    @property
    def for_systemd(self) -> str:
        """The program as systemd takes it: with a colon before it `$` is a character."""
        return f":{' '.join(map(_quoted, self.words))}"

    @property
    def directory_for_systemd(self) -> str:
        """The directory; `%` begins a specifier."""
        return self.directory.replace("%", "%%")

    @property
    def for_shell(self) -> str:
        """The directory and the program as a shell takes them."""
        return quoted(self.directory, *self.words)


def _quoted(word: str) -> str:
    """A word for systemd, which reads C's escapes and its own specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + escaped.replace("\t", "\\t") + '"'


def service_of(node: Node, app: App) -> AppService:
    """The service of one application."""
    place = f"/etc/datatier/{app.service}"
    return AppService(
        name=app.service,
        description=f"application {app.name}",
        command=quoted(*app.words),
        user=app.service,
        group=app.service,
        ready=health.ready(app, node.place),
        reload=":",
        configuration=(f"{place}/environment", node.place.program(app.service)),
        words=tuple(app.words),
        directory=app.directory or "/",
        environment=f"{place}/environment",
        is_low=app.port is not None and app.port < 1024,
        scripts={
            "finish": render("apps/finish.j2", user=app.service),
            "control/t": render("apps/control-t.j2"),
        },
    )
