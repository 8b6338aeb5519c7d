"""A second clone without `.env` is refused before it takes the passwords from every client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.backup import rules as backup_rules
from tasks.core import estate
from tasks.core.component import components
from tasks.core.estate import Node
from tasks.core.files import MARK, Found
from tasks.postgres import clusters
from tasks.postgres import secrets as postgres_secrets
from tasks.postgres.settings import PostgresSettings
from tasks.postgres.sql import Server
from tasks.redis import acl
from tests.unit import helpers

ALL = ("postgres", "pgbouncer", "redis", "sentinel", "backup")
OURS = Found("file", content=f"# {MARK}".encode())
ABSENT = Found("absent")


class _Files(dict[str, Found]):
    """What every path has that no test names."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found

    def __missing__(self, path: str) -> Found:
        return self.found


def deployed(directory: Path, env: str = "", groups: tuple[str, ...] = ALL, **data: Any) -> Node:
    """A host that was deployed from elsewhere; its secrets are asked for as a run does."""
    (directory / ".env").write_text(env)
    (directory / ".env").chmod(0o600)
    hosts = {"one": {"address": "10.0.0.1", **data}}
    everything = helpers.estate(hosts, {group: ["one"] for group in groups}, directory)
    (node,) = everything.nodes
    everything.gather_secrets()
    verifier = {"login": True, "password": "SCRAM-SHA-256$..."}
    roles = {name: verifier for name in ("postgres", "psscript", "pgbouncer", "datatier_backup")}
    said = {
        "files": _Files(OURS),
        "server": Server("up", facts={"roles": roles}),
        "clusters": clusters.Clusters(),
    }
    told = {"postgres": {"password": "a", "admin_password": "b"}, "redis": None, "s3": None}
    config = Found("file", content=json.dumps(told).encode())

    def read(group: str) -> dict[str, Any]:
        return {**said, "files": _Files(config)} if group == "backup" else said

    node.reader = read
    return node


def refused(node: Node) -> list[str]:
    return [str(problem) for problem in estate._unknown_secrets(node)]


def test_a_second_clone_without_its_secrets(tmp_path: Path) -> None:
    (problem,) = refused(deployed(tmp_path))
    names = (
        "BACKUP_ROLE_PASSWORD, PGBOUNCER_AUTH_PASSWORD, POSTGRES_PASSWORD, "
        "POSTGRES_ROLE_PSSCRIPT_PASSWORD, REDIS_PASSWORD"
    )
    places = (
        "/etc/datatier/backup.json, /etc/pgbouncer/userlist.txt, /etc/redis/redis-cli.auth on one"
    )
    assert problem == (
        f"one: secrets: {names}: in use here, but not in {tmp_path}/.env: "
        f"put the .env of the last deployment there (values: {places}), "
        "or let replace_secrets=true take the passwords from every client"
    )


def test_users_of_redis_whose_passwords_only_their_clients_have(tmp_path: Path) -> None:
    """Those that the file has; a new one is generated."""
    users = {name: {"commands": ["+get"]} for name in ("old", "new")}
    node = deployed(tmp_path, groups=("redis",), redis_users=users)
    text = f"# {MARK}\nport 6379\nuser old reset on +get #ab\nuser datatier-admin reset on #ab\n"
    found = _Files(Found("file", content=text.encode()))
    node.reader = lambda _group: {"files": found}
    (problem,) = refused(node)
    ours = "REDIS_ADMIN_PASSWORD, REDIS_PASSWORD, REDIS_USER_OLD_PASSWORD"
    assert f"{ours}: in use here" in problem and "/etc/redis/redis-admin.auth" in problem
    assert "REDIS_USER_NEW" not in problem


def test_whoever_says_so_replaces_them(tmp_path: Path) -> None:
    assert refused(deployed(tmp_path, replace_secrets=True)) == []


def test_the_secrets_are_known(tmp_path: Path) -> None:
    known = "".join(f"{name}={value}\n" for name, value in helpers.SECRETS.items())
    assert refused(deployed(tmp_path, known)) == []


# The file says whether an instance has them: see above.
OWN = {acl.own_secret_name(user) for user in acl.OWN}


@pytest.mark.parametrize("name", [name for name in helpers.SECRETS if name not in OWN])
def test_one_of_them_is_not_known(name: str, tmp_path: Path) -> None:
    """A clone that is behind: a role was added elsewhere."""
    known = {each: value for each, value in helpers.SECRETS.items() if each != name}
    text = "".join(f"{each}={value}\n" for each, value in known.items())
    (problem,) = refused(deployed(tmp_path, text))
    assert problem.startswith(f"one: secrets: {name}: in use here")


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("pgbouncer", {"PGBOUNCER_AUTH_PASSWORD", "POSTGRES_PASSWORD"}),
        ("redis", {"REDIS_PASSWORD"}),
        ("sentinel", {"REDIS_PASSWORD"}),
        ("backup", {"BACKUP_ROLE_PASSWORD", "POSTGRES_PASSWORD"}),
    ],
)
def test_each_component_knows_its_own(group: str, names: set[str], tmp_path: Path) -> None:
    """Also on a host that has nothing else of the stack."""
    (component,) = (each for each in components() if each.group == group)
    assert {*component.in_use(deployed(tmp_path))} == names


@pytest.mark.parametrize("group", ["pgbouncer", "redis", "sentinel"])
def test_nothing_is_in_use_where_nothing_of_ours_is(group: str, tmp_path: Path) -> None:
    node = deployed(tmp_path)
    foreign = Found("file", content=b"requirepass theirs")
    for found in (ABSENT, foreign):
        node.reader = lambda _group, found=found: {"files": _Files(found)}
        (component,) = (c for c in node.components() if c.group == group)
        assert component.in_use(node) == {}


def test_a_role_that_is_new_gets_its_secret(tmp_path: Path) -> None:
    known = "".join(f"{name}={value}\n" for name, value in helpers.SECRETS.items())
    roles = {name: dict[str, str]() for name in ("psscript", "reports")}
    assert refused(deployed(tmp_path, known, postgres_roles=roles)) == []


@pytest.mark.parametrize(
    ("kind", "env", "is_foreign", "expected"),
    [
        ("absent", "", False, False),
        ("down", "", False, True),
        ("down", "", True, False),
        ("down", "POSTGRES_PASSWORD=known-1\n", False, False),
    ],
)
def test_a_server_that_cannot_be_asked(
    kind: Any, env: str, is_foreign: bool, expected: bool, tmp_path: Path
) -> None:
    node = deployed(tmp_path, env, ("postgres",))
    assert node.of(PostgresSettings)
    found = postgres_secrets.in_use(node, Server(kind), is_foreign=is_foreign)
    assert bool(found) == expected


def test_a_configuration_of_backups_that_is_none(tmp_path: Path) -> None:
    assert backup_rules.in_use(b"", "x") == backup_rules.in_use(b"{torn", "x") == {}
