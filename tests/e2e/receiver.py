"""A real HTTP server that keeps the alerts it is sent."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent; it can be made to fail."""

    address: str
    alerts: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: int = 0
    broken: bool = False

    def told(self, event: str, status: str) -> None:
        """Asserts that somebody was told."""
        assert (event, status) in self.counts(), self.alerts

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each event has failed and recovered."""
        return Counter((each["event"], each["status"]) for each in self.alerts)


@contextmanager
def receiving(address: str) -> Iterator[Receiver]:
    """A receiver at an address of this machine, until the block ends."""
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not found.broken:
                found.alerts.append(json.loads(body))
            self.answer()

        def do_GET(self) -> None:
            found.heartbeats += 1
            self.answer()

        def answer(self) -> None:
            self.send_response(500 if found.broken else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.address = f"http://{address}:{server.server_port}"
        yield found
        server.shutdown()
