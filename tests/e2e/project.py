"""A user's project directory: a copy of this one with an inventory, and pyinfra run in it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pprint import pformat
from typing import Any

from dotenv import dotenv_values

from tests.e2e.resident import Resident
from tests.e2e.wait import KNOWN
from tests.lab import Host

ROOT = Path(__file__).resolve().parents[2]
# For stories of a process: it is killed, or what it prints is read meanwhile.
PYINFRA = Path(sys.executable).parent / "pyinfra"

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run of pyinfra did."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both streams, for searching."""
        return self.stdout + self.stderr

    @property
    def announced(self) -> list[str]:
        """The sentences about changes, as `[host] sentence`, in order."""
        return [
            f"{host} {line}"
            for host, line in re.findall(r"^    (\[\S+\])   (.*)$", self.stderr, re.MULTILINE)
        ]

    @property
    def changed(self) -> set[tuple[str, str]]:
        """Operations that changed something, as (operation, host); of a real run with --json."""
        operations = json.loads(self.stdout)["results"]["operations"]
        return {(op["name"], host) for op in operations for host in op["success"]}

    @property
    def planned(self) -> set[tuple[str, str]]:
        """Operations that would change something, as (operation, host); of a --dry --json run."""
        return {
            (op["name"], host)
            for op in json.loads(self.stdout)["plan"]
            for host in (*op["hosts_with_change"], *op["hosts_with_conditional_change"])
        }


class Project:
    """A directory from which somebody deploys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("backup", "docs", "tasks", "templates", "config.py", "deploy.py"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, directory / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(source, directory / name)
        (directory / "group_data").mkdir()
        self.settings({})

    def inventory(self, groups: Mapping[str, Sequence[tuple[str, Data]]]) -> None:
        """Writes inventory.py: hosts with their data by group."""
        lines = [f"{group} = {pformat(list(hosts))}\n" for group, hosts in groups.items()]
        (self.directory / "inventory.py").write_text("".join(lines))

    def settings(self, values: Data) -> None:
        """Writes group_data/all.py again."""
        lines = [f"{key} = {value!r}\n" for key, value in values.items()]
        (self.directory / "group_data" / "all.py").write_text("".join(lines))

    @property
    def secrets(self) -> dict[str, str]:
        """What `.env` holds."""
        values = dotenv_values(self.directory / ".env", interpolate=False)
        return {key: value or "" for key, value in values.items()}

    @contextlib.contextmanager
    def without_secrets(self) -> Iterator[Path]:
        """The directory as another clone of it would be: `.env` is away as long as this lasts."""
        env = self.directory / ".env"
        away = env.rename(env.with_suffix(".away"))
        try:
            yield env
        finally:
            away.rename(env)

    def pyinfra(self, *arguments: str, stdin: str = "", timeout: float = 600) -> Run:
        """Runs pyinfra in the directory and returns what it did, whatever its exit code."""
        return self._run("pyinfra", *arguments, stdin=stdin, timeout=timeout)

    def drift(self, *arguments: str) -> Run:
        """Runs the drift gate on the inventory."""
        return self._run("tasks.drift", "inventory.py", *arguments)

    def _run(
        self, *command: str, stdin: str = "", timeout: float = 600, prepare: Sequence[str] = ()
    ) -> Run:
        return Run(*self._resident.run(command, stdin, timeout, prepare))

    @cached_property
    def _resident(self) -> Resident:
        return Resident(self.directory)

    def deploy(self, task: str = "deploy.py", *arguments: str) -> Run:
        """A real run that must succeed."""
        run = self.pyinfra("-y", "--json", *arguments, "inventory.py", task)
        assert run.code == 0, run.output
        return run

    def plan(self, task: str = "deploy.py", *arguments: str) -> Run:
        """A dry run that must succeed."""
        run = self.pyinfra("--dry", "--json", *arguments, "inventory.py", task)
        assert run.code == 0, run.output
        return run


EMBEDDED = {
    "postgres": {},
    "pgbouncer": {},
    "redis": {"redis_ports": [6379, 6380, 6381]},
    "sentinel": {"sentinel_ports": [26379, 26380, 26381]},
    "backup": {},
    "apps": {},
}


def embedded(name: str, host: Host, user: str = "root", **data: Any) -> dict[str, Any]:
    """The whole stack on one host over SSH; `data` is added to the host's."""
    common = {**host.ssh_data(user), "address": host.address, **data}
    return {group: [(name, {**common, **extra})] for group, extra in EMBEDDED.items()}


# What a run could leave behind: packages, files with their content and owner, running services.
# Not what servers write for a moment, nor what a timer finds out about updates.
_FOOTPRINT = f"""{KNOWN}dpkg-query -W -f '${{Package}} ${{Version}} ${{Status}}\\n'
{{ find /etc /usr/local /usr/sbin/policy-rc.d /var/lib/datatier -printf '%y %m %u:%g %p\\n'
  find /var/lib/redis /var/lib/postgresql -maxdepth 2 ! -name '*.tmp' ! -name 'temp-*' \\
    -printf '%y %m %u:%g %p\\n'
}} 2>/dev/null | grep -v '/host-updates'
{{ find /etc /usr/local /var/lib/datatier -type f ! -name 'host-updates*' -exec sha256sum {{}} +
}} 2>/dev/null
systemctl show -p Id,ActiveState,MainPID 'postgresql@*' pgbouncer.service 'redis*' |
  awk -v RS= '{{ $1 = $1; print }}'
"""


def footprint(*hosts: Host) -> set[str]:
    """Everything on hosts that a run which refuses must leave as it was; in no order."""
    return {f"{h.name}: {line}" for h in hosts for line in h.run(_FOOTPRINT).stdout.splitlines()}
