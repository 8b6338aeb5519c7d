"""One change at a time on a host: a command goes on when its run is killed or cut off."""

from __future__ import annotations

from tasks.core.scripts import shell

PATH = "/run/datatier.lock"
BUSY = "busy"

# A change waits for reads, and for another run's change: seconds.
_PATIENCE = 60

# What reads every minute, and what copies for hours, ask no server.
ENDURING = "health.lock mirror.lock"


def alone(script: str) -> str:
    """Shell that runs `script` while no other run changes the host, or fails after a minute."""
    begin = shell("alone", lock=PATH, patience=str(_PATIENCE))
    # In a shell of its own and without the lock, which a daemon would keep.
    return f"{begin}(\n{script}\n) 9>&-\n"


def idle(*, besides: str = "") -> str:
    """Shell that fails, in one line, while a job of a host goes on.

    Args:
        besides: locks of jobs that may, such as `health.lock`, with blanks between.
    """
    return shell("idle", besides=besides)


def unless_busy(script: str) -> str:
    """Shell that runs `script`, or prints BUSY and nothing else while the host is changed."""
    return f"{shell('unless-busy', lock=PATH, busy=BUSY)}{script}\n"
