"""The Docker engine: installed and started when it is not there."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.lab.process import LabError, call, docker, say
from tests.lab.state import locked, state_dir

_PACKAGES = {
    # Some machines come with the client alone.
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh-keygen": "openssh-client",
}
_REDIS_PACKAGES = {"redis-check-rdb": "redis-tools", "gpg": "gnupg"}
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_START_SECONDS = 60
_WATCHERS = 1024
# What network namespaces get that are made from within this one; kernels since 6.2 have it.
TABLE, TABLE_ENTRIES = Path("/proc/sys/net/ipv4/tcp_child_ehash_entries"), 2048


def ensure() -> None:
    """Install what is missing and start the engine unless one already answers."""
    with locked("engine"):
        _install_missing(_PACKAGES)
        if not answers():
            _start()
        _allow_many_systemds()
        _make_tables_small()


def _allow_many_systemds() -> None:
    """Each systemd watches files; the kernel's default of 128 watchers serves six hosts."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < _WATCHERS and os.access(limit, os.W_OK):
        say(f"{limit}: {_WATCHERS}")
        limit.write_text(str(_WATCHERS))


def _make_tables_small() -> None:
    """A host's connections have a table as large as this machine's memory, unless told otherwise.

    To read /proc/net/tcp is to look at all of it, which took a fortieth of every run.
    """
    if TABLE.exists() and os.access(TABLE, os.W_OK) and int(TABLE.read_text()) == 0:
        say(f"{TABLE}: {TABLE_ENTRIES}")
        TABLE.write_text(str(TABLE_ENTRIES))


def ensure_redis() -> Path:
    """Install what is missing of Redis and gpg; returns the server's program, under another name.

    Debian's redis-server is redis-check-rdb called by that name: nothing is started with it here.
    """
    with locked("engine"):
        _install_missing(_REDIS_PACKAGES)
    return Path(shutil.which("redis-check-rdb", path=_PATH) or "").resolve(strict=True)


def answers() -> bool:
    """Whether an engine is running and may be used."""
    if not shutil.which("docker"):
        return False
    return docker("info", "--format", "{{.ServerVersion}}", check=False).returncode == 0


def stop_if_ours() -> None:
    """Stop the engine the lab started, once no lab has a container left."""
    with locked("engine"):
        pid = _our_pid()
        if pid is None or docker("ps", "-aq", "--filter", "label=datatier.lab").stdout:
            return
        say("stopping the Docker engine that the lab started")
        os.kill(pid, signal.SIGTERM)
        _wait_until_gone(pid)


def _install_missing(tools: Mapping[str, str]) -> None:
    packages = [name for tool, name in tools.items() if not shutil.which(tool, path=_PATH)]
    if not packages:
        return
    _require_root(f"installing {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    call(["apt-get", "update", "-q"], timeout=600)
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    call(["env", "DEBIAN_FRONTEND=noninteractive", *install], timeout=1200)


def _start() -> None:
    _require_root("starting the Docker engine")
    say("no Docker engine answers: starting one")
    command = ["setsid", "--fork", "dockerd", "--pidfile", str(_pid_file())]
    log = state_dir() / "dockerd.log"
    with log.open("wb") as out:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        if time.monotonic() > deadline:
            raise LabError(f"dockerd did not answer within {_START_SECONDS} s: see {log}")
        time.sleep(0.5)


def _require_root(what: str) -> None:
    if os.geteuid() != 0:
        raise LabError(f"{what} needs root")


def _pid_file() -> Path:
    return state_dir() / "dockerd.pid"


def _our_pid() -> int | None:
    try:
        pid = int(_pid_file().read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


def _wait_until_gone(pid: int) -> None:
    # dockerd removes its pid file as the last thing it does.
    deadline = time.monotonic() + _START_SECONDS
    while _our_pid() == pid:
        if time.monotonic() > deadline:
            raise LabError(f"dockerd (process {pid}) did not stop within {_START_SECONDS} s")
        time.sleep(0.2)
