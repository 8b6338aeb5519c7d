"""Copies off the host: everything that restores is mirrored to a bucket, and fetched from it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection

from backup import retention
from backup.config import S3, Config
from backup.job import Busy, Failed, Log, locked
from backup.manifest import SUFFIX, Manifest, all_of, digest, durably, finish

# Every request ends: seconds to connect, seconds between two packets, tries in all.
CONNECT_SECONDS = 10
READ_SECONDS = 60
TRIES = 4

# A run ends too; what is left is copied by the next one. Seconds.
LIMIT = 6 * 3600

# Latency, not bandwidth, is what thousands of small files cost; two cores hash four streams.
WORKERS = 4

# S3 takes at most 10,000 parts, each of at least 5 MiB; each worker holds one in memory.
PART = 8 * 1024 * 1024
_PARTS = 10_000

REPOSITORY = "pgbackrest"
_STATE = ".s3-mirror.json"
_CHUNK = 1024 * 1024


class Away(Failed):
    """The store does not answer, or not in time; the next run goes on from here."""


class Mirrored(NamedTuple):
    """What a run did; bytes are of the copied files."""

    copied: int
    unchanged: int
    bytes: int


class Fetched(NamedTuple):
    """What came back, verified."""

    files: int
    bytes: int


class _Listed(NamedTuple):
    size: int
    etag: str


@dataclass(frozen=True)
class _Item:
    """A file to copy, or content that stood in a file when the run began.

    Attributes:
        sha256: what the content must have; empty where nothing but the file says so.
    """

    key: str
    path: Path
    content: bytes | None = None
    sha256: str = ""

    def size(self) -> int:
        return self.path.stat().st_size if self.content is None else len(self.content)

    def identity(self) -> str:
        """Changes when the content does, and is cheap to ask for."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def digest(self) -> str:
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        return digest(self.path)


# --- The bucket ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turns what the library raises into one line that says whether to try again later."""
    try:
        yield
    except (HTTPClientError, NoConnection, IncompleteReadError) as error:
        raise Away(f"S3: {what}: {error}") from None
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        kind = Away if status in (429, 500, 502, 503, 504) else Failed
        raise kind(f"S3: {what}: {code} (HTTP {status})") from None
    except (BotoCoreError, ValueError) as error:
        raise Failed(f"S3: {what}: {error}") from None


def _client(s3: S3) -> Any:
    if not (s3.bucket and s3.access_key and s3.secret_key):
        raise Failed("S3: the bucket or its credentials are not configured")
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
        "signature_version": "s3v4",
        "max_pool_connections": WORKERS,
        "s3": {"addressing_style": "path" if s3.endpoint else "auto"},
    }
    # From 1.36 on the library adds checksums of its own, which other stores than Amazon's
    # refuse; ours are Content-MD5 and sha256.
    for name in ("request_checksum_calculation", "response_checksum_validation"):
        if name in botocore.config.Config.OPTION_DEFAULTS:
            options[name] = "when_required"
    with _asking("configuration"):
        return boto3.session.Session().client(
            "s3",
            region_name=s3.region or "us-east-1",
            endpoint_url=s3.endpoint or None,
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
            config=botocore.config.Config(**options),
        )


