"""Changes of settings, drawn at random: what they concern, and what the servers say after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Data = Mapping[str, Any]

POSTGRES = frozenset({"PostgreSQL: configuration", "PostgreSQL: service"})
SECRETS = frozenset({"Secrets: generate what is missing", "Secrets: record"})
SQL = SECRETS | {"PostgreSQL: roles and databases"}
PGBOUNCER = frozenset({"PgBouncer: configuration", "PgBouncer: service"})
REDIS = frozenset({"Redis: configuration", "Redis: service", "Redis: replicas", "Redis: master"})
MONITORING = frozenset({"Sentinel: monitoring"})
SENTINEL = MONITORING | {
    *("Sentinel: users", "Sentinel: configuration", "Sentinel: service", "Sentinel: rights"),
}
BACKUP = frozenset({"Backup: configuration", "Backup: passwords"})
EVERYTHING = "deploy.py"
TASKS = {
    "tasks.postgres.configure": POSTGRES,
    "tasks.pgbouncer.configure": PGBOUNCER,
    "tasks.redis.configure": REDIS,
    "tasks.sentinel.configure": SENTINEL,
    "tasks.backup.configure": BACKUP,
}


@dataclass(frozen=True)
class Choice:
    """Settings that are changed together.

    Attributes:
        shows: what servers call it, and what they say it is.
    """

    settings: Data
    shows: Mapping[str, str]


@dataclass(frozen=True)
class Knob:
    """Something to turn: choices besides the default, and the operations that may follow."""

    operations: frozenset[str]
    choices: Sequence[Choice]


@dataclass(frozen=True)
class Step:
    """One change: the settings after it.

    Attributes:
        task: what is run; the component's own where that is enough, or all of it.
        operations: those that it may concern; nothing else may have anything to do.
        shows: everything that was chosen until now, as the servers call it.
    """

    task: str
    settings: Data
    operations: frozenset[str]
    shows: Mapping[str, str]


def _knob(operations: frozenset[str], key: str, name: str, *values: Any) -> Knob:
    """Values that a server repeats; a pair is a value and what the server makes of it."""
    pairs = [value if isinstance(value, tuple) else (value, str(value)) for value in values]
    return Knob(operations, [Choice({key: value}, {name: said}) for value, said in pairs])


def _extras(operations: frozenset[str], key: str, server: str, *choices: dict[str, Any]) -> Knob:
    """Keys of a server without a setting of their own; each choice takes others away."""
    words = {True: "on", False: "off"}
    return Knob(
        operations,
        [
            Choice(
                {key: extra},
                {
                    f"{server} {name}": words[value] if isinstance(value, bool) else str(value)
                    for name, value in extra.items()
                },
            )
            for extra in choices
        ],
    )


def _postgres(name: str, *values: Any) -> Knob:
    return _knob(POSTGRES, f"postgres_{name}", f"postgres {name}", *values)


def _pgbouncer(name: str, *values: Any) -> Knob:
    return _knob(PGBOUNCER, f"pgbouncer_{name}", f"pgbouncer {name}", *values)


def _redis(name: str, *values: Any) -> Knob:
    return _knob(REDIS, f"redis_{name}", f"redis {name.replace('_', '-')}", *values)


def _sentinel(name: str, *values: Any) -> Knob:
    return _knob(MONITORING, f"sentinel_{name}", f"sentinel {name.replace('_', '-')}", *values)


def _backup(name: str, *values: Any) -> Knob:
    return _knob(BACKUP, f"backup_{name}", f"backup {name}", *values)


_HBA = "host psscript psscript 10.99.{}.0/24 scram-sha-256"
_ANALYST = {"password": "analyst-Password-1", "member_of": ["pg_read_all_data"]}
_REPORTS = {"owner": "analyst", "extensions": ["pg_trgm"], "grants": {"psscript": ["CONNECT"]}}
_PASSWORD = "another-Password-of-everybody"


def _catalogue(roles: Data, databases: Data, **shows: str) -> Choice:
    """Roles and databases besides the application's."""
    settings = {
        "postgres_roles": {"psscript": {}, **roles},
        "postgres_databases": {"psscript": {"owner": "psscript"}, **databases},
    }
    named = {f"sql {name.replace('_', ' ', 1)}": value for name, value in shows.items()}
    return Choice(settings, named)


