"""Who is master, what redis-check-rdb said, what is named how: without a server."""

from __future__ import annotations

import os
import pwd
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.config import Alerts, Config, Endpoint, Redis
from backup.job import Failed, Log
from backup.manifest import Manifest
from backup.redis import backups as backup
from backup.redis import rdb, roles, scratch
from backup.redis import restore as restoring
from backup.redis.roles import Monitor, Node

A, B, C = (Endpoint("127.0.0.1", port) for port in (6379, 6380, 6381))
SENTINELS = tuple(Endpoint("127.0.0.1", port) for port in (26379, 26380, 26381))
REDIS = Redis((A, B, C), SENTINELS, "mymaster", "secret")


def _node(place: Endpoint, follows: Endpoint | None = None, **values: object) -> Node:
    standard = {
        "endpoint": place,
        "role": "replica" if follows else "master",
        "follows": follows,
        "healthy": True,
        "offset": 100,
        "replid": "f" * 40,
        "version": "7.0.15",
        "keys": 3,
        "maxmemory": 0,
        "used_memory": 1,
        "durable": True,
    }
    return Node(**{**standard, **values})  # type: ignore[arg-type]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Servers that say what a test wants."""
    return World(monkeypatch)


class World:
    """What nodes and Sentinels say; who is not in it is silent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: dict[Endpoint, Node] = {}
        self.named: dict[Endpoint, Endpoint] = {}
        monkeypatch.setattr(roles, "node", lambda place, *_: self.said.get(place))
        monkeypatch.setattr(roles, "named", lambda _, place: self.named.get(place))

    def nodes(self, *nodes: Node) -> World:
        """Sets what the nodes say."""
        self.said = {node.endpoint: node for node in nodes}
        return self

    def sentinels(self, *named: Endpoint | None) -> World:
        """Sets whom each Sentinel names."""
        self.named = {p: n for p, n in zip(SENTINELS, named, strict=False) if n is not None}
        return self


# --- Who is master -------------------------------------------------------------------------------


def test_a_majority_of_the_sentinels_decides(world: World) -> None:
    world.nodes(_node(A, B), _node(B), _node(C, B)).sentinels(B, A, B)
    assert roles.master(REDIS) == B


def test_two_of_three_are_a_majority_though_the_third_is_silent(world: World) -> None:
    world.nodes(_node(A), _node(B, A)).sentinels(None, A, A)
    assert roles.master(REDIS) == A


@pytest.mark.parametrize("named", [(A, B, None), (A, B, C)])
def test_disagreeing_sentinels_are_refused(world: World, named: tuple[Endpoint | None]) -> None:
    world.nodes(_node(A), _node(B, A)).sentinels(*named)
    with pytest.raises(Failed, match="the Sentinels disagree"):
        roles.master(REDIS)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "does not answer"),
        ((_node(A, B), _node(B)), "which follows 127.0.0.1:6380"),
    ],
)
def test_the_named_node_has_to_agree(world: World, nodes: tuple[Node, ...], message: str) -> None:
    world.nodes(*nodes).sentinels(A, A, A)
    with pytest.raises(Failed, match=message):
        roles.master(REDIS)


def test_a_stranger_is_refused(world: World) -> None:
    stranger = Endpoint("192.0.2.1", 6379)
    world.nodes(_node(A)).sentinels(stranger, stranger, stranger)
    with pytest.raises(Failed, match="not a node of this estate"):
        roles.master(REDIS)


@pytest.mark.parametrize("named", [(), (A,)])
def test_without_a_majority_the_only_master_counts(
    world: World, named: tuple[Endpoint, ...]
) -> None:
    world.nodes(_node(A), _node(B, A)).sentinels(*named)
    assert roles.master(REDIS) == A


@pytest.mark.parametrize(
    ("nodes", "named", "message"),
    [
        ((), (), "of the nodes it is: none"),
        ((_node(A, B),), (), "of the nodes it is: none"),
        ((_node(A), _node(B)), (), "127.0.0.1:6379, 127.0.0.1:6380"),
        ((_node(A), _node(B, C)), (), "follows another"),
        ((_node(A),), (B,), "a Sentinel names 127.0.0.1:6380"),
    ],
)
def test_without_a_majority_nothing_may_contradict(
    world: World, nodes: tuple[Node, ...], named: tuple[Endpoint, ...], message: str
) -> None:
    world.nodes(*nodes).sentinels(*named)
    with pytest.raises(Failed, match=message):
        roles.master(REDIS)


def test_the_replica_that_lags_least_is_the_source(world: World) -> None:
    world.nodes(_node(A), _node(B, A, offset=90), _node(C, A, offset=95)).sentinels(A, A, A)
    assert roles.source(REDIS).endpoint == C


def test_a_replica_that_is_not_well_or_of_another_is_no_source(world: World) -> None:
    world.nodes(_node(A), _node(B, A, healthy=False), _node(C, B)).sentinels(A, A, A)
    assert roles.source(REDIS).endpoint == A


def _untrusted(place: Endpoint, *_: object) -> NoReturn:
    raise roles.Untrusted(f"{place}: certificate verify failed: certificate has expired")


def test_who_is_not_to_be_believed_is_as_good_as_silent_while_others_speak(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.said = {A: _node(A), B: _node(B, A)}
    said = roles.node

    def node(place: Endpoint, *rest: Any) -> Node | None:
        return said(place, *rest) if place != C else _untrusted(place)

    monkeypatch.setattr(roles, "node", node)
    monkeypatch.setattr(roles, "named", lambda _, place: _untrusted(place))
    assert roles.source(REDIS).endpoint == B


@pytest.mark.parametrize("is_named", [True, False])
def test_no_wait_makes_a_certificate_believable(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_named: bool
) -> None:
    """A backup says so at once: it would only ask again."""
    world.named = dict.fromkeys(SENTINELS, A) if is_named else {}
    monkeypatch.setattr(roles, "node", _untrusted)
    monkeypatch.setattr(backup.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(roles.Untrusted, match="has expired"):
        backup._settled(REDIS)


def test_a_loading_master_is_no_source(world: World) -> None:
    world.nodes(_node(A, healthy=False)).sentinels(A, A, A)
    with pytest.raises(Failed, match="not ready"):
        roles.source(REDIS)


def test_a_name_and_its_address_are_the_same() -> None:
    assert roles.same(Endpoint("localhost", 1), Endpoint("127.0.0.1", 1))
    assert not roles.same(Endpoint("localhost", 1), Endpoint("127.0.0.1", 2))
    assert not roles.same(Endpoint("no-such.invalid", 1), Endpoint("127.0.0.1", 1))
    assert not roles.same(None, A)


def test_sentinel_answers_in_both_protocols() -> None:
    assert roles._pairs(["ip", "1.2.3.4", "port", "1"]) == roles._pairs(
        {"ip": "1.2.3.4", "port": "1"}
    )


def test_phantoms_are_port_0_and_our_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"ip": "127.0.0.1", "port": str(port)} for port in (6380, 0, 40000)
    ] + [{"ip": "", "port": "40000"}]  # fmt: skip
    monkeypatch.setattr(roles, "_listed", lambda *_: rows)
    assert roles.phantoms(REDIS, SENTINELS[0]) == ["127.0.0.1:0"]
    own = Endpoint("127.0.0.1", 40000)
    assert roles.phantoms(REDIS, SENTINELS[0], own) == ["127.0.0.1:0", "127.0.0.1:40000", ":40000"]
    assert roles.phantoms(REDIS, SENTINELS[0], B) == ["127.0.0.1:0"]


@pytest.mark.parametrize(
    ("state", "rows", "reason"),
    [
        (None, [], "the master is unhealthy"),
        (("master,o_down", "master", 2), [], "the master is unhealthy"),
        (("master", "slave", 2), [], "the master is unhealthy"),
        (("master", "master", 1), [], "knows 1 other Sentinels"),
        (("master", "master", 2), ["slave,s_down"], "is slave,s_down"),
        (("master", "master", 2), ["sentinel,disconnected"], "is sentinel,disconnected"),
        (("master", "master", 2), ["slave", "sentinel"], ""),
    ],
)
def test_a_reset_is_safe_only_when_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
    state: tuple[str, str, int] | None,
    rows: list[str],
    reason: str,
) -> None:
    place = SENTINELS[0]
    said = Monitor(place, A, state[0], state[1], 5000, 2, state[2]) if state else None
    listed = [{"ip": "127.0.0.1", "port": "6380", "flags": flags} for flags in rows]
    monkeypatch.setattr(roles, "monitor", lambda *_: said)
    monkeypatch.setattr(roles, "_listed", lambda *_: listed)
    found = roles._unsafe(REDIS, place, {"127.0.0.1:6380"})
    assert reason in found and bool(reason) == bool(found)


def test_until_asks_once_more_at_the_deadline() -> None:
    answers = iter([None, None, 7])
    assert roles.until(lambda: next(answers), 5, "seven") == 7
    with pytest.raises(Failed, match="never: not after 0 s"):
        roles.until(lambda: None, 0, "never")


# --- What is in a file ---------------------------------------------------------------------------

SAID = """[offset 0] Checking RDB file x.rdb
[offset 27] AUX FIELD redis-ver = '7.0.15'
[offset 165] Selecting DB ID 0
[offset 300] Selecting DB ID 11
[offset 623] Checksum OK
[offset 623] \\o/ RDB looks OK! \\o/
[info] 51 keys read
[info] 7 expires
[info] 0 already expired
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Something that starts as an RDB file does."""
    path = tmp_path / "x.rdb"
    path.write_bytes(b"REDIS0010...")
    return path


Tool = Callable[[str, int], None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Lets redis-check-rdb say something and end with a code."""

    def says(text: str, code: int) -> None:
        program = tmp_path / "redis-check-rdb"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # The user redis would not get to this directory.
    monkeypatch.setattr(rdb, "as_redis", list)
    return says


