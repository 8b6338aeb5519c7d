"""What the lab remembers between runs: its SSH key, its locks, what it started."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.process import call


def state_dir() -> Path:
    """The lab's own directory, made on first use and closed to other users."""
    is_root = os.geteuid() == 0
    path = Path("/run/datatier-lab") if is_root else Path.home() / ".cache" / "datatier-lab"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep labs in other processes from doing the same thing at the same time."""
    with (state_dir() / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def private_key() -> Path:
    """The key that opens every host of every lab; made once."""
    path = state_dir() / "id_ed25519"
    with locked("key"):
        if not path.exists():
            call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)])
    return path


def public_key() -> bytes:
    """The line that goes into authorized_keys."""
    return private_key().with_suffix(".pub").read_bytes()


def known_hosts(lab: str) -> Path:
    """The host keys of one lab, so that strict checking works and nothing is asked."""
    return state_dir() / f"{lab}.known_hosts"
