"""Packages of the distribution, installed without starting anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.core.change import Change
from tasks.core.files import Directory
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell

if TYPE_CHECKING:
    from tasks.core.estate import Node


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


def compare(
    node: Node, names: Sequence[str], found: Mapping[str, str], before: str = ""
) -> Change | None:
    """The installation of what is missing, or None.

    Args:
        node: the host; a plan counts on what an earlier component of it will have installed.
        names: Debian package names.
        found: what `probe` read.
        before: shell that runs first, such as masking a unit the package would start.
    """
    missing = [name for name in names if name not in found]
    if not node.host.state.is_executing:
        missing = [name for name in missing if name not in node.planned_packages]
        node.planned_packages.update(missing)
    if not missing and "!" not in found:
        return None
    return Change(
        lines=[f"package {name}: install" for name in missing] or ["packages: finish"],
        # Only what is missing: naming the others would upgrade a server that runs.
        script=f"{shell('install', packages=' '.join(missing))}{before}\ninstall_packages\n",
    )
