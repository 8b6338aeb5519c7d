"""Users of services, which we make ourselves."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.core.change import Change

# What `getent passwd` says of a user that is ours.
OURS = "Datatier"

_ADD = (
    "useradd --system --user-group --no-create-home --home-dir /nonexistent"
    " --shell /usr/sbin/nologin"
)


def missing_users(missing: Iterable[str]) -> Change | None:
    """Makes users that are not there."""
    names = [*missing]
    if not names:
        return None
    script = "".join(f"{_ADD} --comment {OURS} {name}\n" for name in names)
    return Change([f"user {name}: create" for name in names], script)
