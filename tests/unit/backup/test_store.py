"""The mirror, against a real S3 server behind a wire that can be cut, slowed and stopped."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from backup import job, outcome, recovery, retention
from backup.config import Alerts, Config
from backup.job import Failed, Log
from backup.manifest import SUFFIX, Manifest, all_of, encoded
from backup.postgres import repository as physical
from backup.store import bucket as store_bucket
from backup.store import copies as store
from backup.store import layout as store_layout
from backup.store import mirror as store_mirror
from backup.store.bucket import Bucket
from backup.store.fetch import Fetched
from backup.store.signed import LIST
from tests.unit.backup import builders
from tests.unit.backup.test_passphrase import NEW, OLD, written

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
ROOT = Path(__file__).parents[3]
# Reading what the library knows of Amazon's services takes longer than most tests.
SESSION = boto3.session.Session()


class Moto:
    """A process of its own; what it holds is gone when it stops."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.1)
        raise AssertionError("moto does not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def checks_rights(self, since: str) -> None:
        """From that many requests on; `inf` is never."""
        ask = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/moto-api/reset-auth",
            data=since.encode(),
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(ask).close()


class Wire:
    """A TCP relay in front of the server: counts what goes up, and can be cut or slowed."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = 0
        self.cut_after: int | None = None
        self.delay = 0.0
        self.damage: tuple[bytes, bytes] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _is_cut(self) -> bool:
        return self.cut_after is not None and self.sent >= self.cut_after

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._is_cut():
                return
            with socket.create_connection(("127.0.0.1", self._server)) as server:
                back = threading.Thread(target=self._pump, args=(server, client, False))
                back.start()
                self._pump(client, server, True)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        # A relay that waits to fill its packets is ten times as slow as no relay.
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not self._is_cut():
                if up:
                    self.sent += len(data)
                    data = data.replace(*self.damage) if self.damage else data
                else:
                    time.sleep(self.delay)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    made = Moto()
    yield made
    made.stop()


@pytest.fixture
def wire(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(store_bucket, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(store_bucket, "TRIES", 2)
    monkeypatch.setattr(boto3.session, "Session", lambda: SESSION)
    # What a host's environment says of S3 is nobody's business here.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
    made = Wire(moto.port)
    yield made
    made.close()


@pytest.fixture
def client(moto: Moto) -> Any:
    return direct(moto)


def direct(moto: Moto) -> Any:
    """A client that goes round the wire, with a bucket that is empty."""
    made = SESSION.client(
        "s3",
        region_name="eu-central-1",
        endpoint_url=f"http://127.0.0.1:{moto.port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    with contextlib.suppress(made.exceptions.BucketAlreadyOwnedByYou):
        made.create_bucket(
            Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
    for row in made.list_objects_v2(Bucket="backups").get("Contents", []):
        made.delete_object(Bucket="backups", Key=row["Key"])
    for row in made.list_multipart_uploads(Bucket="backups").get("Uploads", []):
        made.abort_multipart_upload(Bucket="backups", Key=row["Key"], UploadId=row["UploadId"])
    return made


@pytest.fixture
def here(tmp_path: Path, wire: Wire, client: Any) -> Config:
    endpoint = f"http://127.0.0.1:{wire.port}"
    return builders.config(
        tmp_path / "backups", s3=builders.s3(endpoint), retention_min_full=1, databases=("app",)
    )


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log", "mirror")


def keys(client: Any) -> dict[str, int]:
    rows = client.list_objects_v2(Bucket="backups").get("Contents", [])
    found = {row["Key"].removeprefix("estate/one/"): row["Size"] for row in rows}
    return {key: size for key, size in found.items() if key != LIST}


def fetch(config: Config, target: Path, log: Log, *, unsigned: bool = False) -> Fetched:
    bucket = store_bucket.bucket_of(config, log)
    return store.fetch(config, target, log, store.offered(bucket, log, unsigned=unsigned))


def content(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket="backups", Key=f"estate/one/{key}")["Body"].read())


def repository(config: Config, *moments: datetime) -> None:
    """Files as pgBackRest lays them out, with full backups of the given moments."""
    root = config.directory / "pgbackrest"
    for moment in moments:
        label = builders.label(moment)
        put(root / f"backup/stack/{label}/pg_data/base/1.zst", label * 10)
        put(root / f"backup/stack/{label}/backup.manifest", label)
        put(root / f"archive/stack/15-1/0000000100000000/{label}.zst", label * 5)
    labels = " ".join(builders.label(moment) for moment in moments)
    for name in ("archive/stack/archive.info", "backup/stack/backup.info"):
        put(root / name, labels)
        put(root / f"{name}.copy", labels)
    put(root / "archive/stack/15-1/unfinished.pgbackrest.tmp", "half")
    with contextlib.suppress(FileExistsError):
        (root / "backup/stack/latest").symlink_to(builders.label(moments[-1]))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def full(config: Config, moment: datetime, data: bytes = b"dump") -> Manifest:
    """A full backup, its physical one included in the manifest."""
    made = builders.stored(config, "full", "app", moment, data)
    made = replace(made, facts={"label": builders.label(moment)})
    made.write(config.artifacts("postgres"))
    return made


def estate(config: Config) -> list[Manifest]:
    """A full, its globals, an incremental and a snapshot."""
    repository(config, NOW)
    made = [full(config, NOW), builders.stored(config, "globals", "", NOW, b"globals")]
    made.append(builders.manifest("incremental", "stack", NOW + timedelta(hours=1)))
    made[-1].write(config.artifacts("postgres"))
    return [*made, builders.stored(config, "redis", "redis", NOW, b"rdb")]


def tree(root: Path) -> dict[str, bytes]:
    """What a mirror has to hold."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".tmp"
        if not path.name.startswith(".") and "logs" not in path.parts
    }


# --- Mirror --------------------------------------------------------------------------------------


def test_everything_is_copied_once(here: Config, client: Any, log: Log, wire: Wire) -> None:
    estate(here)
    store.mirror(here, log)
    assert {key: content(client, key) for key in keys(client)} == tree(here.directory)
    sent = wire.sent
    again = store.mirror(here, log)
    assert again.copied == 0 and again.unchanged == len(tree(here.directory))
    assert wire.sent - sent < 1500  # one listing


def test_copies_are_noted_and_encryption_is_asked_for(here: Config, client: Any, log: Log) -> None:
    made = estate(here)
    store.mirror(here, log)
    addresses = [Manifest.read(m.beside(retention.directory_of(here, m))).copies[0] for m in made]
    assert addresses == [
        f"s3://backups/estate/one/postgres/{made[0].name}",
        f"s3://backups/estate/one/postgres/{made[1].name}",
        "s3://backups/estate/one/pgbackrest",
        f"s3://backups/estate/one/redis/{made[3].name}",
    ]
    for key in keys(client):
        head = client.head_object(Bucket="backups", Key=f"estate/one/{key}")
        assert head["ServerSideEncryption"] == "AES256"
        assert head["Metadata"]["sha256"] == hashlib.sha256(content(client, key)).hexdigest()


