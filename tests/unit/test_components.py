"""What each component makes of its settings: impacts, live state, and scripts that are shell."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.backup import packages as backup_packages
from tasks.backup import program as backup_program
from tasks.backup import rules as backup_rules
from tasks.backup.settings import BackupSettings
from tasks.core import estate as estates
from tasks.core import remote
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.files import Found
from tasks.core.preflight import System
from tasks.core.releases import RELEASES
from tasks.core.services import Status
from tasks.pgbouncer import activation as pgbouncer_activation
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer import layout as pgbouncer_layout
from tasks.pgbouncer import rules as pgbouncer_rules
from tasks.pgbouncer import service as pgbouncer_service
from tasks.postgres import activation as postgres_activation
from tasks.postgres import content as postgres_content
from tasks.postgres import files as postgres_files
from tasks.postgres import rules as postgres_rules
from tasks.postgres import sql
from tasks.redis import activation as redis_activation
from tasks.redis import files as redis_files
from tasks.redis import kernel as redis_kernel
from tasks.redis import leader as redis_leader
from tasks.redis import rolling
from tasks.redis import service as redis_service
from tasks.redis import settings as redis_settings
from tasks.redis import users as redis_users
from tasks.redis.settings import RedisSettings
from tasks.redis.topology import Address, Instance, Watcher
from tasks.sentinel import activation as sentinel_activation
from tasks.sentinel import monitoring as sentinel_monitoring
from tasks.sentinel import orders as sentinel_orders
from tasks.sentinel import service as sentinel_service
from tests.unit import helpers
from tests.unit.helpers import Data

HOST = {"address": "10.0.0.1", "sentinel_ports": [26379, 26380, 26381]}
GROUPS = {group: ["db1"] for group in ("postgres", "pgbouncer", "redis", "sentinel")}


def everything(directory: Path, **data: Any) -> Estate:
    made = helpers.estate({"db1": {**HOST, **data}}, GROUPS, directory)
    assert helpers.problems(made) == []
    return made


def node(directory: Path, **data: Any) -> Node:
    return everything(directory, **data).nodes[0]


def knows(one: Node, group: str, **results: Any) -> None:
    """Lets a host answer as if a component's probes had just been read."""
    remote._cache.setdefault(one.host, {})[group] = (float("inf"), results)


# --- Reading again -------------------------------------------------------------------------------


def test_what_a_component_is_untouched_by_has_none_of_its_files_and_services(
    tmp_path: Path,
) -> None:
    groups = {**GROUPS, "backup": ["db1"]}
    one = helpers.estate({"db1": HOST}, groups, tmp_path).nodes[0]
    asked = {
        component.group: {
            word
            for name in ("files", "services")
            for word in re.findall(r"[\w./@-]+", component.probes(one)[name].script)
            if re.fullmatch(r"/.*/.*\.\w+|.*\.service", word)
        }
        for component in one.components()
        if component.untouched_by
    }
    pairs = [(c.group, other) for c in one.components() for other in c.untouched_by]
    assert len(pairs) >= 12
    for group, other in pairs:
        assert not asked[group] & asked.get(other, set()), (group, other)


# --- Scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("systemd", [True, False])
def test_every_probe_is_shell_and_holds_no_secret(systemd: bool, tmp_path: Path) -> None:
    one = node(tmp_path)
    one.system = System(systemd=systemd)
    for component in one.components():
        for name, probe in component.probes(one).items():
            assert helpers.syntax_error(probe.script) == "", f"{component.group}/{name}"
            held = [word for word in helpers.SECRETS.values() if word in probe.script]
            assert held == [], f"{component.group}/{name}"


def test_every_reload_and_check_is_shell(tmp_path: Path) -> None:
    one = node(tmp_path)
    for service in [
        *postgres_files.services_of(one),
        pgbouncer_service.service_of(one),
        *redis_service.services_of(one),
        *sentinel_service.services_of(one),
    ]:
        acts = (service.reload, service.check, service.ready, service.hold, service.release)
        for script in acts:
            assert helpers.syntax_error(script) == "", service.name
    assert (
        helpers.syntax_error(rolling.FUNCTIONS + redis_files.KEEP_PASSWORD + sentinel_orders.ORDER)
        == ""
    )


# --- Impacts -------------------------------------------------------------------------------------


