"""Copies off the host: everything that restores is mirrored to a bucket, and fetched from it."""

from __future__ import annotations

from backup import alert, outcome
from backup.config import Config
from backup.job import Busy, Log, locked
from backup.store.bucket import Away
from backup.store.fetch import fetch, offered
from backup.store.mirror import mirror
from backup.store.prune import prune

__all__ = ["Away", "fetch", "mirror", "mirror_if_any", "offered", "prune"]

EVENT = "copy to S3"


def mirror_if_any(config: Config, log: Log) -> bool:
    """Mirrors if there is a bucket and no other run is at it; tells when it cannot.

    A local backup is none the worse for it: the next run copies what this one could not.

    Returns:
        Whether the bucket now has everything.
    """
    if config.s3 is None:
        return False
    started = outcome.now()
    try:
        with locked("mirror"), log.step(EVENT):
            mirror(config, log)
    except Busy:
        log.line("another run is copying to S3; the next one copies what this one made")
        return False
    except Exception as failure:
        outcome.note(config, EVENT, started, str(failure) or type(failure).__name__)
        alert.failed(config, EVENT, f"{failure}; the backups are on this host only", log)
        return False
    outcome.note(config, EVENT, started)
    alert.recovered(config, EVENT)
    return True
