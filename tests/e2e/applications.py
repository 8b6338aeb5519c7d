"""Applications with the clients of docs/connecting.md, which ask all the time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.documented import programs
from tests.e2e.project import ROOT
from tests.e2e.wait import eventually

PROGRAMS = programs(ROOT / "docs" / "connecting.md")
BEGIN_SECONDS = 60
# What the same page adds to them where servers speak TLS: what, and after which words.
_VERIFIED = '{"ssl_cert_reqs": "required", "ssl_ca_certs": "ca.pem"}'
_OVER_TLS = {
    "redis-py": {
        '"password": os.environ["REDIS_PASSWORD"],': '"ssl": True, "ssl_ca_certs": "ca.pem",',
        '    password=os.environ["REDIS_PASSWORD"],': 'ssl=True, ssl_ca_certs="ca.pem",',
    },
    "Celery": {
        '"password": password,': '"ssl": True, "ssl_ca_certs": "ca.pem",',
        "app.conf.update(": f"broker_use_ssl={_VERIFIED}, redis_backend_use_ssl={_VERIFIED},",
    },
}

# It imports the program like a framework would, and asks ten times a second.
_LOOP = """
import asyncio, inspect, sys, time
import application

loop = asyncio.new_event_loop()
while True:
    try:
        said = application.ask()
        if inspect.isawaitable(said):
            loop.run_until_complete(said)
        print("answered", flush=True)
    except Exception as error:
        print(repr(error), file=sys.stderr, flush=True)
    time.sleep(0.1)
"""
_WORKER = (
    sys.executable,
    "-m",
    "celery",
    "-A",
    "application",
    "worker",
    "-P",
    "solo",
    "-l",
    "INFO",
    "--without-mingle",
    "--without-gossip",
)


def documented_users() -> dict[str, Any]:
    """The `redis_users` of the page."""
    page = (ROOT / "docs" / "connecting.md").read_text()
    found = dict[str, Any]()
    exec(page.partition("```\n# Not dangerous")[2].partition("\n")[2].partition("```")[0], found)
    return dict(found["redis_users"])


@dataclass(frozen=True)
class Application:
    """One that runs; what it was answered is in a file."""

    name: str
    home: Path

    @property
    def answers(self) -> int:
        """How many answers it has had."""
        lines = (self.home / "answers").read_text().splitlines()
        return sum("answered" in line or " succeeded in " in line for line in lines)

    def require_more(self, than: int) -> None:
        """Asserts that it was answered since."""
        errors = (self.home / "errors").read_text()[-1000:]
        assert self.answers > than, f"{self.name}: no answer after {than}\n{errors}"


def database(address: str, password: str) -> dict[str, str]:
    """The variables of an application whose pooler is there."""
    secret = quote(password, safe="")
    return {"DATABASE_URL": f"postgresql://psscript:{secret}@{address}:6432/psscript"}


def sentinels(addresses: Sequence[str], password: str) -> dict[str, str]:
    """The variables of an application that asks these Sentinels."""
    return {
        "REDIS_SENTINELS": ",".join(f"{address}:26379" for address in addresses),
        "REDIS_MASTER_NAME": "mymaster",
        "REDIS_PASSWORD": password,
    }


@contextmanager
def running(
    names: Sequence[str], variables: Mapping[str, str], home: Path, trusted: str = ""
) -> Iterator[list[Application]]:
    """Applications with the programs of these headings, each of which is answered already.

    Args:
        trusted: the certificate that they verify servers with; without one they speak in clear.
    """
    with ExitStack() as processes:
        found = [_started(name, variables, home / name, trusted, processes) for name in names]
        for each in found:
            eventually(partial(each.require_more, 0), BEGIN_SECONDS)
        yield found


def back(applications: Sequence[Application], seconds: int) -> None:
    """Waits until each was answered from now on."""
    before = [each.answers for each in applications]
    for each, count in zip(applications, before, strict=True):
        eventually(partial(each.require_more, count), seconds)


def _started(
    name: str, variables: Mapping[str, str], home: Path, trusted: str, processes: ExitStack
) -> Application:
    home.mkdir(parents=True)
    (home / "application.py").write_text(_over_tls(name) if trusted else PROGRAMS[name])
    (home / "ca.pem").write_text(trusted)
    (home / "loop.py").write_text(_LOOP)
    answers = processes.enter_context((home / "answers").open("w"))
    errors = processes.enter_context((home / "errors").open("w"))
    started = partial(subprocess.Popen, cwd=home, env={**os.environ, **variables})
    asking = [sys.executable, "loop.py"]
    if name == "Celery":
        # Its answers are the tasks that are done, and its worker logs these.
        both = [
            started(asking, stdout=errors, stderr=errors),
            started(_WORKER, stdout=errors, stderr=answers),
        ]
    else:
        both = [started(asking, stdout=answers, stderr=errors)]
    for process in both:
        processes.callback(process.wait)
        processes.callback(process.kill)
    return Application(name, home)


def _over_tls(name: str) -> str:
    """A program with what the page adds to it for TLS."""
    program = PROGRAMS[name]
    for words, added in _OVER_TLS[name].items():
        assert program.count(words) == 1, (name, words)
        program = program.replace(words, f"{words} {added}")
    return program