def activation(component: Any, one: Node, found: dict[str, Status]) -> Change | None:
    """What the component would do to services in this state."""
    knows(one, component.__name__.split(".")[1], services=found, roles=[], uses={}, views={})
    change: Change | None = component.due_activation(one)
    return change


def impact(component: Any, before: Node, after: Node) -> list[str]:
    """What a change of settings announces for services that run with the settings before."""
    stopped: dict[str, Status] = defaultdict(lambda: Status(False, False, "none", "none"))
    first = activation(component, before, stopped)
    assert first is not None
    records = re.findall(r"^record (\S+) (\w+) (\w+) ?(.*)$", first.script, re.MULTILINE)
    running = {
        name: Status(True, True, restart, reload, frozenset(keys.split()))
        for name, restart, reload, keys in records
    }
    change = activation(component, after, running)
    return change.lines if change else []


_RESTART = "pgbouncer: restart ({}: RELOAD does not take it)"


@pytest.mark.parametrize(
    ("component", "change", "lines"),
    [
        (pgbouncer_activation, {}, []),
        (pgbouncer_activation, {"pgbouncer_default_pool_size": 20}, ["pgbouncer: reload"]),
        (pgbouncer_activation, {"pgbouncer_pool_mode": "session"}, ["pgbouncer: reload"]),
        (pgbouncer_activation, {"pgbouncer_extra": {"log_connections": 0}}, ["pgbouncer: reload"]),
        (pgbouncer_activation, {"pgbouncer_listen_port": 6433}, [_RESTART.format("listen_port")]),
        (pgbouncer_activation, {"pgbouncer_listen_addr": "*"}, [_RESTART.format("listen_addr")]),
        (
            pgbouncer_activation,
            {"pgbouncer_extra": {"so_reuseport": 1}},
            [_RESTART.format("so_reuseport")],
        ),
        (pgbouncer_activation, {"pgbouncer_max_client_conn": 50000}, ["pgbouncer: restart"]),
        (redis_activation, {}, []),
        (redis_activation, {"redis_maxmemory": "1gb"}, ["redis-6379: reload"]),
        (redis_activation, {"redis_password": "another"}, ["redis-6379: reload"]),
        (redis_activation, {"redis_appendonly": False}, ["redis-6379: reload"]),
        (redis_activation, {"redis_extra": {"io-threads": 4}}, []),
        (redis_activation, {"redis_extra": {"lfu-log-factor": 3}}, ["redis-6379: reload"]),
        (redis_activation, {"address": "10.0.0.2"}, ["redis-6379: reload"]),
        (sentinel_activation, {}, []),
        (sentinel_activation, {"sentinel_quorum": 3}, []),
        (sentinel_activation, {"redis_password": "another"}, []),
        (
            sentinel_activation,
            {"address": "10.0.0.2"},
            [f"redis-sentinel-{port}: restart" for port in (26379, 26380, 26381)],
        ),
    ],
)
def test_the_impact_of_a_setting(
    component: Any, change: dict[str, Any], lines: list[str], tmp_path: Path
) -> None:
    before = node(tmp_path)
    after = node(tmp_path, **change)
    assert impact(component, before, after) == lines


def test_an_extra_key_of_redis_that_is_gone_is_set_back(tmp_path: Path) -> None:
    before = node(tmp_path, redis_extra={"lfu-log-factor": 3, "io-threads": 4})
    after = node(tmp_path)
    assert impact(redis_activation, before, after) == ["redis-6379: reload"]
    status = Status(True, True, "R", "L", redis_activation.keys(before, 6379))
    assert (
        redis_activation.forgotten(redis_activation.activations(after)[6379], status)
        == "lfu-log-factor"
    )


