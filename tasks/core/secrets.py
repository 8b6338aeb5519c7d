"""Secrets come from the environment, a command or `.env`; a missing one is generated there."""

from __future__ import annotations

import io
import os
import re
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

# A command may ask for a passphrase at the terminal.
COMMAND_SECONDS = 120

# What a rotation adds to the name of a secret whose value is on its way out.
_PREVIOUS = "_PREVIOUS"

# A line of `.env`, in three parts.
_LINE = r"(?m)^([ \t]*(?:export[ \t]+)?){}([ \t]*=.*(?:\n|$))"

_WRITE = stat.S_IWGRP | stat.S_IWOTH


def previous(name: str) -> str:
    """The name of a secret's value of before, which is accepted too as long as it is there."""
    return f"{name}{_PREVIOUS}"


class Secrets:
    """The secrets of one project directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored, self.unreadable = _content(path)
        self._printed: dict[str, str | None] = {}
        self._further: dict[str, str | None] = {}
        self.generated: dict[str, str] = {}
        # Names of the file that are to be others, or nothing, and the values that they have there.
        self.renamed: dict[str, tuple[str, str]] = {}

    def also(self, path: Path) -> None:
        """Looks in a second file for what is nowhere else, if it may be read."""
        if os.access(path, os.R_OK):
            self._further = dotenv_values(path, interpolate=False)

    def ask(self, command: str) -> str:
        """Takes what a command prints, in the format of `.env`; it comes before that file.

        Returns:
            Why it gives no secrets; empty if it does.
        """
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=self.path.parent,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"has not ended within {COMMAND_SECONDS} s: run it by hand"
        if done.returncode:
            return f"ended with {done.returncode}: {_why(done.stderr) or 'it does not say why'}"
        self._printed = dotenv_values(stream=io.StringIO(done.stdout), interpolate=False)
        if any(self._printed.values()):
            return ""
        # Of a pipeline the shell tells only how its last program ended.
        return ": ".join(filter(None, ["prints no line NAME=value", _why(done.stderr)]))

    def get(self, name: str) -> str:
        """The secret's value: the environment's, the command's, `.env`'s, else a new one."""
        known = self.generated.get(name) or self.find(name)
        return self._hidden(known or self._generate(name))

    def fresh(self, name: str) -> str:
        """The same, without the second file: it goes on with what was taken away elsewhere."""
        return self._hidden(self.stated(name) or self._generate(name))

    def _hidden(self, value: str) -> str:
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

    def open_to_all(self) -> Iterator[str]:
        """How every user of this machine can come to the secrets; each with what to do."""
        if self.path.exists():
            yield from self._allows("others", stat.S_IRWXO)
            directory = self.path.resolve().parent
            above = directory.stat().st_mode
            if above & stat.S_IWOTH and not above & stat.S_ISVTX:
                yield f"others can replace it; chmod o-w {directory}"

    def exposures(self) -> Iterator[str]:
        """How some who may be meant to can come to the secrets; each with what to do."""
        if not self.path.exists():
            return
        for exposure in self._allows("its group", stat.S_IRWXG):
            yield f"{self.path}: {exposure}"
        owner = self.path.stat().st_uid
        if owner not in (os.geteuid(), 0):
            yield f"{self.path}: belongs to user {owner}, who can read and change the secrets"
        if _is_tracked(self.path):
            yield f"{self.path}: is tracked by git; git rm --cached it, and change the secrets"

    def _allows(self, whom: str, bits: int) -> Iterator[str]:
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & bits:
            can = "change" if mode & bits & _WRITE else "read"
            yield f"mode {mode:o}: {whom} can {can} the secrets; chmod 600 it"

    def find(self, name: str) -> str | None:
        """A value that may be absent: nothing is generated for it."""
        is_turning = self.stated(previous(name))
        return self.stated(name) or (None if is_turning else self._further.get(name))

    def stated(self, name: str) -> str | None:
        """The same, but for the second file: it goes on with what was taken away elsewhere."""
        return os.environ.get(name) or self._printed.get(name) or self._stored.get(name)

    def turn(self, name: str) -> str:
        """Makes a value of `.env` the one of before, so that another one is generated.

        Where there is one of before, a rotation has begun, which goes on.

        Returns:
            Why it cannot be done; empty if it can.
        """
        if self.stated(previous(name)):
            return ""
        if elsewhere := self._elsewhere(name):
            return (
                f"comes from {elsewhere}: put another value there, with the present one as "
                f"{previous(name)}, and deploy"
            )
        if name not in self._stored:
            return f"is not in {self.path}: deploy first"
        return self._rename(name, previous(name))

    def drop(self, name: str) -> str:
        """Takes away the value of before.

        Returns:
            Why it cannot be done; empty if it can.
        """
        if elsewhere := self._elsewhere(previous(name)):
            return f"comes from {elsewhere}: take {previous(name)} out of it, and deploy"
        return self._rename(previous(name), "")

    def origin(self, name: str) -> str:
        """Where a value is that is stated."""
        return self._elsewhere(name) or str(self.path)

    def _elsewhere(self, name: str) -> str:
        if os.environ.get(name):
            return "the environment"
        return "secrets_command" if self._printed.get(name) else ""

    def _rename(self, name: str, other: str) -> str:
        if not re.search(_LINE.format(name), _text(self.path)):
            return f"stands in {self.path} in a form that is not changed: write {name}=... there"
        value = self._stored.pop(name) or ""
        hide.secret(value)
        self.renamed[name] = other, value
        if other:
            self._stored[other] = value
        return ""

    def _generate(self, name: str) -> str:
        if name not in self.generated:
            self.generated[name] = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        return self.generated[name]

    def save(self) -> None:
        """Writes the generated secrets to `.env`: whole or not at all, for its owner only."""
        before = _text(self.path) if self.path.exists() else ""
        now = dotenv_values(self.path, interpolate=False)
        there = [n for n in self.generated if now.get(n) and n not in self.renamed]
        there += [n for n, (_, value) in self.renamed.items() if now.get(n) != value]
        if there:
            raise RuntimeError(f"another run changed {', '.join(sorted(there))}: run again")
        for name, (other, _) in self.renamed.items():
            before = re.sub(_LINE.format(name), rf"\g<1>{other}\g<2>" if other else "", before)
        if before and not before.endswith("\n"):
            before += "\n"
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self.generated.items()))
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=self.path.parent, delete=False
        ) as file:
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
        self.renamed.clear()


def _why(told: str) -> str:
    """The last line of what a program told that is an error, or else the last one."""
    lines = told.strip().splitlines()
    errors = [line for line in lines if re.search(r"(?i)\b(error|failed)\b", line)]
    return next(iter(errors[-1:] or lines[-1:]), "")


def _content(path: Path) -> tuple[dict[str, str | None], str]:
    """What a file has, if it is there, and why it cannot be read; empty if it can."""
    if path.is_dir():
        return {}, f"is a directory: move it away, and put the file of the secrets at {path}"
    try:
        return (dotenv_values(path, interpolate=False) if path.exists() else {}), ""
    except UnicodeDecodeError:
        return {}, "is not UTF-8: save it as plain text in UTF-8"
    except OSError as error:
        return {}, f"cannot be read ({error.strerror}): give it to the user who deploys"


def _text(path: Path) -> str:
    """A file without the mark that some editors put before its first line."""
    return path.read_text("utf-8-sig")


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
    if not (store.generated or store.renamed) or host is not speaker:
        host.noop("no secret is missing")
        return
    lines = [
        f"{store.path}: {name} becomes {other}" if other else f"{store.path}: remove {name}"
        for name, (other, _) in sorted(store.renamed.items())
    ]
    if store.generated:
        lines.append(f"{store.path}: generate {', '.join(sorted(store.generated))}")
    announce(host, lines)
    yield FunctionCommand(store.save, [], {})
