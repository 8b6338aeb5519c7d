"""The Docker engine of a host: what it says, and shell that runs in its containers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks import project
from tasks.core.estate import Node
from tasks.core.remote import PATHS, Probe, assignments, quoted


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
        version: 'absent', 'down', or its number.
        compose: the command, empty where there is none.
        images: id and label of inputs by name.
        hashes: the configuration that each service should have, by Compose's own computation.
        network: name and subnet of the project's own, if that is there.
        attached: names of the containers in it.
        networks: subnets of the others, by name.
        foreign: ports that others' containers publish, and whose.
        cluster: the major version of PostgreSQL in the project's volume.
        stranger: where that volume has a cluster which other images have made.
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
    instead: tuple[str, ...] = ()
    wrong: str = ""
    is_overridden: bool = False

    def of(self, service: str) -> list[Container]:
        """The containers of a service."""
        return [container for container in self.containers if container.service == service]


# The command of the documentation first: what it creates it recognises.
COMPOSE = """
if command -v docker-compose >/dev/null; then compose=docker-compose
elif docker compose version >/dev/null 2>&1; then compose='docker compose'
else compose=; fi
"""

_CONTAINER = (
    'container|{{index .Config.Labels "com.docker.compose.service"}}|{{.Name}}'
    '|{{index .Config.Labels "com.docker.compose.config-hash"}}|{{.State.Status}}'
    "|{{if .State.Health}}{{.State.Health.Status}}{{end}}|{{.Image}}"
    '|{{index .Config.Labels "com.docker.compose.project.working_dir"}}'
)

_IMAGE = (
    f'image|{{{{.Id}}}}|{{{{index .Config.Labels "{project.LABEL}"}}}}'
    "|{{range .RepoTags}}{{.}} {{end}}"
)

# What people put beside our file; both Composes read it after ours.
OVERRIDE = "docker-compose.override.yml"
# What some Compose or other would read in the place of these two.
_OTHERS = (
    "compose.yaml compose.yml compose.override.yaml compose.override.yml docker-compose.yaml "
    "docker-compose.override.yaml"
)

# Compose says what the hash of each service would be; only a file can be given to 1.29.
_READ = """
command -v docker >/dev/null || { echo 'engine|absent'; exit 0; }
engine=$(docker info -f '{{.ServerVersion}}|{{.DockerRootDir}}' 2>/dev/null) || engine='|'
[ "$engine" != '|' ] || { echo 'engine|down'; exit 0; }
echo "engine|${engine%%|*}"
__COMPOSE__
version=$([ -z "$compose" ] || $compose version --short)
[ -z "$compose" ] || echo "compose|$compose|$version"
case $version in 1.*) glue=_ ;; *) glue=- ;; esac
for f in __OTHERS__; do [ ! -e __DIR__/$f ] || echo "instead|$f"; done
! grep -qs '^ *COMPOSE_FILE *=' __DIR__/.env || echo 'instead|COMPOSE_FILE in .env'
[ ! -e __DIR__/__OVERRIDE__ ] || echo override
ids=$(docker ps -aq --filter label=com.docker.compose.project=__STACK__ \\
  --filter label=com.docker.compose.oneoff=False)
if [ -n "$ids" ]; then docker inspect -f '__CONTAINER__' $ids; fi
docker ps --format 'ports|{{.Names}}|{{.Label "com.docker.compose.project"}}|{{.Ports}}'
docker network ls -q | xargs -r docker network inspect -f \\
  'network|{{.Name}}|{{index .Labels "com.docker.compose.project"}}|__SUBNETS__|__ATTACHED__'
ls -d "${engine#*|}"/volumes/__STACK___postgres_data/_data/[0-9]* 2>/dev/null |
  sed -n 's,^/.*/\\([0-9]*\\)$,cluster|\\1,p'
find "${engine#*|}/volumes/__STACK___postgres_data/_data" -maxdepth 3 -name PG_VERSION \\
  ! -path '*/_data/[0-9]*/main*' ! -path '*/_data/.*' -printf 'stranger|%h\\n' 2>/dev/null |
  grep -x 'stranger|/[^|]*' | sort | head -n 1
docker image inspect -f '__IMAGE__' $(echo __IMAGES__ | sed "s/%/$glue/g") 2>/dev/null || :
if [ -n "$ids" ] && [ -n "$compose" ] && [ -d __DIR__/docker/images ]; then
  file=$(mktemp -p /run); trap 'rm -f "$file"' EXIT
  printf '%s' "$COMPOSE_FILE_TEXT" | base64 -d >"$file"
  set -- -f "$file"
  [ ! -e __DIR__/__OVERRIDE__ ] || set -- "$@" -f __DIR__/__OVERRIDE__
  hashes=$($compose -p __STACK__ "$@" --project-directory __DIR__ config --hash '*' \
    2>"$file.err" </dev/null) || echo "wrong|$(tail -n 1 "$file.err" | tr '|' ' ')"
  rm -f "$file.err"
  [ -z "$hashes" ] || printf '%s\n' "$hashes" | sed 's/^/hash|/; s/ /|/2; s/ /|/'
