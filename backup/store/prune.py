"""Removes from the bucket what the retention rules no longer keep."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from backup import retention
from backup.config import Config
from backup.job import Failed, Log
from backup.manifest import SUFFIX, Manifest
from backup.store.bucket import Away, Listed, bucket_of
from backup.store.layout import Item, key_of, labels_of, repository_of, stored_manifests, summary
from backup.store.mirror import LIMIT, Run
from backup.store.state import remembered


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
    bucket = bucket_of(config, log)
    with remembered(config) as state:
        run = Run(bucket, state, bucket.listing(), time.monotonic() + LIMIT)
        run.signed.take_up(log)
        manifests, _ = stored_manifests(bucket, run.listed, state.signed)
        present = [m if _is_whole(m, run.listed) else replace(m, verified=()) for m in manifests]
        days, least = config.retention_days, config.retention_min_full
        decision = retention.decide(present, datetime.now(UTC), days, least)
        artifacts = [
            key
            for manifest in retention.in_order(decision.delete)
            if not _is_here(config, manifest)
            for key in (key_of(manifest), key_of(manifest) + SUFFIX)
        ]
        labels = retention.labels_to_keep(decision)
        physical = _expired_files(config, run, labels, log)
        removed = _remove(run, [key for key in (*artifacts, *physical) if key in run.listed])
        _give_up_forgotten(config, run)
    log.line(f"S3: removed {removed} objects")
    return removed


def _is_whole(manifest: Manifest, listed: Mapping[str, Listed]) -> bool:
    there = listed.get(key_of(manifest))
    return not manifest.sha256 or (there is not None and there.size == manifest.bytes)


def _is_here(config: Config, manifest: Manifest) -> bool:
    directory = retention.directory_of(config, manifest)
    return manifest.beside(directory).exists() or (
        bool(manifest.sha256) and manifest.path(directory).exists()
    )


def _expired_files(config: Config, run: Run, keep: Iterable[str], log: Log) -> list[str]:
    """Files that pgBackRest has expired here; none while the bucket may know better."""
    repository = repository_of(config)
    here = labels_of(repository.keys())
    labels = {label.split("/")[1] for label in here}
    lost = {label.split("/")[1] for label in labels_of(run.listed)} & set(keep) - labels
    if lost or not all(_is_current(run, item) for item in repository.infos):
        log.line(f"S3: the repository's copies stay: {sorted(lost) or 'they are not up to date'}")
        return []
    own = {label.split("/")[0] for label in here}
    places = (key.rsplit("/", 4) for key in run.listed if key.endswith("/backup.manifest"))
    stanzas = tuple(
        f"{root}/{kind}/{stanza}/"
        for root, _, stanza, *_ in places
        if stanza in own
        for kind in ("archive", "backup")
    )
    gone = {key for key in run.listed if key.startswith(stanzas)} - repository.keys()
    gone = {key for key in gone if not (config.directory / key).exists()}
    # The manifest first: a backup that is half gone must not look whole.
    return sorted(gone, key=lambda key: (not key.endswith("/backup.manifest"), key))


def _is_current(run: Run, item: Item) -> bool:
    there = run.listed.get(item.key)
    return there is not None and run.state.knows(item, there.etag)


def _give_up_forgotten(config: Config, run: Run) -> None:
    """Parts of a file that is gone here would lie in the bucket, unseen and paid for."""
    for key, (upload, _) in list(run.state.uploads.items()):
        if not (config.directory / key).exists():
            with contextlib.suppress(Failed):
                run.bucket.give_up(key, upload)
            run.state.forget(key)


def _remove(run: Run, keys: Sequence[str]) -> int:
    """One request each: stores other than Amazon's differ on removing many at once."""
    failures = {}
    run.signed.leave(keys)
    for key in keys:
        try:
            run.bucket.remove(key)
            run.state.forget(key)
        except Away:
            raise
        except Failed as failure:
            failures[key] = str(failure)
    if failures:
        raise Failed(summary("not removed from S3", failures))
    return len(keys)
