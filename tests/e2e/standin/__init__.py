"""A stand-in application: a small HTTP server as an image, built in the host that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.lab import Host, Lab
from tests.lab.images import Release

IMAGE = "standin:1"
_DIRECTORY = Path(__file__).parent
_FILES = ("Dockerfile", "server.py")
_BUILT_IN = "/root/standin"

PUBLISHED = f"localhost:5000/{IMAGE}"
_REGISTRY = """
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: "127.0.0.1:5000"}
"""


def content() -> str:
    """What the image is made of."""
    return "".join((_DIRECTORY / name).read_text() for name in _FILES)


def build(host: Host, more: str = "") -> str:
    """Builds the image in a host's own Docker engine, which has debian:trixie-slim.

    Args:
        more: packages that it has as well. With `curl` a health check takes a third of what one
            by Python takes.

    Returns:
        The image's name, for the `image` of frontend, backend and ai-service in `apps`.
    """
    host.run(f"mkdir -p {_BUILT_IN}")
    for name in _FILES:
        host.put(_DIRECTORY / name, f"{_BUILT_IN}/{name}")
    host.run(f"docker build -q --build-arg MORE={more} -t {IMAGE} {_BUILT_IN}", timeout=600)
    return IMAGE


def store(lab: Lab, release: Release, bases: Sequence[Release]) -> str:
    """What an engine has that has Debian's images of `bases`, and this one: for Lab.engine_host."""
    return lab.filled_store(build, release, bases, content())


def publish(host: Host) -> str:
    """Moves the image from the engine into a registry, Debian's, on the host itself.

    Returns:
        The image's name there, from where it can be pulled.
    """
    host.run("mkdir -p /etc/docker/registry; cat >/etc/docker/registry/config.yml", stdin=_REGISTRY)
    install = "apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold"
    host.run(f"DEBIAN_FRONTEND=noninteractive {install} docker-registry", timeout=300)
    host.run(f"docker tag {IMAGE} {PUBLISHED} && docker push -q {PUBLISHED}", timeout=120)
    host.run(f"docker rmi {IMAGE} {PUBLISHED}")
    return PUBLISHED


def ask(host: Host, port: int, target: str = "/", method: str = "GET") -> tuple[int, str]:
    """What an application answers on the host's 127.0.0.1: its status and its line.

    Returns:
        `(0, reason)` when nobody answers.
    """
    # By bash alone: a Debian 13 host has neither curl nor Python's urllib.
    words = f"{method} {target} HTTP/1.0\r\n\r\n"
    talk = f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf %s {shlex.quote(words)} >&3 && cat <&3"
    done = host.run(f"timeout 20 bash -c {shlex.quote(talk)}", check=False)
    head, _, body = done.stdout.partition("\r\n\r\n")
    status = head.split(maxsplit=2)[1:2]
    return (int(status[0]), body.strip()) if status else (0, done.stderr.strip())
