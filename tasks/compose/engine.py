"""The Docker engine of a host: what it says, and shell that runs in its containers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.compose.images import LABEL
from tasks.compose.inside import place_of
from tasks.compose.project import compose_file
from tasks.compose.settings import DockerSettings
from tasks.core.estate import Node
from tasks.core.places.container import inner
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell


@dataclass(frozen=True)
class Container:
    """What the engine says of a container of the project."""

    service: str
    name: str
    hash: str
    status: str
    health: str
    image: str
    place: str


@dataclass(frozen=True)
class Engine:
    """What an engine is and has.

    Attributes:
        version: 'absent', 'down', 'podman', or its number.
        compose: the command, empty where there is none.
        images: id and label of inputs by name.
        hashes: the configuration that each service should have, by Compose's own computation.
        network: name and subnet of the project's own, if that is there.
        attached: names of the containers in it.
        networks: subnets of the others, by name.
        foreign: ports that others' containers publish, and whose.
        cluster: the major version of PostgreSQL in the project's volume.
        stranger: where that volume has a cluster which other images have made.
        unread: volumes of Redis and Sentinel with data that other images have made.
        instead: what would make Compose read another file than ours.
        wrong: why Compose does not take our file with the one that others have put beside it.
        is_overridden: whether there is one.
    """

    version: str = "absent"
    compose: str = ""
    compose_version: tuple[int, ...] = ()
    containers: tuple[Container, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    network: tuple[str, str] = ("", "")
    attached: frozenset[str] = frozenset()
    networks: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[int, str] = field(default_factory=dict)
    cluster: int = 0
    stranger: str = ""
    unread: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    wrong: str = ""
    is_overridden: bool = False

    @property
    def glue(self) -> str:
        """What Compose puts between the project and the service in an image's name."""
        return "_" if self.compose_version < (2,) else "-"

    def of(self, service: str) -> list[Container]:
        """The containers of a service."""
        return [container for container in self.containers if container.service == service]


# One command for two questions: which containers are the project's, and who has which ports.
_EACH = (
    '{{.ID}} {{.Label "com.docker.compose.project"}} {{.Label "com.docker.compose.oneoff"}}'
    ' ports|{{.Names}}|{{.Label "com.docker.compose.project"}}|{{.Ports}}'
)

_CONTAINER = (
    'container|{{index .Config.Labels "com.docker.compose.service"}}|{{.Name}}'
    '|{{index .Config.Labels "com.docker.compose.config-hash"}}|{{.State.Status}}'
    "|{{if .State.Health}}{{.State.Health.Status}}{{end}}|{{.Image}}"
    '|{{index .Config.Labels "com.docker.compose.project.working_dir"}}'
)

_IMAGE = (
    f'image|{{{{.Id}}}}|{{{{index .Config.Labels "{LABEL}"}}}}'
    "|{{range .RepoTags}}{{.}} {{end}}"
)

_NETWORK = (
    'network|{{.Name}}|{{index .Labels "com.docker.compose.project"}}'
    "|{{range .IPAM.Config}}{{.Subnet}} {{end}}|{{range .Containers}}{{.Name}} {{end}}"
)

COMPOSE = shell("compose", "compose")

# What people put beside our file; both Composes read it after ours.
OVERRIDE = "docker-compose.override.yml"
# What some Compose or other would read in the place of these two.
_OTHERS = (
    "compose.yaml compose.yml compose.override.yaml compose.override.yml docker-compose.yaml "
    "docker-compose.override.yaml"
)


def probe(node: Node, images: Mapping[str, str]) -> Probe[Engine]:
    """Reads what the engine has of a host's project.

    Args:
        images: of each service.
    """
    values = {
        "others": _OTHERS,
        "override": OVERRIDE,
        "of_container": _CONTAINER,
        "of_each": _EACH,
        "of_image": _IMAGE,
        "of_network": _NETWORK,
        "images": " ".join(dict.fromkeys(images.values())),
        "project": node.the(DockerSettings).project_dir,
        "stack": node.stack.stack_name,
    }
    script = COMPOSE + shell("engine", "compose", **values)
    text = base64.b64encode(compose_file(node).encode()).decode()
    stack = node.stack.stack_name
    return Probe(script, lambda lines: _parse(stack, lines), (("COMPOSE_FILE_TEXT", text),))


