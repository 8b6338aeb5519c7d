"""What backups there are: listed, summed up, and verified."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from backup import alert, channels, outcome, recovery, retention
from backup.config import CRONTAB, Config
from backup.job import Failed, Log
from backup.manifest import SUFFIX, Manifest, all_of, update
from backup.postgres import backups as postgres
from backup.postgres import locales, repository, session
from backup.redis import backups as redis


def everything(config: Config) -> list[Manifest]:
    """Every artifact with a manifest, oldest first."""
    kinds = ("postgres", "redis")
    found = [m for kind in kinds for m in all_of(config.artifacts(kind))]
    return sorted(found, key=lambda manifest: (manifest.stamp, manifest.name))


def show(config: Config) -> None:
    """Prints a table of all backups on standard output."""
    rows = [("STAMP", "KIND", "OF", "SIZE", "VERIFIED", "COPIES", "NAME")]
    rows += [
        (
            manifest.stamp,
            manifest.kind,
            manifest.of or "-",
            size(manifest.bytes),
            ", ".join(check.what for check in manifest.verified) or "no",
            ", ".join(manifest.copies) or "local",
            manifest.name,
        )
        for manifest in everything(config)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def size(count: int) -> str:
    """Bytes, as people read them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def status(config: Config) -> None:
    """Prints the newest backup of each kind, what became of the jobs, and what is wrong.

    Raises:
        Failed: the last run of a job failed, something is overdue, or what is backed up is not
            what the backups are of.
    """
    found = everything(config)
    newest = {(m.kind, m.of): m for m in found if m.kind != "globals"}
    for (kind, of), manifest in sorted(newest.items()):
        print(f"{kind:12} {of:20} {manifest.ended}  {size(manifest.bytes)}  {manifest.name}")
    for check in outcome.CHECKS:
        print(f"{check:12} {_told(outcome.last(config, check))}")
    for words in lacking(config, found):
        print(words)
    _require_well(config, found)


def brief(config: Config) -> None:
    """Prints one line: how old the newest backup of each kind is, and what there is none of.

    Raises:
        Failed: as for `status`.
    """
    found = everything(config)
    _require_well(config, found)
    youngest = newest(config, found)
    oldest: dict[str, Manifest] = {}
    for manifest in youngest.values():
        other = oldest.get(manifest.kind, manifest)
        oldest[manifest.kind] = min(manifest, other, key=lambda each: each.ended)
    ages = [f"{kind} {_age(manifest)}" for kind, manifest in sorted(oldest.items())]
    said = "newest: " + ", ".join(ages) if ages else "none yet, and none is due"
    print("; ".join([said, *lacking(config, found)] if ages else [said, *_silent(config)]))


