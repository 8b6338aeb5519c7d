"""What a running PostgreSQL uses, compared with what our file says: who else sets a parameter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tasks.core.files import mask
from tasks.core.places import Service
from tasks.core.scripts import shell
from tasks.core.services import Status
from tasks.postgres import psql, sql

# Shell: `put_back DATA`.
SHELL = psql.SHELL + shell("parameters", "postgres")

# What keeps data whole and lets them be written. Without a setting it is as PostgreSQL has it.
_SAFE = {
    **dict.fromkeys(("fsync", "full_page_writes", "autovacuum", "track_counts"), "on"),
    **dict.fromkeys(("zero_damaged_pages", "ignore_checksum_failure"), "off"),
    **dict.fromkeys(("ignore_system_indexes", "default_transaction_read_only"), "off"),
    # Of a standby that is not there every commit would wait.
    "synchronous_standby_names": "",
}

How = Literal["reset", "line", "include", "option", "reload"]


class _Line(NamedTuple):
    """A line of the server's files, in the order in which it reads them: the last one wins."""

    name: str
    value: str
    file: str
    number: int


class _Used(NamedTuple):
    """A parameter as a new session would have it."""

    value: str | None
    kind: str
    unit: str | None
    source: str


@dataclass(frozen=True)
class Other:
    """A value in the place of ours.

    Attributes:
        how: what takes it away: `reload` where nothing on the disk says it any more.
        restarts: only a restart makes the server use ours.
    """

    name: str
    value: str
    wanted: str
    how: How
    file: str = ""
    number: int = 0
    restarts: bool = False

    @property
    def sentence(self) -> str:
        """Who wins, and what is done about it; no secret."""
        if self.how == "include":
            return f"{self.file}: does not read our file; include_dir = 'conf.d' is added"
        place = f"{self.file}:{self.number}"
        by, then = {
            "reset": (f"ALTER SYSTEM ({place})", ": reset"),
            "line": (place, ": that line becomes a comment"),
            "option": (f"the server's command line ({self.file}, or its unit)", ""),
            "reload": ("the server, though no file says so", ""),
        }[self.how]
        now, ours = (self._shown(value) for value in (self.value, self.wanted))
        return f"{self.name}: {now} by {by}, not {ours}{then}"

    def _shown(self, value: str) -> str:
        return mask(f"{self.name} = {value}", sql.SECRET_PARAMETERS).partition(" = ")[2] or "''"


def of(text: str) -> dict[str, str]:
    """The parameters of a configuration that we have written."""
    found = re.findall(r"(?m)^(\S+) = '(.*)'$", text)
    return {k.lower(): v.replace("''", "'").replace("\\\\", "\\") for k, v in found}


def others(
    server: sql.Server, text: str, ours: str, *, access: str = "", is_there: bool = True
) -> list[Other]:
    """What else the server uses, or will use after its next restart.

    Args:
        text: what our file should say.
        ours: its path, as the server knows it.
        access: the pg_hba.conf that the server is to read.
        is_there: the file exists already.
    """
    lines = [_Line(*each) for each in server.facts.get("lines") or ()]
    if not lines:
        return []
    is_read = any(line.file == ours for line in lines)
    by_name = defaultdict[str, list[_Line]](list)
    for line in lines:
        by_name[line.name].append(line)
    found = list[Other]()
    if is_there and not is_read:
        found.append(Other("include_dir", "", "conf.d", "include", server.facts["config"]))
    for name, wanted in sorted(of(text).items()):
        mine = [n for n, line in enumerate(by_name[name]) if line.file == ours]
        later = by_name[name][mine[-1] + 1 :] if mine else _of_system(by_name[name])
        on_disk = by_name[name][mine[-1]].value if mine else None
        found += _of_one(server, name, wanted, later, on_disk)
    for name, wanted in sorted(_SAFE.items()):
        if name not in of(text):
            found += _of_one(server, name, wanted, by_name[name], None)
    if access and "hba_file" not in of(text) and (lines_of := by_name["hba_file"]):
        found += _of_one(server, "hba_file", access, lines_of, None)
    return found


def _of_system(lines: Sequence[_Line]) -> list[_Line]:
    return [line for line in lines if line.file.endswith("/postgresql.auto.conf")]


def _of_one(
    server: sql.Server, name: str, wanted: str, later: Sequence[_Line], on_disk: str | None
) -> Iterator[Other]:
    used = _used(server, name)
    fixed = server.facts.get("contexts", {}).get(name) == "postmaster"
    restarts = fixed and used is not None and not _is_same(used.value, wanted, used)
    if later and not _is_same(later[-1].value, wanted, used):
        # One after the other would win, if only the last one went; one that says the same may stay.
        for line in (each for each in later if not _is_same(each.value, wanted, used)):
            how: How = "reset" if _of_system([line]) else "line"
            yield Other(name, line.value, wanted, how, line.file, line.number, restarts)
    elif used is None or used.value is None or _is_same(used.value, wanted, used):
        return
    elif used.source in ("command line", "environment variable"):
        file = f"{server.facts['config'].rpartition('/')[0]}/pg_ctl.conf"
        yield Other(name, used.value, wanted, "option", file, restarts=True)
    elif (
        # Of other kinds the server has words of its own for a value.
        used.kind in ("bool", "integer", "real")
        and used.source in ("default", "configuration file")
        and on_disk is not None
        and _is_same(on_disk, wanted, used)
    ):
        unit = used.unit or ""
        value = f"{used.value} x {unit}" if unit[:1].isdigit() else f"{used.value}{unit}"
        yield Other(name, value, wanted, "reload", restarts=fixed)


