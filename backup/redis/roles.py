"""Which Redis node is what: from the Sentinels where they answer, else from the nodes."""

from __future__ import annotations

import contextlib
import inspect
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import Redis as Client
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from backup import listener
from backup.config import Endpoint, Login, Redis
from backup.job import Failed

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """What an instance says of itself.

    Attributes:
        role: 'master' or 'replica'; `follows` is a replica's master.
        healthy: it has loaded its data, and as a replica its link is up and nothing is syncing.
        offset: of the replication stream, in bytes.
        durable: what it holds would survive a restart: no AOF rewrite is pending or failed.
    """

    endpoint: Endpoint
    role: str
    follows: Endpoint | None
    healthy: bool
    offset: int
    replid: str
    version: str
    keys: int
    maxmemory: int
    used_memory: int
    durable: bool


@dataclass(frozen=True)
class Monitor:
    """What one Sentinel says of the master that it watches; times in milliseconds."""

    endpoint: Endpoint
    master: Endpoint
    flags: str
    role_reported: str
    down_after: int
    quorum: int
    others: int


def connect(endpoint: Endpoint, login: Login) -> Client:
    """A client that does not hide a failure behind retries.

    Raises:
        Failed: another user of this host listens there.
    """
    listener.require_user(endpoint, "redis")
    return Client(
        host=endpoint.host,
        port=endpoint.port,
        username=login.user or None,
        password=login.password or None,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
        **_NAMELESS,
        **_encrypted(login),
    )


# The user for backups may not say what client it has: each login would be in ACL LOG.
_NAMELESS: dict[str, Any] = {
    key: None
    for key in ("lib_name", "lib_version")
    if key in inspect.signature(Client.__init__).parameters
}


def _encrypted(login: Login) -> dict[str, Any]:
    if not login.authority:
        return {}
    named = {"ssl_check_hostname": login.is_named, "ssl_cert_reqs": "required"}
    return {"ssl": True, "ssl_ca_certs": login.authority, **named}


def command(client: Client, *words: str | int) -> Any:
    """A command as redis-cli takes it, and its bare answer."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def talking(endpoint: Endpoint, login: Login) -> Iterator[Client]:
    """A client for a few commands.

    Raises:
        Failed: no answer, or one that is an error; the message names the endpoint.
    """
    client = connect(endpoint, login)
    try:
        yield client
    except exceptions.RedisError as error:
        raise Failed(f"{endpoint}: {error}") from None
    finally:
        client.close()


def answer(endpoint: Endpoint, login: Login, ask: Callable[[Client], T]) -> T | None:
    """What a server answers; None when it is silent.

    Raises:
        Failed: it does not accept the password: that is no silence.
        Untrusted: its certificate is not to be believed, and will not become so by itself.
    """
    client = connect(endpoint, login)
    try:
        return ask(client)
    except exceptions.RedisError as error:
        if "certificate verify failed" in str(error):
            raise Untrusted(f"{endpoint}: {error}") from None
        refused = isinstance(error, exceptions.AuthenticationError)
        if refused or str(error).startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
            raise Failed(f"{endpoint} does not accept the password: {error}") from None
        return None
    finally:
        client.close()


class Untrusted(Failed):
    """A server that may be another one than it says."""


def _answers(places: Sequence[Endpoint], ask: Callable[[Endpoint], T | None]) -> list[T]:
    """The answers of those that are not silent, in order; all are asked at once.

    A host that is away takes seconds to be given up, and several may be. One that is not to be
    believed is as good as silent, while others speak.
    """

    def asked(place: Endpoint) -> T | Untrusted | None:
        try:
            return ask(place)
        except Untrusted as untrusted:
            return untrusted

    with ThreadPoolExecutor(max_workers=max(1, len(places))) as pool:
        found = [*pool.map(asked, places)]
    untrusted = [each for each in found if isinstance(each, Untrusted)]
    answers = [each for each in found if each is not None and not isinstance(each, Untrusted)]
    if untrusted and not answers:
        raise untrusted[0]
    return answers


def until(check: Callable[[], T | None], seconds: float, what: str) -> T:
    """Asks until the answer is not None.

    Raises:
        Failed: it still was after so many seconds; `what` says what was waited for.
    """
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() >= end
        if (found := check()) is not None:
            return found
        if last:
            raise Failed(f"{what}: not after {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def same(one: Endpoint | None, other: Endpoint | None) -> bool:
    """Whether two endpoints are one place; names are resolved."""
    if one is None or other is None or one.port != other.port:
        return one is other
    return one.host == other.host or bool(_addresses(one.host) & _addresses(other.host))


def _addresses(host: str) -> set[str]:
    try:
        return {str(row[4][0]) for row in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _configured(redis: Redis, endpoint: Endpoint) -> Endpoint:
    for node in redis.nodes:
        if same(node, endpoint):
            return node
    raise Failed(f"the Sentinels name {endpoint} as master, which is not a node of this estate")


# --- Nodes ---------------------------------------------------------------------------------------


def node(endpoint: Endpoint, login: Login) -> Node | None:
    """What an instance says of itself; None when it is silent."""
    return answer(endpoint, login, lambda client: node_of(client, endpoint))


def node_of(client: Client, endpoint: Endpoint) -> Node:
    """The same over a connection that is there."""
    return told(client.info(), endpoint)


def told(info: dict[str, Any], endpoint: Endpoint) -> Node:
    """The same from its answer to INFO."""
    replica = info["role"] == "slave"
    healthy = info["loading"] == 0
    if replica:
        linked = info["master_link_status"] == "up" and info["master_sync_in_progress"] == 0
        healthy = healthy and linked
    aof = info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]
    databases = [value for key, value in info.items() if key[:2] == "db" and key[2:].isdigit()]
    return Node(
        endpoint,
        "replica" if replica else "master",
        Endpoint(str(info["master_host"]), int(info["master_port"])) if replica else None,
        healthy,
        int(info["slave_repl_offset" if replica else "master_repl_offset"]),
        str(info["master_replid"]),
        str(info["redis_version"]),
        sum(int(value["keys"]) for value in databases),
        int(info["maxmemory"]),
        int(info["used_memory"]),
        not info["aof_enabled"] or (not aof and info["aof_last_bgrewrite_status"] == "ok"),
    )


def nodes(redis: Redis) -> list[Node]:
    """The instances that answer, in the configuration's order."""
    return _answers(redis.nodes, lambda place: node(place, redis.login))


