"""What the program knows of the estate: one JSON file that only root can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from backup.text import forms, hidden

PATH = Path("/etc/datatier/backup.json")
# In the directory of the backups.
STATUS_PAGE = "status.html"
# Its copy for who serves it, where there is such a server; it can read nothing else of ours.
SERVED = Path("/var/lib/datatier-page") / STATUS_PAGE
CRONTAB = Path("/etc/cron.d/datatier-backup")

# What cron starts, by the name of its schedule.
JOBS = {
    "full": "postgres-backup.sh full",
    "incremental": "postgres-backup.sh incremental",
    "redis": "redis-backup.sh",
    "cleanup": "cleanup-backups.sh",
    "health": "health-check.sh",
    "verify": "backup.sh verify",
    "drill": "backup.sh drill",
    "vacuum": "backup.sh vacuum",
}


# What a superuser may say at the start of a session, and the backup role has as its own settings,
# since both win over those of an application's database.
SUPERUSERS_OPTIONS = {
    "temp_file_limit": "-1",
    "lc_messages": "C",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Pooler(NamedTuple):
    """Where a PgBouncer listens, and how it is verified on another host, if it can be."""

    place: Endpoint
    sslmode: str = ""

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True)
class Postgres:
    """The server that is backed up.

    Attributes:
        certificate: the file with the certificates that the server may show, if it has to.
        local: the server runs on this host, so its data directory is here too.
        incremental: 'block' takes block-level backups, 'wal' a restore point and its WAL.
        preload: libraries that a scratch server needs to read what their extensions have made.
        poolers: PgBouncers whose clients wait while a database is swapped.
        vacuum: tables that are vacuumed on a schedule, by database.
        password_previous, admin_password_previous: what counts until the server has the new ones.
    """

    host: str
    port: int
    version: int
    databases: tuple[str, ...]
    user: str
    password: str
    admin_password: str
    data_directory: str
    local: bool
    incremental: str
    poolers: tuple[Pooler, ...]
    certificate: str = ""
    preload: str = ""
    vacuum: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    password_previous: str = ""
    admin_password_previous: str = ""

    @property
    def by_socket(self) -> bool:
        """Whether the host is the directory of a socket."""
        return self.host.startswith("/")

    def binary(self, name: str) -> str:
        """Where Debian keeps a program of the server's version."""
        return f"/usr/lib/postgresql/{self.version}/bin/{name}"


class Login(NamedTuple):
    """How a Redis or a Sentinel is come to.

    Attributes:
        authority: the file that its certificate is verified with; empty for no TLS.
        is_named: whether the certificate has to have the address.
    """

    password: str
    user: str = ""
    authority: str = ""
    is_named: bool = True


@dataclass(frozen=True)
class Redis:
    """The instances that are backed up, and the Sentinels that know their roles.

    Attributes:
        password: of the Sentinels; without a user of ours, of the instances too.
        replica_user: whom a replica comes as; what is known of the password is its SHA-256.
        authority: the file that certificates are verified with; empty where there is no TLS.
        certificate, private: the files that a scratch server of this host shows itself with.
    """

    nodes: tuple[Endpoint, ...]
    sentinels: tuple[Endpoint, ...]
    master_name: str
    password: str
    user: str = ""
    user_password: str = ""
    replica_user: str = ""
    replica_password_sha256: str = ""
    authority: str = ""
    certificate: str = ""
    private: str = ""

    @property
    def login(self) -> Login:
        """For an instance."""
        secret = self.user_password if self.user else self.password
        return Login(secret, self.user, self.authority)

    @property
    def sentinel_login(self) -> Login:
        """For a Sentinel."""
        return Login(self.password, "", self.authority)


@dataclass(frozen=True)
class S3:
    """Where copies go; an empty endpoint is Amazon's, and the signing key is not in the bucket.

    Attributes:
        label: tells it from the first bucket, which has none.
        signing_key_previous: lists of before are signed with it, while that is rotated.
    """

    bucket: str
    region: str
    endpoint: str
    prefix: str
    access_key: str
    secret_key: str
    signing_key: str = ""
    lock_days: int = 0
    label: str = ""
    signing_key_previous: str = ""


@dataclass(frozen=True)
class Exporter:
    """What measures a host.

    Attributes:
        name: the host's in the inventory.
        disks: directories whose mount points are looked at.
        authority: the file that its certificate is verified with; empty where there is no TLS.
        local: it measures this host.
    """

    name: str
    place: Endpoint
    disks: tuple[str, ...]
    authority: str = ""
    local: bool = False


@dataclass(frozen=True)
class Exporters:
    """Those of all hosts, and how they are come to.

    Attributes:
        password_previous: what counts on hosts that have not the new one yet.
    """

    hosts: tuple[Exporter, ...]
    password: str
    password_previous: str = ""


class Place(NamedTuple):
    """One of pgBackRest's repositories.

    Attributes:
        number: what pgBackRest calls it.
        name: its directory in that of the first passphrase; empty for that itself.
    """

    number: int
    name: str = ""


class Limits(NamedTuple):
    """From which number on something is a warning, and from which it is critical; 0 is never."""

    warning: float
    critical: float


