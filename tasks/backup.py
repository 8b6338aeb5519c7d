"""The backup service: its program, its schedule, and the repository it fills."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from backup import cron
from backup.arguments import SCRIPTS
from backup.config import JOBS
from tasks import archive, link
from tasks.core import files, packages, services
from tasks.core.change import Change, converge
from tasks.core.estate import HOST, Component, Estate, Node, here, on
from tasks.core.files import Directory, Entry, File, render
from tasks.core.preflight import Listener
from tasks.core.releases import RELEASES
from tasks.core.remote import Probe, quoted
from tasks.core.secrets import Secrets
from tasks.core.services import Service
from tasks.core.settings import Line, Problem, Secret, Settings, StackSettings, matching, wrong
from tasks.pgbouncer import PgbouncerSettings
from tasks.postgres import (
    PostgresSettings,
    cluster_version,
    data_directory,
    extensions_probe,
    unavailable,
)
from tasks.redis import MASK, RedisSettings, addresses, password
from tasks.sentinel import endpoints, master_name

PROGRAM = Path(__file__).resolve().parents[1] / "backup"
LIBRARY = "/usr/lib/datatier"
CONFIG = "/etc/datatier/backup.json"
SCRATCH = "/etc/datatier/pgbackrest-scratch.conf"
_TRUSTED = "/etc/datatier/postgres.pem"

# Owner and mode of the directory become ours, so it has to be one that is nobody else's.
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
Bucket = Annotated[
    Line,
    matching(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?", "should be a bucket's name, without s3://"),
]
Region = Annotated[Line, matching(r"[a-z0-9-]+", "should be a region such as 'us-east-1'")]
Prefix = Annotated[
    Line,
    matching(
        r"([A-Za-z0-9_-][A-Za-z0-9_.-]*(/(?!$)|$))*", "should be a folder such as 'estate/one'"
    ),
]
Visible = Annotated[
    Line, matching(r"[!-~]*", "should have printable ASCII characters only, without blanks")
]
Url = Annotated[
    Line, matching(r"(https?://\S+)?", "should be a URL that begins with http:// or https://")
]


def _schedule(value: str) -> str:
    if value:
        try:
            cron.parse(value)
        except ValueError as error:
            raise wrong(str(error)) from None
    return " ".join(value.split())


Schedule = Annotated[Line, AfterValidator(_schedule)]


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
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Backups that are younger stay. Change: live."""
    retention_min_full: Annotated[int, Field(ge=1, le=1000)] = 3
    """Verified fulls per database, and snapshots, that stay however old they are. Change: live."""
    s3_bucket: Bucket = ""
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
    encryption_passphrase: Secret | None = None
    """Encrypts every artifact and the repository. Default: `BACKUP_ENCRYPTION_PASSPHRASE`, else
    none. Change: refused once there are backups."""
    alert_webhook: Url = ""
    """URL that gets alerts as JSON. Change: live."""
    alert_command: Line = ""
    """Shell command that gets alerts. Change: live."""
    heartbeat_url: Url = ""
    """URL requested after every healthy check. Change: live."""
    prune: bool = False
    """On a host that left the group, jobs and program go; backups stay. Change: its jobs end."""


# Tells our copies in the bucket from what anybody else puts there.
SIGNING_SECRET = "BACKUP_SIGNING_KEY"

# The seed's variables, and the keys that they set where the inventory does not.
_ENVIRONMENT = {
    **{
        f"BACKUP_SCHEDULE_{name.upper()}": f"schedule_{name}"
        for name in ("full", "incremental", "redis", "cleanup", "health", "verify", "drill")
    },
    "BACKUP_RETENTION_DAYS": "retention_days",
    "BACKUP_S3_BUCKET": "s3_bucket",
    "BACKUP_S3_REGION": "s3_region",
    "AWS_ACCESS_KEY_ID": "s3_access_key",
    "AWS_SECRET_ACCESS_KEY": "s3_secret_key",
    "BACKUP_ENCRYPTION_PASSPHRASE": "encryption_passphrase",
}


