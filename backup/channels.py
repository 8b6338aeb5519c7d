"""How someone is told: a webhook in the form that its receiver takes, a command, mail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from backup.config import Config

COMMAND_SECONDS = 30.0
SENDMAIL = Path("/usr/sbin/sendmail")

# Alertmanager takes an alert for over that is not said again.
_LATE = timedelta(hours=1)
_FOR_GOOD = timedelta(days=365)


@dataclass(frozen=True)
class Notice:
    """What is told; status is 'failed' or 'recovered', time is UTC, ISO 8601."""

    event: str
    status: str
    message: str
    time: str
    details: Mapping[str, str]


Send = Callable[[Config, Notice], None]


def of(config: Config) -> dict[str, Send]:
    """The channels of the settings, by name; what they raise says why nothing was delivered."""
    chosen = config.alerts
    channels: dict[str, tuple[str, Send]] = {
        "webhook": (chosen.webhook, _post),
        "command": (chosen.command, _command),
        "mail": (chosen.mail, _mail),
    }
    return {name: send for name, (setting, send) in channels.items() if setting}


def ask(url: str, body: bytes | None = None) -> None:
    """One request; see `web.send`."""
    from backup import web

    web.send(url, body)


def headline(config: Config, notice: Notice) -> str:
    """All of it in a line."""
    return f"{config.stack} on {config.host}: {notice.event} {notice.status}: {notice.message}"


# --- Webhook -------------------------------------------------------------------------------------


def _post(config: Config, notice: Notice) -> None:
    body = _FORMS[config.alerts.webhook_format](config, notice)
    ask(config.alerts.webhook, json.dumps(body).encode())


def _json(config: Config, notice: Notice) -> Any:
    return {
        "host": config.host,
        "stack": config.stack,
        "event": notice.event,
        "status": notice.status,
        "message": notice.message,
        "time": notice.time,
        "details": dict(notice.details),
        **_slack(config, notice),
    }


def _slack(config: Config, notice: Notice) -> Any:
    # Mattermost and Rocket.Chat show it too.
    return {"text": _text(config, notice).rstrip()}


def _alertmanager(config: Config, notice: Notice) -> Any:
    """The body of its `/api/v2/alerts`."""
    over = datetime.fromisoformat(notice.time)
    if notice.status == "failed":
        over += config.alerts.repeat + _LATE if config.alerts.repeat else _FOR_GOOD
    return [
        {
            "labels": {
                "alertname": "Datatier",
                "event": notice.event,
                "instance": config.host,
                "severity": "warning" if notice.event.endswith("warning") else "critical",
                "stack": config.stack,
            },
            "annotations": {"summary": notice.message, "description": _listed(notice)},
            "startsAt": notice.time,
            "endsAt": over.isoformat(),
        }
    ]


_FORMS = {"json": _json, "slack": _slack, "alertmanager": _alertmanager}


def _listed(notice: Notice) -> str:
    return "\n".join(f"{name}: {value}" for name, value in notice.details.items())


# --- Programs of the host ------------------------------------------------------------------------


def _command(config: Config, notice: Notice) -> None:
    """Runs the command in a shell; what is said reaches it where no process list shows it."""
    environment = {
        **os.environ,
        "DATATIER_HOST": config.host,
        "DATATIER_STACK": config.stack,
        "DATATIER_EVENT": notice.event,
        "DATATIER_STATUS": notice.status,
        "DATATIER_MESSAGE": notice.message,
        "DATATIER_TIME": notice.time,
        "DATATIER_DETAILS": json.dumps(dict(notice.details)),
    }
    _feed(["/bin/sh", "-c", config.alerts.command], _text(config, notice).encode(), environment)


def _mail(config: Config, notice: Notice) -> None:
    # Its imports take long, as those of `web` do.
    from email.message import EmailMessage

    letter = EmailMessage()
    letter["To"] = config.alerts.mail
    letter["Subject"] = " ".join(headline(config, notice).split())
    # Not answered by those who are on holiday.
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(_text(config, notice))
    _feed([str(SENDMAIL), "-t", "-oi"], letter.as_bytes(), os.environ)


def _text(config: Config, notice: Notice) -> str:
    return "\n".join(filter(None, [headline(config, notice), _listed(notice)])) + "\n"


def _feed(command: list[str], text: bytes, environment: Mapping[str, str]) -> None:
    # Output to nowhere: a command's leftover child must not keep a pipe of ours open.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            process.communicate(text, timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "alert command")
