"""Copies to the bucket: whatever it does not have, checked when it arrives."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple, TypeVar

from backup import retention
from backup.config import Config
from backup.job import Failed, Log
from backup.manifest import SUFFIX, Manifest, all_of, encoded, update
from backup.store.bucket import REPOSITORY, WORKERS, Away, Bucket, Listed, bucket_of
from backup.store.layout import Item, Repository, key_of, labels_of, repository_of, summary
from backup.store.signed import LIST, LONGEST, Entry, Signed, signer
from backup.store.state import State, remembered

# A run ends; what is left is copied by the next one. Seconds.
LIMIT = 6 * 3600

# S3 takes at most 10,000 parts, each of at least 5 MiB; each worker holds one in memory.
PART = 8 * 1024 * 1024
_PARTS = 10_000

Done = TypeVar("Done")


class Mirrored(NamedTuple):
    """What a run did; bytes are of the copied files."""

    copied: int
    unchanged: int
    bytes: int


def mirror(config: Config, log: Log, limit: float = LIMIT) -> Mirrored:
    """Copies what the bucket does not have: artifacts, the physical repository, manifests.

    Artifacts go newest first. In the repository *.info files go last, as they stood before
    anything else was listed, so that whatever they name is there. A manifest goes when
    everything that it describes has arrived, and then says so under `copies`.

    Unchanged is what has the size and ETag of the last run's record and a local file that has
    not changed since; without a record, what has the local file's size and MD5 (ETag).

    The signed list names what is on its way before it is sent, and what is there at the end.

    Args:
        limit: seconds after which the run ends; the next one goes on.

    Raises:
        Away: the store does not answer, or the time is up.
        Failed: at the end, with everything that could not be copied; the rest was.
    """
    bucket = bucket_of(config, log)
    bucket.require_lock()
    with remembered(config) as state:
        run = Run(bucket, state, bucket.listing(), time.monotonic() + limit)
        run.signed.take_up(log)
        manifests = _copyable(config)
        repository = repository_of(config)
        files = run.copy([_artifact(config, m) for m in reversed(manifests) if m.sha256])
        physical = _copy_repository(run, repository)
        done = [m for m in manifests if run.has(m, files) and not (physical and _labelled(m))]
        failures = files | physical | _copy_manifests(config, run, done)
        run.signed.finish(log)
    log.line(f"S3: copied {run.copied} files, {run.bytes / 1e6:.1f} MB; {run.unchanged} unchanged")
    if failures:
        raise Failed(summary("not copied to S3", failures))
    return Mirrored(run.copied, run.unchanged, run.bytes)


def _labelled(manifest: Manifest) -> bool:
    return manifest.kind == "incremental" or "label" in manifest.facts


def _copyable(config: Config) -> list[Manifest]:
    """Manifests whose artifact is there, oldest first."""
    found = [m for kind in ("postgres", "redis") for m in all_of(config.artifacts(kind))]
    whole = [m for m in found if retention.intact(m, retention.directory_of(config, m))]
    return sorted(whole, key=lambda manifest: manifest.stamp)


def _artifact(config: Config, manifest: Manifest) -> Item:
    path = manifest.path(retention.directory_of(config, manifest))
    return Item(key_of(manifest), path, sha256=manifest.sha256)


def _copy_manifests(config: Config, run: Run, manifests: Sequence[Manifest]) -> dict[str, str]:
    """Copies each manifest as it will be, and then writes it so here."""
    noted = {key_of(m) + SUFFIX: _noted(run.bucket, m) for m in manifests}
    items = [
        Item(key, m.beside(retention.directory_of(config, m)), content=encoded(m))
        for key, m in noted.items()
    ]
    failures = run.copy(items)
    for before, (key, after) in zip(manifests, noted.items(), strict=True):
        if after != before and key in run.listed:
            _write(config, after)
    return failures


def _noted(bucket: Bucket, manifest: Manifest) -> Manifest:
    address = bucket.address(key_of(manifest) if manifest.sha256 else REPOSITORY)
    return replace(manifest, copies=tuple(dict.fromkeys((*manifest.copies, address))))


def _write(config: Config, noted: Manifest) -> None:
    """Adds the copies to what the manifest says now: a check may have been noted meanwhile."""
    with contextlib.suppress(Failed):  # retention was faster
        update(
            retention.directory_of(config, noted),
            noted.name,
            lambda now: replace(now, copies=noted.copies),
        )


def _copy_repository(run: Run, repository: Repository) -> dict[str, str]:
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


def _is_of_another(run: Run, repository: Repository) -> bool:
    """Whether copying would replace the only index of another estate's backups.

    A new host that begins with an empty repository would do that to the old host's copies.
    """
    there, here = labels_of(run.listed), labels_of(repository.keys())
    infos = [key for key in run.listed if key.endswith("/backup.info")]
    ours = all(run.state.objects.get(k, ["", ""])[1] == run.listed[k].etag for k in infos)
    return bool(there) and not there & here and not ours


# --- The signed list -----------------------------------------------------------------------------


class SignedCopy:
    """The signed list in the bucket, kept true while a run changes what is there."""

    def __init__(self, bucket: Bucket, state: State, listed: dict[str, Listed]) -> None:
        self._bucket = bucket
        self._state = state
        self._listed = listed
        self._there = listed.pop(LIST, None)

    def take_up(self, log: Log) -> None:
        """Goes on from the newest list that there is.

        Raises:
            Failed: the one in the bucket is not ours, and none is remembered here.
        """
        state = self._state
        if self._there and self._there.etag != state.signed_etag:
            try:
                there = Signed.opened(self._bucket.s3, self._bucket.read(LIST, LONGEST))
                if there.written > state.signed.written:
                    state.signed = there
            except Failed as failure:
                if not state.signed.written:
                    raise Failed(
                        f"{failure}: put the .env of that time back, or remove "
                        f"{self._bucket.address(LIST)} if nothing is to be fetched from there"
                    ) from None
                log.line(f"S3: {failure}: it is replaced")
            state.signed_etag = ""
        if self._there is None:
            state.signed_etag = ""
        coming = state.signed.coming
        state.signed.coming = {key: coming[key] for key in coming if key in self._listed}

    def announce(self, entries: Mapping[str, Entry]) -> None:
        """Names what is about to change, before it does."""
        if entries:
            self._state.signed.coming.update(entries)
            self._put()

    def arrived(self, item: Item, entry: Entry | None = None) -> None:
        """Notes what an object is now; what is known of one that has not changed stays."""
        state = self._state
        known = state.signed.files.get(item.key)
        if entry is None:
            is_known = known and known.size == item.size() and state.knows(item, self._etag(item))
            entry = known if is_known else item.entry()
        assert entry is not None
        with state.lock:
            if known != entry:
                state.signed.files[item.key] = entry
                state.signed_etag = ""
            if state.signed.coming.pop(item.key, None):
                state.signed_etag = ""

    def leave(self, keys: Iterable[str]) -> None:
        """Names what is about to be removed as something that need not be there."""
        files = self._state.signed.files
        self.announce({key: files.pop(key) for key in keys if key in files})

    def finish(self, log: Log) -> None:
        """Names what is there now."""
        state = self._state
        if gone := sorted(key for key in state.signed.files if key not in self._listed):
            log.line(f"S3: {len(gone)} copies are gone from the bucket, such as {gone[0]}")
            for key in gone:
                del state.signed.files[key]
            state.signed_etag = ""
        if not state.signed_etag or state.signer != signer(self._bucket.s3):
            # Those before it say what was on its way; one that can be gone back to is whole.
            self._put(locked=True)

    def _etag(self, item: Item) -> str:
        return self._listed[item.key].etag

    def _put(self, *, locked: bool = False) -> None:
        content = self._state.signed.sealed(self._bucket.s3)
        sha256 = hashlib.sha256(content).hexdigest()
        self._state.signed_etag = self._bucket.put(LIST, content, sha256, locked=locked)
        self._state.signer = signer(self._bucket.s3)
        self._state.save()


# --- One run -------------------------------------------------------------------------------------


class Run:
    """One run: what it found, what it did, and when it has to end."""

    def __init__(
        self, bucket: Bucket, state: State, listed: Mapping[str, Listed], end: float
    ) -> None:
        self.bucket = bucket
        self.state = state
        self.listed = dict(listed)
        self.signed = SignedCopy(bucket, state, self.listed)
        self.copied = self.unchanged = self.bytes = 0
        self._end = end
        self._lock = threading.Lock()

    def copy(self, items: Sequence[Item]) -> dict[str, str]:
        """Copies what is missing or changed; returns why what failed did, by key.

        Raises:
            Away: the store does not answer; nothing more was begun.
        """
        found = dict(self._each(items, self._look))
        failures = {item.key: why for item, why in found.items() if isinstance(why, str)}
        due = {item: new for item in items if isinstance(new := found[item], Entry)}
        self.signed.announce({item.key: entry for item, entry in due.items()})
        for item, reason in self._each(due, lambda item: self._send(item, due[item])):
            if reason:
                failures[item.key] = reason
        self.state.save()
        return failures

    def _each(
        self, items: Iterable[Item], work: Callable[[Item], Done]
    ) -> Iterator[tuple[Item, Done | str | None]]:
        """What is returned for each item, or why it failed; None for a file that has gone."""
        with ThreadPoolExecutor(WORKERS) as pool:
            waiting = {pool.submit(self._tried, item, work): item for item in items}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BaseException:
                self._end = 0.0
                pool.shutdown(cancel_futures=True)
                raise

    def has(self, manifest: Manifest, failures: Mapping[str, str]) -> bool:
        """Whether the artifact of a manifest is in the bucket, as far as it has one."""
        key = key_of(manifest)
        return not manifest.sha256 or (key in self.listed and key not in failures)

    def _tried(self, item: Item, work: Callable[[Item], Done]) -> Done | str | None:
        self._in_time()
        try:
            return work(item)
        except FileNotFoundError:
            return None  # retention, or pgBackRest's expiry, was faster
        except Away:
            raise
        except (Failed, OSError) as error:
            return str(error)

    def _look(self, item: Item) -> Entry | None:
        """What is to be sent; None where it is there."""
        there, size = self.listed.get(item.key), item.size()
        if there and there.size == size and self._is_same(item, there):
            self.signed.arrived(item)
            self.state.stored(item, there.etag)
            self._keep_locked(item.key)
            self._count(None)
            return None
        return item.entry()

    def _keep_locked(self, key: str) -> None:
        """What stays is locked again in good time: half of the days are left at any moment."""
        days = self.bucket.s3.lock_days
        if days and not self.state.is_locked(key, self.bucket.until - timedelta(days=days / 2)):
            until = self.bucket.lock(key)
            self.state.locks(key, until)

    def _is_same(self, item: Item, there: Listed) -> bool:
        return self.state.knows(item, there.etag) or _etag(item) == there.etag

    def _send(self, item: Item, entry: Entry) -> None:
        etag = self._put(item, *entry)
        self.signed.arrived(item, entry)
        self.state.stored(item, etag)
        if self.bucket.s3.lock_days:
            self.state.locks(item.key, self.bucket.until)
        self.listed[item.key] = Listed(entry.size, etag)
        self._count(entry.size)

    def _put(self, item: Item, size: int, sha256: str) -> str:
        if size > PART and item.content is None:
            return self._put_large(item, size, sha256)
        content = b"".join(_chunks(item, PART)) if item.content is None else item.content
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Failed(f"{item.key} changed while it was read")
        etag = self.bucket.put(item.key, content, sha256)
        self._require_arrived(item.key, etag, md5_hex(content), sha256)
        return etag

    def _put_large(self, item: Item, size: int, sha256: str) -> str:
        upload, arrived = self._resumed(item.key, sha256)
        etags, sums, running = [], [], hashlib.sha256()
        for number, chunk in enumerate(_chunks(item, _part_size(size)), 1):
            self._in_time()
            running.update(chunk)
            sums.append(md5_hex(chunk))
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


def md5_hex(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _joined(sums: Sequence[str]) -> str:
    """The ETag of an object of several parts."""
    return f"{md5_hex(b''.join(map(bytes.fromhex, sums)))}-{len(sums)}"


def _etag(item: Item) -> str:
    """What S3 would call the content if we had put it there."""
    if item.content is not None:
        return md5_hex(item.content)
    size = item.size()
    sums = [md5_hex(chunk) for chunk in _chunks(item, _part_size(size))] or [md5_hex(b"")]
    return _joined(sums) if size > PART else sums[0]


def _part_size(size: int) -> int:
    return max(PART, -(-size // _PARTS))


def _chunks(item: Item, size: int) -> Iterator[bytes]:
    with item.open() as file:
        while chunk := file.read(size):
            yield chunk
