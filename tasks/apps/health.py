"""What tells that an application is well: it runs, and answers where it listens."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.apps.settings import App, apps_of
from tasks.core.check import Check
from tasks.core.estate import Node
from tasks.core.offer import NEAR
from tasks.core.places import Place
from tasks.core.scripts import quoted, shell


def request(app: App, place: str, port: int) -> str:
    """A request as another program of the host makes it."""
    if app.health == "tcp":
        connect = "exec 3<>/dev/tcp/$0/$1 && echo accepts connections"
        words = quoted(connect, place, str(port))
    else:
        words = quoted(shell("http", "apps"), place, str(port), app.health.removeprefix("http:"))
    # A pipeline ends as its last command does, whatever the answer was.
    return (
        f"said=$(timeout 10 bash -c {words} 2>/dev/null) || "
        '{ echo "${said:-no answer}"; exit 1; }; echo "$said"'
    )


def ready(app: App, place: Place) -> str:
    """Shell that exits with 0 when the application has started."""
    stays = _stays(app, place, 3)
    return f"{request(app, NEAR, app.port)}\n{_stays(app, place, 0)}" if app.port else stays


def _stays(app: App, place: Place, seconds: int) -> str:
    process = f"process() {{ {place.process(app.service)}; }}\n"
    return process + shell("stays", "apps", seconds=str(seconds))


def rows(node: Node) -> Iterator[Check]:
    """A row for each application of a host."""
    for app in apps_of(node):
        where = f"{NEAR}:{app.port}" if app.port else "-"
        yield Check(app.name, node, where, _asked(app, node.place), where, RANK)


# Beneath all of the stack.
RANK = 5


def _asked(app: App, place: Place) -> str:
    stays = _stays(app, place, 0)
    return f"{stays}{request(app, NEAR, app.port)}" if app.port else f"{stays}echo runs"
