"""Parts of a module that have nothing in common, and may go to different workers."""

from __future__ import annotations

from typing import Any

import pytest


def estates(module: str, **values: object) -> list[Any]:
    """The parameters of a module's fixture, by name: each makes an estate of its own."""
    return [
        pytest.param(value, id=name, marks=pytest.mark.xdist_group(f"{module}-{name}"))
        for name, value in values.items()
    ]