@pytest.mark.parametrize(
    ("before", "after", "waiting", "said"),
    [
        ("a = '1'", "a = '2'", [], "reload"),
        ("m = '1'", "m = '2'", [], "restart (m: postmaster context)"),
        ("m = '1'\nn = '1'", "", [], "restart (m, n: postmaster context)"),
        ("", "unknown = '1'", [], "reload"),
        # What was written and never loaded: by this run, or by one that was killed.
        ("m = '2'", "m = '2'", ["m"], "restart (m: postmaster context)"),
        ("a = 'x'", "a = 'x'", ["a"], "reload"),
        # Another word for the same.
        ("m = '1GB'", "m = '1024MB'", [], "reload"),
        ("m = '1GB'", "m = '1025MB'", [], "restart (m: postmaster context)"),
    ],
)
def test_the_server_says_which_parameters_take_a_restart(
    before: str, after: str, waiting: list[str], said: str, tmp_path: Path
) -> None:
    contexts = {"a": "user", "m": "postmaster", "n": "postmaster"}
    server = sql.Server("up", 5432, {"contexts": contexts, "waiting": waiting})
    alone = helpers.estate({"a": {}}, {"postgres": ["a"]}, tmp_path).nodes[0]
    assert postgres_activation.impact(alone, before.encode(), after, server) == said


PACKAGE = "install its package first (apt-cache search postgresql-15-)"


@pytest.mark.parametrize(
    ("name", "installed", "said"),
    [
        ("pg_trgm", [], ""),
        ("adminpack", [], ""),
        ("pg_trmg", [], f"'pg_trmg' is not there: pg_trgm? Else {PACKAGE}"),
        ("postgis", [], f"'postgis' is not there: {PACKAGE}"),
        ("postgis", ["plpgsql", "postgis"], ""),
        # What is installed is what counts.
        ("citext", ["plpgsql"], f"'citext' is not there: {PACKAGE}"),
    ],
)
def test_an_extension_that_no_package_brings(
    name: str, installed: list[str], said: str, tmp_path: Path
) -> None:
    databases = {"psscript": {"owner": "psscript", "extensions": [name]}}
    one = node(tmp_path, postgres_extensions=["plpgsql"], postgres_databases=databases)
    found = [str(problem) for problem in postgres_rules.unavailable(one, installed)]
    key = "db1: postgres_databases/psscript/extensions"
    assert found == ([f"{key}: {said}"] if said else [])


def test_libraries_that_are_preloaded(tmp_path: Path) -> None:
    names = ["pg_cron", "auto_explain", "/opt/x/lib"]
    one = node(tmp_path, postgres_shared_preload_libraries=names)
    preload = "shared_preload_libraries = 'pg_cron, auto_explain, /opt/x/lib, pg_stat_statements'"
    assert preload in postgres_files.configuration(one)
    found = [str(problem) for problem in postgres_rules.unavailable(one, [])]
    assert [each.partition(": it")[0] for each in found] == [
        "db1: postgres_shared_preload_libraries: 'pg_cron.so' is not there: install its package "
        "first (apt-cache search postgresql-15-)"
    ]
    assert (
        postgres_rules.unavailable(
            one, ["plpgsql", "pg_stat_statements", *(f"{n}.so" for n in names)]
        )
        == []
    )


def test_the_backup_host_needs_what_scratch_servers_load(tmp_path: Path) -> None:
    databases = {"psscript": {"owner": "psscript", "extensions": ["citext"]}}
    hosts = {"db1": {"address": "10.0.0.1", "postgres_databases": databases}}
    hosts["backup1"] = {"address": "10.0.0.2"}
    groups = {"postgres": ["db1"], "backup": ["backup1"]}
    everything = helpers.estate(hosts, groups, tmp_path)
    for each in everything.nodes:
        everything.state.activate_host(each.host)
    keeper = helpers.node(everything, "backup1")
    installed = ["plpgsql", "pg_stat_statements"]
    (problem,) = backup_rules._cannot_load(keeper, installed, [])
    assert str(problem).startswith(
        "backup1: postgres_databases/psscript/extensions: 'citext' is not there: install its "
    )
    assert str(problem).endswith("; drills and --time need it here too")
    assert [*backup_rules._cannot_load(keeper, [*installed, "citext"], [])] == []
    assert [*backup_rules._cannot_load(helpers.node(everything, "db1"), [], [])] == []


