"""Redis and Sentinel: who answers, what is kept, and whether a master could be replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis import exceptions

from backup.config import Config, Endpoint, Limits, Redis
from backup.health.row import Level, Row, measured
from backup.job import Failed
from backup.redis import roles
from backup.redis.restore import configured


def rows(config: Config, endpoint: Endpoint, name: str) -> Iterator[Row]:
    """The rows of an instance.

    Raises:
        Failed: it does not answer, or is a replica without a link.
    """
    login = configured(config).login
    info = roles.answer(endpoint, login, lambda client: client.info())
    if info is None:
        raise Failed("no answer")
    found = roles.told(info, endpoint)
    if not found.healthy:
        raise Failed(f"{found.role}, not in step with its master")
    follows = str(found.follows or "")
    of = f" of {follows}" if follows else ""
    yield Row(name, Level.OK, f"{found.role}{of}, {found.keys} keys", follows=follows)
    yield _memory(f"{name} memory", info, config.limits["redis_memory"])
    yield _kept(f"{name} disk", info)


def _memory(name: str, info: dict[str, Any], limits: Limits) -> Row:
    used, room = int(info["used_memory"]), int(info["maxmemory"])
    said = f"{used >> 20} MB of {room >> 20} MB"
    # A cache is meant to be full.
    if not room or info["maxmemory_policy"] != "noeviction":
        said = said if room else f"{used >> 20} MB, without a limit"
        return Row(name, Level.OK, said, value=used >> 20, unit="MB")
    return measured(name, 100 * used / room, said, limits, "%")


# What Redis says of its last write, and how bad it is if that is not "ok".
_WRITES = {
    "rdb_last_bgsave_status": Level.CRITICAL,
    "aof_last_write_status": Level.CRITICAL,
    "aof_last_bgrewrite_status": Level.WARNING,
}


def _kept(name: str, info: dict[str, Any]) -> Row:
    failed = {key: level for key, level in _WRITES.items() if info[key] != "ok"}
    said = ", ".join(f"{key}: {info[key]}" for key in failed)
    return Row(name, max(failed.values(), default=Level.OK), said or "the last writes succeeded")


def sentinel_rows(config: Config, endpoint: Endpoint, name: str) -> Iterator[Row]:
    """The rows of a Sentinel.

    Raises:
        Failed: it does not answer, watches nothing, or takes the master for down.
    """
    redis = configured(config)
    found = roles.monitor(redis, endpoint)
    if found is None:
        raise Failed("no answer, or no master")
    if "down" in found.flags:
        raise Failed(f"master {found.master} is {found.flags}")
    said = f"master {found.master}, {found.others} other Sentinels"
    yield Row(name, Level.OK, said, master=str(found.master))
    yield _quorum(redis, endpoint, f"{name} quorum")


def _quorum(redis: Redis, endpoint: Endpoint, name: str) -> Row:
    client = roles.connect(endpoint, redis.sentinel_login)
    try:
        said = roles.command(client, "SENTINEL", "CKQUORUM", redis.master_name)
        return Row(name, Level.OK, str(said))
    except exceptions.ResponseError as refused:
        return Row(name, Level.CRITICAL, str(refused))
    finally:
        client.close()


def agreement(rows: Sequence[Row]) -> Row:
    """Whether all Sentinels that have answered name the same master."""
    named = {row.master for row in rows if row.master}
    is_split = len(named) > 1
    said = f"they name {' and '.join(sorted(named))}" if is_split else f"{len(named)} master"
    return Row("redis-sentinel agreement", Level.CRITICAL if is_split else Level.OK, said)
