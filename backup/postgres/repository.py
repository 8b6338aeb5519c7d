"""The physical repository: pgBackRest behind one module."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from backup.config import Config
from backup.job import Failed, run
from backup.postgres.options import for_pgbackrest

USER = "postgres"
ARCHIVE_SECONDS = 120
LATE_SECONDS = 10
# What stands in place of a file in the repository may never end, and a job holds its lock.
LIST_SECONDS = 600
_LISTS = {"info", "repo-ls", "repo-get"}
# What pgBackRest says of a repository that has the stanza and no backup.
_EMPTY = 2
_NO_STANZA = "the repository has no stanza: deploy the backup component again"


@dataclass(frozen=True)
class Physical:
    """One physical backup; sizes in bytes, times in seconds since 1970.

    Attributes:
        repository: the number of the one that it is in.
        cluster: the system identifier of what was backed up.
    """

    label: str
    kind: str
    repository: int
    cluster: str
    archive: str
    prior: str | None
    started: int
    ended: int
    lsn_start: str
    lsn_stop: str
    wal_start: str
    wal_stop: str
    size: int
    delta: int
    damaged: bool

    @property
    def timeline(self) -> int:
        """The timeline on which it ended."""
        return int(self.wal_stop[:8], 16)

    def reaches(self, left: dict[int, int]) -> bool:
        """Whether it ended before its timeline was left."""
        return _number(self.lsn_stop) <= left.get(self.timeline, -1)


def pgbackrest(config: Config, *arguments: str) -> str:
    """Runs pgBackRest for the estate's stanza.

    Raises:
        Failed: it exited with something else than 0.
    """
    limit = LIST_SECONDS if _LISTS & {*arguments} else None
    command = ["pgbackrest", f"--stanza={config.stack}", *arguments]
    return run(command, user=USER, env=for_pgbackrest(config.postgres), timeout=limit)


def _at(number: int) -> str:
    return f"--repo={number}"


def present(config: Config) -> int:
    """The number of the repository that backups are made in."""
    return config.repositories[0].number


def backups(config: Config) -> list[Physical]:
    """All physical backups of all repositories, oldest first.

    `info` exits with 0 whatever it finds, so the status in its answer is what counts.

    Raises:
        Failed: the repository cannot be read or says that it is not well.
    """
    return _backups(_info(config))


def _backups(stanza: dict[str, Any]) -> list[Physical]:
    for status in (each["status"] for each in stanza["repo"]):
        if status["code"] not in (0, _EMPTY):
            raise Failed(f"the repository is unhealthy: {status['message']}")
    rows = {(row["repo-key"], row["id"]): row for row in stanza["db"]}
    found = ((raw, raw["database"]) for raw in stanza["backup"])
    return [_physical(raw, rows[database["repo-key"], database["id"]]) for raw, database in found]


def _info(config: Config) -> dict[str, Any]:
    """What the repository says of the estate's stanza.

    Raises:
        Failed: the repository cannot be read or has no stanza.
    """
    stanzas = json.loads(pgbackrest(config, "info", "--output=json"))
    if not stanzas:
        raise Failed(_NO_STANZA)
    return dict(stanzas[0])


def known(config: Config) -> tuple[str, set[str]]:
    """Which cluster the repository takes WAL of, and the labels of all backups; one question.

    Raises:
        Failed: the repository cannot be read or says that it is not well.
    """
    stanza = _info(config)
    cluster = _latest(stanza, present(config))["system-id"]
    return str(cluster), {backup.label for backup in _backups(stanza)}


def system_identifier(config: Config) -> str:
    """Which cluster the repository takes WAL of: the newest that it knows.

    Raises:
        Failed: the repository cannot be read or has no stanza.
    """
    return str(_newest(config, present(config))["system-id"])


def _newest(config: Config, number: int) -> dict[str, Any]:
    return _latest(_info(config), number)


def _latest(stanza: dict[str, Any], number: int) -> dict[str, Any]:
    rows = [row for row in stanza["db"] if row["repo-key"] == number]
    if not rows:
        raise Failed(_NO_STANZA)
    return dict(max(rows, key=lambda row: row["id"]))


def _archive(row: dict[str, Any]) -> str:
    return f"{row['version']}-{row['id']}"


def _physical(raw: dict[str, Any], row: dict[str, Any]) -> Physical:
    return Physical(
        label=raw["label"],
        kind=raw["type"],
        repository=row["repo-key"],
        cluster=str(row["system-id"]),
        archive=_archive(row),
        prior=raw["prior"],
        started=raw["timestamp"]["start"],
        ended=raw["timestamp"]["stop"],
        lsn_start=raw["lsn"]["start"],
        lsn_stop=raw["lsn"]["stop"],
        wal_start=raw["archive"]["start"],
        wal_stop=raw["archive"]["stop"],
        size=raw["info"]["size"],
        delta=raw["info"]["repository"]["delta"],
        # Page checksum failures do not change the exit code of `backup`.
        damaged=bool(raw.get("error")),
    )


def take(config: Config, kind: str) -> Physical:
    """Takes a physical backup, 'full' or 'incr', and returns what the repository says of it.

    Raises:
        Failed: it did not finish, or pages of the cluster are damaged.
    """
    before = {backup.label for backup in backups(config)}
    pgbackrest(config, _at(present(config)), f"--type={kind}", "backup")
    new = [backup for backup in backups(config) if backup.label not in before]
    if len(new) != 1:
        raise Failed(f"pgBackRest ended well, but the repository shows {len(new)} new backups")
    if new[0].damaged:
        raise Failed(f"{new[0].label}: pages of the cluster fail their checksums; not a backup")
    return new[0]


def expire(config: Config, keep: frozenset[str]) -> list[str]:
    """Removes the physical backups that no kept artifact needs, and the WAL before the oldest.

    A label that is newer than all kept ones may be a backup that is being taken: it stays. So does
    the last full of a repository: pgBackRest removes none.

    Returns:
        The labels that are gone.
    """
    if not keep:
        return []
    there = {backup.label: backup for backup in backups(config)}
    last = {b.repository: b.label for b in there.values() if "_" not in b.label}
    needed = _with_priors(there, keep | {*last.values()})
    doomed = [b for label, b in there.items() if label not in needed and label < max(keep)]
    # Increments first: removing a full removes those that build on it.
    for backup in sorted(doomed, key=lambda backup: ("_" not in backup.label, backup.label)):
        _remove(config, backup)
    return [backup.label for backup in doomed]


def _with_priors(there: dict[str, Physical], keep: frozenset[str]) -> set[str]:
    """What is kept and all that it builds on, the increments between it and its full too."""
    needed: set[str] = set()
    waiting = list(keep)
    while waiting:
        backup = there.get(waiting.pop())
        if backup is not None and backup.label not in needed:
            needed.add(backup.label)
            waiting += [backup.prior] if backup.prior else []
    return needed


def _remove(config: Config, backup: Physical) -> None:
    number = backup.repository
    left = [b.label for b in backups(config) if b.repository == number]
    if backup.label not in left:
        return
    # Without a number of fulls `expire --set` leaves all WAL, whatever the retention by time is.
    fulls = sum(1 for other in left if "_" not in other and other != backup.label)
    archive = [
        f"--repo{number}-retention-archive-type=full",
        f"--repo{number}-retention-archive={max(1, fulls)}",
    ]
    pgbackrest(config, _at(number), f"--set={backup.label}", *archive, "expire")


def archive_id(config: Config, number: int = 0) -> str:
    """Where a repository, or the present one, has the WAL of the cluster that it belongs to now."""
    return _archive(_newest(config, number or present(config)))


def segments(config: Config, number: int, archive: str) -> set[str]:
    """The WAL segments that a repository has of a cluster; another one's have the same names."""
    found = (re.match(r".*/([0-9A-F]{24})-", path) for path in _files(config, number, archive))
    return {match[1] for match in found if match}


