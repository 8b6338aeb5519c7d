"""The project directory and the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from tasks.backup.passphrase import old_backups, repositories
from tasks.backup.settings import BackupSettings
from tasks.compose import engine
from tasks.compose.content import within
from tasks.compose.inside import one, place_of
from tasks.compose.services import entries_of, inside_of, stale_images
from tasks.compose.settings import DockerSettings
from tasks.core import files
from tasks.core.change import Change, Trial
from tasks.core.component import components
from tasks.core.estate import DOCKER, Node
from tasks.core.files import Found
from tasks.core.places.container import INSIDE
from tasks.core.scripts import shell


def missing_files(node: Node) -> Change | None:
    found = cast(Mapping[str, Found], node.read(DOCKER)["files"])
    now = found[f"{node.the(DockerSettings).project_dir}/.env"].content.decode(errors="replace")
    keeper = one(inside_of(node), BackupSettings)
    change = files.compare(entries_of(node, now, repositories(keeper)), found)
    # Before the program forgets the passphrase that opens them.
    going = within({keeper: old_backups(keeper)})
    if going and change:
        change = going.followed_by(change)
    return change and change.after(_trials(node))


def _trials(node: Node) -> Iterator[Trial]:
    """Of the configurations that are to change, in the containers that have them."""
    said = node.read(DOCKER)["engine"]
    for component in components():
        # All of a kind have the same.
        for container in inside_of(node).having(component.settings)[:1]:
            if any(c.status == "running" for c in said.of(container.service)):
                for trial in component.trials(container):
                    inner = f"set -eu\n{trial.script}"
                    run, given = place_of(container).inside("trial", inner, trial.variables)
                    yield Trial(f"{INSIDE}\n{run}", given)


def missing_image(node: Node, role: str) -> Change | None:
    stale = [service for service, of in stale_images(node).items() if of == role]
    if not stale:
        return None
    home = node.the(DockerSettings).project_dir
    script = shell("build", "compose", project=home, services=" ".join(stale))
    return Change([f"image {role}: build"], f"{engine.COMPOSE}{shell('reason', 'compose')}{script}")
