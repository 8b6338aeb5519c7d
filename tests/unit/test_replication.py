"""Who leads, by what the servers say; and what keeps them from following each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.backup import repository
from tasks.core import remote
from tasks.core.estate import Estate
from tasks.core.files import File
from tasks.core.remote import Unreadable
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer import pause
from tasks.postgres import leader, link, replication
from tasks.postgres.settings import PostgresSettings
from tasks.postgres.sql import Server
from tests.unit import helpers

OTHERS = {"pool": "10.0.0.8", "keeper": "10.0.0.9"}
ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3", **OTHERS}
ABSENT, DOWN = Server("absent"), Server("down")
AWAY = Server("down", follows=True)


def up(*, follows: str = "", system: str = "7") -> Server:
    """A server that runs; what it follows by its own word."""
    conninfo = [f"host={follows} port=5432", "string", None, "configuration file"]
    used = {"primary_conninfo": conninfo} if follows else {}
    return Server("up", 5432, {"recovers": bool(follows), "used": used, "system": system})


def estate(directory: Path, **servers: Server | None) -> Estate:
    """Servers that say so; this run does not reach those without a word."""
    hosts = {name: {"address": ADDRESSES[name]} for name in (*servers, *OTHERS)}
    groups = {"postgres": [*servers], "pgbouncer": ["pool"], "backup": ["keeper"]}
    made = helpers.estate(hosts, groups, directory)
    made.active = [node for node in made.nodes if servers.get(node.name, ABSENT) is not None]
    for node in made.having(PostgresSettings):
        said: dict[str, Any] = {"server": servers[node.name]}
        remote._cache.setdefault(node.host, {})["postgres"] = (float("inf"), said)
    return made


@pytest.mark.parametrize(
    ("servers", "leads"),
    [
        ({"a": ABSENT}, "a"),
        ({"a": ABSENT, "b": ABSENT}, "a"),
        ({"a": DOWN, "b": ABSENT}, "a"),
        ({"a": ABSENT, "b": up()}, "b"),
        ({"a": up(follows="10.0.0.2"), "b": up()}, "b"),
        ({"a": AWAY, "b": DOWN}, "b"),
        ({"a": None, "b": up(follows="10.0.0.1")}, "a"),
        ({"a": None, "b": up()}, "b"),
        ({"a": AWAY, "b": up(follows="10.0.0.3"), "c": None}, "c"),
    ],
)
def test_the_servers_say_who_leads(
    servers: dict[str, Server | None], leads: str, tmp_path: Path
) -> None:
    assert leader.leader(estate(tmp_path, **servers)).name == leads


@pytest.mark.parametrize(
    ("servers", "why"),
    [
        ({"a": up(), "b": up()}, "a and b have each a cluster that takes writes"),
        ({"a": DOWN, "b": up()}, "a and b have each a cluster that takes writes"),
        ({"a": AWAY, "b": AWAY}, "which server of group postgres leads is not known here"),
        ({"a": ABSENT, "b": AWAY}, "which server of group postgres leads is not known here"),
        ({"a": ABSENT, "b": None}, "which server of group postgres leads is not known here"),
        ({"a": None, "b": up(follows="192.0.2.9")}, "which server of group postgres leads"),
        # It follows one that follows, too.
        ({"a": up(follows="10.0.0.2"), "b": up(follows="10.0.0.1")}, "which server of group"),
    ],
)
def test_nothing_is_guessed(servers: dict[str, Server | None], why: str, tmp_path: Path) -> None:
    made = estate(tmp_path, **servers)
    with pytest.raises(Unreadable, match=why):
        leader.leader(made)
    servers_of_run = [node for node in made.having(PostgresSettings) if node in made.active]
    (problem,) = [each for node in servers_of_run for each in replication.refused(node)]
    assert why in str(problem)


def test_a_standby_of_another_cluster_is_refused(tmp_path: Path) -> None:
    made = estate(tmp_path, a=up(), b=up(follows="10.0.0.1", system="8"))
    (problem,) = replication.refused(helpers.node(made, "b"))
    assert "is a standby of another cluster than that of a" in str(problem)


def test_a_copy_needs_its_original(tmp_path: Path) -> None:
    made = estate(tmp_path, a=None, b=ABSENT, c=up(follows="10.0.0.1"))
    (problem,) = replication.refused(helpers.node(made, "b"))
    assert "follows a, which this run does not reach: run on both" in str(problem)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"postgres_max_connections": 50}, "b: postgres_max_connections: should be as on a"),
        ({"postgres_extra": {"ssl": "off"}}, "should not set TLS where a server follows another"),
        ({"address": "127.0.0.1"}, "address: should not be a loopback address"),
    ],
)
def test_what_could_not_lead_one_day(data: dict[str, Any], why: str, tmp_path: Path) -> None:
    hosts = {name: {"address": ADDRESSES[name]} for name in "ab"}
    hosts["b"] |= data
    found = helpers.problems(helpers.estate(hosts, {"postgres": ["a", "b"]}, tmp_path))
    assert any(why in line for line in found), found


def test_memory_may_differ(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {name: {"address": ADDRESSES[name]} for name in "ab"}
    hosts["b"]["postgres_shared_buffers"] = "64MB"
    assert helpers.problems(helpers.estate(hosts, {"postgres": ["a", "b"]}, tmp_path)) == []


def test_names_that_would_share_a_slot_are_refused(tmp_path: Path) -> None:
    hosts = {name: {"address": a} for name, a in (("db-1", "10.0.0.1"), ("db.1", "10.0.0.2"))}
    found = helpers.problems(helpers.estate(hosts, {"postgres": [*hosts]}, tmp_path))
    assert sum("should differ from the other servers'" in line for line in found) == 2


def test_a_password_is_quoted_as_libpq_reads_it(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("POSTGRES_PASSWORD=x\nPOSTGRES_ROLE_PSSCRIPT_PASSWORD=y\n")
    with env.open("a") as more:
        more.write(f"{replication.SECRET}=a:b\\c\n")
    env.chmod(0o600)
    made = estate(tmp_path, a=up(), b=up(follows="10.0.0.1"))
    *_, file = replication._files(helpers.node(made, "b"), link.TO_COME)
    assert isinstance(file, File)
    assert file.content == r"*:*:*:datatier_replication:a\:b\\c" + "\n"
    assert file.mode == "600"


def test_poolers_lead_to_the_one_that_leads(tmp_path: Path) -> None:
    """Before that is asked, while hosts are read, any server has the settings."""
    made = estate(tmp_path, a=up(follows="10.0.0.2"), b=up())
    pool = helpers.node(made, "pool")
    assert pgbouncer_files.leads_to(pool) == ("10.0.0.1", 5432)
    leader.ask(made)
    assert pgbouncer_files.leads_to(pool) == ("10.0.0.2", 5432)
    assert [pause.holds_all(helpers.node(made, name)) for name in "ab"] == [False, True]


def test_who_leads_is_asked_once(tmp_path: Path) -> None:
    made = estate(tmp_path, a=up(), b=up(follows="10.0.0.1"))
    first = leader.leader(made)
    remote._cache[first.host]["postgres"] = (float("inf"), {"server": DOWN})
    assert leader.leader(made) is first


def test_a_run_without_servers_knows_no_leader(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="which server of group postgres leads"):
        leader.ask(estate(tmp_path, a=None, b=None))
    # These say so themselves.
    leader.ask(estate(tmp_path, a=up(), b=up()))


def test_pgbackrest_knows_all_servers(tmp_path: Path) -> None:
    made = estate(tmp_path, a=up(), b=up(follows="10.0.0.1"))
    keeper = helpers.node(made, "keeper")
    keeper.system = helpers.node(made, "a").system
    (config,) = [
        each
        for each in repository.repository(keeper, "both")
        if isinstance(each, File) and each.path == "/etc/pgbackrest.conf"
    ]
    lines = config.content.splitlines()
    assert [line for line in lines if "-host=" in line] == [
        "pg1-host=10.0.0.1",
        "pg2-host=10.0.0.2",
    ]
    assert [line for line in lines if line.startswith("tls-server-auth=")] == [
        "tls-server-auth=10.0.0.1=psscript",
        "tls-server-auth=10.0.0.2=psscript",
    ]
