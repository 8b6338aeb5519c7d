"""Answers as an application does: healthy when database and Redis have answered it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

SECONDS = 5
# A Sentinel that is down must leave time for the others.
SENTINEL_SECONDS = 1
ONCE = Retry(NoBackoff(), 0)

# PgBouncer holds a client for minutes while PostgreSQL is away, longer than anybody here waits.
_pool = ThreadPoolExecutor(max_workers=128)


def database() -> psycopg.Connection[tuple[Any, ...]]:
    """A connection of its own; PgBouncer 1.18 cannot take prepared statements."""
    return psycopg.connect(
        host=os.environ["DB_HOST"],
        port=os.environ["DB_PORT"],
        dbname=os.environ["DB_NAME"],
        user=os.environ["DB_USER"],
        password=_secret("DB_PASSWORD_FILE"),
        connect_timeout=SECONDS,
        prepare_threshold=None,
    )


def master() -> Redis:
    """The master that the Sentinels name now."""
    password = _secret("REDIS_PASSWORD_FILE")
    pairs = [word.rsplit(":", 1) for word in os.environ["REDIS_SENTINELS"].split(",")]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(host, int(port)) for host, port in pairs],
        sentinel_kwargs={"password": password, "socket_timeout": SENTINEL_SECONDS, "retry": ONCE},
    )
    host, port = sentinel.discover_master(  # type: ignore[no-untyped-call]
        os.environ["REDIS_MASTER_NAME"]
    )
    return Redis(host, port, password=password, socket_timeout=SECONDS, retry=ONCE)


def read_row() -> None:
    """Fails unless the database gives a row."""
    with database() as connection:
        if not connection.execute("SELECT 1").fetchone():
            raise RuntimeError("no row")


def read_key() -> None:
    """Fails unless the master answers; that there is no such key is an answer."""
    with master() as redis:
        redis.get("note:health")


def write_row(word: str) -> None:
    """Returns when the database has committed."""
    with database() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id serial, word text)")
        connection.execute("INSERT INTO notes (word) VALUES (%s)", (word,))


def write_key(word: str) -> None:
    """Returns when the master has acknowledged."""
    with master() as redis:
        redis.set(f"note:{word}", word)


def failure(work: Mapping[str, Callable[[], None]]) -> str:
    """Does all at once; one line about what failed, or nothing."""
    futures = {name: _pool.submit(one) for name, one in work.items()}
    wait(futures.values(), timeout=SECONDS)
    for name, future in futures.items():
        if not future.done():
            return f"{name}: no answer within {SECONDS} s"
        if error := future.exception():
            return f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


class Handler(BaseHTTPRequestHandler):
    """GET / and /health, POST /write?word=X."""

    def do_GET(self) -> None:
        """Says whether the application is there, or whether it is well."""
        path = urlsplit(self.path).path
        if path == "/":
            self._answer(200, "standin")
        elif path == "/health":
            self._report({"database": read_row, "redis": read_key})
        else:
            self._answer(404, "no such page")

    def do_POST(self) -> None:
        """Writes a word to both places; 200 means that both have it."""
        address = urlsplit(self.path)
        words = parse_qs(address.query).get("word", [])
        if address.path != "/write" or len(words) != 1:
            self._answer(404, "POST /write?word=X")
            return
        word = words[0]
        self._report({"database": lambda: write_row(word), "redis": lambda: write_key(word)})

    def _report(self, work: Mapping[str, Callable[[], None]]) -> None:
        failed = failure(work)
        self._answer(503 if failed else 200, failed or "ok")

    def _answer(self, status: int, line: str) -> None:
        body = f"{line}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _secret(variable: str) -> str:
    return Path(os.environ[variable]).read_text()


def _stop(_number: int, _frame: object) -> None:
    # Not sys.exit: it would wait for the threads that nobody waits for any more.
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    server = ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler)
    print(f"listening on {server.server_port}", file=sys.stderr)
    server.serve_forever()
