"""Configurations and manifests, made from the few things that a test is about."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup import outcome
from backup.config import S3, Alerts, Config, Endpoint, Postgres, Redis
from backup.manifest import Manifest, Verification

SCHEDULES = {"full": "0 2 * * *", "incremental": "0 */6 * * *", "redis": "0 */4 * * *"}


def config(directory: Path, **changes: Any) -> Config:
    """A host that backs up the databases `app` and `app-prod`, and Redis."""
    databases = changes.pop("databases", ("app", "app-prod"))
    node = Endpoint("127.0.0.1", 6379)
    values: dict[str, Any] = {
        "stack": "stack",
        "host": "db1",
        "directory": directory,
        "retention_days": 30,
        "retention_min_full": 3,
        "schedules": SCHEDULES,
        "encryption_passphrase": "canary-passphrase",
        "alerts": Alerts(),
        "postgres": Postgres(
            host="127.0.0.1",
            port=5432,
            version=15,
            databases=databases,
            user="backup",
            password="canary-backup-role",
            admin_password="canary-admin",
            data_directory="/nowhere",
            local=True,
            incremental="wal",
            poolers=(),
        ),
        "redis": Redis((node,), (), "mymaster", "canary-redis"),
        "s3": None,
    }
    made = Config(**{**values, **changes})
    for kind in ("postgres", "redis"):
        made.artifacts(kind).mkdir(parents=True, exist_ok=True)
    return made


def trust(config: Config) -> None:
    """The checks of this host have passed."""
    for check in outcome.CHECKS:
        with outcome.recorded(config, check):
            pass


def s3(endpoint: str, prefix: str = "estate/one") -> S3:
    """A bucket at an endpoint."""
    return S3(
        "backups",
        "eu-central-1",
        endpoint,
        prefix,
        "canary-access",
        "canary-s3-secret",
        "canary-signing",
    )


def stamp(moment: datetime) -> str:
    """As it stands in file names."""
    return moment.astimezone(UTC).strftime("%Y%m%d_%H%M%S")


def label(moment: datetime) -> str:
    """What pgBackRest would call a full of that moment."""
    return f"{moment:%Y%m%d-%H%M%S}F"


def manifest(kind: str, of: str, moment: datetime, **changes: Any) -> Manifest:
    """A verified backup of that moment; without content, so without a file."""
    name = {
        "full": f"{of}_full_{stamp(moment)}.sql.gz",
        "globals": f"stack_globals_{stamp(moment)}.sql.gz",
        "incremental": f"stack_incremental_{stamp(moment)}",
        "redis": f"redis_{stamp(moment)}.rdb.gz",
    }[kind]
    verified = changes.pop("verified", True)
    values: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "of": of,
        "stamp": stamp(moment),
        "sha256": "",
        "bytes": 0,
        "started": moment.isoformat(),
        "ended": (moment + timedelta(minutes=1)).isoformat(),
        "duration": 60.0,
        "verified": (Verification("read back whole", moment.isoformat()),) if verified else (),
    }
    return Manifest(**{**values, **changes})


def stored(config: Config, kind: str, of: str, moment: datetime, content: bytes) -> Manifest:
    """A verified backup with its artifact, both on the disk."""
    made = manifest(
        kind, of, moment, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
    directory = config.artifacts("redis" if kind == "redis" else "postgres")
    made.path(directory).write_bytes(content)
    made.write(directory)
    return made


def sources() -> dict[str, str]:
    """The text of every module of the program, by its path in it."""
    program = Path(outcome.__file__).parent
    return {str(path.relative_to(program)): path.read_text() for path in program.rglob("*.py")}
