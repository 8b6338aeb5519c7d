"""What is refused before anything is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from backup.store.signed import signer_of
from tasks.backup.program import CONFIG, access_key, configured, passphrases, secret_key
from tasks.backup.server import server_of
from tasks.backup.settings import (
    NOT_VISIBLE,
    PASSPHRASE,
    SIGNING_SECRET,
    VISIBLE,
    BackupSettings,
)
from tasks.core.estate import HOST, Estate, Node
from tasks.core.preflight import Listener
from tasks.core.releases import RELEASES
from tasks.core.secrets import previous
from tasks.core.settings import Problem, Settings
from tasks.postgres import archive, leader
from tasks.postgres.rules import unavailable, without_locale
from tasks.postgres.settings import PostgresSettings
from tasks.redis.settings import RedisSettings


def secret_names(node: Node) -> list[str]:
    role = [archive.ROLE_SECRET] if server_of(node) else []
    return [*role, *rotates(node).values()]


def rotates(node: Node) -> dict[str, str]:
    """What rotates, by the names of tasks."""
    names = [SIGNING_SECRET] if node.the(BackupSettings).s3_bucket else []
    # One of the settings is changed there.
    if any(map(node.estate.secrets.stated, (PASSPHRASE, previous(PASSPHRASE)))):
        names.append(PASSPHRASE)
    return {name.lower(): name for name in names}


def contradictions(everything: Estate) -> list[Problem]:
    nodes = everything.having(BackupSettings)
    problems = [
        Problem(node.name, "group backup", "should have one host: it holds the one repository")
        for node in nodes[1:]
    ]
    for node in nodes:
        if not everything.having(PostgresSettings) and not everything.having(RedisSettings):
            message = "needs a host in group 'postgres' or 'redis'"
            problems.append(Problem(node.name, "group backup", message))
        if archive.is_remote(node) and node.is_loopback:
            message = "should not be a loopback address: PostgreSQL's host cannot reach it"
            problems.append(Problem(node.name, "address", message))
        for other in everything.nodes:
            if other is not node and other.inside is None and other.is_loopback:
                message = "should not be a loopback address: the backup host cannot reach it"
                problems.append(Problem(other.name, "address", message))
        chosen = node.the(BackupSettings)
        if f"{chosen.scripts_dir}/".startswith(f"{chosen.dir}/"):
            message = f"should not be inside backup_dir ({chosen.dir})"
            problems.append(Problem(node.name, "backup_scripts_dir", message))
        if chosen.alert_mail and node.container is not None:
            message = "a container has no sendmail: set backup_alert_webhook"
            problems.append(Problem(node.name, "backup_alert_mail", message))
        if chosen.s3_bucket and not (chosen.s3_access_key and chosen.s3_secret_key):
            message = "needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env"
            problems.append(Problem(node.name, "backup_s3_bucket", message))
        if chosen.s3_object_lock_days and not chosen.s3_bucket:
            message = "needs a bucket: set backup_s3_bucket"
            problems.append(Problem(node.name, "backup_s3_object_lock_days", message))
        problems += _buckets(node)
    return problems


def _buckets(node: Node) -> Iterator[Problem]:
    """What is wrong with further buckets; two of one name would share secrets and a record."""
    chosen = node.the(BackupSettings)
    labels = [each.label for each in chosen.s3_further]
    for number, each in enumerate(chosen.s3_further):
        key = f"backup_s3_further/{number}"
        prefix = each.prefix or chosen.s3_prefix
        first = chosen.s3_endpoint, chosen.s3_bucket, chosen.s3_prefix
        if not chosen.s3_bucket:
            yield Problem(node.name, key, "needs a first bucket: set backup_s3_bucket")
        if (each.endpoint, each.bucket, prefix) == first or each.label in labels[:number]:
            yield Problem(node.name, f"{key}/bucket", f"{each.bucket} is there already")
        names = each.secret("ACCESS"), each.secret("SECRET")
        if not (access_key(node, each) and secret_key(node, each)):
            yield Problem(node.name, key, f"needs {' and '.join(names)} in .env")
        if not VISIBLE.fullmatch(access_key(node, each)):
            yield Problem(node.name, names[0], NOT_VISIBLE)
        if why := node.estate.secrets.wrong(names[1]):
            yield Problem(node.name, names[1], why)


def listens(node: Node) -> list[Listener]:
    if not archive.is_remote(node):
        return []
    return [archive.listener()]


# Whose version has to be the backup host's too, and why.
_OF_ONE_RELEASE: dict[type[Settings], str] = {
    PostgresSettings: "pgBackRest needs the same version on both",
    RedisSettings: "a snapshot of one version of Redis does not load in the other",
}


def checks(node: Node) -> list[Problem]:
    if server_of(node) is not None:
        # What follows asks of the server that takes writes.
        leader.ask(node.estate)
    found = node.read("backup")
    before = found["files"][CONFIG].content
    return [
        *_other_releases(node),
        *_old_python(node),
        *other_passphrase(node, before, there=found["artifacts"]),
        *given_up_early(node, before, found["unready"]),
        *signed_before(node, before, found["signers"]),
        *(Problem(node.name, "backup_dir", why) for why in found["occupied"]),
        *archive.rivals(node, node.read(HOST)["rivals"]),
        *_cannot_load(node, found["extensions"], found["locales"]),
    ]


def _cannot_load(node: Node, installed: Sequence[str], locales: Sequence[str]) -> Iterator[Problem]:
    """What a scratch server on this host would lack; on PostgreSQL's own that is asked anyway."""
    server = server_of(node)
    if server is not None and server is not node and server in node.estate.active:
        for each in (*unavailable(server, installed), *without_locale(server, locales)):
            message = f"{each.message}; drills and --time need it here too"
            yield Problem(node.name, each.key, message)


