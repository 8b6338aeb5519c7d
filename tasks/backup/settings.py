"""The `backup_*` keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from backup import cron
from backup.config import JOBS
from tasks.core.secrets import Secrets, previous
from tasks.core.settings import Line, Model, Secret, Settings, StackSettings, matching, wrong

# Owner and mode of the directory become ours, so it has to be one without another use.
_SHARED = re.compile(
    r"/(bin|boot|dev|etc|home|lib|lib64|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var"
    r"|(var|usr)/[^/]+|var/lib/(postgresql|redis|datatier).*)"
)


def _own_directory(value: str) -> str:
    if _SHARED.fullmatch(value):
        raise wrong(f"should be a directory of its own, not {value!r}")
    return value


AbsolutePath = Annotated[
    Line,
    matching(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+", "should be an absolute path such as '/backups'"),
    AfterValidator(_own_directory),
]


_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_NO_BUCKET = "should be a bucket's name, without s3://"
Bucket = Annotated[Line, matching(_BUCKET, _NO_BUCKET)]


Region = Annotated[Line, matching(r"[a-z0-9-]+", "should be a region such as 'us-east-1'")]


Prefix = Annotated[
    Line,
    matching(
        r"([A-Za-z0-9_-][A-Za-z0-9_.-]*(/(?!$)|$))*", "should be a folder such as 'estate/one'"
    ),
]


VISIBLE = re.compile(r"[!-~]*")
NOT_VISIBLE = "should have printable ASCII characters only, without blanks"
Visible = Annotated[Line, matching(VISIBLE.pattern, NOT_VISIBLE)]


Url = Annotated[
    Line, matching(r"(https?://\S+)?", "should be a URL that begins with http:// or https://")
]


_ADDRESS = r"[A-Za-z0-9._%+-]+(@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*)?"
Mail = Annotated[
    Line,
    matching(
        f"({_ADDRESS}(, ?{_ADDRESS})*)?", "should be a mail address such as 'ops@example.org'"
    ),
]


def _schedule(value: str) -> str:
    if value:
        try:
            cron.parse(value)
        except ValueError as error:
            raise wrong(str(error)) from None
    return " ".join(value.split())


Schedule = Annotated[Line, AfterValidator(_schedule)]


class FurtherBucket(Model):
    """One more bucket that gets every copy, best with another provider and other credentials."""

    bucket: Bucket
    """Its name."""
    region: Region = "us-east-1"
    """Its region."""
    endpoint: Url = ""
    """URL of another S3-compatible service. Default: Amazon's."""
    prefix: Prefix = ""
    """Folder in the bucket. Default: that of the first one."""
    access_key: Visible = ""
    """Key of the bucket. Default: `BACKUP_S3_BUCKET_ACCESS_KEY` in `.env`, with the bucket's name
    in capitals for `BUCKET` and `_` for other characters."""
    secret_key: Secret | None = None
    """Its secret. Default: `BACKUP_S3_BUCKET_SECRET_KEY` likewise."""
    object_lock_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """As `backup_s3_object_lock_days`, for this one."""

    @property
    def label(self) -> str:
        """How the program calls it: its name, and its service where that is not Amazon's."""
        return ".".join(filter(None, [self.bucket, urlsplit(self.endpoint).hostname or ""]))

    def secret(self, what: str) -> str:
        """The name in `.env` of its `ACCESS` or `SECRET`."""
        return f"BACKUP_S3_{re.sub('[^A-Z0-9]', '_', self.bucket.upper())}_{what}_KEY"