fi
"""


def probe(node: Node, images: Mapping[str, str]) -> Probe[Engine]:
    """Reads what the engine has of a host's project.

    Args:
        images: of each service.
    """
    script = _READ
    for word, value in {
        "__COMPOSE__": COMPOSE,
        "__OVERRIDE__": OVERRIDE,
        "__OTHERS__": _OTHERS,
        "__CONTAINER__": _CONTAINER,
        "__STACK__": node.stack.stack_name,
        "__IMAGES__": quoted(*dict.fromkeys(images.values())),
        "__IMAGE__": _IMAGE,
        "__SUBNETS__": "{{range .IPAM.Config}}{{.Subnet}} {{end}}",
        "__ATTACHED__": "{{range .Containers}}{{.Name}} {{end}}",
        "__DIR__": quoted(node.the(project.DockerSettings).project_dir),
    }.items():
        script = script.replace(word, value)
    text = base64.b64encode(project.compose_file(node).encode()).decode()
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
    run = f"printf '%s\\n' \"${variable}\" | docker exec -i {container_name(container)} sh"
    return run, {variable: inner(script, variables)}


# What a container says of a part of itself, or what is told where it does not run.
_INSIDE = """
err=$(mktemp -p /run); trap 'rm -f "$err"' EXIT
printf '%s\\n' "$SCRIPT" | docker exec -i CONTAINER sh 2>"$err" && exit 0
status=$?
gone='No such container|is not running|is restarting|Cannot connect|docker: not found'
if grep -qE "$gone" "$err"; then
STOPPED
exit 0
fi
cat "$err" >&2; exit $status
"""


# Scripts for hosts begin as root; a container's user is who they want to become.
_BECOME = """
if [ "$(id -u)" != 0 ]; then
  bin=$(mktemp -d); trap 'rm -rf "$bin"' EXIT
  printf '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n' >"$bin/runuser"
  chmod 755 "$bin/runuser"; PATH=$bin:$PATH
fi
"""


def inner(script: str, variables: Mapping[str, str]) -> str:
    """A script for a host, as a container's shell reads it from its standard input."""
    return f"{assignments(variables)}{_BECOME}cd /\n{PATHS}({script}\n)"


def inside_probe(node: Node, probe: Probe[Any], number: int, stopped: str) -> Probe[Any]:
    """A probe that runs in a container; `stopped` is shell that tells what is known without it."""
    variable = f"INSIDE_{number}"
    script = _INSIDE.replace("$SCRIPT", f"${variable}").replace("CONTAINER", container_name(node))
    text = inner(probe.script, dict(probe.secrets))
    return Probe(script.replace("STOPPED", stopped), probe.parse, ((variable, text),))


def container_name(container: Node) -> str:
    """What the engine calls a container of the stack."""
    # Compose 2 calls the first of `--scale redis-replica=3` psscript-redis-replica-1.
    return f"{container.stack.stack_name}_{container.service}"


def volume(container: Node, path: str) -> str:
    """Shell: a file in the container's own volume, on its host."""
    volume = f"{container.stack.stack_name}_{container.service.replace('-', '_')}_data"
    root = "$(docker info -f '{{.DockerRootDir}}' 2>/dev/null)"
    return f'"{root}/volumes/{volume}/_data/{path}"'


# Shell: `inside CONTAINER SCRIPT`.
INSIDE = """
err=$(mktemp -p /run); trap 'rm -f "$err"' EXIT
inside() { # CONTAINER SCRIPT
  printf '%s\\n' "$2" | docker exec -i "$1" sh 2>"$err" || {
    echo "$1: $(tail -n 1 "$err")" >&2; return 1; }
}
"""


# --- Waiting -------------------------------------------------------------------------------------

_STATES = """
ids=$(docker ps -aq --filter label=com.docker.compose.project={stack} \\
  --filter label=com.docker.compose.oneoff=False)
docker inspect -f '{format}' $ids
"""
_STATE = (
    '{{index .Config.Labels "com.docker.compose.service"}}|{{.Name}}|{{.State.Status}}'
    "|{{if .State.Health}}{{.State.Health.Status}}{{end}}"
)


def states(node: Node) -> str:
    """Shell that prints `service|container|status|health` of every container of the project."""
    return _STATES.format(stack=node.stack.stack_name, format=_STATE)
