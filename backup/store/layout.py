"""What lies where in the bucket: artifacts with their manifests, and the physical repository."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from backup.config import Config
from backup.job import Failed
from backup.manifest import SUFFIX, Manifest, digest
from backup.owned import opened
from backup.store.bucket import REPOSITORY, WORKERS, Away, Bucket, Listed
from backup.store.signed import Entry, Signed, damaged


@dataclass(frozen=True)
class Item:
    """A file to copy, or content that stood in a file when the run began.

    Attributes:
        sha256: what the content must have; empty where nothing but the file says so.
    """

    key: str
    path: Path
    content: bytes | None = None
    sha256: str = ""

    def size(self) -> int:
        return self.path.lstat().st_size if self.content is None else len(self.content)

    def open(self) -> BufferedReader:
        """The file; what is above it and not in its key is root's.

        Raises:
            Failed: its directory's owner has put something else in the way.
        """
        return opened(self.path, len(PurePosixPath(self.key).parts))

    def identity(self) -> str:
        """Changes when the content does, and is cheap to ask for."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        status = self.path.lstat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def entry(self) -> Entry:
        """What the object is to be.

        Raises:
            Failed: the file is not what its manifest says.
        """
        found = self.digest()
        if self.sha256 and found != self.sha256:
            raise Failed(f"{self.key} is not what its manifest says: damaged here, not copied")
        return Entry(self.size(), found)

    def digest(self) -> str:
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def summary(what: str, failures: Mapping[str, str]) -> str:
    more = ", ..." if len(failures) > 5 else ""
    return f"{len(failures)} {what}: {'; '.join(list(failures.values())[:5])}{more}"


def key_of(manifest: Manifest) -> str:
    return f"{'redis' if manifest.kind == 'redis' else 'postgres'}/{manifest.name}"


def stored_manifests(
    bucket: Bucket, listed: Mapping[str, Listed], signed: Signed | None
) -> tuple[list[Manifest], dict[str, str]]:
    """The manifests in the bucket, and why others are none, by key.

    Args:
        signed: what they may be; None believes the bucket.
    """
    keys = [key for key in listed if key.endswith(SUFFIX) and not key.startswith(REPOSITORY)]
    found, failures = [], {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(WORKERS) as pool:
        for key, reading in [(key, pool.submit(bucket.read, key)) for key in keys]:
            path = Path(scratch) / PurePosixPath(key).name
            try:
                content = reading.result()
                path.write_bytes(content)
                if signed and Entry(len(content), digest(path)) not in signed.names(key):
                    raise Failed(damaged(key))
                found.append(Manifest.read(path))
            except Away:
                raise
            except Failed as failure:
                failures[key] = str(failure)
    return found, failures


@dataclass(frozen=True)
class Repository:
    """The repository as it is to be copied, in this order."""

    data: tuple[Item, ...]
    manifests: tuple[Item, ...]
    infos: tuple[Item, ...]

    def keys(self) -> set[str]:
        return {item.key for item in (*self.data, *self.manifests, *self.infos)}


def repository_of(config: Config) -> Repository:
    """Lists from the end to the beginning: what names a file is read before the file is."""
    root = config.directory / REPOSITORY
    infos = [(path, _content(config, path)) for path in _files(root) if is_info(path)]
    manifests = [path for path in _files(root) if _is_manifest(path)]
    data = [path for path in _files(root) if not is_info(path) and not _is_manifest(path)]
    return Repository(
        tuple(Item(_under(config, path), path) for path in data),
        tuple(Item(_under(config, path), path) for path in manifests),
        tuple(Item(_under(config, path), path, content=content) for path, content in infos),
    )


def _content(config: Config, path: Path) -> bytes:
    with Item(_under(config, path), path).open() as file:
        return file.read()


def _files(root: Path) -> list[Path]:
    """Finished files; pgBackRest renames what it has written, and links `latest`."""
    found = [path for path in root.rglob("*") if not path.is_symlink() and path.is_file()]
    return sorted(path for path in found if not path.name.endswith((".tmp", ".partial", ".lock")))


def is_info(path: Path) -> bool:
    return path.name.endswith((".info", ".info.copy"))


def _is_manifest(path: Path) -> bool:
    return path.name in ("backup.manifest", "backup.manifest.copy")


def _under(config: Config, path: Path) -> str:
    return path.relative_to(config.directory).as_posix()


def labels_of(keys: Iterable[str]) -> set[str]:
    """Stanza and label of every whole physical backup among the keys."""
    paths = [PurePosixPath(key) for key in keys if key.endswith("/backup.manifest")]
    return {"/".join(path.parts[-3:-1]) for path in paths}
