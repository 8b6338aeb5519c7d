"""The `health_*` keys: from which number on a row of the health check is a warning, or critical."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from tasks.core.settings import Settings, wrong

Number = Annotated[int, Field(ge=0, le=1_000_000)]
Percent = Annotated[int, Field(ge=0, le=100)]


class HealthSettings(Settings):
    """The `health_*` keys; 0 is never. See [health.md](health.md)."""

    prefix: ClassVar[str] = "health_"

    disk_warn: Percent = 85
    """Percent of a disk, or of its inodes, that are used. Change: live."""
    disk_crit: Percent = 95
    """As above. Change: live."""
    connections_warn: Percent = 80
    """Percent of PostgreSQL's connections that are used. Change: live."""
    connections_crit: Percent = 95
    """As above. Change: live."""
    transaction_ids_warn: Number = 500
    """Age of the oldest transaction in a database, in millions; PostgreSQL stops at 2,100.
    Change: live."""
    transaction_ids_crit: Number = 1200
    """As above. Change: live."""
    archive_queue_warn: Number = 5
    """Minutes that a WAL segment waits to be archived. Change: live."""
    archive_queue_crit: Number = 15
    """As above. Change: live."""
    slots_warn: Number = 1024
    """MB of WAL that a replication slot keeps; one that is lost is critical. Change: live."""
    slots_crit: Number = 0
    """As above. Change: live."""
    idle_in_transaction_warn: Number = 60
    """Seconds that a session is idle in a transaction. Change: live."""
    idle_in_transaction_crit: Number = 600
    """As above. Change: live."""
    transaction_warn: Number = 5
    """Minutes of a transaction, running or prepared. Change: live."""
    transaction_crit: Number = 60
    """As above. Change: live."""
    lock_wait_warn: Number = 5
    """Seconds that a session waits for a lock. Change: live."""
    lock_wait_crit: Number = 60
    """As above. Change: live."""
    sequences_warn: Percent = 85
    """Percent of a sequence's numbers that are used. Change: live."""
    sequences_crit: Percent = 95
    """As above. Change: live."""
    pool_wait_warn: Number = 1
    """Seconds that a client waits for a connection of PgBouncer. Change: live."""
    pool_wait_crit: Number = 10
    """As above. Change: live."""
    redis_memory_warn: Percent = 75
    """Percent of `redis_maxmemory` that are used, where nothing is evicted. Change: live."""
    redis_memory_crit: Percent = 90
    """As above. Change: live."""
    clock_warn: Number = 1
    """Seconds between the clocks of another host and the backup host. Change: live."""
    clock_crit: Number = 5
    """As above. Change: live."""
    memory_warn: Percent = 90
    """Percent of a host's memory that are not available; with `monitoring_enabled`. Change:
    live."""
    memory_crit: Percent = 97
    """As above. Change: live."""

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """Warning and critical by what is measured."""
        names = {name.rpartition("_")[0] for name in type(self).model_fields}
        return {
            name: (getattr(self, f"{name}_warn"), getattr(self, f"{name}_crit"))
            for name in sorted(names)
        }

    @field_validator("*")
    @classmethod
    def _in_order(cls, critical: int, info: ValidationInfo) -> int:
        name = str(info.field_name).removesuffix("_crit")
        if critical and critical <= info.data.get(f"{name}_warn", 0):
            raise wrong(f"should be more than health_{name}_warn, or 0 for never")
        return critical