def _used(server: sql.Server, name: str) -> _Used | None:
    found = (server.facts.get("used") or {}).get(name)
    return _Used(*found) if found else None


def uses(server: sql.Server, name: str, wanted: str | None) -> bool:
    """Whether the server has this value, as far as it says."""
    used = _used(server, name)
    return used is not None and wanted is not None and _is_same(used.value, wanted, used)


def _is_same(one: str | None, other: str, used: _Used | None) -> bool:
    if one == other or one is None or used is None:
        return one == other
    if used.kind in ("integer", "real"):
        a, b = (_number(text, used) for text in (one, other))
        # The server rounds to its unit.
        return a is not None and b is not None and abs(a - b) <= (0.5 if used.unit else 1e-9)
    if used.kind == "bool":
        return _truth(one) == _truth(other)
    return used.kind == "enum" and one.lower() == other.lower()


_SCALES = {
    **{unit: 1024.0**n for n, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{"us": 1.0, "ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9, "d": 8.64e10},
}
_NUMBER = re.compile(r"\s*([-+]?(?:0[xX][0-9a-fA-F]+|[\d.]+(?:[eE][-+]?\d+)?))\s*([A-Za-z]*)\s*")


def _number(text: str, used: _Used) -> float | None:
    """A number in the parameter's own unit; None for what is none."""
    match = _NUMBER.fullmatch(text)
    base = re.fullmatch(r"(\d*)(\w+)", used.unit or "")
    if match is None or (match[2] and (base is None or match[2] not in _SCALES)):
        return None
    try:
        # As strtol reads them: permissions of files are octal.
        is_octal = re.fullmatch(r"0[0-7]+", match[1]) and used.kind == "integer"
        value = float(int(match[1], 8)) if is_octal else _plain(match[1])
    except ValueError:
        return None
    if match[2] and base:
        value *= _SCALES[match[2]] / (int(base[1] or 1) * _SCALES[base[2]])
    return value


def _plain(text: str) -> float:
    return float(int(text, 16)) if "x" in text.lower() else float(text)


def _truth(text: str) -> bool | str:
    word = text.strip().lower()
    for value, names in ((True, ("on", "true", "yes", "1")), (False, ("off", "false", "no", "0"))):
        if word and any(name.startswith(word) for name in names if word != "o"):
            return value
    return word


def unsaid(server: sql.Server, text: str) -> list[tuple[str, str]]:
    """What ALTER SYSTEM has that no setting says, each with its file and line."""
    known = of(text).keys() | _SAFE.keys()
    lines = [_Line(*each) for each in server.facts.get("lines") or ()]
    return [(each.name, f"{each.file}:{each.number}") for each in _of_system(lines)
            if each.name not in known]  # fmt: skip


def starts_at_boot(server: sql.Server) -> bool:
    """Whether Debian's start.conf, where there is one, lets a boot start the cluster."""
    words = re.findall(r"(?m)^\s*(\w+)", server.facts.get("start") or "auto")
    return words[:1] in (["auto"], [])


def status(now: Status, found: Sequence[Other]) -> Status:
    """What is known of a server that uses other values: a reload or a restart is due."""
    if any(other.how == "option" for other in found):
        return replace(now, restart="behind")
    return replace(now, outdated=now.outdated or bool(found))


def putting_back(service: Service, found: Sequence[Other], data_directory: str) -> Service:
    """The service which first takes away what wins over our file."""
    orders = [f"{each.how} {each.name} {each.number} {each.file}" for each in found]
    if not orders:
        return service
    # From the end of a file to its beginning; added lines come last.
    script = f"{SHELL}put_back {data_directory} <<__END__\n$PUT_BACK\n__END__\n{service.check}"
    return replace(service, check=script, variables={"PUT_BACK": "\n".join(orders)})


def only_known(found: Sequence[Other], *, due: bool) -> list[Other]:
    """Without values that are about to be loaded anyway."""
    return [each for each in found if not (due and each.how == "reload")]


def sentences(found: Sequence[Other]) -> list[str]:
    """One for each value that is not ours."""
    return [f"PostgreSQL: {each.sentence}" for each in found]


def reasons(found: Sequence[Other]) -> str:
    """The names of what a restart is for."""
    return ", ".join(sorted({each.name for each in found if each.restarts}))
