"""Redis is backed up and comes back: on real servers, with real damage and real kills."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from backup.config import Config, Endpoint
from backup.job import Busy, Failed, log_of
from backup.manifest import SUFFIX, Manifest, all_of
from backup.redis import backups as backup
from backup.redis import restore as redis_restore
from backup.redis import scratch as redis_scratch
from backup.redis.roles import phantoms
from tests.e2e.redis_estate import DOWN_AFTER, PASSWORD, Estate
from tests.e2e.wait import eventually
from tests.lab import engine

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """A redis-server for whoever looks for one in PATH, whether or not this machine has one."""
    # The user redis has to get there, too.
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        Path(directory).chmod(0o755)
        (Path(directory) / "redis-server").symlink_to(engine.ensure_redis())
        patch.setenv("PATH", directory, prepend=os.pathsep)
        yield


@contextlib.contextmanager
def _estate(directory: Path, *, replicas: int = 2) -> Iterator[Estate]:
    estate = Estate(directory, replicas=replicas)
    try:
        yield estate
    finally:
        estate.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """An estate for tests that leave it as they found it."""
    with _estate(tmp_path_factory.mktemp("shared")) as estate:
        yield estate


@pytest.fixture
def estate(shared: Estate) -> Iterator[Estate]:
    """The shared estate with known data; checked to be whole afterwards."""
    shared.fill(shared.nodes[0], "old")
    shared.level()
    epochs = shared.epochs()
    yield shared
    # A master that became one again is followed within a second or two.
    eventually(shared.require_settled, 60)
    assert shared.epochs() == epochs, "there was a failover"
    assert shared.down_after() == [DOWN_AFTER] * 3
    assert not any(phantoms(shared.redis, place) for place in shared.sentinels)


def _snapshot(config: Config) -> Manifest:
    return backup.snapshot(config, log_of(config, "redis"))


def _restore(config: Config, path: Path, **options: Any) -> Manifest:
    return backup.restore(config, path, log_of(config, "restore-redis"), **options)


def _directory(config: Config) -> Path:
    return config.artifacts("redis")


def _visible(config: Config) -> set[str]:
    return {path.name for path in _directory(config).iterdir() if path.name[0] != "."}


def _scratch_servers(config: Config) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            place = (process / "cwd").readlink()
            if "redis-server" in words and place.is_relative_to(config.directory):
                assert process.owner() == "redis" or os.geteuid()
                found.append(words)
    return found


def _later(estate: Estate, directory: Path, passphrase: str = "") -> Config:
    """A configuration with a snapshot of the data in it, and other data live since."""
    config = estate.config(directory, passphrase)
    _snapshot(config)
    estate.fill(estate.master(), "new", 700)
    return config


# --- There and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_comes_back_exactly_on_every_node(estate: Estate, tmp_path: Path, passphrase: str) -> None:
    wanted = estate.level()
    config = _later(estate, tmp_path, passphrase)
    suffix = ".gpg" if passphrase else ""
    latest = _directory(config) / f"redis_LATEST.rdb.gz{suffix}"

    (manifest,) = all_of(_directory(config))
    assert manifest.facts["role"] == "replica"
    assert manifest.facts["keys"] == len(wanted)
    assert manifest.facts["expires"] == 40
    assert latest.readlink() == Path(manifest.name)
    assert re.fullmatch(rf"redis_\d{{8}}_\d{{6}}\.rdb\.gz{re.escape(suffix)}", manifest.name)
    backup.verify(config, manifest)

    assert _restore(config, latest).name == manifest.name

    estate.require_same(wanted)
    assert not _scratch_servers(config)
    assert _visible(config) == {manifest.name, manifest.name + SUFFIX, latest.name}
    assert not list(_directory(config).glob(".work-*"))


def test_survives_a_restart_of_every_node(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old")
        wanted = estate.level()
        config = _later(estate, tmp_path / "backups")
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
        estate.kill(*estate.sentinels, *estate.nodes)
        for place in estate.nodes:
            estate.start(place)
            assert estate.data(place) == wanted
        estate.level()
        estate.require_same(wanted)


def test_names_keys_that_expired_since(estate: Estate, tmp_path: Path) -> None:
    for index in range(10):
        estate.client(estate.nodes[0]).set(f"soon:{index}", "x", px=4000)
    config = estate.config(tmp_path)
    manifest = _snapshot(config)
    eventually(lambda: _require_absent(estate, "soon:0"), 10)
    time.sleep(1)
    _restore(config, manifest.path(_directory(config)))
    assert "10 have expired since" in (config.logs / "backup.log").read_text()
    assert not any(":soon:" in key for key in estate.level())


def _require_absent(estate: Estate, key: str) -> None:
    assert estate.client(estate.nodes[0]).exists(key) == 0


def test_a_client_writes_again_and_its_write_is_everywhere(estate: Estate, tmp_path: Path) -> None:
    config = _later(estate, tmp_path)
    _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
    estate.client(estate.nodes[0]).set("after", "the restore")
    assert "0:after" in estate.level()


def test_no_secret_in_a_process_list_or_file(estate: Estate, tmp_path: Path) -> None:
    # Of this story alone: others on this machine have theirs.
    passphrase = "owls at noon"
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes())

    # Long enough a dump for its command line to be seen.
    for place in estate.nodes[1:]:
        estate.client(place).config_set("repl-diskless-sync-delay", 2)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        config = _later(estate, tmp_path, passphrase)
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz.gpg")
    finally:
        over.set()
        watcher.join()
        for place in estate.nodes[1:]:
            estate.client(place).config_set("repl-diskless-sync-delay", 0)
    assert any(b"--rdb" in words for words in seen)
    secrets = (PASSWORD.encode(), passphrase.encode())
    assert not any(secret in words for words in seen for secret in secrets)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o77 == 0 or path.suffix in (".log", ".lock")


# --- Who is asked --------------------------------------------------------------------------------


def test_only_a_master_is_running(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old")
        wanted = estate.level()
        estate.kill(*estate.sentinels, *estate.nodes[1:])
        config = _later(estate, tmp_path / "backups")
        (manifest,) = all_of(_directory(config))
        assert manifest.facts["role"] == "master"
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
        estate.require_same(wanted)
        for place in (*estate.nodes[1:], *estate.sentinels):
            estate.start(place)
        eventually(estate.require_settled, 60)
        estate.level()
        estate.require_same(wanted)


def test_a_dump_from_a_monitored_master_leaves_no_phantom(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old")
        estate.level()
        estate.kill(*estate.nodes[1:])
        # The dump is seen in progress by every Sentinel: each asks every 10 s.
        estate.client(estate.nodes[0]).config_set("repl-diskless-sync-delay", 12)
        known = _known_replicas(estate)
        manifest = _snapshot(estate.config(tmp_path / "backups"))
        assert manifest.facts["role"] == "master"
        assert manifest.duration > 11
        time.sleep(11)
        assert _known_replicas(estate) == known


def _known_replicas(estate: Estate) -> list[str]:
    found = []
    for place in estate.sentinels:
        for row in estate.ask(place, "SENTINEL", "REPLICAS", "mymaster"):
            pairs = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
            found.append(f"{place}: {pairs['name']}")
    return sorted(found)


def test_a_phantom_that_somebody_made_is_forgotten(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old")
        estate.level()
        estate.client(estate.nodes[0]).config_set("repl-diskless-sync-delay", 12)
        before = _known_replicas(estate)
        subprocess.run(
            ["redis-cli", "-p", str(estate.nodes[0].port), "--rdb", str(tmp_path / "careless.rdb")],
            env={**os.environ, "REDISCLI_AUTH": PASSWORD},
            check=True,
            capture_output=True,
        )
        assert all(phantoms(estate.redis, place) for place in estate.sentinels)
        epochs = estate.epochs()
        config = estate.config(tmp_path / "backups")
        estate.kill(estate.nodes[2])
        eventually(lambda: _require_flag(estate, "s_down"), 20)
        with pytest.raises(Failed, match="SENTINEL RESET mymaster"):
            _snapshot(config)
        assert len(list(all_of(_directory(config)))) == 1, "the snapshot itself is good"
        estate.start(estate.nodes[2])
        eventually(lambda: _require_no_flag(estate, "s_down"), 40)
        _snapshot(config)
        assert _known_replicas(estate) == before
        assert estate.epochs() == epochs
        assert estate.down_after() == [DOWN_AFTER] * 3


def _flags(estate: Estate) -> list[str]:
    found = []
    for place in estate.sentinels:
        for row in estate.ask(place, "SENTINEL", "REPLICAS", "mymaster"):
            pairs = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
            if pairs["port"] != "0":
                found.append(pairs["flags"])
    return found


def _require_flag(estate: Estate, flag: str) -> None:
    assert sum(flag in each for each in _flags(estate)) == len(estate.sentinels)


def _require_no_flag(estate: Estate, flag: str) -> None:
    assert set(_flags(estate)) == {"slave"}


def test_after_a_failover_the_right_node_is_asked(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        config = estate.config(tmp_path / "backups")
        first = estate.nodes[0]
        estate.kill(first)
        estate_master = _failed_over(estate, first)
        estate.fill(estate_master, "old")
        wanted = estate.level()
        manifest = _snapshot(config)
        assert manifest.facts["master"] == str(estate_master)
        assert manifest.facts["role"] == "replica"
        assert str(first) not in (manifest.facts["master"], manifest.facts["source"])
        estate.fill(estate_master, "new")
        estate.start(first)
        eventually(lambda: _require_follows(estate, first, estate_master), 60)
        epochs = estate.epochs()
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
        estate.require_same(wanted)
        assert estate.epochs() == epochs
        assert estate.master() == estate_master


def _failed_over(estate: Estate, first: Endpoint) -> Endpoint:
    def require() -> None:
        with contextlib.suppress(Failed):
            assert backup.master(estate.redis) != first
            return
        raise AssertionError("no master yet")

    eventually(require, 60)
    new = backup.master(estate.redis)
    eventually(lambda: _require_healthy_replica(estate), 60)
    return new


def _require_healthy_replica(estate: Estate) -> None:
    assert backup.source(estate.redis).role == "replica"


def _require_follows(estate: Estate, place: Endpoint, leader: Endpoint) -> None:
    try:
        info = estate.client(place).info("replication")
    except exceptions.ConnectionError as ended:
        # Sentinel ends all connections of an instance that it makes a replica.
        raise AssertionError(str(ended)) from ended
    assert info["role"] == "slave" and info["master_port"] == leader.port
    assert info["master_link_status"] == "up"


def test_two_masters_are_refused(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = replace(estate.redis, sentinels=())
    estate.ask(estate.nodes[1], "REPLICAOF", "NO", "ONE")
    try:
        with pytest.raises(Failed, match="of the nodes it is"):
            backup.master(silent)
    finally:
        estate.ask(estate.nodes[1], "REPLICAOF", "127.0.0.1", estate.nodes[0].port)
        eventually(estate.require_settled, 60)


def test_a_wrong_password_is_not_silence(estate: Estate) -> None:
    with pytest.raises(Failed, match="does not accept the password"):
        backup.master(replace(estate.redis, password="another"))


# --- Damage --------------------------------------------------------------------------------------

Damage = Callable[[Path, Path], None]


def _flip(at: float) -> Damage:
    def damage(path: Path, _other: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 0x10
        path.write_bytes(content)

    return damage


def _cut(at: float) -> Damage:
    def damage(path: Path, _other: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(at * len(content))])

    return damage


def _signed(change: Callable[[bytes], bytes], *, packed: bool = False) -> Damage:
    """Damage under a manifest that agrees with it: only the content itself can tell."""

    def damage(path: Path, _other: Path) -> None:
        content = path.read_bytes()
        fresh = change(content) if packed else gzip.compress(change(gzip.decompress(content)))
        path.write_bytes(fresh)
        _edit(path, sha256=hashlib.sha256(fresh).hexdigest(), bytes=len(fresh))

    return damage


def _rdb_flip(at: float) -> Damage:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[int(at * (len(changed) - 1))] ^= 0x04
        return bytes(changed)

    return _signed(change)


def _edit(path: Path, **values: Any) -> None:
    beside = path.with_name(path.name + SUFFIX)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **values}))


def _facts(**values: Any) -> Damage:
    def damage(path: Path, _other: Path) -> None:
        beside = path.with_name(path.name + SUFFIX)
        _edit(path, facts={**json.loads(beside.read_text())["facts"], **values})

    return damage


def _manifest(content: str | None) -> Damage:
    def damage(path: Path, _other: Path) -> None:
        beside = path.with_name(path.name + SUFFIX)
        beside.unlink()
        if content is not None:
            beside.write_text(content)

    return damage


def _swap(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _swap_manifests(path: Path, other: Path) -> None:
    _swap(path.with_name(path.name + SUFFIX), other.with_name(other.name + SUFFIX))


def _link_away(path: Path, _other: Path) -> None:
    target = path.parent.parent / path.name
    path.rename(target)
    path.symlink_to(target)


DAMAGES: dict[str, Damage] = {
    **{f"flip at {at:.2f}": _flip(at) for at in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)},
    **{f"cut at {at:.2f}": _cut(at) for at in (0, 0.001, 0.01, 0.3, 0.6, 0.9, 0.999)},
    **{f"flip inside at {at:.2f}": _rdb_flip(at) for at in (0, 0.02, 0.2, 0.4, 0.6, 0.8, 1)},
    "cut inside": _signed(lambda content: content[:-100]),
    "empty inside": _signed(lambda content: b""),
    "cut, signed": _signed(lambda content: content[:-20], packed=True),
    "garbage, signed": _signed(lambda content: random.Random(1).randbytes(5000), packed=True),
    "no checksum inside": _signed(lambda content: content[:-8] + bytes(8)),
    "trailing garbage, signed": _signed(lambda content: content + b"garbage", packed=True),
    "swapped with another": _swap,
    "manifests swapped": _swap_manifests,
    "no manifest": _manifest(None),
    "empty manifest": _manifest(""),
    "garbage for a manifest": _manifest("{]"),
    "a list for a manifest": _manifest("[]"),
    "wrong sha256": lambda path, _: _edit(path, sha256="0" * 64),
    "no sha256": lambda path, _: _edit(path, sha256=""),
    "wrong size": lambda path, _: _edit(path, bytes=1),
    "wrong kind": lambda path, _: _edit(path, kind="full"),
    "unknown version of manifest": lambda path, _: _edit(path, version=2),
    "another name": lambda path, _: _edit(path, name="redis_20200101_000000.rdb.gz"),
    "wrong number of keys": _facts(keys=1),
    "no number of keys": _facts(keys=None),
    "newer server": _facts(redis_version="99.0.1"),
    "no server version": _facts(redis_version=None),
    "a link to elsewhere": _link_away,
    "gone": lambda path, _: path.unlink(),
}


def test_refuses_whatever_is_damaged_and_touches_nothing(estate: Estate, tmp_path: Path) -> None:
    config = estate.config(tmp_path)
    _snapshot(config)
    estate.fill(estate.nodes[0], "new", 700)
    time.sleep(1)
    manifest = _snapshot(config)
    live = estate.level()
    replids = [estate.client(place).info("replication")["master_replid"] for place in estate.nodes]
    other, path = (m.path(_directory(config)) for m in all_of(_directory(config)))
    assert path.name == manifest.name
    assert len(DAMAGES) >= 30
    good = {p: p.read_bytes() for p in _directory(config).iterdir() if not p.is_symlink()}
    for name, damage in DAMAGES.items():
        damage(path, other)
        for given in (path, _directory(config) / "redis_LATEST.rdb.gz"):
            with pytest.raises(Failed):
                _restore(config, given)
                pytest.fail(f"restored although: {name}")
        if "server" not in name and name != "a link to elsewhere":
            with pytest.raises(Failed):
                backup.verify(config, manifest)
                pytest.fail(f"verified although: {name}")
        for p, content in good.items():
            p.unlink(missing_ok=True)
            p.write_bytes(content)
    estate.require_same(live)
    assert replids == [
        estate.client(place).info("replication")["master_replid"] for place in estate.nodes
    ]
    backup.verify(config, manifest)
    assert not list(_directory(config).glob(".work-*"))


def test_refuses_paths_that_are_no_artifact(estate: Estate, tmp_path: Path) -> None:
    config = estate.config(tmp_path)
    manifest = _snapshot(config)
    directory = _directory(config)
    artifact = manifest.path(directory)
    latest = directory / "redis_LATEST.rdb.gz"
    (tmp_path / artifact.name).write_bytes(artifact.read_bytes())
    (directory / "redis.rdb.gz").write_bytes(artifact.read_bytes())
    for given in (
        tmp_path / artifact.name,
        directory / "redis.rdb.gz",
        directory / "redis_20200101_000000.rdb.gz",
        directory,
        manifest.beside(directory),
    ):
        with pytest.raises(Failed):
            _restore(config, given)
    for target in ("nowhere", "redis.rdb.gz", str(tmp_path / artifact.name), ".", latest.name):
        latest.unlink()
        latest.symlink_to(target)
        with pytest.raises((Failed, OSError)):
            _restore(config, latest)


def test_refuses_a_wrong_or_missing_passphrase(estate: Estate, tmp_path: Path) -> None:
    manifest = _snapshot(estate.config(tmp_path, "correct horse"))
    for passphrase in ("", "wrong horse"):
        config = estate.config(tmp_path, passphrase)
        with pytest.raises(Failed, match=r"encrypted|decryption"):
            _restore(config, manifest.path(_directory(config)))


def test_refuses_what_the_master_could_not_take(estate: Estate, tmp_path: Path) -> None:
    config = _later(estate, tmp_path)
    live = estate.level()
    latest = _directory(config) / "redis_LATEST.rdb.gz"
    client = estate.client(estate.nodes[0])
    for key, bad, message in (
        ("masterauth", "another", "masterauth"),
        ("maxmemory", "1100000", "maxmemory"),
    ):
        good = str(client.config_get(key)[key])
        client.config_set(key, bad)
        with pytest.raises(Failed, match=message):
            _restore(config, latest)
        client.config_set(key, good)
    estate.require_same(live)


def test_refuses_while_silent_sentinels_could_interfere(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old", 50)
        estate.level()
        config = _later(estate, tmp_path / "backups")
        live = estate.level()
        estate.kill(*estate.sentinels[1:])
        with pytest.raises(Failed, match="2 Sentinels do not answer"):
            _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
        estate.require_same(live)
        assert estate.down_after() == [DOWN_AFTER]
        estate.start(estate.sentinels[1])
        eventually(lambda: _require_votes(estate), 30)
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
        assert estate.down_after() == [DOWN_AFTER] * 2


def _require_votes(estate: Estate) -> None:
    assert backup.master(estate.redis) == estate.nodes[0]


def test_a_master_that_cannot_reach_this_host_keeps_its_data(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _later(estate, tmp_path)
    live = estate.level()
    monkeypatch.setattr(redis_restore, "LINK_SECONDS", 3)
    right = redis_scratch._sha256
    monkeypatch.setattr(
        redis_scratch, "_sha256", lambda word: right(word + "x" * (word == PASSWORD))
    )
    with pytest.raises(Failed, match="can it be reached"):
        _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
    estate.level()
    estate.require_same(live)


# --- Kills ---------------------------------------------------------------------------------------

_DRIVER = """
import importlib, os, signal, sys, threading
from pathlib import Path
from backup.redis import backups as redis
from backup.redis import restore as redis_restore
from backup.redis import scratch as redis_scratch
from backup.config import Config
from backup.job import log_of
config = Config.load(Path(sys.argv[1]), Path("/dev/null"))
where, when, number, how = sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
module, _, name = where.partition(":")
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), [0]
def end():
    os.kill(os.getpid(), how)