def test_reads_what_the_tool_says(file: Path, tool: Tool) -> None:
    tool(SAID, 0)
    assert rdb.inspect(file) == rdb.Rdb(51, 7, 10, "7.0.15", 12)


def test_a_field_that_ends_may_take_its_key_with_it(file: Path, tool: Tool) -> None:
    tool(f"{SAID}[info] 3 subexpires\n", 0)
    assert rdb.inspect(file).expires == 10


@pytest.mark.parametrize("line", ["Checksum OK", "RDB looks OK!", "[info] 51 keys read"])
def test_takes_no_silence_for_good(file: Path, tool: Tool, line: str) -> None:
    tool(SAID.replace(line, ""), 0)
    with pytest.raises(Failed, match="redis-check-rdb"):
        rdb.inspect(file)


def test_says_what_the_tool_found(file: Path, tool: Tool) -> None:
    tool(SAID, 1)
    with pytest.raises(Failed, match="redis-check-rdb"):
        rdb.inspect(file)
    tool("--- RDB ERROR DETECTED ---\n[offset 99] RDB CRC error\n[info] 1 keys read\n", 1)
    with pytest.raises(Failed, match=r"^redis-check-rdb: RDB CRC error$"):
        rdb.inspect(file)


def test_what_is_no_rdb_file_is_not_given_to_the_tool(tmp_path: Path) -> None:
    path = tmp_path / "x.rdb"
    path.write_bytes(b"")
    with pytest.raises(Failed, match="not an RDB file"):
        rdb.inspect(path)


