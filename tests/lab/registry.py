"""How containers reach package registries: the same way this machine does."""

import configparser
import io
import os
import shutil
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.archive import Entry
from tests.lab.process import call

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_LOCAL_CAS = Path("/usr/local/share/ca-certificates")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_APT_SETTINGS = ("Acquire::http::", "Acquire::https::", "Acquire::Check-")
_PIP_FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


@dataclass(frozen=True)
class RegistryAccess:
    """What a container needs to download packages."""

    env: Mapping[str, str]
    files: tuple[Entry, ...]
    mounts: tuple[Path, ...]

    def env_args(self) -> list[str]:
        """Arguments of docker run for the environment."""
        return [arg for name, value in self.env.items() for arg in ("-e", f"{name}={value}")]

    def mount_args(self) -> list[str]:
        """Arguments of docker run for package indexes kept in local directories."""
        return [arg for path in self.mounts for arg in ("-v", f"{path}:{path}:ro")]


def registry_access() -> RegistryAccess:
    """Read this machine's proxies, pip configuration and certificate authorities."""
    pip = _pip_configuration()
    env = proxies() | {name: _inside(name, value) for name, value in _pip_environment().items()}
    settings = [(key, value) for section in pip.values() for key, value in section.items()]
    settings += [(name[4:].lower().replace("_", "-"), env[name]) for name in _pip_environment()]
    files = (*_certificates(), Entry("/etc/pip.conf", _render(pip)))
    return RegistryAccess(env, files, tuple(sorted(_local_indexes(settings))))


def proxies() -> dict[str, str]:
    """The proxy variables of this machine, in the spelling they are set."""
    return {name: value for name, value in os.environ.items() if name.lower() in _PROXIES}


def apt_settings() -> str:
    """The lines of this machine's apt configuration that matter for reaching a mirror."""
    if not shutil.which("apt-config"):
        return ""
    lines = call(["apt-config", "dump", "--no-empty"]).stdout.splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(_APT_SETTINGS))


def _pip_environment() -> dict[str, str]:
    names = (name for name in os.environ if name.startswith("PIP_") and name != "PIP_CONFIG_FILE")
    return {name: os.environ[name] for name in names}


def _pip_configuration() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    named = os.environ.get("PIP_CONFIG_FILE")
    parser.read([Path(name).expanduser() for name in (*_PIP_FILES, named) if name])
    for section in parser.values():
        if "cert" in section:
            section["cert"] = _BUNDLE
    return parser


def _inside(name: str, value: str) -> str:
    return _BUNDLE if name == "PIP_CERT" else value


def _render(parser: configparser.RawConfigParser) -> bytes:
    text = io.StringIO()
    parser.write(text)
    return text.getvalue().encode()


def _certificates() -> Iterable[Entry]:
    # The sources as well: the bundle is made again whenever ca-certificates is configured.
    for path in sorted(_LOCAL_CAS.glob("*.crt")):
        yield Entry(str(path), path.read_bytes())
    named = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, _BUNDLE)
    bundle = next((Path(name) for name in named if name and Path(name).is_file()), None)
    if bundle:
        yield Entry(_BUNDLE, bundle.read_bytes())


def _local_indexes(settings: Iterable[tuple[str, str]]) -> set[Path]:
    found: set[Path] = set()
    for key, value in settings:
        if key not in ("find-links", "index-url", "extra-index-url"):
            continue
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.is_dir():
                # The pages of an index point to files beside it.
                found.add(path if key == "find-links" else path.parent)
    return found
