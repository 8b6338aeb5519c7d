"""What a running PgBouncer uses, and what of it the settings do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.core import live
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.core.services import Activation, Status
from tasks.pgbouncer.console import shown
from tasks.pgbouncer.files import all_parameters, leads_to
from tasks.pgbouncer.layout import INI, SOCKETS
from tasks.pgbouncer.pause import console
from tasks.pgbouncer.settings import RESTART_KEYS, PgbouncerSettings
from tasks.postgres import psql


def uses_probe(node: Node) -> Probe[dict[str, tuple[str, str]]]:
    """Reads what PgBouncer uses and what it would use without a file, by key.

    Databases are among the keys where they lead elsewhere, or refuse all logins.
    """
    socket = f"{SOCKETS}/.s.PGSQL.{node.the(PgbouncerSettings).listen_port}"
    ask = f"console() {{ {console(node, node)} 2>/dev/null || :; }}\n"
    script = ask + shell("uses", "pgbouncer", socket=socket)

    def parse(lines: list[str]) -> dict[str, tuple[str, str]]:
        rows = [line.split("|") for line in lines]
        found = {row[0]: (row[1], row[2]) for row in rows if len(row) == _SHOWN}
        for name, *where, paused, disabled in (r for r in rows if len(r) > _SHOWN and r[1]):
            found[f"{_SERVER}{name}"] = f"{where[0]}:{where[1]}", ""
            states = {"PAUSE": paused != "0", "DISABLE": disabled != "0"}
            if said := ", ".join(word for word, is_so in states.items() if is_so):
                found[f"{_STATE}{name}"] = said, "in use"
        return found

    return Probe(script, parse)


_STATE = "state of "
_SERVER = "server of "


def letting_in(wanted: Activation, node: Node, found: Mapping[str, tuple[str, str]]) -> Activation:
    """The activation whose reload also ends what was done to databases at the console."""
    orders = [
        f"{order} {psql.identifier(key.removeprefix(_STATE))}"
        for key, (said, _) in found.items()
        if key.startswith(_STATE)
        for word, order in (("DISABLE", "ENABLE"), ("PAUSE", "RESUME"))
        if word in said
    ]
    steps = [f"(set -- pgbouncer 10 {quoted(order)}; {console(node, node)})" for order in orders]
    service = replace(wanted.service, reload="\n".join([wanted.service.reload, *steps]))
    return replace(wanted, service=service)


# The columns of SHOW CONFIG: key, value, default, changeable.
_SHOWN = 4


def moved(node: Node, pinned: str = "") -> dict[str, tuple[str, str]]:
    """What PgBouncer uses and should, by key, where the two differ."""
    uses: Mapping[str, tuple[str, str]] = node.read("pgbouncer")["uses"]
    parameters = all_parameters(node, pinned, shown(node))
    ours = {key: str(value) for key, value in parameters.items()}
    host, port = leads_to(node)
    usual = {
        key: f"{host}:{port}" if key.startswith(_SERVER) else default
        for key, (_, default) in uses.items()
        if key not in _OWN_WORDS
    }
    wanted = {**usual, "verbose": "0", **ours, "conffile": INI}
    wanted.pop("unix_socket_mode", "")
    return live.moved(wanted, {key: used for key, (used, _) in uses.items()}, wanted)


# It says these in its own words, or finds them out.
_OWN_WORDS = {"job_name", "user", "logfile", "pidfile", "resolv_conf", "unix_socket_mode"}


def status(now: Status, found: Mapping[str, Any]) -> Status:
    """What is known of PgBouncer, with what it says of itself."""
    return live.status(now, found, {*RESTART_KEYS, "conffile"})
