"""Hosts of a lab, and the lab that boots and removes them."""

import itertools
import re
import shlex
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from tests.lab import cgroups, engine, loader, network, shell, stores
from tests.lab.archive import Entry, pack
from tests.lab.images import (
    FIRST_BOOT,
    OPERATOR_PASSWORD,
    Release,
    base_image,
    engine_image,
    host_image,
    inner_image,
    installed_image,
    plain_image,
)
from tests.lab.process import LabError, docker, pipe, say
from tests.lab.registry import registry_access
from tests.lab.state import known_hosts, locked, private_key, public_key

__all__ = ["OPERATOR_PASSWORD", "Host", "Lab", "find_hosts", "remove_lab"]

_BOOT_SECONDS = 120
_FIRST_ADDRESS = 10
# SYS_PTRACE is for units with ProtectProc and PrivateUsers, as redis-server has them.
_SYSTEMD_ARGS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec,mode=1777"),
    *("--shm-size", "256m", "--cgroupns", "private"),
)
# A volume, since the engine inside cannot lay its overlays on the overlay of the one below.
_ENGINE_ARGS = ("-v", "/var/lib/docker")
# For the containers inside what the machine below gives its hosts.
_TABLE_ARGS = ("--sysctl", f"net.ipv4.{engine.TABLE.name}={engine.TABLE_ENTRIES}")
# Programs in Go begin to collect garbage at 4 MB, which each `docker` and `runc` has at its start:
# a fifth of their time. With this they end before, and the engine has memory enough.
_GO = "GOGC=400"
_OPEN_PROFILE = Entry("/etc/docker/open.json", b'{"defaultAction": "SCMP_ACT_ALLOW"}\n')
# Docker switches IPv6 off altogether, but every host has ::1 and names it localhost.
_HAS_IPV6 = Path("/proc/sys/net/ipv6").exists()
_LOOPBACK_ARGS = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=0") if _HAS_IPV6 else ()
# Home, user and group of those who may log in over SSH, as the image makes them.
_ACCOUNTS = (("/root", 0, 0), ("/home/deploy", 2001, 2001), ("/home/operator", 2002, 37))
# What these make of a machine's boot has no part in any story, and systemd runs all of them each
# time it reads its units. An empty file of the same name switches one off.
_GENERATORS = (
    *("cryptsetup", "debug", "fstab", "getty", "gpt-auto", "hibernate-resume", "integritysetup"),
    *("rc-local", "run", "ssh", "system-update", "tpm2", "veritysetup"),
)
_HOST_FIELDS = ("name", "release", "address", "systemd")


