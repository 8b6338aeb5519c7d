"""Places: where a service runs, and what starts, stops and logs it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import ClassVar, Literal

from tasks.core.files import Entry
from tasks.core.remote import Probe
from tasks.core.scripts import shell

STATE_DIRECTORY = "/var/lib/datatier"


@dataclass(frozen=True)
class Service:
    """A long-running program, supervised: when it dies it comes back.

    Attributes:
        name: what an operator calls it; the runit service, and the systemd unit unless `unit`.
        command: the command that runs in the foreground and notifies systemd.
        foreground: the same for runit, where it differs.
        unit: a unit that the distribution ships; it then gets a drop-in only.
        enabled_by: the unit whose enablement starts this one at boot, if not its own.
        before_start: commands run as the service's user before every start.
        exports: its environment; no secrets.
        open_files: limit of file descriptors.
        umask: of the program and what it starts (runit only).
        configuration: the files that a reload makes it take.
        check: shell that refuses a configuration the service would not start with.
        ready: shell that exits with 0 when the service answers a real request.
        knows_itself: `ready` tells its own process from one that answers in its place.
        reload: shell that makes it take its configuration without a restart.
        stop_signal: the signal that stops it, where that is not TERM (runit only).
        hold: shell before a restart, after which clients wait.
        release: shell that lets clients go on, also after a wait that others began.
        functions: shell functions of check, ready and reload.
        variables: shell variables of these; they may be secret.
        program: what runs, if a restart is due where an upgrade has put another file in its place.
        package: the package that brings it.
        listens: the address and port on which a start without that address leaves it deaf.
        unit_template, run_template: what its unit and its runit program are made from.
        scripts: further ones of its runit directory, by name; they restart nothing.
        confined: the kernel refuses what it never does, from its next start on (systemd only);
            `mostly` for one whose code and data may come from elsewhere, `measures` for one
            that reads what its whole host is, and writes nothing.
        writes: all that it can write; empty for what its user can (systemd only).
    """

    name: str
    description: str
    command: str
    user: str
    group: str
    ready: str
    reload: str
    configuration: tuple[str, ...] = ()
    check: str = ":"
    foreground: str = ""
    unit: str = ""
    enabled_by: str = ""
    before_start: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    open_files: int = 65536
    umask: str = "077"
    runtime_directory: str = ""
    reload_signal: str = ""
    stop_signal: str = ""
    knows_itself: bool = False
    hold: str = ":"
    release: str = ":"
    functions: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    program: str = ""
    package: str = ""
    listens: tuple[str, int] | None = None
    unit_template: str = "service/unit.service.j2"
    run_template: str = "service/run.j2"
    scripts: Mapping[str, str] = field(default_factory=dict)
    confined: Literal["", "mostly", "wholly", "measures"] = ""
    writes: tuple[str, ...] = ()

    @property
    def systemd_unit(self) -> str:
        """The unit that systemctl knows it by."""
        return self.unit or f"{self.name}.service"


class Place:
    """A supervisor of services, the same to all that use it.

    Attributes:
        name: its files of shell are `NAME.sh`, `NAME-log.sh`, `NAME-removal.sh`, `NAME-status.sh`.
        packages: what a component installs besides its own packages to be supervised.
        is_init: whether it starts the host, with what others have on it.
        shares_files: whether services of a kind read the same files, which are not theirs alone.
        logs_output: whether what a service prints is its log.
        records: the directory of the activation records.
        network: addresses that only services of the same project have; None on a host.
        given: those of them that services get which no setting names.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    is_init: ClassVar[bool] = False
    shares_files: ClassVar[bool] = False
    logs_output: ClassVar[bool] = False
    records: str = STATE_DIRECTORY
    network: IPv4Network | None = None
    given: IPv4Network | None = None

    def unable(self) -> Probe[str]:
        """Reads whether it cannot take from services what they never do; empty if it can."""
        return Probe(":", "".join)

    def files(self, service: Service) -> list[Entry]:
        """What the supervisor needs to know of a service."""
        return []

    def fingerprinted(self, service: Service) -> list[str]:
        """What of these files takes a restart of the service."""
        return []

    def program(self, service: str) -> str:
        """The one of these files that says what runs, of a service without a unit of others."""
        return ""

    def process(self, service: str) -> str:
        """Shell that prints the process of a service, 0 or nothing where it does not run."""
        return ":"

    def units(self, service: Service) -> tuple[str, ...]:
        """What the supervisor calls a service; several where they have the same settings."""
        return (service.systemd_unit,)

    def watched(self, service: Service) -> tuple[str, ...]:
        """The files that are loaded again when they are newer than the record."""
        return service.configuration

    def part(self, service: Service, unit: str, part: str) -> str:
        """Shell for scripts on the host: its check, ready or reload, where the service runs."""
        return str(getattr(service, part))

    def variables(self, service: Service) -> Mapping[str, str]:
        """Shell variables of the parts; they may be secret."""
        return service.variables

    def command(self, command: str) -> str:
        """A command for scripts on the host that runs where the service does."""
        return command

    def status(self, services: Sequence[Service]) -> str:
        """Shell that prints a line for each service on whether it runs, then on its enablement."""
        every = [(s.name, s.systemd_unit, s.enabled_by or s.systemd_unit, s.user) for s in services]
        names, units, enabled_by, users = (" ".join(each) for each in zip(*every, strict=True))
        words = {"names": names, "units": units, "enabled_by": enabled_by, "users": users}
        return shell(f"{self.name}-status", **words)

    def functions(self, services: Sequence[Service] = ()) -> str:
        """Shell for scripts on the host: start_service, stop_service, last_log, each NAME UNIT."""
        of = "".join(dict.fromkeys(service.functions for service in services))
        return shell("runs") + shell(self.name) + shell(f"{self.name}-log") + of

    def removal(self) -> str:
        """Shell for scripts on the host: leave_service NAME UNIT ENABLED_BY, forget_units."""
        return shell(f"{self.name}-log") + shell(f"{self.name}-removal")
