"""What runs before every start of Redis: it decides from what is on the disk alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tasks.redis.files import before_start

EMPTY = b"\xff" + bytes(8)
DATA = b"\xfe\x00\x00\x01k\x01v" + EMPTY
COMMANDS = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


def _snapshot(content: bytes, begun: float) -> bytes:
    version = b"\xfa\x09redis-ver\x067.0.15"
    return (
        b"REDIS0010" + version + b"\xfa\x05ctime\xc2" + int(begun).to_bytes(4, "little") + content
    )


ME, OTHER, SENTINEL = "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:26379"


class Instance:
    """A data directory and the settings of an instance."""

    estate: Mapping[str, str] = MappingProxyType(
        {
            "instances": f"{ME} {OTHER}",
            "sentinels": SENTINEL,
            "master_name": "mymaster",
            "me": ME,
        }
    )

    def __init__(self, place: Path) -> None:
        self.home = place
        self.settings = place.parent / "settings.conf"
        (place / "redis.conf").touch()
        (place / "begins").write_text("1\n")
        self.peers = place.parent / "peers"
        self.peers.mkdir()
        self.snapshot, self.log = place / "dump.rdb", place / "appendonlydir"
        self.now = time.time() - 1000

    def save(self, content: bytes, *, after: float = 0, begun: float = 0) -> None:
        """A snapshot that was finished so many seconds after the append-only file's last write."""
        moment = self.now + after
        self.snapshot.write_bytes(_snapshot(content, begun or moment))
        os.utime(self.snapshot, (moment, moment))

    def append(self, base: bytes = EMPTY, commands: bytes = b"") -> None:
        """An append-only file as Redis 7 has it."""
        self.log.mkdir()
        name = "appendonly.aof"
        (self.log / f"{name}.1.base.rdb").write_bytes(_snapshot(base, self.now))
        (self.log / f"{name}.1.incr.aof").write_bytes(commands)
        lines = f"file {name}.1.base.rdb seq 1 type b\nfile {name}.1.incr.aof seq 1 type i\n"
        (self.log / f"{name}.manifest").write_text(lines)
        for path in self.log.iterdir():
            os.utime(path, (self.now, self.now))

    def says(self, address: str, answer: str) -> None:
        """What another server answers, whatever it is asked; others are silent."""
        (self.peers / address).write_text(answer)

    def starts(self, *, appendonly: bool = True, extra: str = "") -> str:
        """Empty when Redis may start, else why not."""
        self.settings.write_text(f"appendonly {'yes' if appendonly else 'no'}\nsave 9 1\n{extra}")
        client = self.peers.parent / "redis-cli"
        client.write_text(f'#!/bin/sh\n[ "$3" = -p ] && cat "{self.peers}/$2:$4"\n')
        client.chmod(0o755)
        script = before_start().content.replace("/usr/bin/redis-cli", str(client))
        command = ["sh", "-c", script, "-", str(self.home), str(self.settings)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **self.estate}
        )
        assert done.returncode == (1 if done.stderr else 0), done
        return done.stderr

    def appended(self) -> list[str]:
        """What the append-only file begins with, by its manifest."""
        lines = (self.log / "appendonly.aof.manifest").read_text().splitlines()
        return [line.split()[1] for line in lines]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """One that has nothing yet."""
    home = tmp_path / "6379"
    home.mkdir()
    return Instance(home)


def _check_reads_snapshot(instance: Instance) -> None:
    (base,) = instance.appended()
    assert (instance.log / base).read_bytes() == instance.snapshot.read_bytes()


def test_nothing_is_nothing(instance: Instance) -> None:
    """The first start of all."""
    assert instance.starts() == instance.starts(appendonly=False) == ""
    assert sorted(path.name for path in instance.home.iterdir()) == ["begins", "redis.conf"]