class _Bucket:
    """The few things that we ask of a bucket; keys are relative to the prefix."""

    def __init__(self, s3: S3, log: Log) -> None:
        self._client = _client(s3)
        self._name = s3.bucket
        self._prefix = f"{s3.prefix.strip('/')}/" if s3.prefix.strip("/") else ""
        self._own_endpoint = bool(s3.endpoint)
        self._encryption: dict[str, str] = {"ServerSideEncryption": "AES256"}
        self._log = log

    def address(self, key: str) -> str:
        return f"s3://{self._name}/{self._prefix}{key}"

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}

    def listing(self) -> dict[str, _Listed]:
        """Everything under the prefix that is ours by its place."""
        found = {}
        with _asking("listing"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix):
                for row in page.get("Contents", []):
                    key = row["Key"].removeprefix(self._prefix)
                    if _is_ours(key):
                        found[key] = _Listed(row["Size"], row["ETag"].strip('"'))
        return found

    def sha256(self, key: str) -> str:
        """What the object's content was when it was put there; empty if nobody said."""
        with _asking(key):
            return str(self._client.head_object(**self._at(key))["Metadata"].get("sha256", ""))

    def put(self, key: str, content: bytes, sha256: str) -> str:
        """Stores a small object, its MD5 along with it; returns the ETag."""
        answer = self._encrypted(
            key,
            partial(
                self._client.put_object,
                **self._at(key),
                Body=content,
                ContentMD5=_md5(content),
                Metadata={"sha256": sha256},
            ),
        )
        return str(answer["ETag"]).strip('"')

    def start(self, key: str, sha256: str) -> str:
        """Begins an object of several parts; forgotten beginnings of it are given up."""
        with _asking(key):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + key):
                for row in page.get("Uploads", []):
                    if row["Key"] == self._prefix + key:
                        self._client.abort_multipart_upload(
                            **self._at(key), UploadId=row["UploadId"]
                        )
        create = partial(
            self._client.create_multipart_upload, **self._at(key), Metadata={"sha256": sha256}
        )
        return str(self._encrypted(key, create)["UploadId"])

    def parts(self, key: str, upload: str) -> dict[int, str] | None:
        """ETags of the parts that have arrived; None if the upload is not known any more."""
        found = {}
        try:
            pages = self._client.get_paginator("list_parts")
            for page in pages.paginate(**self._at(key), UploadId=upload):
                found.update({r["PartNumber"]: r["ETag"].strip('"') for r in page.get("Parts", [])})
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "NoSuchUpload":
                return None
            with _asking(key):
                raise
        except BotoCoreError:
            with _asking(key):
                raise
        return found

    def part(self, key: str, upload: str, number: int, content: bytes) -> str:
        with _asking(key):
            answer = self._client.upload_part(
                **self._at(key),
                UploadId=upload,
                PartNumber=number,
                Body=content,
                ContentMD5=_md5(content),
            )
        return str(answer["ETag"]).strip('"')

    def complete(self, key: str, upload: str, etags: Sequence[str]) -> str:
        parts = [{"PartNumber": n, "ETag": f'"{etag}"'} for n, etag in enumerate(etags, 1)]
        with _asking(key):
            answer = self._client.complete_multipart_upload(
                **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}
            )
        return str(answer["ETag"]).strip('"')

    def give_up(self, key: str, upload: str) -> None:
        with _asking(key):
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)

    def remove(self, key: str) -> None:
        with _asking(key):
            self._client.delete_object(**self._at(key))

    def read(self, key: str) -> bytes:
        """A small object."""
        with _asking(key):
            return bytes(self._client.get_object(**self._at(key))["Body"].read())

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object of any size, as it comes."""
        with _asking(key):
            yield from self._client.get_object(**self._at(key))["Body"].iter_chunks(_CHUNK)

    def download(self, key: str, path: Path) -> str:
        """Writes an object to a file, synced; returns the sha256 of what arrived."""
        running = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in self.chunks(key):
                running.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return running.hexdigest()

    def _encrypted(self, key: str, request: Callable[..., Any]) -> Any:
        """Asks for encryption at rest; a store of one's own may have none (MinIO without KMS)."""
        try:
            return request(**self._encryption)
        except ClientError as error:
            refused = error.response.get("Error", {}).get("Code") == "NotImplemented"
            if not (refused and self._own_endpoint and self._encryption):
                with _asking(key):
                    raise
        except BotoCoreError:
            with _asking(key):
                raise
        self._log.line("S3: the endpoint does not encrypt at rest; copies lie there as sent")
        self._encryption = {}
        with _asking(key):
            return request()


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _is_ours(key: str) -> bool:
    parts = PurePosixPath(key).parts
    safe = len(parts) > 1 and ".." not in parts and not key.startswith("/") and key[-1] != "/"
    return safe and parts[0] in ("postgres", "redis", REPOSITORY)


