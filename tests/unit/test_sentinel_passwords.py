"""Sentinels: a password is valid before one comes with it, and the old one goes at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.redis.acl import hashed
from tasks.redis.topology import User
from tasks.sentinel import passwords
from tasks.sentinel.files import configuration, files_of, fixed, managed_file
from tasks.sentinel.forget import View
from tests.unit import helpers
from tests.unit.test_components import knows

OLD, NEW, OTHER = "redis-Secret-2", "redis-Secret-3", "redis-Secret-4"
PATH = "/etc/redis/sentinel-26379.conf"


def sentinel(directory: Path, *accepted: str, rights: str = "~* &* +@all", **data: Any) -> Node:
    """A host with a Sentinel that accepts these passwords."""
    host = {"address": "10.0.0.1", **data}
    groups = {"redis": ["one"], "sentinel": ["one"]}
    (node,) = helpers.estate({"one": host}, groups, directory).nodes
    words = "".join(f"#{hashed(each)} " for each in accepted)
    knows(
        node, "sentinel", views={26379: View(users=(User.of(f"user default on {words}{rights}"),))}
    )
    return node


def commands(change: Change | None) -> list[str]:
    return change.variables["PASSWORDS_26379"].splitlines() if change else []


def rules(*accepted: str) -> str:
    return f"reset on ~* &* +@all {' '.join(f'#{hashed(each)}' for each in accepted)}"


BOTH = {"redis_password": NEW, "redis_password_previous": OLD}
ALONE = {"redis_password": NEW}


@pytest.mark.parametrize(
    ("data", "accepted", "added", "exact"),
    [
        # A rotation: its beginning, what a run that was cut off has left, its end.
        (BOTH, [OLD], [f"ACL SETUSER default #{hashed(NEW)}"], None),
        (BOTH, [OLD, NEW], [], None),
        (ALONE, [OLD, NEW], [], [NEW]),
        (ALONE, [NEW], [], None),
        # Back later, with the password of before.
        (BOTH, [OTHER], [f"ACL SETUSER default #{hashed(NEW)} #{hashed(OLD)}"], [NEW, OLD]),
        # At once, and by hand.
        (ALONE, [OLD], [f"ACL SETUSER default #{hashed(NEW)}"], [NEW]),
        (ALONE, [NEW, OTHER], [], [NEW]),
    ],
)
def test_both_before_one(
    data: dict[str, str],
    accepted: list[str],
    added: list[str],
    exact: list[str] | None,
    tmp_path: Path,
) -> None:
    node = sentinel(tmp_path, *accepted, **data)
    assert commands(passwords.added(node)) == added
    ends = [f"ACL SETUSER default {rules(*exact)}", "CLIENT KILL USER default"] if exact else []
    assert commands(passwords.exact(node)) == ends


def test_who_may_not_set_it_right_restarts(tmp_path: Path) -> None:
    node = sentinel(tmp_path, OLD, rights="~* &* +@all -acl", **BOTH)
    assert passwords.added(node) is None and passwords.exact(node) is None


def test_without_a_password_none_is_missing_and_that_ends(tmp_path: Path) -> None:
    # Redis forgets all passwords of a user that gets nopass.
    node = sentinel(tmp_path, rights="nopass ~* &* +@all", **ALONE)
    assert passwords.added(node) is None
    assert commands(passwords.exact(node))[1:] == ["CLIENT KILL USER default"]


def test_a_file_with_another_password_asks_for_no_restart(tmp_path: Path) -> None:
    """It is as old as it was, so that it does not look changed since the start."""
    before, both, after = (sentinel(tmp_path, OLD, **data) for data in ({}, BOTH, ALONE))
    assert len({fixed(node, 26379) for node in (before, both, after)}) == 1
    text = configuration(both, 26379)
    assert f'requirepass "{OLD}"' in text and f'sentinel sentinel-pass "{NEW}"' in text
    assert f"user default {rules(NEW, OLD)}\n" in text
    shown = files.mask(text, managed_file(both, 26379).secret)
    assert not [each for each in (OLD, NEW, hashed(OLD), hashed(NEW)) if each in shown]
    content = configuration(before, 26379)
    for stands, kind in ((content, "same"), (f"{content}bind 0.0.0.0\n", "file")):
        found = Found("file", "640", "root", "redis", stands.encode(), "0", "0")
        change = files.compare([managed_file(both, 26379)], {PATH: found})
        assert change is not None and change.variables["ORDERS"].startswith(f"{kind} 640 ")
    others = [each for each in files_of(both) if isinstance(each, files.File) and each.path != PATH]
    assert not [each for each in others if each.live]
