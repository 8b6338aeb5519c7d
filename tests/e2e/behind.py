"""What hands do to running servers behind the settings' back, and what a plan says of each."""

from __future__ import annotations

from typing import NamedTuple

from tests.e2e.project import Run
from tests.lab import Host


class Way(NamedTuple):
    """A command as root on a host, and how the plan begins that names it; `{}` is the version."""

    command: str
    line: str


_ETC = "/etc/postgresql/{v}/main"
_AUTO = "(/var/lib/postgresql/{v}/main/postgresql.auto.conf:"
_SQL = 'cd /; runuser -u postgres -- psql -XAtqw -c "'
_CONSOLE = "cd /; runuser -u postgres -- psql -XAtqw -h /run/postgresql -p 6432 -U pgbouncer -c "


def _sql(statement: str) -> str:
    return f'{_SQL}{statement}"'


POSTGRES = [
    Way(
        _sql("ALTER SYSTEM SET work_mem = '1MB'"),
        f"PostgreSQL: work_mem: 1MB by ALTER SYSTEM {_AUTO}",
    ),
    Way(
        f"echo 'lock_timeout = 1' >{_ETC}/conf.d/zz.conf",
        f"PostgreSQL: lock_timeout: 1 by {_ETC}/conf.d/zz.conf:1, not 10s",
    ),
    Way(
        f"echo 'log_min_duration_statement = 5' >>{_ETC}/postgresql.conf",
        f"PostgreSQL: log_min_duration_statement: 5 by {_ETC}/postgresql.conf:",
    ),
    # No setting says it, but data are lost by it.
    Way(
        f"echo 'fsync = off' >>{_ETC}/postgresql.conf",
        f"PostgreSQL: fsync: off by {_ETC}/postgresql.conf:",
    ),
    Way(
        _sql("ALTER SYSTEM SET autovacuum = off"),
        f"PostgreSQL: autovacuum: off by ALTER SYSTEM {_AUTO}",
    ),
    # Every commit would wait, until it is loaded away.
    Way(
        _sql("ALTER SYSTEM SET synchronous_standby_names = 'nowhere'"),
        f"PostgreSQL: synchronous_standby_names: nowhere by ALTER SYSTEM {_AUTO}",
    ),
    Way(f"echo manual >{_ETC}/start.conf", f"PostgreSQL: by {_ETC}/start.conf no boot starts it"),
    Way(_sql("ALTER ROLE ALL SET geqo = off"), "all roles: reset geqo"),
    Way(_sql("ALTER ROLE psscript SET work_mem = '3MB'"), "role psscript: reset work_mem"),
    Way(
        _sql("ALTER ROLE psscript IN DATABASE psscript SET search_path = x"),
        "role psscript in psscript: reset search_path",
    ),
    Way(
        _sql("ALTER DATABASE psscript SET default_transaction_read_only = on"),
        "database psscript: reset default_transaction_read_only",
    ),
    # Lookups of the pooler and backups have sessions there.
    Way(_sql("ALTER DATABASE postgres SET lock_timeout = 7"), "database postgres: reset lock"),
    Way(
        _sql("ALTER TABLESPACE pg_default SET (random_page_cost = 99)"),
        "tablespace pg_default: reset random_page_cost",
    ),
    Way(_sql("SELECT pg_reload_conf()"), "postgres: reload"),
    # Loaded once, and no file says so any more.
    Way(
        f"echo 'random_page_cost = 9' >{_ETC}/conf.d/zy.conf; {_sql('SELECT pg_reload_conf()')}; "
        f"sleep 0.5; rm {_ETC}/conf.d/zy.conf",
        "PostgreSQL: random_page_cost: 9 by the server",
    ),
]
# What the server has started with.
STARTED = [
    Way(
        _sql("ALTER SYSTEM SET max_connections = 90"),
        f"PostgreSQL: max_connections: 90 by ALTER SYSTEM {_AUTO}",
    ),
    Way(
        f"cp -p {_ETC}/pg_hba.conf {_ETC}/other.conf; "
        f"echo \"hba_file = '{_ETC}/other.conf'\" >>{_ETC}/postgresql.conf",
        f"PostgreSQL: hba_file: {_ETC}/other.conf by {_ETC}/postgresql.conf:",
    ),
    Way(
        f"echo \"pg_ctl_options = '-o --random_page_cost=3'\" >>{_ETC}/pg_ctl.conf",
        "PostgreSQL: random_page_cost: 3 by the server's command line "
        f"({_ETC}/pg_ctl.conf, or its unit)",
    ),
]


