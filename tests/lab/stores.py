"""What a Docker engine in a host keeps, for others to begin with.

No image: a layer cannot hold the marks that the layers within it have. Those never change, so the
copies share their files.
"""

import json
from collections.abc import Sequence
from subprocess import CompletedProcess

from tests.lab.images import base_image, digest
from tests.lab.process import docker, say

LABEL = "datatier.lab.store"
# Images alone are kept, and the engine writes no more.
EMPTY = """
docker ps -aq | xargs -r docker rm -f -v
docker volume ls -q | xargs -r docker volume rm
docker network prune -f
systemctl stop docker.socket docker.service containerd.service
"""
_COPY = """
cd "$1" && ls -A | grep -vx overlay2 | xargs -d '\\n' cp -a -t "$2"
if [ -e overlay2 ]; then cp -al overlay2 "$2"; fi
"""
_WHOLE = ".datatier-lab-whole"


def name_of(images: Sequence[str], inputs: Sequence[str]) -> str:
    """The name of a store that is made of these."""
    ids = docker("image", "inspect", "--format", "{{.Id}}", *images).stdout
    return f"datatier-lab-store-{digest(ids, *inputs)}"


def is_whole(name: str) -> bool:
    """Whether the store is there, and nobody was interrupted while making it."""
    return _beside(name, "test", "-e", check=False).returncode == 0


def keep(container: str, name: str) -> None:
    """Makes a store of the engine of a host."""
    say(f"keeping the images of {container}")
    docker("volume", "rm", "--force", name)
    docker("volume", "create", "--label", LABEL, name)
    _copy(_of(container), name)
    _beside(name, "touch")


def give(name: str, container: str) -> None:
    """Gives a host that was never started what a store has."""
    _copy(name, _of(container))


def remove_stores() -> None:
    """Removes every store."""
    for name in docker("volume", "ls", "-q", "--filter", f"label={LABEL}").stdout.split():
        docker("volume", "rm", name, check=False)


def _beside(name: str, *command: str, check: bool = True) -> CompletedProcess[str]:
    """Runs a command on the mark of a whole store."""
    sees = ["run", "--rm", "-v", f"{name}:/store", base_image("debian12")]
    return docker(*sees, *command, f"/store/{_WHOLE}", check=check)


def _of(container: str) -> str:
    (volume,) = (
        mount["Name"]
        for mount in json.loads(docker("inspect", "-f", "{{json .Mounts}}", container).stdout)
        if mount["Destination"] == "/var/lib/docker"
    )
    return str(volume)


def _copy(source: str, target: str) -> None:
    place = docker("volume", "inspect", "-f", "{{.Mountpoint}}", source).stdout.strip()
    top = place.removesuffix(f"/{source}/_data")
    # One mount for both, or nothing could be linked; the marks are only for an administrator.
    sees = ["--cap-add", "SYS_ADMIN", "-v", f"{top}:{top}"]
    words = ["sh", "-euc", _COPY, "-", place, f"{top}/{target}/_data"]
    docker("run", "--rm", *sees, base_image("debian12"), *words, timeout=300)
