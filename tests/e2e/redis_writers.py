"""Clients of Redis that write wherever Sentinel says, and one that looks at every instance."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from redis import Connection, ConnectionPool, Redis, RedisError, SSLConnection
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from tests.e2e.proof import MASTER_NAME

WRITERS = 4
# One of them writes every three milliseconds. More would take the processors from what they watch.
STEP_SECONDS = 0.01


class Background:
    """Threads that do something until the end of a block."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Begins."""
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends when every thread has its last answer."""
        self.ended.set()
        for thread in self.threads:
            thread.join()


@dataclass
class Writer:
    """One client; its connection stays open for as long as the server lets it."""

    name: str
    client: Redis
    acknowledged: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def write(self, ended: threading.Event) -> None:
        """Writes one key after the other; a key whose write failed is written again."""
        while not ended.wait(STEP_SECONDS):
            try:
                self.client.set(f"{self.name}:{len(self.acknowledged)}", "written")
            except RedisError as error:
                kind = type(error).__name__
                self.errors[kind] = self.errors.get(kind, 0) + 1
            else:
                self.acknowledged.append(time.monotonic())

    @property
    def keys(self) -> list[str]:
        """What it was told is written."""
        return [f"{self.name}:{number}" for number in range(len(self.acknowledged))]

    @property
    def longest_gap(self) -> float:
        """The longest time between two acknowledged writes, in seconds."""
        times = self.acknowledged
        return max(after - before for before, after in pairwise(times))


class Writers(Background):
    """Several clients that write at the same time."""

    def __init__(self, sentinels: Sequence[tuple[str, int]], password: str, **more: Any) -> None:
        super().__init__()
        options = {"password": password, "socket_timeout": 60, "socket_connect_timeout": 1, **more}
        asked = {"password": password, "socket_timeout": 1, "socket_connect_timeout": 1}
        self.sentinel = Sentinel(sentinels, sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]
        began = time.monotonic_ns()
        self.writers = [Writer(f"{began}-{n}", self.master()) for n in range(WRITERS)]
        self.threads = [
            threading.Thread(target=writer.write, args=(self.ended,)) for writer in self.writers
        ]

    def master(self) -> Redis:
        """A client that finds the master by itself."""
        return cast(Redis, self.sentinel.master_for(MASTER_NAME))  # type: ignore[no-untyped-call]

    @property
    def longest_gap(self) -> float:
        """The longest time for which one of them wrote nothing, in seconds."""
        return max(writer.longest_gap for writer in self.writers)

    @property
    def keys(self) -> list[str]:
        """What any of them was told is written."""
        return [key for writer in self.writers for key in writer.keys]

    @property
    def errors(self) -> list[dict[str, int]]:
        """What each of them was refused, if it was."""
        return [writer.errors for writer in self.writers if writer.errors]

    def lost(self) -> list[str]:
        """Keys that were acknowledged and that the current master does not have."""
        keys = self.keys
        with self.master() as client:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.exists(key)
            return [key for key, there in zip(keys, pipe.execute(), strict=True) if not there]


def _encrypted(authority: Path) -> type[Connection]:
    """Connections by TLS that trust this file alone.

    redis-py would read all authorities of this machine for each of them: 19 ms of a processor.
    """
    context = ssl.create_default_context(cafile=authority)

    class Encrypted(SSLConnection):
        def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
            return context.wrap_socket(sock, server_hostname=self.host)

    return Encrypted


class Either(Background):
    """Clients that know both ways, in clear and by TLS; one of two opens connections all the time.

    Args:
        places: instances' hosts, each with a Sentinel at `sentinel_port`.
        authority: the file that certificates are verified with; without it they know one way.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        sentinel_port: int,
        password: str,
        authority: Path | None = None,
    ) -> None:
        super().__init__()
        self.places = [(host, sentinel_port) for host in hosts]
        self.options: dict[str, Any] = {"password": password, "retry": Retry(NoBackoff(), 0)}
        self.ways = [Connection, *([_encrypted(authority)] if authority else ())]
        self.keys: list[str] = []
        self.errors: Counter[str] = Counter()
        self.ways_taken: list[bool] = []
        self.moments: list[float] = []
        self.threads = [
            threading.Thread(target=self._write, args=(n, 1_000_000 if n % 2 else 20))
            for n in range(WRITERS)
        ]

    def _connect(self, place: tuple[str, int], way: type[Connection], seconds: float) -> Redis:
        options = {"socket_timeout": seconds, "socket_connect_timeout": 1, **self.options}
        pool = ConnectionPool(connection_class=way, host=place[0], port=place[1], **options)
        client = Redis(connection_pool=pool, single_connection_client=True)
        client.auto_close_connection_pool = True
        return client

    def master(self) -> Redis | None:
        """A connection to the master that a Sentinel names, whichever way both speak."""
        for place in self.places:
            for way in self.ways:
                with suppress(RedisError):
                    with self._connect(place, way, 1) as sentinel:
                        named = sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)
                    found = self._leads((named[0], int(named[1])))
                    if found:
                        return found
        return None

    def _leads(self, place: tuple[str, int]) -> Redis | None:
        for way in self.ways:
            with suppress(RedisError):
                client = self._connect(place, way, 5)
                if client.info("replication")["role"] == "master":
                    self.ways_taken.append(way is not Connection)
                    return client
        return None

    def _write(self, number: int, often: int) -> None:
        began, client, count = time.monotonic_ns(), None, 0
        while not self.ended.wait(STEP_SECONDS):
            if client is None or count % often == 0:
                client = self.master()
            if client is None:
                continue
            key = f"{number}-{began}:{count}"
            try:
                client.set(key, "written")
            except RedisError as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
                client = None
            else:
                self.keys.append(key)
                self.moments.append(time.monotonic())
                count += 1

    def lost(self) -> list[str]:
        """Keys that were acknowledged and that the current master does not have."""
        client, keys = self.master(), [*self.keys]
        assert client is not None
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.exists(key)
        return [key for key, there in zip(keys, pipe.execute(), strict=True) if not there]


