"""From clear text to TLS and back, on instances that go on running.

All listen in the other way first, then links to masters are renewed, then the Sentinels restart
(tasks/sentinel). Connections that are open live on through all of it; new ones need the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.files import File
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.core.services import line
from tasks.redis.acl import quote
from tasks.redis.console import LINK, SHELL
from tasks.redis.sentinels import SentinelSettings, endpoints
from tasks.redis.settings import RedisSettings, addresses, logins
from tasks.redis.tls import MOVED, SHOWN
from tasks.redis.topology import Instance
from tasks.redis.values import name_of, settings_of
from tasks.tls.certificates import is_on

TLS_ONLY = File("/etc/redis/redis-tls", "All speak TLS: nothing is sent in clear.\n", group="redis")


def _answering(node: Node) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The instances that answer, and what each uses."""
    roles: list[Instance] = node.read("redis")["roles"]
    for role in roles:
        if role.settings:
            yield role.address.port, role.settings


def _wanted(node: Node, port: int) -> dict[str, str]:
    """What an instance should use of the keys that are set here."""
    bare = {**MOVED, **SHOWN}
    return {**bare, **{k: v for k, v in settings_of(node, port).items() if k in {"port", *bare}}}


def _differing(node: Node, port: int, uses: Mapping[str, str], *keys: str) -> bool:
    wanted = _wanted(node, port)
    return any(uses.get(key, wanted[key]) != wanted[key] for key in keys)


def _due(node: Node) -> list[int]:
    """The ports of instances that listen in the other way."""
    return [p for p, uses in _answering(node) if _differing(node, p, uses, "port", "tls-port")]


def due_listening(node: Node) -> Change | None:
    """Makes running instances listen as the settings say, at the same ports."""
    ports = _due(node)
    if not ports:
        return None
    says = "takes TLS only from now on" if is_on(node) else "takes no TLS any more"
    uses = "have to use TLS" if is_on(node) else "must not use TLS"
    means = f"reload ({says}: new connections of clients {uses}, open ones stay)"
    # What has the port lets go of it before the other takes it. One that spoke TLS before would go
    # on with the certificate of that time.
    shown = "port", "tls-port", "tls-cert-file", "tls-key-file"
    order = shown if is_on(node) else ("tls-port", "port")
    commands = {
        port: "CONFIG SET " + " ".join(f"{key} {_wanted(node, port)[key]}" for key in order)
        for port in ports
    }
    return _told(node, commands, means)


def due_links(node: Node) -> Change | None:
    """Renews links to masters that are of the other way; each goes on from where it was.

    Raises:
        Unreadable: (during a run) an instance still listens in the other way.
    """
    ports = [p for p, uses in _answering(node) if _differing(node, p, uses, *_of_links(node, p))]
    if not ports:
        return None
    if node.host.state.is_executing:
        _require_all(node.estate)
    way = "over TLS" if is_on(node) else "in clear"
    commands = dict[int, str]()
    for port in ports:
        words = " ".join(
            f"{key} {quote(_wanted(node, port)[key])}" for key in _of_links(node, port)
        )
        commands[port] = f"MULTI\nCONFIG SET {words}\nCLIENT KILL TYPE master\nEXEC"
    return _told(node, commands, f"reload (replication {way})")


def _of_links(node: Node, port: int) -> list[str]:
    """The keys of links, and what an instance without TLS comes with no more."""
    return ["tls-replication", *(key for key in SHOWN if key not in settings_of(node, port))]


def _told(node: Node, commands: Mapping[int, str], means: str) -> Change:
    names = {port: name_of(node, port) for port in commands}
    steps = [f'move {port} {names[port]} "$MOVE_{port}"' for port in commands]
    return Change(
        [line(name, means) for name in names.values()],
        "\n".join([SHELL, shell("move", "redis"), *steps]),
        {**logins(node), **{f"MOVE_{port}": text for port, text in commands.items()}},
    )


def _require_all(everything: Estate) -> None:
    """A replica that goes over before its master would be cut off."""
    for node in everything.having(RedisSettings):
        for port in _due(node) if node in everything.active else ():
            raise Unreadable(f"{name_of(node, port)} of {node.name} did not take it: run again")


def obstacle(node: Node, restarting: list[int]) -> str:
    """Why instances cannot go over now; empty where they can, or need not.

    Args:
        restarting: the ports of instances that have to restart for other reasons.
    """
    ports = _due(node)
    if not ports:
        return ""
    name = name_of(node, ports[0])
    if away := sorted(each.name for each in _away(node.estate)):
        return f"{name} goes over {_way(node)}: run on all of Redis and Sentinel, {away[0]} too"
    if restarting:
        return f"{name} goes over {_way(node)}, and {name_of(node, restarting[0])} has to restart"
    return ""


def _away(everything: Estate) -> set[Node]:
    """The hosts of Redis and Sentinel that are not in this run."""
    members = {*everything.having(RedisSettings), *everything.having(SentinelSettings)}
    return members - {*everything.active}


def _way(node: Node) -> str:
    return "to TLS" if is_on(node) else "to clear text"


# --- When all have gone over ---------------------------------------------------------------------


def established(node: Node) -> Change | None:
    """Says on a host that all speak TLS, so that no password goes to who answers in clear."""
    found = node.read("redis" if RedisSettings in node.settings else "sentinel")["tls_only"]
    there = found[TLS_ONLY.path].kind != "absent"
    if not is_on(node):
        removal = Change([f"{TLS_ONLY.path}: remove"], f"remove {quoted(TLS_ONLY.path)}")
        return removal if there else None
    everything = node.estate
    change = files.compare([TLS_ONLY], found)
    if change is None or _away(everything):
        return None
    places = quoted(*map(str, [*addresses(everything), *endpoints(everything)]))
    script = f"{LINK}{shell('all-tls', 'redis')}require_tls {places}\n{change.script}"
    return replace(change, script=script)
