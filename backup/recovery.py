"""A host that takes over from a lost one: the old backups come back, or new ones begin."""

from __future__ import annotations

import os
import pwd
import stat
from datetime import UTC, datetime
from pathlib import Path

from backup.config import Config
from backup.job import Failed, Log, locked, run, stamp
from backup.moment import moment_of
from backup.passphrase import kept_closed, set_closed_aside
from backup.postgres import backups as postgres
from backup.postgres import repository
from backup.store.bucket import REPOSITORY, Bucket, bucket_of
from backup.store.fetch import Offered, fetch, offered
from backup.store.layout import Item, labels_of, repository_of
from backup.store.signed import Entry, Signed
from backup.store.state import State, remembered

_SERVER = "pgbackrest.service"
# As long as the health check gives each; it waits for this one too.
_SECONDS = 5
_SYSTEMD = Path("/run/systemd/system")


def fetch_all(
    config: Config, log: Log, *, unsigned: bool = False, older: bool = False, as_of: str = ""
) -> None:
    """Brings everything in the bucket back to where this host's own backups would be.

    The empty repository that the deployment made is moved aside. An interrupted run goes on
    where it was.

    Args:
        unsigned: believes the bucket, where no list of it is signed with this estate's key.
        older: takes a bucket that was set back to an earlier list of this estate's.
        as_of: takes what the bucket was at that moment, where it keeps versions.

    Raises:
        Failed: this host has physical backups that the bucket lacks, or something was damaged.
    """
    with locked("mirror"):
        bucket = bucket_of(config, log, moment_of(as_of) if as_of else None)
        newest = "" if older or as_of else State.of(config).signed.written
        offer = offered(bucket, log, unsigned=unsigned, newest=newest)
        offer = _without(offer, kept_closed(config), log)
        _make_way(config, bucket, offer, log)
        if unsigned or as_of:
            # From here on what is here counts, and the next copy signs it.
            with remembered(config) as state:
                state.signed.written = datetime.now(UTC).isoformat()
        # Root writes there: meanwhile no other user may put a link into its way.
        give(config.directory / REPOSITORY, "root")
        try:
            fetch(config, config.directory, log, offer)
            with locked("redis"):
                closed = set_closed_aside(config)
        finally:
            give(config.directory / REPOSITORY, repository.USER)
    if closed:
        give(closed / REPOSITORY, repository.USER)
        log.line(
            f"what the present passphrase does not open is set aside in {closed}: keep it with the "
            "passphrase of that time, or remove it"
        )
    if _is_elsewhere(config):
        log.line(
            "everything is back, in the repository of a passphrase that was rotated: deploy again, "
            "which finds it"
        )
        return
    _let_in(config)
    log.line(
        "everything is back; next: restore-cluster.sh --yes on PostgreSQL's host, and here "
        f"restore-redis.sh {config.artifacts('redis')}/redis_LATEST.rdb.gz (list: backup.sh list)"
    )


def _is_elsewhere(config: Config) -> bool:
    """Whether a repository of before the host was lost is not yet in its configuration."""
    known = {name for _, name in config.repositories}
    found = config.repository.glob("[12]-*/archive")
    return any(path.parent.name not in known for path in found)


def _let_in(config: Config) -> None:
    """pgBackRest's server can write to what was there when it started."""
    is_far = config.postgres is not None and not config.postgres.local
    for number, name in config.repositories if is_far else ():
        wal = f"archive/{config.stack}/{repository.archive_id(config, number)}"
        place = config.repository / name / wal
        run(["mkdir", "-p", "-m", "750", str(place)], user=repository.USER)
    if is_far and _SYSTEMD.is_dir():
        run(["systemctl", "restart", _SERVER])


def _without(offer: Offered, kept: set[str], log: Log) -> Offered:
    listed = {key: found for key, found in offer.listed.items() if key not in kept}
    if known := len(offer.listed) - len(listed):
        log.line(f"S3: {known} files were set aside before, and are not fetched again")
    return offer._replace(listed=listed)


