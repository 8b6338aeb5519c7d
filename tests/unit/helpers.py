"""Real pyinfra states and estates, built in-process from a compact description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra.api import Config, Inventory, State
from pyinfra.api.host import Host

from tasks.core import estate as module
from tasks.core.estate import Estate, Node

Data = Mapping[str, Any]
Groups = Mapping[str, Sequence[str]]

# Secrets of the tests: recognisable, so that one that leaks is found.
SECRETS = {
    "POSTGRES_PASSWORD": "super-Secret-1",
    "REDIS_PASSWORD": "redis-Secret-2",
    "PGBOUNCER_AUTH_PASSWORD": "lookup-Secret-3",
    "POSTGRES_ROLE_PSSCRIPT_PASSWORD": "role-Secret-4",
}


def state(hosts: Mapping[str, Data], groups: Groups, directory: Path) -> State:
    """A pyinfra state as `pyinfra inventory.py` would make it, started in `directory`.

    Args:
        hosts: data by host name.
        groups: host names by group.
        directory: where `.env` is looked for.
    """
    names = [(name, dict(data)) for name, data in hosts.items()]
    members = {group: (list(names), {}) for group, names in groups.items()}
    result = State(Inventory((names, {}), **members), Config())
    result.cwd = str(directory)
    return result


def estate(hosts: Mapping[str, Data], groups: Groups, directory: Path) -> Estate:
    """The estate of such a state, its secrets known."""
    env = directory / ".env"
    if not env.exists():
        env.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    return Estate(state(hosts, groups, directory))


def problems(everything: Estate) -> list[str]:
    """What a run would refuse the estate for, in the order in which it would be printed."""
    found = everything.problems or module._contradictions(everything)
    return [str(problem) for problem in sorted(set(found))]


def node(everything: Estate, name: str) -> Node:
    """The host of that name."""
    return next(node for node in everything.nodes if node.name == name)


def local(directory: Path) -> Host:
    """This machine as a connected pyinfra host: commands really run, in local shells."""
    made = state({"@local": {"address": "127.0.0.1", "_sudo": False}}, {}, directory)
    (host,) = made.inventory
    host.connect()
    made.activate_host(host)
    return host
