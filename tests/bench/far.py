"""A host that is far away: its SSH through a port of this machine, where everything comes late.

The kernel can do this as well (`tc netem`), but not every kernel has that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Host
from tests.lab.state import known_hosts

ROUND_TRIP_SECONDS = 0.05


@dataclass(frozen=True)
class Way:
    """How to log in: a port of this machine, and the file that has its key."""

    port: int
    known_hosts: Path

    def data(self, host: Host) -> dict[str, object]:
        """Data of a host for pyinfra."""
        return {
            **host.ssh_data(),
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.port,
            "ssh_known_hosts_file": str(self.known_hosts),
        }


@contextmanager
def far(host: Host, directory: Path) -> Iterator[Way]:
    """The way to a host through a delay; `directory` gets a file of keys."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(_listen(host))
    port = server.sockets[0].getsockname()[1]
    keys = [
        f"[127.0.0.1]:{port} {line.partition(' ')[2]}\n"
        for line in known_hosts(host.lab).read_text().splitlines()
        if line.split()[0] == host.address
    ]
    file = directory / "known_hosts_far"
    file.write_text("".join(keys))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Way(port, file)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _listen(host: Host) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        others = await asyncio.open_connection(host.address, 22)
        await asyncio.gather(_late(reader, others[1]), _late(others[0], writer))

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def _late(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes on what comes, each piece half a round trip later, and the end."""
    loop, written = asyncio.get_running_loop(), asyncio.Event()

    def write(piece: bytes) -> None:
        if piece:
            target.write(piece)
        else:
            target.close()
            written.set()

    while not written.is_set():
        try:
            piece = await source.read(1 << 16)
        except ConnectionError:
            piece = b""
        loop.call_later(ROUND_TRIP_SECONDS / 2, write, piece)
        if not piece:
            await written.wait()
