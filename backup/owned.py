"""Files in directories that other users can change: no link leads root out of them."""

from __future__ import annotations

import os
import pwd
import stat
from io import BufferedReader
from pathlib import Path

from backup.job import Failed


def given(place: Path | int, user: str) -> None:
    """Gives what root has just made in a directory of its own, or has open, to a user."""
    if not os.geteuid():
        owner = pwd.getpwnam(user)
        os.chown(place, owner.pw_uid, owner.pw_gid)


def opened(path: Path, depth: int = 1) -> BufferedReader:
    """A file to read, which is in its directory and belongs to that directory's owner.

    Args:
        depth: how many of the last parts of the path other users may have put there.

    Raises:
        Failed: a link, a pipe, or a second name of another user's file stands there.
    """
    base = path.parents[depth - 1]
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in path.relative_to(base).parts[:-1]:
            inner = _at(path, part, descriptor, os.O_DIRECTORY)
            os.close(descriptor)
            descriptor = inner
        owner = os.fstat(descriptor).st_uid
        file = os.fdopen(_at(path, path.name, descriptor, os.O_NONBLOCK), "rb")
    finally:
        os.close(descriptor)
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or (owner and found.st_uid != owner):
        file.close()
        raise Failed(f"{path} is not a file of its directory's owner: left alone")
    return file


def _at(path: Path, name: str, directory: int, kind: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Failed(f"{path} cannot be read as a file: {error.strerror}") from None