def _dropin(unit: str, words: str, line: str) -> Way:
    """A drop-in by hand, which wins from the next start on; `line` is what the plan says first."""
    file = f"/etc/systemd/system/{unit}.service.d/zz.conf"
    text = f"[Service]\\n{words}\\n"
    command = f"mkdir -p {file.rpartition('/')[0]}; printf '{text}' >{file}"
    key = words.rpartition("=")[0].split("\\n")[-1]
    number = 2 + words.count("\\n")
    return Way(command, f"{line} ({file}:{number} ({key}) wins over its unit")


_STATE = "/var/lib/redis/sentinel-26380/sentinel.conf"
UNITS = [
    _dropin("postgresql@{v}-main", "Group=daemon", "postgres: restart"),
    _dropin(
        "pgbouncer",
        r"ExecStart=\nExecStart=/usr/sbin/pgbouncer /etc/pgbouncer/hand.ini",
        "pgbouncer: restart",
    ),
    _dropin(
        "redis-6380",
        r"ExecStart=\nExecStart=/usr/bin/redis-server --port 6380",
        "redis-6380: restart",
    ),
    # No line of it starts anything else yet.
    _dropin("redis-6381", "User=root", "redis-6381: restart"),
    _dropin(
        "redis-sentinel-26380",
        rf"ExecStart=\nExecStart=/usr/bin/redis-server {_STATE} --sentinel",
        "redis-sentinel-26380: restart",
    ),
]
PGBOUNCER = [
    Way(
        f"{_CONSOLE}\"SET {key} = '{value}'\" pgbouncer", f"pgbouncer: {key} is {value} at run time"
    )
    for key, value in {
        "default_pool_size": "3",
        "pool_mode": "session",
        "query_wait_timeout": "7",
        "auth_type": "trust",
        "ignore_startup_parameters": "options",
        # Keys that no setting of ours says.
        "server_login_retry": "99",
        "server_reset_query": "SELECT 1",
        "log_connections": "0",
    }.items()
]
REDIS = [
    Way(
        f"redis-cli -p {port} CONFIG SET {key} '{value}'",
        f"redis-{port}: {line}",
    )
    for port, key, value, line in [
        (6379, "maxmemory", "1048576", "reload (maxmemory, maxmemory-policy, min-replicas-max-lag"),
        (6379, "maxmemory-policy", "allkeys-lru", "reload (maxmemory, maxmemory-policy"),
        (6379, "min-replicas-max-lag", "3", "reload (maxmemory, maxmemory-policy"),
        # No setting has it.
        (
            6379,
            "timeout",
            "55",
            "reload (maxmemory, maxmemory-policy, min-replicas-max-lag, timeout",
        ),
        (6380, "appendonly", "no", "reload (appendonly, masterauth, save: changed by hand)"),
        (6380, "save", "", "reload (appendonly, masterauth, save: changed by hand)"),
        (6380, "masterauth", "other", "reload (appendonly, masterauth, save: changed by hand)"),
        (6381, "requirepass", "other", "reload (requirepass: changed by hand)"),
    ]
]
SENTINEL = [
    Way(f"redis-cli -p {port} SENTINEL {command}", f"redis-sentinel-{port}: {line}")
    for port, command, line in [
        (26379, "SET mymaster quorum 3", "quorum 2"),
        (26379, "SET mymaster failover-timeout 77", "failover-timeout 10000"),
        (26379, "CONFIG SET resolve-hostnames yes", "resolve-hostnames no"),
        # Of times that no file keeps.
        (26379, "DEBUG INFO-PERIOD 60000", "info-period 10000"),
        (
            26379,
            "SET mymaster master-reboot-down-after-period 9",
            "master-reboot-down-after-period",
        ),
        (26380, "SET mymaster rename-command CONFIG guess", "the master's command CONFIG has"),
        (26380, "CONFIG SET sentinel-pass other", "password of the other Sentinels"),
        (26379, "SET mymaster auth-user nobody", "comes to the instances as datatier-sentinel"),
        (26381, "SET mymaster auth-pass other", "comes to the instances as datatier-sentinel"),
    ]
]
_SCRIPT = "sentinel notification-script mymaster /bin/true"
SENTINEL.append(
    Way(
        "systemctl stop redis-sentinel-26381 && "
        f"echo '{_SCRIPT}' >>/var/lib/redis/sentinel-26381/sentinel.conf && "
        "systemctl start redis-sentinel-26381",
        "redis-sentinel-26381: forget mymaster, which has a notification-script",
    )
)


def go(host: Host, ways: list[Way], version: int) -> None:
    """Makes the servers differ."""
    for way in ways:
        host.run(way.command.replace("{v}", str(version)))


def check_named(gate: Run, ways: list[Way], version: int) -> None:
    """Asserts that the gate says of each way who wins."""
    assert gate.code == 2, gate.output
    lines = [way.line.replace("{v}", str(version)) for way in ways]
    assert [line for line in lines if line not in gate.stdout] == [], gate.stdout
