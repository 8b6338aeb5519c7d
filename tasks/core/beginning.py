"""What pyinfra is told, checked before it connects; `config.py` puts this in its way."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

from pyinfra.api import Host, State
from pyinfra.api.exceptions import PyinfraError

from tasks.core import command, ways
from tasks.core.asking import Refusal

# So many new ones before the collector looks, in place of 700: 5 % of a run's own time.
_OBJECTS = 50_000


def guard() -> None:
    """Refuses in one line what pyinfra would take for nothing to do, or for a crash."""
    # pyinfra forbids it, and each run compiled all modules of ours again.
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
    # What is loaded stays until the end: a collector that looks at it finds nothing.
    gc.freeze()
    gc.set_threshold(_OBJECTS)
    # A fault of a connection is one line of pyinfra's; paramiko would add two Python tracebacks.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    cli = command.part("cli")
    checks: dict[str, Callable[..., Any]] = {
        "make_inventory": _inventory,
        "_apply_inventory_limit": _limit,
        "connect_all": _connect,
    }
    for name, check in checks.items():
        original = getattr(cli, name, None)
        if original is not None and not hasattr(original, "__wrapped__"):
            setattr(cli, name, wraps(original)(_checked(check, original)))


def _checked(check: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: check(original, *given, **named)


def _inventory(make: Callable[..., Any], name: str, *given: Any, **named: Any) -> Any:
    if name.endswith(".py") and not Path(name).exists():
        there = [str(path) for path in (*Path().glob("*.py"), *Path("inventory").glob("*.py"))]
        close = get_close_matches(name, there, n=1)
        raise Refusal(f"there is no file {name}{f' ({close[0]}?)' if close else ''}")
    try:
        made = make(name, *given, **named)
    except PyinfraError:
        raise
    except Exception as error:
        raise Refusal(_told(error)) from None
    if not list(made):
        raise Refusal(f"the inventory {name} has no hosts")
    return made


def _told(error: Exception) -> str:
    """An error of Python's in a file of the user's, with its place there."""
    # pyinfra's own wrapper has the file's name, and the error in it.
    cause: BaseException = getattr(error, "exception", error)
    if isinstance(cause, SyntaxError):
        return f"{cause.filename} line {cause.lineno}: {cause.msg}"
    frames = traceback.extract_tb(getattr(cause, "_traceback", cause.__traceback__))
    file = getattr(error, "filename", frames[-1].filename)
    line = next((f" line {f.lineno}" for f in reversed(frames) if f.filename == file), "")
    return f"{file}{line}: {type(cause).__name__}: {cause}"


def _limit(apply: Callable[..., Any], inventory: Any, limit: Iterable[str] | None) -> Any:
    for each in limit or ():
        if not apply(inventory, [each]):
            raise Refusal(f"--limit {each}: no host and no group of the inventory is called that")
    return apply(inventory, limit)


def _connect(connect: Callable[..., Any], state: State, *given: Any, **named: Any) -> Any:
    for host in state.inventory:
        key = host.data.get("ssh_key")
        if key and state.is_host_in_limit(host) and not _is_there(host, str(key)):
            raise Refusal(f"{host.name}: ssh_key: there is no file {key}")
    ways.name_faults()
    try:
        return connect(state, *given, **named)
    except PyinfraError:
        if state.active_hosts:
            raise
        raise Refusal("no host was reached, see above; nothing was changed") from None


def _is_there(host: Host, key: str) -> bool:
    path = Path(key).expanduser()
    return path.exists() or (Path(host.state.cwd or ".") / path).exists()
