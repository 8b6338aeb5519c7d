"""The bridge network of one lab."""

import zlib

from tests.lab.process import LabError, call, docker

_PREFIX = "10.213"


def network_name(lab: str) -> str:
    """The Docker network that belongs to a lab."""
    return f"datatier-{lab}"


def create(lab: str) -> str:
    """Make the network on a free subnet and return the first three numbers of its addresses."""
    routes = call(["ip", "-4", "route"]).stdout
    # Labs that start at the same time look at different subnets first.
    start = zlib.crc32(lab.encode())
    for offset in range(256):
        subnet = f"{_PREFIX}.{(start + offset) % 256}"
        if f"{subnet}." not in routes and _created(lab, subnet):
            return subnet
    raise LabError(f"no subnet of {_PREFIX}.0.0/16 is free")


def remove(lab: str) -> None:
    """Remove the network if there is one."""
    label = f"label=datatier.lab={lab}"
    for network in docker("network", "ls", "-q", "--filter", label).stdout.split():
        docker("network", "rm", network)


def _created(lab: str, subnet: str) -> bool:
    label = f"datatier.lab={lab}"
    command = ["network", "create", "--subnet", f"{subnet}.0/24", "--label", label]
    done = docker(*command, network_name(lab), check=False)
    if done.returncode and "overlap" not in done.stderr:
        raise LabError(f"docker network create failed: {done.stderr.strip()}")
    return done.returncode == 0