def master(redis: Redis) -> Endpoint:
    """The master: whom a majority of the Sentinels names, else the only node that says it is.

    Without a majority the nodes' own word counts only when exactly one of them says master, all
    replicas that answer follow it, and no Sentinel that answers names another.

    Raises:
        Failed: no node knows, they disagree, or the one that is named is silent or a replica.
    """
    answers: list[Endpoint] = []
    with contextlib.suppress(Untrusted):
        answers = _answers(redis.sentinels, lambda place: named(redis, place))
    leader, votes = Counter(answers).most_common(1)[0] if answers else (None, 0)
    if len(set(answers)) > 1 and votes * 2 <= len(redis.sentinels):
        names = ", ".join(sorted({str(found) for found in answers}))
        raise Failed(f"the Sentinels disagree about the master: {names}")
    if leader is None or votes * 2 <= len(redis.sentinels):
        return _only(nodes(redis), leader)
    return _confirmed(redis, _configured(redis, leader))


def named(redis: Redis, sentinel: Endpoint) -> Endpoint | None:
    """Whom a Sentinel names as master; None when it is silent or knows of none."""
    ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", redis.master_name)
    said = answer(sentinel, redis.sentinel_login, lambda client: command(client, *ask))
    return Endpoint(str(said[0]), int(said[1])) if said else None


def _confirmed(redis: Redis, leader: Endpoint) -> Endpoint:
    found = node(leader, redis.login)
    if found is None:
        raise Failed(f"the Sentinels name {leader} as master, which does not answer")
    if found.role != "master":
        raise Failed(f"the Sentinels name {leader} as master, which follows {found.follows}")
    return leader


def _only(found: list[Node], named: Endpoint | None) -> Endpoint:
    """The master by the nodes' own word, where nothing contradicts it."""
    leaders = [each.endpoint for each in found if each.role == "master"]
    if len(leaders) != 1:
        said = ", ".join(map(str, leaders)) or "none"
        followed = {str(each.follows) for each in found if each.follows}
        if not leaders and len(followed) == 1:
            said += f"; they follow {followed.pop()}, which does not answer: start that one first"
        raise Failed(f"no majority of Sentinels names a master, and of the nodes it is: {said}")
    (leader,) = leaders
    if named is not None and not same(leader, named):
        raise Failed(f"{leader} says it is the master, and a Sentinel names {named}")
    for each in found:
        if each.follows is not None and not same(each.follows, leader):
            raise Failed(f"{leader} says it is the master, and {each.endpoint} follows another")
    return leader


def source(redis: Redis) -> Node:
    """Where a dump is best taken: the healthy replica that lags least, else the master.

    Raises:
        Failed: as `master` does; or the master itself is loading its data.
    """
    leader = master(redis)
    found = {each.endpoint: each for each in nodes(redis)}
    if leader not in found or not found[leader].healthy:
        raise Failed(f"the master {leader} is not ready")
    replicas = [each for each in found.values() if each.healthy and same(each.follows, leader)]
    return max(replicas, key=lambda each: each.offset, default=found[leader])


# --- Sentinels -----------------------------------------------------------------------------------


def monitors(redis: Redis) -> list[Monitor]:
    """What every Sentinel says that answers and watches the master."""
    return _answers(redis.sentinels, lambda place: monitor(redis, place))


