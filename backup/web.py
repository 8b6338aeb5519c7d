"""One request, for alerts. A look at the backups does without it, since its imports take long."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO

HTTP_SECONDS = 10.0


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its message, and look delivered."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def send(url: str, body: bytes | None = None) -> None:
    """Asks for an address, or posts a body there; only the former may be redirected.

    Raises:
        OSError: it was not answered well; `strerror` says why.
        ValueError: it is no address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("should begin with http:// or https://")
    headers = {"User-Agent": "datatier-backup", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    opener = urllib.request.build_opener(*([NoRedirect] if body else []))
    try:
        with opener.open(request, timeout=HTTP_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        raise OSError(0, f"HTTP {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError(0, str(error.reason)) from error
    except HTTPException as error:
        raise OSError(0, type(error).__name__) from error
