"""Every file of two estates, rendered, against the golden ones of `tests/golden/<shape>/<host>/`.

`pytest tests/unit --update-golden` writes them again.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.backup import files as backup_files
from tasks.backup import program as backup_program
from tasks.backup import settings as backup_settings
from tasks.compose import files as compose_files
from tasks.compose import settings as compose_settings
from tasks.core import files
from tasks.core.estate import Estate, Node
from tasks.core.files import Entry, File
from tasks.core.preflight import System
from tasks.core.releases import RELEASES
from tasks.core.services import Status
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer import settings as pgbouncer_settings
from tasks.postgres import clients as postgres_clients
from tasks.postgres import files as postgres_files
from tasks.postgres import settings as postgres_settings
from tasks.postgres import sql
from tasks.redis import activation as redis_activation
from tasks.redis import files as redis_files
from tasks.redis import sentinels
from tasks.redis import settings as redis_settings
from tasks.redis import values as redis_values
from tasks.sentinel import files as sentinel_files
from tests.unit import golden, helpers

RUNS = Status(True, True, "", "")

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = System(RELEASES["debian", "12"], systemd=False, memory=2048)
SERVER = System(RELEASES["debian", "13"], systemd=True, memory=16384)
SHAPES = {
    "embedded": ("inventory.py", CONTAINER),
    "cluster": ("inventory/cluster.py", SERVER),
    "docker": ("inventory/docker.py", SERVER),
}


def inventory(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Hosts with their data, and groups, of an inventory file."""
    hosts: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    for group, members in runpy.run_path(str(path)).items():
        if group.startswith("_") or not isinstance(members, list):
            continue
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, {})
            hosts.setdefault(name, {}).update(data)
            groups.setdefault(group, []).append(name)
    return hosts, groups


def shape(name: str, directory: Path, **changes: Any) -> Estate:
    """The estate of one of our own inventories, on hosts of a known kind."""
    path, system = SHAPES[name]
    hosts, groups = inventory(ROOT / path)
    changed = {host: {**data, **changes} for host, data in hosts.items()}
    everything = helpers.estate(changed, groups, directory)
    assert helpers.problems(everything) == []
    return on_hosts(everything, system)


def on_hosts(everything: Estate, system: System) -> Estate:
    """The estate, on hosts of a kind."""
    for node in everything.nodes:
        node.system = system
        for container in node.inside.nodes if node.inside else ():
            container.system = replace(container.system, memory=system.memory)
    return everything


def entries(node: Node) -> Iterator[Entry]:
    """Every file and directory of a host, in the order in which they are made."""
    if postgres_settings.PostgresSettings in node.settings:
        yield from postgres_files.files_of(node)
    if pgbouncer_settings.PgbouncerSettings in node.settings:
        yield from pgbouncer_files.files_of(node)
    if redis_settings.RedisSettings in node.settings:
        yield from redis_files.files_of(node)
        yield from redis_files.seed_files(node, redis_settings.addresses(node.estate)[0])
    if sentinels.SentinelSettings in node.settings:
        yield from sentinel_files.files_of(node)
    if backup_settings.BackupSettings in node.settings:
        # The program itself is no template.
        mine = backup_files.files_of(node)
        yield from (entry for entry in mine if not entry.path.startswith(backup_program.LIBRARY))
    if compose_settings.DockerSettings in node.settings:
        mine = compose_files.project_files(node)
        yield from (entry for entry in mine if f"{backup_program.LIBRARY}/" not in entry.path)


def rendered(everything: Estate) -> dict[str, str]:
    """Contents by path, and a MANIFEST of modes and owners for every host."""
    texts: dict[str, str] = {}
    for node in everything.nodes:
        manifest = []
        for entry in entries(node):
            kind = "dir" if not isinstance(entry, File) else "seed" if entry.seed else "file"
            manifest.append(f"{kind} {entry.mode} {entry.user}:{entry.group} {entry.path}\n")
            if isinstance(entry, File):
                # What an image is built from is not for these files to repeat.
                content = re.sub(r'(datatier[.]inputs": )"[0-9a-f]+"', r"\1...", entry.content)
                texts[f"{node.name}{entry.path}"] = content
        texts[f"{node.name}/MANIFEST"] = "".join(manifest)
    return texts


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_golden_files(name: str, tmp_path: Path, update_golden: bool) -> None:
    golden.check(name, rendered(shape(name, tmp_path)), update=update_golden)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_rendering_twice_gives_the_same(name: str, tmp_path: Path) -> None:
    assert rendered(shape(name, tmp_path)) == rendered(shape(name, tmp_path))


# --- What must hold whatever the golden files say ------------------------------------------------


def content(everything: Estate, host: str, path: str) -> list[str]:
    """The lines of one rendered file."""
    return rendered(everything)[f"{host}{path}"].splitlines()


def settings_of(lines: list[str], separator: str) -> dict[str, str]:
    """Key-value lines as a dictionary."""
    pairs = (line.split(separator, 1) for line in lines if separator in line)
    return {key: value for key, value in pairs if not key.startswith(("#", ";"))}