def _bucket(config: Config, log: Log) -> _Bucket:
    if config.s3 is None:
        raise Failed("S3: no bucket is configured")
    return _Bucket(config.s3, log)


# --- State ---------------------------------------------------------------------------------------


@dataclass
class _State:
    """What the last runs put where, so that nothing is read or asked for twice.

    Losing it costs time only: checksums are compared instead.

    Attributes:
        objects: identity of the local file and ETag of the object, by key.
        uploads: identifier and sha256 of objects of which only some parts have arrived.
    """

    path: Path
    target: str
    objects: dict[str, list[str]] = field(default_factory=dict)
    uploads: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: Config) -> _State:
        s3 = config.s3
        target = f"{s3.endpoint} {s3.bucket} {s3.prefix}" if s3 else ""
        empty = cls(config.directory / _STATE, target)
        try:
            raw = json.loads(empty.path.read_bytes())
            if raw["target"] != target:
                return empty
            return replace(empty, objects=dict(raw["objects"]), uploads=dict(raw["uploads"]))
        except (OSError, ValueError, KeyError, TypeError):
            return empty

    def save(self) -> None:
        with self.lock:
            raw = {"target": self.target, "objects": self.objects, "uploads": self.uploads}
            durably(self.path, json.dumps(raw).encode())

    def stored(self, item: _Item, etag: str) -> None:
        with self.lock:
            self.objects[item.key] = [item.identity(), etag]
            self.uploads.pop(item.key, None)

    def knows(self, item: _Item, etag: str) -> bool:
        return self.objects.get(item.key) == [item.identity(), etag]

    def began(self, key: str, upload: str, sha256: str) -> None:
        with self.lock:
            self.uploads[key] = [upload, sha256]
        self.save()

    def forget(self, key: str) -> None:
        with self.lock:
            self.objects.pop(key, None)
            self.uploads.pop(key, None)


@contextlib.contextmanager
def _remembered(config: Config) -> Iterator[_State]:
    state = _State.of(config)
    try:
        yield state
    finally:
        state.save()


# --- Mirror --------------------------------------------------------------------------------------


def mirror_if_any(config: Config, log: Log) -> None:
    """Mirrors if there is a bucket and no other run is at it.

    Raises:
        Failed: something was not copied; the local backup is none the worse.
    """
    if config.s3 is None:
        return
    try:
        with locked("mirror"), log.step("copy to S3"):
            mirror(config, log)
    except Busy:
        log.line("another run is copying to S3; the next one copies what this one made")


def mirror(config: Config, log: Log, limit: float = LIMIT) -> Mirrored:
    """Copies what the bucket does not have: artifacts, the physical repository, manifests.

    Artifacts go newest first. In the repository *.info files go last, as they stood before
    anything else was listed, so that whatever they name is there. A manifest goes when
    everything that it describes has arrived, and then says so under `copies`.

    Unchanged is what has the size and ETag of the last run's record and a local file that has
    not changed since; without a record, what has the local file's size, MD5 (ETag) and sha256
    (metadata).

    Args:
        limit: seconds after which the run ends; the next one goes on.

    Raises:
        Away: the store does not answer, or the time is up.
        Failed: at the end, with everything that could not be copied; the rest was.
    """
    bucket = _bucket(config, log)
    with _remembered(config) as state:
        run = _Run(bucket, state, bucket.listing(), time.monotonic() + limit)
        manifests = _copyable(config)
        repository = _repository(config)
        files = run.copy([_artifact(config, m) for m in reversed(manifests) if m.sha256])
        physical = _copy_repository(run, repository)
        done = [m for m in manifests if run.has(m, files) and not (physical and _labelled(m))]
        failures = files | physical | _copy_manifests(config, run, done)
    log.line(f"S3: copied {run.copied} files, {run.bytes / 1e6:.1f} MB; {run.unchanged} unchanged")
    if failures:
        raise Failed(_summary("not copied to S3", failures))
    return Mirrored(run.copied, run.unchanged, run.bytes)


