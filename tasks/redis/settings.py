"""The `redis_*` keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from tasks.core.estate import Estate, Node
from tasks.core.secrets import Secrets, previous
from tasks.core.settings import Extra, Ports, Secret, Settings, StackSettings, matching, wrong
from tasks.redis import acl, tls
from tasks.redis.acl import RedisUser, RedisUsers
from tasks.redis.topology import Address

Policy = Literal[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]


_UNITS = {"": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


def _memory(value: str) -> str:
    match = re.fullmatch(r"(\d+)([a-z]*)", value.lower(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise wrong("should be a size such as '512mb' or '1gb', or '0' for no limit")
    if 0 < int(match[1]) * _UNITS[match[2]] < 1024**2:
        raise wrong("should be at least 1mb, or '0' for no limit")
    return value.lower()


def unfit(password: str) -> str:
    """Why Sentinel cannot have a password; empty if it can."""
    # Sentinel saves `auth-pass` without quotes and cannot read it at its next start.
    if re.search(r"[\s'\"\\]", password):
        return "should not contain blanks, quotes or backslashes: Sentinel cannot save them"
    return ""


def _plain(value: SecretStr) -> SecretStr:
    if message := unfit(value.get_secret_value()):
        raise wrong(message)
    return value


class RedisSettings(Settings):
    """The `redis_*` keys."""

    prefix: ClassVar[str] = "redis_"

    ports: Ports = (6379,)
    """One instance per port on this host; the embedded `inventory.py` has 6379, 6380, 6381. Change:
    a new port starts a replica; a port taken away keeps running without `redis_prune`."""
    password: Annotated[Secret, AfterValidator(_plain)]
    """Password of every instance and every Sentinel; no blanks, quotes or backslashes. Default:
    `REDIS_PASSWORD`. Change: live; connections of the old one end."""
    password_previous: Annotated[Secret, AfterValidator(_plain)] | None = None
    """The password of before: valid too as long as it is here. Default: `REDIS_PASSWORD_PREVIOUS`,
    if it is there. Change: live; connections with it end when it goes."""
    maxmemory: Annotated[str, AfterValidator(_memory)] = "512mb"
    """Memory of each instance; `0` for no limit. Change: live."""
    maxmemory_policy: Policy = "noeviction"
    """What happens when it is full. Change: live."""
    appendonly: bool = True
    """Append-only file. Change: live."""
    appendfsync: Literal["always", "everysec", "no"] = "everysec"
    """`always`, `everysec` or `no`. Change: live."""
    save: Annotated[
        str,
        matching(
            r"(\d+ \d+( \d+ \d+)*)?",
            "should be pairs of seconds and changes such as '900 1 300 10', or '' for none",
        ),
    ] = "900 1 300 10 60 10000"
    """Snapshots: seconds and changes; empty for none. Change: live."""
    min_replicas_to_write: Annotated[int, Field(ge=0)] = 0
    """A master with fewer connected replicas refuses writes. Change: live."""
    min_replicas_max_lag: Annotated[int, Field(ge=0)] = 10
    """Seconds after which a silent replica no longer counts. Change: live."""
    default_user: Literal["all", "application"] = "all"
    """What who has `redis_password` may do: `all`, or what an
    [application](connecting.md#what-default-may-do) needs. Change: live, for open connections too.
    """
    users: RedisUsers = {}
    """ACL users with less rights than `default`, by name; each has the keys below. Change: live;
    connections of a user that is taken away, or gets another password, end."""
    prune: bool = False
    """Instances that left the settings go, and ACL users that are not in them. Change: they stop.
    """
    extra: Extra = {}
    """Any other key: `{"timeout": 300}`. Change: live, or a rolling restart where Redis does not
    take it; a key that is taken away is set back live."""


PASSWORD = "REDIS_PASSWORD"


# Where root's redis-cli finds it, and where runs find that of our administrator's user.
KEPT_PASSWORD = "/etc/redis/redis-cli.auth"
KEPT_ADMIN = "/etc/redis/redis-admin.auth"


def defaults(_stack: StackSettings, store: Secrets, given: Mapping[str, Any]) -> dict[str, Any]:
    there = {"password_previous": store.stated(previous(PASSWORD))}
    mine = {} if "password" in given else {"password": store.get(PASSWORD)}
    return {**mine, **{key: value for key, value in there.items() if value and key not in given}}


def password(node: Node) -> str:
    """The password of every Redis instance."""
    return node.the(RedisSettings).password.get_secret_value()


def passwords(node: Node) -> list[str]:
    """All that every instance and every Sentinel accepts of `default`, the clients' first."""
    before = node.the(RedisSettings).password_previous
    return [password(node), *([before.get_secret_value()] if before else [])]


def lasting_password(node: Node) -> str:
    """What is accepted before a run, while it lasts, and after it."""
    return passwords(node)[-1]


def generated_secrets(node: Node) -> list[str]:
    """The names of the passwords that users leave to `.env`."""
    users = node.the(RedisSettings).users.items()
    theirs = [acl.secret_name(name) for name, user in users if user.password is None]
    before = [previous(name) for name in theirs if node.estate.secrets.stated(previous(name))]
    return [*map(acl.own_secret_name, acl.OWN), *theirs, *before]


def rotates(node: Node) -> dict[str, str]:
    """What rotates, by the names of tasks: all that no key of the settings has."""
    names = [*generated_secrets(node)]
    if password(node) == node.estate.secrets.find(PASSWORD):
        names.append(PASSWORD)
    return {name.lower(): name for name in names}


def own_password(node: Node, user: str) -> str:
    """The password of one of our users."""
    return node.estate.secrets.get(acl.own_secret_name(user))


def own_users(node: Node) -> dict[str, str]:
    """The rules of our users, by name."""
    return {name: acl.own_rules(name, own_password(node, name)) for name in acl.OWN}


def default_of(node: Node) -> dict[str, str]:
    """The rules of `default` where it may not do everything, or has two passwords."""
    kind, every = node.the(RedisSettings).default_user, passwords(node)
    return {} if kind == "all" and not every[1:] else {"default": acl.default_rules(kind, *every)}


def every_user(node: Node) -> dict[str, str]:
    """The rules of all users of an instance, but for a `default` that needs none."""
    return {**default_of(node), **own_users(node), **users_of(node)}


def logins(node: Node) -> dict[str, str]:
    """What shell that talks to instances has to have, as variables."""
    return {**default_login(node), "REDIS_ADMIN_PASSWORD": own_password(node, acl.ADMIN)}


def default_login(node: Node) -> dict[str, str]:
    """The same of `default`, and its password that a host keeps."""
    secrets = {PASSWORD: lasting_password(node), "KEPT_PASSWORD": password(node)}
    return {**secrets, **tls.variables(node)}


def users_of(node: Node) -> dict[str, str]:
    """The rules of every user of the settings, by name."""
    return {
        name: acl.rules(user, *_user_passwords(node, name, user))
        for name, user in node.the(RedisSettings).users.items()
    }


def user_passwords(node: Node) -> dict[str, str]:
    """The passwords of users by the names of their secrets, but for a name that two would have."""
    users = node.the(RedisSettings).users.items()
    shared = Counter(acl.secret_name(name) for name, _ in users)
    return {
        acl.secret_name(name): _user_password(node, name, user)
        for name, user in users
        if shared[acl.secret_name(name)] == 1
    }


def _user_passwords(node: Node, name: str, user: RedisUser) -> list[str]:
    before = node.estate.secrets.stated(previous(acl.secret_name(name)))
    return [_user_password(node, name, user), *([before] if before and not user.password else [])]


def _user_password(node: Node, name: str, user: RedisUser) -> str:
    if user.password is not None:
        return user.password.get_secret_value()
    return node.estate.secrets.get(acl.secret_name(name))


def addresses(everything: Estate) -> list[Address]:
    """Every Redis instance, in the inventory's order; the first one starts as master."""
    return [
        Address(node.address, port)
        for node in everything.having(RedisSettings)
        for port in node.the(RedisSettings).ports
    ]
