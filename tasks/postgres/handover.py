"""Switchover: another server leads from then on, and clients of poolers wait for a moment.

The one that leads ends well, and can start as a standby only. Once the other one has all of its
rows it is told so, and from there on it is not taken back. What cuts a run off before that is ended
by a watch of the server's host, and what cuts it off later by the next run: two never take writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import gevent
from pyinfra.api import State

from tasks.core import lock, remote, services
from tasks.core.change import Change, Line, announce
from tasks.core.estate import Estate, Node
from tasks.core.places import STATE_DIRECTORY
from tasks.core.remote import Output, Unreadable
from tasks.core.scripts import shell
from tasks.core.settings import Problem
from tasks.postgres import leader, parameters, psql, replication
from tasks.postgres.activation import takings, with_console
from tasks.postgres.files import configuration
from tasks.postgres.layout import cluster_version, data_directory, unit_of
from tasks.postgres.leader import server_of
from tasks.postgres.neighbors import pooler
from tasks.postgres.service import service_of
from tasks.postgres.settings import PostgresSettings

# Of WAL that a standby may still have to write while clients wait.
_MOST_BYTES = 16 * 1024 * 1024
# From the end of one server until the other one is told that it leads.
_PATIENCE_SECONDS = 10

# Of these a standby may not have less than the one that leads: PostgreSQL's defaults.
_LIMITS = {
    "max_connections": "100",
    "max_worker_processes": "8",
    "max_wal_senders": "10",
    "max_prepared_transactions": "0",
    "max_locks_per_transaction": "64",
}
KEY = "tasks.postgres.switchover"

_wanted: WeakSet[State] = WeakSet()
_whole: WeakSet[State] = WeakSet()


@dataclass(frozen=True)
class _Handover:
    """Who leads no longer, and who leads then: the same where that is taken back."""

    old: Node
    new: Node
    is_told: bool = False


def want(state: State) -> None:
    """This run hands over."""
    _wanted.add(state)


def allow(state: State) -> None:
    """This run is one of all components: it may hand over where a restart would be due."""
    _whole.add(state)


def ahead(node: Node, compare: Callable[[Node], Change | None]) -> Change | None:
    """What a standby takes before another one leads, by the one that still does."""
    found = _pending(node.estate)
    if found is None or node is found.old or found.is_told:
        return None
    with leader.assumed(found.old):
        return compare(node)


def due(node: Node) -> Change | None:
    """Makes another server lead where that is due; all servers of the run have to ask."""
    everything = node.estate
    found = _pending(everything)
    if found is None:
        return None
    if not everything.state.is_executing:
        leader.make(everything, found.new)
    if node is not found.old:
        return None
    if found.new is found.old:
        return _taken_back(found.old)
    with leader.assumed(found.old):
        waits = "; clients of PgBouncer wait" if pooler().holds(found.old) else ""
        begin = ":" if found.is_told else _begun(found)
    with leader.assumed(found.new):
        turning = list(pooler().turned(everything))
    line = f"PostgreSQL: switchover: {found.new.name} leads from then on{waits}"
    change = Change([Line(line, "failover")], begin, then=lambda: _go_on(found, turning))
    return with_console(node, change)


def _pending(everything: Estate) -> _Handover | None:
    for node in leader.left(everything):
        stage, name = leader.handing(node)
        told = [each for each in _servers(everything) if each.plain_name == name]
        if stage == "handed" and told and not leader.leads(node):
            return _Handover(node, told[0], is_told=True)
        return _Handover(node, node)
    old = leader.asked(everything)
    if everything.state in _wanted:
        is_done = old.the(PostgresSettings).switchover_to == old.plain_name
        return None if is_done else _Handover(old, _next(old))
    if everything.state in _whole and _is_better(old):
        return _Handover(old, _next(old))
    return None


def _is_better(old: Node) -> bool:
    """Whether a restart is due of which clients would notice more than of a switchover."""
    everything = old.estate
    if _absent(everything) or not _well(old):
        return False
    try:
        with leader.assumed(old):
            if not pooler().holds(old) or not _restarts(old) or _lowers(old):
                return False
        with leader.assumed(_next(old)):
            return bool([*pooler().turned(everything)])
    except Unreadable:
        # What is wrong is said by those who come to it.
        return False


def _restarts(old: Node) -> bool:
    (taking,) = takings(old)
    impact = services.impact(taking.wanted, taking.now)
    means = taking.wanted.reload_means if impact == "reload" else impact or ""
    return taking.now.running and means.startswith("restart")


def _lowers(old: Node) -> bool:
    """Whether a standby that takes the settings first would have too little."""
    used = server_of(old).facts.get("used") or {}
    wanted = {**_LIMITS, **parameters.of(configuration(old))}
    return any(int(wanted[name]) < int(used[name][0]) for name in _LIMITS if name in used)


def _servers(everything: Estate) -> list[Node]:
    return everything.having(PostgresSettings)


def _next(old: Node) -> Node:
    """The first one that is well, or the one that was named.

    Raises:
        Unreadable: there is none.
    """
    named = old.the(PostgresSettings).switchover_to
    well = [node for node in _well(old) if named in ("", node.plain_name)]
    if well:
        return well[0]
    others = [node.plain_name for node in _servers(old.estate) if node is not old]
    raise Unreadable(
        f"no standby can take over from {old.name}: there is no {named}"
        if named and named not in others
        else f"{named or ', '.join(others)} does not follow {old.name}, or is not in this run"
    )


def _well(old: Node) -> list[Node]:
    """The standbys that follow, as far as this run can tell."""
    active = [node for node in _servers(old.estate) if node in old.estate.active]
    slots = server_of(old).facts.get("slots") or [] if old in active else []
    read = {name for name, _, is_active, _ in slots if is_active}
    return [
        node
        for node in active
        if replication.slot(node) in read and server_of(node).facts.get("recovers")
    ]


def _absent(everything: Estate) -> list[Node]:
    """Hosts that have to know who leads, and that this run does not reach."""
    served = [*_servers(everything), *pooler().leading(everything)]
    involved = [*served, *everything.in_group("backup")]
    return [node for node in involved if node not in everything.active]


def plan(node: Node) -> Iterator[Problem]:
    """Why a run could not hand over; and whom all of its plan, in any order, sees lead."""
    everything = node.estate
    if node is not next(each for each in _servers(everything) if each in everything.active):
        return
    if not leader.is_replicated(node):
        if everything.state in _wanted:
            message = "there is no standby: docs/standby.md says how to make one"
            yield Problem(node.name, KEY, message)
        return
    try:
        leader.asked(everything)
    except Unreadable:
        # Who leads is asked elsewhere, and said there.
        return
    try:
        found = _pending(everything)
    except Unreadable as why:
        yield Problem(node.name, KEY, str(why))
        return
    if found is None:
        return
    leader.make(everything, found.new)
    # One that was cut off comes to its end whichever hosts are lost.
    is_begun = found.is_told or found.new is found.old
    for each in [found.new] if is_begun else _absent(everything):
        if each not in everything.active:
            yield Problem(node.name, KEY, f"needs {each.name} as well: run on all hosts")


def _begun(found: _Handover) -> str:
    slot, target = replication.slot(found.new), found.new.plain_name
    values = {"most_bytes": str(_MOST_BYTES), "patience": str(_PATIENCE_SECONDS)}
    return _script(found.old, "hand-over", slot=slot, target=target, **values)


def _script(node: Node, step: str, **values: str) -> str:
    """Shell of a step on a server's host."""
    service, unit, data = service_of(node), unit_of(node), data_directory(node)
    where = {
        "marks": STATE_DIRECTORY,
        "server_bin": f"/usr/lib/postgresql/{cluster_version(node)}/bin",
        "data": data,
        "port": str(node.the(PostgresSettings).port),
        "server_unit": unit,
    }
    parts = services.parts(service, unit, node.place)
    texts = [shell("handing", "postgres", **where, **values), shell(step, "postgres")]
    return services.script([psql.SHELL, parts, *texts], node.place, [service])


