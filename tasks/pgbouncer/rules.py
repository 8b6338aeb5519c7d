"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.core.estate import Estate, Node
from tasks.core.packages import INSTALLED, PACKAGES
from tasks.core.preflight import Listener, hears
from tasks.core.settings import Problem
from tasks.pgbouncer.files import foreign_files, parameters_of
from tasks.pgbouncer.layout import INI, USERLIST
from tasks.pgbouncer.service import outside
from tasks.pgbouncer.settings import SINCE, PgbouncerSettings
from tasks.postgres import leader
from tasks.postgres.settings import LOOKUP_ROLE, PostgresSettings, logins_of, secret_name


def contradictions(everything: Estate) -> list[Problem]:
    poolers = everything.having(PgbouncerSettings)
    problems = []
    for node in poolers:
        chosen = node.the(PgbouncerSettings)
        if not everything.having(PostgresSettings):
            message = "needs a host in group 'postgres'"
            problems.append(Problem(node.name, "group pgbouncer", message))
        if chosen.min_pool_size > chosen.default_pool_size:
            message = f"should be at most pgbouncer_default_pool_size ({chosen.default_pool_size})"
            problems.append(Problem(node.name, "pgbouncer_min_pool_size", message))
        if not hears(chosen.listen_addr, "127.0.0.1", "localhost"):
            message = "should contain 127.0.0.1, where this host asks whether it answers"
            problems.append(Problem(node.name, "pgbouncer_listen_addr", message))
        problems += _encryption(node)
        problems += [
            Problem(node.name, f"pgbouncer_extra/{key}", _duplicate(key))
            for key in chosen.extra
            if key in parameters_of(node) or key in PgbouncerSettings.model_fields
        ]
    return problems + _pools(everything, poolers)


def _encryption(node: Node) -> Iterator[Problem]:
    chosen = node.the(PgbouncerSettings)
    if chosen.client_tls is None:
        return
    for key in chosen.extra:
        if key.startswith("client_tls_"):
            message = "has a key of its own: pgbouncer_client_tls; set one of them"
            yield Problem(node.name, f"pgbouncer_extra/{key}", message)


def _duplicate(key: str) -> str:
    if key in PgbouncerSettings.model_fields:
        return f"has a key of its own: pgbouncer_{key}"
    return "is set by Datatier"


def _pools(everything: Estate, poolers: list[Node]) -> list[Problem]:
    """The pools of all poolers must fit into what PostgreSQL accepts."""
    problems = []
    for server in everything.having(PostgresSettings):
        chosen = server.the(PostgresSettings)
        room = chosen.max_connections - chosen.superuser_reserved_connections
        databases = len(chosen.databases)
        each = [node.the(PgbouncerSettings).connections_per_database for node in poolers]
        total = databases * sum(each)
        if total > room:
            message = (
                f"{databases} database{'s' if databases > 1 else ''} x {' + '.join(map(str, each))}"
                f" pool connections are {total}, more than the {room} that "
                f"postgres_max_connections ({chosen.max_connections}) leaves them"
            )
            problems.append(Problem(poolers[0].name, "pgbouncer_default_pool_size", message))
    return problems


# PostgreSQL's host pauses it.
_CLIENTS = ("apps", "postgres")


def listens(node: Node) -> list[Listener]:
    port = node.the(PgbouncerSettings).listen_port
    key, unit, binds = "pgbouncer_listen_port", "pgbouncer.service", outside(node) is not None
    return [Listener(port, key, "pgbouncer", unit, binds, open_to=_CLIENTS)]


def checks(node: Node) -> list[Problem]:
    # What follows compares whither it leads.
    leader.ask(node.estate)
    return [*unsupported(node, _version(node)), *_taken(node)]


def _taken(node: Node) -> Iterator[Problem]:
    """What is refused because others use it."""
    foreign = foreign_files(node)
    if foreign and not node.the(PgbouncerSettings).adopt:
        is_running = node.read("pgbouncer")["services"]["pgbouncer"].running
        message = (
            f"{' and '.join(foreign)} {'are' if foreign[1:] else 'is'} not Datatier's "
            f"(PgBouncer is {'running' if is_running else 'stopped'}): "
            "pgbouncer_adopt = True in one run replaces them and keeps copies"
        )
        yield Problem(node.name, "pgbouncer", message)


def secrets_in_use(node: Node) -> Mapping[str, str]:
    found = node.read("pgbouncer")["files"]
    if not found[INI].is_ours:
        return {}
    text = found[USERLIST].content.decode(errors="replace")
    turned = [login for login in logins_of(LOOKUP_ROLE) if f'"{login}" ' in text]
    return {secret_name([*turned, LOOKUP_ROLE][0]): USERLIST, "POSTGRES_PASSWORD": ""}


def unsupported(node: Node, version: tuple[int, int]) -> list[Problem]:
    """Settings that this version of PgBouncer does not know."""
    chosen = node.the(PgbouncerSettings)
    asked = {f"extra/{key}" for key in chosen.extra}
    if chosen.max_prepared_statements:
        asked.add("max_prepared_statements")
    return [
        Problem(
            node.name,
            f"pgbouncer_{key}",
            f"needs PgBouncer {since[0]}.{since[1]}; this host has {version[0]}.{version[1]}",
        )
        for key in sorted(asked)
        if version < (since := SINCE.get(key.removeprefix("extra/"), (0, 0)))
    ]


def _version(node: Node) -> tuple[int, int]:
    """The installed version, else the one that the host's release would install."""
    installed = node.read(PACKAGES)[INSTALLED].get("pgbouncer")
    if installed is None:
        return node.system.release.pgbouncer
    major, minor = installed.split(":")[-1].split(".")[:2]
    return int(major), int(minor)
