"""An application of the stack on a host: its settings, and what it answers."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.project import Data
from tests.lab import Host

PROGRAM = "/srv/website/webapp.py"
PORT = 4000
# What a shell, systemd or a template could take for something of its own.
WORDS = ["two words", "it's", "$HOME", "100%", "a\\b", ";", ""]
ODD = {"QUOTES": 'it\'s "so" $HOME `x` 100% \\', "EMPTY": "", "SPACES": " a  b ", "HASH": "#x ;"}
_QUOTED = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in WORDS)
WEBSITE: Data = {
    "name": "website",
    "port": PORT,
    "health": "http:/health?deep=1",
    "command": f"{PROGRAM} {PORT} {_QUOTED}",
    "directory": "/srv/website",
    "env": ODD,
}
WORKER: Data = {"name": "worker", "command": "/bin/sleep infinity"}
APPS = [WEBSITE, WORKER]


def put(host: Host) -> None:
    """Puts the program where its user finds it: what it needs, a deployment installs."""
    host.run("mkdir -p /srv/website")
    host.put(Path(__file__).with_name("webapp.py"), PROGRAM)
    host.run(f"chmod 755 {PROGRAM}")


def ask(host: Host) -> dict[str, Any]:
    """What it says of itself and of the stack.

    Raises:
        AssertionError: it does not answer, or the stack does not answer it.
    """
    try:
        with urllib.request.urlopen(f"http://{host.address}:{PORT}/health", timeout=20) as answer:
            return dict(json.load(answer))
    except OSError as error:
        raise AssertionError(f"no answer of the application: {error}") from error


def check(host: Host, environment: Data = ODD) -> dict[str, Any]:
    """Asserts that it reads the stack, as a user of its own, with exactly what was stated."""
    said = ask(host)
    assert said["postgres"] == ["psscript", "psscript"]
    assert said["visits"] > 0
    assert {name: said["env"].get(name) for name in environment} == environment
    assert (said["words"], said["directory"]) == ([str(PORT), *WORDS], "/srv/website")
    name = host.run(f"stat -c %U /proc/{said['pid']}").stdout.strip()
    assert (name, said["ids"][0] > 0) == ("app-website", True)
    return said
