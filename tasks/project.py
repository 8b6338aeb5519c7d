"""The Compose project: its containers, files and images; everything but the engine's part."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote

from pydantic import AfterValidator

from tasks import archive, backup, pgbouncer, postgres, redis, sentinel
from tasks.apps import App, AppsSettings
from tasks.backup import AbsolutePath, BackupSettings
from tasks.core import sql
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File, digest, render
from tasks.core.preflight import System
from tasks.core.releases import RELEASES, Release
from tasks.core.settings import Line, Settings, matching, wrong
from tasks.pgbouncer import PgbouncerSettings
from tasks.postgres import PostgresSettings
from tasks.redis import RedisSettings
from tasks.sentinel import SentinelSettings

SUITES = {"12": "bookworm", "13": "trixie"}
ROLES = ("redis", "pgbouncer", "postgres", "backup")
REDIS_PORT, SENTINEL_PORT = 6379, 26379
# Numbers of the users in the images; files on the host are theirs.
POSTGRES, REDIS = "532", "637"

# The lower half of the subnet is ours, from these on; Docker gives out the upper half.
_POSTGRES, _PGBOUNCER, _BACKUP, _REDIS, _SENTINEL = 10, 11, 12, 20, 60
MOST: dict[type[Settings], int] = {RedisSettings: _SENTINEL - _REDIS, SentinelSettings: 40}

# What the seed of a whole stack has; for hosts, groups and ports say it.
_PORTS: dict[type[Settings], tuple[int, ...]] = {
    RedisSettings: (6379, 6380, 6381),
    SentinelSettings: (26379, 26380, 26381),
}


def _subnet(value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise wrong(f"should be an IPv4 network such as '172.25.0.0/16', not {value!r}") from None
    if not 8 <= network.prefixlen <= 24:
        raise wrong(f"should have at least 256 addresses and a prefix of 8 to 24, not {value!r}")
    return str(network)


def _ip(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise wrong(
            f"should be an IPv4 address of this host, or 0.0.0.0 for all, not {value!r}"
        ) from None


Image = Annotated[
    Line,
    matching(r"([a-z0-9][A-Za-z0-9._:/@-]*)?", "should be an image such as 'registry/name:tag'"),
]
NetworkName = Annotated[
    str, matching(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", "should be letters, digits, '_', '.' and '-'")
]


class DockerSettings(Settings):
    """The `docker_*` keys."""

    prefix: ClassVar[str] = "docker_"

    project_dir: AbsolutePath = "/opt/psscript"
    """The project directory. Change: refused while containers run from the old one: `docker-compose
    down`, `mv OLD NEW`, deploy."""
    network: NetworkName = "psscript-network"
    """Name of the network. Change: every container is stopped and recreated; volumes stay."""
    subnet: Annotated[str, AfterValidator(_subnet)] = "172.25.0.0/16"
    """Its addresses, IPv4, /8 to /24: the lower half is for the stack, fixed, the upper for
    applications. Change: every container is stopped and recreated; volumes stay."""
    publish_address: Annotated[str, AfterValidator(_ip)] = "127.0.0.1"
    """Address of the host at which ports are published; `0.0.0.0` for all. Change: containers with
    a port are recreated."""
    debian: Literal["12", "13"] = "13"
    """Debian release in the images, `"12"` or `"13"`: it decides the versions. Change: images and
    containers; refused where the volume has a cluster of another PostgreSQL."""
    base_image: Image = ""
    """What the images are built on; the same release of Debian. Default: `debian:trixie-slim`, or
    `debian:bookworm-slim`. Change: images and containers."""
    image_postgres: Image = ""
    """Your own image for PostgreSQL; [what it must provide](docker.md#images). Default: built on
    the host. Change: its containers are recreated."""
    image_pgbouncer: Image = ""
    """Your own image for PgBouncer; [what it must provide](docker.md#images). Default: built on the
    host. Change: its containers are recreated."""
    image_redis: Image = ""
    """Your own image for Redis and Sentinel; [what it must provide](docker.md#images). Default:
    built on the host. Change: its containers are recreated."""
    image_backup: Image = ""
    """Your own image for the backup service; [what it must provide](docker.md#images). Default:
    built on the host. Change: its containers are recreated."""
    prune: bool = False
    """Containers of services that left the settings go. Change: they stop."""

    @property
    def release(self) -> Release:
        """The Debian release in the images."""
        return RELEASES["debian", self.debian]

    def image(self, role: str) -> str:
        """The user's own image of a role, if there is one."""
        return str(getattr(self, f"image_{role}"))


def directory(data: Mapping[str, object]) -> Path:
    """The project directory by a host's raw data: `.env` is read before they are checked."""
    return Path(
        str(data.get("docker_project_dir", DockerSettings.model_fields["project_dir"].default))
    )


# --- Containers ----------------------------------------------------------------------------------


def contain(node: Node) -> None:
    """Makes a stack of containers of a host's settings."""
    chosen = node.the(DockerSettings)
    inside = Estate(node.estate.state, node.estate.secrets, chosen.subnet)
    inside.nodes = list(_containers(node, inside, chosen))
    node.settings = {k: v for k, v in node.settings.items() if k in (DockerSettings, AppsSettings)}
    node.inside = inside


def _containers(node: Node, inside: Estate, chosen: DockerSettings) -> Iterator[Node]:
    base = ipaddress.IPv4Network(chosen.subnet).network_address

    def container(service: str, group: str, offset: int, port: int, settings: Settings) -> Node:
        return Node(
            node.host,
            node.stack,
            str(base + offset),
            {type(settings): settings},
            inside,
            frozenset({group}),
            system=System(chosen.release),
            service=service,
            port=port,
        )

    postgres, pgbouncer = node.the(PostgresSettings), node.the(PgbouncerSettings)
    yield container("postgres", "postgres", _POSTGRES, postgres.port, postgres)
    yield container("pgbouncer", "pgbouncer", _PGBOUNCER, pgbouncer.listen_port, pgbouncer)
    redis = node.the(RedisSettings)
    for number, port in enumerate(_published(redis)):
        # The name is that of the beginning: who is master is Sentinel's to say.
        service = f"redis-replica-{number}" if number else "redis-master"
        one = redis.model_copy(update={"ports": (REDIS_PORT,)})
        yield container(service, "redis", _REDIS + number, port, one)
    sentinel = node.the(SentinelSettings)
    for number, port in enumerate(_published(sentinel)):
        each = sentinel.model_copy(update={"ports": (SENTINEL_PORT,)})
        yield container(f"redis-sentinel-{number + 1}", "sentinel", _SENTINEL + number, port, each)
    yield container("backup-service", "backup", _BACKUP, 0, node.the(BackupSettings))


def address_of(chosen: DockerSettings, service: str) -> str:
    """Where a container of Redis or Sentinel is or was; empty for other services."""
    match = re.fullmatch(r"redis-(master|replica|sentinel)(?:-([0-9]+))?", service)
    if match is None or (match[1] != "master" and match[2] is None):
        return ""
    first = {"master": _REDIS, "replica": _REDIS, "sentinel": _SENTINEL - 1}[match[1]]
    base = ipaddress.IPv4Network(chosen.subnet).network_address
    return str(base + first + int(match[2] or 0))


def _published(chosen: RedisSettings | SentinelSettings) -> tuple[int, ...]:
    """The ports of the host at which the containers of a kind are reached."""
    return chosen.ports if "ports" in chosen.model_fields_set else _PORTS[type(chosen)]


def one(inside: Estate, settings: type[Settings]) -> Node:
    """The only container of a kind."""
    return inside.having(settings)[0]


# --- Images --------------------------------------------------------------------------------------

LABEL = "datatier.inputs"


def base_image(chosen: DockerSettings) -> str:
    """The image that all others are built on."""
    return chosen.base_image or f"debian:{SUITES[chosen.debian]}-slim"


def _dockerfile(inside: Estate, chosen: DockerSettings) -> str:
    keeper = one(inside, BackupSettings)
    return render(
        "compose/Dockerfile.j2",
        base=base_image(chosen),
        debian=chosen.debian,
        postgres_id=POSTGRES,
        redis_id=REDIS,
        redis_port=REDIS_PORT,
        sentinel_port=SENTINEL_PORT,
        version=chosen.release.postgres,
        backup_packages=" ".join([*backup.required(keeper), "tini"]),
    )


def _roots(inside: Estate) -> dict[str, list[File]]:
    """What each image has at which place besides its packages."""
    keeper, server = one(inside, BackupSettings), one(inside, PostgresSettings)
    pooler = one(inside, PgbouncerSettings)
    program = backup.program(keeper.the(BackupSettings))
    starts = {
        "redis": render(
            "compose/redis-start.j2",
            redis_port=REDIS_PORT,
            sentinel_port=SENTINEL_PORT,
            keep_role=redis.KEEP_ROLE,
            keep_learned=sentinel.KEEP_LEARNED,
        ),
        "pgbouncer": render(
            "compose/pgbouncer-start.j2",
            command=pgbouncer.service_of(pooler).command,
            pid_file=pgbouncer.PID_FILE,
        ),
        "postgres": render(
            "compose/postgres-start.j2",
            version=postgres.cluster_version(server),
            data=postgres.data_directory(server),
            command=postgres.service_of(server).command,
        ),
        "backup": render("compose/backup-start.j2", logs=f"{keeper.the(BackupSettings).dir}/logs"),
    }
    roots = {
        role: [File(f"/usr/local/bin/{role}-start", start, "755")] for role, start in starts.items()
    }
    roots["redis"] += [redis.client(), redis.before_start()]
    roots["backup"] += [entry for entry in program if isinstance(entry, File)]
    return roots


def inputs(inside: Estate, chosen: DockerSettings) -> dict[str, str]:
    """A fingerprint of all that an image is built from, by role."""
    stages = re.findall(
        r"(?ms)^FROM (\S+) AS (\w+)$(.*?)(?=^FROM |\Z)", _dockerfile(inside, chosen)
    )
    roots, digests = _roots(inside), dict[str, str]()
    for parent, role, text in stages:
        own = [f"{file.path} {file.mode} {file.content}" for file in roots.get(role, [])]
        digests[role] = digest(digests.get(parent, parent), text, *own)[:16]
    return {role: digests[role] for role in ROLES}


# --- Files ---------------------------------------------------------------------------------------


_URLS = r'^ +"(?:DATABASE|REDIS_SENTINEL)_URL": "(.*)"$'


def files(node: Node, environment: str = "") -> list[Entry]:
    """Everything in the project directory that the settings say.

    Args:
        environment: what `.env` holds now; lines that are not ours stay.
    """
    assert node.inside is not None
    chosen, inside = node.the(DockerSettings), node.inside
    home = chosen.project_dir
    return [
        Directory(home),
        File(f"{home}/docker-compose.yml", compose_file(node), "600", secret=_URLS),
        File(f"{home}/.env", _environment(node, environment), "600", secret=r"^[A-Z0-9_]+=(.*)$"),
        # Only root enters: within it files have the owners that the containers need.
        Directory(f"{home}/docker", "700"),
        *_postgres(f"{home}/docker", inside),
        *_pgbouncer(f"{home}/docker", inside),
        *_redis(f"{home}/docker", inside),
        *_backup(f"{home}/docker", inside),
        *_secrets(f"{home}/docker", inside),
        *_images(f"{home}/docker/images", inside, chosen),
        Directory(f"{home}/backups"),
        *(Directory(f"{home}/backups/{name}", "750") for name in ("postgres", "redis", "logs")),
        Directory(f"{home}/backups/pgbackrest", "750", POSTGRES, POSTGRES),
    ]


def _owned(
    path: str, content: str, group: str, secret: str | None = None, opens: str | None = None
) -> File:
    """A file that only root and a group of the containers read."""
    return File(path, content, "640", group=group, secret=secret, opens=opens)


def _postgres(docker: str, inside: Estate) -> list[Entry]:
    node = one(inside, PostgresSettings)
    text, access, home = postgres_configuration(node), postgres.access(node), f"{docker}/postgres"
    return [
        Directory(home),
        _owned(f"{home}/postgresql.conf", text, POSTGRES, sql.SECRET_PARAMETERS),
        _owned(
            f"{home}/pg_hba.conf", access, POSTGRES, postgres.ACCESS_SECRETS, postgres.ACCESS_LINES
        ),
    ]


def postgres_configuration(node: Node) -> str:
    """The settings, on top of what initdb has found out about locale and time zone."""
    return postgres.configuration(
        node,
        {
            "include": f"{postgres.data_directory(node)}/postgresql.conf",
            "hba_file": f"{postgres.configuration_directory(node)}/pg_hba.conf",
            "unix_socket_directories": "/run/postgresql",
            "log_line_prefix": "%m [%p] %q%u@%d ",
        },
    )


def _pgbouncer(docker: str, inside: Estate) -> list[Entry]:
    node, directory = one(inside, PgbouncerSettings), f"{docker}/pgbouncer"
    admin = one(inside, PostgresSettings).the(PostgresSettings).password.get_secret_value()
    escaped = re.sub(r"([\\:])", r"\\\1", admin)
    return [
        Directory(directory),
        _owned(
            f"{directory}/pgbouncer.ini",
            pgbouncer.configuration(node),
            POSTGRES,
            pgbouncer.LINK_SECRET,
            pgbouncer.OPENS,
        ),
        _owned(
            f"{directory}/userlist.txt",
            pgbouncer.users(node),
            POSTGRES,
            pgbouncer.USERS_SECRET,
            pgbouncer.USERS,
        ),
        File(
            f"{directory}/pgpass",
            f"*:*:*:postgres:{escaped}\n",
            "600",
            POSTGRES,
            POSTGRES,
            secret=r"^.*:postgres:(.*)$",
        ),
    ]


def _redis(docker: str, inside: Estate) -> list[Entry]:
    """One file a role; any of them may be master one day, so both say the same."""
    settings = redis.configuration(inside.having(RedisSettings)[0], REDIS_PORT)
    watch = sentinel.configuration(inside.having(SentinelSettings)[0], SENTINEL_PORT)
    return [
        Directory(f"{docker}/redis"),
        *(
            _owned(f"{docker}/redis/{name}.conf", settings, REDIS, redis.SECRET_LINES)
            for name in ("redis-master", "redis-replica")
        ),
        _owned(f"{docker}/redis/sentinel.conf", watch, REDIS, sentinel.SECRET_LINES),
    ]


def _backup(docker: str, inside: Estate) -> list[Entry]:
    node = one(inside, BackupSettings)
    found = {e.path: e for e in backup.repository(node) if isinstance(e, File)}
    repository, scratch = found[archive.CONFIG], found[backup.SCRATCH]
    return [
        Directory(f"{docker}/pgbackrest"),
        _owned(
            f"{docker}/pgbackrest/pgbackrest.conf", repository.content, POSTGRES, repository.secret
        ),
        Directory(f"{docker}/backup"),
        _owned(
            f"{docker}/backup/pgbackrest-scratch.conf", scratch.content, POSTGRES, scratch.secret
        ),
        File(
            f"{docker}/backup/backup.json",
            backup.configuration(node),
            "600",
            secret=backup.CONFIG_SECRETS,
        ),
        Directory(f"{docker}/backup/cron.d"),
        File(f"{docker}/backup/cron.d/datatier-backup", backup.schedule(node)),
    ]


def _secrets(docker: str, inside: Estate) -> list[Entry]:
    """For applications, whose users nobody knows: inside their containers everybody reads them.

    Without a line break at the end: most clients would send it as a part of the password.
    """
    values = {
        "redis_password": redis.password(inside.having(RedisSettings)[0]),
        **({"db_password": _db_password(inside)} if _database(inside)[1] else {}),
        **{name.lower(): url for name, url in _urls(inside).items()},
    }
    return [
        Directory(f"{docker}/secrets"),
        *(
            File(f"{docker}/secrets/{name}", value, secret=r"^(.*)$")
            for name, value in values.items()
        ),
    ]


def _images(directory: str, inside: Estate, chosen: DockerSettings) -> list[Entry]:
    files = [
        File(f"{directory}/{role}{file.path}", file.content, file.mode)
        for role, of_role in _roots(inside).items()
        for file in of_role
    ]
    places = {place for file in files for place in _above(directory, file.path)}
    return [
        Directory(directory),
        *(Directory(place) for place in sorted(places)),
        File(f"{directory}/Dockerfile", _dockerfile(inside, chosen)),
        *files,
    ]


def _above(directory: str, path: str) -> Iterator[str]:
    """The directories that lead to a file."""
    while (path := path.rpartition("/")[0]) != directory:
        yield path


def _environment(node: Node, now: str) -> str:
    """What Compose and people with the seed's document look for in `.env`."""
    names = ["POSTGRES_PASSWORD", "REDIS_PASSWORD"]
    inside, store = node.inside, node.estate.secrets
    assert inside is not None
    values = {
        "COMPOSE_PROJECT_NAME": node.stack.stack_name,
        "POSTGRES_PASSWORD": one(inside, PostgresSettings)
        .the(PostgresSettings)
        .password.get_secret_value(),
        "REDIS_PASSWORD": redis.password(inside.having(RedisSettings)[0]),
        **{name: store.get(name) for name in generated(inside) if name not in names},
    }
    lines = now.splitlines()
    there = {line.partition("=")[0].strip(): number for number, line in enumerate(lines)}
    for name, value in values.items():
        line = f"{name}={_quoted(value)}"
        if name in there:
            lines[there[name]] = line
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def generated(inside: Estate) -> list[str]:
    """The names of the secrets that its containers leave to `.env`."""
    return [
        name
        for node in inside.nodes
        for component in node.components()
        for name in component.secrets(node)
    ]


def _quoted(value: str) -> str:
    """A value as both Compose and dotenv read it."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- The project ---------------------------------------------------------------------------------


def application(server: Node) -> tuple[str, str] | None:
    """The first database that an application owns, and the application's role."""
    databases = server.the(PostgresSettings).databases.items()
    owners = ((name, database.owner) for name, database in databases)
    return next(((name, owner) for name, owner in owners if owner != "postgres"), None)


def compose_file(node: Node) -> str:
    """The content of docker-compose.yml."""
    assert node.inside is not None
    inside, chosen = node.inside, node.the(DockerSettings)
    server, pooler = one(inside, PostgresSettings), one(inside, PgbouncerSettings)
    keeper = one(inside, BackupSettings)
    nodes = inside.having(RedisSettings)
    network = ipaddress.IPv4Network(chosen.subnet)
    return render(
        "compose/docker-compose.yml.j2",
        stack=node.stack.stack_name,
        images={role: chosen.image(role) for role in ROLES},
        inputs=inputs(inside, chosen),
        label=LABEL,
        network=chosen.network,
        subnet=chosen.subnet,
        dynamic=str(list(network.subnets())[1]),
        publish=chosen.publish_address,
        postgres=server,
        shm=postgres.shared_memory(server.system.memory),
        postgres_etc=postgres.configuration_directory(server),
        locale=server.the(PostgresSettings).locale,
        pgbouncer=pooler,
        pgbouncer_files=pgbouncer.service_of(pooler).open_files,
        redis=nodes,
        redis_port=REDIS_PORT,
        prefix=nodes[0].address.rpartition(".")[0] + ".",
        sentinels=inside.having(SentinelSettings),
        sentinel_port=SENTINEL_PORT,
        master_name=sentinel.master_name(inside),
        backup=keeper,
        backups=keeper.the(BackupSettings).dir,
        apps=[_app(app, inside) for app in node.the(AppsSettings).apps],
    )


def _database(inside: Estate) -> tuple[str, str]:
    return application(one(inside, PostgresSettings)) or ("", "")


def _db_password(inside: Estate) -> str:
    return postgres.role_password(one(inside, PostgresSettings), _database(inside)[1]) or ""


def _sentinels(inside: Estate) -> str:
    nodes = inside.having(SentinelSettings)
    return ",".join(f"{node.service}:{SENTINEL_PORT}" for node in nodes)


def _urls(inside: Estate) -> dict[str, str]:
    """All that a client needs, by the name of the variable; the parts are percent-encoded."""
    database, owner = _database(inside)
    secret = redis.password(inside.having(RedisSettings)[0])
    master = quote(sentinel.master_name(inside), safe="")
    urls = {
        "REDIS_SENTINEL_URL": (
            f"redis+sentinel://:{quote(secret, safe='')}@{_sentinels(inside)}/{master}/0"
        )
    }
    if owner:
        user = f"{quote(owner, safe='')}:{quote(_db_password(inside), safe='')}"
        place = f"pgbouncer:{one(inside, PgbouncerSettings).port}"
        urls["DATABASE_URL"] = f"postgresql://{user}@{place}/{quote(database, safe='')}"
    return urls


def _app(app: App, inside: Estate) -> dict[str, object]:
    database, owner = _database(inside)
    urls = _urls(inside)
    given = {
        "DB_HOST": "pgbouncer",
        "DB_PORT": str(one(inside, PgbouncerSettings).port),
        "DB_NAME": database,
        "DB_USER": owner,
        "DB_PASSWORD_FILE": "/run/secrets/db_password",
        "REDIS_SENTINELS": _sentinels(inside),
        "REDIS_MASTER_NAME": sentinel.master_name(inside),
        "REDIS_PASSWORD_FILE": "/run/secrets/redis_password",
        **{f"{name}_FILE": f"/run/secrets/{name.lower()}" for name in urls},
        **(urls if app.urls else {}),
    }
    return {
        "name": app.name,
        "image": app.image,
        "port": app.port,
        "published": app.published,
        "env": {**given, **app.env},
        "test": _health_test(app) if app.port else "",
    }


def _health_test(app: App) -> str:
    """A request made inside the application's image, with whatever of these that has."""
    if app.health == "tcp":
        place = f"127.0.0.1 {app.port}"
        connect = f"import socket; socket.create_connection(('127.0.0.1', {app.port}), 5)"
        return (
            f'nc -z {place} || bash -c "</dev/tcp/{place.replace(" ", "/")}" || '
            f'python3 -c "{connect}" || node -e "{_NODE_TCP.format(port=app.port)}"'
        )
    url = f"http://127.0.0.1:{app.port}{app.health.removeprefix('http:')}"
    fetch = f"import urllib.request; urllib.request.urlopen('{url}', timeout=5)"
    return (
        f"curl -fsS -m 5 -o /dev/null '{url}' || wget -q -T 5 -O /dev/null '{url}' || "
        f'python3 -c "{fetch}" || node -e "{_NODE_HTTP.format(url=url)}"'
    )


_NODE_TCP = (
    "require('net').connect({port}, '127.0.0.1').on('connect', () => process.exit(0))"
    ".on('error', () => process.exit(1))"
)
_NODE_HTTP = "fetch('{url}').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"
