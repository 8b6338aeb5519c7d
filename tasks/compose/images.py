"""The images, and what they are built from."""

from __future__ import annotations

import re

from backup.postgres.sandbox import USER as SCRATCH_USER
from tasks.backup import packages as backup_packages
from tasks.backup import program as backup_program
from tasks.backup.settings import BackupSettings
from tasks.compose.inside import REDIS_PORT, SENTINEL_PORT, one
from tasks.compose.settings import POSTGRES, REDIS, ROLES, SUITES, DockerSettings
from tasks.core.estate import Estate
from tasks.core.files import File, digest, render
from tasks.pgbouncer import layout as pgbouncer_layout
from tasks.pgbouncer import service as pgbouncer_service
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import layout as postgres_layout
from tasks.postgres import service as postgres_service
from tasks.postgres.settings import PostgresSettings
from tasks.redis import files as redis_files
from tasks.redis import service as redis_service
from tasks.sentinel import service as sentinel_service

LABEL = "datatier.inputs"


def base_image(chosen: DockerSettings) -> str:
    """The image that all others are built on."""
    return chosen.base_image or f"debian:{SUITES[chosen.debian]}-slim"


def dockerfile(inside: Estate, chosen: DockerSettings) -> str:
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
        library=backup_program.LIBRARY,
        scratch_user=SCRATCH_USER,
        backup_packages=" ".join([*backup_packages.required(keeper), "tini"]),
    )


def root_files(inside: Estate) -> dict[str, list[File]]:
    """What each image has at which place besides its packages."""
    keeper, server = one(inside, BackupSettings), one(inside, PostgresSettings)
    pooler = one(inside, PgbouncerSettings)
    program = backup_program.program(keeper.the(BackupSettings))
    starts = {
        "redis": render(
            "compose/redis-start.j2",
            redis_port=REDIS_PORT,
            sentinel_port=SENTINEL_PORT,
            keep_role=redis_service.KEEP_ROLE,
            keep_learned=sentinel_service.KEEP_LEARNED,
        ),
        "pgbouncer": render(
            "compose/pgbouncer-start.j2",
            command=pgbouncer_service.service_of(pooler).command,
            pid_file=pgbouncer_layout.PID_FILE,
        ),
        "postgres": render(
            "compose/postgres-start.j2",
            version=postgres_layout.cluster_version(server),
            data=postgres_layout.data_directory(server),
            command=postgres_service.service_of(server).command,
        ),
        "backup": render("compose/backup-start.j2", logs=f"{keeper.the(BackupSettings).dir}/logs"),
    }
    roots = {
        role: [File(f"/usr/local/bin/{role}-start", start, "755")] for role, start in starts.items()
    }
    roots["redis"] += [redis_files.client(), redis_files.before_start()]
    roots["backup"] += [entry for entry in program if isinstance(entry, File)]
    return roots


def inputs(inside: Estate, chosen: DockerSettings) -> dict[str, str]:
    """A fingerprint of all that an image is built from, by role."""
    stages = re.findall(r"(?ms)^FROM (\S+) AS (\w+)$(.*?)(?=^FROM |\Z)", dockerfile(inside, chosen))
    roots, digests = root_files(inside), dict[str, str]()
    for parent, role, text in stages:
        own = [f"{file.path} {file.mode} {file.content}" for file in roots.get(role, [])]
        digests[role] = digest(digests.get(parent, parent), text, *own)[:16]
    return {role: digests[role] for role in ROLES}
