"""The key `apps`: what the stack serves, in containers or as services of a host."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

from pydantic import AfterValidator

from tasks.core.estate import Node
from tasks.core.settings import Line, Model, Port, Settings, matching, wrong


def _health(value: str) -> str:
    if value != "tcp" and not re.fullmatch(r"http:/[A-Za-z0-9._~/?&=%-]*", value):
        raise wrong("should be 'tcp' or a path such as 'http:/health'")
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        raise wrong("has a quote that is not closed, or ends with a backslash") from None
    if value and not (words and words[0].startswith("/")):
        raise wrong("should begin with the absolute path of a program")
    return value


Name = Annotated[
    str,
    matching(r"[a-z][a-z0-9-]{0,40}", "should be lower-case letters, digits and '-', at most 41"),
]
Variable = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "should be the name of a variable")]
_Place = Annotated[Line, matching(r"(/.*)?", "should be an absolute path")]


class App(Model):
    """One application; `image` where it runs as a container, `command` where it does not.

    With `urls` its environment has passwords, which `docker inspect` shows.
    """

    name: Name
    """Name of the service: in Docker the container is `psscript-NAME`, on a host service and user
    are `app-NAME`, and 28 characters are the most."""
    port: Port | None = None
    """Where it listens, in its container or on the host; a worker listens nowhere. Default:
    none."""
    publish: bool | Port = True
    """Docker: where the host publishes that: `True` for the same port, another one, or `False` for
    nowhere. Default: `True`."""
    health: Annotated[str, AfterValidator(_health)] = "tcp"
    """`tcp`, or `http:/path`; asked at 127.0.0.1, in Docker inside the container."""
    env: dict[Variable, Line] = {}
    """More environment variables."""
    urls: bool = False
    """`DATABASE_URL` and `REDIS_SENTINEL_URL` in its environment, with the passwords, which `docker
    inspect` then shows."""
    image: Line = ""
    """Docker, and needed there: from a registry, or built on the host."""
    command: Annotated[Line, AfterValidator(_command)] = ""
    """Host, and needed there: an absolute path with arguments, quoted as for a shell; there is no
    shell."""
    directory: _Place = ""
    """Host: where it starts. Default: `/`."""

    @property
    def published(self) -> int:
        """The port of the host, 0 where there is none."""
        if self.port is None or self.publish is False:
            return 0
        return self.port if self.publish is True else self.publish

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        return shlex.split(self.command)

    @property
    def service(self) -> str:
        """Its service, user, group and directory on a host."""
        return f"{PREFIX}{self.name}"


PREFIX = "app-"


class AppsSettings(Settings):
    """The key `apps`, and `apps_prune`."""

    apps: tuple[App, ...] = ()
    """Applications, a list. Change: that application restarts, or its container; one taken away
    keeps running without `apps_prune` or `docker_prune`."""
    apps_prune: bool = False
    """On a host, applications that left the settings go. Change: they stop."""

    @classmethod
    def key_of(cls, field: str) -> str:
        """The flat key of a field."""
        return field if field in cls.model_fields else f"apps_{field}"

    @property
    def prune(self) -> bool:
        """What `apps_prune` says."""
        return self.apps_prune


def apps_of(node: Node) -> tuple[App, ...]:
    """The applications that are services of a host; in Docker they are containers."""
    return node.the(AppsSettings).apps if node.inside is None else ()
