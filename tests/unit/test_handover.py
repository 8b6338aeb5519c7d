"""Who leads after a switchover, and what becomes of one that was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core import remote
from tasks.core.estate import Estate
from tasks.postgres import handover, leader
from tasks.postgres.sql import Server
from tests.unit import helpers
from tests.unit.test_replication import AWAY, estate, up

READ = ("datatier_b", "physical", True, None)


def primary(*slots: tuple[str, str, bool, str | None]) -> Server:
    """One that takes writes, and has these slots."""
    server = up()
    return Server("up", 5432, {**server.facts, "slots": [*slots]})


def said(made: Estate, name: str, **what: Any) -> None:
    """More of what a server's host says."""
    remote._cache[helpers.node(made, name).host]["postgres"][1].update(what)


@pytest.mark.parametrize(
    ("stage", "a", "b", "leads"),
    [
        # It had ended, and nothing more: it comes back.
        (("handing", "b"), AWAY, up(follows="10.0.0.1"), "a"),
        (("taken-back", "b"), AWAY, up(follows="10.0.0.1"), "a"),
        # The other one was told, whether it does already or not.
        (("handed", "b"), AWAY, up(follows="10.0.0.1"), "b"),
        (("handed", "b"), AWAY, up(), "b"),
        # Hands have made it a primary again.
        (("handed", "b"), up(), up(follows="10.0.0.1"), "a"),
        # One that left the inventory is no reason to promote another one.
        (("handed", "x"), AWAY, up(follows="10.0.0.1"), "a"),
    ],
)
def test_one_that_was_cut_off_is_ended(
    stage: tuple[str, str], a: Server, b: Server, leads: str, tmp_path: Path
) -> None:
    made = estate(tmp_path, a=a, b=b)
    said(made, "a", handing=stage)
    found = handover._pending(made)
    assert found is not None
    assert (found.old.name, found.new.name) == ("a", leads)
    assert found.is_told == (leads == "b")


def test_nothing_is_handed_over_unasked(tmp_path: Path) -> None:
    made = estate(tmp_path, a=primary(READ), b=up(follows="10.0.0.1"))
    assert handover._pending(made) is None
    handover.want(made.state)
    found = handover._pending(made)
    assert found is not None and (found.old.name, found.new.name) == ("a", "b")


@pytest.mark.parametrize(
    ("slots", "b"),
    [((), up(follows="10.0.0.1")), ([READ], AWAY), ([(*READ[:2], False, None)], up(follows="x"))],
)
def test_one_that_does_not_follow_takes_nothing_over(
    slots: list[tuple[str, str, bool, str | None]], b: Server, tmp_path: Path
) -> None:
    made = estate(tmp_path, a=primary(*slots), b=b)
    handover.want(made.state)
    (problem,) = handover.plan(helpers.node(made, "a"))
    assert "b does not follow a, or is not in this run" in str(problem)


def test_all_who_have_to_know_are_in_the_run(tmp_path: Path) -> None:
    made = estate(tmp_path, a=primary(READ), b=up(follows="10.0.0.1"))
    made.active = [node for node in made.nodes if node.name != "pool"]
    handover.want(made.state)
    problems = [str(each) for each in handover.plan(helpers.node(made, "a"))]
    assert problems == ["a: tasks.postgres.switchover: needs pool as well: run on all hosts"]


@pytest.mark.parametrize(
    ("stage", "away", "needs"),
    [("handing", ["b", "pool", "keeper"], []), ("handed", ["pool"], []), ("handed", ["b"], ["b"])],
)
def test_what_was_cut_off_needs_no_more_hosts_than_it_must(
    stage: str, away: list[str], needs: list[str], tmp_path: Path
) -> None:
    made = estate(tmp_path, a=AWAY, b=up(follows="10.0.0.1"))
    said(made, "a", handing=(stage, "b"))
    made.active = [node for node in made.nodes if node.name not in away]
    problems = [str(each) for each in handover.plan(helpers.node(made, "a"))]
    assert problems == [
        f"a: tasks.postgres.switchover: needs {name} as well: run on all hosts" for name in needs
    ]


def test_a_plan_and_its_run_see_the_switchover_each_in_its_place(tmp_path: Path) -> None:
    made = estate(tmp_path, a=primary(READ), b=up(follows="10.0.0.1"))
    a, b = (helpers.node(made, name) for name in "ab")
    leader.make(made, b)
    assert leader.leader(made) is b
    assert [leader.planned(node) for node in (a, b)] == ["follows", "leads"]
    with leader.assumed(a):
        assert leader.leader(made) is a
        assert leader.planned(b) == ""
    made.state.is_executing = True
    assert leader.leader(made) is a
    leader.make(made, None)
    with pytest.raises(remote.Unreadable, match="has not come to its end: run again"):
        leader.leader(made)
