"""Real pyinfra states and estates, built in-process from a compact description."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra.api import Config, Inventory, State
from pyinfra.api.host import Host

from tasks.core import estate as module
from tasks.core import remote
from tasks.core.change import Change
from tasks.core.estate import Estate, Node

Data = Mapping[str, Any]
Groups = Mapping[str, Sequence[str]]

# Secrets of the tests: recognisable, so that one that leaks is found.
SECRETS = {
    "POSTGRES_PASSWORD": "super-Secret-1",
    "REDIS_PASSWORD": "redis-Secret-2",
    "PGBOUNCER_AUTH_PASSWORD": "lookup-Secret-3",
    "POSTGRES_ROLE_PSSCRIPT_PASSWORD": "role-Secret-4",
    "BACKUP_ROLE_PASSWORD": "backup-Secret-5",
    "REDIS_ADMIN_PASSWORD": "redis-admin-Secret-6",
    "REDIS_REPLICA_PASSWORD": "redis-replica-Secret-7",
    "REDIS_SENTINEL_PASSWORD": "redis-sentinel-Secret-8",
    "REDIS_BACKUP_PASSWORD": "redis-backup-Secret-9",
}


def state(hosts: Mapping[str, Data], groups: Groups, directory: Path) -> State:
    """A pyinfra state as `pyinfra inventory.py` would make it, started in `directory`.

    Args:
        hosts: data by host name.
        groups: host names by group.
        directory: where `.env` is looked for.
    """
    names = [(name, dict(data)) for name, data in hosts.items()]
    members: dict[str, Any] = {group: (list(names), {}) for group, names in groups.items()}
    result = State(Inventory((names, {}), **members), Config())
    result.cwd = str(directory)
    return result


def estate(hosts: Mapping[str, Data], groups: Groups, directory: Path) -> Estate:
    """The estate of such a state, its secrets known."""
    env = directory / ".env"
    if not env.exists():
        env.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
        env.chmod(0o600)
    return Estate.of(state(hosts, groups, directory))


def problems(everything: Estate) -> list[str]:
    """What a run would refuse the estate for, in the order in which it would be printed."""
    contradictions = module._contradictions(everything) if everything.whole else []
    return [str(problem) for problem in sorted({*everything.problems, *contradictions})]


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


def shell(
    script: str, variables: Mapping[str, str] | None = None, shell: str = "sh"
) -> subprocess.CompletedProcess[str]:
    """Runs a script as pyinfra would on a host: variables come on standard input."""
    command = remote.command(script, variables)
    stdin = command.connector_arguments.get("_stdin", "")
    return subprocess.run(
        [shell, "-c", command.get_raw_value()],
        input=stdin if isinstance(stdin, str) else "",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def carry_out(change: Change, before: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a change on this machine, with the shell options of a real run."""
    options = "set -eu\numask 022\n"
    return shell(f"{before}{options}{remote.PATHS}{change.script}", change.variables)


def syntax_error(script: str) -> str:
    """What `sh -n` says of a script; nothing for a good one."""
    return "".join(
        subprocess.run(
            [shell, "-n"], input=script, capture_output=True, text=True, check=False
        ).stderr
        for shell in ("sh", "bash")
    )