# --- What the estate knows of backups ------------------------------------------------------------


def _defaults(stack: StackSettings, store: Secrets, _given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: store.find(name) for name, key in _ENVIRONMENT.items()}
    # Two estates may share a bucket without overwriting each other's.
    prefix = {"s3_prefix": stack.stack_name}
    return {**prefix, **{key: value for key, value in chosen.items() if value}}


def _secrets(node: Node) -> list[str]:
    role = [archive.ROLE_SECRET] if _server(node) else []
    return [*role, SIGNING_SECRET] if node.the(BackupSettings).s3_bucket else role


def _rules(everything: Estate) -> list[Problem]:
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
        if chosen.s3_bucket and not (chosen.s3_access_key and chosen.s3_secret_key):
            message = "needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env"
            problems.append(Problem(node.name, "backup_s3_bucket", message))
    return problems


def _listens(node: Node) -> list[Listener]:
    if not archive.is_remote(node):
        return []
    return [archive.listener()]


# Whose version has to be the backup host's too, and why.
_OF_ONE_RELEASE: dict[type[Settings], str] = {
    PostgresSettings: "pgBackRest needs the same version on both",
    RedisSettings: "a snapshot of one version of Redis does not load in the other",
}


def _checks(node: Node) -> list[Problem]:
    found = node.read("backup")
    before = found["files"][CONFIG].content
    return [
        *_other_releases(node),
        *_old_python(node),
        *other_passphrase(node, before, there=found["artifacts"]),
        *(Problem(node.name, "backup_dir", why) for why in found["occupied"]),
        *archive.rivals(node, node.read(HOST)["rivals"]),
        *_cannot_load(node, found["extensions"]),
    ]


def _cannot_load(node: Node, installed: Sequence[str]) -> Iterator[Problem]:
    """What a scratch server on this host would lack; on PostgreSQL's own that is asked anyway."""
    server = _server(node)
    if server is not None and server is not node and server in node.estate.active:
        for each in unavailable(server, installed):
            message = f"{each.message}; drills and --time need it here too"
            yield Problem(node.name, each.key, message)


def _in_use(node: Node) -> Mapping[str, str]:
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
    """Another passphrase than before would lock everybody out of the backups that exist.

    Args:
        configuration: what the program is told now.
        there: whether there are backups.
    """
    now = node.the(BackupSettings).encryption_passphrase
    before = re.search(rb'"encryption_passphrase": (".*")', configuration)
    wanted = now.get_secret_value() if now else ""
    if not there or before is None or json.loads(before[1]) == wanted:
        return []
    message = (
        f"does not match the passphrase of the backups in {node.the(BackupSettings).dir}: "
        "put that one back, or move them away"
    )
    return [Problem(node.name, "backup_encryption_passphrase", message)]


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


def _server(node: Node) -> Node | None:
    servers = node.estate.having(PostgresSettings)
    return servers[0] if servers else None


def _like(node: Node) -> Node:
    """A host of PostgreSQL's release: its own, or this one where that is away."""
    server = _server(node)
    return server if server is not None and server in node.estate.active else node


def _version(node: Node) -> int:
    server = _server(node)
    return cluster_version(server, _like(node)) if server is not None else 0


def _probes(node: Node) -> dict[str, Probe[Any]]:
    return {
        "packages": packages.probe(_packages(node)),
        "files": files.probe(_files(node)),
        "services": services.probe(_services(node), node.manager),
        "certificate": archive.certificate_probe(node),
        "artifacts": artifacts_probe(node.the(BackupSettings).dir),
        "occupied": files.occupied_probe("backups", node.the(BackupSettings).dir),
        "stanza": stanza_probe(node),
        "extensions": extensions_probe(_version(node)),
    }


def artifacts_probe(directory: str) -> Probe[bool]:
    """Whether there are backups in a directory."""
    return Probe(_ARTIFACTS.format(dir=directory), bool)