def newest(config: Config, manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """The newest backup of each kind of everything that the settings have."""
    expected = {(kind, of) for _, kind, of in alert.expected(config)}
    return {(m.kind, m.of): m for m in manifests if (m.kind, m.of) in expected}


def lacking(config: Config, manifests: list[Manifest]) -> list[str]:
    """What has no backup yet though none is overdue, and whether no one would be told."""
    present = newest(config, manifests)
    missing = [
        f"no {kind} backup of {of} yet"
        for _, kind, of in alert.expected(config)
        if (kind, of) not in present and kind != "incremental"
    ]
    return [*missing, *_silent(config)]


def _silent(config: Config) -> list[str]:
    if config.alerts.mail and not channels.SENDMAIL.exists():
        return [f"alerts cannot be mailed: {channels.SENDMAIL} is missing; install a mail server"]
    is_told = channels.of(config) or config.alerts.heartbeat or config.alerts.elsewhere
    return [] if is_told else ["no alert channel is set (backup_alert_webhook)"]


def problems(config: Config, manifests: list[Manifest]) -> list[str]:
    """Why the backups are not as they should be; what is overdue comes last."""
    wrong = outcome.failures(config)
    try:
        # What the last drill failed of is said once.
        told = " ".join(wrong)
        wrong += [each for each in _of_others(config, manifests) if each not in told]
    except Failed as failure:
        wrong.append(str(failure))
    return wrong


def _of_others(config: Config, manifests: list[Manifest]) -> list[str]:
    """What there is and the backups are not of; who does not answer has a row of its own.

    Raises:
        Failed: the repository cannot be read or is not well.
    """
    wrong = []
    if config.postgres is not None:
        cluster, labels = repository.known(config)
        with contextlib.suppress(session.Unreachable):
            wrong.append(recovery.stranger(config, cluster))
            wrong += locales.lacking(config, config.postgres)
        fulls = [m for m in manifests if m.kind == "full"]
        if fulls and fulls[-1].facts["label"] not in labels:
            wrong.append(
                f"{fulls[-1].name}: its physical backup {fulls[-1].facts['label']} is not in the "
                f"repository of {config.stack}: take one with postgres-backup.sh full"
            )
    snapshots = [m for m in manifests if m.kind == "redis"]
    if config.redis is not None and snapshots:
        with contextlib.suppress(Failed):
            wrong.append(redis.emptied(config, snapshots[-1]))
    return [each for each in wrong if each]


def overdue(config: Config, manifests: list[Manifest]) -> list[alert.Overdue]:
    """What should have happened by its schedule and has not: backups, verifying, drills."""
    now = datetime.now(UTC)
    watched = alert.watched(config, now)
    found = alert.overdue(config, manifests, now, watched)
    first = min(watched.values(), default=now)
    return found + [late for check in outcome.CHECKS if (late := _late(config, check, now, first))]


def _late(config: Config, check: str, now: datetime, first: datetime) -> alert.Overdue | None:
    schedule, result = config.schedules.get(check), outcome.last(config, check)
    last = datetime.fromisoformat(result["started"]) if result else first
    # One that takes long is not late while it runs.
    took = datetime.fromisoformat(result["ended"]) - last if result else timedelta()
    if not schedule or now - last <= alert.allowed_age(schedule, now - 2 * took) + 2 * took:
        return None
    when = f"last ran at {last:%Y-%m-%d %H:%M} UTC" if result else "has never run"
    return alert.Overdue(f"overdue: {check}", f"backup.sh {check} {when}; it is due '{schedule}'")


def _require_well(config: Config, manifests: list[Manifest]) -> None:
    if not CRONTAB.exists():
        raise Failed(f"{CRONTAB} is missing: nothing runs by itself; deploy again")
    if wrong := [*problems(config, manifests), *map(str, overdue(config, manifests))]:
        raise Failed("; ".join(wrong))


def _age(manifest: Manifest) -> str:
    minutes = (datetime.now(UTC) - datetime.fromisoformat(manifest.ended)).total_seconds() / 60
    return f"{minutes:.0f} min ago" if minutes < 100 else f"{minutes / 60:.0f} h ago"


def _told(result: dict[str, Any] | None) -> str:
    if result is None:
        return "never"
    times = [
        f"{kind} restored in {result[kind]['rto']} s, {result[kind]['rpo']} s old"
        for kind in ("postgres", "redis")
        if kind in result
    ]
    told = [result["outcome"], result.get("why", ""), *times]
    return f"{'':20} {result['started']}  {', '.join(filter(None, told))}"


def verify(config: Config, log: Log) -> None:
    """Checks every artifact; each that passes says so in its manifest.

    Raises:
        Failed: at the end, with everything that failed.
    """
    with outcome.recorded(config, "verify"):
        _verify(config, log)


def _unreadable(config: Config) -> list[str]:
    """What is wrong with manifests that hide the backups that they belong to."""
    bad = []
    for kind in ("postgres", "redis"):
        for path in config.artifacts(kind).glob(f"[!.]*{SUFFIX}"):
            try:
                Manifest.read(path)
            except Failed as failure:
                bad.append(str(failure))
    return bad


def _verified(manifest: Manifest) -> Manifest:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return manifest.with_verification("checksum and content", when)


def _verify(config: Config, log: Log) -> None:
    bad = _unreadable(config)
    for manifest in everything(config):
        directory = retention.directory_of(config, manifest)
        try:
            (redis if manifest.kind == "redis" else postgres).verify(config, manifest)
            if manifest.kind == "full":
                postgres.verify_chain(config, manifest)
            update(directory, manifest.name, _verified)
        except (Failed, OSError) as failure:
            # Clean-up may have removed it meanwhile.
            if manifest.beside(directory).exists():
                log.line(f"FAILED: {failure}")
                bad.append(str(failure))
    if config.postgres is not None:
        try:
            repository.verify(config)
        except (Failed, OSError) as failure:
            bad.append(str(failure))
    if bad:
        raise Failed(f"{len(bad)} of the checks failed: {'; '.join(bad)}")
    log.line(f"verified {len(everything(config))} artifacts and the repository")
