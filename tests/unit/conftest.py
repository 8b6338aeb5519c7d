"""Options and fixtures of the unit tests."""

from __future__ import annotations

import pytest

from tests.unit.helpers import SECRETS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the files of tests/golden/ anew instead of comparing with them",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written: `pytest tests/unit --update-golden`."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def _no_secrets_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