def wrapped(*args, **kwargs):
    calls[0] += 1
    if calls[0] == number and when == "before":
        end()
    if calls[0] == number and when.startswith("during"):
        threading.Timer(float(when[6:]), end).start()
    result = original(*args, **kwargs)
    if calls[0] == number and when == "after":
        end()
    return result
setattr(owner, name, wrapped)
slow = redis_scratch._configuration
redis_scratch._configuration = lambda *a: slow(*a) + os.environ.get("SCRATCH", "")
log = log_of(config, "test")
if sys.argv[2] == "snapshot":
    redis.snapshot(config, log)
else:
    redis.restore(config, Path(sys.argv[2]), log)
"""


def _killed(
    config: Config, what: str, step: str, how: signal.Signals = signal.SIGKILL, scratch: str = ""
) -> str:
    """Runs a snapshot or a restore that is ended at a step; returns what it said."""
    where, when, number = step.split(" ")
    file = config.directory / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(config), default=str))
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(file), what, where, when, number, str(int(how))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SCRATCH": scratch},
        capture_output=True,
        text=True,
        timeout=120,
    )
    wanted = -9 if how == signal.SIGKILL else 1
    assert done.returncode == wanted, (step, done.returncode, done.stderr)
    return done.stderr


SNAPSHOT_STEPS = [
    "backup.redis.backups:_settled after 1",
    "backup.redis.backups:_dump_replica before 1",
    "backup.redis.backups:_dump_replica during0.5 1",
    "backup.redis.backups:_dump_replica after 1",
    "backup.redis.rdb:inspect after 1",
    "backup.redis.rdb:pack before 1",
    "backup.redis.rdb:pack after 1",
    "backup.redis.rdb:digest_inside before 1",
    "backup.redis.rdb:digest_inside after 1",
    "backup.redis.backups:_publish before 1",
    "backup.redis.backups:finish before 1",
]


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_a_killed_snapshot_has_no_final_name(
    estate: Estate, tmp_path: Path, passphrase: str
) -> None:
    config = estate.config(tmp_path, passphrase)
    first = _snapshot(config)
    before = {name: _content(config, name) for name in _visible(config)}
    for step in SNAPSHOT_STEPS:
        for place in estate.nodes:
            delay = 2 if "during" in step else 0
            estate.client(place).config_set("repl-diskless-sync-delay", delay)
        _killed(config, "snapshot", step)
        assert {name: _content(config, name) for name in _visible(config)} == before, step
    for step in (
        "backup.redis.backups:finish after 1",
        "backup.redis.backups:Manifest.write after 1",
    ):
        # Named but not yet what LATEST points at: whole, and with a manifest a backup.
        _killed(config, "snapshot", step)
        assert before.items() <= {n: _content(config, n) for n in _visible(config)}.items()
        time.sleep(1)
    for manifest in all_of(_directory(config)):
        backup.verify(config, manifest)
    assert (
        _directory(config) / f"redis_LATEST.rdb.gz{'.gpg' if passphrase else ''}"
    ).readlink() == Path(first.name)
    last = _snapshot(config)
    assert not list(_directory(config).glob(".redis_*"))
    assert len(list(all_of(_directory(config)))) == 3
    backup.verify(config, last)


def _content(config: Config, name: str) -> bytes | str:
    path = _directory(config) / name
    return str(path.readlink()) if path.is_symlink() else path.read_bytes()


def test_a_killed_dump_from_a_master_leaves_no_server(estate: Estate, tmp_path: Path) -> None:
    config = replace(
        estate.config(tmp_path), redis=replace(estate.redis, nodes=tuple(estate.nodes[:1]))
    )
    estate.client(estate.nodes[0]).config_set("repl-diskless-sync-delay", 3)
    _killed(config, "snapshot", "backup.redis.backups:_dump_master during1.5 1")
    estate.client(estate.nodes[0]).config_set("repl-diskless-sync-delay", 0)
    eventually(lambda: _require_no_scratch(config), 5)
    assert not _visible(config)
    _snapshot(config)


def _require_no_scratch(config: Config) -> None:
    assert not _scratch_servers(config)


RESTORE_STEPS = [
    "backup.redis.rdb:validate after 1",
    "backup.redis.restore:_require_loaded after 1",
    "backup.redis.restore:_hold_sentinels before 1",
    "backup.redis.restore:_State.write after 1",
    "backup.redis.roles:set_down_after after 1",
    "backup.redis.roles:set_down_after after 2",
    "backup.redis.restore:_hold_sentinels after 1",
    "backup.redis.restore:_taken_over before 1",
    "backup.redis.restore:_taken_over during0.4 1",
    "backup.redis.restore:_taken_over during1.2 1",
    "backup.redis.restore:_taken_over after 1",
    "backup.redis.restore:_lead_again before 1",
    "backup.redis.restore:_lead_again after 1",
    "backup.redis.restore:_await_reports after 1",
    "backup.redis.restore:_put_back after 1",
    "backup.redis.restore:_put_back after 2",
    "backup.redis.restore:_level before 1",
]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_restore_leaves_old_or_new_whole(
    estate: Estate, tmp_path: Path, how: signal.Signals
) -> None:
    wanted = estate.level()
    config = _later(estate, tmp_path)
    live = estate.level()
    latest = _directory(config) / "redis_LATEST.rdb.gz"
    outcomes = set()
    steps = RESTORE_STEPS if how == signal.SIGKILL else RESTORE_STEPS[:-7]
    for step in steps:
        said = _killed(config, str(latest), step, how, "rdb-key-save-delay 400\n")
        eventually(lambda: _require_no_scratch(config), 5)
        found = estate.data(estate.nodes[0])
        assert found in (wanted, live), step
        outcomes.add(found == wanted)
        if how == signal.SIGTERM:
            assert "stopped by SIGTERM" in said
            assert estate.down_after() == [DOWN_AFTER] * 3, step
            assert not backup.repair(config, log_of(config, "repair"))
        else:
            backup.repair(config, log_of(config, "repair"))
        assert estate.down_after() == [DOWN_AFTER] * 3, step
        assert estate.master() == estate.nodes[0]
        assert estate.data(estate.nodes[0]) == found, step
        assert estate.level() == found
        if found == wanted:
            estate.fill(estate.nodes[0], "new", 700)
            live = estate.level()
    assert outcomes == {True, False} or how == signal.SIGTERM
    _restore(config, latest)
    estate.require_same(wanted)


def test_the_next_restore_repairs_what_a_kill_left(estate: Estate, tmp_path: Path) -> None:
    wanted = estate.level()
    config = _later(estate, tmp_path)
    latest = _directory(config) / "redis_LATEST.rdb.gz"
    _killed(config, str(latest), "backup.redis.restore:_taken_over before 1")
    assert estate.down_after() == [redis_restore.AWAY_MILLISECONDS] * 3
    _restore(config, latest)
    estate.require_same(wanted)
    assert estate.down_after() == [DOWN_AFTER] * 3


def test_the_next_snapshot_repairs_what_a_kill_left(estate: Estate, tmp_path: Path) -> None:
    config = _later(estate, tmp_path)
    latest = _directory(config) / "redis_LATEST.rdb.gz"
    _killed(config, str(latest), "backup.redis.restore:_taken_over before 1")
    assert estate.down_after() == [redis_restore.AWAY_MILLISECONDS] * 3
    assert _snapshot(config).facts["master"] == str(estate.nodes[0])
    assert estate.down_after() == [DOWN_AFTER] * 3


def test_a_sentinel_that_comes_back_late_gets_its_setting_back(tmp_path: Path) -> None:
    with _estate(tmp_path / "estate") as estate:
        estate.fill(estate.nodes[0], "old", 50)
        wanted = estate.level()
        config = _later(estate, tmp_path / "backups")
        latest = _directory(config) / "redis_LATEST.rdb.gz"
        _killed(config, str(latest), "backup.redis.restore:_taken_over before 1")
        late = estate.sentinels[2]
        estate.kill(late)
        with pytest.raises(Failed, match=f"{late.port} \\({DOWN_AFTER}\\)"):
            backup.repair(config, log_of(config, "repair"))
        assert estate.down_after() == [DOWN_AFTER] * 2
        with pytest.raises(Failed, match=str(late.port)):
            _restore(config, latest)
        estate.level()
        estate.require_same(wanted)
        estate.start(late)
        assert backup.repair(config, log_of(config, "repair"))
        assert estate.down_after() == [DOWN_AFTER] * 3


def test_two_restores_do_not_overlap(estate: Estate, tmp_path: Path) -> None:
    config = _later(estate, tmp_path)
    with redis_restore._exclusive(config):
        assert not backup.repair(config, log_of(config, "repair"))
        with pytest.raises(Busy):
            _restore(config, _directory(config) / "redis_LATEST.rdb.gz")


def test_the_scratch_server_takes_no_commands_with_the_estates_password(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _later(estate, tmp_path)
    refused = []

    def look(redis: Any, leader: Endpoint, server: Any, stop: Any) -> int:
        for words in (("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("SHUTDOWN",)):
            with pytest.raises(exceptions.NoPermissionError):
                estate.ask(server.endpoint, *words)
            refused.append(words)
        assert _scratch_servers(config)
        return original(redis, leader, server, stop)

    original = redis_restore._taken_over
    monkeypatch.setattr(redis_restore, "_taken_over", look)
    _restore(config, _directory(config) / "redis_LATEST.rdb.gz")
    assert len(refused) == 4