def _summary(what: str, failures: Mapping[str, str]) -> str:
    more = ", ..." if len(failures) > 5 else ""
    return f"{len(failures)} {what}: {'; '.join(list(failures.values())[:5])}{more}"


def _key(manifest: Manifest) -> str:
    return f"{'redis' if manifest.kind == 'redis' else 'postgres'}/{manifest.name}"


def _labelled(manifest: Manifest) -> bool:
    return manifest.kind == "incremental" or "label" in manifest.facts


def _copyable(config: Config) -> list[Manifest]:
    """Manifests whose artifact is there, oldest first."""
    found = [m for kind in ("postgres", "redis") for m in all_of(config.artifacts(kind))]
    whole = [m for m in found if retention.intact(m, retention.directory_of(config, m))]
    return sorted(whole, key=lambda manifest: manifest.stamp)


def _artifact(config: Config, manifest: Manifest) -> _Item:
    path = manifest.path(retention.directory_of(config, manifest))
    return _Item(_key(manifest), path, sha256=manifest.sha256)


class _Run:
    """One run: what it found, what it did, and when it has to end."""

    def __init__(
        self, bucket: _Bucket, state: _State, listed: Mapping[str, _Listed], end: float
    ) -> None:
        self.bucket = bucket
        self.state = state
        self.listed = dict(listed)
        self.copied = self.unchanged = self.bytes = 0
        self._end = end
        self._lock = threading.Lock()

    def copy(self, items: Sequence[_Item]) -> dict[str, str]:
        """Copies what is missing or changed; returns why what failed did, by key.

        Raises:
            Away: the store does not answer; nothing more was begun.
        """
        failures = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            waiting = {pool.submit(self._copy_one, item): item.key for item in items}
            try:
                for future in as_completed(waiting):
                    if reason := future.result():
                        failures[waiting[future]] = reason
            except BaseException:
                self._end = 0.0
                pool.shutdown(cancel_futures=True)
                raise
        self.state.save()
        return failures

    def has(self, manifest: Manifest, failures: Mapping[str, str]) -> bool:
        """Whether the artifact of a manifest is in the bucket, as far as it has one."""
        key = _key(manifest)
        return not manifest.sha256 or (key in self.listed and key not in failures)

    def _copy_one(self, item: _Item) -> str:
        self._in_time()
        try:
            self._put_unless_there(item)
        except FileNotFoundError:
            return ""  # retention, or pgBackRest's expiry, was faster
        except Away:
            raise
        except (Failed, OSError) as error:
            return str(error)
        return ""

    def _put_unless_there(self, item: _Item) -> None:
        there, size = self.listed.get(item.key), item.size()
        if there and there.size == size and self._is_same(item, there):
            self.state.stored(item, there.etag)
            return self._count(None)
        etag = self._put(item, size)
        self.state.stored(item, etag)
        self.listed[item.key] = _Listed(size, etag)
        return self._count(size)

    def _is_same(self, item: _Item, there: _Listed) -> bool:
        if self.state.knows(item, there.etag):
            return True
        if _etag(item) != there.etag:
            return False
        return self.bucket.sha256(item.key) == item.digest()

    def _put(self, item: _Item, size: int) -> str:
        if size > PART and item.content is None:
            return self._put_large(item, size)
        content = item.path.read_bytes() if item.content is None else item.content
        sha256 = _require(item, hashlib.sha256(content).hexdigest())
        etag = self.bucket.put(item.key, content, sha256)
        self._require_arrived(item.key, etag, _md5_hex(content), sha256)
        return etag

    def _put_large(self, item: _Item, size: int) -> str:
        sha256 = _require(item, digest(item.path))
        upload, arrived = self._resumed(item.key, sha256)
        etags, sums, running = [], [], hashlib.sha256()
        for number, chunk in enumerate(_chunks(item.path, _part_size(size)), 1):
            self._in_time()
            running.update(chunk)
            sums.append(_md5_hex(chunk))
            if (etag := arrived.get(number, "")) != sums[-1]:
                etag = self.bucket.part(item.key, upload, number, chunk)
            etags.append(etag)
        if running.hexdigest() != sha256:
            raise Failed(f"{item.key} changed while it was read")
        etag = self._completed(item.key, upload, etags, sha256)
        self._require_arrived(item.key, etag, _joined(sums), sha256)
        return etag

    def _completed(self, key: str, upload: str, etags: Sequence[str], sha256: str) -> str:
        try:
            return self.bucket.complete(key, upload, etags)
        except Away:
            raise
        except Failed:
            # A repeated request finds that the first one, whose answer was lost, succeeded.
            self.state.forget(key)
            if self.bucket.sha256(key) != sha256:
                raise
            return ""

    def _require_arrived(self, key: str, etag: str, expected: str, sha256: str) -> None:
        """Reads back what has another ETag than its MD5: not every store keeps to that."""
        if etag == expected:
            return
        running = hashlib.sha256()
        for chunk in self.bucket.chunks(key):
            running.update(chunk)
        if running.hexdigest() != sha256:
            self.state.forget(key)
            self.bucket.remove(key)
            raise Failed(f"{key} arrived damaged; the next run copies it again")

    def _resumed(self, key: str, sha256: str) -> tuple[str, dict[int, str]]:
        upload, of = self.state.uploads.get(key, ["", ""])
        arrived = self.bucket.parts(key, upload) if upload and of == sha256 else None
        if arrived is None:
            upload, arrived = self.bucket.start(key, sha256), {}
            self.state.began(key, upload, sha256)
        return upload, arrived

    def _in_time(self) -> None:
        if time.monotonic() > self._end:
            raise Away("S3: time is up; the next run goes on from here")

    def _count(self, size: int | None) -> None:
        with self._lock:
            self.unchanged += size is None
            self.copied += size is not None
            self.bytes += size or 0