class Sight(NamedTuple):
    """What an instance said of itself: `run` is another one after every start."""

    name: str
    run: str
    role: str
    link: str


class Watch(Background):
    """Looks at every instance fifty times a second and keeps what changed, in its order."""

    def __init__(self, places: Mapping[str, tuple[str, int]], password: str) -> None:
        super().__init__()
        self.seen: list[Sight] = []
        for name, (ip, port) in places.items():
            client = Redis(ip, port, password=password, socket_timeout=1, socket_connect_timeout=1)
            self.threads.append(threading.Thread(target=self._watch, args=(name, client)))

    def _watch(self, name: str, client: Redis) -> None:
        last = None
        while not self.ended.wait(0.02):
            try:
                info = client.info("server", "replication")
            except RedisError:
                continue
            link = info.get("master_link_status", "-")
            sight = Sight(name, info["run_id"], info["role"], link)
            if sight != last:
                self.seen.append(sight)
            last = sight

    @property
    def restarts(self) -> list[Sight]:
        """What each instance was before it was restarted, in the order of these starts."""
        before: dict[str, Sight] = {}
        restarted = []
        for sight in self.seen:
            last = before.get(sight.name, sight)
            if sight.run != last.run:
                restarted.append(last)
            before[sight.name] = sight
        return restarted

    @property
    def alone(self) -> list[Sight]:
        """Those that were restarted while another replica had not found its master again."""
        now: dict[str, Sight] = {}
        alone = []
        for sight in self.seen:
            last = now.get(sight.name, sight)
            others = (other for other in now.values() if other.name != sight.name)
            if sight.run != last.run and any(other.link == "down" for other in others):
                alone.append(sight)
            now[sight.name] = sight
        return alone
