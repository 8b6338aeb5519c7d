"""Which backups stay and which go: decided from manifests alone, then carried out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from backup import outcome, record
from backup.config import Config
from backup.job import Failed, Log
from backup.manifest import Manifest, all_of, finish
from backup.outcome import distrust

# No job writes to a partial file for a day without changing it; seconds.
PARTIAL_AGE = 86_400

# What an interrupted clean-up leaves must restore: increments go before the full that they
# need, globals after the full that needs them.
_ORDER = ("incremental", "redis", "full", "globals")

_LABEL = re.compile(r"(\d{8}-\d{6}F)(_\d{8}-\d{6}[DI])?")


class Choice(NamedTuple):
    """One backup, and why it stays or goes."""

    manifest: Manifest
    why: str


@dataclass(frozen=True)
class Decision:
    """What stays and what goes, each oldest first.

    Attributes:
        newest: the newest verified full of each database and the newest verified snapshot:
            what the LATEST links point at.
    """

    keep: tuple[Choice, ...]
    delete: tuple[Choice, ...]
    newest: tuple[Manifest, ...]


@dataclass(frozen=True)
class _Known:
    """All manifests, what can be dated among them, and the moment before which they are old.

    Age counts from the newest verified backup, not from the clock: when backups stop, or the
    clock leaps ahead, nothing grows old.
    """

    everything: tuple[Manifest, ...]
    dated: tuple[Manifest, ...]
    verified: tuple[Manifest, ...]
    days: int
    min_full: int
    limit: str


_Reasons = dict[tuple[str, str], str]
_Rule = Callable[[_Known], Iterator[Choice]]


# --- Decide --------------------------------------------------------------------------------------


def decide(manifests: Iterable[Manifest], now: datetime, days: int, min_full: int) -> Decision:
    """Sorts backups into those that stay and those that go; nothing is touched.

    Args:
        manifests: all that are known; see `on_disk` for what is on the disk.
        now: with a time zone.
        days: backups that are younger stay.
        min_full: verified fulls per database (and verified snapshots) that stay however old
            they are; less than 1 counts as 1.
    """
    known = _sift(manifests, now, days, min_full)
    reasons: _Reasons = {}
    for rule in _RULES:
        for manifest, why in rule(known):
            reasons.setdefault(_id(manifest), why)
    _keep_needed(known, reasons)
    old = f"older than {days} days, and something newer is verified"
    return Decision(
        keep=tuple(Choice(m, reasons[_id(m)]) for m in known.everything if _id(m) in reasons),
        delete=tuple(Choice(m, old) for m in known.everything if _id(m) not in reasons),
        newest=tuple(group[-1] for group in _series(known)),
    )


def labels_to_keep(decision: Decision) -> frozenset[str]:
    """The labels of the physical backups that the kept ones are made of."""
    kept = [manifest for manifest, _ in decision.keep]
    own = {str(m.facts["label"]) for m in kept if m.facts.get("label")}
    bases = {name for m in kept for name in _references(m) if _LABEL.fullmatch(name)}
    return frozenset(own | bases)


def _sift(manifests: Iterable[Manifest], now: datetime, days: int, min_full: int) -> _Known:
    everything = tuple(sorted(manifests, key=lambda m: (m.stamp, m.name)))
    present = _stamp(now)
    dated = tuple(m for m in everything if _moment(m.stamp) and m.stamp <= present)
    verified = tuple(m for m in dated if m.verified)
    newest = _moment(verified[-1].stamp) if verified else None
    limit = _stamp(newest - timedelta(days=days)) if newest else ""
    return _Known(everything, dated, verified, days, max(1, min_full), limit)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%d_%H%M%S")


@cache
def _moment(stamp: str) -> datetime | None:
    if not re.fullmatch(r"\d{8}_\d{6}", stamp, re.ASCII):
        return None
    try:
        return datetime.strptime(stamp, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _id(manifest: Manifest) -> tuple[str, str]:
    return manifest.kind, manifest.name


def _undated(known: _Known) -> Iterator[Choice]:
    dated = {_id(m) for m in known.dated}
    for manifest in known.everything:
        if _id(manifest) not in dated:
            why = "in the future" if _moment(manifest.stamp) else "unreadable"
            yield Choice(manifest, f"its stamp is {why}: its age is not known")


def _young(known: _Known) -> Iterator[Choice]:
    for manifest in known.dated:
        if manifest.stamp >= known.limit:
            yield Choice(manifest, f"not older than {known.days} days")


def _enough(known: _Known) -> Iterator[Choice]:
    for group in _series(known):
        for manifest in group[-known.min_full :]:
            yield Choice(manifest, f"one of the newest {known.min_full} that are verified")


def _series(known: _Known) -> list[list[Manifest]]:
    """Verified fulls of each database and verified snapshots, each oldest first."""
    groups: dict[tuple[str, str], list[Manifest]] = {}
    for manifest in known.verified:
        if manifest.kind in ("full", "redis"):
            groups.setdefault((manifest.kind, manifest.of), []).append(manifest)
    return list(groups.values())


def _irreplaceable(known: _Known) -> Iterator[Choice]:
    """Without something newer that is verified even an unverified one is better than nothing."""
    newest = {(m.kind, m.of): m.stamp for m in known.verified}
    full = max((m.stamp for m in known.verified if m.kind == "full"), default="")
    for manifest in known.dated:
        replacement = newest.get((manifest.kind, manifest.of), "")
        if manifest.kind == "incremental":  # a full holds the whole cluster too
            replacement = max(replacement, full)
        if manifest.stamp >= replacement:
            yield Choice(manifest, "nothing newer is verified")


_RULES: tuple[_Rule, ...] = (_undated, _young, _enough, _irreplaceable)


def _keep_needed(known: _Known, reasons: _Reasons) -> None:
    """Adds whatever the kept ones need, and what that needs, to those that stay."""
    waiting = [m for m in known.everything if _id(m) in reasons]
    others = [m for m in known.everything if _id(m) not in reasons]
    while waiting and others:
        child = waiting.pop()
        for other in [m for m in others if _needs(child, m)]:
            reasons[_id(other)] = f"{child.name} needs it"
            others.remove(other)
            waiting.append(other)


def _needs(child: Manifest, other: Manifest) -> bool:
    if child.kind == "full":
        return other.kind == "globals" and other.stamp == child.stamp
    if child.kind != "incremental" or other.kind not in ("full", "incremental"):
        return False
    label = str(other.facts.get("label", ""))
    if other.kind == "full":
        return bool({other.stamp, label} & _references(child))
    # A restore point has no physical backup of its own: its label is its full's.
    if label == _full_of(label):
        return False
    return label in _references(child) or _builds_on(str(child.facts.get("label", "")), label)


def _references(manifest: Manifest) -> frozenset[str]:
    """What an incremental names as its base; a physical label begins with its full's label."""
    if manifest.kind != "incremental":
        return frozenset()
    parent = str(manifest.facts.get("parent", ""))
    label = str(manifest.facts.get("label", ""))
    return frozenset({parent, _full_of(parent), _full_of(label)} - {""})