@dataclass(frozen=True)
class Alerts:
    """Whom to tell; empty strings are silent.

    Attributes:
        webhook_format: 'json', 'slack' or 'alertmanager'.
        repeat_hours: after so many a failure that lasts is told again; 0 is never.
        elsewhere: the estate's Alertmanager tells what the health check finds.
    """

    webhook: str = ""
    command: str = ""
    heartbeat: str = ""
    mail: str = ""
    webhook_format: str = "json"
    repeat_hours: int = 24
    elsewhere: bool = False

    @property
    def repeat(self) -> timedelta:
        """The same, as a span."""
        return timedelta(hours=self.repeat_hours)


@dataclass(frozen=True)
class Config:
    """All of it; times are in seconds, retention in days.

    Attributes:
        encryption_passphrase_previous: backups of before open with it, while it is rotated.
        repositories: one for each passphrase, that of the present one first.
        limits: of the health check, by what they measure.
        exporters: of hosts; None where there are none.
    """

    stack: str
    host: str
    directory: Path
    retention_days: int
    retention_min_full: int
    schedules: dict[str, str]
    encryption_passphrase: str
    alerts: Alerts
    postgres: Postgres | None
    redis: Redis | None
    s3: S3 | None
    s3_further: tuple[S3, ...] = ()
    encryption_passphrase_previous: str = ""
    repositories: tuple[Place, ...] = (Place(1),)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    exporters: Exporters | None = None

    def hidden(self, text: str) -> str:
        """The text as it may be logged, printed or sent: without any value of a secret."""
        return hidden(text, [form for secret in _secrets(self) for form in forms(secret)])

    @property
    def stores(self) -> tuple[Self, ...]:
        """The configuration as each bucket has it: with that one alone."""
        buckets = (self.s3, *self.s3_further)
        return tuple(replace(self, s3=bucket, s3_further=()) for bucket in buckets if bucket)

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases that are backed up."""
        return self.postgres.databases if self.postgres else ()

    @property
    def logs(self) -> Path:
        """Where `backup.log` and `health.log` are."""
        return self.directory / "logs"

    @property
    def repository(self) -> Path:
        """Where pgBackRest's repository is; PostgreSQL's user owns it."""
        return self.directory / "pgbackrest"

    def artifacts(self, kind: str) -> Path:
        """Where the artifacts of a kind ('postgres' or 'redis') are."""
        return self.directory / kind

    @classmethod
    def load(cls, path: Path = PATH, crontab: Path = CRONTAB) -> Self:
        """Reads the files that the deployment wrote; schedules are those that cron knows.

        Raises:
            OSError: one is missing or not readable for this user.
            ValueError: one is not what the deployment writes.
        """
        raw = json.loads(path.read_text())
        return cls(
            **{
                **raw,
                "schedules": _schedules(crontab.read_text() if crontab.exists() else ""),
                "directory": Path(raw["directory"]),
                "alerts": Alerts(**raw["alerts"]),
                "postgres": _postgres(raw["postgres"]),
                "redis": _redis(raw["redis"]),
                "s3": S3(**raw["s3"]) if raw["s3"] else None,
                "s3_further": tuple(S3(**bucket) for bucket in raw["s3_further"]),
                "repositories": tuple(Place(*each) for each in raw.get("repositories", [[1]])),
                "exporters": _exporters(raw.get("exporters")),
                "limits": {what: Limits(*pair) for what, pair in raw["limits"].items()},
            }
        )


_SECRET = re.compile("password|passphrase|_key|webhook|heartbeat")


def _secrets(part: object) -> Iterator[str]:
    """The secrets of a part of the configuration, by the names of its fields."""
    for each in fields(part):  # type: ignore[arg-type]
        value = getattr(part, each.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if is_dataclass(inner):
                yield from _secrets(inner)
        if isinstance(value, str) and _SECRET.search(each.name):
            yield value


def _schedules(crontab: str) -> dict[str, str]:
    jobs = r"(?m)^(@\w+|[\d*](?:\S* \S+){4}) root \S*/(\S+\.sh(?: \w+)?) >>"
    names = {command: name for name, command in JOBS.items()}
    found = re.findall(jobs, crontab)
    return {names[command]: schedule for schedule, command in found if command in names}


def present_postgres(path: Path = PATH) -> Postgres | None:
    """The server as the configuration says now: a job may have begun with an earlier one.

    Raises:
        OSError: it is not there, or not readable for this user.
        ValueError: it is not what the deployment writes.
    """
    return _postgres(json.loads(path.read_text())["postgres"])


def _endpoints(rows: list[list[Any]]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(host, port) for host, port in rows)


def _postgres(raw: dict[str, Any] | None) -> Postgres | None:
    if raw is None:
        return None
    values = {each.name: raw[each.name] for each in fields(Postgres) if each.name in raw}
    values["databases"] = tuple(raw["databases"])
    values["vacuum"] = {name: tuple(tables) for name, tables in raw.get("vacuum", {}).items()}
    rows = raw["poolers"]
    values["poolers"] = tuple(Pooler(Endpoint(host, port), *how) for host, port, *how in rows)
    return Postgres(**values)


def _exporters(raw: dict[str, Any] | None) -> Exporters | None:
    if raw is None:
        return None
    hosts = (
        Exporter(**{**each, "place": Endpoint(*each["place"]), "disks": tuple(each["disks"])})
        for each in raw["hosts"]
    )
    return Exporters(**{**raw, "hosts": tuple(hosts)})


def _redis(raw: dict[str, Any] | None) -> Redis | None:
    if raw is None:
        return None
    nodes, sentinels = _endpoints(raw["nodes"]), _endpoints(raw["sentinels"])
    return Redis(**{**raw, "nodes": nodes, "sentinels": sentinels})
