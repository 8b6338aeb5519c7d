"""The status page: whole, escaped, without script, network and secrets."""

from __future__ import annotations

import grp
import os
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.config import Endpoint, Limits, Pooler
from backup.health import history, measures, page, parts, remedies, trends
from backup.health.history import DAY, FINE, Point
from backup.health.row import Level, Row, measured
from backup.health.slow import Statement
from backup.health.trends import Window
from backup.job import Log
from tests.unit.backup import builders

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
_VOID = {"meta", "link", "br", "img", "input", "hr"}
KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "section", "div", "span", "p"),
    *("h1", "h2", "h3", "strong", "code", "ul", "li", "svg", "path", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Seen(HTMLParser):
    """What a parser finds: elements that are closed in order, their attributes, the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.open = "", list[str]()
        self.tags, self.attributes = set[str](), set[str]()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def view(directory: Path, rows: list[Row], **changes: Any) -> parts.View:
    values: dict[str, Any] = {
        "config": builders.config(directory),
        "now": NOW,
        "old_after": timedelta(minutes=15),
        "rows": rows,
        "remedies": remedies.remedies(),
        "backups": [],
        "checks": {},
        "trends": [],
        "slow": [],
    }
    return parts.View(**{**values, **changes})


def statement(text: str, name: str = "app") -> Statement:
    return Statement("1", name, name, 1, 2.0, 3.0, 4, text)


HOSTILE = st.one_of(
    st.text(),
    st.text(alphabet="<>&'\"/!-=`\0\n\ufeffscript "),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "--><img src=x onerror=alert(1)>",
            "</style><script>",
            "]]>",
            "<!--",
            "&lt;script&gt;",
            "$body",
            "javascript:alert(1)",
            "\u202e\udcff",
        ]
    ),
)


@given(hostile=HOSTILE)
def test_nothing_that_others_name_is_more_than_text(
    tmp_path_factory: pytest.TempPathFactory, hostile: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "hostile"
    config = builders.config(directory, databases=(hostile,), stack=hostile, host=hostile)
    row = Row(hostile, Level.CRITICAL, hostile, hostile, 1.0, hostile, hostile)
    line = parts.Trend(row, [(Window(hostile, DAY, FINE), [Point(0, Level.OK, 1.0)])])
    backup = builders.manifest("full", hostile, NOW, copies=(hostile,))
    seen = view(
        directory,
        [row, Row("redis x", Level.OK, hostile, follows=hostile)],
        config=config,
        remedies=[remedies.Remedy("…", hostile, hostile)],
        backups=[backup],
        checks={"drill": {"ended": NOW.isoformat(), "outcome": hostile, "why": hostile}},
        trends=[line],
        slow=[statement(hostile, hostile)],
    )
    found = Seen(page.text(seen))
    assert found.tags <= KNOWN
    assert not {each for each in found.attributes if each.startswith("on")}
    assert not found.attributes & {"src", "href", "srcset", "action", "data", "xlink:href"}


def test_no_script_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    """The policy forbids what should not be there in the first place."""
    made = page.text(view(tmp_path, [Row("postgres", Level.OK, "17")]))
    assert "default-src 'none'; style-src 'unsafe-inline'" in made
    assert not re.search(r"url\(|@import|https?:|<script|<link|<iframe", made)
    assert made.isascii() or '<meta charset="utf-8">' in made


def test_what_is_wrong_comes_first_with_what_to_do(tmp_path: Path) -> None:
    disk = measured("disk /backups", 97.0, "97 % used", Limits(85, 95), "%")
    rows = [
        Row("postgres", Level.OK, "17"),
        Row("postgres app indexes", Level.WARNING, "not valid: one", since=NOW.isoformat()),
        replace(disk, since="2026-01-15T11:00:00+00:00"),
    ]
    text = Seen(page.text(view(tmp_path, rows))).text
    begin, end = text.index("What is wrong now"), text.index("Topology")
    wrong = text[begin:end]
    assert wrong.index("disk /backups") < wrong.index("postgres app indexes")
    assert "97 % used (warning 85 %, critical 95 %)Since 2026-01-15 11:00 UTC." in wrong
    assert "What to do: REINDEX INDEX CONCURRENTLY, or drop it" in wrong
    assert "runbook (docs/runbooks.md#disk-and-inodes)" in wrong
    assert "What is wrong" not in Seen(page.text(view(tmp_path, rows[:1]))).text


def test_no_secret_of_the_configuration_is_shown(tmp_path: Path) -> None:
    said = "could not log in with canary-backup-role"
    seen = view(tmp_path, [Row("postgres", Level.CRITICAL, said)], slow="canary-redis is wrong")
    made = page.text(seen)
    assert "canary" not in made
    assert "could not log in with &lt;secret&gt;" in made


@pytest.mark.parametrize("each", [*measures.OF_THE_SERVER, *measures.OF_A_DATABASE])
def test_each_measure_has_a_remedy(each: measures.Measure) -> None:
    of_a_database = each in measures.OF_A_DATABASE
    name = f"postgres app {each.name}" if of_a_database else each.name
    found = remedies.remedy(remedies.remedies(), name)
    assert found is not None
    assert found.row == name.replace("app", "DATABASE")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("postgres", "postgres"),
        ("redis 10.0.0.1:6379", "redis …"),
        ("redis 10.0.0.1:6379 memory", "redis … memory"),
        ("redis-sentinel 10.0.0.1:26379 quorum", "redis-sentinel … quorum"),
        ("pgbouncer 10.0.0.1:6432 waiting", "pgbouncer … waiting"),
        ("disk /backups", "disk …"),
        ("inodes /backups", "inodes …"),
        ("postgres: the rest", "…: the rest"),
        ("backup-service", "backup-service"),
    ],
)
def test_a_row_has_the_remedy_that_says_most_of_it(name: str, row: str) -> None:
    found = remedies.remedy(remedies.remedies(), name)
    assert found is not None
    assert found.row == row


def test_a_row_that_the_page_does_not_know_has_none() -> None:
    assert remedies.remedy(remedies.remedies(), "of another release") is None
    assert remedies.remedies(Path("/nowhere")) == []


def _redis(tmp_path: Path, *followed: str) -> str:
    nodes = tuple(Endpoint("10.0.0.1", port) for port in range(1, len(followed) + 1))
    config = builders.config(tmp_path)
    assert config.redis is not None
    config = replace(config, postgres=None, redis=replace(config.redis, nodes=nodes))
    rows = [
        Row(f"redis {node}", Level.OK, "said", follows=leader and f"10.0.0.1:{leader}")
        for node, leader in zip(nodes, followed, strict=True)
    ]
    made = page.text(view(tmp_path, rows, config=config))
    tree = made[made.index("Topology") : made.index("Restored")]
    told = re.findall(r"<ul>|</ul>| redis 10\.0\.0\.1:(\d)", tree)
    marks = re.findall(r"<(/?)ul>|redis 10\.0\.0\.1:(\d)", tree)
    assert len(told) == len(marks)
    return "".join(number or (")" if end else "(") for end, number in marks)


@pytest.mark.parametrize(
    ("followed", "tree"),
    [
        (("", "1", "1"), "(1(23))"),
        (("2", "", "1"), "(2(1(3)))"),
        (("", "", ""), "(123)"),
        (("9", "1", ""), "(1(2)3)"),
    ],
)
def test_who_follows_whom(tmp_path: Path, followed: tuple[str, ...], tree: str) -> None:
    assert _redis(tmp_path, *followed) == tree


def test_replicas_that_follow_each_other_are_shown(tmp_path: Path) -> None:
    shown = _redis(tmp_path, "2", "1", "")
    assert sorted(re.sub(r"[()]", "", shown)) == ["1", "2", "3"]


def test_poolers_are_below_their_server(tmp_path: Path) -> None:
    config = builders.config(tmp_path)
    assert config.postgres is not None
    poolers = (Pooler(Endpoint("10.0.0.9", 6432)),)
    config = replace(config, redis=None, postgres=replace(config.postgres, poolers=poolers))
    text = Seen(page.text(view(tmp_path, [], config=config))).text
    topology = text[text.index("Topology") : text.index("Restored")]
    assert re.search("postgres.*pgbouncer 10.0.0.9:6432: not looked at", topology)


def test_hosts_are_shown_and_what_is_measured_on_them_is_drawn(tmp_path: Path) -> None:
    disk = measured("host db1 disk /", 40.0, "40 % used", Limits(85, 95), "%")
    memory = measured("host db1 memory", 20.0, "20 % used", Limits(90, 0), "%")
    rows = [Row("host db1", Level.OK, "reached"), disk, memory]
    text = Seen(page.text(view(tmp_path, rows))).text
    topology = text[text.index("Topology") : text.index("Restored")]
    assert topology.endswith("Hostsok host db1: reached")
    assert trends.drawn(rows) == [disk, memory]


def test_backups_have_their_size_and_what_verified_them(tmp_path: Path) -> None:
    kept = [
        builders.manifest("full", "app", NOW - timedelta(days=2), bytes=2_500_000, verified=False),
        builders.manifest("full", "app", NOW - timedelta(days=1), bytes=5_000_000, copies=("s3",)),
        builders.manifest("incremental", "stack", NOW - timedelta(hours=1)),
    ]
    drill = {
        "outcome": "passed",
        "ended": NOW.isoformat(),
        "postgres": {"rto": 48.2, "rpo": 7300},
        "redis": {"rto": 1.2, "rpo": 30},
    }
    made = page.text(view(tmp_path, [], backups=kept, checks={"drill": drill}))
    text = Seen(made).text
    assert "Newest: 2026-01-14 12:01 UTC, 5.0 MB in 60 s; read back whole; s3" in text
    assert made.count('class="unverified"') == 1 and made.count('class="verified"') == 2
    # What should be there and is not has a line too.
    assert "redis of redisNewest: none" in text
    assert "postgres: restored in 48 s (RTO); what was lost: 2 h (RPO)" in text
    assert "never last verify" in text


def test_a_line_is_broken_where_there_is_nothing_and_marked_where_it_was_not_well() -> None:
    row = measured("disk /", 50.0, "50 %", Limits(85, 95), "%")
    moments = [0, 300, 600, 7200, 7500]
    points = [Point(m, Level.OK, 50.0) for m in moments] + [Point(DAY, Level.CRITICAL, 96.0)]
    paths = trends.chart(row, points, Window("a day", DAY, FINE), DAY).findall("path")
    assert [path.get("class") for path in paths] == [
        "limit warning",
        "limit critical",
        "line",
        "mark critical",
    ]
    line = str(paths[2].get("d"))
    assert line.count("M") == 3
    assert all(-0.1 <= float(y) <= 60 for y in re.findall(r"[ML][\d.]+ (-?[\d.]+)", line))


@pytest.mark.parametrize("value", [0.0, 1e18, -5.0])
def test_any_number_has_a_line(value: float) -> None:
    row = Row("pgbouncer x waiting", Level.OK, "", value=value, unit="s")
    made = trends.chart(row, [Point(10, Level.OK, value)], Window("a day", DAY, FINE), DAY)
    assert "nan" not in str(made.find("path").get("d"))  # type: ignore[union-attr]


def test_a_page_of_many_points_stays_small() -> None:
    row = Row("disk /", Level.OK, "", value=1.0, unit="%")
    points = [Point(n * FINE, Level.OK, float(n % 100)) for n in range(8640)]
    window = Window("30 days", 30 * DAY, FINE)
    path = trends.chart(row, points, window, 30 * DAY).findall("path")[-1]
    assert len(str(path.get("d"))) < 3000


@pytest.mark.parametrize(
    ("schedule", "minutes"), [("*/5 * * * *", 15), ("0 * * * *", 125), ("", None)]
)
def test_it_is_old_after_two_runs(schedule: str, minutes: int | None) -> None:
    found = page._old_after(schedule, NOW)
    assert (found and found.total_seconds() / 60) == minutes


def test_it_says_itself_when_it_is_old(tmp_path: Path) -> None:
    made = page.text(view(tmp_path, []))
    assert "If it is later than 2026-01-15 12:15 UTC" in made
    assert 'class="old" style="animation-delay: 900s"' in made
    assert "animation-delay" not in page.text(view(tmp_path, [], old_after=None))


def test_it_is_written_whole_for_those_who_may_read_logs(tmp_path: Path) -> None:
    config = builders.config(tmp_path, postgres=None, redis=None)
    config.logs.mkdir()
    log = Log(config.logs / "backup.log", "health")
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "status.html").symlink_to(other)
    page.write(config, log, [Row("disk /", Level.OK, "said", value=3.0, unit="%")], NOW.isoformat())
    made = tmp_path / "status.html"
    Seen(made.read_text())
    assert other.read_text() == "theirs" and not made.is_symlink()
    if os.geteuid() == 0:
        found = made.stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert grp.getgrgid(found.st_gid).gr_name == "adm"
    assert not list(tmp_path.glob(".status*"))


def test_without_a_history_there_is_a_page_without_trends(tmp_path: Path) -> None:
    config = builders.config(tmp_path, postgres=None, redis=None)
    (config.logs / history.FILE).mkdir(parents=True)
    log = Log(config.logs / "backup.log", "health")
    page.write(config, log, [Row("disk /", Level.OK, "said", value=3.0)], NOW.isoformat())
    assert "Trends" not in (tmp_path / "status.html").read_text()
    assert "status page: no trends: " in (config.logs / "backup.log").read_text()