def _full_of(label: str) -> str:
    match = _LABEL.fullmatch(label)
    return match[1] if match else ""


def _builds_on(label: str, earlier: str) -> bool:
    """Every physical increment of a full builds on the one before it."""
    return _full_of(label) == _full_of(earlier) != "" and earlier < label


# --- Carry out -----------------------------------------------------------------------------------


def clean_up(config: Config, log: Log, *, dry_run: bool) -> Decision:
    """Decides about what is on the disk, and carries it out or only lists it.

    Raises:
        Failed: at the end, when something could not be removed.
    """
    days, least = config.retention_days, config.retention_min_full
    decision = decide(on_disk(config), datetime.now(UTC), days, least)
    if decision.delete and (reason := distrust(config)):
        message = f"nothing is removed until verify and drill have passed: {reason}"
        if not dry_run:
            raise Failed(message)
        log.line(message)
    apply(config, decision, log, dry_run)
    return decision


def on_disk(config: Config) -> list[Manifest]:
    """The backups on the disk; one whose artifact is missing or cut counts as unverified."""
    found = [m for kind in ("postgres", "redis") for m in all_of(config.artifacts(kind))]
    return [m if intact(m, directory_of(config, m)) else replace(m, verified=()) for m in found]


def directory_of(config: Config, manifest: Manifest) -> Path:
    """Where a manifest and its artifact are."""
    return config.artifacts("redis" if manifest.kind == "redis" else "postgres")


def intact(manifest: Manifest, directory: Path) -> bool:
    """Whether the artifact is there with its size; an incremental has no file."""
    if not manifest.sha256:
        return True
    path = manifest.path(directory)
    return path.is_file() and not path.is_symlink() and path.stat().st_size == manifest.bytes


