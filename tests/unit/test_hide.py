"""The filter on what a run prints."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import click
import pytest
from pydantic import SecretStr

from tasks.core import hide
from tests.e2e.project import ROOT
from tests.unit import helpers

CANARY = 'canary "word" of mine/1'


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hide, "_values", set())
    monkeypatch.setattr(hide, "_words", set())


@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        json.dumps(CANARY),
        quote(CANARY, safe=""),
        base64.b64encode(CANARY.encode()).decode(),
        CANARY.replace('"', '""'),
        "SCRAM-SHA-256$4096:canary$canary:canary=",
    ],
)
def test_a_secret_is_hidden_in_every_form(form: str) -> None:
    hide.secret(CANARY)
    assert hide.hidden(f"with args beginning with: 'requirepass' '{form}' \n").count("canary") == 0
    assert hide.SHOWN in hide.hidden(form)


def test_a_password_in_a_url_is_hidden_wherever_it_comes_from() -> None:
    said = "amqp://app:s3cr@t@mq:5672/x https://user:pw@host redis://:pw@cache"
    assert hide.hidden(said) == (
        "amqp://app:<secret>@t@mq:5672/x https://user:<secret>@host redis://:<secret>@cache"
    )
    assert hide.hidden("http://10.0.0.1:8080/a?b=c@d") == "http://10.0.0.1:8080/a?b=c@d"


def test_no_half_of_a_secret_is_left_where_something_is_cut() -> None:
    """By us at 1000 characters, by Redis at 128; what begins alike by chance is shorter."""
    hide.secret("0123456789abcdefghij", "https://chat.example/hook")
    assert hide.shown(f"{'x' * 990}0123456789abcdefghij") == f"{'x' * 990}<secret>"
    assert hide.hidden("beginning with: '0123456789abcd' ") == "beginning with: '<secret>' "
    assert hide.hidden("0123456789a https://chat.example/") == "0123456789a https://chat.example/"


def test_nothing_goes_around_the_filter() -> None:
    """What is cut is filtered before; tasks have one function for both."""
    around = [
        path.name
        for path in (ROOT / "tasks").rglob("*.py")
        if path.name != "hide.py" and "backup.text import shown" in path.read_text()
    ]
    assert around == []


def test_short_ones_and_names_stay() -> None:
    hide.secret("redis", "psscript")
    hide.word("psscript")
    assert hide.hidden("psscript on redis") == "psscript on redis"


def test_values_are_secret_by_type_or_by_name() -> None:
    settings = {
        "password": SecretStr("typed"),
        "redis_extra": {"tls-key-file-pass": "named", "maxclients": 3, "passive": "no"},
        "apps": [{"env": {"API_TOKEN": "token", "MODE": "production"}}],
        "backup_alert_webhook": "https://chat/x",
    }
    assert sorted(hide.secrets_in(settings)) == ["https://chat/x", "named", "token", "typed"]


def test_both_streams_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for click, by which pyinfra prints, and for a traceback."""
    hide.secret(CANARY)
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    hide.begin()
    hide.begin()
    print(f"a {CANARY}")
    click.echo(f"b {CANARY}", err=True)
    sys.stderr.writelines([f"c {CANARY}"])
    assert out.getvalue() == "a <secret>\n"
    assert err.getvalue() == "b <secret>\nc <secret>"


def test_an_estate_tells_the_filter_what_it_knows(tmp_path: Path) -> None:
    host = {
        "address": "10.0.0.1",
        "redis_extra": {"tls-key-file-pass": "of the key file"},
        "backup_heartbeat_url": "https://beat.example/abc",
    }
    groups = {group: ["db1"] for group in ("postgres", "pgbouncer", "redis", "backup")}
    everything = helpers.estate({"db1": host}, groups, tmp_path)
    everything.gather_secrets()
    for value in (*helpers.SECRETS.values(), "of the key file", "https://beat.example/abc"):
        assert hide.hidden(value) == hide.SHOWN


DEPLOY = f"""
from tasks.core import hide
from tasks.core.change import Change, converge
hide.begin()
hide.secret({CANARY!r})
converge("Echo", lambda: Change([{CANARY!r}], "printf '%s\\\\n' \\"$SAID\\" >&2; exit 1",
                                {{"SAID": "ERR with args 'requirepass' " + {CANARY!r}}}))
"""


BROKEN = f"""
import sys
from pyinfra_cli.exceptions import UnexpectedInternalError
from tasks.core import hide
hide.begin()
hide.begin()
hide.secret({CANARY!r})
try:
    raise ValueError({CANARY!r})
except ValueError as error:
    UnexpectedInternalError(error).show()
"""


def test_the_log_of_a_traceback_is_filtered(tmp_path: Path) -> None:
    """An error of pyinfra's own leaves pyinfra-debug.log, which others may read."""
    done = _run(tmp_path, sys.executable, "-c", BROKEN)
    log = (tmp_path / "pyinfra-debug.log").read_text()
    assert "ValueError: <secret>" in log and "ValueError: <secret>" in done.stderr
    assert f"ValueError: {CANARY}" not in log + done.stdout + done.stderr


def test_what_a_host_says_and_pyinfra_prints_is_hidden(tmp_path: Path) -> None:
    """As a server's error that echoes its arguments; also at -vvv."""
    (tmp_path / "deploy.py").write_text(DEPLOY)
    pyinfra = str(Path(sys.executable).parent / "pyinfra")
    done = _run(tmp_path, pyinfra, "-y", "-vvv", "@local", "deploy.py")
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "ERR with args 'requirepass' <secret>" in said
    assert "canary" not in said


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
