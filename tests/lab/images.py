"""The images hosts are made of, built once and kept until their inputs change."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from typing import Literal

from tests.lab import loader
from tests.lab.archive import Entry, pack
from tests.lab.process import LabError, call, docker, pipe, say
from tests.lab.registry import apt_settings, proxies
from tests.lab.state import locked

Release = Literal["debian12", "debian13"]
RELEASES: tuple[Release, ...] = ("debian12", "debian13")
IMAGE_LABEL = "datatier.lab.image"
OPERATOR_PASSWORD = "operator-lab-password"

_SUITES: dict[Release, str] = {"debian12": "bookworm", "debian13": "trixie"}
_HOST_PACKAGES = (
    "systemd systemd-sysv dbus openssh-server sudo python3-minimal iproute2 procps iputils-ping"
)
_ENGINE_PACKAGES: dict[Release, str] = {
    "debian12": "docker.io docker-compose iptables",
    "debian13": "docker.io docker-cli docker-compose iptables",
}
_PLAIN_PACKAGES = "python3 python3-venv git make gcc libc6-dev procps iproute2 sudo openssh-client"
_DOWNLOADS = (
    "postgresql postgresql-contrib pgbouncer redis-server redis-tools redis-sentinel"
    " runit runit-run cron pgbackrest acl lsof"
    " python3-psycopg python3-redis python3-boto3 gnupg openssl logrotate"
)
_INSTALLED_PACKAGES = (
    "postgresql-client pgbouncer redis-server redis-tools pgbackrest cron"
    " python3 python3-psycopg python3-redis python3-boto3 gnupg openssl logrotate"
)
_VERSIONS: dict[Release, int] = {"debian12": 15, "debian13": 17}
_PULL_SECONDS = 30

_COMMON = """\
FROM {base}
LABEL {label}={kind}
COPY apt.conf /etc/apt/apt.conf.d/90lab
RUN rm -f /etc/apt/apt.conf.d/docker-* /usr/sbin/policy-rc.d \\
 && echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/90lab \\
 && echo LANG=C.UTF-8 >/etc/default/locale \\
 && export DEBIAN_FRONTEND=noninteractive \\
 && apt-get update \\
 && apt-get install -y --no-install-recommends {packages} \\
 && apt-get clean
"""
_DOWNLOAD = f"""\
RUN apt-get install -y --download-only --no-install-recommends {_DOWNLOADS}
"""
# Debian already has a group called operator.
_HOST = f"""\
RUN useradd -m -s /bin/bash -u 2001 deploy \\
 && useradd -m -s /bin/bash -u 2002 -g operator -G sudo operator \\
 && echo 'operator:{OPERATOR_PASSWORD}' | chpasswd \\
 && echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy \\
 && chmod 440 /etc/sudoers.d/deploy
STOPSIGNAL SIGRTMIN+3
"""
# A host's /proc/sys is read-only: newer engines give up where they cannot switch IPv6 off.
_ENGINE = """\
RUN mkdir -p /etc/systemd/system/docker.service.d \\
 && printf '[Service]\\nEnvironment=DOCKER_ALLOW_IPV6_ON_IPV4_INTERFACE=1\\n' \\
    >/etc/systemd/system/docker.service.d/lab.conf
"""
_PLAIN = """\
CMD ["tail", "-f", "/dev/null"]
"""
# Enabled, but not running, is what these units are after a deployment has installed them. A boot
# would start them, so their links wait for its end: see FIRST_BOOT.
_INSTALLED = """\
FROM {base}
LABEL {label}=installed
RUN export DEBIAN_FRONTEND=noninteractive \\
 && printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d \\
 && chmod 755 /usr/sbin/policy-rc.d \\
 && install -d /etc/postgresql-common/createcluster.d \\
 && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/datatier.conf \\
 && systemctl -q mask redis-server.service \\
 && apt-get install -y --no-install-recommends postgresql-{version} {packages} \\
 && rm /usr/sbin/policy-rc.d \\
 && mkdir /etc/systemd/system/first-boot \\
 && cd /etc/systemd/system/multi-user.target.wants \\
 && mv cron.service pgbouncer.service postgresql.service ../first-boot