# What is turned often, by what it belongs to.
KNOBS: dict[str, list[Knob]] = {
    "postgres": [
        _postgres("work_mem", "5MB", "7MB"),
        _postgres("effective_cache_size", "1GB", "3GB"),
        _postgres("maintenance_work_mem", "48MB", "96MB"),
        _postgres("max_wal_size", "2GB", "3GB"),
        _postgres("checkpoint_completion_target", 0.7, 0.8),
        _postgres("random_page_cost", 1.5, (2.0, "2")),
        _postgres("log_min_duration_statement", (500, "500ms"), -1),
        _postgres("statement_timeout", "45s", ("120s", "2min")),
        _postgres("lock_timeout", "5s", ("0", "0")),
        _knob(
            POSTGRES,
            "postgres_hba",
            "postgres hba",
            *(([_HBA.format(number)], f"10.99.{number}.0") for number in (1, 2)),
        ),
        _extras(
            POSTGRES,
            "postgres_extra",
            "postgres",
            {"log_lock_waits": True},
            {"log_lock_waits": True, "deadlock_timeout": "2s"},
            {"log_checkpoints": False, "autovacuum_naptime": "30s"},
        ),
    ],
    "pgbouncer": [
        _pgbouncer("default_pool_size", 12, 20, 30),
        _pgbouncer("max_client_conn", 500, 2000),
        _pgbouncer("min_pool_size", 0, 5),
        _pgbouncer("reserve_pool_size", 0, 8),
        _pgbouncer("pool_mode", "session", "statement"),
        _pgbouncer("query_wait_timeout", 30, 60),
        _pgbouncer("server_lifetime", 1800, 7200),
        _pgbouncer("server_login_retry", 2, 15),
        _pgbouncer("server_connect_timeout", 3, 15),
        _pgbouncer("tcp_keepidle", 20, 60),
        _extras(
            PGBOUNCER,
            "pgbouncer_extra",
            "pgbouncer",
            {"log_connections": 0},
            {"log_connections": 0, "stats_period": 120},
            {"server_check_delay": 10},
        ),
    ],
    "redis": [
        _redis("maxmemory", ("256mb", str(256 << 20)), ("1gb", str(1 << 30))),
        _redis("maxmemory_policy", "allkeys-lfu", "volatile-ttl"),
        _redis("appendonly", (False, "no")),
        _redis("appendfsync", "always", "no"),
        _redis("save", "600 5", ""),
        _redis("min_replicas_to_write", 1, 2),
        _redis("min_replicas_max_lag", 5, 20),
    ],
    "sentinel": [
        _sentinel("quorum", 3),
        _sentinel("down_after_milliseconds", 6000, 8000),
        _sentinel("failover_timeout", 20000, 30000),
        _sentinel("parallel_syncs", 2),
    ],
    "backup": [
        _backup("retention_days", 14, 60),
        _backup("retention_min_full", 5, 7),
        _backup("alert_command", "logger alarm", "true"),
        _knob(BACKUP, "backup_schedule_verify", "cron verify", "0 0 2 1 *", "0 0 3 1 *"),
    ],
    "sql": [
        Knob(
            SQL | PGBOUNCER | BACKUP,
            [
                Choice(
                    {
                        "postgres_roles": {"psscript": {"createdb": True}},
                        "postgres_extensions": ["pg_stat_statements", "citext"],
                    },
                    {"sql psscript createdb": "true", "sql psscript has citext": "yes"},
                ),
                _catalogue(
                    {
                        "psscript": {"connection_limit": 40, "settings": {"work_mem": "7MB"}},
                        "reader": {"valid_until": "2097-05-04T03:14:01+00:00"},
                    },
                    {},
                    psscript_limit="40",
                    psscript_settings="work_mem=7MB",
                    reader_limit="-1",
                ),
                _catalogue(
                    {"analyst": _ANALYST},
                    {"reports": _REPORTS},
                    analyst_groups="pg_read_all_data",
                    reports_owner="analyst",
                    reports_grants="CONNECT",
                    **{"reports_has pg_trgm": "yes"},
                ),
                _catalogue(
                    {"analyst": _ANALYST | {"member_of": [], "createrole": True}},
                    {
                        "psscript": {"owner": "psscript", "settings": {"jit": "off"}},
                        "reports": {"owner": "psscript", "grants": {"analyst": ["TEMPORARY"]}},
                    },
                    analyst_groups="",
                    reports_owner="psscript",
                    reports_grants="TEMPORARY",
                ),
            ],
        ),
    ],
    # Rarely: each change costs a restart, or ports that every other setting has to follow.
    "postgres, restarting": [
        _postgres("max_connections", 210, 230),
        _postgres("shared_buffers", "128MB", "192MB"),
        _postgres("superuser_reserved_connections", 4, 5),
        Knob(
            POSTGRES | PGBOUNCER | BACKUP,
            [Choice({"postgres_port": 5433}, {"postgres port": "5433"})],
        ),
    ],
    "pgbouncer, restarting": [
        Knob(
            PGBOUNCER | BACKUP,
            [Choice({"pgbouncer_listen_port": 6433}, {"pgbouncer listen_port": "6433"})],
        ),
    ],
    "redis, restarting": [
        _extras(
            REDIS,
            "redis_extra",
            "redis",
            {"slowlog-max-len": 256},
            {"slowlog-max-len": 64, "databases": 20},
        ),
    ],
    "passwords, restarting": [
        Knob(REDIS | SENTINEL | BACKUP, [Choice({"redis_password": _PASSWORD}, {})]),
        Knob(SQL | PGBOUNCER | BACKUP, [Choice({"postgres_password": _PASSWORD}, {})]),
    ],
}
# What servers call it.
NAMES = {
    name
    for knobs in KNOBS.values()
    for knob in knobs
    for choice in knob.choices
    for name in choice.shows
}
_OFTEN, _RARELY = 6, 1
_GROUPS = [name for name in KNOBS for _ in range(_RARELY if ", " in name else _OFTEN)]
# How many groups of settings change at once, and how many settings of each at most: a run costs the
# same whatever it changes, and what belongs to different servers is compared server by server.
_TOGETHER, _OF_A_GROUP = (1, 1, 2, 2, 3), 5


