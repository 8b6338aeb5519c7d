"""The server of the status page: what it answers to whom."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from backup import serve
from backup.health import page
from backup.health.row import Level, Row
from backup.job import Log
from tests.unit.backup import builders
from tests.unit.backup.test_page import NOW

PASSWORD = "a-Password: with colons"
BASIC = f"Basic {base64.b64encode(f'status:{PASSWORD}'.encode()).decode()}"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hash costs is no question here."""
    monkeypatch.setitem(serve._SCRYPT, "n", 16)


def asked(directory: Path, *requests: bytes, written: str | None = "<p>the page") -> list[bytes]:
    """What is answered to requests that are made at once, each over a connection of its own."""
    (directory / "password").write_text(f"# ours\n{serve.hashed(PASSWORD, b'0' * 16)}\n")
    if written is not None:
        (directory / "status.html").write_text(written)

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        one = serve.Server(directory / "status.html", directory / "password")
        async with await asyncio.start_server(one.serve, "127.0.0.1", 0, limit=8192) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.gather(*(ask(port, request) for request in requests))

    return asyncio.run(all_of_them())


def request(
    path: str = "/", method: str = "GET", login: str = BASIC, version: str = "1.1"
) -> bytes:
    return f"{method} {path} HTTP/{version}\r\nAuthorization: {login}\r\n\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


def test_only_the_page_is_served(tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("a secret")
    others = ("/dump.sql", "/../dump.sql", "//", "/status.html", "*", "", "/?", "/%2e%2e/dump.sql")
    (answer,) = asked(tmp_path, request())
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n<p>the page")
    assert b"Content-Security-Policy: default-src 'none'" in answer
    for other in others:
        (answer,) = asked(tmp_path, request(other))
        assert status(answer) in (400, 404) and b"secret" not in answer, other
    (head,) = asked(tmp_path, request(method="HEAD"))
    assert status(head) == 200 and head.endswith(b"\r\n\r\n") and b"Content-Length: 11\r\n" in head
    for method in ("POST", "PUT", "DELETE", "TRACE", "CONNECT", "get", "X"):
        (answer,) = asked(tmp_path, request(method=method))
        assert status(answer) == 405, method


@pytest.mark.parametrize(
    "login",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic /w==",
        BASIC[:-4],
        BASIC.replace("Basic", "Bearer"),
        f"Basic {base64.b64encode(f'root:{PASSWORD}'.encode()).decode()}",
        f"Basic {base64.b64encode(b'status:').decode()}",
    ],
)
def test_who_has_not_the_password_is_refused(login: str, tmp_path: Path) -> None:
    for path in ("/", "/other"):
        (answer,) = asked(tmp_path, request(path, login=login))
        assert status(answer) == 401 and b"the page" not in answer
        assert b"WWW-Authenticate: Basic " in answer


def test_guesses_made_at_once_are_one(tmp_path: Path) -> None:
    wrong = f"Basic {base64.b64encode(b'status:wrong').decode()}"
    answers = asked(tmp_path, *[request(login=wrong)] * 20)
    assert sorted(map(status, answers)) == [401] + [429] * 19


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"GET /\r\n\r\n", b"\xff\0\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n"]
)
def test_what_is_no_request_is_none(sent: bytes, tmp_path: Path) -> None:
    assert status(*asked(tmp_path, sent)) == 400


def test_who_says_too_much_or_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_SECONDS", 0.2)
    endless = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000
    with contextlib.suppress(ConnectionResetError):
        assert asked(tmp_path, endless) == [b""]
    assert asked(tmp_path, b"GET / HTTP/1.1\r\n") == [b""]


def test_a_page_that_is_not_written_yet_is_told(tmp_path: Path) -> None:
    (answer,) = asked(tmp_path, request(), written=None)
    assert status(answer) == 503 and b"run health-check.sh" in answer


@pytest.mark.parametrize("line", ["", "scrypt", "scrypt:", "scrypt:zz:00", "plain:00:00", PASSWORD])
def test_what_is_no_hash_lets_no_one_in(line: str) -> None:
    assert not serve.is_of(PASSWORD, line) and not serve.is_of("", line)


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fd00:1:2:3:4::1", "fd00:1:2:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_machine_is_known_by_its_network(address: str, known: str) -> None:
    assert serve._neighborhood(address) == known


def test_it_imports_nothing_of_the_program() -> None:
    source = Path(serve.__file__).read_text()
    assert "import backup" not in source and "from backup" not in source


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A health check whose copy goes to `served`."""
    monkeypatch.setattr(page, "SERVED", tmp_path / "served/status.html")
    config = builders.config(tmp_path, postgres=None, redis=None)
    config.logs.mkdir()
    log = Log(config.logs / "backup.log", "health")
    rows = [Row("disk /", Level.OK, "said", value=3.0, unit="%")]
    return lambda: page.write(config, log, rows, NOW.isoformat())


def test_each_check_copies_the_page_to_who_serves_it(
    tmp_path: Path, write: Callable[[], None]
) -> None:
    write()
    assert not (tmp_path / "served").exists()
    (tmp_path / "served").mkdir()
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "served/status.html").symlink_to(other)
    if os.geteuid() == 0:
        os.chown(tmp_path / "served", -1, 4711)
    write()
    copy = tmp_path / "served/status.html"
    assert copy.read_text() == (tmp_path / "status.html").read_text()
    assert other.read_text() == "theirs" and not copy.is_symlink()
    if os.geteuid() == 0:
        assert copy.stat().st_gid == 4711
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
