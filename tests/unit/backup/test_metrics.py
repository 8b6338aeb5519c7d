"""The health check as Prometheus reads it: names, escapes, and a file that is always whole."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from backup.config import Config, Endpoint, Exporter, Exporters
from backup.health import hosts, metrics
from backup.health.row import Level, Limits, Row, measured
from backup.job import Log
from tests.unit.backup import builders

NOW = "2026-01-02T00:00:00+00:00"
_LINE = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="([^"\\\n]|\\[\\"n])*",?)*\})? \S+')


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    shown = tmp_path / "shown"
    shown.mkdir()
    monkeypatch.setattr(metrics, "SHOWN", shown)
    made = builders.config(tmp_path)
    made.logs.mkdir(parents=True, exist_ok=True)
    return made


def written(config: Config, rows: list[Row]) -> str:
    metrics.write(config, Log(config.logs / "backup.log", "health"), rows, NOW)
    text = (config.logs / "datatier.prom").read_text()
    assert [line for line in text.splitlines() if not _LINE.fullmatch(line)] == []
    return text


def test_every_row_has_its_level_value_and_limits(config: Config) -> None:
    rows = [measured("disk /", 90, "", Limits(85, 95.5), "%"), Row("redis x", Level.UNKNOWN, "")]
    lines = written(config, rows).splitlines()
    assert "datatier_health_last_run_timestamp_seconds 1767312000.0" in lines
    assert 'datatier_health_level{check="disk /"} 1.0' in lines
    assert 'datatier_health_level{check="redis x"} 3.0' in lines
    assert 'datatier_health_value{check="disk /",unit="%"} 90.0' in lines
    assert 'datatier_health_limit{check="disk /",level="warning"} 85.0' in lines
    assert 'datatier_health_limit{check="disk /",level="critical"} 95.5' in lines


def test_what_a_name_has_is_escaped_and_read_back(config: Config) -> None:
    name = 'disk /a"b\\c\nd{x="y"}, 5'
    text = written(config, [Row(name, Level.OK, "", value=float("inf"))])
    samples = hosts.parsed(text, 0, 1)
    assert samples.by("datatier_health_level", "check") == {name: 0}
    assert samples.by("datatier_health_value", "check") == {name: float("inf")}


def test_each_metric_is_told_once_and_with_its_type(config: Config) -> None:
    text = written(config, [Row("a", Level.OK, ""), Row("b", Level.OK, "")])
    names = re.findall(r"(?m)^# TYPE (\w+) gauge$", text)
    assert len(names) == len({*names})
    assert {*re.findall(r"(?m)^\w+", text)} == {*names}


def test_it_is_shown_where_this_host_has_an_exporter(config: Config) -> None:
    host = Exporter("db1", Endpoint("127.0.0.1", 9100), ("/",))
    other = replace(config, exporters=Exporters((host,), "exporter-Secret-11"))
    written(other, [])
    assert [*metrics.SHOWN.iterdir()] == []
    here = replace(config, exporters=Exporters((replace(host, local=True),), "x"))
    text = written(here, [])
    (shown,) = metrics.SHOWN.iterdir()
    assert shown.name == "datatier.prom"
    assert shown.read_text() == text
    assert shown.stat().st_mode & 0o777 == 0o644


def test_a_link_leads_it_nowhere(config: Config, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (config.logs / ".datatier.prom.partial").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        metrics.write(config, Log(config.logs / "backup.log", "health"), [], NOW)
    assert victim.read_text() == "kept"
