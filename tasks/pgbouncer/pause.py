"""Clients wait while PostgreSQL restarts: PAUSE and RESUME, whatever ends the script."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.places import STATE_DIRECTORY
from tasks.core.preflight import hears
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.pgbouncer.console import TRUSTED, sslmode
from tasks.pgbouncer.layout import SOCKETS
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres import leader

# What backup/swap.py allows running transactions as well. Clients that wait are cut off after
# `query_wait_timeout`: half of it is for the restart itself.
_PAUSE_SECONDS = 30

_NO_OTHERS = "PGSSLCERT=/nonexistent PGSSLCRL=/nonexistent"


def holds(server: Node, pooler: Node) -> bool:
    """Whether clients of a pooler can wait for the server.

    Those of a session pool keep their connection; those of a pooler whose console the server's
    host does not reach cannot be told.
    """
    chosen = pooler.the(PgbouncerSettings)
    is_near = pooler is server or server.place.network is not None
    is_reached = is_near or hears(chosen.listen_addr, pooler.address)
    return chosen.pool_mode != "session" and is_reached


def _patience(chosen: PgbouncerSettings) -> int:
    limit = int(chosen.query_wait_timeout) // 2
    return max(1, min(_PAUSE_SECONDS, limit)) if limit else _PAUSE_SECONDS


def holds_all(server: Node) -> bool:
    """Whether there are clients of poolers, and all of them can wait for the server."""
    poolers = [holds(server, pooler) for pooler in _led_by(server)]
    return bool(poolers) and all(poolers)


def _led_by(server: Node) -> list[Node]:
    """The poolers that lead to a server: none do to a standby."""
    if leader.presumed(server.estate) is not server:
        return []
    return server.estate.having(PgbouncerSettings)


def hold(server: Node) -> tuple[str, str]:
    """Shell that makes the clients of all poolers wait, or exits, and shell that ends that.

    The second one also ends a wait that was left by a script and a guard which were cut off.
    """
    poolers = _held(server)
    if not poolers:
        return ":", ":"
    seconds = min(_patience(node.the(PgbouncerSettings)) for node in poolers.values())
    consoles = _consoles(server)
    begin = (
        shell("hold", "pgbouncer", pause_seconds=str(seconds)) + f"hold_all {quoted(*poolers)}\n"
    )
    return consoles + begin, consoles + shell("release", "pgbouncer")


def held_probe() -> Probe[list[str]]:
    """Reads which poolers a run has left with their clients waiting."""
    script = f"ls {STATE_DIRECTORY}/pgbouncer-*.held 2>/dev/null || :"
    return Probe(script, lambda lines: [line.partition("pgbouncer-")[2][:-5] for line in lines])


def resume(server: Node, left: Sequence[str]) -> Change | None:
    """Lets clients go on that wait for a run which was cut off, where this one gets."""
    active = [name for name, pooler in _held(server).items() if pooler in server.estate.active]
    lines = [f"PgBouncer ({name}): RESUME" for name in active if name in left]
    script = f"{_consoles(server)}{shell('release', 'pgbouncer')}"
    return Change(lines, script) if lines else None


def _held(server: Node) -> dict[str, Node]:
    """The poolers whose clients wait for the server, by the names of their files."""
    poolers = [node for node in _led_by(server) if holds(server, node)]
    return {(node.service or node.name).replace("/", "-"): node for node in poolers}


def _consoles(server: Node) -> str:
    poolers = _held(server).items()
    reach = {name: _from_host(server, node) for name, node in poolers}
    cases = "\n".join(f"    {quoted(name)}) {command} ;;" for name, command in reach.items())
    absent = "\n".join(name for name, node in poolers if node not in server.estate.active)
    console_of = f"console() {{ # POOLER SECONDS COMMAND\n  case $1 in\n{cases}\n  esac\n}}\n"
    return console_of + shell("go-on", "pgbouncer", held_in=STATE_DIRECTORY, absent_poolers=absent)


def _from_host(server: Node, pooler: Node) -> str:
    """The command by which the host that carries a server reaches the console of a pooler."""
    if not server.place.network:
        return console(server, pooler)
    port = pooler.the(PgbouncerSettings).listen_port
    psql = f"psql -XAtqw -h {SOCKETS} -p {port} -U pgbouncer -d pgbouncer"
    return f'timeout "$2" {pooler.place.command(psql)} -c "$3"'


def console(server: Node, pooler: Node) -> str:
    """The command by which a server's host reaches the console of a pooler.

    In a shell whose arguments are a pooler, seconds, and one order or two.
    """
    port = pooler.the(PgbouncerSettings).listen_port
    ask = 'psql -XAtqw -d pgbouncer -c "$3" ${4:+-c "$4"}'
    psql = f'LC_ALL=C runuser -u postgres -- timeout "$2" {ask}'
    if pooler is server:
        return f"{psql} -U pgbouncer -h {SOCKETS} -p {port}"
    # Less than the shortest time that a command has; and no certificate of the user's home:
    # PgBouncer refuses who shows one.
    secret = "PGCONNECT_TIMEOUT=3 PGREQUIREAUTH=scram-sha-256 PGPASSWORD=$CONSOLE_PASSWORD"
    if verified := sslmode(pooler, server):
        secret = f"{_NO_OTHERS} PGSSLMODE={verified} PGSSLROOTCERT={TRUSTED} {secret}"
    return f"{secret} {psql} -U postgres -h {pooler.address} -p {port}"