def test_no_template_is_left_over() -> None:
    users = [*(ROOT / "tasks").rglob("*.py"), *files.TEMPLATES.rglob("*.j2")]
    sources = "".join(path.read_text() for path in users)
    names = [str(path.relative_to(files.TEMPLATES)) for path in files.TEMPLATES.rglob("*.j2")]
    assert [name for name in names if f'"{name}"' not in sources] == []


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_file_with_a_secret_is_masked_and_private(name: str, tmp_path: Path) -> None:
    for node in shape(name, tmp_path).nodes:
        closed = [e.path for e in entries(node) if not isinstance(e, File) and e.mode == "700"]
        for entry in entries(node):
            if not isinstance(entry, File):
                continue
            shown = files.mask(entry.content, entry.secret)
            held = [word for word in helpers.SECRETS.values() if word in entry.content]
            assert not any(word in shown for word in helpers.SECRETS.values()), entry.path
            assert "SCRAM-SHA-256$" not in shown, entry.path
            private = entry.mode in ("600", "640") or entry.path.startswith((*closed, "?"))
            assert not held or private, entry.path


CANARY = "Canary in it"
SECRET_ACCESS = [
    f'host all all 10.1.0.0/16 ldap ldapserver=ldap1 "ldapbindpasswd={CANARY}" ldaptls=1',
    f'host all all 10.2.0.0/16 radius radiusservers=r1 radiussecrets="""{CANARY}"",x"',
]
SECRET_EXTRA = {
    "primary_conninfo": f"host=db0 password='{CANARY}' user=x",
    "ssl_passphrase_command": f"echo '{CANARY}'",
    "restore_command": f"TOKEN='{CANARY}' fetch %f %p",
    "app.jwt_secret": CANARY,
}


@pytest.mark.parametrize("name", ["embedded", "docker"])
def test_secrets_among_postgresqls_further_lines_are_masked_and_private(
    name: str, tmp_path: Path
) -> None:
    further = {"postgres_hba": SECRET_ACCESS, "postgres_extra": SECRET_EXTRA}
    (node,) = shape(name, tmp_path, **further).nodes
    holding = [e for e in entries(node) if isinstance(e, File) and CANARY in e.content]
    shown = [files.mask(entry.content, entry.secret) for entry in holding]
    assert [entry.mode for entry in holding] == ["640", "640"]
    assert "Canary" not in "".join(shown)
    assert [text.count("<secret ") for text in shown] == [len(SECRET_EXTRA), len(SECRET_ACCESS)]
    assert "\nssl_passphrase_command = <secret " in shown[0]
    assert "\nhost all all 10.1.0.0/16 ldap ldapserver=ldap1 " in shown[1]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_our_own_parameters_are_no_secrets(name: str, tmp_path: Path) -> None:
    for path, text in rendered(shape(name, tmp_path)).items():
        if path.endswith(("/datatier.conf", "/postgresql.conf", "/pg_hba.conf")):
            for secret in (sql.SECRET_PARAMETERS, postgres_settings.ACCESS_SECRETS):
                assert files.mask(text, secret) == text, path


def test_clients_of_another_host_get_in_with_a_password_and_nobody_else(tmp_path: Path) -> None:
    lines = content(shape("cluster", tmp_path), "db1", "/etc/postgresql/17/main/pg_hba.conf")
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    assert [(rule[0], rule[3]) for rule in rules if rule[0] != "local"] == [
        ("host", "127.0.0.1/32"),
        ("host", "::1/128"),
        ("hostssl", "10.0.0.21/32"),
        ("hostssl", "10.0.0.41/32"),
    ]
    assert {rule[-1] for rule in rules} == {"peer", "scram-sha-256"}


def test_one_host_opens_no_port_to_the_outside(tmp_path: Path) -> None:
    everything = shape("embedded", tmp_path)
    ini = content(everything, "@local", "/etc/pgbouncer/pgbouncer.ini")
    conf = content(everything, "@local", "/etc/postgresql/15/main/conf.d/datatier.conf")
    assert settings_of(ini, " = ")["listen_addr"] == "127.0.0.1"
    assert settings_of(conf, " = ")["listen_addresses"] == "'localhost'"
    for port in (6379, 6380, 6381):
        lines = content(everything, "@local", f"/etc/redis/redis-{port}.conf")
        assert settings_of(lines, " ")["bind"] == "127.0.0.1"


def test_the_first_instance_is_master_and_the_others_follow_it(tmp_path: Path) -> None:
    seeds = {
        name: text
        for name, text in rendered(shape("cluster", tmp_path)).items()
        if name.endswith("/var/lib/redis/6379/redis.conf")
    }
    assert seeds == {
        "cache1/var/lib/redis/6379/redis.conf": "",
        "cache2/var/lib/redis/6379/redis.conf": "replicaof 10.0.0.31 6379\n",
        "cache3/var/lib/redis/6379/redis.conf": "replicaof 10.0.0.31 6379\n",
    }