@pytest.mark.parametrize(
    ("name", "there", "is_there"),
    [
        ("C.UTF-8", [], True),
        ("C", [], True),
        ("POSIX", [], True),
        ("de_DE.UTF-8", ["C", "C.utf8", "POSIX"], False),
        ("de_DE.UTF-8", ["C", "de_DE.utf8"], True),
        ("de_DE.ISO-8859-1", ["de_DE.iso88591"], True),
        ("de_DE.ISO-8859-1", ["de_DE.utf8"], False),
        ("de_DE@euro", ["de_DE@euro"], True),
    ],
)
def test_a_locale_that_a_host_does_not_have(
    name: str, there: list[str], is_there: bool, tmp_path: Path
) -> None:
    """On PostgreSQL's host before the cluster is made, and on the backup host for its drills."""
    hosts = {"db1": {"address": "10.0.0.1", "postgres_locale": name}}
    hosts["backup1"] = {"address": "10.0.0.2"}
    groups = {"postgres": ["db1"], "backup": ["backup1"]}
    everything = helpers.estate(hosts, groups, tmp_path)
    for each in everything.nodes:
        everything.state.activate_host(each.host)
    server, keeper = (helpers.node(everything, host) for host in hosts)
    said = [str(problem) for problem in postgres_rules.without_locale(server, there)]
    told = [str(problem) for problem in backup_rules._cannot_load(keeper, [], there)]
    assert (said == [], told == []) == (is_there, is_there)
    if not is_there:
        assert said[0].startswith(f"db1: postgres_locale: '{name}' is not there: install the ")
        assert told[0].startswith("backup1: postgres_locale: ") and "drills and --time" in told[0]


@pytest.mark.parametrize(
    ("mode", "said"), [("transaction", "; clients of PgBouncer wait"), ("session", "")]
)
def test_a_restart_says_whether_clients_wait(mode: str, said: str, tmp_path: Path) -> None:
    pooled = node(tmp_path, pgbouncer_pool_mode=mode)
    assert postgres_activation.restarts(pooled, "why") == f"restart (why{said})"


# --- Redis ---------------------------------------------------------------------------------------


def test_what_an_instance_says_of_its_role(tmp_path: Path) -> None:
    one = node(tmp_path, redis_ports=[6379, 6380, 6381])
    probe = redis_leader.roles_probe(one)
    assert probe.parse(["master 2", "replica 10.0.0.1 6379", "absent"]) == [
        Instance(Address("10.0.0.1", 6379), "present", online=2),
        Instance(Address("10.0.0.1", 6380), "present", Address("10.0.0.1", 6379)),
        Instance(Address("10.0.0.1", 6381), "absent"),
    ]


RUNS = Status(True, True, "", "")
USERS = {
    '"user default on sanitize-payload #ab12 ~* &* +@all"': True,
    '"user default on nopass ~* &* +@all"': False,
    '"user default on #ab12 #cd34 ~* &* +@all"': False,
    '"user default off #ab12 ~* &* +@all"': False,
    '"user default on #ab12 ~app:* &* +@all"': False,
}


@pytest.mark.parametrize(("line", "guarded"), USERS.items())
def test_an_instance_that_lets_in_others_is_reloaded(
    line: str, guarded: bool, tmp_path: Path
) -> None:
    """Nobody without the password of the settings, and nobody with another one."""
    one = node(tmp_path, redis_ports=[6379])
    roles = redis_leader.roles_probe(one).parse(["master 0", line])
    knows(one, "redis", roles=roles, services={"redis-6379": RUNS})
    (wanted,) = redis_activation.activations(one).values()
    now = Status(True, True, wanted.restart, wanted.reload)
    assert redis_activation.watched(one, 6379, wanted, now)[1].outdated is not guarded
    assert list(redis_users.unknown_users(one)) == []


def test_what_postgresql_reads_and_has_beside_ours_is_named(tmp_path: Path) -> None:
    one = node(tmp_path)
    etc, data = "/etc/postgresql/15/main", "/var/lib/postgresql/15/main"
    facts = {
        "roles": {name: {} for name in postgres_content.role_names(one)},
        "databases": {},
        "access": f"{etc}/pg_hba.conf",
        "identity": "/srv/ident",
        "mappings": ["m /^(.*)$ postgres"],
        "sources": [
            *(f"{etc}/postgresql.conf", f"{etc}/conf.d/datatier.conf", f"{etc}/conf.d/x.conf"),
            *(f"{data}/postgresql.auto.conf", "/srv/x.conf"),
        ],
    }
    inside = {"psscript": {"mighty": [f"function f{n}()" for n in range(7)]}, "postgres": {}}
    knows(one, "postgres", server=sql.Server("up", 5432, facts, inside))
    functions = ", ".join(f"function f{n}()" for n in range(5))
    assert [*postgres_content.beside(one)] == [
        f"PostgreSQL reads /srv/ident, not {etc}/pg_ident.conf: "
        "take ident_file out of its settings and restart",
        "pg_ident.conf: 'm /^(.*)$ postgres' lets others in by a map; remove it if it is not yours",
        "PostgreSQL reads /srv/x.conf: not written by Datatier; remove it if it is not yours",
        f"database psscript: {functions}, ...: can act with a superuser's rights; "
        "drop what is not yours",
    ]