def in_order(choices: Sequence[Choice]) -> list[Manifest]:
    """What goes, in the order in which removing it may be interrupted."""
    return sorted((c.manifest for c in choices), key=lambda m: (_ORDER.index(m.kind), m.stamp))


def apply(config: Config, decision: Decision, log: Log, dry_run: bool) -> None:
    """Removes what goes; the artifact first, then its manifest.

    Interrupted in between, a manifest without artifact is left: it counts as unverified, and
    the next run removes it. The other way round a file would be left that looks like a backup
    and that no run would ever touch again.

    Raises:
        Failed: at the end, when something could not be removed; everything else was.
    """
    if dry_run:
        _show(decision, _partials(config))
        return
    _link_latest(config, decision)
    record.removal(config, [choice.manifest for choice in decision.delete], outcome.now())
    removals: list[tuple[str, Callable[[], None]]] = [
        (m.name, partial(_remove, m, directory_of(config, m))) for m in in_order(decision.delete)
    ]
    removals += [(path.name, path.unlink) for path in _partials(config)]
    failures = [failure for name, remove in removals if (failure := _try(name, remove, log))]
    log.line(
        f"removed {len(removals) - len(failures)} of {len(removals)}, kept {len(decision.keep)}"
    )
    if failures:
        raise Failed(f"{len(failures)} could not be removed: {'; '.join(failures)}")


def _try(name: str, remove: Callable[[], None], log: Log) -> str:
    try:
        remove()
    except OSError as error:
        return f"{name}: {error.strerror}"
    log.line(f"removed {name}")
    return ""


def _remove(manifest: Manifest, directory: Path) -> None:
    if manifest.sha256:
        manifest.path(directory).unlink(missing_ok=True)
        _sync(directory)
    manifest.beside(directory).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partials(config: Config) -> list[Path]:
    """Hidden `.partial` files of interrupted jobs that nothing has written to for a day."""
    directories = (config.directory, config.artifacts("postgres"), config.artifacts("redis"))
    limit = time.time() - PARTIAL_AGE
    return [
        path
        for directory in directories
        for path in sorted(directory.glob(".*.partial"))
        if not path.is_dir() and path.lstat().st_mtime < limit
    ]


def _show(decision: Decision, partials: Sequence[Path]) -> None:
    rows = [("keep", *choice) for choice in decision.keep]
    rows += [("delete", *choice) for choice in decision.delete]
    for verb, manifest, why in rows:
        size = f"{manifest.bytes / 1e6:.1f} MB"
        columns = f"{verb:6}  {manifest.kind:11}  {manifest.of or '-':16}  {size:>12}"
        print(f"{columns}  {manifest.name}  {why}")
    for path in partials:
        print(f"delete  {'partial':11}  {'':16}  {'':>12}  {path.name}  left by an interrupted job")


# --- LATEST --------------------------------------------------------------------------------------


def link_latest(directory: Path, newest: Iterable[Manifest]) -> None:
    """Points the LATEST links of a directory at the given artifacts, each at once.

    A file of that name that is not a link is not ours and stays.
    """
    for manifest in newest:
        link = directory / manifest.name.replace(manifest.stamp, "LATEST")
        if link.name == manifest.name or (link.exists() and not link.is_symlink()):
            continue
        # Encryption may have been switched; two links would leave open which is the newest.
        other = link.with_name(link.name.removesuffix(".gpg") + ".gpg" * (link.suffix != ".gpg"))
        if other.is_symlink():
            other.unlink()
        if link.is_symlink() and link.readlink() == Path(manifest.name):
            continue
        fresh = link.with_name(f".{link.name}.partial")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(manifest.name)
        finish(fresh, link)


def _link_latest(config: Config, decision: Decision) -> None:
    leaving: Mapping[Path, set[str]] = {
        config.artifacts("postgres"): set(),
        config.artifacts("redis"): set(),
    }
    for manifest, _ in decision.delete:
        leaving[directory_of(config, manifest)].add(manifest.name)
    for directory, names in leaving.items():
        link_latest(directory, (m for m in decision.newest if directory_of(config, m) == directory))
        for link in directory.glob("*_LATEST*"):
            if link.is_symlink() and (link.readlink().name in names or not link.exists()):
                link.unlink()
