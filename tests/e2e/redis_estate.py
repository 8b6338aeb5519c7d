"""A master, replicas and Sentinels of this machine's own Redis, on loopback."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

from redis import Redis as Client
from redis import exceptions

from backup.config import Alerts, Config, Endpoint, Login, Redis
from backup.redis.roles import command, connect, monitor
from backup.redis.scratch import free_port
from tests.e2e.wait import eventually

HOST = "127.0.0.1"
# Sentinel writes it to its own file without quotes, so it has none, and no blanks.
PASSWORD = "pa$$-w%rd&#1"
DOWN_AFTER = 3000
DATABASES = (0, 3)

_READ: dict[str, Any] = {
    "string": lambda client, key: client.get(key),
    "hash": lambda client, key: client.hgetall(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "stream": lambda client, key: client.xrange(key),
}

Data = dict[str, tuple[Any, bool]]


def data(place: Endpoint, password: str) -> Data:
    """Every key of every database that `fill` uses: its value, and whether it expires.

    Of a replica that takes its master's data meanwhile it is some of the old and some of the new.
    """
    found = {}
    for number in DATABASES:
        with _client(place, password, number) as client:
            keys = list(client.scan_iter(count=1000))
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.type(key).pttl(key)
            said = pipe.execute()
            there = [
                row for row in zip(keys, said[::2], said[1::2], strict=True) if row[1] != "none"
            ]
            for key, kind, _ in there:
                _READ[kind](pipe, key)
            values = pipe.execute()
        for (key, _, left), value in zip(there, values, strict=True):
            found[f"{number}:{key}"] = (value, left > 0)
    return found


def fill(place: Endpoint, password: str, mark: str, count: int = 1000) -> None:
    """Puts keys of every type there, in two databases; nothing else remains."""
    for number in DATABASES:
        with _client(place, password, number) as client:
            pipe = client.pipeline(transaction=False)
            pipe.flushdb()
            for index in range(count):
                pipe.set(f"{mark}:{index}", f"{mark} {index} " * 8)
            for index in range(20):
                pipe.set(f"session:{index}", mark, ex=3600)
                members = [f"{mark}{order}" for order in range(index + 1)]
                pipe.hset(f"hash:{index}", mapping={f"f{name}": name for name in members})
                pipe.rpush(f"list:{index}", *range(index + 1))
                pipe.sadd(f"set:{index}", *members)
                pipe.zadd(f"zset:{index}", {name: order for order, name in enumerate(members)})
                pipe.xadd("stream", {"mark": mark})
            pipe.execute()


def _client(place: Endpoint, password: str, number: int) -> Client:
    return Client(
        host=place.host, port=place.port, password=password, db=number, decode_responses=True
    )


class Estate:
    """Real servers with AOF on; each can be killed and started again."""

    def __init__(self, directory: Path, *, replicas: int = 2, sentinels: int = 3) -> None:
        self.directory = directory
        self.nodes = [Endpoint(HOST, free_port(HOST)) for _ in range(replicas + 1)]
        self.sentinels = [Endpoint(HOST, free_port(HOST)) for _ in range(sentinels)]
        self.processes: dict[Endpoint, subprocess.Popen[bytes]] = {}
        for place in self.nodes:
            self._configure_node(place)
            self.start(place)
        for place in self.sentinels:
            self._configure_sentinel(place)
            self.start(place)
        eventually(self.require_settled, 60)

    def _configure_node(self, place: Endpoint) -> None:
        home = self.home(place)
        home.mkdir(parents=True)
        follows = f"replicaof {HOST} {self.nodes[0].port}\n" if place != self.nodes[0] else ""
        (home / "redis.conf").write_text(
            f"port {place.port}\nbind {HOST}\ndir {home}\nrequirepass {PASSWORD}\n"
            f"masterauth {PASSWORD}\nappendonly yes\nrepl-diskless-sync-delay 0\n"
            f"replica-announce-ip {HOST}\nreplica-announce-port {place.port}\n{follows}"
        )

    def _configure_sentinel(self, place: Endpoint) -> None:
        home = self.home(place)
        home.mkdir(parents=True)
        (home / "redis.conf").write_text(
            f"port {place.port}\nbind {HOST}\ndir {home}\nrequirepass {PASSWORD}\n"
            f"sentinel sentinel-pass {PASSWORD}\n"
            f"sentinel monitor mymaster {HOST} {self.nodes[0].port} 2\n"
            f"sentinel auth-pass mymaster {PASSWORD}\n"
            f"sentinel down-after-milliseconds mymaster {DOWN_AFTER}\n"
            "sentinel failover-timeout mymaster 10000\n"
        )

    def home(self, place: Endpoint) -> Path:
        """Where a server has its files."""
        return self.directory / str(place.port)

    def start(self, place: Endpoint) -> None:
        """Starts a server and waits until it answers."""
        home = self.home(place)
        kind = ["--sentinel"] if place in self.sentinels else []
        with (home / "log").open("ab") as log:
            self.processes[place] = subprocess.Popen(
                ["redis-server", str(home / "redis.conf"), *kind], stdout=log, stderr=log
            )
        eventually(lambda: self.require_answer(place), 20)

    def kill(self, *places: Endpoint, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends servers and waits until they have."""
        for place in places:
            self.processes[place].send_signal(number)
        for place in places:
            self.processes.pop(place).wait(20)

    def close(self) -> None:
        """Ends all of it."""
        self.kill(*self.processes)

    def require_answer(self, place: Endpoint) -> None:
        """Asserts that a server answers and has loaded its data."""
        try:
            assert self.client(place).ping()
        except exceptions.RedisError as error:
            raise AssertionError(str(error)) from None

    def require_settled(self) -> None:
        """Asserts that all is connected and the Sentinels know of all."""
        for place in self.nodes:
            if place in self.processes:
                info = self.client(place).info("replication")
                assert info["role"] == "master" or info["master_link_status"] == "up"
        live = [place for place in self.nodes if place in self.processes]
        for place in self.sentinels:
            if place in self.processes:
                said = monitor(self.redis, place)
                assert said is not None
                assert said.flags == "master" and said.role_reported == "master"
                assert said.others == len(self.sentinels) - 1
                assert len(self.ask(place, "SENTINEL", "REPLICAS", "mymaster")) >= len(live) - 1

    def client(self, place: Endpoint) -> Client:
        """A client with the estate's password."""
        return connect(place, Login(PASSWORD))

    def ask(self, place: Endpoint, *words: str | int) -> Any:
        """One command and its bare answer."""
        with self.client(place) as client:
            return command(client, *words)

    def data(self, place: Endpoint) -> Data:
        """What a node holds."""
        return data(place, PASSWORD)

    def require_same(self, wanted: Data) -> None:
        """Asserts that every node that runs has exactly this data."""
        for place in self.nodes:
            if place in self.processes:
                found = self.data(place)
                assert found.keys() == wanted.keys(), place
                assert found == wanted, place

    def epochs(self) -> list[str]:
        """Each Sentinel's configuration epoch and idea of the master: a failover changes it."""
        found = []
        for place in self.sentinels:
            if place in self.processes:
                said = self.ask(place, "SENTINEL", "MASTER", "mymaster")
                row = (
                    said
                    if isinstance(said, dict)
                    else dict(zip(said[::2], said[1::2], strict=True))
                )
                found.append(f"{row['config-epoch']} {row['ip']}:{row['port']}")
        return found

    def down_after(self) -> list[int]:
        """What the Sentinels that run have for it."""
        found = [monitor(self.redis, p) for p in self.sentinels if p in self.processes]
        return [each.down_after for each in found if each is not None]

    @property
    def redis(self) -> Redis:
        """The estate as the program knows it."""
        return Redis(tuple(self.nodes), tuple(self.sentinels), "mymaster", PASSWORD)

    def fill(self, place: Endpoint, mark: str, count: int = 1000) -> None:
        """Puts keys there that bear a mark; nothing else remains."""
        fill(place, PASSWORD, mark, count)

    def master(self) -> Endpoint:
        """The node that says it is, of those that run."""
        (found,) = [
            place
            for place in self.nodes
            if place in self.processes
            and self.client(place).info("replication")["role"] == "master"
        ]
        return found

    def level(self) -> Data:
        """Waits until all nodes have the master's data; returns these."""
        wanted = self.data(self.master())
        eventually(lambda: self.require_same(wanted), 30)
        return wanted

    def config(self, directory: Path, passphrase: str = "") -> Config:
        """The program's configuration with this estate as its Redis."""
        redis = self.redis
        return Config(
            "psscript", "here", directory, 30, 2, {}, passphrase, Alerts(), None, redis, None
        )
