"""What earlier runs put into the bucket, so that nothing is read or asked for twice."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from backup.config import Config
from backup.manifest import durably
from backup.store.layout import Item
from backup.store.signed import Signed

_STATE = ".s3-mirror"


@dataclass
class State:
    """What the last runs put where, so that nothing is read or asked for twice.

    Losing it costs time only: checksums are compared instead.

    Attributes:
        objects: identity of the local file and ETag of the object, by key.
        signed: the list of copies as it was last put there; `signer` and its ETag say whether
            the object is still that one.
        uploads: identifier and sha256 of objects of which only some parts have arrived.
        locked: until when an object can be removed by no one, by key; ISO 8601.
    """

    path: Path
    target: str
    objects: dict[str, list[str]] = field(default_factory=dict)
    uploads: dict[str, list[str]] = field(default_factory=dict)
    signed: Signed = field(default_factory=Signed)
    signed_etag: str = ""
    signer: str = ""
    locked: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: Config) -> State:
        s3 = config.s3
        target = f"{s3.endpoint} {s3.bucket} {s3.prefix}" if s3 else ""
        name = "-".join(filter(None, [_STATE, s3.label if s3 else ""]))
        empty = cls(config.directory / f"{name}.json", target)
        try:
            raw = json.loads(empty.path.read_bytes())
            if raw["target"] != target:
                return empty
            known = replace(empty, objects=dict(raw["objects"]), uploads=dict(raw["uploads"]))
            if "signed" in raw:
                known.signed = Signed.of(raw["signed"])
                known.signed_etag, known.signer = str(raw["signed_etag"]), str(raw["signer"])
            known.locked = dict(raw.get("locked", {}))
            return known
        except (OSError, ValueError, KeyError, TypeError):
            return empty

    def save(self) -> None:
        with self.lock:
            raw = {
                "target": self.target,
                "objects": self.objects,
                "uploads": self.uploads,
                "signed": asdict(self.signed),
                "signed_etag": self.signed_etag,
                "signer": self.signer,
                "locked": self.locked,
            }
            durably(self.path, json.dumps(raw).encode())

    def stored(self, item: Item, etag: str) -> None:
        with self.lock:
            self.objects[item.key] = [item.identity(), etag]
            self.uploads.pop(item.key, None)

    def knows(self, item: Item, etag: str) -> bool:
        return self.objects.get(item.key) == [item.identity(), etag]

    def began(self, key: str, upload: str, sha256: str) -> None:
        with self.lock:
            self.uploads[key] = [upload, sha256]
        self.save()

    def locks(self, key: str, until: datetime) -> None:
        with self.lock:
            self.locked[key] = until.isoformat()

    def is_locked(self, key: str, until: datetime) -> bool:
        known = self.locked.get(key)
        return known is not None and datetime.fromisoformat(known) >= until

    def forget(self, key: str) -> None:
        with self.lock:
            self.objects.pop(key, None)
            self.uploads.pop(key, None)
            self.locked.pop(key, None)


@contextlib.contextmanager
def remembered(config: Config) -> Iterator[State]:
    state = State.of(config)
    try:
        yield state
    finally:
        state.save()
