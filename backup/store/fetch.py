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
from backup.store.bucket import (
    REPOSITORY,
    TRIES,
    WORKERS,
    Away,
    Bucket,
    Listed,
    is_safe,
)
from backup.store.layout import is_info, key_of, stored_manifests, summary
from backup.store.signed import LIST, LONGEST, Signed, damaged

# Lines about objects that are refused; a writer of the bucket could add any number.
_SAID = 100


class Fetched(NamedTuple):
    """What came back, verified."""

    files: int
    bytes: int


class Offered(NamedTuple):
    """What the bucket has, and what it may have.

    Attributes:
        listed: what is worth asking for, by key.
        signed: None where the bucket is believed.
        refused: why the rest is not, by key.
        bucket: what it is fetched from.
    """

    listed: dict[str, Listed]
    signed: Signed | None
    refused: dict[str, str]
    bucket: Bucket


def offered(bucket: Bucket, log: Log, *, unsigned: bool, newest: str = "") -> Offered:
    """What the bucket has that the signed list names; nothing else there is believed.

    Args:
        unsigned: believes the bucket, for one that an earlier release has filled.
        newest: when the newest list was written that this host knows of.

    Raises:
        Failed: there is no list of this estate's key, or an older one.
    """
    listed = bucket.listing()
    there = listed.pop(LIST, None)
    refused = {key: f"{key!r} is no name of a backup" for key in listed if not is_safe(key)}
    signed = None
    if unsigned:
        log.line(
            "S3: --unsigned: what is fetched is what anybody with access to the bucket made it"
        )
    else:
        signed = _signed(bucket, there)
        if signed.written < newest:
            raise Failed(
                f"{bucket.address(LIST)} is of {signed.written[:16]}, and this host has put one of "
                f"{newest[:16]} there: the bucket was set back; to take it as it is, give --older"
            )
        log.line(f"S3: the list of copies is of {signed.written[:16]}, {len(signed.files)} files")
        refused |= {k: f"{k} is gone" for k in signed.files if k not in listed}
        for key, found in listed.items():
            if not (may_be := signed.names(key)):
                refused[key] = f"{key} is not in the signed list: it was not put there from here"
            elif found.size not in {entry.size for entry in may_be}:
                refused[key] = damaged(key)
    listed = {key: found for key, found in listed.items() if key not in refused}
    return Offered(listed, signed, refused, bucket)


def _signed(bucket: Bucket, there: Listed | None) -> Signed:
    way_out = "or believe the bucket as it is with backup.sh fetch --unsigned"
    if there is None:
        raise Failed(f"{bucket.address(LIST)} is missing: bring it back, {way_out}")
    try:
        return Signed.opened(bucket.s3, bucket.read(LIST, LONGEST))
    except Failed as failure:
        raise Failed(f"{failure}: put the .env of that time back, {way_out}") from None


def fetch(config: Config, target: Path, log: Log, offer: Offered) -> Fetched:
    """Brings everything back to an empty host, and checks every file.

    A file gets its name only after its sha256 was right; artifacts come before their
    manifests, and *.info files last. Files that are there and right are not fetched again;
    files that are there and different are left alone, and an error.

    Args:
        target: what takes the place of `backup_dir`; owners are the caller's business.
        offer: what to fetch.

    Raises:
        Away: the store does not answer.
        Failed: there is no room, or, at the end, with everything that is damaged or missing.
    """
    listed, signed, refused, bucket = offer
    manifests, failures = stored_manifests(bucket, listed, signed)
    _require_room(target, sum(o.size for key, o in listed.items() if not (target / key).exists()))
    got = _Download(bucket, target, signed)
    whole = {key_of(m): m for m in manifests if m.sha256}
    failures |= {key: f"{key} is gone" for key in whole if key not in listed}
    failures |= refused
    failures |= got.all({key: m.sha256 for key, m in whole.items() if key in listed})
    cut = {k for k in refused if signed and k in signed.files and not is_info(Path(k))}
    failures |= got.repository(
        [key for key in listed if _is_physical(key)], is_whole=not any(map(_is_physical, cut))
    )
    ready = [m for m in manifests if key_of(m) not in failures]
    beside = [key_of(m) + SUFFIX for m in ready]
    # One that is there may know of later checks than its copy does.
    failures |= got.all({key: "" for key in beside if not (target / key).exists()})
    _link_latest(config, target)
    log.line(f"S3: fetched {got.files} files, {got.bytes / 1e6:.1f} MB, all checked")
    for reason in list(failures.values())[:_SAID]:
        log.line(f"S3: {reason}")
    if failures:
        raise Failed(summary("not fetched from S3", failures))
    return Fetched(got.files, got.bytes)


def _is_physical(key: str) -> bool:
    return key.startswith(f"{REPOSITORY}/")


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

    def __init__(self, bucket: Bucket, target: Path, signed: Signed | None) -> None:
        self.files = self.bytes = 0
        self._signed = signed
        self._bucket = bucket
        self._target = target
        self._lock = threading.Lock()

    def repository(self, keys: Sequence[str], *, is_whole: bool) -> dict[str, str]:
        """The physical repository, its *.info files last and only if the rest is whole."""
        infos = {key: "" for key in keys if is_info(Path(key))}
        failures = self.all({key: "" for key in keys if key not in infos})
        return failures if failures or not is_whole else self.all(infos)

    def all(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Fetches keys with the given sha256 (empty: the signed one); returns what failed."""
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                reasons = list(pool.map(self._one, wanted.keys(), wanted.values()))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {key: reason for key, reason in zip(wanted, reasons, strict=True) if reason}

    def _one(self, key: str, sha256: str) -> str:
        try:
            self._fetch(key, self._expected(key, sha256))
        except Away:
            raise
        except (Failed, OSError) as error:
            return str(error)
        return ""

    def _expected(self, key: str, sha256: str) -> set[str]:
        if self._signed:
            allowed = {entry.sha256 for entry in self._signed.names(key)}
            return allowed & {sha256} if sha256 else allowed
        found = sha256 or self._bucket.sha256(key)
        if not found:
            raise Failed(f"{key} has no checksum: it was not put there by this program")
        return {found}

    def _fetch(self, key: str, expected: set[str]) -> None:
        path = self._target / key
        self._require_no_link(path)
        if path.exists():
            if digest(path) not in expected:
                raise Failed(f"{path} already exists and differs: left alone")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = path.with_name(f".{path.name}.partial")
        try:
            self._download(key, arriving, expected)
            finish(arriving, path)
        finally:
            arriving.unlink(missing_ok=True)
        with self._lock:
            self.files += 1
            self.bytes += path.stat().st_size

    def _require_no_link(self, path: Path) -> None:
        while path != self._target:
            if path.is_symlink():
                raise Failed(f"{path} is a link: left alone")
            path = path.parent

    def _download(self, key: str, path: Path, expected: set[str]) -> None:
        """Tries again when the connection breaks in the middle, which the library does not."""
        for last in (*[False] * (TRIES - 1), True):
            try:
                found = self._bucket.download(key, path)
            except Away:
                if last:
                    raise
                continue
            if found not in expected:
                raise Failed(damaged(key))
            return
