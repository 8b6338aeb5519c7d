"""Programs that a job runs."""

from __future__ import annotations

import pytest

from backup.job import program, run

SAYS = ["sh", "-c", 'echo "$LC_ALL ${LANGUAGE-unset} ${PGHOST-unset}"']


def test_programs_speak_english_and_inherit_nothing_of_postgres(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What they print is read, whatever the host speaks; cron has its language too."""
    for name, value in {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de", "PGHOST": "elsewhere"}.items():
        monkeypatch.setenv(name, value)
    assert run(SAYS) == "C.UTF-8 unset unset\n"
    with program(SAYS, {}) as started:
        assert started.process.stdout is not None
        assert started.process.stdout.read() == b"C.UTF-8 unset unset\n"
