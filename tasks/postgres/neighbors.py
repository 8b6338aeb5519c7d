"""What PostgreSQL asks of others: poolers before it, and the host that keeps its backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tasks.core.change import Change
from tasks.core.component import serving
from tasks.core.estate import Estate, Node
from tasks.core.files import Entry
from tasks.core.remote import Probe
from tasks.postgres.settings import PostgresSettings


@dataclass(frozen=True)
class Pooler:
    """A component between PostgreSQL and its clients.

    Attributes:
        holds: whether all clients of a server wait while it restarts; False where there are none.
        hold: shell for the server's host that makes them wait, or exits, and shell that ends that.
        held_probe: reads which poolers a run has left with their clients waiting.
        resume: lets clients go on that wait for a run which was cut off.
        refuses_tls: whether the settings of a pooler want the link in clear.
        is_in_clear: whether a pooler may run with a configuration from before it had TLS.
        pinned: the certificates of PostgreSQL that a pooler on another host takes, as it stands.
        turned: how each pooler of a run takes its configuration, where that is due.
        leading: the poolers of an estate.
        trusting: the file of a server with the certificates that consoles of poolers may show.
    """

    holds: Callable[[Node], bool]
    hold: Callable[[Node], tuple[str, str]]
    held_probe: Callable[[], Probe[list[str]]]
    resume: Callable[[Node, Sequence[str]], Change | None]
    refuses_tls: Callable[[Node], bool]
    is_in_clear: Callable[[Node], bool]
    pinned: Callable[[Node], str]
    turned: Callable[[Estate], Iterator[tuple[Node, Change]]]
    leading: Callable[[Estate], list[Node]]
    trusting: Callable[[Node], list[Entry]]


@dataclass(frozen=True)
class Keeper:
    """The component that keeps the backups.

    Attributes:
        scripts_dir: where its scripts are on a host.
        pinned: the certificates of PostgreSQL that another host takes, as it stands.
        repositories: what pgBackRest calls those that WAL goes to.
        ready: the same of those that take it already.
    """

    scripts_dir: Callable[[Node], str]
    pinned: Callable[[Node], str]
    repositories: Callable[[Node], list[int]]
    ready: Callable[[Node], list[int]]


def pooler() -> Pooler:
    """The pooler of the stack."""
    return next(serving(PostgresSettings, Pooler))


def keeper() -> Keeper:
    """The keeper of the stack."""
    return next(serving(PostgresSettings, Keeper))
