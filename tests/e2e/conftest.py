"""A lab for every module of stories, under a name of its own, and who runs which when."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.e2e.project import Project
from tests.lab import Lab, engine


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab; whatever the module boots in it is gone when the module is done."""
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with Lab(f"{module}-{worker}") as lab:
        yield lab


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A user's project directory."""
    return Project(tmp_path_factory.mktemp("project"))


# Seconds by group of stories, of a run of all with four workers.
_DURATIONS = Path(__file__).parents[1] / "durations.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option that keeps what the run has measured."""
    help_text = f"write the seconds of each group of stories to {_DURATIONS.name}"
    parser.addoption("--write-durations", action="store_true", help=help_text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module is a group, which one worker runs, unless its stories say otherwise.

    The longest groups begin, so that the workers end together; one that was never measured might
    be long.
    """
    seconds = _durations()
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: -seconds.get(_group_of(item), float("inf")))


def _group_of(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark is not None
    return str(mark.args[0])


def _durations() -> dict[str, float]:
    return dict(json.loads(_DURATIONS.read_text())) if _DURATIONS.exists() else {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops the engine once, when the last worker is done; one that ran before is left alone."""
    if not hasattr(session.config, "workerinput"):
        engine.stop_if_ours()


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Prints what stories have measured, and how long each group of them took."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    reports = [each for kind in terminalreporter.stats.values() for each in kind]
    seconds = _measured([each for each in reports if isinstance(each, pytest.TestReport)])
    for group, spent in sorted(seconds.items(), key=lambda each: -each[1]):
        terminalreporter.write_line(f"{spent:6.0f} s  {group}")
    if config.getoption("--write-durations"):
        whole = _durations() | {group: round(spent) for group, spent in seconds.items()}
        _DURATIONS.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def _measured(reports: Sequence[pytest.TestReport]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        # The name of a group stands after the test's, whose parameters may have the sign too.
        name, _, group = report.nodeid.rpartition("@")
        is_told = name and "]" not in group
        seconds[group if is_told else Path(report.nodeid.split("::")[0]).stem] += report.duration
    return seconds
