"""Asks the server of the status page, as a browser or as someone with other intentions."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

PASSWORD = "STATUS_PAGE_PASSWORD"


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Site:
    """Where it listens, and the authority that signs its certificate, if it has one."""

    address: str
    port: int
    authority: str = ""

    def ask(self, login: str = "", *, method: str = "GET", path: str = "/", body: str = "") -> Said:
        """One request; `login` is `name:password`."""
        headers = {}
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read().decode()
            return Said(answer.status, dict(answer.getheaders()), content)

    @contextlib.contextmanager
    def silent(self) -> Iterator[socket.socket]:
        """A connection that says nothing."""
        with socket.create_connection((self.address, self.port), 5) as there:
            yield there

    def _connection(self) -> http.client.HTTPConnection:
        if not self.authority:
            return http.client.HTTPConnection(self.address, self.port, timeout=15)
        context = ssl.create_default_context(cadata=self.authority)
        return http.client.HTTPSConnection(self.address, self.port, timeout=15, context=context)


# A neighbor of the page, what is above it, and what others have tried at other servers.
OTHERS = (
    "/status.html",
    "/backups/status.html",
    "/../../../../etc/datatier/page/password",
    "/..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/.status.html.partial",
    "/?/../etc/passwd",
    "/%00",
    "http://127.0.0.1:5432/",
    "etc/passwd",
)


def refuses_all_but_the_page(site: Site, login: str) -> None:
    """Who has the password gets the page and nothing else; who has not learns nothing."""
    for path in OTHERS:
        assert site.ask(login, path=path).status == 404, path
        assert site.ask(path=path).status == 401, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"):
        said = site.ask(login, method=method)
        assert (said.status, said.headers["Allow"]) == (405, "GET, HEAD"), method
    head = site.ask(login, method="HEAD")
    assert (head.status, head.body) == (200, "")
    assert int(head.headers["Content-Length"]) == len(site.ask(login).body.encode())
