"""Who is told, how, and how often; an alert that fails never fails what it was about."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from backup import channels, cron
from backup.channels import Notice
from backup.config import Config
from backup.job import Log, log_of
from backup.manifest import Manifest, durably

TRIES = 3
BACKOFF = (1.0, 3.0)  # seconds between tries

# Characters of a message or detail; the kernel takes 128 KiB per environment variable.
LENGTH = 4_000

# The job whose success says that everything is well: it looks at the age of every backup too.
HEARTBEAT_AFTER = "health"

# A backup may start late and takes a while: an hour, and twice as long as the last one took.
GRACE = timedelta(hours=1)

# Stamps of a clock that was ahead by more than this prove nothing.
SKEW = timedelta(hours=1)

_STATE = "alerts.json"


@dataclass(frozen=True)
class Overdue:
    """A backup that should be there and is not."""

    event: str
    message: str

    def __str__(self) -> str:
        return self.message


# --- Tell ----------------------------------------------------------------------------------------


def alert(
    config: Config, event: str, message: str, details: Mapping[str, str] | None = None
) -> None:
    """Tells of a failure, unless the same has been told within the time after which it is repeated.

    Messages that differ only in numbers are the same. Nothing is ever raised: what goes wrong
    is in the log, and what was not delivered is tried again at the next call.

    Args:
        event: what failed, such as 'postgres full'; `recovered` ends it.
        message: one sentence for a human.
        details: further facts; names to values.
    """
    notice = _notice(config, event, "failed", message, details or {})
    known = re.sub(r"\d+", "#", notice.message)
    _tell(
        config,
        notice,
        lambda told: _due(config, told.get(known)),
        lambda _told: {known: _now()},
    )


def recovered(config: Config, event: str, message: str = "") -> None:
    """Tells once that a failure is over, to those who were told of it; never raises."""
    notice = _notice(config, event, "recovered", message or f"{event} works again", {})
    _tell(config, notice, bool, lambda _told: {})


def failed(
    config: Config, job: str, message: str, log: Log, details: Mapping[str, str] | None = None
) -> None:
    """What a job that failed calls."""
    with _harmless(log):
        alert(config, job, message, details)


def succeeded(config: Config, job: str, log: Log) -> None:
    """What a job that succeeded calls: recovery, and the heartbeat after `HEARTBEAT_AFTER`."""
    with _harmless(log):
        recovered(config, job)
        if job == HEARTBEAT_AFTER:
            heartbeat(config)


def heartbeat(config: Config) -> None:
    """Asks for the dead man's switch URL, if there is one; never raises."""
    if config.alerts.heartbeat:
        with _harmless(_Quiet(config)):
            _tried(config, "heartbeat", lambda: channels.ask(config.alerts.heartbeat))


def reconcile(config: Config, found: Iterable[Overdue]) -> None:
    """Tells of everything overdue, and of what no longer is."""
    found = list(found)
    for problem in found:
        alert(config, problem.event, problem.message)
    with _harmless(_Quiet(config)):
        told = {event for channel in _read(config)["told"].values() for event in channel}
        for event in sorted(told - {problem.event for problem in found}):
            if event.startswith("overdue: "):
                recovered(config, event, f"no longer {event}")


def _notice(
    config: Config, event: str, status: str, message: str, details: Mapping[str, str]
) -> Notice:
    clean = {name: _redacted(config, str(value)) for name, value in details.items()}
    return Notice(event, status, _redacted(config, message), _now(), clean)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _redacted(config: Config, text: str) -> str:
    return config.hidden(text).replace("\0", "")[:LENGTH]


def _due(config: Config, last: str | None) -> bool:
    if last is None:
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(last)
    # A clock that was set back would silence it for good.
    return age < timedelta(0) or (bool(config.alerts.repeat) and age >= config.alerts.repeat)


_Told = dict[str, str]


def _tell(
    config: Config,
    notice: Notice,
    wanted: Callable[[_Told], bool],
    after: Callable[[_Told], _Told],
) -> None:
    """Sends on every channel that wants it; each channel remembers what it has delivered."""
    with _harmless(_Quiet(config)):
        told = _read(config)["told"]
        for channel, send in channels.of(config).items():
            before = told.get(channel, {}).get(notice.event, {})
            if wanted(before) and _tried(config, channel, partial(send, config, notice)):
                _remember(config, channel, notice.event, after(before))


def _tried(config: Config, channel: str, send: Callable[[], None]) -> bool:
    """Tries a few times; the log never shows the address, which may hold a token."""
    for pause in (*BACKOFF[: TRIES - 1], None):
        try:
            send()
            return True
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = _reason(error)
        if pause is not None:
            time.sleep(pause)
    _Quiet(config).line(f"alert: {channel} failed {TRIES} times: {reason}")
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return "no answer in time"
    if isinstance(error, subprocess.CalledProcessError):
        return f"exited with {error.returncode}"
    return getattr(error, "strerror", None) or type(error).__name__


@contextlib.contextmanager
def _harmless(log: Log | _Quiet) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        with contextlib.suppress(Exception):
            log.line(f"alert: {type(error).__name__}")


