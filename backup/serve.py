"""Serves the status page to who has the password; it knows no other file.

It runs as a user of its own and alone: it imports nothing of the program that makes backups.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import os
import socket
import ssl
import sys
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

USER = "status"

# A request, its answer, and a handshake have that long, however slowly they come.
_SECONDS = 10
# Between two passwords of one address; after a wrong one nothing is looked at meanwhile.
_PAUSE = 1
_LONGEST = 8192
_RELOAD_SECONDS = 5

# OWASP's Password Storage Cheat Sheet, for 16 MiB.
_SCRYPT = {"n": 2**14, "r": 8, "p": 5, "maxmem": 2**26}

_ALWAYS = {
    "Connection": "close",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def hashed(password: str, salt: bytes) -> str:
    """What a file may have of a password: the salt and the hash."""
    value = hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_SCRYPT)
    return f"scrypt:{salt.hex()}:{value.hex()}"


def is_of(password: str, line: str) -> bool:
    """Whether a line of that file is of this password."""
    name, _, rest = line.partition(":")
    try:
        salt = bytes.fromhex(rest.partition(":")[0])
    except ValueError:
        return False
    return name == "scrypt" and hmac.compare_digest(hashed(password, salt), line)


@dataclass(frozen=True)
class Answer:
    """What is said to a request."""

    status: HTTPStatus
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def written(self, *, is_head: bool) -> bytes:
        """As it goes over the network."""
        body = self.body or f"{self.status} {self.status.phrase}\n".encode()
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            **_ALWAYS,
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {self.status.phrase}", *map(": ".join, headers.items())]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + (b"" if is_head else body)


_LOGIN = Answer(
    HTTPStatus.UNAUTHORIZED,
    {"WWW-Authenticate": 'Basic realm="Datatier", charset="UTF-8"'},
)
_LATER = Answer(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(_PAUSE)})


class Server:
    """One page, and one password, both read again for every request."""

    def __init__(self, page: Path, password: Path) -> None:
        self._page, self._password = page, password
        self._guess = asyncio.Lock()
        self._paused: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the one request of a connection."""
        try:
            async with asyncio.timeout(_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                answer = await self._answer(head, writer.get_extra_info("peername")[0])
                writer.write(answer.written(is_head=head.startswith("HEAD ")))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, head: str, address: str) -> Answer:
        request, *lines = head.split("\r\n")
        method, target, version = [*request.split(" "), "", "", ""][:3]
        if not version.startswith("HTTP/1."):
            return Answer(HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        if refused := await self._refused(_login(lines), _neighborhood(address)):
            return refused
        return self._found() if target == "/" else Answer(HTTPStatus.NOT_FOUND)

    async def _refused(self, login: str, address: str) -> Answer | None:
        """What is said to who has not the password."""
        name, colon, password = login.partition(":")
        if not colon:
            return _LOGIN
        # One at a time: each takes memory and a moment.
        async with self._guess:
            if address in self._paused:
                return _LATER
            lines = self._password.read_text("ascii").splitlines()
            known = next((line for line in lines if not line.startswith("#")), "")
            if await asyncio.to_thread(is_of, password, known) and name == USER:
                return None
            self._paused.add(address)
        print(f"wrong user or password from {address}", file=sys.stderr, flush=True)
        asyncio.get_running_loop().call_later(_PAUSE, self._paused.discard, address)
        return _LOGIN

    def _found(self) -> Answer:
        try:
            with self._page.open("rb") as file:
                body, written = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            why = b"The health check has not written a page yet: run health-check.sh.\n"
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "300"}, why)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Last-Modified": formatdate(written, usegmt=True),
        }
        return Answer(HTTPStatus.OK, headers, body)


def _login(lines: list[str]) -> str:
    """Name and password of a request; empty where it has none."""
    for line in lines:
        key, _, value = line.partition(":")
        kind, _, coded = value.strip().partition(" ")
        if key.lower() == "authorization" and kind.lower() == "basic":
            try:
                return base64.b64decode(coded, validate=True).decode()
            except ValueError:
                return ""
    return ""


def _neighborhood(address: str) -> str:
    """An address, or the network that one machine has of IPv6."""
    known = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(known, "ipv4_mapped", None) or known
    if mapped.version == 4:
        return str(mapped)
    return str(ipaddress.ip_network((mapped, 64), strict=False))


def _told_ready() -> None:
    """systemd waits for this; elsewhere no one does."""
    if place := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.connect(place.replace("@", "\0", 1) if place.startswith("@") else place)
            there.send(b"READY=1")


async def _reloaded(context: ssl.SSLContext, files: list[str]) -> None:
    """Takes another certificate when there is one; a pair that does not fit is still written."""
    loaded = list[float]()
    while True:
        try:
            now = [Path(file).stat().st_mtime for file in files]
            if now != loaded:
                context.load_cert_chain(*files)
                loaded = now
        except OSError as failure:
            print(f"certificate: {failure}", file=sys.stderr, flush=True)
        await asyncio.sleep(_RELOAD_SECONDS)


async def main(address: str, port: str, page: str, password: str, *files: str) -> None:
    """Serves until it is stopped.

    Args:
        files: certificate and key, where it speaks TLS.
    """
    secured: dict[str, Any] = {}
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*files)
        secured = {"ssl": context, "ssl_handshake_timeout": _SECONDS}
    serve = Server(Path(page), Path(password)).serve
    server = await asyncio.start_server(serve, address, int(port), limit=_LONGEST, **secured)
    _told_ready()
    async with server, asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve_forever())
        if files:
            tasks.create_task(_reloaded(context, [*files]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
