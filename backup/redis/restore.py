"""Restoring Redis over replication: the master follows a scratch server that has the backup."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from backup.config import Config, Endpoint, Redis
from backup.job import Busy, Failed, Log
from backup.manifest import Manifest, durably
from backup.redis import rdb, roles, scratch
from backup.redis.roles import Node, same, until
from backup.redis.scratch import Scratch

_STATE = ".restore.json"
_LOCK = ".restore.lock"

# While the master follows the scratch server the Sentinels see a master that says replica; they
# would replace it after down-after plus two INFO intervals of 10 s.
AWAY_MILLISECONDS = 3_600_000
START_SECONDS = 30
TRANSFER_SECONDS = 3000
LINK_SECONDS = 30
AGAIN_SECONDS = 600
SILENT_SECONDS = 60
REPORT_SECONDS = 60
LEVEL_SECONDS = 1800

Stop = Callable[[], None]


@dataclass(frozen=True)
class _State:
    """What has to be undone; written before anything is changed."""

    master: Endpoint
    scratch: Endpoint
    down_after: dict[Endpoint, int]

    def write(self, path: Path) -> None:
        rows = [[*place, value] for place, value in self.down_after.items()]
        content = {"master": self.master, "scratch": self.scratch, "down_after": rows}
        durably(path, json.dumps(content).encode())

    @classmethod
    def read(cls, path: Path) -> _State:
        raw = json.loads(path.read_bytes())
        values = {Endpoint(host, port): value for host, port, value in raw["down_after"]}
        return cls(Endpoint(*raw["master"]), Endpoint(*raw["scratch"]), values)


def restore(config: Config, path: Path, log: Log, *, address: str = "", port: int = 0) -> Manifest:
    """Puts the data of a snapshot in place of the live data; clients stay connected.

    Nothing is touched before the snapshot has passed every check and is loaded here. Ended in
    between, by a signal or kill -9, the master has the old data or the new, whole; `repair`, and
    with it the next restore, makes it a master again and gives the Sentinels their settings back.

    Args:
        path: the artifact, or a LATEST link; it lies in the directory of artifacts.
        address: how the master reaches this host; found out where it is not given.
        port: what the scratch server listens on meanwhile; any free one where it is not given.

    Raises:
        Failed: the message says which check or step; the data are the old ones unless it says so.
        Busy: another restore is running.
    """
    redis = configured(config)
    with _exclusive(config), _deferred_signals() as stop, rdb.workplace(config) as work:
        # A Sentinel that is gone for good must not stand in the way of a restore.
        with contextlib.suppress(Failed):
            _undo(config, redis, log)
        with log.step(f"validation of {path}"):
            manifest = rdb.find(config, path)
            found = rdb.validate(config, manifest, work / rdb.DUMP)
        stop()
        with log.step("the master"):
            _await_start(redis)
            leader = _leader(redis)
            databases = _require_fit(redis, leader, manifest, found)
        followers = _followers(redis, leader.endpoint)
        host = address or scratch.address_towards(leader.endpoint)
        place = Endpoint(host, scratch.free_port(host, port))
        settings = {"databases": str(databases), **scratch.replicating(redis)}
        with scratch.running(work, redis, place, settings) as server:
            _require_loaded(server, found, leader)
            stop()
            keys = _replace(config, leader, found, server, log, stop)
        with log.step("replicas are level and the data on disk"):
            _level(redis, leader.endpoint, followers, stop)
    log.line(
        f"restored {manifest.name} to {leader.endpoint} and {len(followers)} replicas: {keys} of "
        f"its {found.keys} keys, {found.keys - keys} have expired since"
    )
    return manifest


def repair(config: Config, log: Log) -> bool:
    """Undoes what an interrupted restore left changed; says whether there was something to undo.

    Does nothing while a restore is running.

    Raises:
        Failed: something could not be undone; it is tried again next time.
    """
    redis = configured(config)
    try:
        with _exclusive(config):
            return _undo(config, redis, log)
    except Busy:
        return False


def configured(config: Config) -> Redis:
    """The Redis of the estate.

    Raises:
        Failed: there is none.
    """
    if config.redis is None:
        raise Failed("there is no Redis in this estate")
    return config.redis


# --- Before --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _exclusive(config: Config) -> Iterator[None]:
    directory = config.artifacts("redis")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another restore of Redis is running; this one does nothing") from None
        yield


@contextlib.contextmanager
def _deferred_signals() -> Iterator[Stop]:
    """Holds signals back; what it yields raises, at a moment that suits, if one has arrived."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    def stop() -> None:
        if arrived:
            raise Failed(f"stopped by {signal.Signals(arrived[0]).name}")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_start(redis: Redis) -> None:
    """Gives instances that were just started the time to load; who is what is asked later."""
    end = time.monotonic() + START_SECONDS
    while not any(node.healthy for node in roles.nodes(redis)) and time.monotonic() < end:
        time.sleep(1)


