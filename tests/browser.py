"""Looks at a status page in Chromium: `python -m tests.browser status.html DIRECTORY`.

It writes a picture for each width and color scheme, and fails if the page is wider than the window,
asks for anything, or runs a script. Chromium takes 320 MB, so no other test needs it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

# Of Debian's package; the descriptors 3 and 4 are its pipe.
_COMMAND = 'exec chromium --headless --no-sandbox --remote-debugging-pipe --user-data-dir="$1"'
_WIDTHS, _SCHEMES = (390, 1280), ("light", "dark")
_HEIGHT = 844


class Browser:
    """Chromium's DevTools over a pipe: JSON that ends with a zero byte."""

    def __init__(self, said: int, told: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._said, self._told = said, told
        self._buffer, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its answer; what happens meanwhile is in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._told, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (more := os.read(self._said, 1 << 20)):
                raise SystemExit("chromium has ended")
            self._buffer += more
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def load(self, page: Path) -> None:
        """Loads a file, and waits until it is there."""
        self.events = []
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._next())

    def number(self, expression: str) -> int:
        """What an expression of the page gives."""
        return int(self.call("Runtime.evaluate", expression=expression)["result"]["value"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A new one, which is gone afterwards."""
    said, told = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        ours = f"exec 3<&{told[0]} 4>&{said[1]}; {_COMMAND}"
        chromium = subprocess.Popen(
            ["bash", "-c", ours, "bash", home],
            pass_fds=(told[0], said[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(said[1])
        try:
            yield Browser(said[0], told[1])
        finally:
            chromium.terminate()
            chromium.wait()


def look(page: Path, pictures: Path) -> None:
    """Asserts what can be measured, and takes the pictures."""
    with browser() as seen:
        for width, scheme in product(_WIDTHS, _SCHEMES):
            mobile = {"height": _HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600}
            seen.call("Emulation.setDeviceMetricsOverride", width=width, **mobile)
            scheme_of = {"name": "prefers-color-scheme", "value": scheme}
            seen.call("Emulation.setEmulatedMedia", features=[scheme_of])
            seen.load(page)
            found = [each for each in seen.events if each["method"] == "Network.requestWillBeSent"]
            assert len(found) == 1, found
            assert not [each for each in seen.events if each["method"] == "Log.entryAdded"]
            assert seen.number("document.documentElement.scrollWidth") <= width
            hidden = "document.querySelector('.old')?.offsetHeight ?? 0"
            assert seen.number(hidden) == 0
            height = seen.number("document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            taken = seen.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            picture = pictures / f"{page.stem}-{width}-{scheme}.png"
            picture.write_bytes(base64.b64decode(taken["data"]))
            # What is to be seen when it has been open for long.
            seen.number("document.getAnimations().forEach(each => each.finish()), 0")
            assert seen.number(hidden) > 0, "the page has no schedule, or does not say it is old"


if __name__ == "__main__":
    look(Path(sys.argv[1]), Path(sys.argv[2]))