"""
# What is a host's own and was made with the image: which units are enabled, and a certificate.
FIRST_BOOT = """
cd /etc/systemd/system && mv first-boot/* multi-user.target.wants && rmdir first-boot
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \\
  -subj "/CN=$(hostname)" -keyout /etc/ssl/private/ssl-cert-snakeoil.key \\
  -out /etc/ssl/certs/ssl-cert-snakeoil.pem 2>/dev/null
"""
_APT = """\
APT::Keep-Downloaded-Packages "true";
Binary::apt::APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
"""


def host_image(release: Release) -> str:
    """A Debian host: systemd, sshd, and the users root, deploy and operator."""
    return _image("host", release, _HOST_PACKAGES, _DOWNLOAD + _HOST)


def installed_image(release: Release) -> str:
    """A Debian host on which all packages of a deployment are installed, and nothing runs."""
    base = host_image(release)
    with locked(f"image-{release}"):
        file = _INSTALLED.format(
            base=base,
            label=IMAGE_LABEL,
            version=_VERSIONS[release],
            packages=_INSTALLED_PACKAGES,
        )
        return _made("installed", release, base, {"Dockerfile": file})


def engine_image(release: Release) -> str:
    """A Debian host with a Docker engine and Compose; its deployments download nothing by apt."""
    packages = f"{_HOST_PACKAGES} {_ENGINE_PACKAGES[release]}"
    return _image("engine", release, packages, _HOST + _ENGINE)


def plain_image(release: Release = "debian12") -> str:
    """A Debian machine where systemd is not process 1, with the tools of a developer."""
    return _image("plain", release, _PLAIN_PACKAGES, _DOWNLOAD + _PLAIN)


def base_image(release: Release) -> str:
    """Debian alone: what every image here is made from, and those of a Compose project."""
    with locked(f"image-{release}"):
        return _base_image(release)


def inner_image(release: Release) -> str:
    """Debian alone, for engines of hosts: programs of their containers start as those of hosts."""
    base = base_image(release)
    with locked(f"image-{release}"):
        container = docker("create", base, "true").stdout.strip()
        files = loader.files(base, container)
        docker("rm", container)
        if not files:
            return base
        text = f"FROM {base}\nLABEL {IMAGE_LABEL}=inner\nCOPY usr /usr\n"
        base_id = docker("image", "inspect", "--format", "{{.Id}}", base).stdout
        content = pack(files).hex()
        tag = f"datatier-lab/inner-{release}:{digest(base_id, text, content)}"
        if not _exists(tag):
            _build(tag, [Entry("Dockerfile", text.encode()), *files])
    return tag


def remove_images() -> None:
    """Remove every image the lab built."""
    listed = docker("images", "-q", "--no-trunc", "--filter", f"label={IMAGE_LABEL}").stdout
    for image in dict.fromkeys(listed.split()):
        docker("rmi", "--force", image, check=False)


def _image(kind: str, release: Release, packages: str, tail: str) -> str:
    with locked(f"image-{release}"):
        base = _base_image(release)
        common = _COMMON.format(base=base, label=IMAGE_LABEL, kind=kind, packages=packages)
        files = {"Dockerfile": common + tail, "apt.conf": _APT + apt_settings()}
        return _made(kind, release, base, files)


def _made(kind: str, release: Release, base: str, files: dict[str, str]) -> str:
    base_id = docker("image", "inspect", "--format", "{{.Id}}", base).stdout
    tag = f"datatier-lab/{kind}-{release}:{digest(base_id, *files.values())}"
    if not _exists(tag):
        _build(tag, [Entry(name, text.encode()) for name, text in files.items()])
    return tag


def digest(*inputs: str) -> str:
    """A short name for what something is made of."""
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]


def _exists(image: str) -> bool:
    return docker("image", "inspect", image, check=False).returncode == 0


def _build(tag: str, files: Iterable[Entry]) -> None:
    say(f"building {tag}")
    context = pack(files)
    arguments = [word for name, value in proxies().items() for word in _build_arg(name, value)]
    docker("build", "--rm", "-t", tag, *arguments, "-", data=context, timeout=1800)


def _build_arg(name: str, value: str) -> tuple[str, str]:
    return "--build-arg", f"{name}={value}"


def _base_image(release: Release) -> str:
    image = f"debian:{_SUITES[release]}-slim"
    if not _exists(image) and not _pulled(image):
        _bootstrap(_SUITES[release], image)
    return image


def _pulled(image: str) -> bool:
    say(f"pulling {image}")
    try:
        return docker("pull", "-q", image, check=False, timeout=_PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _bootstrap(suite: str, image: str) -> None:
    if os.geteuid() != 0:
        raise LabError(f"{image} cannot be pulled, and making it with debootstrap needs root")
    say(f"{image} cannot be pulled: making it with debootstrap")
    with tempfile.TemporaryDirectory(prefix="datatier-lab-") as directory:
        # Not the directory itself: only root may enter that, and so it would be with the image.
        root = f"{directory}/root"
        options = ["--variant=minbase", "--include=ca-certificates"]
        call(["debootstrap", *options, suite, root], timeout=1800)
        call(["chroot", root, "apt-get", "clean"])
        _import(root, image)


def _import(root: str, image: str) -> None:
    label = f"LABEL {IMAGE_LABEL}=base"
    pack_root = ["tar", "-C", root, "-c", "."]
    pipe(pack_root, ["docker", "import", "--change", label, "-", image])
