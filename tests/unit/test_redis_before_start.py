"""What runs before every start of Redis: it decides from what is on the disk alone."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tasks.core.files import render

EMPTY = b"\xff" + bytes(8)
DATA = b"\xfe\x00\x00\x01k\x01v" + EMPTY
COMMANDS = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


def _snapshot(content: bytes, begun: float) -> bytes:
    version = b"\xfa\x09redis-ver\x067.0.15"
    return (
        b"REDIS0010" + version + b"\xfa\x05ctime\xc2" + int(begun).to_bytes(4, "little") + content
    )


class Instance:
    """A data directory and the settings of an instance."""

    def __init__(self, place: Path) -> None:
        self.home = place
        self.settings = place.parent / "settings.conf"
        (place / "redis.conf").touch()
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

    def starts(self, *, appendonly: bool = True, extra: str = "") -> str:
        """Empty when Redis may start, else why not."""
        self.settings.write_text(f"appendonly {'yes' if appendonly else 'no'}\n{extra}")
        script = render("redis/redis-before-start.j2")
        command = ["sh", "-c", script, "-", str(self.home), str(self.settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
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
    assert sorted(path.name for path in instance.home.iterdir()) == ["redis.conf"]


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


def test_what_redis_itself_left_is_left(instance: Instance) -> None:
    """A snapshot that was saved at its stop, or hours after the last write, says the same."""
    instance.append(commands=COMMANDS)
    for after in (-500, 0, 500):
        instance.save(DATA, after=after)
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
