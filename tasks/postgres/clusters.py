"""PostgreSQL's clusters on a host: which there are, whose they are, and how one is made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.core.files import MARK
from tasks.core.remote import Probe
from tasks.core.scripts import assignments, quoted, shell


@dataclass(frozen=True)
class Clusters:
    """What a host has of clusters named `main`, and of the one of the wanted version.

    Attributes:
        versions: of all clusters named `main`.
        is_configured: it has a postgresql.conf.
        is_ours: Datatier configured it, or was told to adopt it.
        data: where its data are by its configuration, or by its running server.
        is_whole: its data are those of a cluster.
        is_begun: Datatier has created it up to the last rename.
        left: a directory in its place with something else in it.
        pid: its running server, where it is not ours.
        databases: how many it has besides PostgreSQL's own, where it is not ours.
        unfit: why it does not take Datatier's configuration.
        archive_command: its own.
    """

    versions: tuple[int, ...] = ()
    is_configured: bool = False
    is_ours: bool = False
    data: str = ""
    is_whole: bool = False
    is_begun: bool = False
    left: tuple[str, ...] = ()
    pid: str = ""
    databases: int = 0
    unfit: tuple[str, ...] = ()
    archive_command: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether there is a cluster that is not Datatier's."""
        return self.is_configured and self.is_whole and not self.is_ours


def probe(version: int) -> Probe[Clusters]:
    """Reads the clusters of a host, and of `version` whose it is."""
    script = (
        assignments({"VERSION": str(version), "MARK": MARK})
        + shell("ours")
        + shell("clusters", "postgres")
    )
    # As the user whose directories these are.
    return Probe(f"patience=20; at /var/lib/postgresql/main sh -euc {quoted(script)}", _parse)


def _parse(lines: Sequence[str]) -> Clusters:
    said: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        key, _, value = line.partition(" ")
        said[key].append(value)
    return Clusters(
        versions=tuple(sorted(map(int, filter(str.isdigit, said["version"])))),
        is_configured="configured" in said,
        is_ours="ours" in said,
        data=said["data"][0],
        is_whole="whole" in said,
        is_begun="creating" in said,
        left=tuple(said["left"]),
        pid="".join(said["running"]),
        databases=int((said["databases"] or ["0"])[0]),
        unfit=tuple(said["unfit"]),
        archive_command="".join(said["archives"]),
    )


def creation(
    version: int, port: int, locale: str, copied: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Shell that creates a cluster, and its variables.

    Args:
        copied: `PRIMARY`, the server of which it is a copy, and `SLOT` there; or nothing in both.
    """
    variables = {"VERSION": str(version), "PORT": str(port), "LOCALE": locale, "MARK": MARK}
    variables |= copied
    return shell("create-cluster", "postgres"), variables


def refused(version: int, found: Clusters, *, adopt: bool) -> Iterator[str]:
    """Why a run would not touch the cluster of the wanted version."""
    etc, data = f"/etc/postgresql/{version}/main", f"/var/lib/postgresql/{version}/main"
    if found.left:
        for path in found.left:
            yield f"{path} has files and is no cluster's: move them away, or finish what made them"
    elif found.is_configured and found.data != data:
        yield (
            f"has its data in {found.data}{_server(found)}, and Datatier uses {data}: "
            f"stop it, move them there, and set data_directory in {etc}/postgresql.conf"
        )
    elif found.is_whole and not found.is_configured:
        yield (
            f"has data in {data}{_server(found)} and no configuration: "
            f"pg_createcluster {version} main gives it one, which keeps the data"
        )
    elif found.is_configured and not found.is_whole and not found.is_begun:
        yield (
            f"is configured in {etc} and has no data in {data}: bring them back "
            f"(restore-cluster.sh), or remove that directory to begin with an empty cluster"
        )
    elif found.is_foreign and found.unfit:
        yield f"cannot be adopted: {', '.join(found.unfit)}"
    elif found.is_foreign and not adopt:
        yield (
            f"is not Datatier's ({describe(found)}): postgres_adopt = True in one run takes it "
            "over with its data, or choose another host"
        )


def other_version(wanted: int, found: Clusters) -> str:
    """Why another version should be wanted; an older cluster may stay after an upgrade."""
    newest = max(found.versions, default=wanted)
    if newest != wanted and not (found.is_configured and found.is_whole) and not found.is_begun:
        return (
            f"should be {newest}: the host has a cluster of PostgreSQL {newest}, and {wanted} "
            f"would make an empty second one; upgrade it first (pg_upgradecluster {newest} main)"
        )
    if newest > wanted:
        return (
            f"should be {newest}, which the host has beside {wanted} as after pg_upgradecluster; "
            f"to go back to {wanted}: pg_dropcluster {newest} main"
        )
    return ""


def describe(found: Clusters) -> str:
    """What a cluster is, for who decides whether it is adopted."""
    databases = f"{found.databases} database{'s' * (found.databases != 1)}"
    own = f"{databases if found.databases else 'no databases'} besides PostgreSQL's own"
    return f"{found.data}, {f'running as pid {found.pid}' if found.pid else 'stopped'}, {own}"


def _server(found: Clusters) -> str:
    return f" (in use by pid {found.pid})" if found.pid else ""


def adoption(version: int, found: Clusters, *, archives: bool) -> list[str]:
    """What the plan says of an adoption.

    Args:
        archives: whether Datatier's backups set archive_command.
    """
    lines = [f"cluster {version}/main ({describe(found)}): adopt; its data and roles stay"]
    if found.archive_command and archives:
        lines.append(f"archive_command '{found.archive_command}': replaced by that of the backups")
    return lines
