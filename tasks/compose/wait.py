"""Waits until containers are healthy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set

from pyinfra import logger

from tasks.compose import engine
from tasks.core import remote
from tasks.core.estate import Node
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted

# A container is called unhealthy after three failed checks, 10 s apart, and a start of its own.
HEALTHY_SECONDS = 300


# One that was ill before the run says so until its next check, which may take 10 s and 10 s more.
UNHEALTHY_SECONDS = 30


def settle(node: Node, services: Set[str]) -> str:
    """Waits until these containers are healthy; returns what is wrong, or nothing."""
    hopeful, told = time.monotonic(), ""
    end = hopeful + HEALTHY_SECONDS
    while True:
        waiting = _not_healthy(node, services)
        if not waiting:
            return ""
        if any(state != "unhealthy" for _, state in waiting.values()):
            hopeful = time.monotonic()
        if time.monotonic() > min(end, hopeful + UNHEALTHY_SECONDS):
            return _last_words(node, waiting)
        said = ", ".join(f"{service} ({state})" for service, (_, state) in waiting.items())
        if said != told:
            logger.info(f"{node.host.print_prefix}  waiting for {said}")
            told = said
        time.sleep(1)


def _not_healthy(node: Node, services: Set[str]) -> dict[str, tuple[str, str]]:
    script = engine.states(node)
    output = remote.run(node.host, script)
    if not output.ok:
        raise Unreadable(f"docker: {output.last_word}")
    waiting = {}
    for line in output.stdout:
        service, name, status, health = line.split("|")
        if service in services and (status != "running" or health not in ("healthy", "")):
            waiting[service] = (name.lstrip("/"), health if status == "running" else status)
    return waiting


def _last_words(node: Node, waiting: Mapping[str, tuple[str, str]]) -> str:
    """The ends of the logs of what did not become healthy."""
    names = [name for name, _ in waiting.values()]
    script = "\n".join(
        f"echo {quoted(name)}:; docker logs --tail 10 {quoted(name)} 2>&1" for name in names
    )
    for line in remote.run(node.host, script).stdout:
        logger.error(f"{node.host.print_prefix}  {line}")
    states = ", ".join(f"{service} ({state})" for service, (_, state) in waiting.items())
    return f"not healthy after {HEALTHY_SECONDS} s at most: {states}"
