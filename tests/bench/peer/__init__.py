"""The same host by Ansible, tuned, and by Ansible with Mitogen."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import resource
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from tests.bench.far import Way
from tests.e2e.project import ROOT, Project
from tests.lab import Host
from tests.lab.state import known_hosts, private_key

_HERE = Path(__file__).parent
_LISTS = ("postgres_files", "pgbouncer_files", "redis_files", "sentinel_files", "backup_files")
_BINARIES = Path(os.environ.get("BENCH_PEER", ROOT / ".venv-bench")) / "bin"


@dataclass(frozen=True)
class Cost:
    """What a run took, in seconds: of the clock, and of this machine's processors for its programs.

    Attributes:
        changed: whether it says that it has changed something.
    """

    wall: float
    processor: float
    changed: bool = False


def timed(
    command: Sequence[str | Path], directory: Path, environment: dict[str, str]
) -> tuple[Cost, str]:
    """What a command took on the controller, and what it said; it must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, processor), done.stdout


@dataclass(frozen=True)
class Peer:
    """A directory from which Ansible manages hosts.

    Attributes:
        of: the project whose secrets are used.
        model: a host that this project has deployed: files are taken from there.
    """

    directory: Path
    of: Project
    model: Host

    def prepare(self, host: Host, way: Way | None = None) -> None:
        """Writes the directory again for a host, and the way to it where that is another one."""
        shutil.copytree(_HERE, self.directory, dirs_exist_ok=True)
        variables = yaml.safe_load((_HERE / "group_vars" / "all.yml").read_text())
        paths = [each["path"] for name in _LISTS for each in variables[name]]
        packed = self.model.run(f"tar -C / -c {' '.join(p[1:] for p in paths)} | base64").stdout
        self._files(host, packed)
        program = self.directory / "files" / "program.tar"
        with tarfile.open(program, "w") as archive:
            for name in ("backup", "docs/health.md"):
                archive.add(ROOT / name, name, filter=_plain)
        (self.directory / "hosts.json").write_text(json.dumps(self._inventory(host, way)))

    def _files(self, host: Host, packed: str) -> None:
        home = self.directory / "files" / host.name
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
            for member in archive.getmembers():
                stream = archive.extractfile(member)
                assert stream is not None
                path = home / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = stream.read().replace(self.model.address.encode(), host.address.encode())
                path.write_bytes(content)

    def _inventory(self, host: Host, way: Way | None) -> dict[str, object]:
        keys = way.known_hosts if way else known_hosts(host.lab)
        member = {
            "ansible_host": "127.0.0.1" if way else host.address,
            "ansible_port": way.port if way else 22,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(private_key()),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={keys} -o IdentitiesOnly=yes",
            "address": host.address,
        }
        return {"all": {"hosts": {host.name: member}, "vars": {"secrets": self.of.secrets}}}

    def run(self, *, mitogen: bool = False) -> Cost:
        """Runs the playbook."""
        command: list[str | Path] = [_BINARIES / "ansible-playbook", "-i", "hosts.json", "site.yml"]
        cost, said = timed(command, self.directory, self._environment(mitogen))
        return Cost(cost.wall, cost.processor, re.search(r"changed=[1-9]", said) is not None)

    def _environment(self, mitogen: bool) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
        if mitogen:
            environment["ANSIBLE_STRATEGY_PLUGINS"] = str(self._mitogen)
            environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        return environment

    @cached_property
    def _mitogen(self) -> Path:
        return next(_BINARIES.parent.glob("lib/*/site-packages/ansible_mitogen/plugins/strategy"))

    def close(self) -> None:
        """Ends the connections that Ansible keeps open."""
        for socket in (self.directory / "sockets").glob("*"):
            subprocess.run(
                ["ssh", "-O", "exit", "-S", socket, "x"], capture_output=True, check=False
            )


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what differs between two clones: then it is written once only."""
    if "__pycache__" in entry.name:
        return None
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "root", "root"
    return entry