def _make_way(config: Config, bucket: Bucket, offer: Offered, log: Log) -> None:
    listed, signed, *_ = offer
    root = config.directory / REPOSITORY
    here = repository_of(config)
    if own := labels_of(here.keys()) - labels_of(listed):
        raise Failed(
            f"{root} holds {len(own)} physical backups that the bucket does not, such as "
            f"{sorted(own)[0]}: move {root} away yourself if the bucket's are to replace them"
        )
    foreign = here.keys() - listed.keys()
    # WAL that was archived since the last copy is beside the bucket's, and stays.
    if (here.infos or not foreign) and all(
        item.key in listed and _is_the_same(item, bucket, signed) for item in here.infos
    ):
        return
    if labels_of(here.keys()):
        raise Failed(
            f"{root} is not what the bucket holds, but has backups in common with it: "
            f"move {root} away yourself if the bucket's are to replace them"
        )
    aside = root.with_name(f"{REPOSITORY}.before_{stamp()}")
    root.rename(aside)
    log.line(f"the repository that was here holds no backup; it is kept as {aside}")


def _is_the_same(item: Item, bucket: Bucket, signed: Signed | None) -> bool:
    if signed:
        return Entry(item.size(), item.digest()) in signed.names(item.key)
    return bucket.sha256(item.key) == item.digest()


def give(root: Path, user: str) -> None:
    """Gives the repository to a user; no link is followed, and none is left in it.

    pgBackRest makes the links that it needs again.

    Args:
        root: its directory, made if it is missing.
    """
    root.mkdir(exist_ok=True)
    owner = pwd.getpwnam(user)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _hand_over(directory, owner.pw_uid, owner.pw_gid)
    finally:
        os.close(directory)


def _hand_over(directory: int, uid: int, gid: int) -> None:
    """A directory is root's while what is in it changes hands: it is taken first or given last."""
    if not uid:
        os.fchown(directory, uid, gid)
    for name in [entry.name for entry in os.scandir(directory)]:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        if not is_directory and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            os.unlink(name, dir_fd=directory)
            continue
        item = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            if is_directory:
                _hand_over(item, uid, gid)
            else:
                os.fchown(item, uid, gid)
                os.fchmod(item, 0o640)
        finally:
            os.close(item)
    os.fchmod(directory, 0o750)
    if uid:
        os.fchown(directory, uid, gid)


def require_known_cluster(config: Config) -> None:
    """Asserts that the server is the one whose backups are in the repository.

    A new cluster archives nothing there, but the old one's WAL has the names that its own
    would have: what waits for them would find them.

    Raises:
        Failed: it is another one; the message names both ways out.
    """
    if why := stranger(config, repository.system_identifier(config)):
        raise Failed(why)


def stranger(config: Config, known: str) -> str:
    """What is wrong if the server is not the cluster that the repository is of.

    Raises:
        Failed: the server does not answer.
    """
    server = postgres.server(config)
    with postgres.connect(server, "postgres", seconds=_SECONDS) as connection:
        row = connection.execute(
            "SELECT system_identifier::text FROM pg_control_system()"
        ).fetchone()
    live = row[0] if row else ""
    if live == known:
        return ""
    return (
        f"this is a new cluster ({live}), and the repository is of another ({known}): "
        "bring that one back with restore-cluster.sh on PostgreSQL's host, "
        "or start over with backup.sh adopt"
    )


def _require_room(config: Config) -> None:
    """Asserts that pgBackRest's server may write the WAL of one more cluster: its unit lists them.

    Raises:
        Failed: it may not, and archiving would stop.
    """
    if config.postgres is None or config.postgres.local or not _SYSTEMD.is_dir():
        return
    if not stranger(config, repository.system_identifier(config)):
        return
    show = ["systemctl", "show", "--property=ReadWritePaths", "--value", _SERVER]
    places = [path.lstrip("-") for path in run(show).split()]
    for number, name in config.repositories:
        last = int(repository.archive_id(config, number).rpartition("-")[2])
        own = f"{config.repository / name / 'archive' / config.stack}/"
        known = [int(path.rpartition("-")[2]) for path in places if path.startswith(own)]
        if known and last >= max(known):
            raise Failed(
                f"{config.repository / name} has had {last} clusters, and the unit of "
                f"{_SERVER} lets PostgreSQL's host write to no more: move {config.repository} "
                "away, which keeps its backups, and deploy"
            )


def adopt(config: Config, log: Log) -> None:
    """Starts over: from now on the repository is of the cluster that runs; old backups stay.

    Raises:
        Failed: pgBackRest or the unit of its server refuses, or the full backup failed.
    """
    _require_room(config)
    with log.step("stanza for the new cluster"):
        repository.pgbackrest(config, "stanza-upgrade")
        _let_in(config)
    postgres.full(config, log)
