"""One change at a time on a host: a command goes on when its run is killed or cut off."""

from __future__ import annotations

import shlex

PATH = "/run/datatier.lock"
BUSY = "busy"

# A change waits for reads, and for another run's change: seconds.
_PATIENCE = 60

# The script runs in a shell of its own and without the lock, which a daemon would keep. Statuses
# other than 1: there is no `flock`, and nobody waits.
_ALONE = """umask 077
exec 9>>{path}
waited=0
until flock -n 9; [ $? != 1 ]; do
  if [ $((waited += 1)) -gt {patience} ]; then
    echo "another run is changing this host: run again when it has ended" >&2; exit 1
  fi
  sleep 1
done
(
{script}
) 9>&-
"""

_UNLESS_BUSY = """if [ -e {path} ]; then
  exec 9<{path}
  flock -n -s 9; if [ $? = 1 ]; then echo {busy}; exit; fi
fi
{script}
"""


def alone(script: str) -> str:
    """Shell that runs `script` while nobody else changes the host, or fails after a minute."""
    return _ALONE.format(path=shlex.quote(PATH), patience=_PATIENCE, script=script)


def unless_busy(script: str) -> str:
    """Shell that runs `script`, or prints BUSY and nothing else while the host is changed."""
    return _UNLESS_BUSY.format(path=shlex.quote(PATH), busy=BUSY, script=script)