def test_of_what_redis_has_rewritten_the_role_stays(instance: Instance) -> None:
    """The rest would shadow the settings; without the file nobody knows the role."""
    state = instance.home / "redis.conf"
    state.write_text("save 60 1\nreplicaof 10.0.0.1 6379\nmasterauth x\nreplica-priority 5\n")
    assert instance.starts() == ""
    assert state.read_text() == "replicaof 10.0.0.1 6379\n"
    state.unlink()
    assert "redis.conf is missing" in instance.starts()


@pytest.mark.parametrize("content", [DATA, b"\xf5\x05lua()" + EMPTY])
def test_a_snapshot_alone_is_appended_to(instance: Instance, content: bytes) -> None:
    """Of keys, or of functions."""
    instance.save(content)
    assert instance.starts() == ""
    _check_reads_snapshot(instance)
    assert instance.starts() == ""


def test_an_empty_snapshot_is_left_to_redis(instance: Instance) -> None:
    """As it saves one at its first stop."""
    instance.save(EMPTY)
    assert instance.starts() == ""
    assert not instance.log.exists()


def test_the_newer_of_the_two_is_read(instance: Instance) -> None:
    """One begun long after the last write was saved while nothing was appended any more."""
    instance.append(commands=COMMANDS)
    for after in (-500, 0, 5):
        instance.save(DATA, after=after)
        assert instance.starts() == ""
        assert len(instance.appended()) == 2
    instance.save(DATA, after=500)
    assert instance.starts() == ""
    _check_reads_snapshot(instance)
    assert (instance.home / "appendonlydir.off/appendonly.aof.1.incr.aof").exists()


def test_what_redis_did_not_finish_counts_for_nothing(instance: Instance) -> None:
    """A rewrite that was cut off is newer than all, and no part of the append-only file."""
    instance.append(commands=COMMANDS)
    (instance.log / "temp-appendonly.aof.incr").write_bytes(COMMANDS)
    instance.save(DATA, after=500)
    assert instance.starts() == ""
    _check_reads_snapshot(instance)


def test_an_empty_snapshot_that_is_newer_is_not_read(instance: Instance) -> None:
    instance.append(commands=COMMANDS)
    instance.save(EMPTY, after=500)
    assert instance.starts() == ""
    assert len(instance.appended()) == 2


def test_a_snapshot_that_hands_put_beside_data_is_refused(instance: Instance) -> None:
    """It was begun long before it was written here. A replica has its master's data."""
    instance.append(commands=COMMANDS)
    instance.save(DATA, after=500, begun=instance.now - 3600)
    assert "was not saved here" in instance.starts()
    assert "was not saved here" in instance.starts(appendonly=False)
    (instance.home / "redis.conf").write_text("replicaof 10.0.0.1 6379\n")
    assert instance.starts() == ""


def test_what_hands_copied_with_its_time_is_refused(instance: Instance) -> None:
    """`cp -p`: it is older than what it lies beside, and came later."""
    instance.now = time.time()
    instance.append(commands=COMMANDS)
    time.sleep(1.1)
    instance.save(DATA, after=-3600)
    assert "was not saved here" in instance.starts()
    assert "was not saved here" in instance.starts(appendonly=False)


def test_an_append_only_file_that_hands_put_beside_newer_data_is_refused(
    instance: Instance,
) -> None:
    """The snapshot was saved here a moment before."""
    instance.save(DATA, after=time.time() - instance.now)
    time.sleep(1.1)
    instance.append(commands=COMMANDS)
    assert "was not written here" in instance.starts()


def test_a_snapshot_beside_an_append_only_file_without_anything(instance: Instance) -> None:
    """As hands put it on a host that was just deployed; an older one may be what was flushed."""
    instance.append()
    instance.save(DATA, after=-5)
    assert "has none: move one of them away" in instance.starts()
    instance.save(DATA, after=5, begun=instance.now - 3600)
    assert instance.starts() == ""
    _check_reads_snapshot(instance)


def test_without_its_manifest_the_rest_would_be_ignored(instance: Instance) -> None:
    """Whether or not there is a snapshot."""
    instance.append(commands=COMMANDS)
    (instance.log / "appendonly.aof.manifest").unlink()
    assert "manifest is missing" in instance.starts()
    instance.save(DATA)
    assert "manifest is missing" in instance.starts()