def secrets_in_use(node: Node) -> Mapping[str, str]:
    return in_use(node.read("backup")["files"][CONFIG].content, CONFIG)


def in_use(configuration: bytes, path: str) -> Mapping[str, str]:
    """The secrets that the program was told, and where."""
    try:
        told = json.loads(configuration)
    except ValueError:
        return {}
    # A part is null where the estate has none of that component.
    parts = {part: told.get(part) or {} for part in ("postgres", "redis", "s3")}
    values = {
        archive.ROLE_SECRET: parts["postgres"].get("password"),
        "POSTGRES_PASSWORD": parts["postgres"].get("admin_password"),
        "REDIS_PASSWORD": parts["redis"].get("password"),
        "REDIS_BACKUP_PASSWORD": parts["redis"].get("user_password"),
        SIGNING_SECRET: parts["s3"].get("signing_key"),
    }
    return {name: path for name, value in values.items() if value}


def _old_python(node: Node) -> list[Problem]:
    if node.system.release != RELEASES["ubuntu", "22.04"]:
        return []
    message = f"{node.system.release.name}: the backup host needs Python 3.11"
    return [Problem(node.name, "operating system", message)]


def _other_releases(node: Node) -> list[Problem]:
    found = (_other_release(node, settings) for settings in _OF_ONE_RELEASE)
    return [problem for problem in found if problem]


def other_passphrase(node: Node, configuration: bytes, *, there: bool) -> list[Problem]:
    """Another passphrase than before would make the backups that exist unreadable.

    Args:
        configuration: what the program is told now.
        there: whether there are backups.
    """
    wanted, coming_from = passphrases(node)
    before = configured(configuration, "encryption_passphrase")
    known = {wanted, coming_from} if wanted and coming_from else {wanted}
    if not there or before is None or before in known:
        return []
    message = (
        f"does not match the passphrase of the backups in {node.the(BackupSettings).dir}: "
        "put that one back, or move them away"
    )
    return [Problem(node.name, "backup_encryption_passphrase", message)]


def given_up_early(node: Node, configuration: bytes, unready: str) -> Iterator[Problem]:
    """A passphrase may not go before backups with the new one are known to restore.

    Args:
        configuration: what the program is told now.
        unready: why they are not.
    """
    _, before = passphrases(node)
    going = configured(configuration, "encryption_passphrase_previous")
    if going is None or going == before:
        return
    if before:
        message = "is not the one that is being replaced: put that back, and finish first"
    elif unready:
        message = f"{unready}; put it back, and finish then"
    else:
        return
    yield Problem(node.name, previous(PASSPHRASE), message)


def signed_before(node: Node, configuration: bytes, signers: Sequence[str]) -> Iterator[Problem]:
    """A key may not go while a bucket's list is signed with it: no one could fetch from there.

    Args:
        configuration: what the program is told now.
        signers: which keys the lists of this host's buckets were signed with.
    """
    store, name = node.estate.secrets, previous(SIGNING_SECRET)
    going = re.search(rb'"signing_key_previous": (".*")', configuration)
    if going and not store.stated(name) and signer_of(json.loads(going[1])) in signers:
        message = (
            "the list in a bucket is still signed with it: put it back, and let a backup run, "
            "which copies; then finish"
        )
        yield Problem(node.name, name, message)


def _other_release(node: Node, settings: type[Settings]) -> Problem | None:
    """What is wrong with the first host of a component that has another release."""
    mine = node.system.release
    for other in node.estate.having(settings):
        theirs = other.system.release
        if other in node.estate.active and theirs != mine:
            versions = f"{mine.name} here and {theirs.name} on {other.name}"
            message = f"{versions}: {_OF_ONE_RELEASE[settings]}"
            return Problem(node.name, "operating system", message)
    return None


def scripts_dir(node: Node) -> str:
    """Where the scripts of the backup host are."""
    return node.the(BackupSettings).scripts_dir
