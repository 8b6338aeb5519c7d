"""Programs that a job runs."""

from __future__ import annotations

import os

import pytest

from backup.job import forget_environment, program, run

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


def test_what_the_callers_shell_says_for_clients_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libpq in this process reads them as well, and a drill would wait for a service so named."""
    led = ("PGSERVICE", "PGHOST", "PGBACKREST_STANZA", "REDISCLI_AUTH", "TMPDIR", "POSIXLY_CORRECT")
    for name in (*led, "HTTPS_PROXY"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    forget_environment()
    assert os.environ["LC_ALL"] == "C.UTF-8"
    assert [name for name in (*led, "HTTPS_PROXY") if name in os.environ] == ["HTTPS_PROXY"]
