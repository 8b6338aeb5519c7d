"""Who is the Redis master now: asked, never assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.core.remote import Unreadable


class Address(NamedTuple):
    """Where an instance listens."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


class User(NamedTuple):
    """An ACL user of an instance or a Sentinel.

    Attributes:
        name: quoted, as redis-cli writes and reads it.
        rules: in the order that the server says.
    """

    name: str
    rules: tuple[str, ...]

    @classmethod
    def of(cls, line: str) -> User:
        """A line of ACL LIST, quoted: `"user NAME RULE..."`."""
        _, name, *rules = line.strip('"').split(" ")
        return cls(f'"{name}"', tuple(rules))

    @property
    def is_ours(self) -> bool:
        """Whether it is the one that every client with the password is."""
        return self.name == '"default"'

    @property
    def may_all(self) -> bool:
        """Whether it may do everything."""
        letting_in = {rule for rule in self.rules if rule.startswith("#")} | {"nopass"}
        rights = {*self.rules} - letting_in - {"sanitize-payload"}
        return rights == {"on", "~*", "&*", "+@all"}

    @property
    def is_guarded(self) -> bool:
        """Whether it may do everything, and takes one password."""
        passwords = [rule for rule in self.rules if rule.startswith("#")]
        return self.may_all and len(passwords) == 1 and "nopass" not in self.rules


def guarded(users: Iterable[User]) -> bool:
    """Whether who has the password, and only he, is let in; what is not known is no fault."""
    return all(user.is_guarded for user in users if user.is_ours)


def strangers(users: Iterable[User], known: Collection[str] = ()) -> list[str]:
    """The names of users beside ours.

    Args:
        known: names of others that the settings have or had, as they are written there.
    """
    quoted = {f'"{name}"' for name in known}
    return sorted(user.name for user in users if not user.is_ours and user.name not in quoted)


@dataclass(frozen=True)
class Instance:
    """What one Redis instance is known to be.

    Attributes:
        kind: 'absent' was never started here, 'unseen' is on a host this run does not reach.
        follows: the master that it replicates from, None for a master.
        online: a master's replicas that have all of its data but what is on its way.
        users: its ACL users, where it answers.
        tried: what those of the settings would be, in its own words.
        settings: what it runs with, where it answers.
        full: its memory; it then takes no transaction, so what is `tried` is not known.
        locked: who has the password can set nothing right there, so only a restart does.
        replaced: an upgrade has put another program in the place of the one that runs.
    """

    address: Address
    kind: str
    follows: Address | None = None
    online: int = 0
    users: tuple[User, ...] = ()
    tried: tuple[User, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    full: bool = False
    locked: bool = False
    replaced: bool = False


class Watcher(NamedTuple):
    """What a Sentinel says.

    Attributes:
        master: who leads.
        quorum: whether it could fail over; begins with OK if so.
    """

    master: Address
    quorum: str


def master(
    sentinels: Iterable[Address | None], instances: Sequence[Instance], first: Address
) -> Address:
    """The current master.

    Args:
        sentinels: the answer of every configured Sentinel, None for silence.
        instances: every configured instance, the inventory's first one included.
        first: the instance that starts as master where nothing has ever run.

    Raises:
        Unreadable: none knows, or they disagree; the message says what to do.
    """
    answers = Counter(answer for answer in sentinels if answer is not None)
    if len(answers) == 1:
        return next(iter(answers))
    if answers:
        said = ", ".join(f"{count} say {address}" for address, count in answers.items())
        raise Unreadable(
            f"the Sentinels disagree about the Redis master ({said}): a failover may be under "
            "way; run again when SENTINEL GET-MASTER-ADDR-BY-NAME is the same everywhere"
        )
    existing = [i for i in instances if i.kind == "present"]
    unseen = [i for i in instances if i.kind == "unseen"]
    if not existing and not unseen:
        return first
    return _by_replication(existing, unseen)


def _by_replication(existing: Sequence[Instance], unseen: Sequence[Instance]) -> Address:
    leaders = {i.follows for i in existing if i.follows} | {
        i.address for i in existing if i.follows is None
    }
    if len(leaders) == 1:
        return leaders.pop()
    where = ", ".join(str(i.address) for i in unseen) or "none"
    raise Unreadable(
        "the Redis master is unknown: no Sentinel answers, and the instances name "
        f"{len(leaders)} ({', '.join(sorted(map(str, leaders))) or 'none'}; not reached: {where}). "
        "Start the Sentinels, or run on all hosts of the group 'redis' at once"
    )