# A repository is begun by the first deployment, an artifact by the first job.
_ARTIFACTS = (
    "ls -d {dir}/pgbackrest/backup {dir}/postgres/*.gz* {dir}/redis/*.gz* 2>/dev/null || true"
)


# --- Install -------------------------------------------------------------------------------------


def _packages(node: Node) -> list[str]:
    return [*required(node), *services.packages(node.manager)]


def required(node: Node) -> list[str]:
    """The packages that the program needs."""
    server = _server(node)
    tools = [f"postgresql-{_version(node)}", "pgbackrest"] if server else []
    redis = ["redis-server", "redis-tools"] if node.estate.having(RedisSettings) else []
    libraries = [
        "python3",
        "python3-psycopg",
        "python3-redis",
        "python3-boto3",
        "gnupg",
        "openssl",
        "logrotate",
    ]
    return [*tools, *redis, *libraries, "cron"]


@on(BackupSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    converge("Backup: packages", lambda: _missing_packages(node))


def _missing_packages(node: Node) -> Change | None:
    before = MASK + packages.NO_CLUSTER
    return packages.compare(node, _packages(node), node.read("backup")["packages"], before)


# --- Configure -----------------------------------------------------------------------------------


def keys() -> None:
    """The keys of the backup host and of PostgreSQL's, before either configures the other.

    One operation of both hosts: pyinfra then runs it before what follows on either of them.
    """
    node = here()
    if archive.is_remote(node) and (group := _side(node)):
        converge("Backup: keys", lambda: archive.make_key(node, node.read(group)["certificate"]))


def _side(node: Node) -> str:
    if BackupSettings in node.settings:
        return "backup"
    return "postgres" if PostgresSettings in node.settings else ""


def configure() -> None:
    """Writes the program, its configuration and its schedule."""
    pin()
    _write()
    activate()


@on(BackupSettings)
def _write(node: Node) -> None:
    converge("Backup: configuration", lambda: _configuration(node))


def pin() -> None:
    """The certificate that PostgreSQL on another host shows, before anything relies on it.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    server = _server(node)
    if server is not None and _side(node) and link.is_ours(server, _extra(server)):
        converge("Backup: certificate of PostgreSQL", lambda: _unpinned(node))


def _extra(server: Node) -> Mapping[str, object]:
    return server.the(PostgresSettings).extra


def _unpinned(node: Node) -> Change | None:
    if BackupSettings not in node.settings or not (pinned := _pinned(node)):
        return None
    return files.compare(_certificate(pinned), node.read("backup")["files"])


def _pins(node: Node) -> bool:
    """Whether PostgreSQL is on another host and has a certificate of ours."""
    server = _server(node)
    is_far = server is not None and link.is_remote(server, node)
    return server is not None and is_far and link.is_ours(server, _extra(server))


def _pinned(node: Node) -> str:
    server = _server(node)
    if server is None or not _pins(node):
        return ""
    return link.pinned(server, node, node.read("backup")["files"][_TRUSTED])


def _certificate(pinned: str) -> list[Entry]:
    return [Directory("/etc/datatier"), File(_TRUSTED, f"{pinned}\n")]


def _configuration(node: Node) -> Change | None:
    entries = _own_files(node, _trusted(node), is_pinned=bool(_pinned(node)))
    return files.compare(entries, node.read("backup")["files"])


def _trusted(node: Node) -> str:
    server = _server(node)
    if server is None or not archive.is_remote(node):
        return ""
    return archive.trusted(node, "backup", server, "postgres")


def _files(node: Node) -> list[Entry]:
    is_pinned = _pins(node)
    return [
        *(_certificate(link.TO_COME) if is_pinned else []),
        *_own_files(node, is_pinned=is_pinned),
    ]


def _own_files(node: Node, certificate: str = "", *, is_pinned: bool) -> list[Entry]:
    chosen = node.the(BackupSettings)
    return [
        Directory("/etc/datatier"),
        Directory(chosen.dir),
        *(Directory(f"{chosen.dir}/{name}", mode="750") for name in ("postgres", "redis", "logs")),
        *program(chosen),
        File(CONFIG, configuration(node, is_pinned=is_pinned), mode="600", secret=CONFIG_SECRETS),
        File("/etc/cron.d/datatier-backup", schedule(node)),
        *repository(node, certificate),
        *(entry for service in _services(node) for entry in services.files(service, node.manager)),
    ]


# The address of a webhook or heartbeat is its password.
CONFIG_SECRETS = (
    r'^ *"(?:password|admin_password|secret_key|access_key|signing_key|encryption_passphrase'
    r'|webhook|command|heartbeat)": "(.*)",?$'
)


def program(chosen: BackupSettings) -> list[Entry]:
    """The program, the scripts that start it, and how its logs are kept short."""
    modules = sorted([*PROGRAM.glob("*.py"), *PROGRAM.glob("*.sh")])
    logrotate = render("backup/logrotate.j2", logs=f"{chosen.dir}/logs")
    return [
        Directory(LIBRARY),
        Directory(f"{LIBRARY}/backup"),
        *(File(f"{LIBRARY}/backup/{path.name}", path.read_text()) for path in modules),
        *_scripts(chosen),
        File("/etc/logrotate.d/datatier-backup", logrotate),
    ]


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
    postgres = set() if everything.having(PostgresSettings) else {"full", "incremental"}
    return postgres if everything.having(RedisSettings) else {*postgres, "redis"}


def configuration(node: Node, *, is_pinned: bool = False) -> str:
    """What the program knows of the estate, as JSON."""
    chosen = node.the(BackupSettings)
    passphrase = chosen.encryption_passphrase
    content = {
        "stack": node.stack.stack_name,
        "host": node.name,
        "directory": chosen.dir,
        "retention_days": chosen.retention_days,
        "retention_min_full": chosen.retention_min_full,
        "encryption_passphrase": passphrase.get_secret_value() if passphrase else "",
        "alerts": {
            "webhook": chosen.alert_webhook,
            "command": chosen.alert_command,
            "heartbeat": chosen.heartbeat_url,
        },
        "postgres": _postgres(node, _TRUSTED if is_pinned else ""),
        "redis": _redis(node.estate),
        "s3": _s3(node),
    }
    return json.dumps(content, indent=2) + "\n"


def _postgres(node: Node, certificate: str) -> dict[str, Any] | None:
    server = _server(node)
    if server is None:
        return None
    settings = server.the(PostgresSettings)
    return {
        "host": "127.0.0.1" if server is node else server.address,
        "port": settings.port,
        "certificate": certificate,
        "version": _version(node),
        "databases": list(settings.databases),
        "user": archive.ROLE,
        "password": node.estate.secrets.get(archive.ROLE_SECRET),
        "admin_password": settings.password.get_secret_value(),
        "data_directory": data_directory(server, _like(node)),
        "local": server is node,
        # Block incremental is beta in Debian 12's pgBackRest, and its restore had bugs until 2.55.
        "preload": ",".join(settings.shared_preload_libraries),
        "incremental": "block" if _version(node) >= 17 else "wal",
        "poolers": [
            [
                "127.0.0.1" if pooler is node else pooler.address,
                pooler.the(PgbouncerSettings).listen_port,
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
    }


def _s3(node: Node) -> dict[str, str] | None:
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
        "signing_key": node.estate.secrets.get(SIGNING_SECRET),
    }


def repository(node: Node, certificate: str = "") -> list[Entry]:
    """pgBackRest's configuration for backups, and the one that restores to scratch."""
    server = _server(node)
    if server is None:
        return []
    common = _repository_options(node)
    cluster: dict[str, str | int] = {
        "pg1-path": data_directory(server, _like(node)),
        "pg1-port": server.the(PostgresSettings).port,
        "pg1-socket-path": "/var/run/postgresql",
    }
    entries: list[Entry] = []
    scratch = common
    if archive.is_remote(node):
        options, entries = archive.tls(node, server, certificate)
        common = {**common, **options}
        cluster = {**cluster, **archive.peer("pg1", server)}
    return [
        *entries,
        Directory(str(common["repo1-path"]), mode="750", user="postgres", group="postgres"),
        archive.config_file(node, common, cluster),
        archive.config_file(node, scratch, {"pg1-path": "/nonexistent"}, SCRATCH),
    ]


def _repository_options(node: Node) -> dict[str, str | int]:
    chosen = node.the(BackupSettings)
    options: dict[str, str | int] = {
        "repo1-path": f"{chosen.dir}/pgbackrest",
        "repo1-retention-full-type": "time",
        "repo1-retention-full": chosen.retention_days,
        # Nothing expires until it was verified: clean-up decides, not the backup itself.
        "expire-auto": "n",
        "start-fast": "y",
        "process-max": 2,
        "compress-type": "zst",
        "log-level-file": "off",
        "lock-path": archive.LOCKS,
    }
    if _version(node) >= 17:
        options |= {"repo1-bundle": "y", "repo1-block": "y"}
    if chosen.encryption_passphrase is not None:
        options |= {
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": chosen.encryption_passphrase.get_secret_value(),
        }
    return options


# --- Activate ------------------------------------------------------------------------------------

# What postgres has put in place of a file may never end.
_READ_STANZA = """
runuser -u postgres -- timeout -s KILL 30 \\
  pgbackrest --stanza={stanza} info --output=json 2>/dev/null |
  grep -q '"code":[02],' && echo ok || true
"""


def stanza_probe(node: Node) -> Probe[bool]:
    """Whether the repository knows the cluster."""
    script = _READ_STANZA.format(stanza=archive.stanza(node))
    return Probe(script, lambda lines: lines == ["ok"])


def activate() -> None:
    """Starts the schedule and pgBackRest's server, and creates the stanza."""
    _start()
    node = here()
    # Also an operation of PostgreSQL's host, where it does nothing: it waits for that server.
    if _server(node) is not None and _side(node):
        converge("Backup: repository", lambda: new_stanza(node))


@on(BackupSettings)
def _start(node: Node) -> None:
    converge("Backup: services", lambda: _activation(node))


def _services(node: Node) -> list[Service]:
    cron = Service(
        name="cron",
        description="cron",
        command="/usr/sbin/cron -f",
        user="root",
        group="root",
        unit="cron.service",
        # It is the host's cron, and other people's jobs expect what Debian gives them.
        umask="022",
        ready="grep -qsx cron /proc/[0-9]*/comm",
        reload=":",
    )
    return [cron, archive.service(node)] if archive.is_remote(node) else [cron]


def _activation(node: Node) -> Change | None:
    wanted = [
        services.activation(
            service, node.manager, restart=_link(node) if service.name == "pgbackrest" else ""
        )
        for service in _services(node)
    ]
    return services.compare(wanted, node.read("backup")["services"], node.manager)


def _link(node: Node) -> str:
    """What pgBackRest's server would have to be restarted for: it reads the rest by itself."""
    server = _server(node)
    assert server is not None
    options, _ = archive.tls(node, server, "")
    return json.dumps(options) + _trusted(node) + str(node.read("backup")["certificate"])


def new_stanza(node: Node) -> Change | None:
    """Makes the cluster known to the repository, once."""
    if BackupSettings not in node.settings or node.read("backup")["stanza"]:
        return None
    name = archive.stanza(node)
    script = f"""
out=$(runuser -u postgres -- pgbackrest {quoted(f"--stanza={name}")} stanza-create 2>&1) || {{
  echo "pgBackRest: $(printf '%s\\n' "$out" | tail -n 1)" >&2; exit 1; }}
"""
    return Change([f"stanza {name}: create"], script)


def deploy() -> None:
    """The backup service as the settings say: install, configure, activate."""
    install()
    keys()
    configure()


COMPONENT = Component(
    "backup",
    BackupSettings,
    _defaults,
    _secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    in_use=_in_use,
)