def monitor(redis: Redis, sentinel: Endpoint) -> Monitor | None:
    """What one Sentinel says; None when it is silent or watches nothing of that name."""
    ask = ("SENTINEL", "MASTER", redis.master_name)
    said = answer(sentinel, redis.sentinel_login, lambda client: command(client, *ask))
    if said is None:
        return None
    fields = _pairs(said)
    return Monitor(
        sentinel,
        Endpoint(fields["ip"], int(fields["port"])),
        fields["flags"],
        fields["role-reported"],
        int(fields["down-after-milliseconds"]),
        int(fields["quorum"]),
        int(fields["num-other-sentinels"]),
    )


def set_down_after(redis: Redis, sentinel: Endpoint, milliseconds: int) -> None:
    """Sets how long the master may be away before this Sentinel calls it down.

    Raises:
        Failed: the Sentinel is silent or refuses.
    """
    with talking(sentinel, redis.sentinel_login) as client:
        key = "down-after-milliseconds"
        command(client, "SENTINEL", "SET", redis.master_name, key, milliseconds)


def _pairs(said: Any) -> dict[str, str]:
    """A Sentinel's answer, which is a flat list in one protocol and a mapping in the other."""
    pairs = said.items() if isinstance(said, dict) else zip(said[::2], said[1::2], strict=True)
    return {str(key): str(value) for key, value in pairs}


def _listed(redis: Redis, sentinel: Endpoint, what: str) -> list[dict[str, str]]:
    ask = ("SENTINEL", what, redis.master_name)
    said = answer(sentinel, redis.sentinel_login, lambda client: command(client, *ask))
    return [_pairs(each) for each in said or []]


# --- Phantom replicas ----------------------------------------------------------------------------

RESET_SECONDS = 60


def phantoms(redis: Redis, sentinel: Endpoint, extra: Endpoint | None = None) -> list[str]:
    """The replicas that a Sentinel counts and that cannot exist: port 0, or `extra`."""
    listed = [Endpoint(row["ip"], int(row["port"])) for row in _listed(redis, sentinel, "REPLICAS")]
    return [
        str(place)
        for place in listed
        if place.port == 0 or (extra and place.port == extra.port and place not in redis.nodes)
    ]


def forget_phantoms(redis: Redis, extra: Endpoint | None = None) -> list[str]:
    """Makes every Sentinel forget phantom replicas; returns a sentence for each that had some.

    A Sentinel forgets only by SENTINEL RESET, which makes it find everything again. That is done
    for one Sentinel after the other, and only while the master is well and everything real is
    there to be found.

    Raises:
        Failed: it is not safe now, or a Sentinel did not find everything again.
    """
    done = []
    for place in redis.sentinels:
        if found := phantoms(redis, place, extra):
            _reset(redis, place, extra)
            done.append(f"Sentinel {place} has forgotten {', '.join(found)}")
    return done


def _reset(redis: Redis, sentinel: Endpoint, extra: Endpoint | None) -> None:
    before = _real(redis, sentinel, extra)
    if reason := _unsafe(redis, sentinel, before):
        raise Failed(
            f"Sentinel {sentinel} counts a replica that does not exist, and now is not the time "
            f"to reset it ({reason}); later: redis-cli -h {sentinel.host} -p {sentinel.port} "
            f"SENTINEL RESET {redis.master_name}"
        )
    with talking(sentinel, redis.sentinel_login) as client:
        command(client, "SENTINEL", "RESET", redis.master_name)

    def complete() -> bool | None:
        return before <= _real(redis, sentinel, extra) or None

    until(complete, RESET_SECONDS, f"Sentinel {sentinel} finds all others again after a reset")


def _real(redis: Redis, sentinel: Endpoint, extra: Endpoint | None) -> set[str]:
    """The real replicas and other Sentinels that a Sentinel knows."""
    unreal = phantoms(redis, sentinel, extra)
    rows = _listed(redis, sentinel, "REPLICAS") + _listed(redis, sentinel, "SENTINELS")
    return {f"{row['ip']}:{row['port']}" for row in rows} - set(unreal)


def _unsafe(redis: Redis, sentinel: Endpoint, real: set[str]) -> str:
    """Why a reset could lose something; empty when it cannot."""
    state = monitor(redis, sentinel)
    if state is None or state.flags != "master" or state.role_reported != "master":
        return "the master is unhealthy"
    rows = _listed(redis, sentinel, "REPLICAS") + _listed(redis, sentinel, "SENTINELS")
    for row in rows:
        if f"{row['ip']}:{row['port']}" in real and row["flags"] not in ("slave", "sentinel"):
            return f"{row['ip']}:{row['port']} is {row['flags']}"
    if state.others != len(redis.sentinels) - 1:
        return f"it knows {state.others} other Sentinels, not {len(redis.sentinels) - 1}"
    return ""
