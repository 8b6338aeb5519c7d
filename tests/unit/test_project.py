"""The Compose project as text: what is in it, and what changes when a setting does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tasks.compose import files as compose_files
from tasks.compose import images as compose_images
from tasks.compose import project as compose_project
from tasks.compose import settings as compose_settings
from tasks.core.estate import Node
from tasks.core.files import File
from tests.unit import helpers

APPS = [
    {"name": "backend", "port": 4000, "health": "http:/health", "image": "b:1", "env": {"A": "$1"}},
    {"name": "ai-service", "port": 8000, "image": "a:1"},
]

HOSTILE = "p@ss:w/o#r%d?&$=+[1]"
ROLES = {"psscript": {"password": HOSTILE}}


def docker(directory: Path, **data: Any) -> Node:
    """A host that runs the stack in containers."""
    return helpers.estate({"box": data}, {"docker": ["box"]}, directory).nodes[0]


def compose(node: Node) -> dict[str, Any]:
    """docker-compose.yml as a YAML parser reads it."""
    return dict(yaml.safe_load(compose_project.compose_file(node)))


def text(node: Node, name: str, environment: str = "") -> str:
    """A file of the project directory."""
    found = [
        e
        for e in compose_files.project_files(node, environment)
        if e.path.endswith(f"/psscript/{name}")
    ]
    (entry,) = found
    assert isinstance(entry, File)
    return entry.content


def test_services_are_those_of_the_document(tmp_path: Path) -> None:
    assert list(compose(docker(tmp_path, apps=APPS))["services"]) == [
        *("postgres", "pgbouncer", "redis-master", "redis-replica-1", "redis-replica-2"),
        *("redis-replica", "redis-sentinel-1", "redis-sentinel-2", "redis-sentinel-3"),
        *("backup-service", "backend", "ai-service"),
    ]


def test_ports_are_published_on_the_loopback_only(tmp_path: Path) -> None:
    services = compose(docker(tmp_path, apps=APPS))["services"].values()
    ports = [port for service in services for port in service.get("ports", [])]
    assert len(ports) == 10
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_an_application_may_listen_nowhere_or_elsewhere(tmp_path: Path) -> None:
    apps: list[dict[str, Any]] = [
        {"name": "worker", "image": "x"},
        {"name": "api", "image": "x", "port": 8000},
        {"name": "admin", "image": "x", "port": 8000, "publish": 8001},
        {"name": "inner", "image": "x", "port": 8000, "publish": False},
    ]
    node = docker(tmp_path, apps=apps)
    assert helpers.problems(node.estate) == []
    made = compose(node)["services"]
    assert [made[app["name"]].get("ports") for app in apps] == [
        None, ["127.0.0.1:8000:8000"], ["127.0.0.1:8001:8000"], None
    ]  # fmt: skip
    assert ["healthcheck" in made[app["name"]] for app in apps] == [False, True, True, True]


def test_listed_ports_are_the_hosts(tmp_path: Path) -> None:
    services = compose(docker(tmp_path, redis_ports=[7000, 7001]))["services"]
    assert services["redis-replica-1"]["ports"] == ["127.0.0.1:7001:6379"]
    assert "redis-replica-2" not in services


def test_addresses_are_ours_below_and_dockers_above(tmp_path: Path) -> None:
    made = compose(docker(tmp_path, docker_subnet="10.9.8.0/24"))
    (config,) = made["networks"]["psscript-network"]["ipam"]["config"]
    assert config == {"subnet": "10.9.8.0/24", "ip_range": "10.9.8.128/25"}
    networks = [s["networks"] for s in made["services"].values() if isinstance(s["networks"], dict)]
    fixed = [network["psscript-network"]["ipv4_address"] for network in networks]
    assert len(set(fixed)) == len(fixed) == 9
    assert all(int(address.rpartition(".")[2]) < 128 for address in fixed)


USERS = ("app-cache", "jobs", "Jobs")


def test_no_secret_is_in_the_compose_file(tmp_path: Path) -> None:
    content = compose_project.compose_file(docker(tmp_path, apps=APPS))
    assert [word for word in helpers.SECRETS.values() if word in content] == []


def test_a_dollar_is_no_variable_of_compose(tmp_path: Path) -> None:
    services = compose(docker(tmp_path, apps=APPS))["services"]
    assert services["backend"]["environment"]["A"] == "$$1"


def test_applications_are_told_where_everything_is(tmp_path: Path) -> None:
    told = compose(docker(tmp_path, apps=APPS))["services"]["ai-service"]["environment"]
    assert (told["DB_HOST"], told["DB_PORT"]) == ("pgbouncer", "6432")
    assert told["REDIS_SENTINELS"].split(",")[2] == "redis-sentinel-3:26379"
    assert told["DB_PASSWORD_FILE"] == "/run/secrets/db_password"


def test_passwords_are_files_without_a_line_break(tmp_path: Path) -> None:
    """A client that sends what it has read logs in."""
    users = {name: {"password": f"{HOSTILE}{name}", "commands": ["+get"]} for name in USERS}
    node = docker(tmp_path, redis_password=HOSTILE, postgres_roles=ROLES, redis_users=users)
    assert text(node, "docker/secrets/db_password") == HOSTILE
    assert text(node, "docker/secrets/redis_password") == HOSTILE
    assert text(node, "docker/secrets/redis_user_app_cache_password") == f"{HOSTILE}app-cache"
    of_users = [e.path for e in compose_files.project_files(node, "") if "/redis_user_" in e.path]
    # Two that would have one name are in none.
    assert [path.rpartition("/")[2] for path in of_users] == ["redis_user_app_cache_password"]


def test_a_new_user_of_redis_makes_no_new_container(tmp_path: Path) -> None:
    users = {"cache": {"password": HOSTILE, "commands": ["+get"]}}
    with_user = compose(docker(tmp_path, apps=APPS, redis_users=users))["services"]
    assert with_user == compose(docker(tmp_path, apps=APPS))["services"]


def test_urls_are_what_libraries_read(tmp_path: Path) -> None:
    """With every character that means something in a URL in the password."""
    node = docker(tmp_path, redis_password=HOSTILE, postgres_roles=ROLES)
    database = urlsplit(text(node, "docker/secrets/database_url"))
    assert (database.scheme, database.hostname, database.port) == ("postgresql", "pgbouncer", 6432)
    assert (database.username, database.path) == ("psscript", "/psscript")
    assert unquote(database.password or "") == HOSTILE
    libpq = conninfo_to_dict(text(node, "docker/secrets/database_url"))
    assert (libpq["password"], libpq["dbname"]) == (HOSTILE, "psscript")
    sentinels = urlsplit(text(node, "docker/secrets/redis_sentinel_url"))
    assert (sentinels.scheme, sentinels.path) == ("redis+sentinel", "/mymaster/0")
    secret, _, places = sentinels.netloc.rpartition("@")
    assert (unquote(secret), places.count(",")) == (f":{HOSTILE}", 2)


def test_urls_are_in_the_environment_of_those_who_ask_for_them(tmp_path: Path) -> None:
    apps = [APPS[0], {**APPS[1], "urls": True}]
    node = docker(tmp_path, apps=apps)
    services = compose(node)["services"]
    told, asked = (services[name]["environment"] for name in ("backend", "ai-service"))
    for name in ("DATABASE_URL", "REDIS_SENTINEL_URL"):
        assert told[f"{name}_FILE"] == asked[f"{name}_FILE"] == f"/run/secrets/{name.lower()}"
        assert name not in told
        assert asked[name] == text(node, f"docker/secrets/{name.lower()}")
    (entry,) = [
        e for e in compose_files.project_files(node) if e.path.endswith("/docker-compose.yml")
    ]
    assert isinstance(entry, File) and entry.secret
    shown = re.findall(entry.secret, entry.content, re.MULTILINE)
    assert sorted(shown) == sorted(asked[name] for name in ("DATABASE_URL", "REDIS_SENTINEL_URL"))


@pytest.mark.parametrize("app", APPS, ids=lambda app: str(app["name"]))
def test_health_tests_are_shell(app: dict[str, Any], tmp_path: Path) -> None:
    service = compose(docker(tmp_path, apps=APPS))["services"][app["name"]]
    kind, test = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert subprocess.run(["sh", "-n"], input=test, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("data", "rebuilt"),
    [
        ({}, set()),
        ({"redis_maxmemory": "1gb", "postgres_work_mem": "8MB"}, set()),
        ({"backup_scripts_dir": "/bin2"}, {"backup"}),
        ({"docker_base_image": "own:1"}, {"redis", "pgbouncer", "postgres", "backup"}),
        ({"docker_debian": "12"}, {"redis", "pgbouncer", "postgres", "backup"}),
    ],
)
def test_an_image_changes_only_with_its_inputs(
    data: dict[str, Any], rebuilt: set[str], tmp_path: Path
) -> None:
    before, after = (_inputs(docker(tmp_path, **each)) for each in ({}, data))
    assert {role for role in before if before[role] != after[role]} == rebuilt


def _inputs(node: Node) -> dict[str, str]:
    assert node.inside is not None
    return compose_images.inputs(node.inside, node.the(compose_settings.DockerSettings))


def test_an_image_of_the_users_is_not_built(tmp_path: Path) -> None:
    services = compose(docker(tmp_path, docker_image_redis="own/redis:7"))["services"]
    assert services["redis-sentinel-1"]["image"] == "own/redis:7"
    assert "build" not in services["redis-sentinel-1"]
    assert "image" not in services["postgres"]


def test_env_keeps_what_others_wrote(tmp_path: Path) -> None:
    before = "# mine\nOTHER=1\nPOSTGRES_PASSWORD=old\n"
    after = text(docker(tmp_path), ".env", before).splitlines()
    assert after[:3] == ["# mine", "OTHER=1", "POSTGRES_PASSWORD=super-Secret-1"]
    assert "COMPOSE_PROJECT_NAME=psscript" in after
    assert text(docker(tmp_path), ".env", "\n".join(after)).splitlines() == after


def test_env_of_the_project_is_a_source_on_this_machine(tmp_path: Path) -> None:
    place = tmp_path / "stack"
    place.mkdir()
    (place / ".env").write_text("BACKUP_RETENTION_DAYS=7\nREDIS_PASSWORD=ignored\n")
    data = {"docker_project_dir": str(place)}
    node = helpers.estate({"@local": data}, {"docker": ["@local"]}, tmp_path).nodes[0]
    config = next(e for e in compose_files.project_files(node) if e.path.endswith("/backup.json"))
    assert isinstance(config, File)
    said = json.loads(config.content)
    assert said["retention_days"] == 7
    assert said["redis"]["password"] == helpers.SECRETS["REDIS_PASSWORD"]


def test_pooler_and_backups_use_fixed_addresses(tmp_path: Path) -> None:
    node = docker(tmp_path)
    assert "host=172.25.0.10 port=5432" in text(node, "docker/pgbouncer/pgbouncer.ini")
    said = json.loads(text(node, "docker/backup/backup.json"))
    assert said["postgres"]["host"] == "172.25.0.10"
    assert said["redis"]["nodes"][0] == ["172.25.0.20", 6379]


def test_only_the_project_may_log_in(tmp_path: Path) -> None:
    lines = text(docker(tmp_path), "docker/postgres/pg_hba.conf").splitlines()
    hosts = [line.split()[3] for line in lines if line.startswith("host")]
    assert hosts == ["127.0.0.1/32", "::1/128", "172.25.0.0/16"]
