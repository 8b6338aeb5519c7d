"""The operating systems Datatier runs on, and what their archives ship."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One release of a distribution; versions are those of its own archive."""

    name: str
    postgres: int
    pgbouncer: tuple[int, int]
    tested: bool


RELEASES = {
    ("debian", "12"): Release("Debian 12", 15, (1, 18), tested=True),
    ("debian", "13"): Release("Debian 13", 17, (1, 24), tested=True),
    ("ubuntu", "22.04"): Release("Ubuntu 22.04", 14, (1, 16), tested=False),
    ("ubuntu", "24.04"): Release("Ubuntu 24.04", 16, (1, 22), tested=False),
}
