"""What a drill of the failover says of what its client saw."""

from __future__ import annotations

import pytest

from tasks.core.remote import Unreadable
from tasks.redis.drill import Measured, parsed

WELL = ["10.0.0.1 6379", "10.0.0.2 6379", "124", "187", "0", ""]


def test_what_the_client_prints_is_understood() -> None:
    found = parsed(WELL)
    assert found == Measured("10.0.0.1:6379", "10.0.0.2:6379", 1.24, 187, 0, "")
    assert found.failure == ""


@pytest.mark.parametrize(
    ("changed", "failure"),
    [
        ({"lost": 3}, "3 of 187 acknowledged writes are lost"),
        ({"after": "10.0.0.1:6379"}, "10.0.0.1:6379 still leads: see the log of the Sentinels"),
        ({"wrong": "x does not"}, "the estate is not whole again: x does not"),
    ],
)
def test_a_drill_that_has_not_passed_says_why(changed: dict[str, object], failure: str) -> None:
    assert parsed(WELL)._replace(**changed).failure == failure  # type: ignore[arg-type]


@pytest.mark.parametrize("lines", [[], WELL[:3], [*WELL[:2], "x", *WELL[3:]]])
def test_a_client_that_was_cut_off_is_no_success(lines: list[str]) -> None:
    with pytest.raises(Unreadable, match="cut off"):
        parsed(lines)
