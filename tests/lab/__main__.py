"""Command line of the lab: python -m tests.lab up, status, down, images."""

import argparse
import pprint
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import engine
from tests.lab.hosts import Host, Lab, find_hosts, remove_lab, ssh_line
from tests.lab.images import (
    RELEASES,
    Release,
    engine_image,
    host_image,
    installed_image,
    plain_image,
    remove_images,
)
from tests.lab.process import LabError, say
from tests.lab.stores import remove_stores


def main() -> int:
    """Run one command; an expected failure is one line and exit status 1."""
    options = _parser().parse_args()
    try:
        _COMMANDS[options.command](options)
    except (LabError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--lab", default="lab", help="name of the lab (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot hosts, in place of those the lab has")
    up.add_argument("--debian12", type=int, default=2, metavar="N", help="default: %(default)s")
    up.add_argument("--debian13", type=int, default=1, metavar="M", help="default: %(default)s")
    up.add_argument("--inventory", type=Path, metavar="FILE", help="write a pyinfra inventory")
    commands.add_parser("status", help="list the hosts")
    down = commands.add_parser("down", help="remove what up made; images are kept")
    down.add_argument("--images", action="store_true", help="remove the images as well")
    commands.add_parser("images", help="build the images and nothing else")
    return parser


def _up(options: argparse.Namespace) -> None:
    lab = Lab(options.lab)
    hosts: list[Host] = []
    try:
        counts = (options.debian12, options.debian13)
        for release, count in zip(RELEASES, counts, strict=True):
            if count:
                say(f"booting {count} {release} hosts")
                hosts += lab.hosts(count, release)
    except BaseException:
        lab.close()
        engine.stop_if_ours()
        raise
    if options.inventory:
        options.inventory.write_text(_inventory(hosts))
        say(f"inventory written to {options.inventory}")
    _print_table(hosts)


def _inventory(hosts: list[Host]) -> str:
    rows = [(host.name, host.ssh_data() | {"address": host.address}) for host in hosts]
    return f'"""Hosts of the lab."""\n\nhosts = {pprint.pformat(rows, sort_dicts=False)}\n'


def _status(options: argparse.Namespace) -> None:
    if engine.answers():
        _print_table(find_hosts(options.lab))
    else:
        say("no Docker engine answers, so there are no hosts")


def _down(options: argparse.Namespace) -> None:
    if not engine.answers():
        say("no Docker engine answers, so there is nothing to remove")
        return
    remove_lab(options.lab)
    if options.images:
        remove_stores()
        remove_images()
    engine.stop_if_ours()


def _images(_: argparse.Namespace) -> None:
    engine.ensure()
    with ThreadPoolExecutor() as pool:
        for names in pool.map(_images_of, RELEASES):
            print("\n".join(names))
    print(plain_image())
    engine.stop_if_ours()


def _images_of(release: Release) -> list[str]:
    return [host_image(release), installed_image(release), engine_image(release)]


def _print_table(hosts: list[Host]) -> None:
    if not hosts:
        say("no hosts")
    for host in hosts:
        login = ssh_line(host) if host.systemd else f"docker exec -it {host.container} bash"
        print(f"{host.name:<12} {host.release}  {host.address:<15} {login}")


_COMMANDS = {"up": _up, "status": _status, "down": _down, "images": _images}

if __name__ == "__main__":
    sys.exit(main())
