"""pgBackRest's repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.backup.passphrase import Repository, first, repositories, root
from tasks.backup.server import like, server_of, servers_of, version_of
from tasks.backup.settings import BackupSettings
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import Directory, Entry
from tasks.core.remote import Probe
from tasks.core.scripts import shell
from tasks.postgres import archive
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings

SCRATCH = "/etc/datatier/pgbackrest-scratch.conf"


def trusted_certificate(node: Node) -> str:
    if not archive.is_remote(node):
        return ""
    return archive.trusted_of_all(node, "backup", servers_of(node), "postgres")


def archived(node: Node, place: Repository, number: int = 1) -> str:
    """Where a repository has the WAL of a cluster."""
    return f"{place.path}/archive/{archive.stanza(node)}/{version_of(node)}-{number}"


def repository(node: Node, certificate: str = "", places: Sequence[Repository] = ()) -> list[Entry]:
    """pgBackRest's configuration for backups, and the one that restores to scratch."""
    server = server_of(node)
    if server is None:
        return []
    common: archive.Options = {**_repository_options(node, places or [first(node)])}
    cluster: archive.Options = {}
    for number, each in enumerate(servers_of(node), start=1):
        name = f"pg{number}"
        cluster |= {
            f"{name}-path": data_directory(each, like(node)),
            f"{name}-port": each.the(PostgresSettings).port,
            f"{name}-socket-path": "/var/run/postgresql",
        }
        if archive.is_remote(node):
            cluster |= archive.peer(name, each)
    entries: list[Entry] = []
    scratch = common
    if archive.is_remote(node):
        options, entries = archive.tls(node, servers_of(node), certificate)
        common = {**common, **options}
    return [
        *entries,
        Directory(root(node), mode="750", user="postgres", group="postgres"),
        archive.config_file(node, common, cluster),
        archive.config_file(node, scratch, {"pg1-path": "/nonexistent"}, SCRATCH),
    ]


def _repository_options(node: Node, places: Sequence[Repository]) -> dict[str, str | int]:
    paths: dict[str, str | int] = {}
    ciphers: dict[str, str | int] = {}
    for each in sorted(places, key=lambda each: each.number):
        name = f"repo{each.number}"
        paths |= {
            f"{name}-path": each.path,
            f"{name}-retention-full-type": "time",
            f"{name}-retention-full": node.the(BackupSettings).retention_days,
        }
        ciphers[f"{name}-bundle"] = "y"
        if version_of(node) >= 17:
            ciphers[f"{name}-block"] = "y"
        if each.passphrase:
            ciphers |= {
                f"{name}-cipher-type": "aes-256-cbc",
                f"{name}-cipher-pass": each.passphrase,
            }
    return {
        **paths,
        # Nothing expires until it was verified: clean-up decides, not the backup itself.
        "expire-auto": "n",
        "start-fast": "y",
        # A backup restores without the archive, which PostgreSQL's host can write to.
        "archive-copy": "y",
        "process-max": 2,
        "compress-type": "zst",
        "log-level-file": "off",
        "lock-path": archive.LOCKS,
        **ciphers,
    }


@dataclass(frozen=True)
class Stanza:
    """What is known of the repository.

    Attributes:
        is_known: it knows the cluster.
        is_strange: what is in it is not postgres's, as after a copy from a host with other numbers.
    """

    is_known: bool
    is_strange: bool


def stanza_probe(node: Node) -> Probe[Stanza]:
    """Whether the repository knows the cluster, and is pgBackRest's to read."""
    script = shell("stanza", "backup", **_values(node), server=_server(node))
    return Probe(script, lambda lines: Stanza("ok" in lines, "strange" in lines))


def new_stanza(node: Node) -> Change | None:
    """Makes the cluster known to the repository, once; one that was copied here is given over."""
    if BackupSettings not in node.settings:
        return None
    found: Stanza = node.read("backup")["stanza"]
    values = _values(node)
    wanted = repositories(node)
    wal = "\n".join(archived(node, place) for place in wanted)
    server = _server(node)
    script = shell("new-stanza", "backup", **values, server=server, wal=wal, locks=archive.LOCKS)
    if found.is_strange:
        lines = [f"{values['repository']}: give to postgres what is in it"]
        return Change(lines, shell("give-repository", "backup", **values) + script)
    # A plan comes before the configuration that pgBackRest is asked by.
    labels = {each.label for each in wanted}
    is_known = found.is_known and labels <= {*node.read("backup")["repositories"]}
    return None if is_known else Change([f"stanza {values['stanza']}: create"], script)


def _server(node: Node) -> str:
    """The unit of pgBackRest's server, where it has one."""
    return archive.service(node).systemd_unit if archive.is_remote(node) else ""


def _values(node: Node) -> dict[str, str]:
    return {"stanza": archive.stanza(node), "repository": root(node)}
