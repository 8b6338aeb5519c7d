"""Files and directories: read together in one command, written together, each atomically."""

from __future__ import annotations

import base64
import difflib
import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.core.change import Change
from tasks.core.remote import Probe
from tasks.core.scripts import assignments, quoted, shell

# What says of a file that it is ours.
MARK = "Written by Datatier"
# Where copies of what an adoption replaces are kept: root's, and no removal takes them.
COPIES = "/var/backups/datatier"

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


@dataclass(frozen=True)
class File:
    """A file that should have this content.

    Attributes:
        secret: regular expression whose first group is masked in diffs.
        seed: written only where it is missing; afterwards a server owns it.
        opens: regular expression of a line that lets a client in or leads elsewhere. Lines with
            a first group that ours have not are named.
        live: regular expression of lines that are set in the running server: where only they
            change, the file stays as old as it was, so that no restart is due.
    """

    path: str
    content: str
    mode: str = "644"
    user: str = "root"
    group: str = "root"
    secret: str | None = None
    seed: bool = False
    opens: str | None = None
    live: str | None = None


@dataclass(frozen=True)
class Directory:
    """A directory that should exist; its parents are declared before it."""

    path: str
    mode: str = "755"
    user: str = "root"
    group: str = "root"


@dataclass(frozen=True)
class Found:
    """What stands at a path: kind is 'file', 'dir', 'other' or 'absent'.

    Attributes:
        uid: its owner; of another kind who decides what stands there, if anybody can be trusted.
        is_strange: others wrote it where a file of ours should be.
        by_hand: lines in a file of ours that let a client in and are not ours.
    """

    kind: str
    mode: str = ""
    user: str = ""
    group: str = ""
    content: bytes = b""
    uid: str = ""
    gid: str = ""
    is_strange: bool = False
    by_hand: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether a run of ours has written it."""
        return self.kind == "file" and MARK.encode() in self.content


Entry = File | Directory


@cache
def environment() -> Environment:
    """All templates; each is compiled once in a process."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A template of `templates/` with its values.

    Raises:
        jinja2.UndefinedError: the template names a value that was not given.
    """
    return environment().get_template(template).render(**values)


def digest(*parts: str) -> str:
    """A fingerprint of texts, for comparison only."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def probe(entries: Sequence[Entry]) -> Probe[dict[str, Found]]:
    """Reads what stands at the paths of `entries`."""
    places: dict[str, list[str]] = {}
    for entry in entries:
        places.setdefault(entry.path.rpartition("/")[0], []).append(entry.path)

    def parse(lines: list[str]) -> dict[str, Found]:
        listed = {entry.path: entry for entry in entries}
        paths = [path for each in places.values() for path in each]
        found = dict(zip(paths, _found(lines, len(paths)), strict=True))
        return {
            path: replace(
                now,
                is_strange=_is_strange(listed[path], now),
                by_hand=tuple(_by_hand(listed[path], now)),
            )
            for path, now in found.items()
        }

    looks = [f"look_at {quoted(place, *paths)}\n" for place, paths in places.items()]
    return Probe("".join([f"know {quoted(*places)}\n", *looks, "looked\n"]), parse)


def _is_strange(entry: Entry, now: Found) -> bool:
    """Whether others wrote it; a file of ours without our mark is in a directory of ours."""
    if not isinstance(entry, File):
        return False
    # A program, a link; where a service's user decides what stands there, it is just put right.
    if now.kind == "other":
        return now.uid == "0"
    if MARK not in entry.content:
        return False
    if now.kind == "dir":
        return entry.user == "root"
    return bool(now.content.strip()) and MARK.encode() not in now.content


def _by_hand(entry: Entry, now: Found) -> Iterator[str]:
    """The lines of a file of ours that let a client in and that we have not written."""
    if not isinstance(entry, File) or entry.opens is None:
        return
    lines, ours = now.content.decode(errors="replace").splitlines(), entry.content.splitlines()
    # Of one that is not ours a copy is kept.
    if MARK in entry.content and ours[0] not in lines:
        return
    opening = [_opening(line, entry.opens) for line in ours]
    added = (each for line in lines if (each := _opening(line, entry.opens)) not in opening)
    yield from dict.fromkeys(mask(each, entry.secret) for each in added if each is not None)


def _opening(line: str, opens: str) -> str | None:
    match = re.match(opens, line)
    return match[1] if match else None


# Who looks at paths that only root can lead elsewhere.
_ROOT = "as 0"


def _found(lines: Sequence[str], count: int) -> Iterator[Found]:
    """What lines say of `count` paths: what the first ones leave out is told after them."""
    first, rest = lines[:count], [*lines[count:]]
    told = dict[str, Sequence[str]]()
    for who in dict.fromkeys(line for line in first if line.startswith("as ")):
        of = first.count(who)
        told[who], rest = rest[:of], rest[of:]
    # A user may have written more lines than were asked for, or less.
    is_short = any(len(lines) < first.count(who) for who, lines in told.items())
    if is_short or len(rest) != any(":" in line for line in told.get(_ROOT, ())):
        raise ValueError("there are not as many lines as paths")
    contents = BytesIO(base64.b64decode("".join(rest)))
    answers = {who: iter(lines) for who, lines in told.items()}
    for who in first:
        line = next(answers[who]) if who in answers else who
        # What a user says of a size is no part of the contents.
        yield _one(line, contents if who == _ROOT else BytesIO())


def _one(line: str, contents: BytesIO) -> Found:
    kind, *rest = line.split(" ")
    if kind == "file":
        mode, user, group, uid, gid, said = rest
        content = _part(contents, int(said[1:])) if said[:1] == ":" else base64.b64decode(said)
        return Found(kind, mode, user, group, content, uid, gid)
    if kind == "dir":
        mode, user, group, uid, gid = rest
        return Found(kind, mode, user, group, uid=uid, gid=gid)
    return Found(kind, uid="".join(rest))