@pytest.mark.parametrize("extra", ["dbfilename other.rdb\n", 'DBFILENAME "other.rdb"\n'])
def test_data_under_another_name(instance: Instance, extra: str) -> None:
    """The settings have changed; half a save of Redis's own is nothing."""
    instance.save(DATA)
    assert "the settings name no such file" in instance.starts(extra=extra)
    instance.snapshot.rename(instance.home / "temp-17.rdb")
    assert instance.starts(extra=extra) == ""


def test_an_append_only_file_that_is_off_and_older(instance: Instance) -> None:
    """It goes aside, and is not read when it is turned on again."""
    instance.append(commands=COMMANDS)
    instance.save(DATA, after=500)
    assert instance.starts(appendonly=False) == ""
    assert not instance.log.exists()
    assert instance.starts() == ""
    _check_reads_snapshot(instance)


# --- Without data --------------------------------------------------------------------------------

KEYS = "role:slave\r\nnumber_of_functions:0\r\ndb0:keys=1,expires=0\r\n"
NO_KEYS = "role:slave\r\nnumber_of_functions:0\r\n"


@pytest.mark.parametrize("before", ["begins", "lost", "flushed", "never saved"])
def test_without_data_it_leads_nobody_who_has_some(instance: Instance, before: str) -> None:
    """Whatever became of its own: they would become as empty."""
    if before != "begins":
        (instance.home / "begins").unlink()
    if before == "flushed":
        instance.save(EMPTY)
    saves = "save ''\n" if before == "never saved" else ""
    for answer in (KEYS, "role:master\r\nloading:1\r\n", "role:slave\nnumber_of_functions:2\n"):
        instance.says(OTHER, answer)
        assert f"has no data, and {OTHER} has" in instance.starts(appendonly=False, extra=saves)
    (instance.home / "redis.conf").write_text("replicaof 10.0.0.2 6379\n")
    assert instance.starts() == ""


def test_it_follows_whom_sentinel_has_promoted_meanwhile(instance: Instance) -> None:
    instance.says(OTHER, KEYS)
    instance.says(SENTINEL, "10.0.0.1\n6379\n")
    assert f"{OTHER} has: that one has to lead" in instance.starts()
    instance.says(SENTINEL, "10.0.0.9\n6379\n")
    assert f"{OTHER} has: that one has to lead" in instance.starts()
    instance.says(SENTINEL, "10.0.0.2\n6379\n")
    assert instance.starts() == ""
    assert (instance.home / "redis.conf").read_text() == "replicaof 10.0.0.2 6379\n"


def test_an_old_master_with_data_follows_too(instance: Instance) -> None:
    """It was not there when another one was promoted."""
    instance.save(DATA)
    instance.says(SENTINEL, "10.0.0.2\n6379\n")
    assert instance.starts() == ""
    assert (instance.home / "redis.conf").read_text() == "replicaof 10.0.0.2 6379\n"


def test_lost_files_are_not_begun_over(instance: Instance) -> None:
    """Unless all others say that there is nothing to lose, or somebody decides it."""
    (instance.home / "begins").unlink()
    assert f"{OTHER} may have its data: start it, or touch" in instance.starts()
    assert instance.starts(appendonly=False, extra="save ''\n") == ""
    instance.says(OTHER, NO_KEYS)
    assert instance.starts() == ""
    alone = Instance.__new__(Instance)
    alone.__dict__.update(instance.__dict__, estate={**instance.estate, "instances": ME})
    assert "Redis ran here before: put back its data" in alone.starts()
    (alone.home / "begins").touch()
    assert alone.starts() == ""


def test_what_has_data_does_not_begin_any_more(instance: Instance) -> None:
    instance.save(EMPTY)
    assert instance.starts() == ""
    instance.snapshot.unlink()
    assert "may have its data" in instance.starts()
