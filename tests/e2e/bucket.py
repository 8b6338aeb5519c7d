"""An S3 server for stories of copies."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3

from tests.e2e.wait import eventually

BUCKET, SECOND = "offsite", "far-away"
ACCESS_KEY, SECRET_KEY = "story", "story-secret"


@dataclass(frozen=True)
class Store:
    """An S3 server on this machine's address in a lab, looked into from outside."""

    endpoint: str
    client: Any = field(repr=False)

    @property
    def gateway(self) -> str:
        """Its address."""
        return self.endpoint.split("/")[2].split(":")[0]

    def listed(self, bucket: str = BUCKET) -> set[str]:
        """Everything in a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {row["Key"] for page in pages for row in page.get("Contents", [])}

    def content(self, key: str) -> bytes:
        """One object."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


@contextlib.contextmanager
def running(gateway: str) -> Iterator[Store]:
    """Moto, as a process of its own, with an empty bucket."""
    with socket.create_server((gateway, 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", gateway, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _require_open(gateway, port), 60)
        endpoint = f"http://{gateway}:{port}"
        client = boto3.session.Session().client(
            "s3",
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        # Locks bring versions, which other buckets have as well.
        client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        client.create_bucket(Bucket=SECOND)
        yield Store(endpoint, client)
    finally:
        process.kill()
        process.wait()


def _require_open(address: str, port: int) -> None:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError as error:
        raise AssertionError(str(error)) from None
