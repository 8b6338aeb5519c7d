"""A host that systemd has started."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from tasks.core.files import Directory, Entry, File, render
from tasks.core.places import Place, Service
from tasks.core.remote import Probe
from tasks.core.scripts import shell

_UNITS = "/etc/systemd/system"


class Systemd(Place):
    """Units of our own, and drop-ins for those of the distribution."""

    name = "systemd"
    is_init = True

    def __init__(self, *, confines: bool = True) -> None:
        self.confines = confines

    def unable(self) -> Probe[str]:
        if not self.confines:
            return super().unable()
        properties = render("service/confined.j2", service={"confined": "wholly"}).strip()
        return Probe(shell("confinement", properties=properties), "".join)

    def files(self, service: Service) -> list[Entry]:
        service = service if self.confines else replace(service, confined="", writes=())
        return [*_dropin(service), *_network(service)] if service.unit else [_unit(service)]

    def program(self, service: str) -> str:
        return f"{_UNITS}/{service}.service"

    def process(self, service: str) -> str:
        return f"systemctl show -p MainPID --value {service}.service"

    def fingerprinted(self, service: Service) -> list[str]:
        # What takes rights from a program may wait for its next start.
        writes = service.writes if self.confines else ()
        service = replace(service, confined="", writes=writes)
        if not service.unit:
            return [_unit(service).content]
        # It is for the programs that start and stop it: what runs is that user's already.
        return [_dropin(service)[1].content.replace(f"User={service.user}\n", "")]


def _unit(service: Service) -> File:
    unit = render(service.unit_template, service=service)
    return File(f"{_UNITS}/{service.systemd_unit}", unit)


def _dropin(service: Service) -> tuple[Directory, File]:
    directory = f"{_UNITS}/{service.unit}.d"
    text = render("service/dropin.conf.j2", service=service)
    return Directory(directory), File(f"{directory}/datatier.conf", text)


def _network(service: Service) -> list[Entry]:
    """What matters at a boot only: it restarts nothing, so no fingerprint has it."""
    if service.listens is None:
        return []
    address = service.listens[0]
    packed = ipaddress.ip_address(address)
    shown = address if packed.version == 4 else packed.packed.hex()
    text = render("service/network.conf.j2", address=shown)
    return [File(f"{_UNITS}/{service.unit}.d/datatier-network.conf", text)]


SYSTEMD, UNCONFINED = Systemd(), Systemd(confines=False)