def test_versions_compare_as_numbers() -> None:
    assert rdb.short("7.0.15") < rdb.short("7.2.0") < rdb.short("8.0.2") < rdb.short("10.0.0")
    assert rdb.short("7.0.15") == rdb.short("7.0.2")
    with pytest.raises(Failed):
        rdb.short("None")


@pytest.mark.parametrize(
    ("keys", "good"), [(10, True), (9, True), (7, True), (6, False), (11, False), (0, False)]
)
def test_only_keys_that_may_expire_may_be_missing(keys: int, good: bool) -> None:
    found = rdb.Rdb(10, 3, 10, "7.0.15", 1)
    if good:
        restoring._require_count(keys, found)
    else:
        with pytest.raises(Failed, match="of 10 of which 3 may expire"):
            restoring._require_count(keys, found)


def test_packing_gives_back_every_byte(tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "redis.rdb.gz"
    raw.write_bytes(os.urandom(3 << 20))
    config = _config(tmp_path)
    rdb.pack(config, raw, packed)
    assert b"".join(rdb.unpack(config, packed)) == raw.read_bytes()
    assert packed.stat().st_mode & 0o777 == 0o600


# --- Names, states, settings ---------------------------------------------------------------------


def _config(directory: Path) -> Config:
    return Config("psscript", "here", directory, 30, 2, {}, "", Alerts(), None, REDIS, None)


def test_latest_is_one_link_whatever_encryption_was(tmp_path: Path) -> None:
    directory = tmp_path / "redis"
    directory.mkdir()
    for name in ("redis_20260101_000000.rdb.gz", "redis_20260102_000000.rdb.gz.gpg"):
        (directory / name).touch()
        manifest = Manifest("redis", name, "redis", name[6:21], "", 0, "", "", 0.0)
        backup._point_latest(directory, manifest)
    links = [path for path in directory.iterdir() if path.is_symlink()]
    assert [(link.name, str(link.readlink())) for link in links] == [
        ("redis_LATEST.rdb.gz.gpg", "redis_20260102_000000.rdb.gz.gpg")
    ]


def test_leftovers_go_and_artifacts_stay(tmp_path: Path) -> None:
    for name in (".redis_1.rdb.gz.partial", "redis_1.rdb.gz", "redis_1.rdb.gz.manifest.json"):
        (tmp_path / name).touch()
    (tmp_path / ".redis_1.scratch").mkdir()
    (tmp_path / ".redis_1.scratch" / "dump.rdb").touch()
    backup._clean(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "redis_1.rdb.gz",
        "redis_1.rdb.gz.manifest.json",
    }


def test_a_workplace_lasts_as_long_as_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This machine need not have Redis.
    monkeypatch.setattr(rdb, "USER", pwd.getpwuid(os.getuid()).pw_name)
    config = _config(tmp_path)
    killed = config.artifacts("redis") / ".work-killed"
    killed.mkdir(parents=True)
    (killed / "dump.rdb").touch()
    with rdb.workplace(config) as one, rdb.workplace(config) as other:
        assert one.is_dir() and other.is_dir()
        assert not killed.exists()
    assert list(config.artifacts("redis").iterdir()) == []


def test_the_state_of_a_restore_survives(tmp_path: Path) -> None:
    state = restoring._State(A, B, {SENTINELS[0]: 5000, SENTINELS[1]: 7000})
    state.write(tmp_path / "state")
    assert restoring._State.read(tmp_path / "state") == state


def test_repair_has_nothing_to_do_where_nothing_was_changed(tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert not restoring.repair(config, Log(config.logs / "backup.log", "test"))


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_quoted_strings_end_where_they_should(text: str) -> None:
    inside = scratch.quoted(text)[1:-1]
    assert inside.replace('\\"', "").replace("\\\\", "").count('"') == 0
    assert inside.replace("\\\\", "\0").replace('\\"', '"').replace("\0", "\\") == text


def test_the_scratch_servers_configuration_does_not_hold_the_estates_password_for_login() -> None:
    redis = Redis((A,), (), "mymaster", "secret")
    text = scratch._configuration(redis, "own", A, {"databases": "3"})
    assert "requirepass" not in text and "databases 3\n" in text
    assert text.count("secret") == 1 and 'masterauth "secret"\n' in text


def test_a_scratch_server_speaks_what_the_estate_speaks() -> None:
    files = {"authority": "/ca", "certificate": "/certificate", "private": "/key"}
    redis = Redis((A,), (), "mymaster", "secret", **files)
    text = scratch._configuration(redis, "own", A, {})
    assert f"port 0\ntls-port {A.port}\ntls-replication yes\n" in text
    assert {"tls-cert-file /certificate", "tls-key-file /key"} <= {*text.splitlines()}
    assert redis.login.authority == redis.sentinel_login.authority == "/ca"


def test_a_signal_is_noticed_where_it_suits() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with restoring._deferred_signals() as stop:
        stop()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Failed, match="stopped by SIGTERM"):
            stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone() -> None:
    said: list[str] = []

    def work() -> None:
        with restoring._deferred_signals() as stop:
            stop()
            said.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == ["ran"]