def _taken_back(old: Node) -> Change:
    line = f"PostgreSQL: {old.name} leads on: the switchover that was cut off is taken back"
    change = Change([Line(line, "restart")], _script(old, "take-back"))
    return with_console(old, change)


def _go_on(found: _Handover, turning: Sequence[tuple[Node, Change]]) -> str:
    """The steps after the end of the first server; what is wrong, or nothing."""
    everything = found.old.estate
    if not found.is_told and (why := _tell(found)):
        return why
    leader.make(everything, None)
    if why := _wrong(_ask(found.new, "promote")):
        return f"{found.new.name} was to lead, and does not: {why}: run again"
    leader.make(everything, found.new)
    steps = [gevent.spawn(_turn, node, change) for node, change in turning]
    gevent.joinall(steps)
    whys = [*(step.value for step in steps), _wrong(_ask(found.old, "handed"))]
    whys.append(_wrong(_ask(found.new, "checkpoint")))
    return "; ".join(filter(None, whys))


def _tell(found: _Handover) -> str:
    position = _ask(found.new, "caught-up")
    told = _ask(found.old, "hand", position=position.last_word) if position.ok else position
    if told.ok:
        return ""
    back = _wrong(_ask(found.old, "take-back"))
    end = f"{found.old.name} is down: {back}: run again" if back else f"{found.old.name} leads on"
    return f"{found.new.name} does not take over: {told.last_word}; {end}"


def _turn(node: Node, change: Change) -> str:
    announce(node.host, change.lines)
    return _wrong(_run(node, change.script, change))


def _wrong(output: Output) -> str:
    return "" if output.ok else output.last_word or "no answer"


def _ask(node: Node, step: str, **values: str) -> Output:
    with leader.assumed(node):
        script = _script(node, step, **values)
        return _run(node, script, with_console(node, Change([], script)))


def _run(node: Node, script: str, change: Change) -> Output:
    prepared = lock.alone(f"set -eu\numask 022\ncd /\n{remote.PATHS}{script}")
    output = remote.run(node.host, prepared, change.variables)
    remote.forget(node.host)
    return output
