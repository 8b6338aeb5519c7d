"""What Redis and PgBouncer say of themselves, compared with what they should use."""

from __future__ import annotations

import pytest

from tasks.core import live
from tasks.core.services import Status


@pytest.mark.parametrize(
    ("wanted", "used", "same"),
    [
        ("512mb", "536870912", True),
        ("1g", "1000000000", True),
        ("10.50", "10.5", True),
        ("yes", "1", True),
        ("no", "yes", False),
        ("allkeys-lru", "noeviction", False),
        ("5%", "5%", True),
        ("", "x", False),
    ],
)
def test_words_that_mean_the_same(wanted: str, used: str, same: bool) -> None:
    assert live.is_same(wanted, used) is same


def test_what_the_server_spells_its_own_way_is_not_compared() -> None:
    wanted = {"save": "900 1", "limits": "pubsub 32mb 8mb 60", "hz": "10", "gone": "1"}
    uses = {"save": "", "limits": "normal 0 0 0", "hz": "50"}
    found = {"save": ("", "900 1"), "hz": ("50", "10")}
    assert live.moved(wanted, uses, plain=["save"]) == found


def test_no_secret_is_said() -> None:
    found = {"masterauth": ("hunter2", "right"), "hz": ("", "10")}
    assert live.sentences("redis", found) == [
        "redis: hz is (empty) at run time, not 10",
        "redis: masterauth was changed at run time",
    ]


def test_what_is_due() -> None:
    now = Status(True, True, "R", "L", frozenset({"bind=1", "hz"}))
    assert live.status(now, [], ["bind"]) == now
    assert live.status(now, ["hz"], ["bind"]).outdated
    behind = live.status(now, ["bind", "hz"], ["bind"])
    assert (behind.restart, behind.outdated) == ("behind", False)
    assert {key.partition("=")[0] for key in behind.keys} == {"bind", "hz"}
    assert behind.keys != now.keys
