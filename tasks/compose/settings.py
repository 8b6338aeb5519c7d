"""The `docker_*` keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from tasks.backup.settings import AbsolutePath
from tasks.core.releases import RELEASES, Release
from tasks.core.settings import Line, Settings, matching, wrong
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings

SUITES = {"12": "bookworm", "13": "trixie"}


ROLES = ("redis", "pgbouncer", "postgres", "backup")


# Numbers of the users in the images; files on the host are theirs.
POSTGRES, REDIS = "532", "637"


# What the seed of a whole stack has; for hosts, groups and ports say it.
PORTS: dict[type[Settings], tuple[int, ...]] = {
    RedisSettings: (6379, 6380, 6381),
    SentinelSettings: (26379, 26380, 26381),
}


def _subnet(value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise wrong(f"should be an IPv4 network such as '172.25.0.0/16', not {value!r}") from None
    if not 8 <= network.prefixlen <= 24:
        raise wrong(f"should have at least 256 addresses and a prefix of 8 to 24, not {value!r}")
    return str(network)


def _ip(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise wrong(
            f"should be an IPv4 address of this host, or 0.0.0.0 for all, not {value!r}"
        ) from None


Image = Annotated[
    Line,
    matching(r"([a-z0-9][A-Za-z0-9._:/@-]*)?", "should be an image such as 'registry/name:tag'"),
]


NetworkName = Annotated[
    str, matching(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", "should be letters, digits, '_', '.' and '-'")
]


class DockerSettings(Settings):
    """The `docker_*` keys."""

    prefix: ClassVar[str] = "docker_"

    project_dir: AbsolutePath = "/opt/psscript"
    """The project directory. Change: refused while containers run from the old one: `docker-compose
    down`, `mv OLD NEW`, deploy."""
    network: NetworkName = "psscript-network"
    """Name of the network. Change: every container is stopped and recreated; volumes stay."""
    subnet: Annotated[str, AfterValidator(_subnet)] = "172.25.0.0/16"
    """Its addresses, IPv4, /8 to /24: the lower half is for the stack, fixed, the upper for
    applications. Change: every container is stopped and recreated; volumes stay."""
    publish_address: Annotated[str, AfterValidator(_ip)] = "127.0.0.1"
    """Address of the host at which ports are published; `0.0.0.0` for all. Change: containers with
    a port are recreated."""
    debian: Literal["12", "13"] = "13"
    """Debian release in the images, `"12"` or `"13"`: it decides the versions. Change: images and
    containers; refused where the volume has a cluster of another PostgreSQL."""
    base_image: Image = ""
    """What the images are built on; the same release of Debian. Default: `debian:trixie-slim`, or
    `debian:bookworm-slim`. Change: images and containers."""
    image_postgres: Image = ""
    """Your own image for PostgreSQL; [what it must provide](docker.md#images). Default: built on
    the host. Change: its containers are recreated."""
    image_pgbouncer: Image = ""
    """Your own image for PgBouncer; [what it must provide](docker.md#images). Default: built on the
    host. Change: its containers are recreated."""
    image_redis: Image = ""
    """Your own image for Redis and Sentinel; [what it must provide](docker.md#images). Default:
    built on the host. Change: its containers are recreated."""
    image_backup: Image = ""
    """Your own image for the backup service; [what it must provide](docker.md#images). Default:
    built on the host. Change: its containers are recreated."""
    prune: bool = False
    """Containers of services that left the settings go. Change: they stop."""

    @property
    def release(self) -> Release:
        """The Debian release in the images."""
        return RELEASES["debian", self.debian]

    def image(self, role: str) -> str:
        """The user's own image of a role, if there is one."""
        return str(getattr(self, f"image_{role}"))


def dotenv(data: Mapping[str, object]) -> Path:
    """The project's `.env` by a host's raw data, which it is read before.

    Who has the project's directory before him looks for the file there.
    """
    default = DockerSettings.model_fields["project_dir"].default
    given = str(data.get("docker_project_dir", default))
    # What is no path is refused later, in a line that names the key.
    return Path(given.replace("\0", "")) / ".env"