def _require(item: _Item, found: str) -> str:
    if item.sha256 and found != item.sha256:
        raise Failed(f"{item.key} is not what its manifest says: damaged here, not copied")
    return found


def _md5_hex(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _joined(sums: Sequence[str]) -> str:
    """The ETag of an object of several parts."""
    return f"{_md5_hex(b''.join(map(bytes.fromhex, sums)))}-{len(sums)}"


def _etag(item: _Item) -> str:
    """What S3 would call the content if we had put it there."""
    if item.content is not None:
        return _md5_hex(item.content)
    size = item.size()
    sums = [_md5_hex(chunk) for chunk in _chunks(item.path, _part_size(size))] or [_md5_hex(b"")]
    return _joined(sums) if size > PART else sums[0]


def _part_size(size: int) -> int:
    return max(PART, -(-size // _PARTS))


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def _copy_manifests(config: Config, run: _Run, manifests: Sequence[Manifest]) -> dict[str, str]:
    """Copies each manifest as it will be, and then writes it so here."""
    noted = {_key(m) + SUFFIX: _noted(run.bucket, m) for m in manifests}
    items = [
        _Item(key, m.beside(retention.directory_of(config, m)), content=_encoded(m))
        for key, m in noted.items()
    ]
    failures = run.copy(items)
    for before, (key, after) in zip(manifests, noted.items(), strict=True):
        if after != before and key in run.listed:
            _write(config, after)
    return failures


def _encoded(manifest: Manifest) -> bytes:
    """A manifest as `Manifest.write` writes it."""
    return json.dumps(asdict(manifest), indent=2).encode() + b"\n"


def _noted(bucket: _Bucket, manifest: Manifest) -> Manifest:
    address = bucket.address(_key(manifest) if manifest.sha256 else REPOSITORY)
    return replace(manifest, copies=tuple(dict.fromkeys((*manifest.copies, address))))


def _write(config: Config, noted: Manifest) -> None:
    """Adds the copies to what the manifest says now: a check may have been noted meanwhile."""
    directory = retention.directory_of(config, noted)
    with contextlib.suppress(Failed):
        now = Manifest.read(noted.beside(directory))
        replace(now, copies=noted.copies).write(directory)


# --- The physical repository ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Repository:
    """The repository as it is to be copied, in this order."""

    data: tuple[_Item, ...]
    manifests: tuple[_Item, ...]
    infos: tuple[_Item, ...]

    def keys(self) -> set[str]:
        return {item.key for item in (*self.data, *self.manifests, *self.infos)}


def _repository(config: Config) -> _Repository:
    """Lists from the end to the beginning: what names a file is read before the file is."""
    root = config.directory / REPOSITORY
    infos = [(path, path.read_bytes()) for path in _files(root) if _is_info(path)]
    manifests = [path for path in _files(root) if _is_manifest(path)]
    data = [path for path in _files(root) if not _is_info(path) and not _is_manifest(path)]
    return _Repository(
        tuple(_Item(_under(config, path), path) for path in data),
        tuple(_Item(_under(config, path), path) for path in manifests),
        tuple(_Item(_under(config, path), path, content=content) for path, content in infos),
    )


def _files(root: Path) -> list[Path]:
    """Finished files; pgBackRest renames what it has written, and links `latest`."""
    found = [path for path in root.rglob("*") if not path.is_symlink() and path.is_file()]
    return sorted(path for path in found if not path.name.endswith((".tmp", ".partial", ".lock")))


def _is_info(path: Path) -> bool:
    return path.name.endswith((".info", ".info.copy"))


def _is_manifest(path: Path) -> bool:
    return path.name in ("backup.manifest", "backup.manifest.copy")


def _under(config: Config, path: Path) -> str:
    return path.relative_to(config.directory).as_posix()


def _copy_repository(run: _Run, repository: _Repository) -> dict[str, str]:
    """Copies the repository; a step that failed leaves out those that build on it."""
    if _is_of_another(run, repository):
        where = run.bucket.address(REPOSITORY)
        return {
            REPOSITORY: f"{where} holds physical backups that are not known here: "
            "fetch them first, or choose another backup_s3_prefix"
        }
    for items in (repository.data, repository.manifests, repository.infos):
        if failures := run.copy(items):
            return failures
    return {}


def _is_of_another(run: _Run, repository: _Repository) -> bool:
    """Whether copying would replace the only index of somebody's backups.

    A new host that begins with an empty repository would do that to the old host's copies.
    """
    there, here = _labels(run.listed), _labels(repository.keys())
    infos = [key for key in run.listed if key.endswith("/backup.info")]
    ours = all(run.state.objects.get(k, ["", ""])[1] == run.listed[k].etag for k in infos)
    return bool(there) and not there & here and not ours


def _labels(keys: Iterable[str]) -> set[str]:
    """Stanza and label of every whole physical backup among the keys."""
    paths = [PurePosixPath(key) for key in keys if key.endswith("/backup.manifest")]
    return {"/".join(path.parts[-3:-1]) for path in paths}


# --- Prune ---------------------------------------------------------------------------------------


def prune(config: Config, log: Log) -> int:
    """Removes copies that the retention rules no longer keep, after a clean-up and a mirror.

    The rules are applied to what the bucket holds, not to what this host holds: an empty or
    new host removes nothing that the rules keep, and what an outage left is caught up with.
    Whatever is still on this host stays in the bucket.

    Returns:
        How many objects were removed.

    Raises:
        Away: the store does not answer.
        Failed: at the end, with what could not be removed.
    """
    bucket = _bucket(config, log)
    with _remembered(config) as state:
        run = _Run(bucket, state, bucket.listing(), time.monotonic() + LIMIT)
        manifests, _ = _stored_manifests(bucket, run.listed)
        present = [m if _is_whole(m, run.listed) else replace(m, verified=()) for m in manifests]
        days, least = config.retention_days, config.retention_min_full
        decision = retention.decide(present, datetime.now(UTC), days, least)
        artifacts = [
            key
            for manifest in retention.in_order(decision.delete)
            if not _is_here(config, manifest)
            for key in (_key(manifest), _key(manifest) + SUFFIX)
        ]
        labels = retention.labels_to_keep(decision)
        physical = _expired_files(config, run, labels, log)
        removed = _remove(run, [key for key in (*artifacts, *physical) if key in run.listed])
        _give_up_forgotten(config, run)
    log.line(f"S3: removed {removed} objects")
    return removed


def _stored_manifests(
    bucket: _Bucket, listed: Mapping[str, _Listed]
) -> tuple[list[Manifest], dict[str, str]]:
    """The manifests in the bucket, and why others are none, by key."""
    keys = [key for key in listed if key.endswith(SUFFIX) and not key.startswith(REPOSITORY)]
    found, failures = [], {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(WORKERS) as pool:
        for key, content in zip(keys, pool.map(bucket.read, keys), strict=True):
            path = Path(scratch) / PurePosixPath(key).name
            path.write_bytes(content)
            try:
                found.append(Manifest.read(path))
            except Failed as failure:
                failures[key] = str(failure)
    return found, failures


def _is_whole(manifest: Manifest, listed: Mapping[str, _Listed]) -> bool:
    there = listed.get(_key(manifest))
    return not manifest.sha256 or (there is not None and there.size == manifest.bytes)


def _is_here(config: Config, manifest: Manifest) -> bool:
    directory = retention.directory_of(config, manifest)
    return manifest.beside(directory).exists() or (
        bool(manifest.sha256) and manifest.path(directory).exists()
    )


def _expired_files(config: Config, run: _Run, keep: Iterable[str], log: Log) -> list[str]:
    """Files that pgBackRest has expired here; none while the bucket may know better."""
    repository = _repository(config)
    here = _labels(repository.keys())
    labels = {label.split("/")[1] for label in here}
    lost = {label.split("/")[1] for label in _labels(run.listed)} & set(keep) - labels
    if lost or not all(_is_current(run, item) for item in repository.infos):
        log.line(f"S3: the repository's copies stay: {sorted(lost) or 'they are not up to date'}")
        return []
    stanzas = tuple(
        f"{REPOSITORY}/{kind}/{label.split('/')[0]}/"
        for label in here
        for kind in ("archive", "backup")
    )
    gone = {key for key in run.listed if key.startswith(stanzas)} - repository.keys()
    gone = {key for key in gone if not (config.directory / key).exists()}
    # The manifest first: a backup that is half gone must not look whole.
    return sorted(gone, key=lambda key: (not key.endswith("/backup.manifest"), key))


def _is_current(run: _Run, item: _Item) -> bool:
    there = run.listed.get(item.key)
    return there is not None and run.state.knows(item, there.etag)


def _give_up_forgotten(config: Config, run: _Run) -> None:
    """Parts of a file that is gone here would lie in the bucket, unseen and paid for."""
    for key, (upload, _) in list(run.state.uploads.items()):
        if not (config.directory / key).exists():
            with contextlib.suppress(Failed):
                run.bucket.give_up(key, upload)
            run.state.forget(key)


def _remove(run: _Run, keys: Sequence[str]) -> int:
    """One request each: stores other than Amazon's differ on removing many at once."""
    failures = {}
    for key in keys:
        try:
            run.bucket.remove(key)
            run.state.forget(key)
        except Away:
            raise
        except Failed as failure:
            failures[key] = str(failure)
    if failures:
        raise Failed(_summary("not removed from S3", failures))
    return len(keys)


# --- Fetch ---------------------------------------------------------------------------------------


def fetch(config: Config, target: Path, log: Log) -> Fetched:
    """Brings everything back to an empty host, and checks every file.

    A file gets its name only after its sha256 was right; artifacts come before their
    manifests, and *.info files last. Files that are there and right are not fetched again;
    files that are there and different are left alone, and an error.

    Args:
        target: what takes the place of `backup_dir`; owners are the caller's business.

    Raises:
        Away: the store does not answer.
        Failed: there is no room, or, at the end, with everything that is damaged or missing.
    """
    bucket = _bucket(config, log)
    listed = bucket.listing()
    manifests, failures = _stored_manifests(bucket, listed)
    _require_room(target, sum(there.size for there in listed.values()))
    got = _Download(bucket, target)
    whole = {_key(m): m for m in manifests if m.sha256}
    failures |= {key: f"{key} is gone" for key in whole if key not in listed}
    failures |= got.all({key: m.sha256 for key, m in whole.items() if key in listed})
    failures |= got.repository([key for key in listed if key.startswith(f"{REPOSITORY}/")])
    ready = [m for m in manifests if _key(m) not in failures]
    failures |= got.all({_key(m) + SUFFIX: "" for m in ready})
    _link_latest(config, target)
    log.line(f"S3: fetched {got.files} files, {got.bytes / 1e6:.1f} MB, all checked")
    if failures:
        raise Failed(_summary("not fetched from S3", failures))
    return Fetched(got.files, got.bytes)


def _require_room(target: Path, needed: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if free < needed:
        raise Failed(f"{target} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are to come")


def _link_latest(config: Config, target: Path) -> None:
    there = replace(config, directory=target)
    found = retention.on_disk(there)
    newest = retention.decide(found, datetime.now(UTC), config.retention_days, 1).newest
    for directory in (there.artifacts("postgres"), there.artifacts("redis")):
        mine = [m for m in newest if retention.directory_of(there, m) == directory]
        retention.link_latest(directory, mine)


class _Download:
    """What has arrived in a directory, and was right."""

    def __init__(self, bucket: _Bucket, target: Path) -> None:
        self.files = self.bytes = 0
        self._bucket = bucket
        self._target = target
        self._lock = threading.Lock()

    def repository(self, keys: Sequence[str]) -> dict[str, str]:
        """The physical repository, its *.info files last and only if the rest is whole."""
        infos = {key: "" for key in keys if _is_info(Path(key))}
        return self.all({key: "" for key in keys if key not in infos}) or self.all(infos)

    def all(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Fetches keys with the given sha256 (empty: the object's own); returns what failed."""
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                reasons = list(pool.map(self._one, wanted.keys(), wanted.values()))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {key: reason for key, reason in zip(wanted, reasons, strict=True) if reason}

    def _one(self, key: str, sha256: str) -> str:
        try:
            self._fetch(key, sha256 or self._bucket.sha256(key))
        except Away:
            raise
        except (Failed, OSError) as error:
            return str(error)
        return ""

    def _fetch(self, key: str, sha256: str) -> None:
        if not sha256:
            raise Failed(f"{key} has no checksum: it was not put there by this programme")
        path = self._target / key
        if path.exists():
            if digest(path) != sha256:
                raise Failed(f"{path} is there already and differs: left alone")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = path.with_name(f".{path.name}.partial")
        try:
            self._download(key, arriving, sha256)
            finish(arriving, path)
        finally:
            arriving.unlink(missing_ok=True)
        with self._lock:
            self.files += 1
            self.bytes += path.stat().st_size

    def _download(self, key: str, path: Path, sha256: str) -> None:
        """Tries again when the connection breaks in the middle, which the library does not."""
        for last in (*[False] * (TRIES - 1), True):
            try:
                found = self._bucket.download(key, path)
            except Away:
                if last:
                    raise
                continue
            if found != sha256:
                raise Failed(f"{key} is damaged in the bucket: its sha256 is not what it should be")
            return