def test_what_postgresql_reads_in_a_container_is_its_own(tmp_path: Path) -> None:
    one = node(tmp_path)
    one.service = "postgres"
    etc, data = "/etc/postgresql/15/main", "/var/lib/postgresql/15/main"
    facts = {
        "access": f"{etc}/pg_hba.conf",
        "identity": f"{data}/pg_ident.conf",
        "sources": [
            f"{etc}/postgresql.conf",
            *(f"{data}/postgresql{k}.conf" for k in ("", ".auto")),
        ],
    }
    server = sql.Server("up", 5432, facts)
    assert [*postgres_content._elsewhere(one, server)] == []
    facts["sources"].append(f"{etc}/conf.d/x.conf")  # type: ignore[attr-defined]
    assert len([*postgres_content._elsewhere(one, server)]) == 1


def test_what_a_role_keeps_beside_its_grants_is_named(tmp_path: Path) -> None:
    """Of those who used a database when PUBLIC could enter it."""
    settings = {
        "postgres_roles": {"psscript": {}, "reader": {"member_of": ["pg_monitor"]}, "late": {}}
    }
    one = node(tmp_path, **settings)
    by_name = [["late", "CONNECT", None], ["reader", "TEMPORARY", None]]
    facts = {
        "roles": {},
        "databases": {
            "psscript": {
                "owner": "psscript",
                "grants": by_name,
                "template": False,
                "connection_limit": -1,
            }
        },
        "owned": [["late", "psscript", False, None, 1]],
    }
    knows(one, "postgres", server=sql.Server("up", 5432, facts, {}))
    out = "beside its grants; add it to grants, or revoke it by hand"
    assert [line for line in postgres_content.beside(one) if out in line] == [
        f"database psscript: late has CONNECT {out}",
        f"database psscript: reader has TEMPORARY {out}",
    ]


def test_rights_by_hand_of_our_roles_are_named(tmp_path: Path) -> None:
    one = node(tmp_path)
    role = {"createrole": True, "member_of": ["pg_monitor"], "connection_limit": 7}
    facts = {"roles": {"psscript": role}, "databases": {}}
    knows(one, "postgres", server=sql.Server("up", 5432, facts, {}))
    assert [line.rpartition(": is more")[0] for line in postgres_content.excess(one)] == [
        "role psscript: NOCREATEROLE",
        "role psscript: revoke pg_monitor",
    ]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("%include /srv/evil.ini", "%include /srv/evil.ini"),
        ("admin_users = postgres,evil", "admin_users = postgres,evil"),
        ("* = host=203.0.113.9", "* = host=203.0.113.9"),
        ("psscript = host=203.0.113.9", "psscript = host=203.0.113.9"),
        ("verbose=2", "verbose"),
        ("default_pool_size = 99", "default_pool_size"),
        ("; evil = host=x", None),
        ("[users]", None),
    ],
)
def test_lines_of_the_pooler_that_say_who_and_whither(line: str, named: str | None) -> None:
    found = re.match(pgbouncer_files.OPENS, line)
    assert (found and found[1]) == named


def test_what_hands_have_changed_in_a_running_instance_is_set_back(tmp_path: Path) -> None:
    """It is named, unless the settings have changed: then all of them are set anyway."""
    one = node(tmp_path, redis_ports=[6379], redis_maxmemory="1gb", redis_save="")
    lines = ["master 0", "=appendonly no", "=maxmemory 1073741824", "=save "]
    knows(one, "redis", roles=redis_leader.roles_probe(one).parse(lines))
    (wanted,) = redis_activation.activations(one).values()
    now = Status(True, True, wanted.restart, wanted.reload)
    means, status = redis_activation.watched(one, 6379, wanted, now)
    assert (means.reload_means, status.outdated) == ("reload (appendonly: changed by hand)", True)
    assert (
        redis_activation.watched(one, 6379, wanted, replace(now, reload="older"))[1].outdated
        is False
    )


