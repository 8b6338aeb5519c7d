"""An `.env` of before a rotation is refused: its values were replaced on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core import retired, secrets
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.leavings import HOST
from tests.unit import helpers
from tests.unit.test_components import knows

OLD, NEW = "redis-Secret-2", "redis-Secret-3"
NAME = "REDIS_PASSWORD"


def host(directory: Path, had: str, env: dict[str, str], **data: Any) -> Node:
    """A host that knows this of the values that it had, for a run with these."""
    (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    (directory / ".env").chmod(0o600)
    secrets.of.cache_clear()
    hosts = {"one": {"address": "10.0.0.1", **data}}
    everything = helpers.estate(hosts, {"redis": ["one"]}, directory)
    (node,) = everything.nodes
    everything.gather_secrets()
    found = Found("file", "600", "root", "root", had.encode(), "0", "0") if had else Found("absent")
    knows(node, HOST, had={retired.SECRETS_HAD: found})
    return node


def recorded(node: Node) -> str:
    """What it knows after a run."""
    return retired._text(node)


def refused(node: Node) -> list[str]:
    return [str(each) for each in retired.revived(node)]


SECRETS = {name: value for name, value in helpers.SECRETS.items() if name.startswith("REDIS")}


def through(directory: Path, *envs: dict[str, str]) -> str:
    """What a host knows after runs with these values, none of which is refused."""
    had = ""
    for env in envs:
        node = host(directory, had, SECRETS | env)
        assert refused(node) == []
        had = recorded(node)
        assert retired.missing_record(host(directory, had, SECRETS | env)) is None
    return had


TURN = {NAME: OLD}, {NAME: NEW, f"{NAME}_PREVIOUS": OLD}, {NAME: NEW}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_rotation_is_not_refused_and_what_was_before_it_is(steps: int, tmp_path: Path) -> None:
    had = through(tmp_path, *TURN[:steps])
    assert OLD not in had and NEW not in had
    for env in TURN[:2]:
        node = host(tmp_path, had, SECRETS | env)
        is_old = steps > 1 + TURN.index(env)
        assert bool(refused(node)) == is_old
    if steps > 1:
        (problem,) = refused(host(tmp_path, had, SECRETS))
        assert problem.startswith(
            f"one: {NAME}: was replaced here, and is the old one in {tmp_path}"
        )
        assert refused(host(tmp_path, had, SECRETS, replace_secrets=True)) == []


def test_what_was_taken_away_is_not_valid_again(tmp_path: Path) -> None:
    """Another clone may have both values still."""
    had = through(tmp_path, *TURN)
    both = SECRETS | TURN[1]
    (problem,) = refused(host(tmp_path, had, both))
    assert problem.startswith(
        f"one: {NAME}_PREVIOUS: was taken away here, and is back in {tmp_path}"
    )
    again = host(tmp_path, had, both, replace_secrets=True)
    assert refused(again) == [] and refused(host(tmp_path, recorded(again), both)) == []
    # The next rotation has another value of before.
    assert through(tmp_path, *TURN, {NAME: "redis-Secret-4", f"{NAME}_PREVIOUS": NEW})


def test_a_value_from_elsewhere_is_mended_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = through(tmp_path, *TURN)
    monkeypatch.setenv(NAME, OLD)
    (problem,) = refused(host(tmp_path, had, SECRETS | TURN[2]))
    assert "is the old one in the environment: put the present one there, or" in problem


def test_who_says_so_goes_back(tmp_path: Path) -> None:
    had = through(tmp_path, *TURN)
    node = host(tmp_path, had, SECRETS, replace_secrets=True)
    lines = {line.split(" ")[0]: line.split(" ")[1:] for line in recorded(node).splitlines()}
    assert lines[NAME][-1] == retired._mark(NAME, OLD) and len(lines[NAME]) == 2


def test_a_login_that_is_on_its_way_out_is_none_to_come_back(tmp_path: Path) -> None:
    """Two logins have two names."""
    first, second = (f"POSTGRES_ROLE_APP_{each}_PASSWORD" for each in "AB")
    roles = {"app": {"rotating": True}}
    data = {"postgres_roles": roles, "postgres_databases": {"app": {"owner": "app"}}}

    def run(had: str, **env: str) -> Node:
        env = {name.removesuffix("_"): value for name, value in env.items()}
        path = tmp_path / ".env"
        every = helpers.SECRETS | env
        path.write_text("".join(f"{name}={value}\n" for name, value in every.items()))
        path.chmod(0o600)
        secrets.of.cache_clear()
        hosts = {"one": {"address": "10.0.0.1", **data}}
        (node,) = helpers.estate(hosts, {"postgres": ["one"]}, tmp_path).nodes
        content = Found("file", "600", "root", "root", had.encode(), "0", "0")
        knows(node, HOST, had={retired.SECRETS_HAD: content})
        return node

    before = recorded(run("", **{first: "login-a1"}))
    during = run(before, **{f"{first}_PREVIOUS": "login-a1", second: "login-b1"})
    assert refused(during) == []
    after = recorded(during)
    (problem,) = refused(run(after, **{first: "login-a1"}))
    assert problem.startswith(f"one: {first}: was replaced here")
    assert refused(run(after, **{second: "login-b1"})) == []
