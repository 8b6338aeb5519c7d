"""Bad settings and the exact sentences that an operator reads about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.backup.settings import BackupSettings
from tasks.core.secrets import Secrets
from tasks.core.settings import StackSettings
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres.settings import PROBE_DATABASE, PostgresSettings
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tests.unit import helpers
from tests.unit.helpers import Data

EVERYTHING = ("postgres", "pgbouncer", "redis", "sentinel", "backup")
SECRET = "hunter2"

STACK_NAME = "should be lower-case letters, digits and '_', starting with a letter, at most 31"
HBA_LINE = "should be a pg_hba line: TYPE DATABASE USER [ADDRESS] METHOD"
SIZE = "should be a size such as '256MB' (kB, MB, GB or TB)"
DURATION = "should be a duration such as '300s' (ms, s, min, h or d), or '0'"
REDIS_SIZE = "should be a size such as '512mb' or '1gb', or '0' for no limit"
UPSTREAM = "should be an upstream key: lower-case letters, digits, '_', '.' and '-'"
TIME = "should be a time with its zone, such as '2030-01-31T00:00:00Z'"
SAVE = "should be pairs of seconds and changes such as '900 1 300 10', or '' for none"
WORD = "should be a string, a number, true or false"
ASCII = "should have printable ASCII characters only"
POLICIES = (
    "should be 'noeviction', 'allkeys-lru', 'allkeys-lfu', 'allkeys-random', 'volatile-lru', "
    "'volatile-lfu', 'volatile-random' or 'volatile-ttl'"
)


def name_rule(name: str) -> str:
    """The sentence about a name that no identifier may be."""
    return f"name {name!r} should be letters, digits, '_', '-' or '.', at most 63"


def refused(directory: Path, data: Mapping[str, Any], groups: tuple[str, ...]) -> list[str]:
    """What one host with these keys is refused for; without them it is accepted."""
    host = {"address": "10.0.0.1", "sentinel_ports": [26379, 26380, 26381], **data}
    everything = helpers.estate({"db1": host}, {group: ["db1"] for group in groups}, directory)
    return helpers.problems(everything)


def database(**fields: Any) -> dict[str, Any]:
    """`postgres_databases` with one database."""
    return {"shop": {"owner": "psscript", **fields}}


def acl(name: str = "a", **fields: Any) -> dict[str, Any]:
    """`redis_users` with one user."""
    return {name: {"commands": ["+get"], **fields}}


RULE = "should be such as '+get', '-config|set', '+@read' or '+@all'"
OF_KEYS = "should be a pattern such as 'app:*', or '%R~app:*' to only read"
BARE = "should be a pattern without blanks or unprintable characters"


def role(**fields: Any) -> dict[str, Any]:
    """`postgres_roles` with the default owner."""
    return {"psscript": fields}


Case = tuple[str, Any, str]

STACK: list[Case] = [
    ("stack_name", 5, "stack_name: should be a string"),
    ("stack_name", "Bad Name", f"stack_name: {STACK_NAME}"),
    ("stack_name", "", f"stack_name: {STACK_NAME}"),
    ("service_manager", "upstart", "service_manager: should be 'auto', 'systemd' or 'runit'"),
    ("address", "db1.example", "address: should be an IP address, not 'db1.example'"),
    ("address", "10.0.0.300", "address: should be an IP address, not '10.0.0.300'"),
    ("address", 5, "address: should be a string"),
    ("destroy", "some", "destroy: should be true or false"),
    ("destroy_data", 2, "destroy_data: should be true or false"),
    ("confirm", True, "confirm: should be a string"),
    *(
        (f"{component}_prune", "some", f"{component}_prune: should be true or false")
        for component in ("postgres", "pgbouncer", "redis", "sentinel")
    ),
    *(
        (f"{component}_adopt", "some", f"{component}_adopt: should be true or false")
        for component in ("postgres", "pgbouncer")
    ),
]

UNKNOWN: list[Case] = [
    ("pgbouncer_listen_prt", 1, "pgbouncer_listen_prt: unknown key (pgbouncer_listen_port?)"),
    ("postgres_rles", {}, "postgres_rles: unknown key (postgres_roles?)"),
    ("redis_port", 6379, "redis_port: unknown key (redis_ports?)"),
    ("redis_pasword", SECRET, "redis_pasword: unknown key (redis_password?)"),
    ("sentinel_quorom", 2, "sentinel_quorom: unknown key (sentinel_quorum?)"),
    ("sentinel_extra", {}, "sentinel_extra: unknown key"),
    ("stack_nme", "x", "stack_nme: unknown key (stack_name?)"),
    ("adress", "10.0.0.1", "adress: unknown key (address?)"),
    ("servicemanager", "runit", "servicemanager: unknown key (service_manager?)"),
    ("postgress_port", 1, "postgress_port: unknown key (postgres_port?)"),
    ("postgresql_port", 1, "postgresql_port: unknown key (postgres_port?)"),
    ("postgres-port", 1, "postgres-port: unknown key (postgres_port?)"),
    ("pgbouncr_listen_port", 1, "pgbouncr_listen_port: unknown key (pgbouncer_listen_port?)"),
    ("sentinal_ports", [1], "sentinal_ports: unknown key (sentinel_ports?)"),
]

POSTGRES: list[Case] = [
    ("postgres_port", "abc", "postgres_port: should be a whole number"),
    ("postgres_port", 5432.5, "postgres_port: should be a whole number"),
    ("postgres_port", None, "postgres_port: should be a whole number"),
    ("postgres_port", True, "postgres_port: should be a whole number"),
    ("postgres_port", 0, "postgres_port: should be at least 1"),
    ("postgres_port", 70000, "postgres_port: should be at most 65535"),
    ("postgres_version", 13, "postgres_version: should be at least 14"),
    ("postgres_version", 19, "postgres_version: should be at most 18"),
    ("postgres_version", "latest", "postgres_version: should be a whole number"),
    ("postgres_locale", "C\nx", "postgres_locale: should be a single line"),
    ("postgres_listen_addresses", ["::"], "postgres_listen_addresses: should be a string"),
    ("postgres_extensions", "pg_trgm", "postgres_extensions: should be a list"),
    (
        "postgres_shared_preload_libraries",
        ["a b"],
        "postgres_shared_preload_libraries/0: should be the name of a library such as 'pg_cron'",
    ),
    ("postgres_extensions", ["a b"], f"postgres_extensions/0: {name_rule('a b')}"),
    ("postgres_max_connections", 5, "postgres_max_connections: should be at least 10"),
    ("postgres_max_connections", 10001, "postgres_max_connections: should be at most 10000"),
    ("postgres_max_connections", "lots", "postgres_max_connections: should be a whole number"),
    (
        "postgres_superuser_reserved_connections",
        0,
        "postgres_superuser_reserved_connections: should be at least 1",
    ),
    ("postgres_shared_buffers", "256", f"postgres_shared_buffers: {SIZE}"),
    ("postgres_shared_buffers", "256mb", f"postgres_shared_buffers: {SIZE}"),
    ("postgres_shared_buffers", 256, "postgres_shared_buffers: should be a string"),
    (
        "postgres_shared_buffers",
        "1kB",
        "postgres_shared_buffers: should be at least 1MB, not 1kB",
    ),
    ("postgres_effective_cache_size", "0MB", f"postgres_effective_cache_size: {SIZE}"),
    ("postgres_work_mem", "4 MB", f"postgres_work_mem: {SIZE}"),
    ("postgres_max_wal_size", "1G", f"postgres_max_wal_size: {SIZE}"),
    ("postgres_statement_timeout", "5 minutes", f"postgres_statement_timeout: {DURATION}"),
    ("postgres_statement_timeout", "300", f"postgres_statement_timeout: {DURATION}"),
    ("postgres_lock_timeout", "-1s", f"postgres_lock_timeout: {DURATION}"),
    ("postgres_random_page_cost", 0, "postgres_random_page_cost: should be more than 0.0"),
    ("postgres_random_page_cost", "x", "postgres_random_page_cost: should be a number"),
    (
        "postgres_checkpoint_completion_target",
        2,
        "postgres_checkpoint_completion_target: should be at most 1.0",
    ),
    (
        "postgres_log_min_duration_statement",
        -2,
        "postgres_log_min_duration_statement: should be at least -1",
    ),
]

ROLES: list[Case] = [
    ("postgres_roles", [], "postgres_roles: should be a dictionary"),
    ("postgres_roles", {"psscript": None}, "postgres_roles/psscript: should be a dictionary"),
    (
        "postgres_roles",
        role(passwrd=SECRET),
        "postgres_roles/psscript/passwrd: unknown key (password?)",
    ),
    (
        "postgres_roles",
        role(login="maybe"),
        "postgres_roles/psscript/login: should be true or false",
    ),
    (
        "postgres_roles",
        role(connection_limit=-2),
        "postgres_roles/psscript/connection_limit: should be at least -1",
    ),
    (
        "postgres_roles",
        role(member_of=["a b"]),
        f"postgres_roles/psscript/member_of/0: {name_rule('a b')}",
    ),
    ("postgres_roles", role(member_of="a"), "postgres_roles/psscript/member_of: should be a list"),
    (
        "postgres_roles",
        role(valid_until="tomorrow"),
        f"postgres_roles/psscript/valid_until: {TIME}",
    ),
    (
        "postgres_roles",
        role(valid_until="2030-01-31T00:00:00"),
        f"postgres_roles/psscript/valid_until: {TIME}",
    ),
    (
        "postgres_roles",
        role(valid_until="2030-13-01T00:00:00Z"),
        f"postgres_roles/psscript/valid_until: {TIME}",
    ),
    (
        "postgres_roles",
        role(settings={"search path": "x"}),
        f"postgres_roles/psscript/settings/search path: {UPSTREAM}",
    ),
    (
        "postgres_roles",
        {"bad name": {}, "psscript": {}},
        f"postgres_roles/bad name: {name_rule('bad name')}",
    ),
    (
        "postgres_roles",
        {"postgres": {}, "psscript": {}},
        "postgres_roles: role 'postgres' is reserved",
    ),
    (
        "postgres_roles",
        {"pgbouncer": {}, "psscript": {}},
        "postgres_roles: role 'pgbouncer' is reserved",
    ),
    (
        "postgres_roles",
        {"pg_monitor": {}, "psscript": {}},
        "postgres_roles: role 'pg_monitor' is reserved",
    ),
    ("postgres_roles", {"public": {}, "psscript": {}}, "postgres_roles: role 'public' is reserved"),
    ("postgres_roles", {"none": {}, "psscript": {}}, "postgres_roles: role 'none' is reserved"),
    (
        "postgres_roles",
        role(member_of=["nowhere"]),
        "postgres_roles/psscript/member_of: role 'nowhere' is not in postgres_roles",
    ),
    (
        "postgres_roles",
        {"other": {}},
        "postgres_databases/psscript/owner: role 'psscript' is not in postgres_roles",
    ),
]

DATABASES: list[Case] = [
    ("postgres_databases", ["x"], "postgres_databases: should be a dictionary"),
    ("postgres_databases", {"shop": None}, "postgres_databases/shop: should be a dictionary"),
    ("postgres_databases", {"shop": {}}, "postgres_databases/shop/owner: is missing"),
    ("postgres_databases", {5: {"owner": "psscript"}}, "postgres_databases/5: should be a string"),
    (
        "postgres_databases",
        {"a" * 64: {"owner": "psscript"}},
        f"postgres_databases/{'a' * 64}: {name_rule('a' * 64)}",
    ),
    (
        "postgres_databases",
        database(extentions=["x"]),
        "postgres_databases/shop/extentions: unknown key (extensions?)",
    ),
    (
        "postgres_databases",
        database(vacuum=["orders; DROP TABLE x"]),
        "postgres_databases/shop/vacuum/0: should be a schema and a table such as 'public.orders'",
    ),
    (
        "postgres_databases",
        database(extensions="pg_trgm"),
        "postgres_databases/shop/extensions: should be a list",
    ),
    (
        "postgres_databases",
        database(settings={"work_mem": 5}),
        "postgres_databases/shop/settings/work_mem: should be a string",
    ),
    (
        "postgres_databases",
        database(settings={"work_mem": "1MB\nx"}),
        "postgres_databases/shop/settings/work_mem: should be a single line",
    ),
    (
        "postgres_databases",
        database(grants={"psscript": ["SELECT"]}),
        "postgres_databases/shop/grants/psscript/0: should be 'CONNECT', 'CREATE' or 'TEMPORARY'",
    ),
    (
        "postgres_databases",
        database(grants={"psscript": "CONNECT"}),
        "postgres_databases/shop/grants/psscript: should be a list",
    ),
    (
        "postgres_databases",
        database(grants={"ghost": ["CONNECT"]}),
        "postgres_databases/shop/grants: role 'ghost' is not in postgres_roles",
    ),
    (
        "postgres_databases",
        {"shop": {"owner": "ghost"}},
        "postgres_databases/shop/owner: role 'ghost' is not in postgres_roles",
    ),
    (
        "postgres_databases",
        {"pgbouncer": {"owner": "psscript"}},
        "postgres_databases/pgbouncer: 'pgbouncer' is reserved",
    ),
    (
        "postgres_databases",
        {PROBE_DATABASE: {"owner": "psscript"}},
        "postgres_databases/datatier_health: 'datatier_health' is reserved",
    ),
    (
        "postgres_databases",
        {"template1": {"owner": "psscript"}},
        "postgres_databases/template1: 'template1' is reserved",
    ),
]

HBA: list[Case] = [
    ("postgres_hba", "local all all peer", "postgres_hba: should be a list"),
    ("postgres_hba", ["nonsense"], f"postgres_hba/0: 'nonsense' {HBA_LINE}"),
    ("postgres_hba", [""], f"postgres_hba/0: '' {HBA_LINE}"),
    ("postgres_hba", ["# comment"], f"postgres_hba/0: '# comment' {HBA_LINE}"),
    ("postgres_hba", ["host all all"], f"postgres_hba/0: 'host all all' {HBA_LINE}"),
    (
        "postgres_hba",
        ["local all all scram-sha-256\nhost all all all trust"],
        "postgres_hba/0: should be a single line",
    ),
    *(
        (
            "postgres_hba",
            ["local all all peer", line],
            f"postgres_hba/1: {line!r} should use scram-sha-256, not {method}",
        )
        for line, method in [
            ("host all all 10.0.0.0/8 trust", "trust"),
            ("host all all 10.0.0.0/8 md5", "md5"),
            ("host all all 10.0.0.0/8 password", "password"),
            ("host all all 10.0.0.0/8 ident map=x", "ident"),
            ("local all all trust", "trust"),
            ('hostssl all "my user" 10.0.0.0 255.0.0.0 trust', "trust"),
            ("host all all 10.0.0.0/8 trust # office", "trust"),
        ]
    ),
    *(
        ("postgres_hba", [line], f"postgres_hba/0: {line!r} {HBA_LINE}")
        for line in [
            "host all all 10.0.0.0/8",
            "host all all 10.0.0.0/8 scramsha256",
            "host all all 10.0.0.0/8 TRUST",
            "local all all",
        ]
    ),
]

EXTRA: list[Case] = [
    ("postgres_extra", [], "postgres_extra: should be a dictionary"),
    ("postgres_extra", {"Bad Key": "x"}, f"postgres_extra/Bad Key: {UPSTREAM}"),
    (
        "postgres_extra",
        {"log-lock-waits": "on"},
        "postgres_extra/log-lock-waits: should be a PostgreSQL parameter name",
    ),
    (
        "postgres_extra",
        {"max_connections": 500},
        "postgres_extra/max_connections: has a key of its own: postgres_max_connections",
    ),
    (
        "postgres_extra",
        {"password_encryption": "md5"},
        "postgres_extra/password_encryption: is set by Datatier",
    ),
    ("postgres_extra", {"log_lock_waits": ["on"]}, f"postgres_extra/log_lock_waits: {WORD}"),
    ("postgres_extra", {"log_lock_waits": None}, f"postgres_extra/log_lock_waits: {WORD}"),
    (
        "postgres_extra",
        {"log_line_prefix": "a\nb"},
        "postgres_extra/log_line_prefix: should be a single line",
    ),
    (
        "pgbouncer_extra",
        {"pool_mode": "session"},
        "pgbouncer_extra/pool_mode: has a key of its own: pgbouncer_pool_mode",
    ),
    ("pgbouncer_extra", {"auth_type": "md5"}, "pgbouncer_extra/auth_type: is set by Datatier"),
    (
        "pgbouncer_extra",
        {"max_prepared_statements": 5},
        "pgbouncer_extra/max_prepared_statements: "
        "has a key of its own: pgbouncer_max_prepared_statements",
    ),
    (
        "redis_extra",
        {"maxmemory-policy": "allkeys-lru"},
        "redis_extra/maxmemory-policy: has a key of its own: redis_maxmemory_policy",
    ),
    ("redis_extra", {"requirepass": SECRET}, "redis_extra/requirepass: is set by Datatier"),
    ("redis_extra", {"replicaof": "x 1"}, "redis_extra/replicaof: is set by Datatier"),
    ("redis_extra", {"include": "/x"}, "redis_extra/include: is set by Datatier"),
    ("redis_extra", {"slaveof": "x 1"}, "redis_extra/slaveof: is set by Datatier"),
    (
        "redis_extra",
        {"min-slaves-to-write": 1},
        "redis_extra/min-slaves-to-write: has a key of its own: redis_min_replicas_to_write",
    ),
    (
        "redis_extra",
        {"aclfile": "/etc/redis/users.acl"},
        "redis_extra/aclfile: should not be set: redis_password would be void beside it",
    ),
    (
        "redis_extra",
        {"rename-command": 'CONFIG ""'},
        "redis_extra/rename-command: "
        "should not be set: Sentinel cannot promote a replica without these commands",
    ),
]

PGBOUNCER: list[Case] = [
    (
        "pgbouncer_pool_mode",
        "transactions",
        "pgbouncer_pool_mode: should be 'session', 'transaction' or 'statement'",
    ),
    ("pgbouncer_max_client_conn", 0, "pgbouncer_max_client_conn: should be at least 1"),
    ("pgbouncer_max_client_conn", 60001, "pgbouncer_max_client_conn: should be at most 60000"),
    ("pgbouncer_default_pool_size", 0, "pgbouncer_default_pool_size: should be at least 1"),
    ("pgbouncer_reserve_pool_size", -1, "pgbouncer_reserve_pool_size: should be at least 0"),
    (
        "pgbouncer_query_wait_timeout",
        "2m",
        "pgbouncer_query_wait_timeout: should be a whole number",
    ),
    ("pgbouncer_server_lifetime", 1.5, "pgbouncer_server_lifetime: should be a whole number"),
    ("pgbouncer_server_login_retry", 0, "pgbouncer_server_login_retry: should be at least 1"),
    (
        "pgbouncer_server_connect_timeout",
        0,
        "pgbouncer_server_connect_timeout: should be at least 1",
    ),
    ("pgbouncer_listen_addr", "a\nb", "pgbouncer_listen_addr: should be a single line"),
    (
        "pgbouncer_default_pool_size",
        5,
        "pgbouncer_min_pool_size: should be at most pgbouncer_default_pool_size (5)",
    ),
    (
        "pgbouncer_default_pool_size",
        100,
        "pgbouncer_default_pool_size: 1 database x 107 pool connections are 107, more than the 97 "
        "that postgres_max_connections (100) leaves them",
    ),
    (
        "pgbouncer_max_db_connections",
        98,
        "pgbouncer_default_pool_size: 1 database x 98 pool connections are 98, more than the 97 "
        "that postgres_max_connections (100) leaves them",
    ),
    (
        "postgres_max_connections",
        32,
        "pgbouncer_default_pool_size: 1 database x 32 pool connections are 32, more than the 29 "
        "that postgres_max_connections (32) leaves them",
    ),
]

REDIS: list[Case] = [
    ("redis_ports", 6379, "redis_ports: should be a list"),
    ("redis_ports", [], "redis_ports: should list at least one port"),
    ("redis_ports", [0], "redis_ports/0: should be at least 1"),
    ("redis_ports", [6379, "x"], "redis_ports/1: should be a whole number"),
    ("redis_ports", [6379, 6379], "redis_ports: port 6379 is listed twice"),
    ("redis_maxmemory", "lots", f"redis_maxmemory: {REDIS_SIZE}"),
    ("redis_maxmemory", "1tb", f"redis_maxmemory: {REDIS_SIZE}"),
    ("redis_maxmemory", 512, "redis_maxmemory: should be a string"),
    ("redis_maxmemory", "512kb", "redis_maxmemory: should be at least 1mb, or '0' for no limit"),
    ("redis_maxmemory_policy", "lru", f"redis_maxmemory_policy: {POLICIES}"),
    ("redis_appendonly", "sometimes", "redis_appendonly: should be true or false"),
    ("redis_appendfsync", "never", "redis_appendfsync: should be 'always', 'everysec' or 'no'"),
    ("redis_save", "often", f"redis_save: {SAVE}"),
    ("redis_extra", {"user": "x on nopass"}, "redis_extra/user: has a key of its own: redis_users"),
    ("redis_users", {"a": {}}, "redis_users/a/commands: is missing"),
    ("redis_users", acl(commands=[]), "redis_users/a/commands: should not be empty"),
    ("redis_users", acl(comands=["+get"]), "redis_users/a/comands: unknown key (commands?)"),
    ("redis_users", acl(commands=["get"]), f"redis_users/a/commands/0: 'get' {RULE}"),
    ("redis_users", acl(commands=["+a b"]), f"redis_users/a/commands/0: '+a b' {RULE}"),
    ("redis_users", acl(commands=["nopass"]), f"redis_users/a/commands/0: 'nopass' {RULE}"),
    ("redis_users", acl(commands=[">x"]), f"redis_users/a/commands/0: '>x' {RULE}"),
    ("redis_users", acl(keys=["~a"]), f"redis_users/a/keys/0: '~a' {OF_KEYS}"),
    ("redis_users", acl(keys=["%X~a"]), f"redis_users/a/keys/0: '%X~a' {OF_KEYS}"),
    ("redis_users", acl(keys=["a b"]), f"redis_users/a/keys/0: 'a b' {BARE}"),
    ("redis_users", acl(keys=["%R~"]), f"redis_users/a/keys/0: '' {BARE}"),
    ("redis_users", acl(keys=["a\nb"]), f"redis_users/a/keys/0: 'a\\nb' {BARE}"),
    (
        "redis_users",
        acl(keys=["*", "a"]),
        "redis_users/a/keys: should have '*' alone: it has all others in it",
    ),
    (
        "redis_users",
        acl(channels=["&a"]),
        "redis_users/a/channels/0: '&a' should be a pattern such as 'app:*'",
    ),
    ("redis_users", acl("Default"), "redis_users/Default: 'Default' is reserved"),
    ("redis_users", acl("replica"), "redis_users/replica: 'replica' is reserved"),
    (
        "redis_users",
        acl("a b"),
        "redis_users/a b: name 'a b' should be letters, digits, '_', '-' or '.', at most 63",
    ),
    (
        "redis_users",
        acl("a-b") | acl("A_b"),
        "redis_users: users 'a-b' and 'A_b' would share the "
        "secret REDIS_USER_A_B_PASSWORD: give one of them a password",
    ),
    (
        "redis_min_replicas_to_write",
        1,
        "redis_min_replicas_to_write: should be less than the number of instances (1)",
    ),
]

SENTINEL: list[Case] = [
    ("sentinel_ports", [], "sentinel_ports: should list at least one port"),
    ("sentinel_ports", ["a"], "sentinel_ports/0: should be a whole number"),
    (
        "sentinel_master_name",
        "my master",
        "sentinel_master_name: should be letters, digits, '.', '_' and '-'",
    ),
    ("sentinel_quorum", 0, "sentinel_quorum: should be at least 1"),
    ("sentinel_quorum", 4, "sentinel_quorum: 4 is more than the number of Sentinels (3)"),
    ("sentinel_ports", [26379], "sentinel_quorum: 2 is more than the number of Sentinels (1)"),
    ("sentinel_quorum", 1, "sentinel_quorum: 1 is not a majority of 3 Sentinels: should be 2"),
    (
        "sentinel_ports",
        [26379, 26380, 26381, 26382],
        "sentinel_quorum: 2 is not a majority of 4 Sentinels: should be 3",
    ),
    (
        "sentinel_down_after_milliseconds",
        50,
        "sentinel_down_after_milliseconds: should be at least 100",
    ),
    (
        "sentinel_failover_timeout",
        3_600_001,
        "sentinel_failover_timeout: should be at most 3600000",
    ),
    ("sentinel_parallel_syncs", 0, "sentinel_parallel_syncs: should be at least 1"),
]

PORTS: list[Case] = [
    (
        "pgbouncer_listen_port",
        5432,
        "pgbouncer_listen_port: port 5432 is also that of postgres (postgres_port)",
    ),
    (
        "redis_ports",
        [6379, 6432],
        "redis_ports: port 6432 is also that of pgbouncer (pgbouncer_listen_port)",
    ),
    (
        "sentinel_ports",
        [6379, 26380, 26381],
        "sentinel_ports: port 6379 is also that of redis-6379 (redis_ports)",
    ),
    (
        "postgres_port",
        26381,
        "sentinel_ports: port 26381 is also that of postgres (postgres_port)",
    ),
]

URL = "should be a URL that begins with http:// or https://"
PATH = "should be an absolute path such as '/backups'"
BACKUP: list[Case] = [
    ("backup_schedule_full", "61 * * * *", "backup_schedule_full: minute: '61' should be 0 to 59"),
    (
        "backup_schedule_drill",
        "0 2 30 2 *",
        "backup_schedule_drill: '0 2 30 2 *' never happens: no month has such a day",
    ),
    (
        "backup_schedule_redis",
        "* * * *",
        "backup_schedule_redis: '* * * *' has 4 fields; should be five: minute, hour, day of "
        "month, month, day of week",
    ),
    ("backup_dir", "backups", f"backup_dir: {PATH}"),
    ("backup_scripts_dir", "/", f"backup_scripts_dir: {PATH}"),
    ("backup_dir", "/srv/../etc", f"backup_dir: {PATH}"),
    ("backup_dir", "/tmp", "backup_dir: should be a directory of its own, not '/tmp'"),
    (
        "backup_dir",
        "/var/lib/postgresql/15",
        "backup_dir: should be a directory of its own, not '/var/lib/postgresql/15'",
    ),
    (
        "backup_scripts_dir",
        "/backups/scripts",
        "backup_scripts_dir: should not be inside backup_dir (/backups)",
    ),
    ("backup_s3_bucket", "s3://x", "backup_s3_bucket: should be a bucket's name, without s3://"),
    ("backup_s3_region", "us east", "backup_s3_region: should be a region such as 'us-east-1'"),
    ("backup_s3_prefix", "../x", "backup_s3_prefix: should be a folder such as 'estate/one'"),
    (
        "postgres_extra",
        {"wal_level": "minimal"},
        "postgres_extra/wal_level: should not be minimal: WAL is archived for backups",
    ),
    (
        "postgres_extra",
        {"archive_library": "basic_archive"},
        "postgres_extra/archive_library: conflicts with archive_command, which backups use",
    ),
    ("backup_alert_webhook", "hooks.example.org/x", f"backup_alert_webhook: {URL}"),
    ("backup_heartbeat_url", "ftp://example.org", f"backup_heartbeat_url: {URL}"),
    ("backup_s3_endpoint", "minio:9000", f"backup_s3_endpoint: {URL}"),
    (
        "backup_retention_days",
        0,
        "backup_retention_days: should be at least 1",
    ),
    (
        "backup_s3_bucket",
        "copies",
        "backup_s3_bucket: needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in .env",
    ),
    (
        "backup_schedule_ful",
        "0 2 * * *",
        "backup_schedule_ful: unknown key (backup_schedule_full?)",
    ),
]

CASES = [
    *BACKUP,
    *STACK,
    *UNKNOWN,
    *POSTGRES,
    *ROLES,
    *DATABASES,
    *HBA,
    *EXTRA,
    *PGBOUNCER,
    *REDIS,
    *SENTINEL,
    *PORTS,
]


@pytest.mark.parametrize(("key", "value", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_sentence_says_what_is_wrong(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    assert refused(tmp_path, {key: value}, EVERYTHING) == [f"db1: {message}"]


def test_the_catalogue_is_large() -> None:
    assert len(CASES) >= 55


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    data = {"postgres_port": 0, "postgres_databases": {"shop": {"ownr": "x"}}, "redis_ports": []}
    assert refused(tmp_path, data, EVERYTHING) == [
        "db1: postgres_databases/shop/owner: is missing",
        "db1: postgres_databases/shop/ownr: unknown key (owner?)",
        "db1: postgres_port: should be at least 1",
        "db1: redis_ports: should list at least one port",
    ]


def test_a_misspelt_prefix_with_a_misspelt_key_is_still_seen(tmp_path: Path) -> None:
    (message,) = refused(tmp_path, {"pgbuncer_port": 6432}, EVERYTHING) or ["nothing"]
    assert message.startswith("db1: pgbuncer_port: unknown key")


def test_other_peoples_keys_are_left_alone(tmp_path: Path) -> None:
    data = {"ssh_user": "admin", "ssh_port": 22, "_sudo": True, "colour": "blue"}
    assert refused(tmp_path, data, EVERYTHING) == []


# --- Secrets -------------------------------------------------------------------------------------

SECRET_CASES: list[Case] = [
    ("postgres_password", "", "postgres_password: should not be empty"),
    ("postgres_password", "short", "postgres_password: should have at least 6 characters"),
    ("postgres_password", f"{SECRET}\n", f"postgres_password: {ASCII}"),
    ("postgres_password", f"{SECRET}é", f"postgres_password: {ASCII}"),
    ("postgres_password", [SECRET], "postgres_password: should be a string"),
    ("postgres_password", {SECRET: SECRET}, "postgres_password: should be a string"),
    ("redis_password", "", "redis_password: should not be empty"),
    *(
        (
            "redis_password",
            f"{SECRET}{char}",
            "redis_password: should not contain blanks, quotes or backslashes: "
            "Sentinel cannot save them",
        )
        for char in (" ", "'", '"', "\\")
    ),
    ("redis_password", f"{SECRET}\x07", f"redis_password: {ASCII}"),
    ("redis_password", f"{SECRET}ü", f"redis_password: {ASCII}"),
    ("redis_password", 71234567, "redis_password: should be a string"),
    ("redis_users", acl(password="x"), "redis_users/a/password: should have at least 6 characters"),
    ("redis_users", acl(password=f"{SECRET}ü"), f"redis_users/a/password: {ASCII}"),
    (
        "postgres_roles",
        role(password=""),
        "postgres_roles/psscript/password: should not be empty",
    ),
    (
        "postgres_roles",
        role(password=f"{SECRET}\t"),
        f"postgres_roles/psscript/password: {ASCII}",
    ),
    (
        "postgres_roles",
        role(password=[SECRET]),
        "postgres_roles/psscript/password: should be a string",
    ),
]


@pytest.mark.parametrize(
    ("key", "value", "message"), SECRET_CASES, ids=[case[2] for case in SECRET_CASES]
)
def test_a_secret_is_refused_without_being_shown(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    messages = refused(tmp_path, {key: value}, EVERYTHING)
    assert messages == [f"db1: {message}"]
    assert SECRET not in messages[0]
    assert "71234567" not in messages[0]


@pytest.mark.parametrize("method", ["ldpa", "password"])
def test_a_refused_line_of_pg_hba_is_shown_without_its_secret(method: str, tmp_path: Path) -> None:
    line = f"host all all all {method} ldapserver=ldap1 ldapbindpasswd={SECRET}"
    (message,) = refused(tmp_path, {"postgres_hba": [line]}, EVERYTHING)
    assert f"'host all all all {method} ldapserver=ldap1 ldapbindpasswd=<secret " in message
    assert SECRET not in message


def test_settings_do_not_show_secrets_when_printed(tmp_path: Path) -> None:
    data = {"redis_password": SECRET, "postgres_roles": role(password=SECRET)}
    everything = helpers.estate({"db1": data | {"address": "10.0.0.1"}}, ALL_ON_DB1, tmp_path)
    assert everything.problems == []
    assert SECRET not in repr(helpers.node(everything, "db1").settings)


def test_the_validators_own_error_shows_no_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        RedisSettings.model_validate({"password": f"{SECRET}\n", "ports": [0]})
    assert SECRET not in str(caught.value)


ALL_ON_DB1 = {group: ["db1"] for group in EVERYTHING}
# The secrets that no setting holds.
GENERATED = sorted({*helpers.SECRETS} - {"POSTGRES_PASSWORD", "REDIS_PASSWORD"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("POSTGRES_PASSWORD", f"db1: postgres_password: {ASCII}"),
        ("REDIS_PASSWORD", f"db1: redis_password: {ASCII}"),
        *((name, f"db1: {name}: {ASCII}") for name in GENERATED),
    ],
)
def test_secrets_of_the_environment_are_checked_like_settings(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"{SECRET}é")
    assert refused(tmp_path, {}, EVERYTHING) == [message]


BUCKET = {"backup_s3_bucket": "copies", "backup_s3_endpoint": "https://s3.example"}
# Each way in which settings name a secret.
NAMING = BUCKET | {"redis_users": acl(), "backup_s3_further": [{"bucket": "far-away"}]}
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "s3-secret",
    "BACKUP_S3_FAR_AWAY_ACCESS_KEY": "AKIA-far-away",
    "BACKUP_S3_FAR_AWAY_SECRET_KEY": "s3-secret-far-away",
}


def _names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every name that is looked up in the environment or `.env`, by whichever component."""
    asked = set[str]()
    find = Secrets.find

    def noting(store: Secrets, name: str) -> str | None:
        asked.add(name)
        return find(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(Secrets, "find", noting)
        assert refused(tmp_path, NAMING, EVERYTHING) == []
    # The others are settings that may stand there.
    return {name for name in asked if re.search("PASS|SECRET|KEY", name)}


def test_no_secret_of_the_environment_goes_anywhere_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second line would be one of userlist.txt, of Compose's `.env`, of a request to S3."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    names = _names(tmp_path, monkeypatch)
    assert {*helpers.SECRETS, *KEYS, "BACKUP_SIGNING_KEY", "REDIS_USER_A_PASSWORD"} < names
    for name in sorted(names):
        for value in (f"{SECRET}\n{SECRET}", f"{SECRET}\r", f"{SECRET}\x1b"):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                messages = refused(tmp_path, NAMING, EVERYTHING)
                assert len(messages) == 1 and SECRET not in messages[0], (name, messages)


def test_further_buckets_are_other_places_with_keys_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    far, same = {"bucket": "far-away"}, {**BUCKET, "backup_s3_prefix": "shop"}
    first = {"bucket": "copies", "endpoint": BUCKET["backup_s3_endpoint"], "access_key": "AKIA"}
    first = {**first, "secret_key": "s3-secret-of-it"}

    def found(*further: Data, of: Data = same) -> list[str]:
        return refused(tmp_path, {**of, "backup_s3_further": further}, EVERYTHING)

    assert found(far) == []
    # Another folder, or another service, is another place.
    assert found(far, {**first, "prefix": "other"}, {**far, "endpoint": "https://x.example"}) == []
    key = "db1: backup_s3_further"
    assert found(far, of={}) == [f"{key}/0: needs a first bucket: set backup_s3_bucket"]
    assert found(first) == [f"{key}/0/bucket: copies is there already"]
    assert found(far, far) == [f"{key}/1/bucket: far-away is there already"]
    needed = "BACKUP_S3_OTHER_ACCESS_KEY and BACKUP_S3_OTHER_SECRET_KEY"
    assert found({"bucket": "other"}) == [f"{key}/0: needs {needed} in .env"]
    assert found({}) == [f"{key}/0/bucket: is missing"]
    assert found({"bucket": ""}) == [f"{key}/0/bucket: should be a bucket's name, without s3://"]


@pytest.mark.parametrize("length", [1024, 1025])
def test_a_secret_is_as_long_as_the_strictest_takes(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGBOUNCER_AUTH_PASSWORD", "x" * length)
    messages = refused(tmp_path, {}, EVERYTHING)
    said = ["db1: PGBOUNCER_AUTH_PASSWORD: should have at most 1024 characters"]
    assert messages == (said if length > 1024 else [])


def test_two_roles_do_not_share_a_generated_password(tmp_path: Path) -> None:
    roles: Data = {"psscript": {}, "app-ro": {}, "app_ro": {}}
    assert refused(tmp_path, {"postgres_roles": roles}, EVERYTHING) == [
        "db1: postgres_roles: roles 'app-ro' and 'app_ro' would share the secret "
        "POSTGRES_ROLE_APP_RO_PASSWORD: give one of them a password"
    ]


# --- Several hosts -------------------------------------------------------------------------------

THREE = {name: {"address": f"10.0.0.{number}"} for number, name in enumerate("abc", 1)}
REDIS_AND_SENTINEL = {"redis": ["a", "b", "c"], "sentinel": ["a", "b", "c"]}
ONE_SERVER_TWO_POOLERS = {"postgres": ["a"], "pgbouncer": ["b", "c"]}

CLUSTERS: list[tuple[dict[str, list[str]], dict[str, dict[str, Any]], list[str]]] = [
    (
        REDIS_AND_SENTINEL,
        {"b": {"redis_password": SECRET}},
        ["a: redis_password: should be the same on all hosts of the group: any of them may "
         "become master"],
    ),
    (
        REDIS_AND_SENTINEL,
        {name: {"redis_users": acl(keys=[name])} for name in "abc"},
        ["a: redis_users: should be the same on all hosts of the group: any of them may "
         "become master"],
    ),
    (
        REDIS_AND_SENTINEL,
        {"b": {"sentinel_master_name": "other"}},
        ["a: sentinel_master_name: should be the same on all hosts, not mymaster and other"],
    ),
    (
        REDIS_AND_SENTINEL,
        {"c": {"sentinel_quorum": 3}},
        ["a: sentinel_quorum: should be the same on all hosts, not 2 and 3"],
    ),
    (
        REDIS_AND_SENTINEL,
        {"b": {"address": "127.0.0.1"}},
        [
            "b: address: should not be a loopback address: the other Redis hosts cannot reach it",
            "b: address: should not be a loopback address: the other Sentinels cannot reach it",
        ],
    ),
    (
        {"redis": ["a", "b", "c"]},
        {"b": {"address": "::1"}},
        [
            "b: address: should be an IPv4 address on a host with Redis or Sentinel",
            "b: address: should not be a loopback address: the other Redis hosts cannot reach it",
        ],
    ),
    (
        {"redis": ["a", "b", "c"]},
        {"b": {"address": "0.0.0.0"}},
        ["b: address: should be the IP address of one host, not '0.0.0.0'"],
    ),
    (
        {"redis": ["a", "b", "c"]},
        {"b": {"address": "10.0.0.1"}},
        ["b: address: 10.0.0.1 is also that of a"],
    ),
    (
        {"redis": ["a", "b"]},
        {name: {"redis_min_replicas_to_write": 2} for name in "ab"},
        [
            "a: redis_min_replicas_to_write: should be less than the number of instances (2)",
            "b: redis_min_replicas_to_write: should be less than the number of instances (2)",
        ],
    ),
    (
        ONE_SERVER_TWO_POOLERS,
        {"b": {"pgbouncer_default_pool_size": 80}},
        ["b: pgbouncer_default_pool_size: 1 database x 87 + 32 pool connections are 119, more than "
         "the 97 that postgres_max_connections (100) leaves them"],
    ),
    (
        ONE_SERVER_TWO_POOLERS,
        {"a": {"postgres_databases": {n: {"owner": "psscript"} for n in ("shop", "stock")}}},
        ["b: pgbouncer_default_pool_size: 2 databases x 32 + 32 pool connections are 128, more "
         "than the 97 that postgres_max_connections (100) leaves them"],
    ),
    (
        ONE_SERVER_TWO_POOLERS,
        {"a": {"address": "127.0.0.1"}},
        ["a: address: should not be a loopback address: the PgBouncer on b, c cannot reach it"],
    ),
    (
        {"pgbouncer": ["a"]},
        {},
        ["a: group pgbouncer: needs a host in group 'postgres'"],
    ),
    (
        {"sentinel": ["a", "b", "c"]},
        {},
        [f"{name}: group sentinel: needs a host in group 'redis'" for name in "abc"],
    ),
    (
        {"postgres": ["a", "b"], "backup": ["b"]},
        {},
        ["b: group backup: should be a host of its own where there is a standby: it outlives both"],
    ),
    (
        {"postgres": ["a"], "backup": ["b", "c"]},
        {},
        ["c: group backup: should have one host: it holds the one repository"],
    ),
    (
        {"backup": ["a"]},
        {},
        ["a: group backup: needs a host in group 'postgres' or 'redis'"],
    ),
    (
        {"postgres": ["a"], "backup": ["b"]},
        {"b": {"address": "127.0.0.1"}},
        ["b: address: should not be a loopback address: PostgreSQL's host cannot reach it"],
    ),
    (
        {"redis": ["a"], "backup": ["b"]},
        {"a": {"address": "127.0.0.1"}},
        ["a: address: should not be a loopback address: the backup host cannot reach it"],
    ),
    (
        {"postgres": ["a"]},
        {"a": {"postgres_superuser_reserved_connections": 100}},
        ["a: postgres_superuser_reserved_connections: should be less than "
         "postgres_max_connections (100)"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "changes", "messages"), CLUSTERS, ids=[case[2][0] for case in CLUSTERS]
)
def test_contradictions_between_hosts(
    groups: dict[str, list[str]],
    changes: dict[str, dict[str, Any]],
    messages: list[str],
    tmp_path: Path,
) -> None:
    members = {name for names in groups.values() for name in names}
    hosts = {n: {**data, **changes.get(n, {})} for n, data in THREE.items() if n in members}
    found = helpers.problems(helpers.estate(hosts, groups, tmp_path))
    assert found == messages
    assert SECRET not in "".join(found)


def test_ports_may_be_the_same_on_different_hosts(tmp_path: Path) -> None:
    everything = helpers.estate(THREE, REDIS_AND_SENTINEL, tmp_path)
    assert helpers.problems(everything) == []


@pytest.mark.parametrize("name", ["nohost.invalid", "a..b", f"{'x' * 70}.invalid"])
def test_a_name_that_does_not_resolve(name: str, tmp_path: Path) -> None:
    everything = helpers.estate({name: {}}, {"postgres": [name]}, tmp_path)
    assert helpers.problems(everything) == [
        f"{name}: address: {name!r} does not resolve here: set the IP address that other hosts use"
    ]


# --- What is right -------------------------------------------------------------------------------

DEFAULTS: list[tuple[type[Any], dict[str, Any]]] = [
    (StackSettings, {"stack_name": "psscript", "address": "", "service_manager": "auto"}),
    (
        PostgresSettings,
        {
            "port": 5432,
            "listen_addresses": None,
            "version": None,
            "extensions": ("pg_stat_statements",),
            "hba": (),
            "max_connections": 100,
            "shared_buffers": None,
            "effective_cache_size": None,
            "work_mem": None,
            "extra": {},
        },
    ),
    (
        PgbouncerSettings,
        {
            "listen_port": 6432,
            "pool_mode": "transaction",
            "max_client_conn": 1000,
            "default_pool_size": 25,
            "reserve_pool_size": 5,
            "query_wait_timeout": 120,
            "server_login_retry": 1,
            "server_connect_timeout": 5,
            "extra": {},
        },
    ),
    (
        RedisSettings,
        {
            "ports": (6379,),
            "maxmemory": "512mb",
            "maxmemory_policy": "noeviction",
            "appendonly": True,
            "extra": {},
        },
    ),
    (
        SentinelSettings,
        {
            "ports": (26379,),
            "master_name": "mymaster",
            "quorum": 2,
            "down_after_milliseconds": 5000,
            "failover_timeout": 10000,
            "parallel_syncs": 1,
        },
    ),
    (
        BackupSettings,
        {
            "dir": "/backups",
            "scripts_dir": "/scripts",
            "schedule_full": "0 2 * * *",
            "schedule_incremental": "0 */6 * * *",
            "schedule_redis": "0 */4 * * *",
            "schedule_cleanup": "0 3 * * *",
            "schedule_health": "*/5 * * * *",
            "schedule_verify": "0 4 * * *",
            "schedule_drill": "0 5 * * 0",
            "retention_days": 30,
            "encryption_passphrase": None,
        },
    ),
]


@pytest.mark.parametrize(("settings", "defaults"), DEFAULTS)
def test_the_contracts_keys_and_defaults(
    settings: type[Any], defaults: dict[str, Any], tmp_path: Path
) -> None:
    hosts = {name: {"address": f"10.0.0.{i}"} for i, name in enumerate("abc", 1)}
    groups = {group: list("abc") for group in ("redis", "sentinel")}
    groups |= {"postgres": ["a"], "pgbouncer": ["a"], "backup": ["a"]}
    everything = helpers.estate(hosts, groups, tmp_path)
    assert helpers.problems(everything) == []
    node = helpers.node(everything, "a")
    chosen = node.stack if settings is StackSettings else node.the(settings)
    expected = defaults | ({"address": "10.0.0.1"} if settings is StackSettings else {})
    assert {key: getattr(chosen, key) for key in expected} == expected


def test_defaults_that_follow_the_stack_and_the_secrets(tmp_path: Path) -> None:
    data = {"address": "10.0.0.1", "stack_name": "shop"}
    everything = helpers.estate({"db1": data}, {"postgres": ["db1"], "redis": ["db1"]}, tmp_path)
    postgres = helpers.node(everything, "db1").the(PostgresSettings)
    redis = helpers.node(everything, "db1").the(RedisSettings)
    assert {name: database.owner for name, database in postgres.databases.items()} == {
        "shop": "shop"
    }
    assert list(postgres.roles) == ["shop"]
    assert postgres.password.get_secret_value() == helpers.SECRETS["POSTGRES_PASSWORD"]
    assert redis.password.get_secret_value() == helpers.SECRETS["REDIS_PASSWORD"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("postgres_port", "5433"),
        ("postgres_shared_buffers", "512MB"),
        ("postgres_statement_timeout", "0"),
        ("postgres_version", 17),
        ("postgres_hba", ["hostssl all all 10.0.0.0/8 scram-sha-256 clientcert=verify-ca"]),
        ("postgres_hba", ["host all all 10.0.0.0 255.0.0.0 scram-sha-256"]),
        ("postgres_hba", ["hostnossl all all all reject", "local all all peer map=x"]),
        ("postgres_extra", {"log_lock_waits": "on", "auto_explain.log_analyze": True}),
        ("postgres_roles", role(valid_until="2030-01-31T00:00:00Z", member_of=["pg_monitor"])),
        ("postgres_databases", database(grants={"psscript": ["CONNECT", "TEMPORARY"]})),
        ("pgbouncer_listen_addr", "127.0.0.1"),
        ("pgbouncer_max_db_connections", 97),
        ("redis_password", "#no,blanks;$dollar&more=yes"),
        ("postgres_password", "with space, 'quotes\", $dollar and \\"),
        ("redis_maxmemory", "0"),
        ("redis_maxmemory", "1GB"),
        ("redis_save", ""),
        ("redis_extra", {"lfu-log-factor": 10}),
        ("sentinel_quorum", 3),
        ("service_manager", "runit"),
        ("backup_schedule_drill", ""),
        ("backup_dir", "/srv/backups"),
        ("backup_s3_prefix", "estate/one"),
        ("postgres_extra", {"wal_level": "logical"}),
        ("backup_schedule_full", "@daily"),
        ("backup_alert_webhook", "https://example.org/hook?key=1"),
    ],
)
def test_good_values_are_accepted(key: str, value: Any, tmp_path: Path) -> None:
    assert refused(tmp_path, {key: value}, EVERYTHING) == []


def test_an_ipv6_address_will_do_where_no_sentinel_has_to_know_it(tmp_path: Path) -> None:
    assert refused(tmp_path, {"address": "2001:db8::1"}, ("postgres", "pgbouncer")) == []


def test_settings_are_frozen(tmp_path: Path) -> None:
    everything = helpers.estate({"a": {"address": "10.0.0.1"}}, {"redis": ["a"]}, tmp_path)
    settings = helpers.node(everything, "a").the(RedisSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.ports = (1,)
