"""A manifest stands beside every artifact; an artifact without one is not a backup."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from backup.job import Failed

SUFFIX = ".manifest.json"
_VERSION = 1
_KINDS = ("full", "globals", "incremental", "redis")


@dataclass(frozen=True)
class Verification:
    """One check that an artifact passed, and when (UTC, ISO 8601)."""

    what: str
    when: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    Attributes:
        kind: 'full', 'globals', 'incremental' or 'redis'.
        name: the artifact's file name; for an incremental, which lives in the physical
            repository, the name it is asked for by.
        of: the database, or 'redis'.
        sha256: of the file as it lies there; empty where there is no file.
        started, ended: UTC, ISO 8601; duration is in seconds.
        facts: server and tool versions, LSN, timeline, restore point, label of the physical
            backup, parent, replication offset, key or row counts: whatever the kind has.
    """

    kind: str
    name: str
    of: str
    stamp: str
    sha256: str
    bytes: int
    started: str
    ended: str
    duration: float
    facts: dict[str, Any] = field(default_factory=dict)
    verified: tuple[Verification, ...] = ()
    copies: tuple[str, ...] = ()
    version: int = _VERSION

    def path(self, directory: Path) -> Path:
        """The artifact."""
        return directory / self.name

    def require_whole(self, directory: Path) -> Path:
        """The artifact, if it is what this manifest says.

        Raises:
            Failed: it is missing, or has another size or content.
        """
        path = self.path(directory)
        if not path.is_file() or path.is_symlink():
            raise Failed(f"{self.name}: the file is missing")
        if path.stat().st_size != self.bytes:
            raise Failed(f"{self.name}: {path.stat().st_size} bytes, not {self.bytes}")
        if digest(path) != self.sha256:
            raise Failed(f"{self.name}: sha256 differs from the manifest's")
        return path

    def beside(self, directory: Path) -> Path:
        """This manifest's own file."""
        return directory / f"{self.name}{SUFFIX}"

    def with_verification(self, what: str, when: str) -> Self:
        """The same, with one more check passed; an earlier one of the same name is replaced."""
        others = tuple(v for v in self.verified if v.what != what)
        return replace(self, verified=(*others, Verification(what, when)))

    def write(self, directory: Path) -> None:
        """Puts the manifest in place: whole, durable, or not at all."""
        durably(self.beside(directory), encoded(self))

    @classmethod
    def told(cls, raw: Mapping[str, Any]) -> Self:
        """A manifest of its fields as JSON has them.

        Raises:
            TypeError, KeyError: they are others.
        """
        verified = tuple(Verification(**each) for each in raw["verified"])
        return cls(**{**raw, "verified": verified, "copies": tuple(raw["copies"])})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a manifest file.

        Raises:
            Failed: it is not one; the message says what is wrong.
        """
        try:
            manifest = cls.told(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Failed(f"{path.name} is not a manifest: {error}") from None
        if manifest.version != _VERSION or manifest.kind not in _KINDS:
            raise Failed(f"{path.name} is of a kind or version that this program does not know")
        if manifest.name != path.name.removesuffix(SUFFIX) or "/" in manifest.name:
            raise Failed(f"{path.name} belongs to {manifest.name}: files were swapped or renamed")
        return manifest


def encoded(manifest: Manifest) -> bytes:
    """The content of a manifest's file."""
    return json.dumps(asdict(manifest), indent=2).encode() + b"\n"


def update(directory: Path, name: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Changes the manifest of an artifact as it is now; no other change is lost.

    Raises:
        Failed: there is none, or it is not one.
    """
    with (directory / ".manifests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = change(Manifest.read(directory / f"{name}{SUFFIX}"))
        changed.write(directory)
        return changed


def durably(path: Path, content: bytes, mode: int = 0o600, group: str | int = "") -> None:
    """Writes a file under its final name only when all of it is on the disk.

    Args:
        mode: of the file, whatever the umask.
        group: the file's, by name or number; where there is none of that name, only the owner may
            read it.
    """
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(KeyError, PermissionError):
            if group != "":
                number = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
                os.fchown(file.fileno(), -1, number)
            os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    finish(partial, path)


def finish(partial: Path, final: Path) -> None:
    """Gives a file that is already synced its final name, durably."""
    partial.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def all_of(directory: Path) -> Iterator[Manifest]:
    """Every readable manifest of a directory, oldest first; links are not followed."""
    for path in sorted(directory.glob(f"*{SUFFIX}"), key=_stamp_of):
        if not path.is_symlink():
            try:
                yield Manifest.read(path)
            except Failed:
                continue


def _stamp_of(path: Path) -> tuple[str, str]:
    match = re.search(r"_(\d{8}_\d{6})", path.name)
    return (match.group(1) if match else "", path.name)
