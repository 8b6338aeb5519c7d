"""Who may come to a Sentinel: each password is valid before anything of ours comes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.redis import acl
from tasks.redis.console import SHELL
from tasks.redis.files import KEEP_PASSWORD
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.topology import User
from tasks.sentinel.forget import View, is_locked
from tasks.sentinel.orders import ORDER, default_rules, name_of, passwords_of, secrets_of

_ADDED = "another password lets in too"
_ONLY = "only the password of the settings lets in"


def added(node: Node) -> Change | None:
    """Makes running Sentinels accept the passwords of the settings beside those of before."""
    wanted = _hashes(node)

    def orders(users: list[User]) -> Iterator[str]:
        # Whom no password is asked of is let in with any, until `exact`.
        asked = [user for user in users if "nopass" not in user.rules]
        missing = [each for user in asked for each in wanted if each not in user.rules]
        if missing:
            yield f"ACL SETUSER default {' '.join(missing)}"

    return _change(node, _ADDED, orders)


def exact(node: Node) -> Change | None:
    """Leaves them with these, when all Sentinels come with the first; other sessions end."""
    wanted = {*_hashes(node)}

    def orders(users: list[User]) -> Iterator[str]:
        letting_in = {each for user in users for each in user.rules if each[0] == "#"}
        if letting_in - wanted or any("nopass" in user.rules for user in users):
            yield f"ACL SETUSER default {default_rules(node)}"
            yield "CLIENT KILL USER default"

    return _change(node, _ONLY, orders)


def _hashes(node: Node) -> list[str]:
    return [f"#{acl.hashed(each)}" for each in passwords_of(node)]


def _change(node: Node, what: str, orders: Callable[[list[User]], Iterator[str]]) -> Change | None:
    lines, variables, script = list[str](), secrets_of(node), SHELL + ORDER
    for port in node.the(SentinelSettings).ports:
        view: View = node.read("sentinel")["views"].get(port, View())
        users = [user for user in view.users if user.is_ours]
        commands = [] if is_locked(node, port) else [*orders(users)]
        if commands:
            lines.append(f"{name_of(node, port)}: {what}")
            variables[f"PASSWORDS_{port}"] = "\n".join(commands)
            script += f'order {port} "$PASSWORDS_{port}"\n'
    if not node.place.shares_files:
        script += f"{KEEP_PASSWORD}\nkeep_password\n"
    return Change(lines, script, variables) if lines else None
