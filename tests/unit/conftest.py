"""Options and fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tasks.core import lock
from tests.unit.helpers import SECRETS

# How long an example takes says more about the machine than about what is tested.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the files of tests/golden/ again instead of comparing with them",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written: `pytest tests/unit --update-golden`."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def _no_secrets_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _a_lock_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lock, "PATH", str(tmp_path / "lock"))
