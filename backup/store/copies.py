"""Copies off the host: everything that restores is mirrored to a bucket, and fetched from it."""

from __future__ import annotations

from backup import alert, outcome
from backup.config import Config
from backup.job import Busy, Log, locked
from backup.store.bucket import Away
from backup.store.fetch import fetch, offered
from backup.store.mirror import mirror
from backup.store.prune import prune

__all__ = ["Away", "fetch", "mirror", "mirror_all", "offered", "prune"]


def mirror_all(config: Config, log: Log) -> list[Config]:
    """Mirrors to each bucket that no other run is copying to; tells of those where it cannot.

    A local backup is none the worse for it: the next run copies what this one could not.

    Returns:
        The configuration as each bucket has it that now has everything.
    """
    return [each for each in config.stores if _mirrored(each, log, is_only=not config.s3_further)]


def _mirrored(config: Config, log: Log, *, is_only: bool) -> bool:
    event, started = outcome.copying(config), outcome.now()
    try:
        with locked("mirror"), log.step(event):
            mirror(config, log)
    except Busy:
        log.line("another run is copying to S3; the next one copies what this one made")
        return False
    except Exception as failure:
        means = "the backups are on this host only" if is_only else "this bucket lacks new backups"
        outcome.note(config, event, started, str(failure) or type(failure).__name__)
        alert.failed(config, event, f"{failure}; {means}", log)
        return False
    outcome.note(config, event, started)
    alert.recovered(config, event)
    return True
