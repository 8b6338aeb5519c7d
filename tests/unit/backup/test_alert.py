"""Alerts: real receivers that are well, down, wrong or slow; and what is overdue."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backup import alert, channels, outcome, web
from backup.alert import Overdue, overdue
from backup.config import Alerts, Config
from backup.job import log_of
from backup.manifest import Manifest
from tests.unit.backup import builders
from tests.unit.backup.builders import manifest


class Receiver:
    """A real HTTP server: what it got, and how it answers (status codes, then 200)."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, Any]] = []
        self.answers: list[int] = []
        self.delay = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.got.append((self.command, self.path, json.loads(body or b"{}")))
                time.sleep(outer.delay)
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook/canary-token"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(alert, "BACKOFF", (0.01, 0.02))
    monkeypatch.setattr(web, "HTTP_SECONDS", 0.5)
    monkeypatch.setattr(channels, "COMMAND_SECONDS", 1.0)
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def here(tmp_path: Path, receiver: Receiver) -> Config:
    return builders.config(tmp_path / "backups", alerts=Alerts(webhook=receiver.url))


def logged(here: Config) -> str:
    path = here.logs / "backup.log"
    return path.read_text() if path.exists() else ""


# --- Webhook -------------------------------------------------------------------------------------


def test_a_failure_is_posted(here: Config, receiver: Receiver) -> None:
    alert.alert(here, "postgres full", "disk full", {"step": "dump of app"})
    ((method, path, body),) = receiver.got
    assert (method, path) == ("POST", "/hook/canary-token")
    moment = datetime.fromisoformat(body.pop("time"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert body == {
        "host": "db1",
        "stack": "stack",
        "event": "postgres full",
        "status": "failed",
        "message": "disk full",
        "details": {"step": "dump of app"},
        "text": "stack on db1: postgres full failed: disk full\nstep: dump of app",
    }
    assert logged(here) == ""


def test_slack_gets_its_shape_and_no_more(here: Config, receiver: Receiver) -> None:
    chosen = replace(here.alerts, webhook_format="slack")
    alert.alert(replace(here, alerts=chosen), "health", "unhealthy: postgres", {"a": "b"})
    assert [body for *_, body in receiver.got] == [
        {"text": "stack on db1: health failed: unhealthy: postgres\na: b"}
    ]


def test_alertmanager_is_told_until_when_and_of_the_end(here: Config, receiver: Receiver) -> None:
    here = replace(here, alerts=replace(here.alerts, webhook_format="alertmanager"))
    alert.alert(here, "health warning", "warning: disk /backups", {"disk /backups": "91 % used"})
    alert.recovered(here, "health warning")
    (first,), (last,) = (body for *_, body in receiver.got)
    assert (
        first["labels"]
        == last["labels"]
        == {
            "alertname": "Datatier",
            "event": "health warning",
            "instance": "db1",
            "severity": "warning",
            "stack": "stack",
        }
    )
    assert first["annotations"] == {
        "summary": "warning: disk /backups",
        "description": "disk /backups: 91 % used",
    }
    for each in (first, last):
        begun = datetime.now(UTC) - datetime.fromisoformat(each["startsAt"])
        assert timedelta(0) <= begun < timedelta(minutes=1)
    ends = [datetime.fromisoformat(each["endsAt"]) - datetime.now(UTC) for each in (first, last)]
    assert timedelta(hours=24.9) < ends[0] < timedelta(hours=25.1)
    assert ends[1] < timedelta(minutes=1)


def test_nothing_configured_is_silent(here: Config, receiver: Receiver) -> None:
    alert.alert(replace(here, alerts=Alerts()), "x", "y")
    alert.heartbeat(replace(here, alerts=Alerts()))
    assert receiver.got == [] and logged(here) == ""


def test_it_is_tried_three_times(here: Config, receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    alert.alert(here, "x", "y")
    assert len(receiver.got) == 3 and logged(here) == ""


@pytest.mark.parametrize(
    ("answers", "reason"), [([500] * 3, "HTTP 500"), ([404] * 3, "HTTP 404"), ([302] * 3, "302")]
)
def test_an_error_is_logged_without_the_address_and_told_later(
    here: Config, receiver: Receiver, answers: list[int], reason: str
) -> None:
    receiver.answers = list(answers)
    alert.alert(here, "x", "y")
    assert [method for method, _, _ in receiver.got] == ["POST"] * 3
    assert reason in logged(here) and "canary" not in logged(here)
    alert.alert(here, "x", "y")
    assert len(receiver.got) == 4


def test_a_receiver_that_is_down_is_logged(here: Config, receiver: Receiver) -> None:
    receiver.stop()
    alert.alert(here, "x", "y")
    assert "webhook failed 3 times: " in logged(here) and "refused" in logged(here)
    assert "canary" not in logged(here)


def test_a_slow_receiver_does_not_hold_the_job(here: Config, receiver: Receiver) -> None:
    receiver.delay = 3
    start = time.monotonic()
    alert.alert(here, "x", "y")
    assert time.monotonic() - start < 2.5
    assert "no answer in time" in logged(here) or "timed out" in logged(here)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "nonsense", "http://[::1", "http://a b/"])
def test_an_address_that_is_none_is_logged(here: Config, url: str) -> None:
    alert.alert(replace(here, alerts=Alerts(webhook=url)), "x", "y")
    assert "webhook failed" in logged(here)


def test_secrets_are_not_told(here: Config, receiver: Receiver) -> None:
    alert.alert(here, "x", "login canary-admin failed", {"dsn": "password=canary-redis"})
    assert "canary" not in json.dumps(receiver.got[0][2])
    assert receiver.got[0][2]["message"] == "login <secret> failed"


def test_no_secret_of_the_configuration_is_logged_told_or_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever: every one is in what a server or a library says of a failure."""
    alerts = Alerts(webhook="https://chat/canary-hook", heartbeat="https://beat/canary-beat")
    here = builders.config(tmp_path, s3=builders.s3("http://s3"), alerts=alerts)
    text = json.dumps(asdict(here), default=str)
    assert len(set(re.findall("canary-[a-z0-9-]+", text))) == 9
    said = f"{text} postgres://app:canary@db/x"
    log_of(here, "x").line(said)
    with pytest.raises(ValueError, match="canary"), outcome.recorded(here, "verify"):
        raise ValueError(said)
    kept = (here.logs / "verify.json").read_text()
    for seen in (logged(here), "".join(capsys.readouterr()), kept, here.hidden(said)):
        assert "<secret>" in seen and "canary" not in seen


# --- How often -----------------------------------------------------------------------------------


def statuses(receiver: Receiver) -> list[tuple[str, str]]:
    return [(body["event"], body["status"]) for _, _, body in receiver.got]


def test_the_same_failure_is_told_once_and_its_recovery_once(
    here: Config, receiver: Receiver
) -> None:
    for minutes in range(0, 30, 5):
        alert.alert(here, "health", f"redis is down for {minutes} min")
    alert.alert(here, "health", "postgres is down")
    alert.alert(here, "redis", "another event")
    for _ in range(3):
        alert.recovered(here, "health")
    assert statuses(receiver) == [
        ("health", "failed"),
        ("health", "failed"),
        ("redis", "failed"),
        ("health", "recovered"),
    ]
    alert.alert(here, "health", "redis is down for 1 min")
    assert statuses(receiver)[-1] == ("health", "failed") and len(receiver.got) == 5


def test_what_fails_again_beside_what_has_not_stopped_failing_is_told_again(
    here: Config, receiver: Receiver
) -> None:
    rounds = ("disk, postgres", "disk, postgres", "disk", "disk, postgres")
    for names in rounds:
        alert.alert(here, "health", f"unhealthy: {names}")
    told = [body["message"].removeprefix("unhealthy: ") for *_, body in receiver.got]
    assert told == [*rounds[1:]]


@pytest.mark.parametrize(
    ("hours", "age", "told"), [(24, 23.9, 1), (24, 24.1, 2), (2, 2.1, 2), (0, 5000, 1)]
)
def test_a_failure_that_lasts_is_told_again_when_the_settings_say(
    here: Config, receiver: Receiver, hours: int, age: float, told: int
) -> None:
    here = replace(here, alerts=replace(here.alerts, repeat_hours=hours))
    alert.alert(here, "x", "y")
    before = (datetime.now(UTC) - timedelta(hours=age)).isoformat(timespec="seconds")
    state = here.logs / "alerts.json"
    state.write_text(re.sub(r'("y": )"[^"]+"', f'\\1"{before}"', state.read_text()))
    alert.alert(here, "x", "y")
    assert len(receiver.got) == told


def test_a_recovery_that_did_not_arrive_is_told_later(here: Config, receiver: Receiver) -> None:
    alert.alert(here, "x", "y")
    receiver.answers = [500] * 3
    alert.recovered(here, "x")
    alert.recovered(here, "x")
    alert.recovered(here, "x")
    assert statuses(receiver) == [("x", "failed")] + [("x", "recovered")] * 4


def test_each_channel_is_told_what_it_has_not_heard(
    here: Config, receiver: Receiver, tmp_path: Path
) -> None:
    both = Alerts(webhook=receiver.url, command=f"cat >> {tmp_path}/mail")
    receiver.answers = [500] * 3
    alert.alert(replace(here, alerts=both), "x", "y")
    alert.alert(replace(here, alerts=both), "x", "y")
    assert len(receiver.got) == 4
    assert (tmp_path / "mail").read_text() == "stack on db1: x failed: y\n"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"told": 1, "since": {}}', '{"told": {"webhook": {"x": {"y": "?"}}}}', "\0"],
)
def test_a_damaged_state_is_an_empty_one(here: Config, receiver: Receiver, content: str) -> None:
    here.logs.mkdir()
    (here.logs / "alerts.json").write_text(content)
    alert.alert(here, "x", "y")
    alert.alert(here, "x", "y")
    assert len(receiver.got) == 1


def test_a_disk_that_takes_nothing_does_not_silence(here: Config, receiver: Receiver) -> None:
    here.logs.write_text("a file where the folder should be")
    alert.alert(here, "x", "disk full")
    assert len(receiver.got) == 1
    alert.recovered(here, "x")


def test_jobs_that_alert_at_once_forget_nothing(here: Config, receiver: Receiver) -> None:
    threads = [
        threading.Thread(target=alert.alert, args=(here, f"job {name}", "y")) for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abcdefgh":
        alert.alert(here, f"job {name}", "y")
    assert len(receiver.got) == 8


# --- Command and heartbeat -----------------------------------------------------------------------


def test_the_command_gets_all_of_it_but_never_on_its_command_line(
    here: Config, tmp_path: Path
) -> None:
    script = f"cd {tmp_path}; cat > in; env > env; tr '\\0' ' ' < /proc/$$/cmdline > line"
    message = 'it\'s "bad" $(touch /tmp/never) \0 Ü'
    alert.alert(replace(here, alerts=Alerts(command=script)), "x", message, {"step": "dump"})
    clean = message.replace("\0", "")
    assert (tmp_path / "in").read_text() == f"stack on db1: x failed: {clean}\nstep: dump\n"
    environment = (tmp_path / "env").read_text()
    assert f"DATATIER_MESSAGE={clean}\n" in environment
    assert "DATATIER_STATUS=failed\n" in environment and "DATATIER_HOST=db1\n" in environment
    assert "bad" not in (tmp_path / "line").read_text()


def test_a_command_that_does_not_end_is_killed_with_its_children(
    here: Config, tmp_path: Path
) -> None:
    script = f"sleep 60 & echo $! >> {tmp_path}/pids; wait"
    start = time.monotonic()
    alert.alert(replace(here, alerts=Alerts(command=script)), "x", "y")
    assert time.monotonic() - start < 10
    assert "command failed 3 times: no answer in time" in logged(here)
    end = time.monotonic() + 10
    while any(runs(pid) for pid in (tmp_path / "pids").read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_mail_is_a_letter_for_sendmail(
    here: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, letter = tmp_path / "sendmail", tmp_path / "letter"
    program.write_text(f'#!/bin/sh\n{{ echo "$*"; cat; }} >{letter}\n')
    program.chmod(0o755)
    monkeypatch.setattr(channels, "SENDMAIL", program)
    told = replace(here, alerts=Alerts(mail="ops@example.org, root"))
    alert.alert(told, "redis", "no\nBcc: thief@example.org", {"host": "größer"})
    arguments, _, content = letter.read_bytes().partition(b"\n")
    assert arguments == b"-t -oi"
    got = message_from_bytes(content, policy=policy.default)
    assert (got["To"], got["Bcc"]) == ("ops@example.org, root", None)
    assert got["Subject"] == "stack on db1: redis failed: no Bcc: thief@example.org"
    assert got["Auto-Submitted"] == "auto-generated"
    assert "host: größer" in got.get_content()
    assert logged(told) == ""


def test_a_command_that_fails_is_logged(here: Config) -> None:
    alert.alert(replace(here, alerts=Alerts(command="exit 3 # canary")), "x", "y")
    assert "command failed 3 times: exited with 3" in logged(here)
    assert "canary" not in logged(here)


def test_a_command_that_does_not_read_is_fine(here: Config) -> None:
    alert.alert(replace(here, alerts=Alerts(command="true")), "x", "y" * 1_000_000)
    assert logged(here) == ""


def test_only_the_health_check_beats(here: Config, receiver: Receiver) -> None:
    quiet = replace(here, alerts=Alerts(heartbeat=receiver.url))
    log = log_of(here, "test")
    for job in ("postgres full", "health"):
        alert.succeeded(quiet, job, log)
    assert [(method, path) for method, path, _ in receiver.got] == [("GET", "/hook/canary-token")]


def test_a_heartbeat_that_fails_is_logged(here: Config, receiver: Receiver) -> None:
    receiver.answers = [500] * 3
    alert.heartbeat(replace(here, alerts=Alerts(heartbeat=receiver.url)))
    assert "heartbeat failed 3 times: HTTP 500" in logged(here) and "canary" not in logged(here)


def test_a_job_tells_of_failure_and_recovery(here: Config, receiver: Receiver) -> None:
    log = log_of(here, "test")
    alert.failed(here, "redis", "no replica", log)
    alert.succeeded(here, "redis", log)
    alert.succeeded(here, "redis", log)
    assert statuses(receiver) == [("redis", "failed"), ("redis", "recovered")]


# --- Overdue -------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-{text}:00+00:00")


def current() -> list[Any]:
    return [
        manifest("full", "app", at("22T02:00")),
        manifest("full", "app-prod", at("22T02:00")),
        manifest("incremental", "stack", at("22T12:00")),
        manifest("redis", "redis", at("22T12:00")),
    ]


def events(found: list[Overdue]) -> list[str]:
    return [problem.event for problem in found]


def test_what_is_current_is_not_overdue(here: Config) -> None:
    assert overdue(here, current(), NOW) == []


def test_none_has_ever_succeeded(here: Config) -> None:
    there = [replace(current()[0], verified=()), *current()[1:]]
    (problem,) = overdue(here, there, NOW)
    assert str(problem) == "full backup of app: none has ever succeeded"
    assert len(overdue(here, [], NOW)) == 4


def test_databases_whose_names_begin_alike_are_not_mixed(here: Config) -> None:
    assert events(overdue(here, current()[1:], NOW)) == ["overdue: full app"]
    assert events(overdue(here, current()[:1] + current()[2:], NOW)) == ["overdue: full app-prod"]


@pytest.mark.parametrize(
    ("now", "late"),
    [
        ("23T02:59", []),
        ("23T03:01", []),  # the last one took a minute: two more are allowed
        ("23T03:03", ["overdue: full app", "overdue: full app-prod"]),
    ],
)
def test_a_full_is_overdue_when_its_schedule_and_the_time_to_take_it_have_passed(
    here: Config, now: str, late: list[str]
) -> None:
    daily = replace(here, schedules={"full": "0 2 * * *"})
    assert events(overdue(daily, current(), at(now))) == late


def test_the_message_has_the_numbers(here: Config) -> None:
    daily = replace(here, schedules={"full": "0 2 * * *"}, redis=None)
    (problem, _) = overdue(daily, current(), at("24T02:00"))
    assert problem.message == (
        "full backup of app: the newest is 48.0 h old, its schedule '0 2 * * *' allows 24.0 h"
    )


def lasting(made: Manifest, hours: int) -> str:
    """When a backup of that moment ends that takes so long."""
    return (datetime.fromisoformat(made.started) + timedelta(hours=hours)).isoformat()


def test_a_backup_that_takes_long_is_given_time(here: Config) -> None:
    slow = [replace(m, ended=lasting(m, hours=3)) for m in current()[:2]]
    daily = replace(here, schedules={"full": "0 2 * * *"})
    assert overdue(daily, slow, at("23T08:59")) == []
    assert len(overdue(daily, slow, at("23T09:01"))) == 2


def test_weekly_is_weekly(here: Config) -> None:
    weekly = replace(here, schedules={"full": "0 2 * * sun"})
    assert overdue(weekly, current(), at("28T23:00")) == []
    assert len(overdue(weekly, current(), at("29T04:00"))) == 2


def test_a_full_is_as_good_as_an_incremental(here: Config) -> None:
    often = replace(here, schedules={"incremental": "0 */6 * * *"})
    there = [manifest("full", "app", at("22T12:00"))]
    assert overdue(often, there, NOW) == []
    assert events(overdue(often, there, at("22T19:30"))) == ["overdue: incremental stack"]


@pytest.mark.parametrize("when", [NOW + timedelta(days=900), NOW + timedelta(hours=2)])
def test_a_backup_from_the_future_proves_nothing(here: Config, when: datetime) -> None:
    there = [*current()[:3], manifest("redis", "redis", when)]
    assert events(overdue(here, there, NOW)) == ["overdue: redis redis"]


def test_without_a_schedule_nothing_is_overdue(here: Config) -> None:
    assert overdue(replace(here, schedules={"full": ""}), [], NOW) == []
    assert overdue(replace(here, postgres=None, redis=None), [], NOW) == []


def test_a_new_host_has_until_its_first_schedule(here: Config) -> None:
    since = alert.watched(here, at("22T13:00"))
    assert set(since) == {
        "overdue: full app",
        "overdue: full app-prod",
        "overdue: incremental stack",
        "overdue: redis redis",
    }
    assert overdue(here, [], NOW, since) == []
    assert events(overdue(here, [], at("22T17:05"), since)) == ["overdue: redis redis"]
    assert len(overdue(here, [], at("23T03:05"), since)) == 4
    assert alert.watched(here, at("25T00:00")) == since


def test_the_schedule_is_in_local_time(here: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    daily = replace(here, schedules={"full": "0 2 * * *"})
    monkeypatch.setenv("TZ", "America/New_York")  # 02:00 there is 07:00 UTC
    time.tzset()
    there = [manifest("full", name, at("22T07:00")) for name in ("app", "app-prod")]
    assert overdue(daily, there, at("23T07:59")) == []
    assert len(overdue(daily, there, at("23T08:10"))) == 2


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_changing_clocks_make_nothing_overdue(
    here: Config, monkeypatch: pytest.MonkeyPatch, day: str
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    hourly = replace(here, schedules={"redis": "@hourly"}, postgres=None)
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    for minutes in range(0, 24 * 60, 7):
        now = start + timedelta(minutes=minutes)
        there = [manifest("redis", "redis", now.replace(minute=0))]
        assert overdue(hourly, there, now) == []


def test_allowed_age(here: Config) -> None:
    assert alert.allowed_age("0 2 * * *", at("22T14:00")) == timedelta(hours=12)
    with pytest.raises(ValueError, match="minute: '99' should be 0 to 59"):
        alert.allowed_age("99 2 * * *", NOW)


def test_overdue_is_told_once_and_so_is_its_end(here: Config, receiver: Receiver) -> None:
    late = overdue(here, current()[1:], NOW)
    for _ in range(3):
        alert.reconcile(here, late)
    alert.reconcile(here, [])
    alert.reconcile(here, [])
    assert statuses(receiver) == [
        ("overdue: full app", "failed"),
        ("overdue: full app", "recovered"),
    ]


def test_the_state_is_for_root_alone(here: Config, receiver: Receiver) -> None:
    alert.alert(here, "x", "y")
    assert (here.logs / "alerts.json").stat().st_mode & 0o777 == 0o600
