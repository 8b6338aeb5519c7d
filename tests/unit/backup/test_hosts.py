"""Hosts by their exporters: what an answer means, who gets the password, and what is killed."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backup.config import Config, Endpoint, Exporter, Exporters, Limits
from backup.health import hosts, kills
from backup.health.row import Level, Row
from backup.job import Failed
from tests.unit.backup import builders

PASSWORD = "exporter-Secret-11"
HOST = Exporter("db1", Endpoint("127.0.0.1", 9100), ("/", "/var/log", "/var/lib/postgresql"))
LIMITS = {"disk": Limits(85, 95), "memory": Limits(90, 97), "clock": Limits(1, 5)}
GIB = 2**30
WELL = f"""
# HELP node_time_seconds what
node_time_seconds {{now}}
node_boot_time_seconds {{booted}}
node_memory_MemTotal_bytes {4 * GIB}
node_memory_MemAvailable_bytes {3e9}
node_vmstat_oom_kill 2
node_filesystem_size_bytes{{device="/dev/vda",device_error="",mountpoint="/"}} 100
node_filesystem_free_bytes{{device="/dev/vda",mountpoint="/"}} 60
node_filesystem_avail_bytes{{device="/dev/vda",mountpoint="/"}} 50
node_filesystem_files{{device="/dev/vda",mountpoint="/"}} 1000
node_filesystem_files_free{{device="/dev/vda",mountpoint="/"}} 900
node_systemd_units{{state="active"}} 60
node_systemd_units{{state="failed"}} 0
node_systemd_unit_state{{name="cron.service",state="failed",type="simple"}} 0
"""


def well(**values: float) -> str:
    now = time.time()
    return WELL.replace("{now}", str(values.get("now", now))).replace("{booted}", str(now - 86400))


class Told:
    """An exporter that tells a text to who has the password, and what it was asked."""

    def __init__(self) -> None:
        self.text = well()
        self.password = PASSWORD
        self.status = 200
        self.logins: list[str] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                login = self.headers.get("Authorization", "").removeprefix("Basic ")
                told.logins.append(base64.b64decode(login).decode())
                is_known = told.logins[-1] == f"prometheus:{told.password}"
                self.send_response(told.status if is_known else 401)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                if is_known:
                    self.wfile.write(told.text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.server.shutdown()
    made.server.server_close()


def configured(directory: Path, told: Told, **changes: str) -> Config:
    port = told.server.server_address[1]
    host = replace(HOST, place=Endpoint("127.0.0.1", int(port)))
    exporters = Exporters((host,), changes.pop("password", PASSWORD), **changes)
    return replace(builders.config(directory), exporters=exporters, limits=LIMITS)


def rows(config: Config, host: Exporter | None = None) -> dict[str, Row]:
    assert config.exporters is not None
    found = hosts.rows(config, host or config.exporters.hosts[0])
    return {row.name: row for row in found}


def unwell(found: dict[str, Row]) -> dict[str, Level]:
    return {name: row.level for name, row in found.items() if row.level is not Level.OK}


def test_a_host_that_is_well_has_these_rows(told: Told, tmp_path: Path) -> None:
    found = rows(configured(tmp_path, told))
    assert [*found] == [
        "host db1",
        "host db1 disk /",
        "host db1 inodes /",
        "host db1 memory",
        "host db1 out of memory",
        "host db1 units",
        "host db1 clock",
    ]
    assert unwell(found) == {}
    # As df: 40 used, of 90 that others than root may use.
    assert found["host db1 disk /"].said == "44 % used"
    assert found["host db1 inodes /"].value == 10


@pytest.mark.parametrize(
    ("more", "turned"),
    [
        (
            'node_filesystem_size_bytes{mountpoint="/var/log"} 100\n'
            'node_filesystem_free_bytes{mountpoint="/var/log"} 4\n'
            'node_filesystem_avail_bytes{mountpoint="/var/log"} 4\n',
            {"host db1 disk /var/log": Level.CRITICAL},
        ),
        (
            'node_filesystem_device_error{mountpoint="/var/lib/postgresql"} 1\n',
            {"host db1 disk /var/lib/postgresql": Level.CRITICAL},
        ),
        (
            'node_systemd_unit_state{name="redis-6379.service",state="failed"} 1\n'
            'node_systemd_units{state="failed"} 1\n',
            {"host db1 units": Level.CRITICAL},
        ),
        ('node_systemd_units{state="failed"} 1\n', {"host db1 units": Level.WARNING}),
        (
            'node_scrape_collector_success{collector="systemd"} 0\n'
            'node_scrape_collector_success{collector="nfs"} 0\n',
            {"host db1: the rest": Level.UNKNOWN},
        ),
        ("node_memory_MemAvailable_bytes 1000\n", {"host db1 memory": Level.CRITICAL}),
        (
            'datatier_old_binary{unit="redis-1.service"} 1\n',
            {"host db1 binaries": Level.WARNING},
        ),
        ('datatier_old_binary{unit="redis-1.service"} 0\n', {}),
        ('datatier_updates_due{kind="security"} 3\n', {"host db1 updates": Level.WARNING}),
        ('datatier_updates_due{kind="security"} 0\ndatatier_updates_due{kind="all"} 9\n', {}),
        (
            'datatier_updates_due{kind="security"} 3\n'
            "datatier_updates_due_since_timestamp_seconds 1000\n",
            {"host db1 updates": Level.CRITICAL},
        ),
        (
            'datatier_updates_due{kind="security"} 0\ndatatier_reboot_required 1\n',
            {"host db1 updates": Level.WARNING},
        ),
        (
            'datatier_updates_due{kind="security"} 0\n'
            'node_textfile_mtime_seconds{file="/x/datatier-host.prom"} 1000\n',
            {"host db1 updates": Level.UNKNOWN},
        ),
    ],
)
def test_each_fault_turns_its_row_and_no_other(
    more: str, turned: dict[str, Level], told: Told, tmp_path: Path
) -> None:
    replaced = {line.rpartition(" ")[0] for line in more.splitlines()}
    kept = [line for line in told.text.splitlines() if line.rpartition(" ")[0] not in replaced]
    told.text = "\n".join([*kept, more])
    assert unwell(rows(configured(tmp_path, told))) == turned


@pytest.mark.parametrize(
    ("seconds", "level"), [(-3, Level.WARNING), (3, Level.WARNING), (60, Level.CRITICAL)]
)
def test_a_clock_that_differs(seconds: float, level: Level, told: Told, tmp_path: Path) -> None:
    told.text = well(now=time.time() + seconds)
    found = rows(configured(tmp_path, told))
    assert unwell(found) == {"host db1 clock": level}
    assert ("behind" if seconds < 0 else "ahead of") in found["host db1 clock"].said


def test_of_its_own_host_the_check_tells_no_disk_twice(told: Told, tmp_path: Path) -> None:
    config = configured(tmp_path, told)
    assert config.exporters is not None
    local = replace(config.exporters.hosts[0], local=True)
    found = rows(replace(config, directory=tmp_path), local)
    assert f"host db1 disk {hosts.disk.mount_of(tmp_path)}" not in found
    assert "host db1 clock" not in found
    assert "host db1 memory" in found


def test_while_a_rotation_is_on_its_way_the_one_before_counts(told: Told, tmp_path: Path) -> None:
    told.password = "exporter-Secret-before"
    config = configured(tmp_path, told, password_previous="exporter-Secret-before")
    assert unwell(rows(config)) == {}
    with pytest.raises(Failed, match="refuses the password"):
        rows(configured(tmp_path, told))


def test_no_other_address_gets_the_password(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    told.status = 302
    with pytest.raises(Failed, match="HTTP 302"):
        rows(configured(tmp_path, told))
    assert told.logins == [f"prometheus:{PASSWORD}"]


def test_who_does_not_answer_is_told_without_a_secret(told: Told, tmp_path: Path) -> None:
    config = configured(tmp_path, told)
    assert config.exporters is not None
    nowhere = replace(config.exporters.hosts[0], place=Endpoint("127.0.0.1", 1))
    with pytest.raises(Failed, match="no answer from its exporter") as raised:
        rows(config, nowhere)
    assert PASSWORD not in str(raised.value)
    assert PASSWORD in config.exporters.password
    assert config.hidden(f"x {PASSWORD} x") == "x <secret> x"


@pytest.mark.parametrize(
    "line",
    ["", "x", "x{", 'x{a="b"', "x{} y", 'x{a="\\', "x 1 2 3", "\x00 1", "x{a=b} 1 garbage", "{} 1"],
)
def test_what_is_no_sample_is_left_out(line: str) -> None:
    samples = hosts.parsed(f"{line}\nnode_time_seconds 5\n", 0, 1)
    assert samples.one("node_time_seconds") == 5


def test_labels_are_read_as_they_are_written() -> None:
    text = 'it{a="b\\"c\\\\d\\ne",z="{}, x=\\"y\\""} +Inf 1700000000000\n'
    ((labels, value),) = hosts.parsed(text, 0, 1).found["it"]
    assert labels == {"a": 'b"c\\d\ne', "z": '{}, x="y"'}
    assert value == float("inf")


def _killed(config: Config, count: float, now: str) -> Level:
    row = Row("host db1 out of memory", Level.OK, "none was killed", value=count)
    return kills.judged(config, [row], now)[0].level


def test_a_kill_is_told_for_an_hour_and_then_no_more(tmp_path: Path) -> None:
    config = builders.config(tmp_path)
    config.logs.mkdir(parents=True, exist_ok=True)
    at = "2026-01-02T{}:00+00:00".format
    # What was before the first look is of no moment that is known.
    assert _killed(config, 7, at("00:00")) is Level.OK
    assert _killed(config, 8, at("00:05")) is Level.WARNING
    assert _killed(config, 8, at("00:10")) is Level.WARNING
    assert _killed(config, 8, at("01:05")) is Level.OK
    # After a start of the kernel it counts from zero.
    assert _killed(config, 0, at("01:10")) is Level.OK
    assert _killed(config, 1, at("01:15")) is Level.WARNING


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host db1 out of memory": 3}'])
def test_damaged_counts_begin_again(content: str, tmp_path: Path) -> None:
    config = builders.config(tmp_path)
    config.logs.mkdir(parents=True, exist_ok=True)
    (config.logs / "killed.json").write_text(content)
    assert _killed(config, 7, "2026-01-02T00:00:00+00:00") is Level.OK
