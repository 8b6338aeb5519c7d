"""Brings everything back from the bucket, and checks every file."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from backup import retention
from backup.config import Config
from backup.job import Failed, Log
from backup.manifest import SUFFIX, digest, finish
from backup.store_bucket import REPOSITORY, TRIES, WORKERS, Away, Bucket, bucket_of
from backup.store_layout import is_info, key_of, stored_manifests, summary


class Fetched(NamedTuple):
    """What came back, verified."""

    files: int
    bytes: int


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
    bucket = bucket_of(config, log)
    listed = bucket.listing()
    manifests, failures = stored_manifests(bucket, listed)
    _require_room(target, sum(o.size for key, o in listed.items() if not (target / key).exists()))
    got = _Download(bucket, target)
    whole = {key_of(m): m for m in manifests if m.sha256}
    failures |= {key: f"{key} is gone" for key in whole if key not in listed}
    failures |= got.all({key: m.sha256 for key, m in whole.items() if key in listed})
    failures |= got.repository([key for key in listed if key.startswith(f"{REPOSITORY}/")])
    ready = [m for m in manifests if key_of(m) not in failures]
    beside = [key_of(m) + SUFFIX for m in ready]
    # One that is there may know of later checks than its copy does.
    failures |= got.all({key: "" for key in beside if not (target / key).exists()})
    _link_latest(config, target)
    log.line(f"S3: fetched {got.files} files, {got.bytes / 1e6:.1f} MB, all checked")
    if failures:
        raise Failed(summary("not fetched from S3", failures))
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

    def __init__(self, bucket: Bucket, target: Path) -> None:
        self.files = self.bytes = 0
        self._bucket = bucket
        self._target = target
        self._lock = threading.Lock()

    def repository(self, keys: Sequence[str]) -> dict[str, str]:
        """The physical repository, its *.info files last and only if the rest is whole."""
        infos = {key: "" for key in keys if is_info(Path(key))}
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
