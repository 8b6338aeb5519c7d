"""A passphrase that was replaced: whether it may go, and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from backup import crypt
from backup.config import Config, Place
from backup.job import Failed, locked, run, stamp
from backup.manifest import Manifest
from backup.postgres import repository
from backup.retention import directory_of, intact, on_disk

_DRILLED = "restored in a drill"
# A label begins with that of the full backup that it builds on, such as 20261122-140500F.
_FULL = 16


def unready(config: Config) -> str:
    """Why the passphrase of before may not go yet; empty when it may.

    Each newest backup has to open with the present one, and a drill has to have restored one that
    does.
    """
    if _is_going(config):
        return ""
    found = on_disk(config)
    for kind, of in _expected(config):
        own = [m for m in found if (m.kind, m.of) == (kind, of)]
        what = f"of {of}" if of != "redis" else "of Redis"
        if not own or not _is_of_present(config, own[-1]):
            return f"no backup {what} was made with the new passphrase yet: make one"
        drilled = [m for m in own if _DRILLED in {each.what for each in m.verified}]
        if not any(_is_of_present(config, each) for each in drilled):
            return f"{own[-1].name} was not restored by a drill yet: backup.sh drill"
    return ""


def _expected(config: Config) -> Iterator[tuple[str, str]]:
    yield from (("full", database) for database in config.databases)
    if config.redis is not None:
        yield "redis", "redis"


def _is_of_present(config: Config, manifest: Manifest) -> bool:
    path = manifest.path(directory_of(config, manifest))
    return intact(manifest, path.parent) and crypt.opens(config.encryption_passphrase, path)


def set_aside(config: Config) -> Path:
    """Moves what only the passphrase of before opens to a directory like `/backups`.

    Interrupted, it goes on.

    Returns:
        That directory.

    Raises:
        Failed: the present passphrase does not open enough, see `unready`.
    """
    if why := unready(config):
        raise Failed(why)
    place = config.directory / f"before_{config.repositories[0].name or stamp()}"
    with locked("postgres"), locked("redis"), locked("mirror"):
        if not _is_going(config):
            _move_artifacts(config, place)
        for each in _others(config):
            root = config.repository / each.name
            _move_repository(root, place / config.repository.name, user=repository.USER)
    return place


def set_closed_aside(config: Config) -> Path | None:
    """Moves what was fetched and no passphrase of this host opens, where the newest backup opens.

    With a wrong passphrase nothing opens, and nothing moves. Until it ends the repository is
    root's.

    Returns:
        A directory like `/backups`; None where nothing moved.
    """
    sealed = sorted((m for m in on_disk(config) if _is_sealed(m)), key=lambda each: each.stamp)
    closed = [each for each in sealed if not _is_open(config, each)]
    if not closed or sealed[-1] in closed:
        return None
    fulls = {_full_of(each) for each in closed if each.kind == "full"} - {""}
    place = config.directory / f"before_{stamp()}"
    # The repository's owner is to come through, whatever the umask is.
    place.mkdir()
    place.chmod(0o755)
    for root in (*config.repository.glob("[12]-*"), config.repository):
        if any((root / "backup" / config.stack / label).exists() for label in fulls):
            _move_repository(root, place / root.relative_to(config.directory))
    going = [*closed, *(each for each in on_disk(config) if _full_of(each) in fulls)]
    for manifest in going:
        _move(manifest, directory_of(config, manifest), place)
    return place


def kept_closed(config: Config) -> set[str]:
    """What was set aside where no passphrase of this host opens anything: its names in a bucket."""
    kept = set[str]()
    for place in config.directory.glob("before_*"):
        there = replace(config, directory=place)
        sealed = [each for each in on_disk(there) if _is_sealed(each)]
        if sealed and not any(_is_open(there, each) for each in sealed):
            kept |= {path.relative_to(place).as_posix() for path in place.rglob("*")}
    return kept


def _full_of(manifest: Manifest) -> str:
    return str(manifest.facts.get("label", ""))[:_FULL]


def _is_sealed(manifest: Manifest) -> bool:
    return manifest.name.endswith(".gpg")


def _is_open(config: Config, manifest: Manifest) -> bool:
    path = manifest.path(directory_of(config, manifest))
    known = filter(None, (config.encryption_passphrase, config.encryption_passphrase_previous))
    return any(crypt.opens(passphrase, path) for passphrase in known)


def _is_going(config: Config) -> bool:
    """Whether the repository of before is on its way already: then what was in it went first."""
    return any(not (config.repository / name / "backup").exists() for _, name in _others(config))


def _others(config: Config) -> tuple[Place, ...]:
    return config.repositories[1:]


def _move_artifacts(config: Config, place: Path) -> None:
    for manifest in on_disk(config):
        directory = directory_of(config, manifest)
        if _goes(config, manifest, directory):
            _move(manifest, directory, place)


def _move(manifest: Manifest, directory: Path, place: Path) -> None:
    target = place / directory.name
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in (manifest.path(directory), manifest.beside(directory)):
        if path.exists():
            path.rename(target / path.name)


def _goes(config: Config, manifest: Manifest, directory: Path) -> bool:
    """An increment goes with the physical backup that it builds on."""
    if not manifest.sha256:
        there = {b.label: b.repository for b in repository.backups(config)}
        return there.get(manifest.facts["label"]) != repository.present(config)
    path = manifest.path(directory)
    return not path.exists() or not crypt.opens(config.encryption_passphrase, path)


def _move_repository(root: Path, place: Path, user: str = "") -> None:
    """What is in the place is postgres's from then on.

    Args:
        user: who moves it: postgres where it is postgres's, who may have put a link in the way.
    """
    owner = ["-o", repository.USER, "-g", repository.USER]
    run(["install", "-d", "-m", "750", *owner, str(place)])
    for name in ("backup", "archive"):
        if (root / name).exists():
            run(["mv", "-T", str(root / name), str(place / name)], user=user)
