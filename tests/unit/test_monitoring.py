"""What monitoring reads: rules, scrape configuration, routes and the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.backup.measured import is_told_elsewhere
from tasks.core.estate import Node
from tasks.core.files import File
from tasks.core.preflight import System
from tasks.core.services import Status
from tasks.prometheus import activation, files, layout, rules, service
from tasks.prometheus.probes import Uses, lacks
from tests.e2e.alerts import FAULTS
from tests.unit import helpers
from tests.unit.test_components import knows

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "templates/monitoring"
HOSTS: dict[str, dict[str, Any]] = {
    "db1": {"address": "10.0.0.1", "monitoring_enabled": True},
    "watch1": {"address": "10.0.0.9", "monitoring_enabled": True},
}
GROUPS = {"postgres": ["db1"], "backup": ["db1"], "monitoring": ["watch1"]}


def made(directory: Path, groups: dict[str, list[str]] = GROUPS, **data: Any) -> Node:
    hosts = {name: {**each, **data} for name, each in HOSTS.items()}
    everything = helpers.estate(hosts, groups, directory)
    assert helpers.problems(everything) == []
    for each in everything.nodes:
        each.system = System(systemd=True)
    return helpers.node(everything, "watch1")


def refused(directory: Path, groups: dict[str, list[str]] = GROUPS, **data: Any) -> list[str]:
    hosts = {name: {**each, **data} for name, each in HOSTS.items()}
    return helpers.problems(helpers.estate(hosts, groups, directory))


# --- Rules ---------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    told = yaml.safe_load((MONITORING / "rules.yml").read_text())
    return [rule for group in told["groups"] for rule in group["rules"]]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text())
    return {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_each_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        told = rule["annotations"]
        assert told["summary"] and told["description"]
        page, _, section = told["runbook"].partition("#")
        assert section in anchors(ROOT / page), rule["alert"]


def test_each_alert_has_a_fault_that_fires_it() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert sorted(names) == sorted(fault.alert for fault in FAULTS)


def test_each_alert_is_explained() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"(?m)^\| `(Datatier\w+)` \|", page)
    assert sorted(rows) == sorted(rule["alert"] for rule in alerts())


# --- The dashboard -------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return told


def _sources(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        yield from [part["datasource"]] if isinstance(part.get("datasource"), dict) else []
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _sources(each)


def test_the_dashboard_asks_the_prometheus_that_is_chosen_there() -> None:
    first = dashboard()["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert {each["uid"] for each in _sources(dashboard())} == {"${datasource}"}


def test_panels_have_ids_of_their_own_and_none_lies_on_another() -> None:
    panels = dashboard()["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken = list[tuple[int, int]]()
    for each in panels:
        at = each["gridPos"]
        assert at["x"] + at["w"] <= 24
        columns, lines = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        taken += [(x, y) for x in columns for y in lines]
    assert len(set(taken)) == len(taken)


def test_each_query_of_a_panel_has_a_name_of_its_own() -> None:
    for each in dashboard()["panels"]:
        names = [target["refId"] for target in each["targets"]]
        assert names and len(set(names)) == len(names)


# --- Configuration -------------------------------------------------------------------------------


def test_all_exporters_are_asked_by_their_way_of_speaking(tmp_path: Path) -> None:
    told = yaml.safe_load(files.scrapes(made(tmp_path, tls_enabled=True)))
    first = told["scrape_configs"][0]
    assert [(each["targets"], each["labels"]) for each in first["static_configs"]] == [
        (["10.0.0.1:9100"], {"host": "db1", "__scheme__": "https"}),
        (["10.0.0.9:9100"], {"host": "watch1", "__scheme__": "https"}),
    ]
    assert all("tls_config" in each for each in told["scrape_configs"])
    assert told["alerting"]["alertmanagers"][0]["scheme"] == "https"


def test_only_one_file_has_the_password(tmp_path: Path) -> None:
    one = made(tmp_path)
    password = one.estate.secrets.get("MONITORING_PASSWORD")
    having = [
        entry.path
        for entry in files.files_of(one)
        if isinstance(entry, File) and password in entry.content
    ]
    assert having == [layout.PASSWORD]
    assert not any(password in str(words) for words in service.arguments(one).values())


@pytest.mark.parametrize(
    ("smarthost", "requires"), [("localhost:25", False), ("mail.example.org:587", True)]
)
def test_channels_are_receivers(smarthost: str, requires: bool, tmp_path: Path) -> None:
    one = made(
        tmp_path,
        alertmanager_webhook="https://example.org/a?b=1&c=<2>",
        alertmanager_slack="https://hooks.example.org/x",
        alertmanager_mail="ops@example.org, dev@example.org",
        alertmanager_mail_from="db@example.org",
        alertmanager_smarthost=smarthost,
    )
    (receiver,) = yaml.safe_load(files.routes(one))["receivers"]
    assert receiver["webhook_configs"][0]["url"] == "https://example.org/a?b=1&c=<2>"
    assert receiver["slack_configs"][0]["api_url"] == "https://hooks.example.org/x"
    assert receiver["email_configs"][0]["require_tls"] is requires


def test_without_a_channel_alerts_are_kept_all_the_same(tmp_path: Path) -> None:
    told = yaml.safe_load(files.routes(made(tmp_path)))
    assert told["receivers"] == [{"name": "datatier"}]


def test_who_backs_up_knows_that_alertmanager_tells(tmp_path: Path) -> None:
    """The health table asks for a channel of its own only where there is no other."""
    assert not is_told_elsewhere(made(tmp_path).estate)
    told = made(tmp_path, alertmanager_webhook="https://example.org/a")
    assert is_told_elsewhere(told.estate)


def test_nothing_is_heard_from_others_of_its_kind(tmp_path: Path) -> None:
    words = service.arguments(made(tmp_path))
    assert "--cluster.listen-address=" in words[layout.ALERTMANAGER]
    listening = [each for each in words[layout.PROMETHEUS] if "web.listen" in each]
    assert listening == ["--web.listen-address=10.0.0.9:9090"]


def test_their_ports_are_open_to_no_host_of_the_estate(tmp_path: Path) -> None:
    assert {(each.port, each.open_to) for each in rules.listens(made(tmp_path))} == {
        (9090, ()),
        (9093, ()),
    }


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "data", "said"),
    [
        (
            {**GROUPS, "monitoring": ["db1", "watch1"]},
            {},
            "db1: group monitoring: should have one host: each would tell each alert",
        ),
        (
            GROUPS,
            {"monitoring_enabled": False},
            "watch1: group monitoring: needs monitoring_enabled = True, best on all hosts",
        ),
        (
            {"postgres": ["db1"], "monitoring": ["watch1"]},
            {},
            "watch1: group monitoring: needs a host in group 'backup', whose health check it shows",
        ),
        (
            GROUPS,
            {"alertmanager_mail": "ops@example.org"},
            "watch1: alertmanager_mail_from: is missing: alertmanager_mail needs a sender",
        ),
        (
            GROUPS,
            {"alertmanager_webhook": "ftp://x"},
            "watch1: alertmanager_webhook: should be a URL that begins with http:// or https://",
        ),
        (
            GROUPS,
            {"prometheus_retention": 3},
            "watch1: prometheus_retention: unknown key (prometheus_retention_gb?)",
        ),
        (
            {**GROUPS, "docker": ["watch1"]},
            {},
            "watch1: group docker: needs a host without monitoring: it runs the whole stack",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    groups: dict[str, list[str]], data: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, groups, **data)


def test_a_docker_host_does_not_get_it_unasked(tmp_path: Path) -> None:
    everything = helpers.estate({"d1": {}}, {"docker": ["d1"]}, tmp_path)
    assert not everything.in_group("monitoring")
    assert rules.contradictions(everything) == []


def test_a_password_whose_ends_would_be_lost_is_refused(tmp_path: Path) -> None:
    secrets = {**helpers.SECRETS, "MONITORING_PASSWORD": "'ends-with-a-blank '"}
    env = tmp_path / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    env.chmod(0o600)
    said = "watch1: MONITORING_PASSWORD: should neither begin nor end with a blank"
    assert said in refused(tmp_path)


# --- What a server uses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "used", "is_other"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"b": 1}, True),
        ({"a": [1, 2]}, {"a": [1]}, True),
        ({"a": [{"b": "x"}]}, {"a": [{"b": "x", "c": 1}]}, False),
        ({"a": [{"b": "x"}]}, {"a": [{"b": "y"}]}, True),
        ({"repeat_interval": "24h"}, {"repeat_interval": "1d"}, False),
        ({"url": "https://a"}, {"url": "<secret>"}, False),
        ({"a": {"b": 1}}, {"a": None}, True),
    ],
)
def test_defaults_of_a_server_are_no_difference(wanted: Any, used: Any, is_other: bool) -> None:
    assert lacks(wanted, used) is is_other


def test_another_configuration_than_that_of_the_settings_is_a_reload(tmp_path: Path) -> None:
    one = made(tmp_path)
    told = yaml.safe_load(files.scrapes(one))
    runs = {name: Status(True, True, "", "") for name in layout.DEFAULTS}
    said = {name: [f"/usr/bin/{name}", *words] for name, words in service.arguments(one).items()}
    knows(one, "monitoring", services=runs, uses=Uses(), **said)
    for each in service.services_of(one):
        wanted, _ = activation._due(one, each)
        runs[each.name] = replace(runs[each.name], restart=wanted.restart, reload=wanted.reload)
    knows(one, "monitoring", services=runs, uses=Uses(told), **said)
    assert activation.due_activation(one) is None
    told["scrape_configs"][0]["static_configs"].pop()
    change = activation.due_activation(one)
    assert change is not None
    assert change.lines == ["prometheus: reload (it uses another configuration)"]
    knows(one, "monitoring", services=runs, uses=Uses(), **{**said, "prometheus": ["x"]})
    change = activation.due_activation(one)
    assert change is not None
    assert change.lines == ["prometheus: restart (it runs with other arguments)"]
