"""A bucket: the few things that are asked of one, each with an end and a clear failure."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from backup.config import S3, Config
from backup.job import Failed, Log
from backup.store.signed import LIST

# Every request ends: seconds to connect, seconds between two packets, tries in all.
CONNECT_SECONDS = 10
READ_SECONDS = 60
TRIES = 4

# Latency, not bandwidth, is what thousands of small files cost; two cores hash four streams.
WORKERS = 4

REPOSITORY = "pgbackrest"
_PLACES = ("postgres/", "redis/", f"{REPOSITORY}/")
_CHUNK = 1024 * 1024
# Bytes of a manifest; it takes about one thousand.
_LONGEST = 1024 * 1024


class Away(Failed):
    """The store does not answer, or not in time; the next run goes on from here."""


class Listed(NamedTuple):
    size: int
    etag: str


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turns what the library raises into one line that says whether to try again later."""
    # It takes longer to load than the rest of the program, and most jobs ask no bucket.
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NoConnection

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
    import boto3
    import botocore.config

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


class Bucket:
    """The few things that we ask of a bucket; keys are relative to the prefix."""

    def __init__(self, s3: S3, log: Log, as_of: datetime | None = None) -> None:
        """A bucket, or what it was at an earlier moment, where it keeps versions."""
        self.s3 = s3
        self._as_of = as_of
        self._versions: dict[str, str] = {}
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

    def _then(self, key: str) -> dict[str, str]:
        version = self._versions.get(key)
        return self._at(key) | ({"VersionId": version} if version else {})

    def listing(self) -> dict[str, Listed]:
        """Everything under the prefix that is ours by its place; names are not checked."""
        with _asking("listing"):
            rows = self._rows_then(self._as_of) if self._as_of else self._rows("Contents")
            found = {row["Key"].removeprefix(self._prefix): row for row in rows}
        ours = {key: row for key, row in found.items() if is_ours(key)}
        self._versions = {k: row["VersionId"] for k, row in ours.items() if "VersionId" in row}
        return {key: Listed(row["Size"], row["ETag"].strip('"')) for key, row in ours.items()}

    def _rows(self, *kinds: str) -> Iterator[dict[str, Any]]:
        question = "list_objects_v2" if kinds == ("Contents",) else "list_object_versions"
        pages = self._client.get_paginator(question)
        for page in pages.paginate(Bucket=self._name, Prefix=self._prefix):
            for kind in kinds:
                yield from page.get(kind, [])

    def _rows_then(self, moment: datetime) -> list[dict[str, Any]]:
        """The newest version of each object up to a moment, unless it had been removed then."""
        newest: dict[str, dict[str, Any]] = {}
        for row in self._rows("Versions", "DeleteMarkers"):
            known = newest.get(row["Key"])
            # Times have no fractions: of two in one second the first in the list is the newer one.
            is_newer = known is None or row["LastModified"] > known["LastModified"]
            if row["LastModified"] <= moment and is_newer:
                newest[row["Key"]] = row
        return [row for row in newest.values() if "ETag" in row]

    def sha256(self, key: str) -> str:
        """What the object's content was when it was put there; empty if that was not said."""
        with _asking(key):
            return str(self._client.head_object(**self._then(key))["Metadata"].get("sha256", ""))

    @property
    def until(self) -> datetime:
        """How long what is locked now can be removed by no one, the bucket's owner included."""
        return datetime.now(UTC) + timedelta(days=self.s3.lock_days)

    def _lock(self) -> dict[str, Any]:
        if not self.s3.lock_days:
            return {}
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": self.until}

    def require_lock(self) -> None:
        """Whether the bucket takes locks, where they are wanted.

        Raises:
            Failed: it does not.
        """
        from botocore.exceptions import ClientError

        if not self.s3.lock_days:
            return
        with _asking("Object Lock"):
            try:
                said = self._client.get_object_lock_configuration(Bucket=self._name)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ObjectLockConfigurationNotFoundError":
                    raise
                said = {}
        if said.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise Failed(
                f"S3: bucket {self._name} has no Object Lock: turn it on there, "
                "or set backup_s3_object_lock_days = 0"
            )

    def lock(self, key: str) -> datetime:
        """Locks an object that is there, and tells until when; a lock only becomes longer."""
        until = self.until
        with _asking(key):
            self._client.put_object_retention(
                **self._at(key), Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
            )
        return until

    def put(self, key: str, content: bytes, sha256: str, *, locked: bool = True) -> str:
        """Stores a small object, its MD5 along with it; returns the ETag."""
        answer = self._encrypted(
            key,
            partial(
                self._client.put_object,
                **self._at(key),
                Body=content,
                ContentMD5=_md5(content),
                Metadata={"sha256": sha256},
                **(self._lock() if locked else {}),
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
            self._client.create_multipart_upload,
            **self._at(key),
            Metadata={"sha256": sha256},
            **self._lock(),
        )
        return str(self._encrypted(key, create)["UploadId"])

    def parts(self, key: str, upload: str) -> dict[int, str] | None:
        """ETags of the parts that have arrived; None if the upload is not known any more."""
        from botocore.exceptions import BotoCoreError, ClientError

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

    def read(self, key: str, longest: int = _LONGEST) -> bytes:
        """A small object.

        Raises:
            Failed: it is not small; it would have to fit into memory.
        """
        with _asking(key):
            content = bytes(self._client.get_object(**self._then(key))["Body"].read(longest + 1))
        if len(content) > longest:
            raise Failed(f"{key} has more than {longest} bytes")
        return content

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object of any size, as it comes."""
        with _asking(key):
            yield from self._client.get_object(**self._then(key))["Body"].iter_chunks(_CHUNK)

    def download(self, key: str, path: Path) -> str:
        """Writes an object to a file, synced; returns the sha256 of what arrived."""
        running = hashlib.sha256()
        # What lies there may be another user's link.
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            for chunk in self.chunks(key):
                running.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return running.hexdigest()

    def _encrypted(self, key: str, request: Callable[..., Any]) -> Any:
        """Asks for encryption at rest; a store of one's own may have none (MinIO without KMS)."""
        from botocore.exceptions import BotoCoreError, ClientError

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


def is_ours(key: str) -> bool:
    return key == LIST or (key[-1:] != "/" and key.startswith(_PLACES))


def is_safe(key: str) -> bool:
    """Whether a name leads to a file below the directory, and to one only."""
    path = PurePosixPath(key)
    plain = key.isprintable() and "\\" not in key and path.as_posix() == key
    return plain and ".." not in path.parts and not path.is_absolute()


def bucket_of(config: Config, log: Log, as_of: datetime | None = None) -> Bucket:
    if config.s3 is None:
        raise Failed("S3: no bucket is configured")
    return Bucket(config.s3, log, as_of)