def test_users_beside_ours_are_told_and_removed(tmp_path: Path) -> None:
    """By names as redis-cli quotes them, whatever is in them."""
    lines = ["master 0", '"user default on #ab12 ~* &* +@all"', r'"user a\"\x1b on nopass"']
    one = node(tmp_path, redis_ports=[6379])
    roles = redis_leader.roles_probe(one).parse(lines)
    knows(one, "redis", roles=roles, services={"redis-6379": RUNS})
    told = 'the ACL user "a\\"\\x1b" is not in the settings; redis_prune would remove it'
    assert (list(redis_users.unknown_users(one)), redis_users.prune(one)) == (
        [f"redis-6379: {told}"],
        None,
    )
    two = node(tmp_path, redis_ports=[6379], redis_prune=True)
    knows(two, "redis", roles=roles, services={"redis-6379": RUNS})
    change = redis_users.prune(two)
    assert change is not None
    assert (list(redis_users.unknown_users(two)), len(change.lines)) == ([], 1)
    assert change.variables["USERS_6379"] == r'"a\"\x1b"'


def test_what_the_sentinels_say(tmp_path: Path) -> None:
    probe = redis_leader.sentinels_probe(everything(tmp_path), "x")
    assert probe.parse(["10.0.0.2 6379 OK 3 usable", "", "10.0.0.3", "10.0.0.2 6379 NOQUORUM"]) == [
        Watcher(Address("10.0.0.2", 6379), "OK 3 usable"),
        Watcher(Address("10.0.0.2", 6379), "NOQUORUM"),
    ]
    assert all(f"10.0.0.1:{port}" in probe.script for port in (26379, 26380, 26381))


def test_all_instances_in_the_inventorys_order(tmp_path: Path) -> None:
    hosts: dict[str, Data] = {
        "a": {"address": "10.0.0.2", "redis_ports": [6380, 6379]},
        "b": {"address": "10.0.0.1"},
    }
    made = helpers.estate(hosts, {"redis": ["a", "b"]}, tmp_path)
    assert [str(address) for address in redis_settings.addresses(made)] == [
        "10.0.0.2:6380",
        "10.0.0.2:6379",
        "10.0.0.1:6379",
    ]


def test_a_replica_follows_and_the_master_follows_nobody() -> None:
    first, second = Address("10.0.0.1", 6379), Address("10.0.0.1", 6380)
    assert redis_files._role(first, first) == ""
    assert redis_files._role(first, second) == "replicaof 10.0.0.1 6379\n"
    assert redis_files._role(None, second) == ""


@pytest.mark.parametrize(
    ("path", "value", "satisfied"),
    [
        ("/proc/sys/vm/overcommit_memory", "1", True),
        ("/proc/sys/vm/overcommit_memory", "0", False),
        ("/proc/sys/net/core/somaxconn", "4096", True),
        ("/proc/sys/net/core/somaxconn", "128", False),
        ("/proc/sys/net/core/somaxconn", "", True),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never", True),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never", False),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "", True),
    ],
)
def test_what_redis_asks_of_the_kernel(path: str, value: str, satisfied: bool) -> None:
    assert redis_kernel._satisfied(path, value) is satisfied


def test_this_kernel_is_read() -> None:
    probe = redis_kernel.kernel_probe()
    found = probe.parse(helpers.shell(probe.script).stdout.splitlines())
    expected = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    assert found["/proc/sys/vm/overcommit_memory"].split(":")[0] == expected
    assert set(found) == set(redis_kernel._KERNEL)
    huge = "/sys/kernel/mm/transparent_hugepage/enabled"
    assert not Path(huge).exists() or found[huge].startswith(Path(huge).read_text().strip())


# --- Sentinel ------------------------------------------------------------------------------------

LIVE = {
    "name": "mymaster",
    "auth": "1",
    "quorum": "2",
    "down-after-milliseconds": "5000",
    "failover-timeout": "10000",
    "parallel-syncs": "1",
}


def test_the_live_settings_by_port() -> None:
    lines = ["26379 up auth=1 name=mymaster quorum=2", "26380 down", "26381 none"]
    assert sentinel_monitoring._parse_monitors(lines) == {
        26379: {"auth": "1", "name": "mymaster", "quorum": "2"},
        26380: None,
        26381: {},
    }


