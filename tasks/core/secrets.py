"""Secrets come from the environment or `.env`; a missing one is generated and kept there."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic_core import PydanticCustomError
from pyinfra.api import FunctionCommand, Host, operation
from pyinfra.context import ctx_host

from tasks.core import hide
from tasks.core.change import announce
from tasks.core.settings import printable

# 32 characters of a 62-letter alphabet: 190 bits, and nothing that a file format would quote.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 32


class Secrets:
    """The secrets of one project directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = dotenv_values(path, interpolate=False) if path.exists() else {}
        self._further: dict[str, str | None] = {}
        self.generated: dict[str, str] = {}

    def also(self, path: Path) -> None:
        """Looks in a second file for what is nowhere else, if it may be read."""
        if os.access(path, os.R_OK):
            self._further = dotenv_values(path, interpolate=False)

    def get(self, name: str) -> str:
        """The secret's value: the environment's, else `.env`'s, else a new one."""
        value = self.find(name) or self._generate(name)
        hide.secret(value)
        return value

    def wrong(self, name: str) -> str:
        """Why no server or file would take the value as it is; empty if it may be used."""
        value = self.find(name)
        try:
            if value is not None:
                printable(SecretStr(value))
        except PydanticCustomError as error:
            return str(error)
        return ""

    def exposures(self) -> Iterator[str]:
        """How others than the user can come to the secrets; each with what to do."""
        if not self.path.exists():
            return
        file, directory = self.path.stat(), self.path.resolve().parent
        if mode := stat.S_IMODE(file.st_mode) & 0o077:
            now = f"{stat.S_IMODE(file.st_mode):o}"
            can = "change" if mode & 0o022 else "read"
            yield f"{self.path}: mode {now}: others can {can} the secrets; chmod 600 it"
        if file.st_uid not in (os.geteuid(), 0):
            yield f"{self.path}: belongs to user {file.st_uid}, who can read and change the secrets"
        above = directory.stat().st_mode
        if above & 0o002 and not above & stat.S_ISVTX:
            yield f"{self.path}: others can replace it; chmod o-w {directory}"
        if _is_tracked(self.path):
            yield f"{self.path}: is tracked by git; git rm --cached it, and change the secrets"

    def find(self, name: str) -> str | None:
        """A value that may be absent: nothing is generated for it."""
        return os.environ.get(name) or self._stored.get(name) or self._further.get(name)

    def _generate(self, name: str) -> str:
        if name not in self.generated:
            self.generated[name] = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        return self.generated[name]

    def save(self) -> None:
        """Adds the generated secrets to `.env`: whole or not at all, for its owner only."""
        before = self.path.read_text() if self.path.exists() else ""
        now = dotenv_values(self.path, interpolate=False)
        if there := [name for name in self.generated if now.get(name)]:
            raise RuntimeError(f"another run generated {', '.join(sorted(there))}: run again")
        if before and not before.endswith("\n"):
            before += "\n"
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self.generated.items()))
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
            try:
                file.write(before + lines)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self.path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        self._stored.update(self.generated)
        self.generated.clear()


def _is_tracked(path: Path) -> bool:
    command = ["git", "-C", str(path.parent), "ls-files", "--error-unmatch", "--", path.name]
    try:
        return subprocess.run(command, capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@cache
def of(directory: str) -> Secrets:
    """The secrets beside the inventory: `.env` in the directory pyinfra was started in."""
    return Secrets(Path(directory) / ".env")


def keep(store: Secrets, speaker: Host) -> None:
    """Writes newly generated secrets to `.env`, once, before anything else of the run.

    Args:
        speaker: the host on which the plan shows it.
    """
    _keep(store=store, speaker=speaker, name="Secrets: generate what is missing")


@operation()
def _keep(store: Secrets, speaker: Host) -> Generator[FunctionCommand, None, None]:
    host = ctx_host.get()
    if not store.generated or host is not speaker:
        host.noop("no secret is missing")
        return
    names = ", ".join(sorted(store.generated))
    announce(host, [f"{store.path}: generate {names}"])
    yield FunctionCommand(store.save, [], {})