@dataclass(frozen=True)
class Host:
    """One container that behaves like a machine."""

    name: str
    release: Release
    address: str
    container: str
    lab: str
    systemd: bool = True

    def run(
        self,
        cmd: str,
        *,
        user: str = "root",
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command inside, without SSH; a failure is a LabError."""
        done = shell.run(self.container, user, cmd, (stdin or "").encode(), timeout)
        if check and done.returncode:
            output = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise LabError(f"{self.name}: {cmd!r} exited with {done.returncode}: {output}")
        return done

    def put(self, source: Path, target: str) -> None:
        """Copy a file or directory inside; what lands on a tmpfs such as /tmp is lost."""
        docker("cp", str(source), f"{self.container}:{target}")

    def load(self, image: str, name: str) -> None:
        """Give the host's own Docker engine an image that this machine's engine has, as `name`."""
        inside = ["docker", "exec", "-i", self.container, "docker", "load", "-q"]
        pipe(["docker", "save", image], inside)
        self.run(f"docker tag {image} {name}")

    def pause(self) -> None:
        """Stop every process where it is: the host answers nothing but keeps its connections."""
        docker("pause", self.container)

    def unpause(self) -> None:
        """Let the processes go on."""
        docker("unpause", self.container)

    def kill(self) -> None:
        """Cut the power."""
        docker("kill", self.container)
        shell.forget(self.container)

    def start(self) -> None:
        """Switch on again after kill() and wait until the host is up."""
        docker("start", self.container)
        self.wait_until_up()

    def disconnect(self) -> None:
        """Pull the network cable."""
        docker("network", "disconnect", network.network_name(self.lab), self.container)

    def reconnect(self) -> None:
        """Plug the cable in again; the address stays."""
        options = ["--ip", self.address, "--alias", self.name]
        docker("network", "connect", *options, network.network_name(self.lab), self.container)

    def remove(self) -> None:
        """Remove the host for good."""
        docker("rm", "--force", "--volumes", self.container)

    def ssh_data(self, user: str = "root") -> dict[str, object]:
        """Host data for pyinfra; the host key is known, so it is checked and nothing is asked."""
        return {
            "ssh_hostname": self.address,
            "ssh_user": user,
            "ssh_key": str(private_key()),
            "ssh_known_hosts_file": str(known_hosts(self.lab)),
            "ssh_strict_host_key_checking": "yes",
            "ssh_look_for_keys": False,
            "ssh_allow_agent": False,
        }

    def ssh_command(self, user: str = "root") -> list[str]:
        """The ssh command that opens this host; a remote command may be appended."""
        options = {
            "UserKnownHostsFile": str(known_hosts(self.lab)),
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-i", str(private_key()), *words, f"{user}@{self.address}"]

    def wait_until_up(self) -> None:
        """Wait until systemd has started everything and sshd answers."""
        if not self.systemd:
            return
        deadline = time.monotonic() + _BOOT_SECONDS
        while not (self._sshd_answers() and self._has_booted()):
            if time.monotonic() > deadline:
                state = self.run("systemctl is-system-running; systemctl --failed", check=False)
                raise LabError(f"{self.name} did not boot: {' '.join(state.stdout.split())}")
            time.sleep(0.3)

    def _has_booted(self) -> bool:
        state = self.run("systemctl is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _sshd_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


class Lab:
    """A network with hosts on it; leaving the context removes all of it."""

    def __init__(self, name: str) -> None:
        """Start with nothing: what an earlier lab of this name left behind is removed."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise LabError(f"lab name {name!r}: use lower-case letters, digits and hyphens")
        cgroups.require_v2()
        engine.ensure()
        remove_lab(name)
        self.name = name
        self._subnet = network.create(name)
        self._numbers = itertools.count(_FIRST_ADDRESS)

    def __enter__(self) -> Self:
        """The lab itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self.close()

    @property
    def gateway(self) -> str:
        """This machine's own address on the network: what listens there is reached by hosts."""
        return f"{self._subnet}.1"

    def host(
        self,
        name: str,
        release: Release = "debian12",
        *,
        small_disk: str | None = None,
        image: str | None = None,
    ) -> Host:
        """Boot one host; small_disk such as "/var/lib/postgresql:64m" is a disk that can fill."""
        host = self._new_host(name, release, systemd=True)
        args = [*_SYSTEMD_ARGS]
        if small_disk:
            path, size = small_disk.rsplit(":", 1)
            args += ["--tmpfs", f"{path}:exec,mode=0755,size={size}"]
        self._boot(host, args, image or host_image(release), *cgroups.INIT)
        return host

    def installed_host(self, name: str, release: Release = "debian12") -> Host:
        """Boot one host that has all packages, as a deployment installs them: nothing runs.

        For stories that do not prove what happens to a bare host.
        """
        host = self.host(name, release, image=installed_image(release))
        host.run(FIRST_BOOT)
        return host

    def hosts(
        self,
        count: int,
        release: Release = "debian12",
        *,
        prefix: str | None = None,
        image: str | None = None,
    ) -> list[Host]:
        """Boot several hosts at once: lab12-1, lab12-2 and so on unless a prefix is given."""
        stem = prefix or f"lab{release.removeprefix('debian')}"
        chosen = image or host_image(release)
        with ThreadPoolExecutor(max_workers=8) as pool:
            names = [f"{stem}-{number}" for number in range(1, count + 1)]
            return list(pool.map(lambda name: self.host(name, release, image=chosen), names))

    def engine_host(
        self,
        name: str,
        release: Release = "debian12",
        *,
        bases: Sequence[Release] = ("debian13",),
        store: str | None = None,
        filters: bool = True,
    ) -> Host:
        """Boot one host with a Docker engine of its own, which has Debian's images of `bases`.

        Args:
            store: of filled_store(): all images of that, instead of `bases`.
            filters: whether containers get Docker's own filter of system calls. It is compiled
                again for each `docker exec` and health check, which takes a fifth of them.
        """
        host = self._new_host(name, release, systemd=True)
        args = [*_SYSTEMD_ARGS, *_ENGINE_ARGS, *(_TABLE_ARGS if engine.TABLE.exists() else ())]
        args += ["-e", _GO]
        files = _engine_files(filters)
        self._boot(host, args, engine_image(release), *cgroups.INIT, store=store, files=files)
        host.run("docker info")
        for base in () if store else bases:
            host.load(inner_image(base), base_image(base))
        return host

    def filled_store(
        self,
        fill: Callable[[Host], object],
        release: Release,
        bases: Sequence[Release],
        *inputs: str,
    ) -> str:
        """What an engine has when `fill` has built images in it: made once for these inputs."""
        name = stores.name_of([engine_image(release), *map(inner_image, bases)], inputs)
        with locked(name):
            if not stores.is_whole(name):
                host = self.engine_host("store", release, bases=bases)
                fill(host)
                host.run(stores.EMPTY, timeout=120)
                stores.keep(host.container, name)
                host.remove()
        return name

    def machine(self, name: str) -> Host:
        """Start a Debian 12 machine without systemd; it has the tools to work on a clone."""
        host = self._new_host(name, "debian12", systemd=False)
        args = ["--init"] if shutil.which("docker-init") else []
        self._boot(host, [*args, *registry_access().mount_args()], plain_image())
        return host

    def commit(self, host: Host) -> str:
        """Make an image of a configured host, to boot copies of it; close() removes it."""
        image = f"datatier-lab/{self.name}-{host.name}"
        docker("commit", host.container, image)
        return image

    def close(self) -> None:
        """Remove the hosts, their images and the network."""
        remove_lab(self.name)

    def _new_host(self, name: str, release: Release, *, systemd: bool) -> Host:
        address = f"{self._subnet}.{next(self._numbers)}"
        return Host(name, release, address, f"datatier-{self.name}-{name}", self.name, systemd)

    def _boot(
        self,
        host: Host,
        args: Sequence[str],
        *image: str,
        store: str | None = None,
        files: Sequence[Entry] = (),
    ) -> None:
        access = registry_access()
        identity = ["--name", host.container, "--hostname", host.name]
        wiring = ["--network", network.network_name(self.name), "--ip", host.address]
        wiring += ["--network-alias", host.name, *_LOOPBACK_ARGS]
        docker("create", *identity, *wiring, *_labels(host), *access.env_args(), *args, *image)
        every = [*files, *access.files, *loader.files(image[0], host.container)]
        every += _system_files() if host.systemd else []
        docker("cp", "-", f"{host.container}:/", data=pack(every))
        if store:
            stores.give(store, host.container)
        docker("start", host.container)
        host.wait_until_up()
        if host.systemd:
            _remember_host_key(host)


def find_hosts(lab: str) -> list[Host]:
    """The hosts of a lab that another process may have made."""
    label = '{{{{.Label "datatier.lab.{}"}}}}'
    row = "\t".join(["{{.Names}}", *(label.format(field) for field in _HOST_FIELDS)])
    listed = docker("ps", "-a", "--filter", f"label=datatier.lab={lab}", "--format", row).stdout
    found = []
    for line in listed.splitlines():
        container, name, release, address, systemd = line.split("\t")
        known = cast(Release, release)
        found.append(Host(name, known, address, container, lab, systemd == "True"))
    return sorted(found, key=lambda host: host.name)


def remove_lab(lab: str) -> None:
    """Remove everything that a lab of this name made, whichever process did."""
    hosts = find_hosts(lab)
    if hosts:
        say(f"removing {len(hosts)} hosts of lab {lab}")
        docker("rm", "--force", "--volumes", *(host.container for host in hosts))
    images = docker("images", "-q", "--filter", f"label=datatier.lab={lab}").stdout.split()
    for image in dict.fromkeys(images):
        docker("rmi", "--force", image)
    network.remove(lab)
    known_hosts(lab).unlink(missing_ok=True)


def ssh_line(host: Host) -> str:
    """How to log in, for a person to paste."""
    return shlex.join(host.ssh_command())


def _labels(host: Host) -> list[str]:
    labels = {f"datatier.lab.{field}": getattr(host, field) for field in _HOST_FIELDS}
    labels["datatier.lab"] = host.lab
    return [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]


def _system_files() -> list[Entry]:
    # Left to systemd, every host would take the same one from the machine below.
    files = [Entry("/etc/machine-id", f"{uuid.uuid4().hex}\n".encode())]
    directory = "/etc/systemd/system-generators"
    files += [Entry(f"{directory}/systemd-{name}-generator", b"") for name in _GENERATORS]
    for home, uid, gid in _ACCOUNTS:
        files.append(Entry(f"{home}/.ssh", None, 0o700, uid, gid))
        files.append(Entry(f"{home}/.ssh/authorized_keys", public_key(), 0o600, uid, gid))
    return files


def _engine_files(filters: bool) -> list[Entry]:
    """How the programs of an engine run; a session over SSH has what /etc/environment says."""
    options = "" if filters else f" DOCKER_OPTS=--seccomp-profile={_OPEN_PROFILE.path}"
    units = {"docker": f"{_GO}{options}", "containerd": _GO}
    files = [Entry("/etc/environment", f"{_GO}\n".encode())]
    for unit, environment in units.items():
        path = f"/etc/systemd/system/{unit}.service.d/environment.conf"
        files.append(Entry(path, f"[Service]\nEnvironment={environment}\n".encode()))
    return files if filters else [*files, _OPEN_PROFILE]


def _remember_host_key(host: Host) -> None:
    kind, key = host.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2]
    with locked(f"{host.lab}.known_hosts"), known_hosts(host.lab).open("a") as lines:
        lines.write(f"{host.address} {kind} {key}\n")
