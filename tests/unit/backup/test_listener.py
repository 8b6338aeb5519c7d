"""Who is told a password on this host."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from backup import listener
from backup.config import Endpoint, Login, Pooler
from backup.job import Failed
from backup.postgres import session, swap
from backup.redis import roles as redis_roles
from tests.unit.backup.builders import config, sources

EVE = 4711
_LISTEN = f"""
import os, socket, sys
os.setuid({EVE})
with socket.create_server((sys.argv[1], 0), family=int(sys.argv[2])) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1", "::"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """A port that another user has taken."""
    host = str(request.param)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with subprocess.Popen(
        [sys.executable, "-c", _LISTEN, host, str(int(family))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Endpoint("::1" if ":" in host else "127.0.0.1", port)
        process.kill()


def test_another_user_is_told_nothing(stranger: Endpoint) -> None:
    message = f"user {EVE} listens there, not redis: it gets no password"
    with pytest.raises(Failed, match=message):
        listener.require_user(stranger, "redis")
    with pytest.raises(Failed, match=message):
        redis_roles.connect(stranger, Login("canary"))


def test_neither_by_sessions_nor_by_programs(stranger: Endpoint, tmp_path: Path) -> None:
    made = config(tmp_path).postgres
    assert made is not None
    live = made.__class__(**{**vars(made), "host": stranger.host, "port": stranger.port})
    for asks in (
        lambda: session.connect(live, "postgres"),
        lambda: session.console(live, Pooler(stranger)),
        lambda: session.tool(live, "pg_dump"),
        lambda: swap._console(live, Pooler(stranger)),
    ):
        with pytest.raises(Failed, match=f"user {EVE} listens there, not postgres"):
            asks()


def test_ours_other_hosts_and_nobody_are_no_strangers(stranger: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener.require_user(Endpoint("127.0.0.1", server.getsockname()[1]), "redis")
    # The address is of no interface here: what listens on that port here is not meant.
    listener.require_user(Endpoint("192.0.2.1", stranger.port), "redis")
    listener.require_user(Endpoint("127.0.0.1", 1), "nobody-of-that-name")


def test_nobody_who_sends_a_password_goes_around_it() -> None:
    sends = re.compile(r"psycopg\.connect\(|REDISCLI_AUTH|\bClient\(|PGPASSWORD")
    around = {name: text for name, text in sources().items() if sends.search(text)}
    assert sorted(around) == [
        "postgres/session.py",
        "postgres/swap.py",
        "redis/backups.py",
        "redis/roles.py",
    ]
    assert all("listener.require_user(" in text for text in around.values())


@pytest.mark.skipif(psycopg.pq.version() < 160000, reason="libpq of 15 cannot be told")
def test_a_server_that_wants_the_password_in_clear_gets_none(tmp_path: Path) -> None:
    """As any user of a pooler's host could pretend while the pooler is down."""
    made = config(tmp_path).postgres
    assert made is not None
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        told = pool.submit(_asking, server)
        with pytest.raises(Failed, match="scram-sha-256"):
            session.console(made, Pooler(Endpoint(*server.getsockname())))
        assert told.result() == b""


def _asking(server: socket.socket) -> bytes:
    """What a client answers to AuthenticationCleartextPassword."""
    client, _ = server.accept()
    with client:
        asked_for_tls = client.recv(1024)
        assert asked_for_tls[4:8] == b"\x04\xd2\x16\x2f"
        client.sendall(b"N")
        assert b"postgres" in client.recv(1024)
        client.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")
        return client.recv(1024)
