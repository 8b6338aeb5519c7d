"""Restarts of Redis: which one when, why, and when not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.estate import Estate, Node
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted
from tasks.core.services import Status
from tasks.redis import activation as redis_activation
from tasks.redis import console as redis_console
from tasks.redis import rolling
from tasks.redis.topology import Address, Instance, User, Watcher
from tasks.sentinel import activation as sentinel_activation
from tasks.sentinel import monitoring as sentinel_monitoring
from tasks.sentinel.forget import View
from tests.unit import helpers
from tests.unit.test_components import knows

ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
LEADER = Address("10.0.0.2", 6379)
OK = "OK 3 usable Sentinels. Quorum and failover authorization can be reached"
NO = "NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority. "
NEW: dict[str, Any] = {"redis_extra": {"io-threads": 4}}


def estate(
    directory: Path,
    names: str = "abc",
    sentinels: str = "abc",
    **choices: Any,
) -> Estate:
    """Hosts with a Redis each, and with a Sentinel."""
    hosts = {name: {"address": ADDRESSES[name], **choices} for name in names}
    made = helpers.estate(hosts, {"redis": list(names), "sentinel": list(sentinels)}, directory)
    for node in made.nodes:
        node.host.state.activate_host(node.host)
    return made


def deployed(
    before: Estate,
    after: Estate,
    *,
    quorum: str = OK,
    online: int = 2,
    down: str = "",
    monitors: Mapping[str, Any] | None = None,
) -> None:
    """Lets all hosts of `after` answer as if they ran what `before` says, led by LEADER."""
    says = [Watcher(LEADER, quorum)] * 3 if quorum else []
    for old, new in zip(before.nodes, after.nodes, strict=True):
        statuses = {
            wanted.service.name: Status(
                new.name != down, True, wanted.restart, wanted.reload, wanted.keys
            )
            for wanted in redis_activation.activations(old).values()
        }
        address = Address(new.address, 6379)
        follows = None if address == LEADER else LEADER
        roles = [Instance(address, "present", follows, online if address == LEADER else 0)]
        knows(new, "redis", services=statuses, roles=roles, sentinels=says)
        knows(
            new,
            "sentinel",
            monitors={26379: {"name": "mymaster"} if monitors is None else monitors},
            views={},
        )


def lines(everything: Estate) -> dict[str, list[str]]:
    """What each host announces, by operation."""
    said = {}
    for node in everything.nodes:
        for name in ("due_activation", "replicas", "master"):
            change = getattr(redis_activation if name == "due_activation" else rolling, name)(node)
            if change is not None:
                said[f"{node.name} {name}"] = change.lines
    return said


RESTART = "redis-6379: restart (io-threads: CONFIG SET does not take it)"
FAILOVER = "redis-6379: failover (master of mymaster; restart follows)"


def test_replicas_restart_and_the_master_hands_over(tmp_path: Path) -> None:
    after = estate(tmp_path, **NEW)
    deployed(estate(tmp_path), after)
    assert lines(after) == {
        "a replicas": [RESTART],
        "b master": [FAILOVER, RESTART],
        "c replicas": [RESTART],
    }
    change = rolling.master(after.nodes[1])
    assert change is not None
    assert [getattr(line, "impact", "") for line in change.lines] == ["failover", "restart"]
    words = "10.0.0.2 6379 redis-6379 mymaster 10.0.0.1:26379 10.0.0.2:26379 10.0.0.3:26379"
    assert f"hand_over {words}\n" in change.script
    assert helpers.syntax_error(change.script) == ""
    assert helpers.SECRETS["REDIS_PASSWORD"] not in change.script


def test_what_config_set_takes_is_set_everywhere_first(tmp_path: Path) -> None:
    after = estate(tmp_path, redis_maxmemory="1gb", **NEW)
    deployed(estate(tmp_path), after)
    said = lines(after)
    for name in "abc":
        assert said[f"{name} due_activation"] == ["redis-6379: reload"]
    assert said["b master"] == [FAILOVER, RESTART]


def test_what_is_set_at_run_time_does_not_count_as_restarted(tmp_path: Path) -> None:
    before, after = estate(tmp_path), estate(tmp_path, redis_maxmemory="1gb", **NEW)
    deployed(before, after)
    change = redis_activation.due_activation(after.nodes[0])
    (old,), (new,) = (redis_activation.activations(e.nodes[0]).values() for e in (before, after))
    assert change is not None
    assert f"record redis-6379 {old.restart} {new.reload} " in change.script


def test_a_file_that_was_written_a_moment_ago_is_no_reload_before_a_restart(
    tmp_path: Path,
) -> None:
    after = estate(tmp_path, **NEW)
    deployed(estate(tmp_path), after)
    node = after.nodes[0]
    said = node.read("redis")
    statuses = {name: replace(s, outdated=True) for name, s in said["services"].items()}
    knows(node, "redis", **{**said, "services": statuses})
    assert redis_activation.due_activation(node) is None


REASONS = [
    ({"redis_extra": {"io-threads": 4, "databases": 4}}, "databases, io-threads", "them"),
    ({"redis_extra": {"io-threads": 4}}, "io-threads", "it"),
]


@pytest.mark.parametrize(("choices", "keys", "them"), REASONS)
def test_the_reason_is_the_same_in_both_directions(
    choices: dict[str, Any], keys: str, them: str, tmp_path: Path
) -> None:
    one, other = estate(tmp_path), estate(tmp_path, **choices)
    for before, after in ((one, other), (other, one)):
        deployed(before, after)
        wanted = [f"redis-6379: restart ({keys}: CONFIG SET does not take {them})"]
        assert lines(after)["a replicas"] == wanted


def test_a_record_that_names_no_reason(tmp_path: Path) -> None:
    (wanted,) = redis_activation.activations(estate(tmp_path).nodes[0]).values()
    assert rolling.because(wanted, Status(True, True, "none", "none")) == "restart"
    assert rolling.because(wanted, Status(True, True, "x", "x", wanted.keys)) == "restart"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"names": "b", "sentinels": "b", "sentinel_quorum": 1}, "no replica"),
        ({"names": "b", "sentinels": ""}, "no replica"),
        ({"sentinels": ""}, "no Sentinel"),
    ],
)
def test_where_the_settings_leave_nobody_the_restart_says_so(
    shape: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    before, after = estate(tmp_path, **shape), estate(tmp_path, **shape, **NEW)
    deployed(before, after, quorum="")
    node = next(node for node in after.nodes if node.name == "b")
    rolling.require_successor(node)
    assert lines(after)["b master"] == [f"{RESTART[:-1]}; {reason}: unavailable meanwhile)"]


def test_sentinels_that_were_never_started_are_none(tmp_path: Path) -> None:
    """A first run that was killed is finished by the next one."""
    after = estate(tmp_path, **NEW)
    deployed(estate(tmp_path), after, quorum="", monitors={})
    rolling.require_successor(after.nodes[1])
    assert lines(after)["b master"] == [f"{RESTART[:-1]}; no Sentinel: unavailable meanwhile)"]


BEGIN = "redis-6379 is the master and has to restart, but no instance can replace it: "


@pytest.mark.parametrize(
    ("state", "obstacle"),
    [
        ({}, ""),
        ({"online": 0}, "no replica is online: bring one up first"),
        ({"online": 0, "down": "c"}, ""),
        ({"quorum": NO}, f"{NO[:-2]}: bring the Sentinels up first"),
        (
            {"quorum": ""},
            "no Sentinel answers with the password of the settings: bring the Sentinels up first",
        ),
    ],
)
def test_nothing_begins_where_nobody_can_replace_the_master(
    state: dict[str, Any], obstacle: str, tmp_path: Path
) -> None:
    after = estate(tmp_path, **NEW)
    deployed(estate(tmp_path), after, **state)
    for node in after.nodes:
        assert said(node) == (BEGIN + obstacle if obstacle and node.name == "b" else "")


def said(node: Node) -> str:
    """Why a run refuses, or nothing."""
    try:
        rolling.require_successor(node)
    except Unreadable as unreadable:
        return str(unreadable)
    return ""


def test_nobody_is_asked_where_nothing_restarts(tmp_path: Path) -> None:
    after = estate(tmp_path)
    deployed(after, after, quorum="", online=0)
    assert [said(node) for node in after.nodes] == [""] * 3
    assert lines(after) == {}


@pytest.mark.parametrize("wait", ["loaded 6379", "accepted 6379"])
def test_an_instance_that_does_not_listen_yet_is_late(wait: str) -> None:
    """No answer is an answer, not the end of the script: it is asked again."""
    text = f"set -eu\nREDIS_PASSWORD=x\n{redis_console.SHELL}\nis_redis() {{ return 1; }}\n"
    done = helpers.shell(f"{text}{wait} || echo late")
    assert (done.stdout, done.stderr) == ("late\n", "")


def test_a_master_whose_sentinels_get_its_password_later_restarts_in_place(tmp_path: Path) -> None:
    before, after = estate(tmp_path), estate(tmp_path, **NEW)
    deployed(before, after, monitors={"name": "mymaster", "auth": "0"})
    assert lines(after)["b master"] == [
        "redis-6379: restart (io-threads: CONFIG SET does not take it; Sentinels get its password "
        "later: unavailable meanwhile)"
    ]


def _locks(node: Node) -> None:
    """Lets nobody in at a host's Redis and Sentinel who could set that back."""
    (role,) = node.read("redis")["roles"]
    knows(node, "redis", **{**node.read("redis"), "roles": [replace(role, locked=True)]})
    services = {"redis-sentinel-26379": Status(True, True, "old", "old")}
    views = {26379: View(locked=True)}
    knows(node, "sentinel", **{**node.read("sentinel"), "views": views, "services": services})


