"""RDB files: what is in one, and artifacts that hold one."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backup import crypt
from backup.config import Config
from backup.job import Failed, run
from backup.manifest import SUFFIX, Manifest
from backup.owned import given, opened

NAME = re.compile(r"redis_\d{8}_\d{6}\.rdb\.gz(\.gpg)?")

# What Redis has sent or saved is read with its own rights; the package and the images have it.
USER = "redis"
# A snapshot while it is worked on, in a directory of that user's.
DUMP = "dump.rdb"

_WORK = ".work-"
_CHUNK = 1 << 20
_CHECK_SECONDS = 3600


@dataclass(frozen=True)
class Rdb:
    """What redis-check-rdb found.

    Attributes:
        keys: how many were read; at most `expires` of them end by a time of theirs or of a field.
        format: of the file itself, as a number.
        written_by: the version of Redis that wrote it; empty when the file does not say.
        databases: one more than the highest database number.
    """

    keys: int
    expires: int
    format: int
    written_by: str
    databases: int


def inspect(path: Path) -> Rdb:
    """Reads a whole RDB file with redis-check-rdb.

    Raises:
        Failed: it is cut, damaged, or newer than the tool; or its checksum is switched off.
    """
    with opened(path) as file:
        start = re.match(rb"REDIS(\d{4})", file.read(9))
    if start is None:
        raise Failed("redis-check-rdb: not an RDB file")
    said = _approval(path)
    writer = re.search(r"AUX FIELD redis-ver = '([^']*)'", said)
    selected = [int(number) for number in re.findall(r"Selecting DB ID (\d+)", said)]
    return Rdb(
        _count(said, "keys read"),
        # Redis 8 counts hashes with fields that expire; the last field takes the key with it.
        _count(said, "expires") + (_count(said, "subexpires") if "subexpires" in said else 0),
        int(start[1]),
        writer[1] if writer else "",
        max(selected, default=0) + 1,
    )


def _approval(path: Path) -> str:
    """What redis-check-rdb says of a file that it finds good."""
    try:
        done = subprocess.run(
            [*as_redis(), "redis-check-rdb", path.name],
            cwd=path.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"redis-check-rdb: timed out after {_CHECK_SECONDS} s") from None
    said = done.stdout
    if done.returncode == 0 and "RDB looks OK" in said and "Checksum OK" in said:
        return said
    # The reason is not the last line: statistics follow it.
    reason = re.search(r"RDB ERROR DETECTED ---\n(?:\[offset \d+\] )?(.*)", said)
    raise Failed(f"redis-check-rdb: {reason[1] if reason else 'the file is corrupt or truncated'}")


def _count(said: str, what: str) -> int:
    match = re.search(rf"^\[info\] (\d+) {what}$", said, re.MULTILINE)
    if match is None:
        raise Failed(f"redis-check-rdb does not say the number of {what}")
    return int(match[1])


def tool_version() -> str:
    """The version of this host's redis-check-rdb and redis-server, which are one program."""
    match = re.search(r"v=(\d+(\.\d+)+)", run(["redis-server", "--version"]))
    if match is None:
        raise Failed("the output of redis-server --version has no version")
    return match[1]


