"""Everything in the project directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tasks.apps.files import secret_files
from tasks.backup import passphrase as backup_passphrase
from tasks.backup import program as backup_program
from tasks.backup import repository as backup_repository
from tasks.backup.passphrase import Repository
from tasks.backup.settings import BackupSettings
from tasks.compose.images import dockerfile, root_files
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, generated, one
from tasks.compose.project import compose_file, offers
from tasks.compose.settings import POSTGRES, REDIS, DockerSettings
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File
from tasks.core.secrets import previous
from tasks.pgbouncer import console
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import archive
from tasks.postgres import files as postgres_files
from tasks.postgres.settings import PostgresSettings
from tasks.redis import files as redis_files
from tasks.redis import settings as redis_settings
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.sentinel import files as sentinel_files

_URLS = r'^ +"(?:DATABASE|REDIS_SENTINEL)_URL": "(.*)"$'


def project_files(
    node: Node, environment: str = "", places: Sequence[Repository] = ()
) -> list[Entry]:
    """Everything in the project directory that the settings say.

    Args:
        environment: what `.env` holds now; lines that are not ours stay.
        places: pgBackRest's repositories.
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
        *_backup(f"{home}/docker", inside, places),
        *_secrets(f"{home}/docker", inside),
        *_images(f"{home}/docker/images", inside, chosen),
        Directory(f"{home}/backups"),
        *(Directory(f"{home}/backups/{name}", "750") for name in ("postgres", "redis", "logs")),
        Directory(f"{home}/backups/pgbackrest", "750", POSTGRES, POSTGRES),
    ]


def _mounted(directory: str, group: str, files: Iterable[Entry]) -> list[Entry]:
    """What servers read, as on hosts; here only root and the group of their containers do."""

    def mounted(file: File) -> File:
        path = f"{directory}/{file.path.rpartition('/')[2]}"
        return replace(file, path=path, mode="640", user="root", group=group)

    return [Directory(directory), *(mounted(file) for file in files if isinstance(file, File))]


def _postgres(docker: str, inside: Estate) -> list[Entry]:
    server = one(inside, PostgresSettings)
    files = postgres_files.own_files(server, shown=postgres_files.shown(server))
    return _mounted(f"{docker}/postgres", POSTGRES, files)


def _pgbouncer(docker: str, inside: Estate) -> list[Entry]:
    directory = f"{docker}/pgbouncer"
    admin = one(inside, PostgresSettings).the(PostgresSettings).password.get_secret_value()
    pooler = one(inside, PgbouncerSettings)
    files = pgbouncer_files.own_files(pooler, shown=console.shown(pooler))
    escaped = re.sub(r"([\\:])", r"\\\1", admin)
    return [
        *_mounted(directory, POSTGRES, files),
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
    settings = redis_files.configuration_file(inside.having(RedisSettings)[0], REDIS_PORT)
    watch = sentinel_files.managed_file(inside.having(SentinelSettings)[0], SENTINEL_PORT)
    roles = [replace(settings, path=f"{name}.conf") for name in ("redis-master", "redis-replica")]
    return _mounted(f"{docker}/redis", REDIS, [*roles, replace(watch, path="sentinel.conf")])


def _backup(docker: str, inside: Estate, places: Sequence[Repository]) -> list[Entry]:
    node = one(inside, BackupSettings)
    found = {e.path: e for e in backup_repository.repository(node, places=places)}
    return [
        *_mounted(f"{docker}/pgbackrest", POSTGRES, [found[archive.CONFIG]]),
        *_mounted(f"{docker}/backup", POSTGRES, [found[backup_repository.SCRATCH]]),
        File(
            f"{docker}/backup/backup.json",
            backup_program.configuration(node, backup_passphrase.told(node, places)),
            "600",
            secret=backup_program.CONFIG_SECRETS,
        ),
        Directory(f"{docker}/backup/cron.d"),
        File(f"{docker}/backup/cron.d/datatier-backup", backup_program.schedule(node)),
    ]


def _secrets(docker: str, inside: Estate) -> list[Entry]:
    """For applications, whose users are unknown: inside their containers every user reads them.

    Without a line break at the end: most clients would send it as a part of the password.
    """
    return [
        Directory(f"{docker}/secrets"),
        *(
            File(f"{docker}/secrets/{name}", value, secret=r"^(.*)$")
            for name, value in secret_files(offers(inside)).items()
        ),
    ]


def _images(directory: str, inside: Estate, chosen: DockerSettings) -> list[Entry]:
    project_files = [
        File(f"{directory}/{role}{file.path}", file.content, file.mode)
        for role, of_role in root_files(inside).items()
        for file in of_role
    ]
    places = {place for file in project_files for place in _above(directory, file.path)}
    return [
        Directory(directory),
        *(Directory(place) for place in sorted(places)),
        File(f"{directory}/Dockerfile", dockerfile(inside, chosen)),
        *project_files,
    ]


def _above(directory: str, path: str) -> Iterator[str]:
    """The directories that lead to a file."""
    while (path := path.rpartition("/")[0]) != directory:
        yield path


def _environment(node: Node, now: str) -> str:
    """What Compose and people with the seed's document look for in `.env`."""
    inside, store = node.inside, node.estate.secrets
    assert inside is not None
    values = {
        "COMPOSE_PROJECT_NAME": node.stack.stack_name,
        "POSTGRES_PASSWORD": one(inside, PostgresSettings)
        .the(PostgresSettings)
        .password.get_secret_value(),
        "REDIS_PASSWORD": redis_settings.password(inside.having(RedisSettings)[0]),
        **{name: store.get(name) for name in generated(inside) if _is_for_people(name)},
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


def _is_for_people(name: str) -> bool:
    first = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
    return name not in first and not name.endswith(previous(""))


def _quoted(value: str) -> str:
    """A value as both Compose and dotenv read it."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
