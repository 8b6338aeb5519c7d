"""The signed list of copies: what the bucket should hold, by a key that is not in the bucket."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from backup.config import S3
from backup.job import Failed

# Where the list lies, below the prefix.
LIST = "signed-list.json"
# Bytes; a copy takes about 150.
LONGEST = 256 * 1024 * 1024
_CONTEXT = b"datatier list of copies 1\n"


class Entry(NamedTuple):
    """What an object should be."""

    size: int
    sha256: str


@dataclass
class Signed:
    """The content of the list.

    Attributes:
        written: when, UTC, ISO 8601; of two lists the newer one counts.
        files: what must be there.
        coming: what may be there beside that: on its way, or about to be removed.
    """

    written: str = ""
    files: dict[str, Entry] = field(default_factory=dict)
    coming: dict[str, Entry] = field(default_factory=dict)

    def names(self, key: str) -> set[Entry]:
        """What an object may be; nothing if it should not be there."""
        return {there[key] for there in (self.files, self.coming) if key in there}

    def sealed(self, s3: S3) -> bytes:
        """The object: the signature, then what is signed."""
        self.written = datetime.now(UTC).isoformat()
        body = json.dumps(asdict(self)).encode()
        return _signature(_key(s3), body) + b"\n" + body

    @classmethod
    def opened(cls, s3: S3, content: bytes) -> Signed:
        """The list that an object holds.

        Raises:
            Failed: the signature is not of this estate's key.
        """
        signature, _, body = content.partition(b"\n")
        if not _is_ours(s3, signature, body):
            raise Failed(f"{LIST} in the bucket is not signed with BACKUP_SIGNING_KEY")
        return cls.of(json.loads(body))

    @classmethod
    def of(cls, raw: dict[str, object]) -> Signed:
        """The list from its JSON."""
        files, coming = (
            {str(key): Entry(int(size), str(sha256)) for key, (size, sha256) in part.items()}
            for part in (raw["files"], raw["coming"])
            if isinstance(part, dict)
        )
        return cls(str(raw["written"]), files, coming)


def damaged(key: str) -> str:
    """Why an object is not taken."""
    return f"{key} is damaged in the bucket: it is not what was put there"


def signer(s3: S3) -> str:
    """Tells one key from another without giving it away."""
    return signer_of(_key(s3))


def signer_of(key: str) -> str:
    """The same, of a key."""
    return _signature(key, b"")[:16].decode()


def _key(s3: S3) -> str:
    if not s3.signing_key:
        raise Failed("S3: BACKUP_SIGNING_KEY is not configured: run deploy.py")
    return s3.signing_key


def _is_ours(s3: S3, signature: bytes, body: bytes) -> bool:
    keys = filter(None, (_key(s3), s3.signing_key_previous))
    return any(hmac.compare_digest(signature, _signature(key, body)) for key in keys)


def _signature(key: str, body: bytes) -> bytes:
    return hmac.new(key.encode(), _CONTEXT + body, hashlib.sha256).hexdigest().encode()