def _files(config: Config, number: int, archive: str) -> list[str]:
    place = f"archive/{config.stack}/{archive}"
    arguments = [_at(number), "repo-ls", "--recurse", "--output=json", place]
    listing = json.loads(pgbackrest(config, *arguments))
    return [path for path, entry in listing.items() if entry["type"] == "file"]


def on_history(config: Config, candidates: list[Physical], timeline: int = 0) -> list[Physical]:
    """Those that lead to the newest timeline of the last one's cluster, or to the given one.

    One that ended after its timeline was left leads nowhere else. Another cluster's timelines have
    the same numbers.
    """
    if not candidates:
        return []
    last = candidates[-1]
    names = [path.rsplit("/", 1)[-1] for path in _files(config, last.repository, last.archive)]
    newest = max((int(name[:8], 16) for name in names if len(name) >= 8), default=1)
    followed = timeline or newest
    left = _history(config, last, followed) if f"{followed:08X}.history" in names else {}
    own = [backup for backup in candidates if backup.cluster == last.cluster]
    return [backup for backup in own if backup.timeline == followed or backup.reaches(left)]


def _history(config: Config, backup: Physical, timeline: int) -> dict[int, int]:
    """The timelines that a timeline comes from, and at which LSN each was left."""
    place = f"archive/{config.stack}/{backup.archive}/{timeline:08X}.history"
    said = pgbackrest(config, _at(backup.repository), "repo-get", place)
    rows = re.findall(r"(?m)^(\d+)\t(\S+)", said)
    return {int(parent): _number(lsn) for parent, lsn in rows}


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def wait_archived(config: Config, segment: str) -> None:
    """Waits until a WAL segment is in the repository.

    Raises:
        Failed: it has not arrived after `ARCHIVE_SECONDS`.
    """
    end, archive = time.monotonic() + ARCHIVE_SECONDS, archive_id(config)
    while segment not in segments(config, present(config), archive):
        if time.monotonic() > end:
            raise Failed(
                f"WAL segment {segment} has not been archived after {ARCHIVE_SECONDS} s; "
                "see pg_stat_archiver on the server"
            )
        time.sleep(0.5)