def _part(contents: BytesIO, size: int) -> bytes:
    part = contents.read(size)
    if len(part) != size:
        raise ValueError("there is less than the files had")
    return part


def compare(entries: Sequence[Entry], found: Mapping[str, Found]) -> Change | None:
    """The change that makes the host's files those of `entries`, or None."""
    pending = [entry for entry in entries if _differs(entry, found[entry.path])]
    if not pending:
        return None
    payload = "\n".join(_order(entry, found[entry.path]) for entry in pending)
    units = [entry.path for entry in pending if entry.path.startswith("/etc/systemd/system/")]
    # A new one is read when its service starts.
    is_known = any(found[path].kind == "file" for path in units)
    return Change(
        lines=[_sentence(entry, found[entry.path]) for entry in pending],
        script=shell("write-files") + (_UNITS if is_known else ""),
        variables={"ORDERS": payload},
        diff=[line for entry in pending for line in _diff(entry, found[entry.path])],
    )


def are_written(texts: Mapping[str, str], found: Mapping[str, Found]) -> bool:
    """Whether files have these contents already, by their paths."""
    return all(found[path].content == text.encode() for path, text in texts.items())


def _differs(entry: Entry, now: Found) -> bool:
    owned = _is_owned(entry, now)
    if isinstance(entry, Directory):
        return now.kind != "dir" or not owned
    if entry.seed:
        return now.kind == "absent"
    return now.kind != "file" or not owned or now.content != entry.content.encode()


def _is_owned(entry: Entry, now: Found) -> bool:
    """Whether mode and owner are as declared; an owner in a container is a number here."""
    users, groups = (now.user, now.uid), (now.group, now.gid)
    return entry.mode.lstrip("0") == now.mode and entry.user in users and entry.group in groups


def _sentence(entry: Entry, now: Found) -> str:
    if now.kind == "absent":
        return f"{entry.path}: create"
    if now.kind == "other" or (isinstance(entry, File) and now.content != entry.content.encode()):
        return f"{entry.path}: change{''.join(f'; takes out {line!r}' for line in now.by_hand)}"
    return f"{entry.path}: owner {entry.user}:{entry.group}, mode {entry.mode}"


def _order(entry: Entry, now: Found) -> str:
    head = f"{entry.mode} {entry.user} {entry.group} {shlex.quote(entry.path)}"
    if isinstance(entry, Directory):
        return f"dir {head}"
    kind = "same" if _is_same_but_live(entry, now) else "file"
    return f"{kind} {head} {base64.b64encode(entry.content.encode()).decode()}"


def _is_same_but_live(entry: File, now: Found) -> bool:
    if entry.live is None or now.kind != "file":
        return False
    before, after = now.content.decode(errors="replace"), entry.content
    return without(before, entry.live) == without(after, entry.live)


def without(text: str, lines: str) -> str:
    """A text without its lines that match a regular expression at their beginning."""
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(lines, line))


# Until then systemd goes on with the old one, also when it starts a server again by itself.
_UNITS = "systemctl daemon-reload\n"


def strangers(found: Mapping[str, Found], pristine: Collection[str]) -> list[str]:
    """Paths where a file of ours should be and one of others is.

    Args:
        found: what a probe of files has read.
        pristine: MD5 sums of files that packages bring: they belong to no one yet.
    """
    return [
        path
        for path, now in found.items()
        if now.is_strange
        # What is no file has no content, and neither has a package's empty file.
        and (now.kind != "file" or _md5(now.content) not in pristine)
    ]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def occupied_probe(kind: Literal["backups", "docker"], directory: str) -> Probe[list[str]]:
    """Why a directory cannot be ours: it would get our owner and mode, and a removal takes it."""
    ask = f"if has_others_{kind} {quoted(directory)}; then echo occupied; fi"
    why = f"{directory} has files of others: it should be empty, or not exist"
    script = assignments({"MARK": MARK}) + shell("ours") + ask
    return Probe(script, lambda lines: [why for _ in lines])


def keeping(change: Change, lines: Sequence[str], paths: Sequence[str]) -> Change:
    """The same change, which first makes copies of files.

    Args:
        lines: what else the plan says of it.
    """
    copies = [f"{path}: keep a copy, {COPIES}{path}" for path in paths]
    script = f"copies={COPIES}\n{shell('keep')}keep {quoted(*paths)}\n{change.script}"
    return replace(change, lines=[*lines, *copies, *change.lines], script=script)


def mask(text: str, secret: str | None) -> str:
    """The text with secrets replaced; a changed secret still shows as a changed line."""
    if secret is None:
        return text

    def hide(match: re.Match[str]) -> str:
        start, end = match.start(1) - match.start(), match.end(1) - match.start()
        whole = match.group(0)
        tag = hashlib.blake2s(match.group(1).encode(), key=_SALT, digest_size=3).hexdigest()
        return f"{whole[:start]}<secret {tag}>{whole[end:]}"

    return re.sub(secret, hide, text, flags=re.MULTILINE)


# New in every run, so that a tag in a saved diff tells nothing about the secret.
_SALT = os.urandom(16)


def _diff(entry: Entry, now: Found) -> list[str]:
    if isinstance(entry, Directory):
        return []
    before = mask(now.content.decode(errors="replace"), entry.secret)
    after = mask(entry.content, entry.secret)
    return list(
        difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            fromfile=entry.path if now.kind == "file" else "/dev/null",
            tofile=entry.path,
            lineterm="",
        )
    )