def test_an_ipv6_client_is_one_address_and_not_a_network(tmp_path: Path) -> None:
    hosts = {"db1": {"address": "2001:db8::1"}, "pool1": {"address": "2001:db8::2"}}
    groups = {"postgres": ["db1"], "pgbouncer": ["pool1"]}
    everything = helpers.estate(hosts, groups, tmp_path)
    assert [client["address"] for client in postgres_clients.clients(everything.nodes[0])] == [
        "2001:db8::2/128"
    ]


# --- Values on their way into each upstream's syntax ---------------------------------------------


def test_postgresqls_quotes_and_backslashes(tmp_path: Path) -> None:
    """GUC_scanstr takes '' for a quote, and a backslash for an escape."""
    extra = {"log_line_prefix": "it's %m", "cluster_name": r"a\b", "ssl": True}
    everything = shape("embedded", tmp_path, postgres_extra=extra)
    conf = content(everything, "@local", "/etc/postgresql/15/main/conf.d/datatier.conf")
    found = settings_of(conf, " = ")
    assert found["log_line_prefix"] == "'it''s %m'"
    assert found["ssl"] == "'on'"
    assert found["cluster_name"] == r"'a\\b'"


def test_pgbouncers_numbers_for_true_and_false(tmp_path: Path) -> None:
    extra = {"log_connections": False, "so_reuseport": True}
    everything = shape("embedded", tmp_path, pgbouncer_extra=extra)
    found = settings_of(content(everything, "@local", "/etc/pgbouncer/pgbouncer.ini"), " = ")
    assert (found["log_connections"], found["so_reuseport"]) == ("0", "1")


def test_rediss_words_and_empty_values(tmp_path: Path) -> None:
    extra = {"lazyfree-lazy-eviction": True, "lfu-log-factor": 3, "notify-keyspace-events": ""}
    everything = shape("embedded", tmp_path, redis_extra=extra, redis_save="")
    found = settings_of(content(everything, "@local", "/etc/redis/redis-6379.conf"), " ")
    assert found["lazyfree-lazy-eviction"] == "yes"
    assert found["lfu-log-factor"] == "3"
    assert found["save"] == '""'
    assert found["notify-keyspace-events"] == '""'


@pytest.mark.parametrize(
    "word", ["#secret", "$secret", "a=secret", "a:b@c:d", "%secret", "{secret}"]
)
def test_a_redis_password_is_the_same_in_the_file_and_at_run_time(
    word: str, tmp_path: Path
) -> None:
    everything = shape("embedded", tmp_path, redis_password=word)
    lines = content(everything, "@local", "/etc/redis/redis-6379.conf")
    quoted = redis_values.quote(word)
    assert f"requirepass {quoted}" in lines
    node = everything.nodes[0]
    node.reader = lambda _group: {"roles": []}
    assert f" requirepass {quoted} " in redis_activation.config_set(node, 6379, RUNS)


def test_quoting_for_redis_can_be_undone() -> None:
    assert redis_values.quote('a"b\\c') == '"a\\"b\\\\c"'


def test_config_set_leaves_out_what_only_a_restart_changes(tmp_path: Path) -> None:
    node = shape("embedded", tmp_path).nodes[0]
    node.reader = lambda _group: {"roles": []}
    command = redis_activation.config_set(node, 6379, RUNS).split()
    assert command[:2] == ["CONFIG", "SET"]
    assert set(redis_values.RESTART_KEYS).isdisjoint(command)
    assert "maxmemory" in command


def test_a_password_with_quotes_in_pgbouncers_user_list(tmp_path: Path) -> None:
    text = files.render("pgbouncer/userlist.txt.j2", users={"pgbouncer": 'a"b'})
    assert text == '"pgbouncer" "a""b"\n'


# --- Numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("megabytes", "connections", "expected"),
    [
        (256, 100, ("64MB", "192MB", "4MB", "32MB")),
        (2048, 100, ("512MB", "1536MB", "5MB", "128MB")),
        (2047, 100, ("448MB", "1344MB", "4MB", "112MB")),
        (16384, 100, ("4096MB", "12288MB", "40MB", "1024MB")),
        (262144, 100, ("16384MB", "196608MB", "64MB", "2048MB")),
        (100, 10000, ("64MB", "192MB", "4MB", "32MB")),
    ],
)
def test_memory_follows_the_host(
    megabytes: int, connections: int, expected: tuple[str, ...]
) -> None:
    assert tuple(postgres_settings.memory(megabytes, connections).values()) == expected


def test_chosen_memory_wins(tmp_path: Path) -> None:
    everything = shape("embedded", tmp_path, postgres_shared_buffers="123MB")
    conf = content(everything, "@local", "/etc/postgresql/15/main/conf.d/datatier.conf")
    assert settings_of(conf, " = ")["shared_buffers"] == "'123MB'"


@pytest.mark.parametrize("path", ["inventory.py", "inventory/cluster.py"])
def test_our_own_inventories_are_right(path: str, tmp_path: Path) -> None:
    hosts, groups = inventory(ROOT / path)
    assert helpers.problems(helpers.estate(hosts, groups, tmp_path)) == []