def orders(one: Node, live: dict[str, str]) -> list[tuple[str, str]]:
    return sentinel_monitoring._orders(one, 26379, live)


def test_a_sentinel_that_is_right_gets_no_order(tmp_path: Path) -> None:
    one = node(tmp_path)
    own = {"own.announce-ip": one.address, "own.announce-port": "26379"}
    assert orders(one, {**LIVE, **own}) == []
    # Others would look for it there.
    order = ("announce-port 26379", 'SENTINEL CONFIG SET announce-port "26379"')
    assert orders(one, {**LIVE, **own, "own.announce-port": "9"}) == [order]


@pytest.mark.parametrize(
    ("key", "data", "value"),
    [
        ("quorum", {"sentinel_quorum": 3}, 3),
        ("down-after-milliseconds", {"sentinel_down_after_milliseconds": 7000}, 7000),
        ("failover-timeout", {"sentinel_failover_timeout": 20000}, 20000),
        ("parallel-syncs", {"sentinel_parallel_syncs": 2}, 2),
    ],
)
def test_a_setting_that_differs_is_set_at_run_time(
    key: str, data: dict[str, Any], value: int, tmp_path: Path
) -> None:
    assert orders(node(tmp_path, **data), LIVE) == [
        (f"{key} {value}", f"SENTINEL SET mymaster {key} {value}")
    ]


def test_a_wrong_password_is_set_and_not_named(tmp_path: Path) -> None:
    one = node(tmp_path, redis_password="hunter#2")
    ((sentence, command),) = orders(one, {**LIVE, "auth": "0"})
    assert sentence == "password of the master"
    assert command == 'SENTINEL SET mymaster auth-user "" auth-pass "hunter#2"'


def test_a_sentinel_without_a_master_is_given_one(tmp_path: Path) -> None:
    one = node(tmp_path)
    one.host.state.activate_host(one.host)
    knows(one, "redis", sentinels=[], roles=[Instance(Address("10.0.0.1", 6379), "absent")])
    lines = [sentence for sentence, _ in orders(one, {})]
    commands = [command for _, command in orders(one, {})]
    assert commands[0] == "SENTINEL MONITOR mymaster 10.0.0.1 6379 2"
    assert lines[0] == "monitor mymaster at 10.0.0.1:6379, quorum 2"
    assert [command.split()[3] for command in commands[1:]] == [
        "down-after-milliseconds",
        "failover-timeout",
        "parallel-syncs",
        "auth-user",
    ]


def test_a_master_name_may_contain_any_of_its_letters(tmp_path: Path) -> None:
    """What Sentinel learned stays in its file at a restart; only its own keys are dropped."""
    state = tmp_path / "sentinel.conf"
    keep = "sentinel myid 1\nsentinel monitor announcements 10.0.0.1 6379 2\n"
    drop = 'sentinel announce-ip "10.0.0.9"\nsentinel sentinel-pass "x"\nport 5\n'
    state.write_text(keep + drop)
    (command,) = sentinel_service._service(node(tmp_path), 26379).before_start
    helpers.shell(command.replace("/var/lib/redis/sentinel-26379/sentinel.conf", str(state)))
    assert state.read_text() == keep


