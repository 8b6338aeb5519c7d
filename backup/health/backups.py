"""The backups: whether they are as they should be, and as young."""

from __future__ import annotations

from collections.abc import Iterator

from backup import alert, catalogue
from backup.config import Config
from backup.health.row import Level, Row
from backup.job import Failed
from backup.postgres import scratch


def rows(config: Config) -> Iterator[Row]:
    """Their row.

    Raises:
        Failed: a job failed, a backup is overdue, or they are not of what there is.
    """
    if config.postgres is not None:
        scratch.sweep(config)
    manifests = catalogue.everything(config)
    overdue = catalogue.overdue(config, manifests)
    alert.reconcile(config, overdue)
    if found := [*catalogue.problems(config, manifests), *map(str, overdue)]:
        raise Failed("; ".join(found))
    well = "all backups are younger than their schedule allows"
    said = "; ".join([well, *catalogue.lacking(config, manifests)])
    yield Row("backup-service", Level.OK, said)
