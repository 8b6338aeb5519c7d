"""Cron expressions: what Debian's cron takes, when it starts, and what humans are told."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup import cron

NOW = datetime(2026, 11, 22, 14, 3, 7)  # a Sunday


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("0 2 * * *", "2026-11-22 02:00"),
        ("0 */6 * * *", "2026-11-22 12:00"),
        ("*/5 * * * *", "2026-11-22 14:00"),
        ("3 14 * * *", "2026-11-22 14:03"),
        ("4 14 * * *", "2026-11-21 14:04"),
        ("0 0 * * mon-Fri", "2026-11-20 00:00"),
        ("0 0 * * 7", "2026-11-22 00:00"),
        ("0 0 * * 5-7", "2026-11-22 00:00"),
        ("30 1,13 * feb,APR *", "2026-04-30 13:30"),
        ("0 0 29 2 *", "2024-02-29 00:00"),
        ("10-50/20 3-5 1 jan-mar *", "2026-03-01 05:50"),
        # Both days restricted: either; one that begins with a star: both.
        ("0 0 1 * wed", "2026-11-18 00:00"),
        ("0 0 */2 * wed", "2026-11-11 00:00"),
        ("0 0 14 * */5", "2026-08-14 00:00"),
        ("*/100 * * * *", "2026-11-22 14:00"),
        ("@hourly", "2026-11-22 14:00"),
        ("@daily", "2026-11-22 00:00"),
        ("@midnight", "2026-11-22 00:00"),
        ("@weekly", "2026-11-22 00:00"),
        ("@monthly", "2026-11-01 00:00"),
        ("@yearly", "2026-01-01 00:00"),
        ("@annually", "2026-01-01 00:00"),
    ],
)
def test_the_last_moment(text: str, last: str) -> None:
    assert cron.parse(text).last(NOW) == datetime.fromisoformat(last)


def test_the_moment_itself_is_the_last_one() -> None:
    moment = datetime(2026, 11, 22, 14, 3)
    assert cron.parse("3 14 * * *").last(moment) == moment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("61 2 * * *", "minute: '61' should be 0 to 59"),
        ("0 24 * * *", "hour: '24' should be 0 to 23"),
        ("0 0 0 * *", "day of month: '0' should be 1 to 31"),
        ("0 0 * january *", "month: 'january' should be 1 to 12, or jan|feb|"),
        ("0 0 * * 8", "day of week: '8' should be 0 to 7, or sun|mon|"),
        ("jan * * * *", "minute: 'jan' should be 0 to 59"),
        ("5/2 * * * *", "minute: '5/2': a step needs a range or *, as in */2"),
        ("*/0 * * * *", "minute: step '0' should be a number above 0"),
        ("*/x * * * *", "minute: step 'x' should be a number above 0"),
        ("5-1 * * * *", "minute: '5-1' runs backwards"),
        ("0 0 * * sat-sun", "day of week: 'sat-sun' runs backwards"),
        ("1,,2 * * * *", "minute: '' should be"),
        ("-1 * * * *", "minute: '-1' should be"),
        ("1-2-3 * * * *", "minute: '1-2-3' should be"),
        ("*-5 * * * *", "minute: '*-5' should be"),
        ("1~5 * * * *", "minute: '1~5' should be"),
        ("٣ * * * *", "minute: '٣' should be"),
        ("0 2 * *", "'0 2 * *' has 4 fields; should be five"),
        ("", "'' has 0 fields; should be five"),
        ("0 2 * * * root", "has 6 fields"),
        ("@reboot", "@reboot: should be one of @annually, @daily"),
        ("@Daily", "@Daily: should be one of"),
        ("0 0 31 2,4 *", "'0 0 31 2,4 *' never happens"),
    ],
)
def test_what_is_not_a_schedule(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        cron.parse(text)
    assert message in str(caught.value)


fields = st.sets(st.integers(0, 59), min_size=1, max_size=4)


@given(fields, st.sets(st.integers(0, 23), min_size=1, max_size=3), st.sets(st.integers(0, 6)))
@settings(max_examples=40, deadline=None)
def test_the_last_moment_is_the_first_match_going_back_minute_by_minute(
    minutes: set[int], hours: set[int], weekdays: set[int]
) -> None:
    days = ",".join(map(str, weekdays)) or "*"
    text = f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * {days}"
    moment = NOW.replace(second=0)
    while not (
        moment.minute in minutes
        and moment.hour in hours
        and (not weekdays or moment.isoweekday() % 7 in weekdays)
    ):
        moment -= timedelta(minutes=1)
    assert cron.parse(text).last(NOW) == moment
