"""HTTP servers of ours, asked on their hosts."""

from __future__ import annotations

from tasks.core.offer import place
from tasks.core.scripts import shell


def asking(address: str, port: int, path: str, authority: str = "") -> str:
    """Shell: ask, demands.

    Args:
        authority: the file that its certificate is verified with; empty where it has none.
    """
    return shell(
        "demands",
        http_place=place(address, port),
        http_address=address,
        http_port=str(port),
        http_path=path,
        http_authority=authority,
    )
