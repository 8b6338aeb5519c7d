"""The command of pyinfra, where it is what runs us."""

from __future__ import annotations

import sys
from typing import Any


def part(name: str) -> Any:
    """A module of it, or None. It is not imported: that would replace parts of Python."""
    return sys.modules.get(f"pyinfra_cli.{name}")