def _leader(redis: Redis) -> Node:
    place = roles.master(redis)
    found = roles.node(place, redis.login)
    if found is None or found.role != "master" or not found.healthy:
        raise Failed(f"the master {place} is not ready")
    return found


def _followers(redis: Redis, leader: Endpoint) -> list[Endpoint]:
    """The replicas that are well now, and so have to be again."""
    return [n.endpoint for n in roles.nodes(redis) if n.healthy and same(n.follows, leader)]


def _require_fit(redis: Redis, leader: Node, manifest: Manifest, found: rdb.Rdb) -> int:
    """Refuses what the master could not load; returns how many databases it has."""
    tool = rdb.tool_version()
    for version in {found.written_by, str(manifest.facts.get("redis_version"))} - {""}:
        if rdb.short(version) > rdb.short(leader.version):
            raise Failed(f"{manifest.name} is of Redis {version}; the master has {leader.version}")
    # The scratch server sends its own format: the master, having dropped its data, could not load
    # that of a newer one.
    if rdb.short(tool) > rdb.short(leader.version):
        raise Failed(
            f"Redis {tool} of this host is newer than {leader.version} of {leader.endpoint}"
        )
    with roles.talking(leader.endpoint, redis.login) as client:
        settings = {
            key: str(client.config_get(key).get(key) or "")
            for key in ("masterauth", "masteruser", "databases")
        }
    if not _comes_as_ours(redis, settings["masteruser"], settings["masterauth"]):
        raise Failed(f"{leader.endpoint}: masterauth is not the password of this estate")
    if found.databases > int(settings["databases"]):
        raise Failed(f"{manifest.name} has more databases than {leader.endpoint}")
    return int(settings["databases"])


def _comes_as_ours(redis: Redis, user: str, password: str) -> bool:
    """Whether the master would be let in by the scratch server."""
    if not redis.replica_user:
        return not user and password == redis.password
    digest = hashlib.sha256(password.encode()).hexdigest()
    return (user, digest) == (redis.replica_user, redis.replica_password_sha256)


def _require_loaded(server: Scratch, found: rdb.Rdb, leader: Node) -> None:
    """What was loaded here is what the file holds, and fits into the master's memory."""
    loaded = roles.node_of(server.client, server.endpoint)
    _require_count(loaded.keys, found)
    if 0 < leader.maxmemory < loaded.used_memory:
        raise Failed(
            f"the data take {loaded.used_memory >> 20} MB, and maxmemory of {leader.endpoint} is "
            f"{leader.maxmemory >> 20} MB"
        )


def _require_count(keys: int, found: rdb.Rdb) -> None:
    """Keys with an expiry time may have expired since; of the others all are there."""
    if not found.keys - found.expires <= keys <= found.keys:
        raise Failed(
            f"{keys} keys were loaded, of {found.keys} of which {found.expires} may expire"
        )


# --- Replace -------------------------------------------------------------------------------------


def _replace(
    config: Config, leader: Node, found: rdb.Rdb, server: Scratch, log: Log, stop: Stop
) -> int:
    """Lets the master take over the scratch server's data; returns how many keys it then has."""
    redis, state = configured(config), config.artifacts("redis") / _STATE
    try:
        with log.step("Sentinels are told to wait"):
            _hold_sentinels(redis, leader.endpoint, server.endpoint, state)
        stop()
        with log.step(f"{leader.endpoint} takes the data over"):
            with roles.talking(leader.endpoint, redis.login) as client:
                roles.command(client, "REPLICAOF", *server.endpoint)
            keys = _taken_over(redis, leader.endpoint, server, stop)
            _require_count(keys, found)
    except BaseException as error:
        try:
            _undo(config, redis, log)
        except Failed as second:
            raise Failed(f"{error}; and then: {second}") from error
        raise
    _undo(config, redis, log)
    return keys


def _hold_sentinels(redis: Redis, leader: Endpoint, scratch: Endpoint, state: Path) -> None:
    watching = roles.monitors(redis)
    silent = len(redis.sentinels) - len(watching)
    if watching and silent >= min(each.quorum for each in watching):
        raise Failed(f"{silent} Sentinels do not answer and could replace the master meanwhile")
    for each in watching:
        if each.flags != "master" or not same(each.master, leader):
            raise Failed(f"Sentinel {each.endpoint}: {each.master} is {each.flags}")
    values = {each.endpoint: each.down_after for each in watching}
    if state.exists():
        # A Sentinel that was silent when an earlier restore ended still has that one's setting.
        older = _State.read(state).down_after
        values |= {p: v for p, v in older.items() if values.get(p, v) in (v, AWAY_MILLISECONDS)}
    _State(leader, scratch, values).write(state)
    for each in watching:
        roles.set_down_after(redis, each.endpoint, AWAY_MILLISECONDS)
    # One may have acted on what it saw before it was told to wait.
    if not same(roles.master(redis), leader):
        raise Failed(f"{leader} is no longer the master")


