"""`tasks.rotate`: which secrets it knows, and what is refused before anything is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import rotate
from tasks.core import secrets
from tasks.core.estate import Estate
from tests.unit import helpers

ALL = ("postgres", "pgbouncer", "redis", "sentinel", "backup")
ROTATING = {"psscript": {"rotating": True}, "plain": {}}


BUCKET = {
    "backup_s3_bucket": "copies",
    "backup_s3_access_key": "access",
    "backup_s3_secret_key": "secret-1",
}


def estate(directory: Path, **data: Any) -> Estate:
    secrets.of.cache_clear()
    hosts = {"one": {"address": "10.0.0.1", "sentinel_ports": [26379, 26380, 26381], **data}}
    return helpers.estate(hosts, {group: ["one"] for group in ALL}, directory)


def test_what_rotates(tmp_path: Path) -> None:
    """Each secret that ours alone use, or whose server accepts two; no other."""
    user = {"jobs": {"commands": ["+get"]}, "fixed": {"commands": ["+get"], "password": "known-1"}}
    found = estate(tmp_path, postgres_roles=ROTATING, redis_users=user, **BUCKET).rotates()
    names = {
        "BACKUP_SIGNING_KEY",
        *("POSTGRES_PASSWORD", "PGBOUNCER_AUTH_PASSWORD", "BACKUP_ROLE_PASSWORD"),
        *("REDIS_PASSWORD", "REDIS_USER_JOBS_PASSWORD", "REDIS_ADMIN_PASSWORD"),
        *("REDIS_REPLICA_PASSWORD", "REDIS_SENTINEL_PASSWORD", "REDIS_BACKUP_PASSWORD"),
        "POSTGRES_ROLE_PSSCRIPT_PASSWORD",
    }
    assert found == {name.lower(): name for name in names}


def test_what_the_settings_say_is_theirs(tmp_path: Path) -> None:
    found = estate(tmp_path, redis_password="known-1", postgres_password="known-2").rotates()
    assert not {"redis_password", "postgres_password"} & found.keys()


@pytest.mark.parametrize(
    ("env", "leaves"),
    [("", ""), ("_A", "_A"), ("_B", "_B"), ("_A_PASSWORD_PREVIOUS=x-old-1\n#", "_A")],
)
def test_of_an_application_the_current_login_rotates(env: str, leaves: str, tmp_path: Path) -> None:
    known = helpers.SECRETS | {f"POSTGRES_ROLE_PSSCRIPT{env}_PASSWORD": "login-1"}
    if env:
        del known["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
    path = tmp_path / ".env"
    path.write_text("".join(f"{name}={value}\n" for name, value in known.items()))
    path.chmod(0o600)
    found = estate(tmp_path, postgres_roles={"psscript": {"rotating": True}}).rotates()
    assert found["postgres_role_psscript_password"] == f"POSTGRES_ROLE_PSSCRIPT{leaves}_PASSWORD"


def test_a_turn_and_its_end(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    assert rotate._turned(everything, "redis_pasword") == (
        "tasks.rotate.redis_pasword: no such secret to rotate (redis_password?)"
    )
    with (tmp_path / ".env").open("a") as env:
        env.write("AWS_SECRET_ACCESS_KEY=of-a-bucket\n")
    assert rotate._turned(estate(tmp_path), "aws_secret_access_key") == (
        "AWS_SECRET_ACCESS_KEY: does not rotate here; docs/secrets.md says what does"
    )
    assert rotate._turned(everything, "redis_password") == ""
    assert everything.secrets.renamed["REDIS_PASSWORD"][0] == "REDIS_PASSWORD_PREVIOUS"
    everything.secrets.get("REDIS_PASSWORD")
    everything.secrets.save()
    # What has begun goes on.
    assert rotate._turned(estate(tmp_path), "redis_password") == ""
    both = estate(tmp_path)
    assert helpers.problems(both) == []
    assert rotate._dropped(both) == ""
    assert {*both.secrets.renamed} == {"REDIS_PASSWORD_PREVIOUS"}


def test_two_passwords_that_are_one(tmp_path: Path) -> None:
    found = helpers.problems(estate(tmp_path, redis_password_previous="redis-Secret-2"))
    assert found == [
        "one: redis_password_previous: should be another one than redis_password: "
        "it goes at the end of a change"
    ]


@pytest.mark.parametrize("value", ["a b c d e f", "it's-1234", 'quo"ted1', "back\\slash"])
def test_a_password_of_before_is_one_that_sentinel_takes(value: str, tmp_path: Path) -> None:
    (problem,) = helpers.problems(estate(tmp_path, redis_password_previous=value))
    assert problem.startswith("one: redis_password_previous: should not contain blanks, quotes")
