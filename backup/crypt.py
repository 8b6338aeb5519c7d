"""Encryption at rest in OpenPGP format: `gpg -d` opens an artifact without this program."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backup.config import Config
from backup.job import Failed


def suffix(config: Config) -> str:
    """What an artifact's name ends with when it is encrypted."""
    return ".gpg" if config.encryption_passphrase else ""


def named(path: Path) -> Path:
    """Where an artifact is: a path without the `.gpg` of an encrypted one will do.

    Raises:
        Failed: it is nowhere, or a LATEST link says two things.
    """
    encrypted = path.with_name(f"{path.name}.gpg")
    there = [each for each in (path, encrypted) if each.exists() or each.is_symlink()]
    if not there:
        raise Failed(f"{path}: no such file")
    if "_LATEST" in path.name and len(there) > 1:
        raise Failed(f"{path} is ambiguous: {encrypted.name} is there too; name the file itself")
    return there[0]


@contextlib.contextmanager
def writer(config: Config, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """A stream that ends up, encrypted where there is a passphrase, in `raw`."""
    if not config.encryption_passphrase:
        yield raw
        return
    # The most that the format knows, and what gpg chose itself: after a second in which an agent
    # that was started for that alone measured the machine.
    how = ["--symmetric", "--cipher-algo", "AES256", "--s2k-count", "65011712"]
    with _gpg(config.encryption_passphrase, how, subprocess.PIPE, raw) as gpg:
        assert gpg.stdin is not None
        # It ends early where it cannot write; what it says of that is the reason then.
        with contextlib.suppress(BrokenPipeError):
            yield gpg.stdin
            gpg.stdin.close()
        _finished(gpg, "encryption")


@contextlib.contextmanager
def reader(config: Config, path: Path) -> Iterator[IO[bytes]]:
    """The content of an artifact, decrypted if its name says that it is encrypted.

    Raises:
        Failed: the passphrase is not the right one, or the file is damaged.
    """
    with path.open("rb") as raw:
        if ".gpg" not in path.name:
            yield raw
            return
        if not config.encryption_passphrase:
            raise Failed(f"{path.name} is encrypted, and backup_encryption_passphrase is not set")
        with _gpg(_passphrase_of(config, path), ["--decrypt"], raw, subprocess.PIPE) as gpg:
            assert gpg.stdout is not None
            yield gpg.stdout
            gpg.stdout.read()
            _finished(gpg, f"decryption of {path.name}")


def _passphrase_of(config: Config, path: Path) -> str:
    """The one of before where that alone opens an artifact; else the present one."""
    before = config.encryption_passphrase_previous
    if before and not opens(config.encryption_passphrase, path) and opens(before, path):
        return before
    return config.encryption_passphrase


def opens(passphrase: str, path: Path) -> bool:
    """Whether an artifact begins to open with a passphrase."""
    with (
        path.open("rb") as raw,
        _gpg(passphrase, ["--decrypt"], raw, subprocess.PIPE) as gpg,
    ):
        assert gpg.stdout is not None
        return bool(gpg.stdout.read(1))


@contextlib.contextmanager
def _gpg(
    passphrase: str, arguments: list[str], stdin: IO[bytes] | int, stdout: IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    readable, writable = os.pipe()
    os.write(writable, passphrase.encode() + b"\n")
    os.close(writable)
    # gpg makes no ~/.gnupg of its own under --no-options.
    home = tempfile.mkdtemp(prefix="datatier-gpg-")
    command = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-options"]
    command += ["--pinentry-mode", "loopback", "--no-symkey-cache"]
    command += ["--passphrase-fd", str(readable), *arguments]
    process = subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, pass_fds=[readable]
    )
    os.close(readable)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        shutil.rmtree(home, ignore_errors=True)


def _finished(gpg: subprocess.Popen[bytes], what: str) -> None:
    assert gpg.stderr is not None
    said = gpg.stderr.read().decode(errors="replace").strip()
    if gpg.wait():
        raise Failed(f"{what} failed: {said.splitlines()[-1] if said else 'gpg says nothing'}")
