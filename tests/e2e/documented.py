"""What a document of the project shows: commands, a reader's terminal for them, and programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.lab import Host

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\w*)")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
_STEP = re.compile(r"\s*(?:\$|(\w+)#) (.+)$")
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\n)")
_FOLLOWED = {"logs": {"-f", "--follow"}, "tail": {"-f", "-F", "--follow"}}
_STOPPED = 124
# A pipe that the reader holds open itself: the end of input would be typed as Ctrl-D, too early.
_NO_KEYS = "mkfifo /run/keys.$$ && exec <>/run/keys.$$ && rm /run/keys.$$ && exec"

CTRL_D = "\x04"


@dataclass(frozen=True)
class Command:
    """A command as the document has it, and the heading it stands under."""

    heading: str
    text: str

    @property
    def follows(self) -> bool:
        """Whether it goes on until somebody stops it: `logs -f`, `tail -f`."""
        words = self.text.split()
        return any(
            word in _FOLLOWED and _FOLLOWED[word] & set(words[number:])
            for number, word in enumerate(words)
        )


class Step(NamedTuple):
    """A line of a runbook.

    Attributes:
        block: the number of its block below its heading, from 0.
        where: the host as the document calls it; empty for where one deploys.
    """

    block: int
    where: str
    text: str


def steps(document: Path, heading: str) -> list[Step]:
    """What a section has to be typed, in order: `$ COMMAND` and `HOST# COMMAND`."""
    lines = [each for each in _lines(document.read_text()) if each.heading == heading]
    blocks = list(dict.fromkeys(each.block for each in lines))
    found = ((each, _STEP.match(each.text)) for each in lines)
    return [Step(blocks.index(each.block), m[1] or "", m[2]) for each, m in found if m]


def headings(document: Path) -> list[str]:
    """The headings of a document that have something in fences."""
    return list(dict.fromkeys(each.heading for each in _lines(document.read_text())))


def anchor(heading: str) -> str:
    """How links call it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(document: Path) -> list[Command]:
    """The commands of a document's ```bash blocks, in order; comment lines are left out."""
    return list(_commands(document.read_text()))


def programs(document: Path) -> dict[str, str]:
    """The ```python blocks of a document, by the heading that each stands under."""
    found: dict[str, str] = {}
    for each in _lines(document.read_text()):
        if each.language == "python":
            found[each.heading] = f"{found.get(each.heading, '')}{each.text}\n"
    return found


def run(
    host: Host, text: str, directory: str, *, typed: str = "", seconds: int = 60, check: bool = True
) -> str:
    """Runs a command in a terminal, in a directory of a host.

    Args:
        typed: what a command that asks is answered, again every second until it ends;
            CTRL_D for one that takes any number of lines.
        seconds: how long it may take.
        check: whether it must succeed.

    Returns:
        What the terminal showed, without colours.

    Raises:
        AssertionError: it failed or took too long.
    """
    code, shown = _in_terminal(host, text, directory, typed, seconds)
    assert code == 0 or not check, f"{text}: exit status {code}\n{shown}"
    return shown


def follow(host: Host, text: str, directory: str, *, seconds: int = 3) -> str:
    """Runs a command that does not end, for so many seconds; what the terminal showed by then.

    Raises:
        AssertionError: it ended by itself.
    """
    code, shown = _in_terminal(host, text, directory, "", seconds)
    assert code == _STOPPED, f"{text}: exit status {code}\n{shown}"
    return shown


def _in_terminal(
    host: Host, text: str, directory: str, typed: str, seconds: int
) -> tuple[int, str]:
    # As the reader's: without one `docker-compose exec` of 1.29 refuses, and in one that has no
    # size psql shows pages.
    command = ["timeout", "--foreground", "--kill-after=10", str(seconds), "bash", "-c", text]
    sized = f"stty rows 50 columns 200 -echo; exec {shlex.join(command)}"
    terminal = ["script", "--quiet", "--return", "--flush", "--command", sized, "/dev/null"]
    keys = f"while sleep 1 && printf %s {shlex.quote(typed)}; do :; done |" if typed else _NO_KEYS
    script = f"cd {shlex.quote(directory)} && export TERM=xterm && {keys} {shlex.join(terminal)}"
    done = host.run(script, check=False, timeout=seconds + 30)
    return done.returncode, _STEERING.sub("", done.stdout + done.stderr)


def _commands(text: str) -> Iterator[Command]:
    begun = ""
    for each in _lines(text):
        if each.language == "bash":
            begun = _joined(begun, each.text)
            if begun and not begun.endswith("\\"):
                yield Command(each.heading, begun)
                begun = ""


class _Line(NamedTuple):
    heading: str
    block: int
    language: str
    text: str


def _lines(text: str) -> Iterator[_Line]:
    """The lines within fences."""
    heading, fence, language, block = "", "", "", 0
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and not fence:
            fence, language, block = mark[1], mark[2], block + 1
        elif fence and line.strip() == fence:
            fence = ""
        elif fence:
            yield _Line(heading, block, language, line)
        else:
            title = _HEADING.match(line)
            heading = title[1] if title else heading


def _joined(begun: str, line: str) -> str:
    if begun:
        return f"{begun[:-1].rstrip()} {line.strip()}"
    return "" if line.strip().startswith("#") else line.strip()