class BackupSettings(Settings):
    """The `backup_*` keys; schedules are cron's, in the host's time zone; empty is never."""

    prefix: ClassVar[str] = "backup_"

    dir: AbsolutePath = "/backups"
    """Where backups and logs are; a directory of its own. Change: move it first: `mv OLD NEW`, then
    deploy."""
    scripts_dir: AbsolutePath = "/scripts"
    """Where the scripts are. Change: the old ones stay."""
    schedule_full: Schedule = "0 2 * * *"
    """Dump and base backup of every database. Change: live."""
    schedule_incremental: Schedule = "0 */6 * * *"
    """Incremental backup of PostgreSQL. Change: live."""
    schedule_redis: Schedule = "0 */4 * * *"
    """Snapshot of Redis. Change: live."""
    schedule_cleanup: Schedule = "0 3 * * *"
    """Removal of backups that are older than the retention. Change: live."""
    schedule_health: Schedule = "*/5 * * * *"
    """Health check, with alerts. Change: live."""
    schedule_verify: Schedule = "0 4 * * *"
    """Check of every artifact against its manifest. Change: live."""
    schedule_drill: Schedule = "0 5 * * 0"
    """A restore of the newest backups, which proves them. Change: live."""
    schedule_vacuum: Schedule = "30 1 * * *"
    """VACUUM and ANALYZE of the tables that databases name in `vacuum`. Change: live."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Backups that are younger stay. Change: live."""
    retention_min_full: Annotated[int, Field(ge=1, le=1000)] = 3
    """Verified fulls per database, and snapshots, that stay however old they are. Change: live."""
    s3_bucket: Annotated[Line, matching(f"({_BUCKET})?", _NO_BUCKET)] = ""
    """Bucket for copies. Change: live."""
    s3_region: Region = "us-east-1"
    """Its region. Change: live."""
    s3_endpoint: Url = ""
    """URL of another S3-compatible service. Default: Amazon's. Change: live."""
    s3_prefix: Prefix = ""
    """Folder in the bucket; estates that share a bucket need different ones. Default: `stack_name`.
    Change: live; copies stay in the old one."""
    s3_access_key: Visible = ""
    """Key of the bucket. Default: `AWS_ACCESS_KEY_ID`. Change: live."""
    s3_secret_key: Secret | None = None
    """Its secret. Default: `AWS_SECRET_ACCESS_KEY`. Change: live."""
    s3_object_lock_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """Days for which no one can remove a copy, in a bucket with Object Lock; 0 for no lock. See
    [backup.md](backup.md#copies-that-a-thief-cannot-delete). Change: with the next copy; what is
    locked stays so."""
    s3_further: tuple[FurtherBucket, ...] = ()
    """More buckets, a list; each gets every copy, and has the keys below. See
    [backup.md](backup.md#a-second-bucket). Change: live."""
    encryption_passphrase: Secret | None = None
    """Encrypts every artifact and the repository. Default: `BACKUP_ENCRYPTION_PASSPHRASE`, else
    none. Change: by [rotation](secrets.md#the-passphrase-of-backups); else refused once there are
    backups."""
    alert_webhook: Url = ""
    """URL that gets alerts. Change: live."""
    alert_webhook_format: Literal["json", "slack", "alertmanager"] = "json"
    """What it gets: all of it as JSON, Slack's shape, or that of Alertmanager's `/api/v2/alerts`.
    Change: live."""
    alert_command: Line = ""
    """Shell command that gets alerts. Change: live."""
    alert_mail: Mail = ""
    """Addresses, with a comma between two, that the host's `sendmail` sends alerts to.
    Change: live."""
    alert_repeat: Annotated[int, Field(ge=0, le=8760)] = 24
    """Hours after which a failure that lasts is told again; 0 for never. Change: live."""
    heartbeat_url: Url = ""
    """URL requested after every healthy check. Change: live."""
    prune: bool = False
    """On a host that left the group, jobs and program go; backups stay. Change: its jobs end."""


PASSPHRASE = "BACKUP_ENCRYPTION_PASSPHRASE"

# Tells our copies in the bucket from what anybody else puts there.
SIGNING_SECRET = "BACKUP_SIGNING_KEY"


# The seed's variables, and the keys that they set where the inventory does not.
_ENVIRONMENT = {
    **{f"BACKUP_SCHEDULE_{name.upper()}": f"schedule_{name}" for name in JOBS},
    "BACKUP_RETENTION_DAYS": "retention_days",
    "BACKUP_S3_BUCKET": "s3_bucket",
    "BACKUP_S3_REGION": "s3_region",
    "AWS_ACCESS_KEY_ID": "s3_access_key",
    "AWS_SECRET_ACCESS_KEY": "s3_secret_key",
    PASSPHRASE: "encryption_passphrase",
}


def defaults(stack: StackSettings, store: Secrets, _given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: store.find(name) for name, key in _ENVIRONMENT.items()}
    if store.stated(previous(PASSPHRASE)):
        # The first one is chosen, another one may be generated.
        chosen[_ENVIRONMENT[PASSPHRASE]] = store.get(PASSPHRASE)
    # Two estates may share a bucket without overwriting each other's.
    prefix = {"s3_prefix": stack.stack_name}
    return {**prefix, **{key: value for key, value in chosen.items() if value}}