def test_manifests_and_infos_go_last(
    here: Config, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(here)
    order: list[str] = []
    put_one = Bucket.put

    def noting(bucket: Bucket, key: str, data: bytes, sha256: str, **more: bool) -> str:
        order.append(key)
        return put_one(bucket, key, data, sha256, **more)

    monkeypatch.setattr(Bucket, "put", noting)
    store.mirror(here, log)
    assert order[0] == order[-1] == LIST
    order = [key for key in order if key != LIST]

    def rank(key: str) -> int:
        if key.endswith(SUFFIX):
            return 4
        if not key.startswith("pgbackrest"):
            return 0
        return 3 if ".info" in key else 2 if key.endswith("backup.manifest") else 1

    assert [rank(key) for key in order] == sorted(rank(key) for key in order)


def test_a_manifest_that_gains_a_check_is_copied_again(here: Config, client: Any, log: Log) -> None:
    made = estate(here)[3]
    store.mirror(here, log)
    path = made.beside(here.artifacts("redis"))
    Manifest.read(path).with_verification("drill", "2026").write(here.artifacts("redis"))
    assert store.mirror(here, log).copied == 1
    assert content(client, f"redis/{made.name}{SUFFIX}") == path.read_bytes()
    assert b"drill" in path.read_bytes() and b"s3://" in path.read_bytes()


def test_a_check_noted_while_the_manifest_is_copied_is_not_lost(
    here: Config, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = builders.stored(here, "redis", "redis", NOW, b"rdb")
    put_one, directory = Bucket.put, here.artifacts("redis")

    def verified_meanwhile(bucket: Bucket, key: str, data: bytes, sha256: str, **more: bool) -> str:
        if key != LIST:
            made.with_verification("drill", "2026").write(directory)
        return put_one(bucket, key, data, sha256, **more)

    monkeypatch.setattr(Bucket, "put", verified_meanwhile)
    store.mirror(here, log)
    now = Manifest.read(made.beside(directory))
    assert now.copies and "drill" in {check.what for check in now.verified}


def test_without_its_record_it_compares_and_copies_nothing(here: Config, log: Log) -> None:
    estate(here)
    store.mirror(here, log)
    for record in (None, "{", "[]", '{"target": ""}'):
        path = here.directory / ".s3-mirror.json"
        path.unlink() if record is None else path.write_text(record)
        assert store.mirror(here, log).copied == 0


def test_what_was_changed_or_removed_over_there_is_put_back(
    here: Config, client: Any, log: Log
) -> None:
    made = estate(here)
    store.mirror(here, log)
    keys_ = [f"postgres/{made[0].name}", f"redis/{made[3].name}"]
    client.put_object(Bucket="backups", Key=f"estate/one/{keys_[0]}", Body=b"DUMP")
    client.delete_object(Bucket="backups", Key=f"estate/one/{keys_[1]}")
    assert store.mirror(here, log).copied == 2
    assert [content(client, key) for key in keys_] == [b"dump", b"rdb"]


def test_a_damaged_artifact_never_replaces_its_copy(here: Config, client: Any, log: Log) -> None:
    made = estate(here)[0]
    store.mirror(here, log)
    made.path(here.artifacts("postgres")).write_bytes(b"DUMP")
    other = builders.stored(here, "redis", "redis", NOW + timedelta(hours=4), b"later")
    with pytest.raises(Failed, match=f"{made.name} is not what its manifest says"):
        store.mirror(here, log)
    assert content(client, f"postgres/{made.name}") == b"dump"
    assert f"redis/{other.name}{SUFFIX}" in keys(client)


def test_a_file_without_manifest_or_a_cut_one_is_not_copied(
    here: Config, client: Any, log: Log
) -> None:
    (here.artifacts("postgres") / "app_full_20260101_020000.sql.gz").write_bytes(b"x")
    cut = builders.stored(here, "redis", "redis", NOW, b"whole")
    cut.path(here.artifacts("redis")).write_bytes(b"who")
    store.mirror(here, log)
    assert keys(client) == {}


# --- Trouble -------------------------------------------------------------------------------------


def test_an_outage_ends_soon_and_its_backlog_is_copied(here: Config, log: Log) -> None:
    server = Moto()
    try:
        assert here.s3
        away = replace(here, s3=replace(here.s3, endpoint=f"http://127.0.0.1:{server.port}"))
        direct(server)
        estate(away)
        store.mirror(away, log)
        server.stop()
        for hours in range(4, 40, 4):
            builders.stored(away, "redis", "redis", NOW + timedelta(hours=hours), os.urandom(99))
        start = time.monotonic()
        with pytest.raises(store.Away, match="S3: listing"):
            store.mirror(away, log)
        assert time.monotonic() - start < 10
        server.start()
        again = direct(server)
        store.mirror(away, log)
        assert {key: content(again, key) for key in keys(again)} == tree(away.directory)
    finally:
        server.stop()


def test_a_server_that_hangs_does_not_hold_the_run(
    here: Config, log: Log, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(here)
    os.kill(moto.process.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        # Only here: elsewhere a server that has no processor for that long would be asked twice.
        with monkeypatch.context() as hurried, pytest.raises(store.Away):
            hurried.setattr(store_bucket, "READ_SECONDS", 2)
            store.mirror(here, log)
        assert time.monotonic() - start < 12
    finally:
        os.kill(moto.process.pid, signal.SIGCONT)
    store.mirror(here, log)


def test_a_slow_server_ends_with_the_time_and_the_next_runs_go_on(
    here: Config, client: Any, log: Log, wire: Wire
) -> None:
    for hours in range(40):
        builders.stored(here, "redis", "redis", NOW - timedelta(hours=hours), b"rdb%d" % hours)
    wire.delay = 0.2
    start = time.monotonic()
    with pytest.raises(store.Away, match="time is up"):
        store.mirror(here, log, limit=1.5)
    assert time.monotonic() - start < 6
    arrived = sorted(key for key in keys(client) if key.endswith(".gz"))
    assert 0 < len(arrived) < 40
    newest = sorted(path.name for path in here.artifacts("redis").glob("*.gz"))[-1]
    assert f"redis/{newest}" in arrived
    wire.delay = 0.0
    assert store.mirror(here, log).copied == 80 - len(arrived)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(store_mirror, "PART", 5 * 1024 * 1024)  # the least that S3 takes
    return 5 * 1024 * 1024


def test_an_interrupted_upload_goes_on_where_it_was(
    here: Config, client: Any, log: Log, wire: Wire, small_parts: int
) -> None:
    data = os.urandom(6 * small_parts + 123)
    made = builders.stored(here, "full", "app", NOW, data)
    wire.cut_after = 3 * small_parts + 1_000_000
    with pytest.raises(store.Away):
        store.mirror(here, log)
    assert keys(client) == {}
    wire.cut_after, wire.sent = None, 0
    store.mirror(here, log)
    assert wire.sent < 4 * small_parts
    assert content(client, f"postgres/{made.name}") == data
    assert "Uploads" not in client.list_multipart_uploads(Bucket="backups")
    assert store.mirror(here, log).copied == 0


def test_a_killed_upload_goes_on_where_it_was(
    here: Config, client: Any, log: Log, wire: Wire, small_parts: int
) -> None:
    data = os.urandom(6 * small_parts)
    made = builders.stored(here, "full", "app", NOW, data)
    code = f"""
import sys; from pathlib import Path
from backup.store import copies as store
from backup.store import mirror as store_mirror; from backup.job import Log
from tests.unit.backup import builders
from tests.unit.backup.test_passphrase import NEW, OLD, written
store_mirror.PART = {small_parts}
here = builders.config(Path({str(here.directory)!r}), s3=builders.s3("http://127.0.0.1:{wire.port}"))
store.mirror(here, Log(here.directory.parent / "log", "mirror"))
"""
    wire.delay = 0.3
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while wire.sent < 3.5 * small_parts and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wire.delay, wire.sent = 0.0, 0
    store.mirror(here, log)
    assert wire.sent < 4.5 * small_parts
    assert content(client, f"postgres/{made.name}") == data


def test_parts_of_other_content_are_not_used(
    here: Config, client: Any, log: Log, wire: Wire, small_parts: int
) -> None:
    data = os.urandom(3 * small_parts)
    made = builders.stored(here, "full", "app", NOW, data)
    wire.cut_after = 2 * small_parts
    with pytest.raises(store.Away):
        store.mirror(here, log)
    wire.cut_after = None
    path = made.path(here.artifacts("postgres"))
    changed = bytes([data[0] ^ 1]) + data[1:]
    path.write_bytes(changed)
    replace(made, sha256=hashlib.sha256(changed).hexdigest()).write(here.artifacts("postgres"))
    store.mirror(here, log)
    assert content(client, f"postgres/{made.name}") == changed
    head = client.head_object(Bucket="backups", Key=f"estate/one/postgres/{made.name}")
    assert head["Metadata"]["sha256"] == hashlib.sha256(changed).hexdigest()
    assert "Uploads" not in client.list_multipart_uploads(Bucket="backups")


@pytest.mark.parametrize("parts", [0, 2])
def test_what_is_damaged_on_its_way_is_removed_and_copied_again(
    here: Config, client: Any, log: Log, wire: Wire, small_parts: int, parts: int
) -> None:
    data = b"GOOD-MARKER" + os.urandom(parts * small_parts)
    made = builders.stored(here, "full", "app", NOW, data)
    wire.damage = (b"GOOD-MARKER", b"EVIL-MARKER")
    with pytest.raises(Failed, match="arrived damaged"):
        store.mirror(here, log)
    wire.damage = None
    assert keys(client) == {}
    store.mirror(here, log)
    assert content(client, f"postgres/{made.name}") == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bucket": "no-such-bucket"}, "NoSuchBucket"),
        ({"access_key": ""}, "not configured"),
        ({"endpoint": "nonsense"}, "S3: configuration"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    here: Config, log: Log, change: dict[str, Any], message: str
) -> None:
    assert here.s3
    with pytest.raises(Failed, match=message) as caught:
        store.mirror(replace(here, s3=replace(here.s3, **change)), log)
    assert "\n" not in str(caught.value)


def test_no_secret_is_logged(
    here: Config, log: Log, wire: Wire, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    estate(here)
    store.mirror(here, log)
    wire.cut_after = 0
    with pytest.raises(store.Away) as caught:
        store.mirror(here, log)
    seen = str(caught.value) + (tmp_path / "log").read_text() + "".join(capfd.readouterr())
    seen += (here.directory / ".s3-mirror.json").read_text()
    assert "canary" not in seen and "someone-else" not in seen


def test_each_bucket_is_copied_to_by_one_run_at_a_time(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    estate(here)
    assert not store.mirror_all(replace(here, s3=None), log)
    with job.locked("mirror"):
        assert not store.mirror_all(here, log)
    assert keys(client) == {}
    assert store.mirror_all(here, log) == [here]
    assert keys(client)


def test_an_outage_is_told_and_fails_nothing(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    told = tmp_path / "told"
    here = replace(here, alerts=Alerts(command=f"cat >>{told}"))
    estate(here)
    wire.cut_after = 0
    assert not store.mirror_all(here, log)
    assert "FAILED" in (tmp_path / "log").read_text()
    assert "copy to S3" in told.read_text() and "on this host only" in told.read_text()
    wire.cut_after = None
    assert store.mirror_all(here, log)
    assert "works again" in told.read_text()


@pytest.fixture
def twice(here: Config, client: Any) -> Config:
    """The same with a second bucket."""
    where = {"LocationConstraint": "eu-central-1"}
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="elsewhere", CreateBucketConfiguration=where)
    for row in client.list_objects_v2(Bucket="elsewhere").get("Contents", []):
        client.delete_object(Bucket="elsewhere", Key=row["Key"])
    assert here.s3
    return replace(here, s3_further=(replace(here.s3, bucket="elsewhere", label="elsewhere"),))


def test_every_bucket_gets_everything_and_gives_it_back(
    twice: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    estate(twice)
    assert store.mirror_all(twice, log) == [*twice.stores]
    manifests = [m for kind in ("postgres", "redis") for m in all_of(twice.artifacts(kind))]
    assert {len(m.copies) for m in manifests} == {2}
    # The first one gets the manifests that name the second.
    store.mirror_all(twice, log)
    for number, each in enumerate(twice.stores):
        assert fetch(each, tmp_path / str(number), log).files == len(tree(twice.directory))
        assert tree(tmp_path / str(number)) == tree(twice.directory)
        assert store.mirror(each, log).copied == 0


def test_an_outage_of_one_bucket_is_none_of_the_others(
    twice: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    """It alone is told, and only until it works again."""
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    told = tmp_path / "told"
    first = replace(twice.stores[0].s3, endpoint=f"http://127.0.0.1:{free_port()}")  # type: ignore[type-var]
    broken = replace(twice, s3=first, alerts=Alerts(command=f"cat >>{told}"))
    estate(broken)
    assert [each.s3.label for each in store.mirror_all(broken, log) if each.s3] == ["elsewhere"]
    assert "this bucket lacks new backups" in told.read_text()
    (failure,) = outcome.failures(broken)
    assert failure.startswith("copy to S3 failed at ")
    assert outcome.failures(broken.stores[1]) == []
    assert store.mirror_all(twice, log) == [*twice.stores]
    assert outcome.failures(twice) == []


# --- Physical repository -------------------------------------------------------------------------


def test_a_repository_file_that_fails_holds_back_what_names_it(
    here: Config, client: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(here)
    read = store_layout.opened

    def failing(path: Path, depth: int) -> BufferedReader:
        if path.name == "1.zst":
            raise OSError(5, "Input/output error")
        return read(path, depth)

    monkeypatch.setattr(store_layout, "opened", failing)
    with pytest.raises(Failed, match="Input/output error"):
        store.mirror(here, log)
    there = keys(client)
    assert not [key for key in there if ".info" in key or key.endswith("backup.manifest")]
    named = [key for key in there if key.endswith(SUFFIX)]
    assert [key for key in named if "full" in key or "incremental" in key] == []
    assert [key for key in named if "redis" in key]


def test_a_new_host_does_not_replace_the_index_of_the_old_ones_backups(
    here: Config, client: Any, log: Log, tmp_path: Path
) -> None:
    estate(here)
    store.mirror(here, log)
    before = content(client, "pgbackrest/backup/stack/backup.info")
    fresh = replace(here, directory=tmp_path / "fresh")
    builders.config(fresh.directory)
    repository(fresh, NOW + DAY)
    redis = builders.stored(fresh, "redis", "redis", NOW + DAY, b"new")
    with pytest.raises(Failed, match="physical backups that are not known here: fetch them"):
        store.mirror(fresh, log)
    assert content(client, "pgbackrest/backup/stack/backup.info") == before
    assert f"redis/{redis.name}{SUFFIX}" in keys(client)


def test_the_own_repository_is_known_even_when_all_its_backups_are_new(
    here: Config, client: Any, log: Log
) -> None:
    estate(here)
    store.mirror(here, log)
    expire(here, NOW)
    repository(here, NOW + 60 * DAY)
    store.mirror(here, log)
    assert builders.label(NOW + 60 * DAY).encode() in content(
        client, "pgbackrest/backup/stack/backup.info"
    )


def expire(config: Config, moment: datetime) -> None:
    """As pgBackRest does."""
    for path in (config.directory / "pgbackrest").rglob("*"):
        if builders.label(moment) in path.as_posix() and path.is_file() and not path.is_symlink():
            path.unlink()


# --- Prune ---------------------------------------------------------------------------------------


def aged(config: Config, log: Log) -> tuple[Manifest, Manifest]:
    """An old full and a new one, in the bucket; the old one has been cleaned up here."""
    old_moment, new_moment = NOW - 90 * DAY, NOW - DAY
    repository(config, old_moment, new_moment)
    old, new = full(config, old_moment), full(config, new_moment)
    store.mirror(config, log)
    builders.trust(config)
    retention.clean_up(config, log, dry_run=False)
    expire(config, old_moment)
    repository(config, new_moment)
    return old, new


def test_what_retention_removed_here_is_removed_there(here: Config, client: Any, log: Log) -> None:
    aged(here, log)
    store.mirror(here, log)
    assert store.prune(here, log) == 5
    assert {key: content(client, key) for key in keys(client)} == tree(here.directory)
    assert store.prune(here, log) == 0
    assert store.mirror(here, log).copied == 0


def test_a_prune_that_an_outage_prevented_is_caught_up_with(
    here: Config, client: Any, log: Log, wire: Wire
) -> None:
    old, _ = aged(here, log)
    wire.cut_after = 0
    with pytest.raises(store.Away):
        store.prune(here, log)
    wire.cut_after = None
    store.mirror(here, log)
    store.prune(here, log)
    assert not [key for key in keys(client) if old.name in key]


def test_what_is_still_here_stays_there(here: Config, client: Any, log: Log) -> None:
    repository(here, NOW - 90 * DAY, NOW)
    full(here, NOW - 90 * DAY)
    full(here, NOW)
    store.mirror(here, log)
    before = keys(client)
    assert store.prune(here, log) == 0
    assert keys(client) == before


def test_an_empty_host_removes_nothing_that_retention_keeps(
    here: Config, client: Any, log: Log, tmp_path: Path
) -> None:
    repository(here, NOW - 20 * DAY, NOW)
    full(here, NOW - 20 * DAY)
    full(here, NOW)
    store.mirror(here, log)
    before = keys(client)
    empty = replace(here, directory=tmp_path / "empty")
    empty.directory.mkdir()
    assert store.prune(empty, log) == 0
    assert keys(client) == before


def test_the_newest_copy_stays_when_newer_ones_have_not_arrived(
    here: Config, client: Any, log: Log
) -> None:
    old = full(here, NOW - 90 * DAY)
    store.mirror(here, log)
    full(here, NOW)
    builders.trust(here)
    retention.clean_up(here, log, dry_run=False)
    assert not old.path(here.artifacts("postgres")).exists()
    assert store.prune(here, log) == 0
    assert content(client, f"postgres/{old.name}") == b"dump"


def test_the_repositorys_copies_stay_while_its_index_is_not_current(
    here: Config, client: Any, log: Log
) -> None:
    aged(here, log)
    physical = {key for key in keys(client) if key.startswith("pgbackrest")}
    store.prune(here, log)
    assert physical <= set(keys(client))


def test_a_physical_backup_that_was_lost_here_stays_there(
    here: Config, client: Any, log: Log
) -> None:
    lost = NOW - 20 * DAY
    repository(here, lost, NOW)
    full(here, lost)
    full(here, NOW)
    store.mirror(here, log)
    expire(here, lost)
    repository(here, NOW)
    store.mirror(here, log)
    before = keys(client)
    assert store.prune(here, log) == 0
    assert keys(client) == before


def test_strangers_in_the_bucket_stay(here: Config, client: Any, log: Log) -> None:
    aged(here, log)
    strangers = {"postgres/mine.sql.gz", "notes.txt", "other/x", "postgres/x.manifest.json"}
    for key in strangers:
        client.put_object(Bucket="backups", Key=f"estate/one/{key}", Body=b"?")
    client.put_object(Bucket="backups", Key="estate/one-more/postgres/y", Body=b"?")
    store.mirror(here, log)
    store.prune(here, log)
    assert strangers | {"estate/one-more/postgres/y"} <= set(keys(client))


# --- Fetch ---------------------------------------------------------------------------------------


def test_everything_comes_back_to_an_empty_host(
    here: Config, log: Log, tmp_path: Path, small_parts: int
) -> None:
    made = estate(here)
    builders.stored(here, "full", "app", NOW + DAY, os.urandom(2 * small_parts))
    builders.stored(here, "full", "app", NOW - DAY, b"before")
    store.mirror(here, log)
    target = tmp_path / "new"
    got = fetch(here, target, log)
    assert tree(target) == tree(here.directory) and got.files == len(tree(target))
    latest = target / "postgres" / "app_full_LATEST.sql.gz"
    assert latest.readlink().name == made[0].name  # tomorrow's is of a clock that is ahead
    assert fetch(here, target, log).files == 0
    again = replace(here, directory=target)
    assert store.mirror(again, log).copied == 0


@pytest.mark.parametrize("which", ["artifact", "wal"])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_object_is_found_and_the_rest_comes_back(
    here: Config, client: Any, log: Log, tmp_path: Path, which: str, how: str
) -> None:
    made = estate(here)
    store.mirror(here, log)
    key = f"postgres/{made[0].name}"
    if which == "wal":
        key = next(k for k in keys(client) if k.startswith("pgbackrest/archive/stack/15-1/"))
    whole = content(client, key)
    damaged = whole[:-1] + (b"" if how == "cut" else b"?")
    old = client.head_object(Bucket="backups", Key=f"estate/one/{key}")["Metadata"]
    client.put_object(Bucket="backups", Key=f"estate/one/{key}", Body=damaged, Metadata=old)
    target = tmp_path / "new"
    with pytest.raises(Failed, match=r"1 not fetched from S3: .* is damaged in the bucket"):
        fetch(here, target, log)
    assert not (target / key).exists()
    assert not (target / f"{key}{SUFFIX}").exists()
    assert not list(target.rglob("*.partial"))
    assert (target / f"redis/{made[3].name}").read_bytes() == b"rdb"
    assert (target / "pgbackrest/backup/stack/backup.info").exists() == (which == "artifact")


def test_an_object_that_is_gone_is_found(
    here: Config, client: Any, log: Log, tmp_path: Path
) -> None:
    made = estate(here)
    store.mirror(here, log)
    client.delete_object(Bucket="backups", Key=f"estate/one/postgres/{made[0].name}")
    with pytest.raises(Failed, match=f"{made[0].name} is gone"):
        fetch(here, tmp_path / "new", log)
    assert not (tmp_path / "new" / "postgres" / f"{made[0].name}{SUFFIX}").exists()


def test_a_download_that_breaks_is_tried_again(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(here)
    store.mirror(here, log)
    download, broken = Bucket.download, []

    def breaking(bucket: Bucket, key: str, path: Path) -> str:
        if key not in broken:
            broken.append(key)
            path.write_bytes(b"half")
            raise store.Away("connection lost")
        return download(bucket, key, path)

    monkeypatch.setattr(Bucket, "download", breaking)
    fetch(here, tmp_path / "new", log)
    assert tree(tmp_path / "new") == tree(here.directory)


def test_what_is_there_and_differs_is_left_alone(here: Config, log: Log, tmp_path: Path) -> None:
    made = estate(here)[3]
    store.mirror(here, log)
    path = tmp_path / "new" / "redis" / made.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(Failed, match="already exists and differs"):
        fetch(here, tmp_path / "new", log)
    assert path.read_bytes() == b"mine"


def test_a_key_that_climbs_out_is_not_ours(here: Config, client: Any, log: Log) -> None:
    for key in ("postgres/../../escape", "/postgres/x", "redis/", "pgbackrest"):
        assert not (store_bucket.is_ours(key) and store_bucket.is_safe(key))
    assert store_bucket.is_ours("pgbackrest/backup/stack/backup.info")


# --- Whoever else can write to the bucket ---------------------------------------------------------


class Attacker:
    """Has every right to the bucket, but not the estate's key."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, key: str, body: bytes) -> None:
        self._client.put_object(
            Bucket="backups",
            Key=f"estate/one/{key}",
            Body=body,
            Metadata={"sha256": hashlib.sha256(body).hexdigest()},
        )

    def copy(self, source: str, key: str) -> None:
        self.put(key, content(self._client, source))

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket="backups", Key=f"estate/one/{key}")


@pytest.fixture
def attacker(client: Any) -> Attacker:
    return Attacker(client)


def refused(here: Config, target: Path, log: Log) -> str:
    with pytest.raises(Failed) as caught:
        fetch(here, target, log)
    assert "\n" not in str(caught.value)
    return str(caught.value)


INFO = "pgbackrest/backup/stack/backup.info"


def test_what_another_hand_changed_is_refused_and_the_rest_comes_back(
    here: Config, client: Any, attacker: Attacker, log: Log, tmp_path: Path
) -> None:
    """A dump with its manifest and checksum, two that are swapped, additions, an older one."""
    made = estate(here)
    older = content_of_first_mirror(here, client, log)
    dump, swapped = (f"postgres/{m.name}" for m in made[:2])
    snapshot = f"redis/{made[3].name}"

    evil = b"\\! id"
    attacker.put(dump, evil)
    forged = replace(made[0], sha256=hashlib.sha256(evil).hexdigest(), bytes=len(evil))
    attacker.put(dump + SUFFIX, encoded(forged))
    attacker.copy(dump + SUFFIX, swapped + SUFFIX)
    attacker.put(snapshot + SUFFIX, older[snapshot + SUFFIX])
    attacker.put(INFO, content(client, INFO)[:-1] + b"?")
    wal = next(k for k in keys(client) if k.startswith("pgbackrest/archive/stack/15-1/"))
    extra = [f"{wal}x", "postgres/app_full_29990101_000000.sql.gz.manifest.json"]
    extra.append("pgbackrest/backup/stack/29990101-000000F/backup.manifest")
    for key in extra:
        attacker.put(key, b"evil")
    said = [refused(here, tmp_path / "new", log)]
    assert said[0].startswith("8 not fetched from S3: ")

    there = tree(tmp_path / "new")
    changed = {dump, swapped, snapshot, INFO, *extra}
    assert not {k for k in there if k.removesuffix(SUFFIX) in changed}
    assert not any(b"?" in data or evil in data for data in there.values())
    assert wal in there and f"{INFO}.copy" in there


def content_of_first_mirror(here: Config, client: Any, log: Log) -> dict[str, bytes]:
    """All of it; then every manifest gains a check, and is copied again."""
    store.mirror(here, log)
    before = {key: content(client, key) for key in keys(client)}
    for kind in ("postgres", "redis"):
        for made in all_of(here.artifacts(kind)):
            made.with_verification("drill", "2026").write(here.artifacts(kind))
    store.mirror(here, log)
    return before


def test_each_refusal_names_its_object(
    here: Config, client: Any, attacker: Attacker, log: Log, tmp_path: Path
) -> None:
    made = estate(here)
    store.mirror(here, log)
    newest = f"redis/{made[3].name}"
    attacker.remove(newest)
    attacker.remove(newest + SUFFIX)
    attacker.put("redis/redis_29990101_000000.rdb.gz", b"evil")
    attacker.put(INFO, b"x" * len(content(client, INFO)))
    for key in ("postgres/../../../escape", "redis//double", "redis/a\\b", "postgres/x\x7f"):
        attacker.put(key, b"evil")
    said = refused(here, tmp_path / "new", log)
    assert said.startswith("8 not fetched")
    assert f"{newest} is gone" in (tmp_path / "log").read_text()
    assert not (tmp_path / "escape").exists()


def test_what_has_to_fit_into_memory_has_a_limit(
    here: Config, attacker: Attacker, log: Log, tmp_path: Path
) -> None:
    estate(here)
    store.mirror(here, log)
    key = f"redis/redis_29990101_000000.rdb.gz{SUFFIX}"
    attacker.put(key, b" " * (1024 * 1024 + 1))
    with pytest.raises(Failed, match=f"{key} has more than 1048576 bytes"):
        fetch(here, tmp_path / "new", log, unsigned=True)
    store.prune(here, log)
    assert tree(tmp_path / "new") == tree(here.directory)


@pytest.mark.parametrize("how", ["replaced", "removed", "another key"])
def test_without_a_list_of_ours_nothing_comes(
    here: Config, attacker: Attacker, log: Log, tmp_path: Path, how: str
) -> None:
    """It can be believed by name, and is signed again by the next copy."""
    estate(here)
    store.mirror(here, log)
    assert here.s3
    now = here
    if how == "replaced":
        attacker.put(LIST, b"0" * 64 + b"\n{}")
    elif how == "removed":
        attacker.remove(LIST)
    else:
        now = replace(here, s3=replace(here.s3, signing_key="of another day"))
    assert "backup.sh fetch --unsigned" in refused(now, tmp_path / "new", log)
    assert not (tmp_path / "new").exists()
    fetch(now, tmp_path / "old", log, unsigned=True)
    assert tree(tmp_path / "old") == tree(here.directory)
    assert store.mirror(now, log).copied == 0
    fetch(now, tmp_path / "new", log)
    assert tree(tmp_path / "new") == tree(here.directory)


def test_a_bucket_that_was_set_back_is_refused(
    here: Config, client: Any, attacker: Attacker, log: Log
) -> None:
    """Each list of the past is signed too; this host knows which is the newest."""
    estate(here)
    store.mirror(here, log)
    old = content(client, LIST)
    put(here.directory / "pgbackrest/backup/stack/one-more", "x")
    store.mirror(here, log)
    attacker.put(LIST, old)
    with pytest.raises(Failed, match=r"the bucket was set back; .* --older"):
        recovery.fetch_all(here, log)
    bucket = store_bucket.bucket_of(here, log)
    assert store.offered(bucket, log, unsigned=False).signed
    store.mirror(here, log)
    assert content(client, LIST) != old


def test_a_bucket_of_the_previous_release_is_signed_without_copying(
    here: Config, attacker: Attacker, log: Log, tmp_path: Path
) -> None:
    estate(here)
    store.mirror(here, log)
    attacker.remove(LIST)
    record = here.directory / ".s3-mirror.json"
    known = json.loads(record.read_text())
    for name in ("signed", "signed_etag", "signer"):
        del known[name]
    record.write_text(json.dumps(known))
    assert store.mirror(here, log).copied == 0
    fetch(here, tmp_path / "new", log)
    assert tree(tmp_path / "new") == tree(here.directory)


def test_a_new_host_adds_to_the_list_of_the_old_one(here: Config, log: Log, tmp_path: Path) -> None:
    """A job that runs before `fetch` does not disown what the old host copied."""
    estate(here)
    store.mirror(here, log)
    new = replace(here, directory=tmp_path / "fresh")
    builders.config(new.directory)
    builders.stored(new, "redis", "redis", NOW + DAY, b"new")
    with pytest.raises(Failed, match="fetch them first"):
        store.mirror(new, log)
    fetch(here, tmp_path / "new", log)
    assert tree(here.directory).items() <= tree(tmp_path / "new").items()


def test_another_key_is_said_before_it_disowns_the_copies(
    here: Config, log: Log, tmp_path: Path
) -> None:
    estate(here)
    store.mirror(here, log)
    assert here.s3
    other = replace(here.s3, signing_key="new")
    new = replace(here, directory=tmp_path / "fresh", s3=other)
    builders.config(new.directory)
    with pytest.raises(Failed, match="not signed with BACKUP_SIGNING_KEY: put"):
        store.mirror(new, log)
    fetch(here, tmp_path / "new", log)


def test_a_key_takes_the_place_of_another(
    here: Config, client: Any, log: Log, tmp_path: Path
) -> None:
    """What the old one has signed counts until the next copy, which signs with the new one."""
    estate(here)
    store.mirror(here, log)
    assert here.s3
    both = replace(here.s3, signing_key="new", signing_key_previous=here.s3.signing_key)
    now, new = replace(here, s3=both), replace(both, signing_key_previous="")
    fetch(replace(now, directory=tmp_path / "far"), tmp_path / "one", log)
    assert "backup.sh fetch --unsigned" in refused(replace(here, s3=new), tmp_path / "no", log)
    assert store.mirror(now, log).copied == 0
    fetch(replace(here, s3=new), tmp_path / "two", log)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(here.directory)
    assert "not signed" in refused(here, tmp_path / "no", log)


def test_a_run_that_is_killed_leaves_a_list_that_is_true(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any request: what arrived is taken, and what did not is not missed."""
    estate(here)
    store.mirror(here, log)
    repository(here, NOW, NOW + DAY)
    full(here, NOW + DAY)
    put_one = Bucket.put
    for number in range(30):
        done = 0

        def dying(bucket: Bucket, key: str, data: bytes, sha256: str, **more: bool) -> str:
            nonlocal done
            done += 1
            if done > 3:
                raise KeyboardInterrupt
            return put_one(bucket, key, data, sha256, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "put", dying)
            try:
                store.mirror(here, log)
            except KeyboardInterrupt:
                pass
            else:
                break
        fetch(here, tmp_path / f"new{number}", log)
    assert number > 2
    fetch(here, tmp_path / "whole", log)
    assert tree(tmp_path / "whole") == tree(here.directory)


def test_a_link_in_the_way_is_not_followed(here: Config, log: Log, tmp_path: Path) -> None:
    made = estate(here)
    store.mirror(here, log)
    target, victim = tmp_path / "new", tmp_path / "victim"
    victim.mkdir()
    (target / "postgres").mkdir(parents=True)
    (target / "redis").symlink_to(victim)
    (target / f"postgres/.{made[0].name}.partial").symlink_to(victim / "file")
    assert "is a link: left alone" in refused(here, target, log)
    assert not list(victim.iterdir())
    assert (target / f"postgres/{made[0].name}").read_bytes() == b"dump"


def test_too_little_room_is_said_before_anything_is_fetched(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(here)
    store.mirror(here, log)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10})())
    with pytest.raises(Failed, match=r"has 0.0 GB free"):
        fetch(here, tmp_path / "new", log)
    assert tree(tmp_path / "new") == {}


def test_the_record_is_of_one_bucket(here: Config, log: Log) -> None:
    estate(here)
    store.mirror(here, log)
    assert here.s3
    elsewhere = replace(here, s3=replace(here.s3, prefix="estate/two"))
    assert store.mirror(elsewhere, log).copied == len(tree(here.directory))
    record = json.loads((here.directory / ".s3-mirror.json").read_text())
    assert record["target"].endswith(" estate/two")


# --- A new host ----------------------------------------------------------------------------------


@pytest.fixture
def fresh(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Config, list[Manifest]]:
    """A new host as a deployment leaves it, and what its bucket holds."""
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    monkeypatch.setattr(physical, "USER", getpass.getuser())
    made = estate(here)
    store.mirror(here, log)
    new = builders.config(tmp_path / "fresh", s3=here.s3)
    for name in ("archive/stack/archive.info", "backup/stack/backup.info"):
        put(new.directory / "pgbackrest" / name, "no backup yet")
        put(new.directory / "pgbackrest" / f"{name}.copy", "no backup yet")
    return new, made


def aside(config: Config) -> list[Path]:
    return list(config.directory.glob("pgbackrest.before_*"))


def test_an_empty_repository_makes_way_and_is_kept(
    here: Config, fresh: tuple[Config, list[Manifest]], log: Log
) -> None:
    new, _ = fresh
    recovery.fetch_all(new, log)
    (kept,) = aside(new)
    assert (kept / "backup/stack/backup.info").read_text() == "no backup yet"
    assert tree(new.directory / "pgbackrest") == tree(here.directory / "pgbackrest")
    modes = {p.stat().st_mode & 0o777 for p in (new.directory / "pgbackrest").rglob("*.info")}
    assert modes == {0o640}
    recovery.fetch_all(new, log)
    assert aside(new) == [kept]


def test_what_was_set_aside_is_not_fetched_again(
    here: Config, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its passphrase brings it back."""
    monkeypatch.setattr(job, "LOCKS", tmp_path)
    monkeypatch.setattr(physical, "USER", getpass.getuser())
    estate(here)
    for day, key in enumerate((OLD, NEW), 1):
        written(replace(here, encryption_passphrase=key), key, f"2026010{day}_000000")
    store.mirror(here, log)
    new = builders.config(tmp_path / "fresh", s3=here.s3, encryption_passphrase=NEW)
    for _ in range(2):
        recovery.fetch_all(new, log)
        (place,) = new.directory.glob("before_*")
        (kept,) = (place / "redis").glob("*.gpg")
        assert kept.name == "redis_20260101_000000.rdb.gz.gpg"
        assert not (new.artifacts("redis") / kept.name).exists()
    recovery.fetch_all(replace(new, encryption_passphrase_previous=OLD), log)
    assert (new.artifacts("redis") / kept.name).read_bytes() == kept.read_bytes()


def test_an_interrupted_fetch_goes_on(
    fresh: tuple[Config, list[Manifest]], log: Log, monkeypatch: pytest.MonkeyPatch, here: Config
) -> None:
    new, _ = fresh
    download = Bucket.download

    def failing(bucket: Bucket, key: str, path: Path) -> str:
        if ".info" in key:
            raise Failed("killed")
        return download(bucket, key, path)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "download", failing)
        with pytest.raises(Failed, match="killed"):
            recovery.fetch_all(new, log)
    recovery.fetch_all(new, log)
    assert len(aside(new)) == 1
    assert tree(new.directory / "pgbackrest") == tree(here.directory / "pgbackrest")


@pytest.mark.parametrize(
    ("moment", "message"),
    [(NOW + DAY, "1 physical backups that the bucket does not"), (NOW, "not what the bucket")],
)
def test_backups_that_are_here_are_never_moved(
    fresh: tuple[Config, list[Manifest]], log: Log, moment: datetime, message: str
) -> None:
    new, _ = fresh
    put(new.directory / f"pgbackrest/backup/stack/{builders.label(moment)}/backup.manifest", "x")
    before = tree(new.directory)
    with pytest.raises(Failed, match=message):
        recovery.fetch_all(new, log)
    assert tree(new.directory) == before and not aside(new)


def test_who_asks_no_bucket_does_not_wait_for_its_library() -> None:
    loads = "import sys, backup.__main__; sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", loads], check=True)


# --- Object Lock ---------------------------------------------------------------------------------

DAYS = 30


@pytest.fixture
def vault(here: Config, client: Any) -> Config:
    """The estate's bucket, one with Object Lock."""
    name = f"vault-{time.monotonic_ns()}"
    client.create_bucket(
        Bucket=name,
        ObjectLockEnabledForBucket=True,
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
    )
    assert here.s3 is not None
    return replace(here, s3=replace(here.s3, bucket=name, lock_days=DAYS))


def bucket_name(config: Config) -> str:
    assert config.s3 is not None
    return config.s3.bucket


def versions(config: Config, client: Any, *, of: str = "") -> list[dict[str, Any]]:
    said = client.list_object_versions(Bucket=bucket_name(config), Prefix=f"estate/one/{of}")
    return list(said.get("Versions", []))


def days_left(config: Config, client: Any, version: dict[str, Any]) -> float:
    at = {"Bucket": bucket_name(config), "Key": version["Key"], "VersionId": version["VersionId"]}
    said = client.head_object(**at)
    if "ObjectLockMode" not in said:
        return 0
    assert said["ObjectLockMode"] == "COMPLIANCE"
    return float((said["ObjectLockRetainUntilDate"] - datetime.now(UTC)) / DAY)


def ravage(config: Config, client: Any) -> int:
    """What a thief does with the host's credentials and more; tells what is refused."""
    refused = 0
    for version in versions(config, client):
        key = {"Bucket": bucket_name(config), "Key": version["Key"]}
        client.put_object(**key, Body=b"paid?")
        client.delete_object(**key)
        for more in ({}, {"BypassGovernanceRetention": True}):
            try:
                client.delete_object(**key, VersionId=version["VersionId"], **more)
            except client.exceptions.ClientError:
                refused += 1
    return refused


def test_no_thief_removes_what_is_locked(
    vault: Config, client: Any, log: Log, tmp_path: Path
) -> None:
    """Everything comes back as it was before, by the signed list of then."""
    estate(vault)
    store.mirror(vault, log)
    for version in versions(vault, client):
        if not version["Key"].endswith(LIST):
            assert DAYS - 0.1 < days_left(vault, client, version) <= DAYS
    wanted, moment = tree(vault.directory), datetime.now(UTC)
    time.sleep(1.1)  # versions have times of whole seconds
    assert ravage(vault, client) >= 2 * len(wanted)
    with pytest.raises(Failed, match="is missing"):
        fetch(vault, tmp_path / "now", log)
    back = replace(vault, directory=tmp_path / "back")
    back.directory.mkdir()
    recovery.fetch_all(back, log, as_of=moment.isoformat())
    assert tree(back.directory) == wanted
    # The next copy makes the bucket whole again.
    store.mirror(back, log)
    fetch(vault, tmp_path / "now", log)
    assert tree(tmp_path / "now") == tree(back.directory)


@contextlib.contextmanager
def limited(moto: Moto, vault: Config) -> Iterator[Config]:
    """With credentials that have the documented rights alone, at a store that enforces them."""
    assert vault.s3 is not None
    section = (ROOT / "docs/backup.md").read_text().partition("The credentials of the host need")[2]
    granted = re.findall(r"`(s3:\w+)`", section.partition("Do not give")[0])
    resources = [f"arn:aws:s3:::{vault.s3.bucket}{each}" for each in ("", "/*")]
    allowed = {"Effect": "Allow", "Action": granted, "Resource": resources}
    iam = SESSION.client(
        "iam",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{moto.port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    iam.create_user(UserName="host")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="host", PolicyName="documented", PolicyDocument=policy)
    key = iam.create_access_key(UserName="host")["AccessKey"]
    own = {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}
    moto.checks_rights("0")
    try:
        yield replace(vault, s3=replace(vault.s3, **own))
    finally:
        moto.checks_rights("inf")


def test_documented_rights_suffice_and_remove_no_version(
    vault: Config, log: Log, moto: Moto, tmp_path: Path
) -> None:
    """Of these the store tells all but those of locks from each other."""
    estate(vault)
    with limited(moto, vault) as host:
        assert host.s3 is not None
        store.mirror(host, log)
        store.prune(host, log)
        fetch(host, tmp_path / "back", log)
        thief = SESSION.client(
            "s3",
            region_name=host.s3.region,
            endpoint_url=host.s3.endpoint,
            aws_access_key_id=host.s3.access_key,
            aws_secret_access_key=host.s3.secret_key,
        )
        name = host.s3.bucket
        version, *_ = versions(host, thief)
        this = {"Bucket": name, "Key": version["Key"]}
        rule = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
        attempts: tuple[Callable[[], Any], ...] = (
            lambda: thief.delete_object(**this, VersionId=version["VersionId"]),
            lambda: thief.put_bucket_lifecycle_configuration(
                Bucket=name, LifecycleConfiguration={"Rules": [rule]}
            ),
            lambda: thief.put_bucket_policy(Bucket=name, Policy="{}"),
            lambda: thief.delete_bucket(Bucket=name),
        )
        for attempt in attempts:
            with pytest.raises(ClientError, match="AccessDenied"):
                attempt()
        thief.delete_object(**this)  # only hides it
        assert version["VersionId"] in {each["VersionId"] for each in versions(host, thief)}


def test_large_objects_are_locked(
    vault: Config, client: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_mirror, "PART", 5 << 20)
    made = builders.stored(vault, "redis", "redis", NOW, os.urandom(6 << 20))
    store.mirror(vault, log)
    (version,) = (
        versions(vault, client, of=f"redis/{made.name}.")
        or versions(vault, client, of=f"redis/{made.name}")[:1]
    )
    assert version["Size"] and days_left(vault, client, version) > DAYS - 0.1


def test_what_is_kept_is_locked_again_in_good_time(
    vault: Config, client: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was copied before there were locks."""
    estate(vault)
    assert vault.s3 is not None
    store.mirror(replace(vault, s3=replace(vault.s3, lock_days=0)), log)
    data = [v for v in versions(vault, client) if not v["Key"].endswith(LIST)]
    assert {days_left(vault, client, version) for version in data} == {0}
    store.mirror(vault, log)
    assert min(days_left(vault, client, version) for version in data) > DAYS - 0.1
    asked: list[str] = []
    lock = Bucket.lock

    def noting(bucket: Bucket, key: str) -> datetime:
        asked.append(key)
        return lock(bucket, key)

    monkeypatch.setattr(Bucket, "lock", noting)
    store.mirror(vault, log)
    assert asked == []
    record = vault.directory / ".s3-mirror.json"
    known = json.loads(record.read_text())
    soon = (datetime.now(UTC) + timedelta(days=DAYS / 2 - 1)).isoformat()
    known["locked"] = dict.fromkeys(known["locked"], soon)
    record.write_text(json.dumps(known))
    store.mirror(vault, log)
    assert len(asked) == len(data)


def test_the_list_is_locked_where_it_is_whole(vault: Config, client: Any, log: Log) -> None:
    estate(vault)
    store.mirror(vault, log)
    put(vault.directory / "pgbackrest/backup/stack/one-more", "x")
    store.mirror(vault, log)
    left = [days_left(vault, client, version) for version in versions(vault, client, of=LIST)]
    assert len(left) > 4 and sum(days > 0 for days in left) == 2


def test_a_clean_up_hides_what_is_locked(vault: Config, client: Any, log: Log) -> None:
    old = full(vault, NOW - 100 * DAY)
    repository(vault, NOW)
    full(vault, NOW).with_verification("drill", "2026").write(vault.artifacts("postgres"))
    store.mirror(vault, log)
    for path in vault.artifacts("postgres").glob(f"{old.name}*"):
        path.unlink()
    assert store.prune(vault, log) == 2
    rows = client.list_objects_v2(Bucket=bucket_name(vault)).get("Contents", [])
    assert not [row for row in rows if old.name in row["Key"]]
    assert versions(vault, client, of=f"postgres/{old.name}")


def test_a_bucket_without_locks_is_refused(here: Config, client: Any, log: Log) -> None:
    estate(here)
    assert here.s3 is not None
    with pytest.raises(Failed, match=r"bucket backups has no Object Lock: .*lock_days = 0"):
        store.mirror(replace(here, s3=replace(here.s3, lock_days=DAYS)), log)
    assert keys(client) == {}


def test_a_bucket_without_versions_has_only_today(here: Config, log: Log) -> None:
    estate(here)
    store.mirror(here, log)
    with pytest.raises(Failed, match="is missing"):
        recovery.fetch_all(here, log, as_of="2 days ago")
