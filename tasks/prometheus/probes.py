"""What one read of a host tells about its Prometheus and Alertmanager."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tasks.core import files, services
from tasks.core.estate import Node
from tasks.core.files import MARK
from tasks.core.packages import Packages
from tasks.core.remote import Probe
from tasks.core.scripts import assignments, shell
from tasks.prometheus.files import files_of
from tasks.prometheus.layout import ALERTMANAGER, PROMETHEUS
from tasks.prometheus.service import asking, login, services_of, url


@dataclass(frozen=True)
class Uses:
    """What both use now, None where one does not answer; it may hold secrets."""

    prometheus: Any = field(default=None, repr=False)
    alertmanager: Any = field(default=None, repr=False)


def packages_of(node: Node) -> Packages:
    """Both, which listen at no address of others before they are configured."""
    before = shell("before", "prometheus", monitoring_mark=MARK)
    names = [PROMETHEUS, ALERTMANAGER, "curl", *node.place.packages]
    return Packages(names, (before,))


def probes_of(node: Node) -> dict[str, Probe[Any]]:
    """The probes of a host that has both."""
    return {
        "files": files.probe(files_of(node)),
        "services": services.probe(services_of(node), node.place),
        "uses": _uses(node),
        **{name: _command(node, name) for name in (PROMETHEUS, ALERTMANAGER)},
    }


def _command(node: Node, name: str) -> Probe[list[str]]:
    process = f"process() {{ {node.place.process(name)}; }}\n"
    return Probe(process + shell("command", "exporter"), list)


def _uses(node: Node) -> Probe[Uses]:
    urls = {"prometheus": url(node, PROMETHEUS), "alertmanager": url(node, ALERTMANAGER)}
    script = assignments(login(node)) + asking(node) + shell("uses", "prometheus", **urls)

    def parse(lines: list[str]) -> Uses:
        first, second = (_answer(line) for line in lines)
        return Uses(
            _configuration(first.get("data", {}).get("yaml")),
            _configuration(second.get("config", {}).get("original")),
        )

    return Probe(script, parse)


def _answer(line: str) -> dict[str, Any]:
    """What another program at that port answers is no configuration either."""
    try:
        told = json.loads(base64.b64decode(line))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _configuration(text: str | None) -> Any:
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return None


def lacks(wanted: Any, used: Any) -> bool:
    """Whether a server does not use what the settings say; it adds defaults of its own."""
    if isinstance(wanted, Mapping):
        return not isinstance(used, Mapping) or any(
            lacks(value, used.get(key)) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            not isinstance(used, list) or len(used) != len(wanted) or any(map(lacks, wanted, used))
        )
    # It writes times in another way, and secrets not at all.
    is_alike = used == "<secret>" or re.fullmatch(r"\d+[smhdwy]", str(wanted))
    return str(wanted) != str(used) and not is_alike
