"""A stack in containers with the directory it is deployed from: what its stories do and compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.e2e import docker_stack, standin
from tests.e2e.docker_stack import REDIS, Container, DockerStack, containers, footprint
from tests.e2e.project import ROOT, Data, Project
from tests.e2e.proof import AUTHORITY
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

# What openssl asks in before TLS.
_PUBLISHED = {5432: "postgres", 6432: "postgres"} | dict.fromkeys(
    (6379, 6380, 6381, 26379, 26380, 26381), ""
)

# A health check every 10 s, and Sentinels that have to find each other.
WELL_SECONDS = 60


@dataclass
class Site:
    """The stack, its directory, what the settings have become, and how its containers were."""

    project: Project
    stack: DockerStack
    settings: dict[str, Any] = field(default_factory=dict)
    before: Mapping[str, Container] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The machine."""
        return self.stack.host

    def look(self) -> None:
        """Remembers the containers as they are."""
        self.before = containers(self.host)

    def restarted(self) -> set[str]:
        """The services whose container is another one, or has been started again."""
        return self._differ("id", "started")

    def replaced(self) -> set[str]:
        """The services whose container is another one."""
        return self._differ("id")

    def _differ(self, *names: str) -> set[str]:
        now = containers(self.host)

        def seen(container: Container | None) -> list[object]:
            return [getattr(container, name) for name in names] if container else []

        return {s for s in {*now, *self.before} if seen(now.get(s)) != seen(self.before.get(s))}

    def settles(self, word: str) -> None:
        """Waits until all is well, with that row and key."""
        eventually(lambda: self.stack.check_all(word), WELL_SECONDS)

    def changes_nothing(self) -> None:
        """A run that has nothing to do."""
        assert self.project.deploy().changed == set()

    def changes(self, settings: Data, *lines: str) -> None:
        """Settings that differ from now on: the plan has these lines, and a run makes it true."""
        self.settings.update(settings)
        self.project.settings(self.settings)
        plan = self.project.plan()
        assert [line for line in lines if line not in plan.output] == [], plan.output
        changed = self.project.deploy().changed
        assert changed == plan.planned, changed ^ plan.planned
        again = self.project.plan()
        assert again.planned == set(), again.output

    def certificates(self) -> dict[int, str]:
        """The serial of the certificate at each published port, verified; empty without TLS."""
        verified = f"-CAfile {AUTHORITY} -verify_ip {self.host.address} -verify_return_error"
        found = dict[int, str]()
        for port, protocol in _PUBLISHED.items():
            start = f"-starttls {protocol} " if protocol else ""
            ask = f"timeout 5 openssl s_client {start}-connect 127.0.0.1:{port} {verified}"
            serial = f"{ask} </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null"
            found[port] = self.host.run(serial, check=False).stdout.strip()
        return found

    def pings(self, port: int, *, tls: bool) -> str:
        """What a published port of Redis or Sentinel answers to who has the password."""
        words = "IFS= read -r word; printf 'AUTH %s\\r\\nPING\\r\\nQUIT\\r\\n' \"$word\""
        client = f"timeout 5 openssl s_client -quiet -connect 127.0.0.1:{port} -CAfile {AUTHORITY}"
        plain = f"timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; cat >&3; cat <&3'"
        told = f"{words} | {client if tls else plain} 2>/dev/null"
        return self.host.run(told, stdin=f"{self.stack.redis_password}\n", check=False).stdout

    def refuses(self, *words: str, **settings: Any) -> None:
        """A run that changes nothing and says why in one line, with the host's name."""
        self.project.settings({**self.settings, **settings})
        before = footprint(self.host)
        run = self.project.pyinfra("-y", "inventory.py", "deploy.py")
        self.project.settings(self.settings)
        assert run.code == 1, run.output
        check_lines(run, [(self.host.name, *words), ("nothing was changed",)])
        assert footprint(self.host) == before

    @contextmanager
    def writing(self) -> Iterator[list[tuple[int, float]]]:
        """A client that writes to Redis all the time; what it was told is written is there."""
        until, acknowledged = "/run/writing-is-done", list[tuple[int, float]]()
        self.host.run(f"rm -f {until}")
        with ThreadPoolExecutor() as pool:
            client = pool.submit(self.stack.writes, until)
            try:
                yield acknowledged
            finally:
                self.host.run(f"touch {until}")
            acknowledged += client.result()
        keys = [f"write:{number}" for number, _ in acknowledged]
        assert len(keys) > 200
        # A replica may be a moment behind its master; that one has what it said that it has.
        self._have([self.stack.master], keys)
        eventually(partial(self._have, REDIS, keys), WELL_SECONDS)

    def _have(self, names: Sequence[str], keys: list[str]) -> None:
        parts = [" ".join(keys[at : at + 500]) for at in range(0, len(keys), 500)]
        told = self.stack.told([(n, 6379, f"EXISTS {part}") for n in names for part in parts])
        counts = [*map(int, told)]
        there = {n: sum(counts[i * len(parts) : (i + 1) * len(parts)]) for i, n in enumerate(names)}
        assert there == dict.fromkeys(names, len(keys)), "acknowledged writes"


def longest_gap(written: list[tuple[int, float]]) -> str:
    """How long nothing was acknowledged, for people."""
    moments = [moment for _, moment in written]
    gap = max(b - a for a, b in itertools.pairwise(moments))
    return f"{gap:.2f} s between two of {len(written)} acknowledged writes"


def made(project: Project, lab: Lab, settings: Data, word: str) -> Site:
    """A stack on a Debian 12 host, with a word in a row and a key.

    Its engine has the images already: that they are built, and that all works under the engine's
    own filter of system calls, is what other stories prove.
    """
    host = lab.engine_host("containers", "debian12", store=_images(lab), filters=False)
    docker_stack.describe(project, host)
    project.settings(settings)
    project.deploy()
    stack = DockerStack(host, project.secrets)
    eventually(stack.check_well, WELL_SECONDS)
    stack.write(word)
    return Site(project, stack, dict(settings))


def _images(lab: Lab) -> str:
    """Those of a project, of an application and of Debian; a run builds again what has changed."""

    def fill(host: Host) -> None:
        standin.build(host, "curl")
        with TemporaryDirectory() as directory:
            project = Project(Path(directory))
            docker_stack.describe(project, host)
            project.settings({"docker_debian": "12"})
            project.deploy()

    built_from = (ROOT / "templates/compose/Dockerfile.j2").read_text()
    return lab.filled_store(
        fill, "debian12", ("debian12", "debian13"), built_from, standin.content()
    )
