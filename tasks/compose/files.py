"""Everything in the project directory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.apps.files import secret_files
from tasks.backup import program as backup_program
from tasks.backup import repository as backup_repository
from tasks.backup.settings import BackupSettings
from tasks.compose.images import dockerfile, root_files
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, generated, one
from tasks.compose.project import compose_file, offers
from tasks.compose.settings import POSTGRES, REDIS, DockerSettings
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import archive, sql
from tasks.postgres import files as postgres_files
from tasks.postgres import settings as postgres_settings
from tasks.postgres.settings import PostgresSettings
from tasks.redis import settings as redis_settings
from tasks.redis import values as redis_values
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.sentinel import files as sentinel_files

_URLS = r'^ +"(?:DATABASE|REDIS_SENTINEL)_URL": "(.*)"$'


def project_files(node: Node, environment: str = "") -> list[Entry]:
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
    text, access, home = (
        postgres_files.configuration(node),
        postgres_files.access(node),
        f"{docker}/postgres",
    )
    return [
        Directory(home),
        _owned(f"{home}/postgresql.conf", text, POSTGRES, sql.SECRET_PARAMETERS),
        _owned(
            f"{home}/pg_hba.conf",
            access,
            POSTGRES,
            postgres_settings.ACCESS_SECRETS,
            postgres_settings.ACCESS_LINES,
        ),
    ]


def _pgbouncer(docker: str, inside: Estate) -> list[Entry]:
    node, directory = one(inside, PgbouncerSettings), f"{docker}/pgbouncer"
    admin = one(inside, PostgresSettings).the(PostgresSettings).password.get_secret_value()
    escaped = re.sub(r"([\\:])", r"\\\1", admin)
    return [
        Directory(directory),
        # First: PgBouncer that finds no such file lets no client in.
        _owned(
            f"{directory}/pg_hba.conf",
            pgbouncer_files.access(node),
            POSTGRES,
            postgres_settings.ACCESS_SECRETS,
            postgres_settings.ACCESS_LINES,
        ),
        _owned(
            f"{directory}/pgbouncer.ini",
            pgbouncer_files.configuration(node),
            POSTGRES,
            pgbouncer_files.LINK_SECRET,
            pgbouncer_files.OPENS,
        ),
        _owned(
            f"{directory}/userlist.txt",
            pgbouncer_files.users(node),
            POSTGRES,
            pgbouncer_files.USERS_SECRET,
            pgbouncer_files.USERS,
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
    settings = redis_values.configuration(inside.having(RedisSettings)[0], REDIS_PORT)
    watch = sentinel_files.configuration(inside.having(SentinelSettings)[0], SENTINEL_PORT)
    return [
        Directory(f"{docker}/redis"),
        *(
            _owned(f"{docker}/redis/{name}.conf", settings, REDIS, redis_values.SECRET_LINES)
            for name in ("redis-master", "redis-replica")
        ),
        _owned(f"{docker}/redis/sentinel.conf", watch, REDIS, sentinel_files.SECRET_LINES),
    ]


def _backup(docker: str, inside: Estate) -> list[Entry]:
    node = one(inside, BackupSettings)
    found = {e.path: e for e in backup_repository.repository(node) if isinstance(e, File)}
    repository, scratch = found[archive.CONFIG], found[backup_repository.SCRATCH]
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
            backup_program.configuration(node),
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
    names = ["POSTGRES_PASSWORD", "REDIS_PASSWORD"]
    inside, store = node.inside, node.estate.secrets
    assert inside is not None
    values = {
        "COMPOSE_PROJECT_NAME": node.stack.stack_name,
        "POSTGRES_PASSWORD": one(inside, PostgresSettings)
        .the(PostgresSettings)
        .password.get_secret_value(),
        "REDIS_PASSWORD": redis_settings.password(inside.having(RedisSettings)[0]),
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


def _quoted(value: str) -> str:
    """A value as both Compose and dotenv read it."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