def short(version: str) -> tuple[int, ...]:
    """Major and minor: within these the format of RDB files does not change.

    Raises:
        Failed: it is not a version.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise Failed(f"{version!r} is not a version of Redis")
    return int(match[1]), int(match[2])


def pack(config: Config, raw: Path, packed: Path) -> None:
    """Compresses, and encrypts where there is a passphrase; the result is on the disk.

    Raises:
        Failed: the encryption failed.
    """
    descriptor = os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        try:
            with (
                opened(raw) as plain,
                crypt.writer(config, file) as sealed,
                gzip.GzipFile("", "wb", 6, sealed, mtime=0) as stream,
            ):
                shutil.copyfileobj(plain, stream, _CHUNK)
        except BrokenPipeError:
            raise Failed(f"gpg ended before all of {packed.name} was encrypted") from None
        os.fsync(file.fileno())


def unpack(config: Config, packed: Path) -> Iterator[bytes]:
    """The RDB in an artifact, chunk by chunk; only a complete run says that it is whole.

    Raises:
        Failed: it does not decrypt or does not unpack.
    """
    try:
        with (
            crypt.reader(config, packed) as opened,
            gzip.GzipFile(fileobj=opened, mode="rb") as stream,
        ):
            while chunk := stream.read(_CHUNK):
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise Failed(f"{packed.name.strip('.')} does not unpack: {error}") from None


def digest_of(raw: Path) -> str:
    """The sha256 of an RDB in a directory of redis's."""
    with opened(raw) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_inside(config: Config, packed: Path) -> str:
    """The sha256 of the RDB in an artifact."""
    total = hashlib.sha256()
    for chunk in unpack(config, packed):
        total.update(chunk)
    return total.hexdigest()


def as_redis(*options: str) -> list[str]:
    """The command that runs another one as the user redis; as ourselves, where we are not root."""
    if os.geteuid():
        return ["setpriv", *options] if options else []
    user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *user, "--no-new-privs", *options]


@contextlib.contextmanager
def workplace(config: Config) -> Iterator[Path]:
    """A directory of redis's for what is unpacked; those of jobs that were killed are removed.

    Only root gets there by its path: it is the working directory of the program that uses it.
    """
    directory = config.artifacts("redis")
    for path in directory.glob(f"{_WORK}*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _occupied(path):
            shutil.rmtree(path)
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=directory))
    try:
        with _occupied(work):
            given(work, USER)
            yield work
    finally:
        # It follows no link, nor one that appears meanwhile.
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _occupied(directory: Path) -> Iterator[None]:
    """Keeps others from removing a directory for as long as this process lives."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def find(config: Config, given: Path) -> Manifest:
    """The manifest of an artifact named by its path or by a LATEST link.

    A path without the `.gpg` of an encrypted artifact will do.

    Raises:
        Failed: it is not an artifact of this estate; the message says why not.
    """
    directory = config.artifacts("redis").resolve()
    given = crypt.named(given)
    if given.is_symlink() and not given.exists():
        raise Failed(f"{given} points at {given.readlink()}, which is not there")
    if not given.is_file():
        raise Failed(f"{given}: no such file")
    resolved = given.resolve()
    if resolved.parent != directory:
        raise Failed(f"{given} is not in {directory}: copy it there with its manifest")
    if NAME.fullmatch(resolved.name) is None:
        raise Failed(f"{resolved.name} is not the name of a Redis backup")
    beside = resolved.with_name(resolved.name + SUFFIX)
    if not beside.is_file() or beside.is_symlink():
        raise Failed(f"{resolved.name} has no manifest: it is not a finished backup")
    return Manifest.read(beside)


def validate(config: Config, manifest: Manifest, raw: Path) -> Rdb:
    """Passes an artifact through every check that needs no server; leaves its RDB in `raw`.

    Raises:
        Failed: the message names the check that failed.
    """
    directory = config.artifacts("redis")
    beside = Manifest.read(manifest.beside(directory))
    if beside.kind != "redis" or _artifact(beside) != _artifact(manifest):
        raise Failed(f"{manifest.name}: the manifest beside it is of another backup")
    _extract(config, manifest.require_whole(directory), raw)
    found = inspect(raw)
    if found.keys != manifest.facts.get("keys"):
        wanted = manifest.facts.get("keys")
        raise Failed(f"{manifest.name}: {found.keys} keys, and its manifest says {wanted}")
    return found


def _artifact(manifest: Manifest) -> Manifest:
    """A manifest without what is added to it over time."""
    return replace(manifest, verified=(), copies=())


def _extract(config: Config, path: Path, raw: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(raw, flags, 0o600), "wb") as file:
        given(file.fileno(), USER)
        for chunk in unpack(config, path):
            file.write(chunk)
