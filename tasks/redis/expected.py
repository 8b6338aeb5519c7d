"""Keys that no setting of ours has, and what they should be: as a server with our file says."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.redis import tls
from tasks.redis.topology import Instance
from tasks.redis.values import RESTART_KEYS, settings_of

EXPECTED = shell("expected", "redis")

# What Redis and Sentinel change themselves.
_NOT_OURS = RESTART_KEYS | {"replicaof", *tls.APART, *tls.SHOWN}


def expected_probe(path: str) -> Probe[dict[str, str]]:
    """Reads what a server is expected to use, by the file of one: keys of its own are not asked."""
    script = f"{EXPECTED}\nexpected {quoted(path)}"

    def parse(lines: list[str]) -> dict[str, str]:
        return {key: value for key, _, value in (line.partition(" ") for line in lines)}

    return Probe(script, parse)


def moved_beside(node: Node, port: int) -> dict[str, str]:
    """What an instance should use of the keys that no setting has, where it does not."""
    said = node.read("redis")
    roles: list[Instance] = said["roles"]
    uses = next((role.settings for role in roles if role.address.port == port), {})
    ours = _NOT_OURS | settings_of(node, port).keys()
    return {
        key: value
        for key, value in said.get("expected", {}).items()
        if uses.get(key, value) != value
        and key not in ours
        # An older name of another key.
        and "slave" not in key
        # The limit of files of the client that asks may be a lower one.
        and not (key == "maxclients" and int(uses[key]) > int(value))
    }