def _taken_over(redis: Redis, leader: Endpoint, server: Scratch, stop: Stop) -> int:
    linked = time.monotonic()

    def level() -> int | None:
        nonlocal linked
        stop()
        server.require_alive()
        sent = roles.node_of(server.client, server.endpoint)
        found = roles.node(leader, redis.login)
        if server.client.info("replication")["connected_slaves"]:
            linked = time.monotonic()
        elif time.monotonic() - linked > LINK_SECONDS:
            raise Failed(f"{leader} does not come to {server.endpoint}: can it be reached?")
        if found is None or not found.healthy or not same(found.follows, server.endpoint):
            return None
        return found.keys if found.offset >= sent.offset else None

    return until(level, TRANSFER_SECONDS, f"{leader} has the data of {server.endpoint}")


# --- Undo ----------------------------------------------------------------------------------------


def _undo(config: Config, redis: Redis, log: Log) -> bool:
    """Makes the master a master again and gives the Sentinels their settings back."""
    path = config.artifacts("redis") / _STATE
    if not path.exists():
        return False
    state = _State.read(path)
    with log.step(f"{state.master} is master again"):
        answers = _lead_again(redis, state)
    with log.step("Sentinels watch as before"):
        if answers:
            _await_reports(redis, state, log)
        ours = {p: v for p, v in state.down_after.items() if p in redis.sentinels}
        left = {p: v for p, v in ours.items() if not _put_back(redis, p, v)}
        if left:
            _State(state.master, state.scratch, left).write(path)
            names = ", ".join(f"{place} ({value})" for place, value in left.items())
            raise Failed(f"down-after-milliseconds still has to be put back on Sentinels {names}")
    path.unlink()
    return True


def _lead_again(redis: Redis, state: _State) -> bool:
    """Ends the replication from the scratch server; says whether the node answers."""
    seen = time.monotonic()

    def free() -> bool | None:
        nonlocal seen
        found = roles.node(state.master, redis.login)
        if found is None:
            return False if time.monotonic() - seen > SILENT_SECONDS else None
        seen = time.monotonic()
        if not same(found.follows, state.scratch):
            return True
        # It refuses while it loads what it has received.
        with contextlib.suppress(Failed), roles.talking(state.master, redis.login) as client:
            roles.command(client, "REPLICAOF", "NO", "ONE")
        return None

    return until(free, AGAIN_SECONDS, f"{state.master} is master again")


def _await_reports(redis: Redis, state: _State, log: Log) -> None:
    """Waits until no Sentinel would act on the role that it last saw."""

    def seen(place: Endpoint) -> bool | None:
        said = roles.monitor(redis, place)
        if said is None or not same(said.master, state.master):
            return True
        return (said.role_reported == "master" and said.flags == "master") or None

    for place in state.down_after:
        try:
            until(partial(seen, place), REPORT_SECONDS, f"Sentinel {place} sees a master")
        except Failed as error:
            log.line(f"{error}; its settings are put back nevertheless")


def _put_back(redis: Redis, sentinel: Endpoint, value: int) -> bool:
    """Puts one Sentinel's setting back, unless it has been set to another value meanwhile."""
    said = roles.monitor(redis, sentinel)
    if said is None:
        return False
    if said.down_after == AWAY_MILLISECONDS:
        roles.set_down_after(redis, sentinel, value)
    return True


# --- After ---------------------------------------------------------------------------------------


def _level(redis: Redis, leader: Endpoint, followers: list[Endpoint], stop: Stop) -> None:
    """Waits until every replica has what the master has, and a restart would not lose it.

    Raises:
        Failed: one does not get there; the master has the new data.
    """
    target = until(lambda: _durable(redis, leader), LEVEL_SECONDS, f"{leader} has written its AOF")

    def there(place: Endpoint) -> bool | None:
        stop()
        found = _durable(redis, place)
        if found is None or not found.healthy or not same(found.follows, leader):
            return None
        return found.offset >= target.offset or None

    for place in followers:
        message = f"restored on {leader}, but {place} is level with it"
        until(partial(there, place), LEVEL_SECONDS, message)


def _durable(redis: Redis, place: Endpoint) -> Node | None:
    found = roles.node(place, redis.login)
    return found if found is not None and found.durable else None
