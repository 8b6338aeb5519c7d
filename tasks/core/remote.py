"""One command to a host reads everything a component asks; nothing it reads is ever printed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from socket import IPPROTO_TCP, TCP_NODELAY, socket
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import paramiko.file
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import Host, StringCommand, connectors
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.connectors import util

from tasks.core import lock
from tasks.core.hide import shown
from tasks.core.scripts import assignments, shell, side_by_side


def decoded(line: bytes | str) -> str:
    """A line of output, whatever its bytes are."""
    return line if isinstance(line, str) else line.decode(errors="backslashreplace")


# Both expect UTF-8, and one byte that is not would end the run. Local commands are
# read by the one, those over SSH by the other.
_read_buffer = util.read_buffer
util.read_buffer = lambda name, io, *more, **named: _read_buffer(
    name, map(decoded, io), *more, **named
)
cast(Any, paramiko.file).u = decoded

# Which connectors are installed pyinfra asks several times for each host.
cast(Any, connectors).entry_points = cache(cast(Any, connectors).entry_points)

T = TypeVar("T")

# A plan may wait for its user's Enter: what was read before that is read again.
MAX_AGE_SECONDS = 60.0

# Longer than any of our commands takes, except for packages and images on a slow line.
BUSY_SECONDS = 600.0

# So many questions a host is asked at a time: with two processors more take no less time.
_LANES = 4

BROKEN = "the connection is broken"

_MARK = "\x1e"
_cache: WeakKeyDictionary[Host, dict[str, tuple[float, dict[str, Any]]]] = WeakKeyDictionary()
_changed: WeakKeyDictionary[Host, dict[str, float]] = WeakKeyDictionary()
_commands: WeakKeyDictionary[Host, int] = WeakKeyDictionary()


# Every script of ours has these: `at PATH COMMAND...`, `peek`, `remove`, and how files are written.
PATHS = shell("paths")
# Debian's psql and pg_isready look in Perl for the one to be called, which takes longer than that.
PROGRAMS = "for each in /usr/lib/postgresql/*/bin; do PATH=$each:$PATH; done\n"


class Unreadable(Exception):
    """The state of something could not be read: unknown, which is not empty."""


@dataclass(frozen=True)
class Probe(Generic[T]):
    """A shell snippet that changes nothing, and how to understand what it prints.

    `secrets` become shell variables; they travel on standard input.
    """

    script: str
    parse: Callable[[list[str]], T]
    secrets: tuple[tuple[str, str], ...] = ()


Batches = Mapping[str, Mapping[str, Probe[Any]]]


@dataclass(frozen=True)
class Output:
    """What a command printed, and whether it exited with 0."""

    ok: bool
    stdout: list[str]
    stderr: list[str]

    @property
    def last_word(self) -> str:
        """The line that says best why it failed; not for commands that read secrets."""
        lines = (*self.stdout, *self.stderr)
        return shown(next((line for line in reversed(lines) if line.strip()), ""))


class _Command(StringCommand):
    """One whose broken connection is the failure of its host, which pyinfra takes for its own."""

    def execute(self, *arguments: Any) -> Any:
        try:
            ok, output = super().execute(*arguments)
        except EOFError as error:
            raise SSHException(BROKEN) from error
        for each in output.combined_lines:
            each.line = shown(each.line)
        return ok, output


def command(script: str, variables: Mapping[str, str] | None = None) -> StringCommand:
    """The command that runs `script` with `variables` set from its standard input."""
    if not variables:
        return _Command(f"{_PLAIN}\n{script}")
    return _Command(f'{_PLAIN}\neval "$(cat)"\n{script}', _stdin=assignments(variables))


# What a user's shell has for programs that we ask would lead them to another server or place.
_CLIENTS = """
PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE PGOPTIONS
PGSYSCONFDIR PGAPPNAME PGCLIENTENCODING PGDATESTYLE PGTZ PGGEQO PGCONNECT_TIMEOUT PGREQUIREAUTH
PGCHANNELBINDING PGREQUIREPEER PGTARGETSESSIONATTRS PGLOADBALANCEHOSTS PGSSLMODE PGREQUIRESSL
PGSSLNEGOTIATION PGSSLCERT PGSSLKEY PGSSLCERTMODE PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGSSLSNI
PGSSLMINPROTOCOLVERSION PGSSLMAXPROTOCOLVERSION PGGSSENCMODE PGDATA PGCLUSTER
PGBACKREST_CONFIG PGBACKREST_CONFIG_PATH PGBACKREST_STANZA PGBACKREST_REPO PGBACKREST_REPO1_PATH
PGBACKREST_REPO1_HOST PGBACKREST_PG1_PATH PGBACKREST_LOG_LEVEL_CONSOLE
REDISCLI_AUTH REDISCLI_RCFILE TMPDIR
"""
# What is printed is read by us. With LANGUAGE C.UTF-8 would speak that language, and GNU programs
# write otherwise where they are told to do as POSIX says.
_PLAIN = f"unset LANGUAGE POSIXLY_CORRECT {' '.join(_CLIENTS.split())}; export LC_ALL=C.UTF-8"


def run(
    host: Host, script: str, variables: Mapping[str, str] | None = None, **arguments: Any
) -> Output:
    """Runs a script as the operating user (root, or through sudo) without printing anything."""
    everything, _ = pop_global_arguments(host.state, host, dict(arguments))
    connector = {k: v for k, v in everything.items() if k in CONNECTOR_ARGUMENT_KEYS}
    prepared = command(f"printf '{_BEGIN}\\n'\n{script}", variables)
    connector.update(cast(dict[str, Any], prepared.connector_arguments))
    count_command(host)
    try:
        ok, output = host.run_shell_command(prepared, **connector)
    except (OSError, EOFError, SSHException) as error:
        return Output(False, [], [f"{BROKEN}: {error}" if str(error) else BROKEN])
    return Output(ok, _own(output.stdout_lines), output.stderr_lines)


# What a user's shell says before (a greeting in .bashrc) is no answer.
_BEGIN = r"\036\036"


def _own(lines: list[str]) -> list[str]:
    at = next((n for n, line in enumerate(lines) if line.endswith(2 * _MARK)), -1)
    return lines[at + 1 :]


def count_command(host: Host) -> None:
    """Notes one command sent to `host`; `commands` tells how many there were."""
    _commands[host] = _commands.get(host, 0) + 1


def commands(host: Host) -> int:
    """Commands that were sent to a host in this run."""
    return _commands.get(host, 0)


def read(
    host: Host, batches: Callable[[], Batches], wanted: str, untouched_by: Collection[str] = ()
) -> Any:
    """Reads one batch of probes, remembered until something changes on the host.

    Args:
        host: whom to ask.
        batches: what every component asks; the first command reads all of them. It is called
            only when something is to be read: most answers are remembered.
        wanted: the batch to return, as a dictionary of parsed results by probe name.
        untouched_by: rooms whose changes alter nothing that this batch tells.

    Raises:
        Unreadable: a probe of the wanted batch failed or its output was cut short.
    """
    is_first = host not in _cache
    fresh = _cache.setdefault(host, {})
    now = time.monotonic()
    changes = _changed.get(host, {}).items()
    since = max((at for room, at in changes if room not in untouched_by), default=0.0)
    if wanted not in fresh or fresh[wanted][0] <= max(since, now - MAX_AGE_SECONDS):
        everything = batches()
        # After a change only what is asked for: the next change makes the rest stale again.
        due = everything if is_first else {wanted: everything[wanted]}
        for name, results in _read_all(host, due).items():
            fresh[name] = (now, results)
    results = fresh[wanted][1]
    for result in results.values():
        if isinstance(result, Unreadable):
            raise result
    return results


def forget(host: Host, room: str = "") -> None:
    """What was read is of before: a room has changed something on the host, or none of them."""
    _changed.setdefault(host, {})[room] = time.monotonic()


def _read_all(host: Host, batches: Batches) -> dict[str, dict[str, Any]]:
    probes = {
        f"{batch}/{name}": probe for batch, of in batches.items() for name, probe in of.items()
    }
    questions = [
        f"(\n{probe.script}\n) </dev/null\nprintf '\\036%s %s\\n' {shlex.quote(name)} $?"
        for name, probe in probes.items()
    ]
    lanes = ["\n".join(questions[n::_LANES]) for n in range(min(_LANES, len(questions)))]
    script = f"cd /\n{PROGRAMS}{PATHS}{side_by_side(lanes)}"
    variables = {k: v for probe in probes.values() for k, v in probe.secrets}
    output = _run_at_rest(host, script, variables)
    sections = dict(_sections(output.stdout))
    return {
        batch: {
            name: _result(f"{batch}/{name}", probe, sections, output) for name, probe in of.items()
        }
        for batch, of in batches.items()
    }


def _run_at_rest(host: Host, script: str, variables: Mapping[str, str]) -> Output:
    """Runs what reads; a plan waits until no other run changes the host."""
    if host.state.is_executing:
        return run(host, script, variables)
    script = lock.unless_busy(script)
    output = run(host, script, variables)
    if output.stdout == [lock.BUSY]:
        logger.info(f"{host.print_prefix}another run is changing this host: waiting until it rests")
    end = time.monotonic() + BUSY_SECONDS
    while output.stdout == [lock.BUSY]:
        if time.monotonic() > end:
            return Output(False, [], ["another run is still changing this host"])
        time.sleep(1)
        output = run(host, script, variables)
    return output


def _sections(lines: list[str]) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    body: list[str] = []
    for line in lines:
        if line.startswith(_MARK):
            name, status = line[1:].rsplit(" ", 1)
            yield name, (status, body)
            body = []
        else:
            body.append(line)


def _result(
    name: str,
    probe: Probe[Any],
    sections: Mapping[str, tuple[str, list[str]]],
    output: Output,
) -> Any:
    status, body = sections.get(name, ("cut short", []))
    if status != "0":
        # Only what was complained of: what was read may be secret.
        why = output.stderr[-1] if output.stderr else f"status {status}"
        return Unreadable(f"{name.replace('/', ': ')} could not be read: {why}")
    try:
        return probe.parse(body)
    except Unreadable as unreadable:
        return unreadable
    except (ValueError, IndexError):
        return Unreadable(f"{name.replace('/', ': ')} could not be read: unexpected output")


def quick(host: Host) -> None:
    """Turns off Nagle's algorithm on an SSH connection: it costs 45 ms a command."""
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client else None
    # Through another host it is a channel of that host's connection.
    if transport is not None and isinstance(transport.sock, socket):
        transport.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def hide_sudo_password(host: Host, password: str) -> None:
    """Moves the sudo password from pyinfra's command lines into a private askpass script.

    pyinfra passes the password as `env PYINFRA_SUDO_PASSWORD=…`, which the host's process list
    shows. It looks for a ready askpass script first, and removes that one when it disconnects.
    """
    script = shell("askpass")
    output = run(host, script, {"PASSWORD": password}, _sudo=False)
    if not output.ok or not output.stdout:
        raise Unreadable(f"could not prepare sudo: {output.last_word}")
    host.connector_data[f"sudo_askpass_path__{host.get_temp_dir_config()}"] = output.stdout[0]
    host.data._sudo_password = "-"