def _parse(stack: str, lines: list[str]) -> Engine:
    rows = [line.split("|") for line in lines]

    def of(kind: str) -> list[list[str]]:
        return [row[1:] for row in rows if row[0] == kind]

    compose = of("compose")
    networks = [(n, owner == stack, s.strip(), there) for n, owner, s, there in of("network")]
    return Engine(
        version=of("engine")[0][0],
        compose=compose[0][0] if compose else "",
        compose_version=_numbers(compose[0][1]) if compose else (),
        containers=tuple(Container(*row) for row in of("container")),
        hashes=dict(of("hash")),
        images={
            name: (image, label) for image, label, names in of("image") for name in names.split()
        },
        network=next(((name, subnet) for name, ours, subnet, _ in networks if ours), ("", "")),
        attached=frozenset(n for _, ours, _, there in networks if ours for n in there.split()),
        networks={name: subnet for name, ours, subnet, _ in networks if not ours},
        foreign={
            port: name
            for name, owner, ports in of("ports")
            if owner != stack
            for port in _published(ports)
        },
        cluster=max((int(row[0]) for row in of("cluster")), default=0),
        stranger="".join(row[0] for row in of("stranger")),
        unread=tuple(row[0] for row in of("unread")),
        instead=tuple(row[0] for row in of("instead")),
        wrong="".join(row[0] for row in of("wrong")),
        is_overridden=bool(of("override")),
    )


def _published(ports: str) -> Iterator[int]:
    """The ports of the host: `0.0.0.0:8000-8010->8000-8010/tcp, [::]:80->80/tcp`."""
    for first, last in re.findall(r":(\d+)(?:-(\d+))?->", ports):
        yield from range(int(first), int(last or first) + 1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# --- Inside containers ---------------------------------------------------------------------------


def inside(
    container: Node, script: str, variables: Mapping[str, str], number: int
) -> tuple[str, dict[str, str]]:
    """Shell that runs a script for hosts in a container, and the variable that holds it."""
    variable = f"INSIDE_{number}"
    run = f"printf '%s\\n' \"${variable}\" | docker exec -i {place_of(container).unit} sh"
    return run, {variable: inner(script, variables)}


# Ends what is said to a question.
_SAID = "\x1d"


def inside_probe(
    node: Node, questions: Sequence[tuple[str, Probe[Any], str]], number: int
) -> Probe[dict[str, Any]]:
    """Probes that run in a container with one command of the engine, which costs more than they do.

    Args:
        questions: the name of each, its probe, and shell that tells what is known while the
            container does not run.
    """
    variable = f"INSIDE_{number}"
    end = f"printf '{_SAID}\\n'\n"
    asked = "".join(f"(\n{probe.script}\n) </dev/null || exit\n{end}" for _, probe, _ in questions)
    stopped = "".join(f"{known}\n{end}" for _, _, known in questions)
    known = f"script=${variable}\nstopped() {{\n{stopped}}}\n"
    script = known + shell("inside-probe", "compose", container=place_of(node).unit)
    secrets = dict(secret for _, probe, _ in questions for secret in probe.secrets)

    def parse(lines: list[str]) -> dict[str, Any]:
        said = dict[str, Any]()
        for name, probe, _ in questions:
            length = lines.index(_SAID)
            said[name], lines = probe.parse(lines[:length]), lines[length + 1 :]
        return said

    return Probe(script, parse, ((variable, inner(asked, secrets)),))


def volume(container: Node, path: str) -> str:
    """Shell: a file in the container's own volume, on its host."""
    volume = f"{container.stack.stack_name}_{container.service.replace('-', '_')}_data"
    root = "$(docker info -f '{{.DockerRootDir}}' 2>/dev/null)"
    return f'"{root}/volumes/{volume}/_data/{path}"'


# --- Waiting -------------------------------------------------------------------------------------

_STATE = (
    '{{index .Config.Labels "com.docker.compose.service"}}|{{.Name}}|{{.State.Status}}'
    "|{{if .State.Health}}{{.State.Health.Status}}{{end}}"
)


def states(node: Node) -> str:
    """Shell that prints `service|container|status|health` of every container of the project."""
    return shell("states", "compose", stack=node.stack.stack_name, format=_STATE)


def up(found: Engine, wanted: Sequence[str]) -> str:
    """Recreates containers; Compose 2 knows nothing of services that it is not to start."""
    count = len(found.of("redis-replica"))
    scale = f"--scale redis-replica={count} " if "redis-replica" in wanted else ""
    return f"up {scale}{quoted(*wanted)}"