# --- PgBouncer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, []),
        (
            {"pgbouncer_max_prepared_statements": 100},
            ["@local: pgbouncer_max_prepared_statements: needs PgBouncer 1.21; this host has 1.18"],
        ),
        (
            {"pgbouncer_extra": {"transaction_timeout": 5}},
            [
                "@local: pgbouncer_extra/transaction_timeout: needs PgBouncer 1.25; "
                "this host has 1.18"
            ],
        ),
    ],
)
def test_keys_that_this_hosts_pgbouncer_does_not_know(
    data: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    groups = {"postgres": ["@local"], "pgbouncer": ["@local"]}
    hosts = {"@local": {"address": "127.0.0.1", "_sudo": False, **data}}
    (one,) = helpers.estate(hosts, groups, tmp_path).nodes
    absent = {path: Found("absent") for path in (pgbouncer_layout.INI, pgbouncer_layout.USERLIST)}
    knows(one, "packages", installed={})
    knows(one, "pgbouncer", files=absent)
    knows(one, estates.HOST, pristine=frozenset())
    assert [str(problem) for problem in pgbouncer_rules.checks(one)] == expected


@pytest.mark.parametrize(
    ("installed", "version"),
    [({}, (1, 18)), ({"pgbouncer": "1.24.1-1"}, (1, 24)), ({"pgbouncer": "2:1.9.0-3"}, (1, 9))],
)
def test_the_installed_version_counts(
    installed: dict[str, str], version: tuple[int, int], tmp_path: Path
) -> None:
    one = node(tmp_path)
    knows(one, "packages", installed=installed)
    assert pgbouncer_rules._version(one) == version


def test_redis_settings_of_every_host_count(tmp_path: Path) -> None:
    assert node(tmp_path).of(RedisSettings) is not None
    hosts = {"a": {"address": "10.0.0.1"}}
    assert helpers.estate(hosts, {"postgres": ["a"]}, tmp_path).nodes[0].of(RedisSettings) is None


# --- Backup --------------------------------------------------------------------------------------


def test_while_postgresqls_host_is_away_its_version_is_that_of_the_backup_host(
    tmp_path: Path,
) -> None:
    hosts = {"db1": {"address": "10.0.0.1"}, "backup1": {"address": "10.0.0.2"}}
    made = helpers.estate(hosts, {"postgres": ["db1"], "backup": ["backup1"]}, tmp_path)
    keeper = helpers.node(made, "backup1")
    made.state.activate_host(keeper.host)
    keeper.system = System(release=RELEASES["debian", "13"])
    config = json.loads(backup_program.configuration(keeper))["postgres"]
    assert (config["version"], config["incremental"]) == (17, "block")
    assert config["data_directory"] == "/var/lib/postgresql/17/main"
    assert "postgresql-17" in backup_packages.packages_of(keeper).names


@pytest.mark.parametrize(
    ("newer", "reason"),
    [
        ("db1", "pgBackRest needs the same version on both"),
        ("cache2", "a snapshot of one version of Redis does not load in the other"),
    ],
)
def test_the_backup_host_has_the_release_of_those_it_backs_up(
    newer: str, reason: str, tmp_path: Path
) -> None:
    hosts = {"db1": "10.0.0.1", "cache1": "10.0.0.2", "cache2": "10.0.0.3", "backup1": "10.0.0.4"}
    groups = {"postgres": ["db1"], "redis": ["cache1", "cache2"], "backup": ["backup1"]}
    data = {name: {"address": address} for name, address in hosts.items()}
    made = helpers.estate(data, groups, tmp_path)
    for each in made.nodes:
        made.state.activate_host(each.host)
    assert backup_rules._other_releases(helpers.node(made, "backup1")) == []
    other = helpers.node(made, newer)
    other.system = System(release=RELEASES["debian", "13"])
    (problem,) = backup_rules._other_releases(helpers.node(made, "backup1"))
    assert str(problem) == (
        f"backup1: operating system: Debian 12 here and Debian 13 on {newer}: {reason}"
    )


@pytest.mark.parametrize(
    ("group", "scheduled", "absent"),
    [
        ("postgres", "postgres-backup.sh", "redis-backup.sh"),
        ("redis", "redis-backup.sh", "postgres-backup.sh"),
    ],
)
def test_only_what_there_is_has_a_schedule(
    group: str, scheduled: str, absent: str, tmp_path: Path
) -> None:
    groups = {group: ["db1"], "backup": ["db1"]}
    cron = backup_program.schedule(helpers.estate({"db1": HOST}, groups, tmp_path).nodes[0])
    assert scheduled in cron and absent not in cron


def test_modules_of_another_release_go_and_the_plan_says_so(tmp_path: Path) -> None:
    """Nothing else goes: not what a name with a line break would make of a path."""
    chosen = (
        helpers.estate({"db1": HOST}, {"backup": ["db1"]}, tmp_path).nodes[0].the(BackupSettings)
    )
    entries = backup_program.program(chosen)
    ours = [entry.path for entry in entries]
    assert backup_program.left_modules(entries, ours) is None
    old = "/usr/lib/datatier/backup/old name.py"
    change = backup_program.left_modules(entries, [*ours, old, "/etc/passwd"])
    assert change is not None
    assert change.lines == [f"{old}: remove"]
    assert change.script.startswith(f"remove '{old}'\n")
