"""A container of a Compose project, which the Docker engine supervises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from tasks.core.places import STATE_DIRECTORY, Place, Service
from tasks.core.remote import PATHS, PROGRAMS
from tasks.core.scripts import assignments, quoted, shell

RECORDS = f"{STATE_DIRECTORY}/docker"
# Shell: `inside CONTAINER SCRIPT`.
INSIDE = shell("inside")


@dataclass(frozen=True)
class Container(Place):
    """It has no files of a supervisor: the project says what runs, and starts what does not.

    Attributes:
        unit: its name in the engine.
        scaled: names of further ones that have the same settings.
    """

    unit: str
    records: str
    network: IPv4Network
    given: IPv4Network
    scaled: tuple[str, ...] = ()

    name = "container"
    shares_files = True
    logs_output = True

    def units(self, service: Service) -> tuple[str, ...]:
        return self.unit, *self.scaled

    def watched(self, service: Service) -> tuple[str, ...]:
        return ()

    def part(self, service: Service, unit: str, part: str) -> str:
        does = f"reload {service.name}" if part == "reload" else "inside"
        return f'{does} {quoted(unit)} "${self._variable(part)}"'

    def variables(self, service: Service) -> Mapping[str, str]:
        parts = ("check", "ready", "reload")
        return {self._variable(part): _inner_part(service, part) for part in parts}

    def inside(
        self, name: str, script: str, variables: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        """Shell that runs a script for hosts in the container, and the variable that has it."""
        variable = self._variable(name)
        return f'inside {self.unit} "${variable}"', {variable: inner(script, variables)}

    def _variable(self, name: str) -> str:
        return f"{name}_{self.unit}".upper().replace("-", "_")

    def command(self, command: str) -> str:
        return f"docker exec {self.unit} {command}"

    def status(self, services: Sequence[Service]) -> str:
        return "echo run\n" * len(services) + "echo enabled\n" * len(services)

    def functions(self, services: Sequence[Service] = ()) -> str:
        return INSIDE + super().functions()


def _inner_part(service: Service, part: str) -> str:
    # That it does not answer yet is no failure.
    stops = ":" if part == "ready" else "set -eu"
    script = f"{stops}\n{shell('container-asks')}{service.functions}{getattr(service, part)}"
    return inner(script, service.variables)


def inner(script: str, variables: Mapping[str, str]) -> str:
    """A script for a host, as a container's shell reads it from its standard input."""
    return f"{assignments(variables)}{shell('become')}cd /\n{PROGRAMS}{PATHS}({script}\n)"
