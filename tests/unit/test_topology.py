"""Who is the Redis master: every way to know, and every way not to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.estate import Estate
from tasks.core.remote import Unreadable
from tasks.redis.leader import current_master, leader_above
from tasks.redis.topology import Address, Instance, Watcher, master
from tasks.sentinel.forget import View
from tests.unit import helpers
from tests.unit.test_components import knows

A, B, C = (Address(f"10.0.0.{number}", 6379) for number in (1, 2, 3))


def absent(*addresses: Address) -> list[Instance]:
    return [Instance(address, "absent") for address in addresses]


def unseen(*addresses: Address) -> list[Instance]:
    return [Instance(address, "unseen") for address in addresses]


def leader(address: Address) -> Instance:
    return Instance(address, "present")


def follower(address: Address, of: Address) -> Instance:
    return Instance(address, "present", of)


def test_the_sentinels_word_is_the_last_one() -> None:
    instances = [leader(A), follower(B, A), follower(C, A)]
    assert master([B, B, B], instances, A) == B


def test_silent_sentinels_do_not_count() -> None:
    assert master([None, B, None], [leader(A), leader(B)], A) == B


def test_sentinels_that_disagree() -> None:
    with pytest.raises(Unreadable) as caught:
        master([A, B, A], [leader(A), follower(B, A)], A)
    assert str(caught.value) == (
        "the Sentinels disagree about the Redis master (2 say 10.0.0.1:6379, 1 say 10.0.0.2:6379):"
        " a failover may be under way; run again when SENTINEL GET-MASTER-ADDR-BY-NAME is the same"
        " everywhere"
    )


def test_where_nothing_has_ever_run_the_first_one_starts_as_master() -> None:
    assert master([], absent(A, B, C), A) == A
    assert master([None, None], absent(A, B, C), B) == B


def test_replication_tells_where_no_sentinel_answers() -> None:
    assert master([None], [leader(B), follower(A, B), follower(C, B)], A) == B


def test_a_new_instance_joins_the_master_that_there_is() -> None:
    assert master([], [*absent(A), leader(B), follower(C, B)], A) == B


def test_replicas_tell_even_when_their_master_is_not_reached() -> None:
    assert master([], [*unseen(A), follower(B, A), follower(C, A)], B) == A


def test_two_masters_are_an_error() -> None:
    with pytest.raises(Unreadable) as caught:
        master([], [leader(A), leader(B), *unseen(C)], A)
    assert str(caught.value) == (
        "the Redis master is unknown: no Sentinel answers, and the instances name 2 "
        "(10.0.0.1:6379, 10.0.0.2:6379; not reached: 10.0.0.3:6379). Start the Sentinels, or run "
        "on all hosts of the group 'redis' at once"
    )


def test_a_host_that_is_not_reached_may_be_the_master() -> None:
    with pytest.raises(Unreadable, match=r"name 0 \(none; not reached: 10.0.0.2:6379\)"):
        master([], [*absent(A), *unseen(B)], A)


ADDRESSES = st.sampled_from([A, B, C])
INSTANCES = st.builds(
    Instance,
    ADDRESSES,
    st.sampled_from(["absent", "unseen", "present"]),
    st.none() | ADDRESSES,
)


@given(st.lists(st.none() | ADDRESSES, max_size=5), st.lists(INSTANCES, max_size=5), ADDRESSES)
def test_it_is_never_a_guess(
    said: list[Address | None], instances: list[Instance], first: Address
) -> None:
    answers = {answer for answer in said if answer}
    named = {i.follows or i.address for i in instances if i.kind == "present"}
    nothing_ran = all(i.kind == "absent" for i in instances)
    try:
        chosen = master(said, instances, first)
    except Unreadable:
        assert len(answers) > 1 or (not answers and len(named) != 1 and not nothing_ran)
    else:
        assert {chosen} == (answers or named or {first})


def estate(directory: Path, live: Mapping[str, str], known: Mapping[Address, str]) -> Estate:
    """Three instances, and a Sentinel that watches a master and knows these replicas of it."""
    hosts = {name: {"address": each.ip} for name, each in zip("abc", (A, B, C), strict=True)}
    made = helpers.estate(hosts, {"redis": ["a", "b", "c"], "sentinel": ["a"]}, directory)
    for node in made.nodes:
        node.host.state.activate_host(node.host)
    knows(made.nodes[0], "sentinel", monitors={26379: live}, views={26379: View(replicas=known)})
    return made


OTHER, ELSE = Address("10.0.0.9", 7001), Address("10.0.0.9", 7002)
WATCHED = {"name": "mymaster", "ip": OTHER.ip, "port": str(OTHER.port)}


@pytest.mark.parametrize(
    ("instances", "known", "led_by"),
    [
        # Clients would be led to servers of others.
        ([leader(A), follower(B, A), follower(C, A)], [ELSE], A),
        ([leader(A), follower(B, A), follower(C, A)], [], A),
        # It has left the settings, and its data are the newest.
        ([leader(A), follower(B, A), follower(C, A)], [B], OTHER),
        ([follower(A, OTHER), follower(B, OTHER), follower(C, OTHER)], [ELSE], OTHER),
        ([leader(A), follower(B, OTHER), follower(C, A)], [], OTHER),
        (absent(A, B, C), [], OTHER),
    ],
)
def test_a_master_of_others_is_not_ours(
    instances: list[Instance], known: list[Address], led_by: Address, tmp_path: Path
) -> None:
    everything = estate(tmp_path, WATCHED, dict.fromkeys(known, "slave"))
    for node, instance in zip(everything.nodes, instances, strict=True):
        knows(node, "redis", roles=[instance], sentinels=[Watcher(OTHER, "OK")])
    assert current_master(everything) == led_by
    # Who is not reached may follow it.
    everything.active = everything.active[:2]
    assert current_master(everything) == OTHER


@pytest.mark.parametrize(
    ("instances", "flags", "led_by"),
    [
        ([leader(A), follower(B, A), follower(C, A)], "s_down,master", A),
        # It has left the settings, and was promoted in this moment.
        ([leader(A), follower(B, A), follower(C, A)], "master", OTHER),
        ([leader(A), follower(B, A), follower(C, A)], "s_down,master,failover_in_progress", OTHER),
        ([leader(A), leader(B), follower(C, A)], "s_down,master", OTHER),
        ([leader(A), follower(B, OTHER), follower(C, A)], "s_down,master", OTHER),
        ([leader(A), follower(B, A), *absent(C)], "s_down,master", OTHER),
        ([follower(each, ELSE) for each in (A, B, C)], "s_down,master", OTHER),
    ],
)
def test_a_sentinel_that_others_have_moved_is_not_believed(
    instances: list[Instance], flags: str, led_by: Address, tmp_path: Path
) -> None:
    """It takes ours for replicas of what it names."""
    everything = estate(tmp_path, {**WATCHED, "flags": flags}, dict.fromkeys((A, B, C), "slave"))
    for node, instance in zip(everything.nodes, instances, strict=True):
        knows(node, "redis", roles=[instance], sentinels=[Watcher(OTHER, "OK")])
    assert current_master(everything) == led_by


@pytest.mark.parametrize(
    ("instances", "watched", "led_by"),
    [
        ([leader(A), follower(B, A), follower(C, A)], B, A),
        ([leader(A), follower(B, A), follower(C, A)], A, None),
        # A failover is under way.
        ([leader(A), leader(B), follower(C, A)], A, None),
        ([leader(A), follower(B, A), *unseen(C)], B, None),
        # A master that left the settings.
        ([follower(A, OTHER), follower(B, OTHER), follower(C, OTHER)], A, None),
        (absent(A, B, C), A, None),
    ],
)
def test_a_sentinel_that_takes_a_replica_for_the_master(
    instances: list[Instance], watched: Address, led_by: Address | None, tmp_path: Path
) -> None:
    everything = estate(tmp_path, {}, {})
    for node, instance in zip(everything.nodes, instances, strict=True):
        knows(node, "redis", roles=[instance], sentinels=[])
    assert leader_above(everything, watched) == led_by
