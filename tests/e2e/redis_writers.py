"""Clients of Redis that ask Sentinel who leads, write all the time, and remember what they wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from redis import Redis, RedisError
from redis.sentinel import Sentinel

from tests.e2e.proof import MASTER_NAME


@dataclass
class Writer:
    """One client; its connection stays open for as long as the server lets it."""

    name: str
    client: Redis
    acknowledged: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def write(self, ended: threading.Event) -> None:
        """Writes one key after the other; a key whose write failed is written again."""
        while not ended.is_set():
            try:
                self.client.set(f"{self.name}:{len(self.acknowledged)}", "written")
            except RedisError as error:
                text = str(error)[:60]
                self.errors[text] = self.errors.get(text, 0) + 1
                time.sleep(0.01)
            else:
                self.acknowledged.append(time.monotonic())
            time.sleep(0.002)

    @property
    def longest_gap(self) -> float:
        """The longest time between two acknowledged writes, in seconds."""
        times = self.acknowledged
        return max(after - before for before, after in zip(times, times[1:], strict=False))


class Writers:
    """Several of them, for the time of a block."""

    def __init__(self, sentinels: Sequence[tuple[str, int]], password: str, count: int = 4) -> None:
        options = {"password": password, "socket_timeout": 60, "socket_connect_timeout": 1}
        self.sentinel = Sentinel(
            list(sentinels), sentinel_kwargs={"password": password, "socket_timeout": 1}
        )
        self.writers = [
            Writer(f"w{time.time_ns()}", self.sentinel.master_for(MASTER_NAME, **options))
            for _ in range(count)
        ]
        self.ended = threading.Event()
        self.threads = [
            threading.Thread(target=writer.write, args=(self.ended,)) for writer in self.writers
        ]

    def __enter__(self) -> Self:
        """Begins to write."""
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends when every write has its answer."""
        self.ended.set()
        for thread in self.threads:
            thread.join()

    @property
    def count(self) -> int:
        """How many writes have been acknowledged."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    @property
    def longest_gap(self) -> float:
        """The longest time for which one of them wrote nothing, in seconds."""
        return max(writer.longest_gap for writer in self.writers)

    def lost(self) -> list[str]:
        """Keys that were acknowledged and that the master of now does not have."""
        master = self.sentinel.master_for(
            MASTER_NAME, **self.writers[0].client.connection_pool.connection_kwargs
        )
        keys = [f"{w.name}:{i}" for w in self.writers for i in range(len(w.acknowledged))]
        found = [
            value for i in range(0, len(keys), 1000) for value in master.mget(keys[i : i + 1000])
        ]
        return [key for key, value in zip(keys, found, strict=True) if value is None]
