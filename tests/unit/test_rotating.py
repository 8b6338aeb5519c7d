"""Roles with two logins that take turns: `.env` says which one is current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.estate import Node
from tasks.pgbouncer import files as pooler_files
from tasks.postgres import content, rotating, secrets, sql
from tests.unit import helpers

OWNER, A, B = (f"POSTGRES_ROLE_APP{each}_PASSWORD" for each in ("", "_A", "_B"))
DATABASES = {"app": {"owner": "app"}}


def server(directory: Path, env: dict[str, str], role: Any = None, **data: Any) -> Node:
    """A server whose role `app` rotates, and what `.env` has of it."""
    shown = "".join(f"{name}={value}\n" for name, value in (helpers.SECRETS | env).items())
    (directory / ".env").write_text(shown)
    (directory / ".env").chmod(0o600)
    roles = {"app": {"rotating": True, **(role or {})}, **data.pop("more", {})}
    host = {"address": "10.0.0.1", "postgres_roles": roles, "postgres_databases": DATABASES, **data}
    (node,) = helpers.estate({"one": host}, {"postgres": ["one"]}, directory).nodes
    return node


@pytest.mark.parametrize(
    ("env", "current", "may_log_in"),
    [
        ({}, "app_a", {"app_a"}),
        ({OWNER: "owner-1"}, "app_a", {"app", "app_a"}),
        ({f"{OWNER}_PREVIOUS": "owner-1"}, "app_a", {"app", "app_a"}),
        ({A: "login-a1"}, "app_a", {"app_a"}),
        ({B: "login-b1"}, "app_b", {"app_b"}),
        ({f"{A}_PREVIOUS": "login-a1"}, "app_b", {"app_a", "app_b"}),
        ({f"{B}_PREVIOUS": "login-b1"}, "app_a", {"app_a", "app_b"}),
        ({f"{A}_PREVIOUS": "login-a1", B: "login-b1"}, "app_b", {"app_a", "app_b"}),
        ({f"{B}_PREVIOUS": "login-b1", A: "login-a1"}, "app_a", {"app_a", "app_b"}),
    ],
)
def test_what_is_kept_says_who_may_log_in(
    env: dict[str, str], current: str, may_log_in: set[str], tmp_path: Path
) -> None:
    node = server(tmp_path, env)
    node.estate.gather_secrets()
    roles = rotating.roles_of(node)
    assert {name for name, role in roles.items() if role.login} == may_log_in
    assert secrets.application(node) == ("app", current)
    assert {name: secrets.role_password(node, name) is not None for name in roles} == {
        name: name in may_log_in for name in ("app", "app_a", "app_b")
    }
    # Only the current one is made up.
    assert {*node.estate.secrets.generated} <= {f"POSTGRES_ROLE_{current.upper()}_PASSWORD"}
    # What was generated is what a rerun finds.
    kept = env | node.estate.secrets.generated
    node.estate.secrets.save()
    assert rotating.current(server(tmp_path, kept).estate.secrets, "app") == current


def test_logins_act_as_their_owner(tmp_path: Path) -> None:
    settings = {"work_mem": "7MB"}
    roles = rotating.roles_of(server(tmp_path, {}, {"settings": settings, "connection_limit": 9}))
    assert roles["app"].member_of == frozenset() and roles["app"].settings == settings
    for login in ("app_a", "app_b"):
        assert roles[login].member_of == {"app"} and roles[login].connection_limit == 9
        assert roles[login].settings == {**settings, "role": "app"}


@pytest.mark.parametrize(
    ("role", "more", "message"),
    [
        ({"password": "secret-1"}, {}, "its logins have it of their own: leave password out"),
        ({"login": False}, {}, "its logins have it of their own: leave login out"),
        ({"superuser": True}, {}, "its logins have it of their own: leave superuser out"),
        ({"settings": {"role": "x"}}, {}, "its logins become this role: take role out of settings"),
        ({}, {"app_b": {}}, "'app_b' is one of its logins: take it out of postgres_roles"),
    ],
)
def test_what_it_cannot_be(role: Any, more: Any, message: str, tmp_path: Path) -> None:
    node = server(tmp_path, {}, role, more=more)
    assert f"one: postgres_roles/app/rotating: {message}" in helpers.problems(node.estate)


def test_two_current_logins(tmp_path: Path) -> None:
    node = server(tmp_path, {A: "login-a1", B: "login-b1"})
    expected = f"one: {A} and {B}: are both there: call the one that clients leave ..._PREVIOUS"
    assert helpers.problems(node.estate) == [expected]


def test_names_that_share_a_secret(tmp_path: Path) -> None:
    node = server(tmp_path, {}, more={"App_A": {}})
    assert any(f"would share the secret {A}" in each for each in helpers.problems(node.estate))


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    name = "x" * 62
    data = {"postgres_roles": {"app": {}, name: {"rotating": True}}}
    host = {"address": "10.0.0.1", "postgres_databases": DATABASES, **data}
    found = helpers.problems(helpers.estate({"one": host}, {"postgres": ["one"]}, tmp_path))
    assert any("should have at most 63 characters" in each for each in found)


def roles_there(**passwords: str) -> sql.Server:
    """A server with these logins; the others have none."""
    logins = {
        name: {"login": name in passwords, "password": sql.scram(passwords.get(name, "-"), name)}
        for name in ("app", "app_a", "app_b")
    }
    return sql.Server("up", facts={"roles": logins})


@pytest.mark.parametrize(
    ("env", "there", "refused"),
    [
        # An old .env, after the turn.
        ({A: "login-a1"}, {"app_b": "login-b1"}, {B}),
        ({OWNER: "owner-1"}, {"app_a": "login-a1"}, {A}),
        # A clone without it, and one with the password of the turn before.
        ({}, {"app_b": "login-b1"}, {B}),
        ({A: "login-a1"}, {"app_a": "login-a2", "app_b": "login-b1"}, {B}),
        # A role that others have begun with, and whose password is not known here.
        ({}, {"app": "owner-1"}, {OWNER}),
        # The end of a turn.
        ({B: "login-b1"}, {"app_a": "login-a1", "app_b": "login-b1"}, set()),
        ({A: "login-a1"}, {"app": "owner-1", "app_a": "login-a1"}, set()),
        # Its beginning, and a new role.
        ({f"{A}_PREVIOUS": "login-a1"}, {"app_a": "login-a1"}, set()),
        ({OWNER: "owner-1"}, {"app": "owner-1"}, set()),
        ({}, {}, set()),
    ],
)
def test_a_login_ends_only_beside_one_that_works(
    env: dict[str, str], there: dict[str, str], refused: set[str], tmp_path: Path
) -> None:
    node = server(tmp_path, env)
    assert {each.key for each in rotating.unknown(node, roles_there(**there))} == refused
    meant = server(tmp_path, env, replace_secrets=True)
    assert [*rotating.unknown(meant, roles_there(**there))] == []


# --- The lookup of poolers ------------------------------------------------------------------------

LOOKUP, LOOKUP_A, LOOKUP_B = (f"PGBOUNCER_AUTH{each}_PASSWORD" for each in ("", "_A", "_B"))


def pooled(directory: Path, env: dict[str, str]) -> Node:
    """A server with two poolers, and what `.env` has of their lookup."""
    known = {name: value for name, value in helpers.SECRETS.items() if name != LOOKUP} | env
    (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in known.items()))
    (directory / ".env").chmod(0o600)
    hosts = {name: {"address": f"10.0.0.{n}"} for n, name in enumerate(("one", "two"), 1)}
    groups = {"postgres": ["one"], "pgbouncer": ["one", "two"]}
    return helpers.estate(hosts, groups, directory).nodes[0]


@pytest.mark.parametrize(
    ("env", "login", "may_log_in"),
    [
        ({}, "pgbouncer", {"pgbouncer"}),
        ({LOOKUP: "lookup-1"}, "pgbouncer", {"pgbouncer"}),
        ({f"{LOOKUP}_PREVIOUS": "lookup-1"}, "pgbouncer_a", {"pgbouncer", "pgbouncer_a"}),
        ({LOOKUP_A: "lookup-2"}, "pgbouncer_a", {"pgbouncer_a"}),
        ({f"{LOOKUP_A}_PREVIOUS": "lookup-2"}, "pgbouncer_b", {"pgbouncer_a", "pgbouncer_b"}),
        ({LOOKUP_B: "lookup-3"}, "pgbouncer_b", {"pgbouncer_b"}),
    ],
)
def test_poolers_come_with_a_login_that_the_server_has_already(
    env: dict[str, str], login: str, may_log_in: set[str], tmp_path: Path
) -> None:
    node = pooled(tmp_path, env)
    roles = {role.name: role for role in content.wanted(node)[0] if "pgbouncer" in role.name}
    assert {name for name, role in roles.items() if role.attributes["login"]} == may_log_in
    assert all(roles[name].member_of == {"pgbouncer"} for name in roles.keys() - {"pgbouncer"})
    text = pooler_files.configuration(node)
    assert f"auth_user={login}\n" in text
    users = pooler_files.users(node)
    assert f'"{login}" "{roles[login].password}"' in users and users.count("\n") == 2
    # None of them reaches a database through the pooler.
    (line,) = [
        each for each in pooler_files.access(node).splitlines() if "local   all  postg" in each
    ]
    assert {*line.split()[2].split(",")} >= {*roles}


def test_a_lookup_ends_only_where_every_pooler_hears_of_it(tmp_path: Path) -> None:
    node = pooled(tmp_path, {LOOKUP_A: "lookup-2"})
    verifiers = {"pgbouncer": "lookup-1", "pgbouncer_a": "lookup-2"}
    roles = {
        name: {"login": True, "password": sql.scram(secret, name)}
        for name, secret in verifiers.items()
    }
    found = [str(each) for each in rotating.unknown(node, sql.Server("up", facts={"roles": roles}))]
    assert found == [
        f"one: {LOOKUP}_PREVIOUS: the PgBouncer on {name} may need it: "
        "put it back until that is there"
        for name in ("one", "two")
    ]
    roles["pgbouncer"]["login"] = False
    assert [*rotating.unknown(node, sql.Server("up", facts={"roles": roles}))] == []


def test_an_old_lookup_is_refused(tmp_path: Path) -> None:
    node = pooled(tmp_path, {LOOKUP: "lookup-1"})
    roles = {
        "pgbouncer": {"login": False, "password": sql.scram("lookup-1", "pgbouncer")},
        "pgbouncer_a": {"login": True, "password": sql.scram("lookup-2", "pgbouncer_a")},
    }
    (problem,) = rotating.unknown(node, sql.Server("up", facts={"roles": roles}))
    assert problem.key == LOOKUP_A
