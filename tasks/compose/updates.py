"""Updates of the packages in images that are built here: what is due, and building them again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from tasks.compose import engine
from tasks.compose.building import missing_files
from tasks.compose.engine import Engine
from tasks.compose.images import dockerfile
from tasks.compose.services import built, image_of, inside_of, name_of
from tasks.compose.settings import ROLES, DockerSettings
from tasks.core import remote
from tasks.core.change import Change, converge
from tasks.core.estate import DOCKER, Node
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import shell
from tasks.upgrade.updates import CANDIDATES, Found, Update, chosen, parse, require_others

Outdated = Mapping[str, Found]


def upgrade(node: Node) -> None:
    """Builds images again whose packages have updates; what runs goes on, and follows later."""
    converge(
        "Upgrade: images", lambda: due_images(node), one_by_one=True, notices=lambda: told(node)
    )


def _ids(node: Node) -> dict[str, str]:
    """The images that are built here and their roles, without those that are not there yet."""
    found = cast(Engine, node.read(DOCKER)["engine"])
    there = {image_of(node, found, each)[0]: role for each, role in built(node).items()}
    return {image.removeprefix("sha256:"): role for image, role in there.items() if image}


def _found(node: Node) -> dict[str, Found]:
    """What could be upgraded in the images of each role.

    Raises:
        Unreadable: an archive does not answer, for one.
    """
    ids = _ids(node)
    if not ids:
        return {}
    inside = CANDIDATES + shell("updates-inside", "compose")
    script = shell("updates", "compose", images=" ".join(ids), asks=inside)
    probe = Probe(script, _by_image)
    said = remote.read(node.host, lambda: {"images": {"updates": probe}}, "images")["updates"]
    found = dict[str, list[Update]]()
    for image, role in ids.items():
        updates = found.setdefault(role, [])
        updates += [each for each in said[image].due if each not in updates]
    return {role: Found(tuple(found[role])) for role in ROLES if role in found}


def _by_image(lines: Sequence[str]) -> dict[str, Found]:
    """What the lines of shell/updates-inside.sh say."""
    parts = re.findall(r"(?m)^image (\S+)$\n?((?:^(?!image ).*$\n?)*)", "\n".join(lines))
    return {image: parse(said.splitlines()) for image, said in parts}


def due_images(node: Node) -> Change | None:
    """Another build of the images for which the settings ask, with all that is newer.

    Raises:
        Unreadable: what is due; the project is another one; (during a run) another host has failed.
    """
    due = {role: each.due for role, each in _found(node).items() if chosen(node, each)}
    if not due:
        return None
    if missing_files(node):
        # What they are built from is read from the project.
        raise Unreadable("the project is not as the settings say: run deploy.py first")
    if node.host.state.is_executing:
        require_others(node)
    else:
        node.rebuilds = frozenset(due)
    return Change([*_lines(due)], _script(node, due))


def _lines(due: Mapping[str, Sequence[Update]]) -> Iterator[str]:
    of = dict[Update, list[str]]()
    for role, updates in due.items():
        for each in updates:
            of.setdefault(each, []).append(role)
    for each, roles in of.items():
        said = f"{each.now} -> {each.to}{' (security)' * each.is_security}"
        yield f"image {', '.join(roles)}: package {each.name}: upgrade {said}"


def _script(node: Node, due: Mapping[str, object]) -> str:
    found = cast(Engine, node.read(DOCKER)["engine"])
    services = {role: [s for s, of in built(node).items() if of == role] for role in due}
    first = {role: of[0] for role, of in services.items()}
    # That of a role which another one is built on is built with it; the last of the file first.
    stages = re.findall(
        r"(?m)^FROM (\S+) AS (\w+)$", dockerfile(inside_of(node), node.the(DockerSettings))
    )
    below = {parent for parent, role in stages if role in due}
    names = [
        f"{first[role]}={name_of(node, found, service)}"
        for role, of in services.items()
        for service in of
        if image_of(node, found, service)[0]
    ]
    return (
        engine.COMPOSE
        + shell("reason", "compose")
        + shell(
            "rebuild",
            "compose",
            project=node.the(DockerSettings).project_dir,
            newer=f"{node.stack.stack_name}-newer",
            glue=found.glue,
            fresh=" ".join(first[role] for role in reversed([*due]) if role not in below),
            below=" ".join(first[role] for role in due if role in below),
            names=" ".join(names),
        )
    )


def told(node: Node) -> Iterator[str]:
    """Sentences on images that are not built again."""
    for role, each in _found(node).items():
        if each.due and not chosen(node, each):
            names = ", ".join(update.name for update in each.due)
            yield f"image {role}: other updates: {names}; upgrade_packages=all takes them too"
    for role in ROLES:
        if image := node.the(DockerSettings).image(role):
            yield f"docker_image_{role}: {image} is yours: build it again for newer packages"