LOCKED = "restart (password or ACL user default: changed by hand)"


@pytest.mark.parametrize("choices", [{}, {"redis_maxmemory": "1gb"}, NEW])
def test_who_lets_nobody_in_restarts_first_and_sets_nothing(
    choices: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever else is due: nothing can be set there, and nobody else could follow it."""
    after = estate(tmp_path, **choices)
    deployed(estate(tmp_path), after)
    others = lines(after)
    locked = after.nodes[1]
    _locks(locked)
    said = lines(after)
    assert said.pop("b due_activation") == [f"redis-6379: {LOCKED}"]
    assert said == {name: each for name, each in others.items() if not name.startswith("b ")}
    change = redis_activation.due_activation(locked)
    assert change is not None and 'config_set 6379 "$CONFIG_6379" redis-6379' not in change.script
    sentinel = sentinel_activation.due_activation(locked)
    assert sentinel is not None and f"redis-sentinel-26379: {LOCKED}" in sentinel.lines
    assert sentinel_monitoring.missing_monitoring(locked) is None


@pytest.mark.parametrize(
    ("rules", "may_all", "guarded"),
    [
        ("on sanitize-payload #ab ~* &* +@all", True, True),
        ("on #ab ~* &* +@all", True, True),
        ("on nopass sanitize-payload ~* &* +@all", True, False),
        ("on #ab #cd ~* &* +@all", True, False),
        ("on #ab ~* &* +@all -config", False, False),
        ("on #ab ~* &* +@all -acl|setuser", False, False),
        ("on #ab %R~* &* +@all", False, False),
        ("on #ab ~* &* -@all", False, False),
        ("off #ab ~* &* +@all", False, False),
        ("on #ab ~* &* +@all (~x* +@all)", False, False),
    ],
)
def test_default_is_as_it_should_be_or_is_told(rules: str, may_all: bool, guarded: bool) -> None:
    user = User.of(f'"user default {rules}"')
    assert (user.may_all, user.is_guarded) == (may_all, guarded)


@pytest.mark.parametrize(
    ("pong", "may", "is_locked"),
    [
        ("PONG", "OK", False),
        ("PONG", "This user has no permissions to run the 'acl|setuser' command", True),
        ("PONG", "NOPERM this user has no permissions to run the 'acl|dryrun' command", True),
        ("PONG", "", False),
        ("NOAUTH Authentication required.", "", True),
        ("NOPERM this user has no permissions to run the 'ping' command", "", True),
        ("LOADING Redis is loading the dataset in memory", "", False),
        ("BUSY Redis is busy running a script.", "", False),
        ("", "", False),
    ],
)
def test_silence_is_no_lock(pong: str, may: str, is_locked: bool) -> None:
    """A restart must follow from what an instance says, not from what it does not."""
    said = quoted(pong, '"rights"', may, '"end"')
    words = """awk "$PARTS"'END { print locked ? "locked" : "open" }'"""
    done = helpers.shell(f"{redis_console.SHELL}\nprintf '%s\\n' {said} | {words}")
    assert done.stdout == ("locked\n" if is_locked else "open\n")


def test_a_program_that_an_upgrade_has_replaced_restarts_as_any_other(tmp_path: Path) -> None:
    """Replicas first, the master after a hand-over; what is set at run time is set before."""
    after = estate(tmp_path, redis_maxmemory="1gb")
    deployed(estate(tmp_path), after)
    for node in after.nodes:
        (role,) = node.read("redis")["roles"]
        knows(node, "redis", **{**node.read("redis"), "roles": [replace(role, replaced=True)]})
        services = {"redis-sentinel-26379": Status(True, True, "old", "old")}
        views = {26379: View(replaced=True)}
        knows(node, "sentinel", **{**node.read("sentinel"), "views": views, "services": services})
    restart = "restart (an upgrade has replaced its program)"
    assert lines(after) == {
        **{f"{name} due_activation": ["redis-6379: reload"] for name in "abc"},
        "a replicas": [f"redis-6379: {restart}"],
        "b master": [FAILOVER, f"redis-6379: {restart}"],
        "c replicas": [f"redis-6379: {restart}"],
    }
    sentinel = sentinel_activation.due_activation(after.nodes[0])
    assert sentinel is not None and sentinel.lines == [f"redis-sentinel-26379: {restart}"]
