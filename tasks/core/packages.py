"""Packages of the distribution, installed without starting anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core.change import Change, converge
from tasks.core.files import Directory
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell

if TYPE_CHECKING:
    from tasks.core.estate import Node

# The batch of a read that has `INSTALLED`, the packages of all components of a host.
PACKAGES, INSTALLED = "packages", "installed"


@dataclass(frozen=True)
class Packages:
    """What a component needs of the distribution.

    Attributes:
        names: Debian package names.
        before: shell scripts that run first, such as masking a unit the package would start.
        held: how names begin of packages and units that only `tasks.upgrade` upgrades and restarts.
    """

    names: Sequence[str] = ()
    before: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


def keep_directory(directory: Directory) -> str:
    """Shell that makes an upgrade of the packages keep the owner and mode of a directory."""
    words = f"{directory.user} {directory.group} {directory.mode} {directory.path}"
    return (
        f"dpkg-statoverride --list {directory.path} >/dev/null || dpkg-statoverride --add {words}"
    )


def forget_directory(path: str) -> str:
    """Shell that undoes `keep_directory`, and nothing of an administrator's."""
    ours = f"dpkg-statoverride --list {path} 2>/dev/null | grep -q '^root '"
    return f"! {ours} || dpkg-statoverride --remove {path} >/dev/null"


def probe(names: Sequence[str]) -> Probe[dict[str, str]]:
    """Versions of those of `names` that are installed whole."""

    def parse(lines: list[str]) -> dict[str, str]:
        rows = [line.split(" ") for line in lines]
        return {
            name: version
            for name, status, version in rows
            if status in ("installed", "interrupted")
        }

    return Probe(shell("packages", names=" ".join(names)), parse)


def pristine_probe(names: Sequence[str]) -> Probe[frozenset[str]]:
    """MD5 sums of the configuration files of packages: one of these belongs to no one yet."""
    script = f"dpkg-query -W -f '${{Conffiles}}\\n' {quoted(*names)} 2>/dev/null || true"
    return Probe(script, lambda lines: frozenset(re.findall(r"\b[0-9a-f]{32}\b", " ".join(lines))))


def of_all(node: Node) -> Packages:
    """What all components of a host need."""
    every = [component.packages(node) for component in node.components()]
    names = dict.fromkeys(name for each in every for name in each.names)
    before = dict.fromkeys(script for each in every for script in each.before)
    held = dict.fromkeys(name for each in every for name in each.held)
    return Packages([*names], (*before,), (*held,))


def probes(node: Node) -> dict[str, Probe[dict[str, str]]]:
    """Those of them that are installed; none where a host needs none."""
    names = of_all(node).names
    return {INSTALLED: probe(names)} if names else {}


def install_together(node: Node) -> None:
    """Installs what all components of a host need, in one transaction."""
    wanted = of_all(node)
    node.has_packages = True
    if wanted.names:
        converge("Packages", lambda: _missing(node, wanted))


def install_packages(node: Node, title: str, wanted: Packages) -> None:
    """Installs what one component needs, where this run has not installed all together."""
    if wanted.names and not node.has_packages:
        converge(f"{title}: packages", lambda: _missing(node, wanted))


def _missing(node: Node, wanted: Packages) -> Change | None:
    return compare(node, wanted, node.read(PACKAGES)[INSTALLED])


def compare(node: Node, wanted: Packages, found: Mapping[str, str]) -> Change | None:
    """The installation of what is missing, or None.

    Args:
        node: the host; a plan counts on what an earlier component of it will have installed.
        found: what `probe` read.
    """
    missing = [name for name in wanted.names if name not in found]
    if not node.host.state.is_executing:
        missing = [name for name in missing if name not in node.planned_packages]
        node.planned_packages.update(missing)
    if not missing and "!" not in found:
        return None
    script = "\n".join([shell("install", packages=" ".join(missing)), *wanted.before])
    return Change(
        lines=[f"package {name}: install" for name in missing] or ["packages: finish"],
        # Only what is missing: naming the others would upgrade a server that runs.
        script=f"{script}\ninstall_packages\n",
    )
