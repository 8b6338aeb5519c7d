"""A lab for every module of stories, under a name of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stops the engine once, when the last worker is done; one that ran before is left alone."""
    if not hasattr(session.config, "workerinput"):
        engine.stop_if_ours()


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Prints what stories have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
