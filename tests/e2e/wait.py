"""Waiting for what will be true soon."""

from __future__ import annotations

import time
from collections.abc import Callable

# Some questions take longer than that: what is late is asked less often.
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 1.0

# Shell: until systemd has the processes of all servers. A run is content when PostgreSQL answers,
# and Debian's pg_ctlcluster tells systemd two seconds later which process that is.
KNOWN = """for _ in $(seq 100); do
  systemctl list-units -q --state=activating 'postgresql@*' 2>/dev/null | grep -q . || break
  sleep 0.1
done
"""


def eventually(check: Callable[[], object], seconds: float) -> None:
    """Asks until `check` returns; what it raises after the deadline is the answer.

    A server that is not ready yet makes client libraries raise errors of their own.

    Args:
        check: asserts something by asking; asked once more after the deadline has passed.
        seconds: how long it may take.
    """
    begin = time.monotonic()
    end = begin + seconds
    while time.monotonic() < end:
        try:
            check()
        except Exception:
            spent = time.monotonic() - begin
            time.sleep(max(SHORTEST_SECONDS, min(spent / 5, LONGEST_SECONDS)))
        else:
            return
    check()