def require_whole(config: Config, base: Physical, last: str) -> None:
    """Checks that a backup's repository has all WAL from its first to a last one, which is there.

    An earlier one may be on its way: PostgreSQL lists what is to be archived while it goes on
    writing, and can find a segment that was completed meanwhile before the one before it.

    Raises:
        Failed: one is missing, for `LATE_SECONDS` after the last one was there.
    """
    end = time.monotonic() + LATE_SECONDS
    while lost := missing(config, base, last):
        if time.monotonic() > end:
            raise Failed(f"WAL segment {lost[0]} is missing in the repository ({len(lost)} in all)")
        time.sleep(0.5)


def missing(config: Config, base: Physical, last: str) -> list[str]:
    """The WAL segments from a backup's first to a last one that its repository lacks.

    pgBackRest's own `verify` and `check` pass over a deleted segment in silence.

    Raises:
        Failed: they are of different timelines, so nothing leads from one to the other.
    """
    first = base.wal_start
    if first[:8] != last[:8]:
        raise Failed(f"WAL segments {first} and {last} are of different timelines")
    there = segments(config, base.repository, base.archive)
    return [name for name in _range(first, last) if name not in there]


def _range(first: str, last: str) -> list[str]:
    # A segment is 16 MB, 256 of them in one logical file of 4 GB.
    timeline = first[:8]

    def number(name: str) -> int:
        return int(name[8:16], 16) * 256 + int(name[16:24], 16)

    return [
        f"{timeline}{n // 256:08X}{n % 256:08X}" for n in range(number(first), number(last) + 1)
    ]


def up_to(first: str, timeline: int, end: str) -> list[tuple[str, str]]:
    """The segments from one to that which ends before an LSN: where each begins, and its name."""
    last = (_number(end) - 1) >> 24
    names = _range(f"{timeline:08X}{first[8:]}", f"{timeline:08X}{last >> 8:08X}{last & 255:08X}")
    return [(f"{int(name[8:16], 16):X}/{int(name[16:], 16) << 24:X}", name) for name in names]


def verify(config: Config) -> None:
    """Checks every file of each repository against its checksum.

    `verify` exits with 0 on corruption and says nothing on an empty repository.

    Raises:
        Failed: something is damaged, or there is no backup at all.
    """
    if not backups(config):
        raise Failed("the repository holds no backup")
    for place in config.repositories:
        said = pgbackrest(config, _at(place.number), "verify", "--output=text").strip()
        bad = [line for line in said.splitlines() if line.strip()]
        if bad:
            raise Failed(f"the repository is damaged: {bad[-1].strip()}")