def steps(base: Data, seed: int, count: int) -> Iterator[Step]:
    """Draws changes, each starting from the settings of the one before; the last goes back.

    Args:
        base: settings that are always there.
    """
    random = Random(seed)
    chosen: dict[tuple[str, int], Choice] = {}
    groups: list[str] = []
    for _ in range(count - 1):
        # Others than those of the last step: what that one left would show as a stranger.
        others = [group for group in _GROUPS if group not in groups]
        groups = list(dict.fromkeys(random.choices(others, k=random.choice(_TOGETHER))))
        operations: frozenset[str] = frozenset()
        for group in groups:
            numbers = range(len(KNOBS[group]))
            for number in random.sample(numbers, random.randint(1, min(_OF_A_GROUP, len(numbers)))):
                operations |= KNOBS[group][number].operations
                _turn(random, chosen, (group, number))
        enough = [task for task, does in TASKS.items() if operations <= does]
        task = random.choice([*enough, *enough, EVERYTHING])
        yield _step(task, base, chosen, operations)
    everything = [KNOBS[group][number].operations for group, number in chosen]
    yield _step(EVERYTHING, base, {}, frozenset().union(*everything))


def _turn(random: Random, chosen: dict[tuple[str, int], Choice], place: tuple[str, int]) -> None:
    """Another choice than the current one, or the default again."""
    group, number = place
    now = chosen.pop(place, None)
    others = [choice for choice in KNOBS[group][number].choices if choice is not now]
    if now is None or (others and random.random() < 0.6):
        chosen[place] = random.choice(others)


def _step(
    task: str,
    base: Data,
    chosen: Mapping[tuple[str, int], Choice],
    operations: frozenset[str],
) -> Step:
    settings, shows = dict(base), dict[str, str]()
    for choice in chosen.values():
        settings |= choice.settings
        shows |= choice.shows
    return Step(task, settings, operations, shows)
