"""What a service of the stack tells an application that uses it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.core.estate import Node

# How an application reaches a host or a container: a name or an address.
Reach = Callable[["Node"], str]

NEAR = "127.0.0.1"


@dataclass(frozen=True)
class Offer:
    """Variables by which an application finds a service.

    Attributes:
        variables: hold no secret.
        secrets: an application gets NAME_FILE instead, with the path of a file that has the value.
        urls: all of it in one; in a file too, and in the variable where the application asks.
        further: more secrets, in files only: another variable would restart every application.
    """

    variables: dict[str, str]
    secrets: dict[str, str]
    urls: dict[str, str]
    further: dict[str, str] = field(default_factory=dict)


def place(host: str, port: int) -> str:
    """A place as URLs and lists have it."""
    try:
        is_long = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_long = False
    return f"[{host}]:{port}" if is_long else f"{host}:{port}"