class _Quiet:
    """The log of a configuration, even where it cannot be written."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def line(self, message: str) -> None:
        with contextlib.suppress(OSError):
            log_of(self._config, "alert").line(message)


# --- State ---------------------------------------------------------------------------------------


def _read(config: Config) -> dict[str, Any]:
    """What each channel was told, and since when each kind of backup is watched.

    A state that cannot be read is an empty one: better told twice than not at all.
    """
    empty: dict[str, Any] = {"told": {}, "since": {}}
    try:
        state = json.loads((config.logs / _STATE).read_text())
        for channel in state["told"].values():
            for messages in channel.values():
                [datetime.fromisoformat(when) for when in messages.values()]
        [datetime.fromisoformat(when) for when in state["since"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return empty
    return {"told": state["told"], "since": state["since"]}


def _change(config: Config, change: Callable[[dict[str, Any]], None]) -> None:
    """Reads, changes and writes the state while no other job does."""
    config.logs.mkdir(parents=True, exist_ok=True)
    with (config.logs / f".{_STATE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = _read(config)
        change(state)
        durably(config.logs / _STATE, json.dumps(state, indent=2).encode() + b"\n")


def _remember(config: Config, channel: str, event: str, messages: _Told) -> None:
    def change(state: dict[str, Any]) -> None:
        events = state["told"].setdefault(channel, {})
        events.pop(event, None)
        if messages:
            events[event] = messages

    try:
        _change(config, change)
    except OSError as error:
        _Quiet(config).line(f"alert: what was told cannot be remembered: {error.strerror}")


# --- Overdue -------------------------------------------------------------------------------------


def overdue(
    config: Config,
    manifests: Iterable[Manifest],
    now: datetime,
    since: Mapping[str, datetime] | None = None,
) -> list[Overdue]:
    """Which backups should be there by their schedule and are not.

    A backup is overdue when its schedule has come up since the newest verified one, and the
    time to take one (`GRACE`, and twice as long as the last took) has passed.

    Args:
        manifests: all that are known.
        now: with a time zone.
        since: from when on each event is watched (`watched`); before the first scheduled
            moment after it, "none has ever succeeded" is no news. Without it, always.
    """
    made = [m for m in manifests if m.verified and taken(m) <= now + SKEW]
    problems = []
    for event, kind, of in expected(config):
        mine = [m for m in made if (m.kind == kind and m.of == of) or stands_in(m, kind)]
        newest = max(mine, key=taken, default=None)
        start = (since or {}).get(event)
        if message := _lateness(config.schedules[kind], newest, now, start):
            problems.append(Overdue(event, f"{kind} backup of {of}: {message}"))
    return problems


def watched(config: Config, now: datetime) -> dict[str, datetime]:
    """Since when each backup is expected: the first time that this was asked; never raises."""

    def change(state: dict[str, Any]) -> None:
        for event, _, _ in expected(config):
            state["since"].setdefault(event, now.isoformat(timespec="seconds"))

    with _harmless(_Quiet(config)):
        if any(event not in _read(config)["since"] for event, _, _ in expected(config)):
            _change(config, change)
    known = _read(config)["since"]
    return {event: datetime.fromisoformat(when) for event, when in known.items()}


def expected(config: Config) -> list[tuple[str, str, str]]:
    """Event, kind, and of what, for every backup that has a schedule."""
    rows = [("full", database) for database in config.databases]
    rows += [("incremental", config.stack)] if config.postgres else []
    rows += [("redis", "redis")] if config.redis else []
    return [(f"overdue: {kind} {of}", kind, of) for kind, of in rows if config.schedules.get(kind)]


def stands_in(manifest: Manifest, kind: str) -> bool:
    """A full holds the whole cluster: it is as good as the incremental that waited for it."""
    return kind == "incremental" and manifest.kind == "full"


def _lateness(schedule: str, newest: Manifest | None, now: datetime, since: datetime | None) -> str:
    took = datetime.fromisoformat(newest.ended) - taken(newest) if newest else timedelta()
    grace = GRACE + 2 * took
    expected = last_moment(schedule, now - grace)
    if newest is None:
        early = since is not None and expected < since
        return "" if early else "none has ever succeeded"
    if taken(newest) >= expected:
        return ""
    age, allowed = (_hours(now - moment) for moment in (taken(newest), expected))
    return f"the newest is {age} h old, its schedule '{schedule}' allows {allowed} h"


def allowed_age(schedule: str, now: datetime) -> timedelta:
    """How old the newest backup may be at a moment, by its schedule alone.

    Raises:
        ValueError: the schedule is not one; the message says why.
    """
    return now - last_moment(schedule, now - GRACE)


def last_moment(schedule: str, before: datetime) -> datetime:
    """The last scheduled moment; cron runs on the local time of its host."""
    local = before.astimezone().replace(tzinfo=None)
    return cron.parse(schedule).last(local).astimezone(UTC)


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.1f}"


def taken(manifest: Manifest) -> datetime:
    """When a backup was begun; one whose stamp cannot be read proves nothing."""
    try:
        return datetime.strptime(manifest.stamp, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
