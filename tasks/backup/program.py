"""The program, its configuration and its schedule."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backup.arguments import SCRIPTS
from backup.config import JOBS, Place
from tasks.backup.measured import exporters, is_told_elsewhere
from tasks.backup.server import TRUSTED, like, server_of, version_of
from tasks.backup.settings import PASSPHRASE, SIGNING_SECRET, BackupSettings, FurtherBucket
from tasks.backup.thresholds import HealthSettings
from tasks.core import hide
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File, render
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.core.secrets import previous
from tasks.pgbouncer.console import sslmode
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import archive
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings
from tasks.redis import acl, tls
from tasks.redis.sentinels import endpoints, master_name
from tasks.redis.settings import RedisSettings, addresses, own_password, password

PROGRAM = Path(__file__).resolve().parents[2] / "backup"


LIBRARY = "/usr/lib/datatier"


CONFIG = "/etc/datatier/backup.json"


# The address of a webhook or heartbeat is its password.
CONFIG_SECRETS = (
    r'^ *"(?:(?:admin_)?password(?:_previous)?|user_password|replica_password_sha256|secret_key'
    r'|access_key|signing_key(?:_previous)?|encryption_passphrase(?:_previous)?|webhook|command|heartbeat)"'
    r': "(.*)",?$'
)


def program(chosen: BackupSettings) -> list[Entry]:
    """The program, the scripts that start it, and how its logs are kept short."""
    kinds = ("*.py", "*.sh", "*.html")
    # What the status page says of what to do.
    remedies = PROGRAM.parent / "docs" / "health.md"
    modules = sorted([remedies, *(path for kind in kinds for path in PROGRAM.rglob(kind))])
    directories = sorted({path.parent for path in modules})
    logrotate = render("backup/logrotate.j2", logs=f"{chosen.dir}/logs")
    return [
        Directory(LIBRARY),
        *(Directory(f"{LIBRARY}/{_under(path)}") for path in directories),
        *(File(f"{LIBRARY}/{_under(path)}", path.read_text()) for path in modules),
        *_scripts(chosen),
        File("/etc/logrotate.d/datatier-backup", logrotate),
    ]


def left_probe() -> Probe[list[str]]:
    """Reads the files of the program that is there, without what Python makes of them."""
    return Probe(shell("program", "backup", library=LIBRARY), list)


def left_modules(entries: Iterable[Entry], there: Sequence[str]) -> Change | None:
    """Removes what another release had and this one has not: the program could still import it.

    Args:
        entries: what is to be there.
    """
    ours = {entry.path for entry in entries}
    left = sorted(path for path in {*there} - ours if path.startswith(f"{LIBRARY}/backup/"))
    if not left:
        return None
    script = f"remove {quoted(*left)}\nfind {LIBRARY}/backup -type d -empty -delete\n"
    return Change([f"{path}: remove" for path in left], script)


def _under(path: Path) -> Path:
    return path.relative_to(PROGRAM.parent)


def _scripts(chosen: BackupSettings) -> list[Entry]:
    return [
        Directory(chosen.scripts_dir),
        *(
            File(
                f"{chosen.scripts_dir}/{name}",
                render("backup/script.sh.j2", words=f"backup {command}".strip()),
                mode="755",
            )
            for command, name in {**SCRIPTS, "": "backup.sh"}.items()
        ),
    ]


def schedule(node: Node) -> str:
    """What cron starts, and when."""
    chosen = node.the(BackupSettings)
    jobs = [
        (schedule, command)
        for name, command in JOBS.items()
        if name not in _absent(node.estate) and (schedule := getattr(chosen, f"schedule_{name}"))
    ]
    return render(
        "backup/cron.j2", jobs=jobs, scripts=chosen.scripts_dir, logs=f"{chosen.dir}/logs"
    )


def _absent(everything: Estate) -> set[str]:
    """Jobs for what the estate does not have."""
    servers = everything.having(PostgresSettings)
    absent = set() if servers else {"full", "incremental"}
    if not any(_vacuumed(server.the(PostgresSettings)) for server in servers):
        absent.add("vacuum")
    return absent if everything.having(RedisSettings) else {*absent, "redis"}


def _vacuumed(settings: PostgresSettings) -> dict[str, list[str]]:
    return {name: list(each.vacuum) for name, each in settings.databases.items() if each.vacuum}


def passphrases(node: Node) -> tuple[str, str]:
    """The present one, and that of before while it is replaced; empty where there is none."""
    chosen = node.the(BackupSettings).encryption_passphrase
    now = chosen.get_secret_value() if chosen else ""
    before = node.estate.secrets.stated(previous(PASSPHRASE)) or ""
    if before:
        hide.secret(before)
    return now, before if before != now else ""


def configured(configuration: bytes, key: str) -> str | None:
    """A text that the program has in its configuration now; hands may have put all in one line."""
    found = re.search(rf'"{key}":\s*("(?:[^"\\]|\\.)*")'.encode(), configuration)
    return str(json.loads(found[1])) if found else None


def configuration(node: Node, places: Sequence[Place] = (), *, is_pinned: bool = False) -> str:
    """What the program knows of the estate, as JSON.

    Args:
        places: the repositories, if there is another one than the first.
    """
    chosen = node.the(BackupSettings)
    passphrase, before = passphrases(node)
    content = {
        "stack": node.stack.stack_name,
        "host": node.name,
        "directory": chosen.dir,
        "retention_days": chosen.retention_days,
        "retention_min_full": chosen.retention_min_full,
        "encryption_passphrase": passphrase,
        **({"encryption_passphrase_previous": before} if before else {}),
        **({"repositories": [list(each) for each in places]} if places else {}),
        "alerts": {
            "webhook": chosen.alert_webhook,
            "webhook_format": chosen.alert_webhook_format,
            "command": chosen.alert_command,
            "mail": chosen.alert_mail,
            "repeat_hours": chosen.alert_repeat,
            "heartbeat": chosen.heartbeat_url,
            **({"elsewhere": True} if is_told_elsewhere(node.estate) else {}),
        },
        "limits": node.the(HealthSettings).limits,
        **exporters(node),
        "postgres": _postgres(node, TRUSTED if is_pinned else ""),
        "redis": _redis(node.estate),
        "s3": _s3(node),
        "s3_further": [_further(node, each) for each in chosen.s3_further],
    }
    return json.dumps(content, indent=2) + "\n"


def with_previous(before: bytes, server: Node) -> str:
    """What the program knows, with the passwords that the server is about to have beside its own.

    Args:
        before: what it knows now.

    Returns:
        Nothing where it knows no others.
    """
    try:
        told = json.loads(before)
        known = told["postgres"] or {}
    except (ValueError, KeyError):
        return ""
    coming = {
        "password": server.estate.secrets.get(archive.ROLE_SECRET),
        "admin_password": server.the(PostgresSettings).password.get_secret_value(),
    }
    going = {key: known[key] for key in coming if known.get(key, coming[key]) != coming[key]}
    if not going:
        return ""
    known |= {key: coming[key] for key in going}
    known |= {f"{key}_previous": value for key, value in going.items()}
    return json.dumps(told, indent=2) + "\n"


def _postgres(node: Node, certificate: str) -> dict[str, Any] | None:
    server = server_of(node)
    if server is None:
        return None
    settings = server.the(PostgresSettings)
    return {
        "host": "127.0.0.1" if server is node else server.address,
        "port": settings.port,
        "certificate": certificate,
        "version": version_of(node),
        "databases": list(settings.databases),
        **({"vacuum": vacuumed} if (vacuumed := _vacuumed(settings)) else {}),
        "user": archive.ROLE,
        "password": node.estate.secrets.get(archive.ROLE_SECRET),
        "admin_password": settings.password.get_secret_value(),
        "data_directory": data_directory(server, like(node)),
        "local": server is node,
        # Block incremental is beta in Debian 12's pgBackRest, and its restore had bugs until 2.55.
        "preload": ",".join(settings.shared_preload_libraries),
        "incremental": "block" if version_of(node) >= 17 else "wal",
        "poolers": [
            [
                "127.0.0.1" if pooler is node else pooler.address,
                pooler.the(PgbouncerSettings).listen_port,
                *filter(None, [sslmode(pooler, node)]),
            ]
            for pooler in node.estate.having(PgbouncerSettings)
        ],
    }


def _redis(everything: Estate) -> dict[str, Any] | None:
    nodes = everything.having(RedisSettings)
    if not nodes:
        return None
    return {
        "nodes": [list(address) for address in addresses(everything)],
        "sentinels": [list(address) for address in endpoints(everything)],
        "master_name": master_name(everything),
        "password": password(nodes[0]),
        "user": acl.BACKUP,
        "user_password": own_password(nodes[0], acl.BACKUP),
        "replica_user": acl.REPLICA,
        "replica_password_sha256": acl.hashed(own_password(nodes[0], acl.REPLICA)),
        **tls.files(nodes[0]),
    }


def _s3(node: Node) -> dict[str, Any] | None:
    chosen = node.the(BackupSettings)
    if not chosen.s3_bucket or chosen.s3_secret_key is None:
        return None
    return {
        "bucket": chosen.s3_bucket,
        "region": chosen.s3_region,
        "endpoint": chosen.s3_endpoint,
        "prefix": chosen.s3_prefix,
        "access_key": chosen.s3_access_key,
        "secret_key": chosen.s3_secret_key.get_secret_value(),
        "lock_days": chosen.s3_object_lock_days,
        **_signing(node),
    }


def _further(node: Node, bucket: FurtherBucket) -> dict[str, Any]:
    return {
        "bucket": bucket.bucket,
        "region": bucket.region,
        "endpoint": bucket.endpoint,
        "prefix": bucket.prefix or node.the(BackupSettings).s3_prefix,
        "access_key": access_key(node, bucket),
        "secret_key": secret_key(node, bucket),
        "lock_days": bucket.object_lock_days,
        **_signing(node),
        "label": bucket.label,
    }


def _signing(node: Node) -> dict[str, str]:
    """The key of signed lists, and the one that lists of before are signed with."""
    before = node.estate.secrets.stated(previous(SIGNING_SECRET))
    if before:
        hide.secret(before)
    key = node.estate.secrets.get(SIGNING_SECRET)
    return {"signing_key": key, **({"signing_key_previous": before} if before else {})}


def access_key(node: Node, bucket: FurtherBucket) -> str:
    """The key of a further bucket; empty where none is known."""
    return bucket.access_key or node.estate.secrets.find(bucket.secret("ACCESS")) or ""


def secret_key(node: Node, bucket: FurtherBucket) -> str:
    """The secret of a further bucket; empty where none is known."""
    if bucket.secret_key is not None:
        return bucket.secret_key.get_secret_value()
    if found := node.estate.secrets.find(bucket.secret("SECRET")):
        hide.secret(found)
    return found or ""
