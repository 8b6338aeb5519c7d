"""What a scratch server is told, and what it says of tablespaces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backup.job import Failed
from backup.postgres import repository, scratch
from backup.postgres.sandbox import Sandbox

MOMENT = "2026-11-22 14:03:00+00:00"


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (scratch.Target("L", name="p"), ["--type=name", "--target=p", "current"]),
        (scratch.Target("L", time=MOMENT), ["--type=time", f"--target={MOMENT}", "latest"]),
        (scratch.Target("L", time=MOMENT, timeline=3), ["--type=time", f"--target={MOMENT}", "3"]),
        (scratch.Target("L", time=MOMENT, lsn="0/5"), ["--type=lsn", "--target=0/5", "latest"]),
    ],
)
def test_a_target_is_said_in_full(target: scratch.Target, options: list[str]) -> None:
    *kind, timeline = options
    promoted = ["--target-action=promote", f"--target-timeline={timeline}"]
    assert target.options() == [*kind, *promoted]


def test_the_end_of_a_backup_has_no_timeline_to_choose() -> None:
    options = scratch.Target("L", time=MOMENT, lsn="immediate").options()
    assert options[0] == "--type=immediate"
    assert not any(option.startswith("--target-timeline") for option in options)


@pytest.mark.parametrize(
    ("first", "end", "found"),
    [
        ("000000000000005", "0/5000148", [("0/5000000", "000000020000000000000005")]),
        ("00000000000005", "0/5000000", []),
        (
            "00000000000000FF",
            "1/28",
            [("0/FF000000", "0000000200000000000000FF"), ("1/0", "000000020000000100000000")],
        ),
        ("00000000000000FF", "1/0", [("0/FF000000", "0000000200000000000000FF")]),
    ],
)
def test_segments_up_to_a_position(first: str, end: str, found: list[tuple[str, str]]) -> None:
    assert repository.up_to(f"00000001{first:>016}", 2, end) == found


@pytest.mark.parametrize(
    ("line", "location"),
    [
        ('FATAL:  directory "/srv/a b" does not exist', "/srv/a b"),
        (
            'FATAL:  could not set permissions on directory "/srv/x": Operation not permitted',
            "/srv/x",
        ),
        ('FATAL:  could not open directory "pg_tblspc/1": Permission denied', None),
        ('FATAL:  could not open directory "/srv/x": Permission denied', None),
    ],
)
def test_the_wish_for_a_tablespace_is_known(line: str, location: str | None) -> None:
    found = scratch._MAKES_TABLESPACE.search(line)
    assert (found and found[1]) == location


def test_a_place_is_given_once_and_only_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "locations").write_text("/srv/x\n")
    apart = Sandbox(tmp_path, tmp_path)
    shown = (f"{tmp_path}/server/link/x", f"{apart.repository}/link/x", "/etc/x", "/srv/x/y")
    for location in ("/srv/x", "/srv/../root", "srv", *shown):
        with pytest.raises(Failed, match=re.escape(f"a tablespace in {location}")):
            apart.add(location)
    with pytest.raises(Failed, match="cannot have here: no namespace"):
        Sandbox(tmp_path, tmp_path, exposed="no namespace").add("/srv/y")


def test_what_a_server_died_of_is_not_what_it_told_those_who_came_too_early() -> None:
    log = [
        '2026-11-27 06:24:32.9 UTC [11] FATAL:  directory "/srv/young" does not exist',
        "2026-11-27 06:24:33.0 UTC [19] FATAL:  the database system is in recovery mode",
    ]
    assert scratch.died_of("\n".join(log)) == 'FATAL:  directory "/srv/young" does not exist'
    assert scratch.died_of(log[1]) == ""
