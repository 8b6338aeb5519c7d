"""ACL users: those of the settings are set, others are named and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from tasks.core.change import Change, Line
from tasks.core.estate import Node
from tasks.core.scripts import shell
from tasks.core.services import Status
from tasks.redis import acl
from tasks.redis.console import SHELL
from tasks.redis.settings import RedisSettings, logins, own_users, users_of
from tasks.redis.topology import Instance, strangers
from tasks.redis.values import name_of

# In the record of an activation, before the name of a user.
USER = "user:"


def missing_own(node: Node) -> Change | None:
    """Makes running instances know our users, before anything comes to them as one of these.

    A password that changes is one of two until `exact_own`.
    """

    def is_missing(role: Instance, user: str, what: str) -> bool:
        return what == acl.CHANGED or not acl.lets_in(role, user, own_users(node)[user])

    def order(role: Instance, found: dict[str, str]) -> str:
        return acl.added(own_users(node), found, role.users)

    return _of_own(node, "add_users", order, is_missing)


def exact_own(node: Node) -> Change | None:
    """Leaves our users with what the settings say, when all that is ours comes with it."""

    def order(_role: Instance, found: dict[str, str]) -> str:
        return acl.orders(own_users(node), found, ())

    return _of_own(node, "set_users", order, lambda _role, _user, what: what != acl.NEW)


def _of_own(
    node: Node,
    act: str,
    order: Callable[[Instance, dict[str, str]], str],
    is_meant: Callable[[Instance, str, str], bool],
) -> Change | None:
    lines, steps, variables = list[str](), list[str](), logins(node)
    for role in cast(list[Instance], node.read("redis")["roles"]):
        port, wanted = role.address.port, own_users(node)
        every = acl.differing(role, wanted)
        found = {user: what for user, what in every.items() if is_meant(role, user, what)}
        if not found or not role.users or role.locked:
            continue
        name = name_of(node, port)
        lines += [f"{name}: ACL user {user}: {what}" for user, what in found.items()]
        variables[f"OWN_{port}"] = order(role, found)
        steps.append(f'accepted {port} && {act} {port} {name} "$OWN_{port}"')
    return Change(lines, "\n".join([SHELL, *steps]), variables) if lines else None


def due_users(node: Node, port: int, now: Status) -> list[str]:
    """What an instance's users are not as the settings say, as parts of a sentence of the plan."""
    found = [f"ACL user {name}: {what}" for name, what in _differing(node, port).items()]
    return found + [f"ACL user {name}: removed{acl.ENDS}" for name in sorted(_gone(node, now))]


def set_users(node: Node, port: int, now: Status) -> str:
    """What makes an instance have the users of the settings, and end sessions of others."""
    return acl.orders(users_of(node), _differing(node, port), _gone(node, now))


def _differing(node: Node, port: int) -> dict[str, str]:
    """The users that an instance has not as they should be, where it answers."""
    roles: list[Instance] = node.read("redis")["roles"]
    here = (role for role in roles if role.address.port == port and role.users)
    return {k: v for role in here for k, v in acl.differing(role, users_of(node)).items()}


def _gone(node: Node, now: Status) -> set[str]:
    """The users that an instance got from settings that have them no more."""
    had = {key.removeprefix(USER) for key in now.keys if key.startswith(USER)}
    return had - node.the(RedisSettings).users.keys()


def _strangers(node: Node) -> dict[int, list[str]]:
    """The ACL users of each instance that no settings ever had, by port."""
    said, found = node.read("redis"), dict[int, list[str]]()
    for role in cast(list[Instance], said["roles"]):
        now = said["services"][name_of(node, role.address.port)]
        known = {*acl.OWN, *node.the(RedisSettings).users, *_gone(node, now)}
        found[role.address.port] = strangers(role.users, known)
    return found


def unknown_users(node: Node) -> Iterator[str]:
    """What is said of ACL users that are not in the settings and stay."""
    if not node.the(RedisSettings).prune:
        for port, names in _strangers(node).items():
            for name in names:
                what = f"the ACL user {name} is not in the settings"
                yield f"{node.service or f'redis-{port}'}: {what}; redis_prune would remove it"


def prune(node: Node) -> Change | None:
    """Removes the ACL users that are not in the settings; their connections end."""
    going = {port: names for port, names in _strangers(node).items() if names}
    if not going or not node.the(RedisSettings).prune:
        return None
    script = SHELL + shell("remove-users", "redis")
    lines, variables = list[str](), logins(node)
    for port, names in going.items():
        service = name_of(node, port)
        lines += [remove_user(service, name) for name in names]
        variables[f"USERS_{port}"] = " ".join(names)
        script += f'remove_users {port} {service} "$USERS_{port}"\n'
    return Change(lines, script, variables)


def remove_user(service: str, name: str) -> Line:
    """The removal of a user, as a sentence of the plan."""
    return Line(f"{service}: remove the ACL user {name}; its connections end", "restart")
