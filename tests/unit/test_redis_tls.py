"""Redis over TLS: what files say of it, and how an estate that runs goes over, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.change import impact_of
from tasks.core.estate import Estate, Node
from tasks.redis import activation, moving, service, values
from tasks.redis.topology import Address, Instance
from tasks.sentinel import files as sentinel_files
from tasks.sentinel.offer import offer
from tests.unit import helpers
from tests.unit.test_components import knows

CLEAR = {
    **{"port": "6379", "tls-port": "0", "tls-replication": "no", "tls-auth-clients": "yes"},
    **{"tls-cert-file": "", "tls-key-file": "", "tls-ca-cert-file": ""},
}
ENCRYPTED = {
    **{"port": "0", "tls-port": "6379", "tls-replication": "yes", "tls-auth-clients": "no"},
    "tls-cert-file": "/etc/datatier/tls/redis/certificate.pem",
    "tls-key-file": "/etc/datatier/tls/redis/key.pem",
    "tls-ca-cert-file": "/etc/datatier/tls/ca.pem",
}


def estate(directory: Path, *, tls: bool, reached: str = "ab", **choices: Any) -> Estate:
    hosts = {
        name: {"address": f"10.0.0.{number}", "tls_enabled": tls, **choices}
        for number, name in enumerate("ab", 1)
    }
    groups = {"redis": ["a", "b"], "sentinel": ["a", "b"]}
    made = helpers.estate(hosts, groups, directory)
    for node in (node for node in made.nodes if node.name in reached):
        node.host.state.activate_host(node.host)
    return made


def uses(node: Node, settings: dict[str, str]) -> Node:
    """Lets its instance answer with these settings."""
    roles = [Instance(Address(node.address, 6379), "present", settings=settings)]
    knows(node, "redis", roles=roles)
    return node


def lines(change: Any) -> list[str]:
    return change.lines if change else []


@pytest.mark.parametrize("tls", [False, True])
def test_the_file_says_what_an_instance_is_told(tls: bool, tmp_path: Path) -> None:
    node = estate(tmp_path, tls=tls).nodes[0]
    said = dict(line.partition(" ")[::2] for line in values.configuration(node, 6379).splitlines())
    wanted = ENCRYPTED if tls else {"port": "6379"}
    assert {key: value for key, value in said.items() if key in CLEAR} == wanted
    watching = sentinel_files.configuration(node, 26379).splitlines()
    assert ("tls-replication yes" in watching, "port 0" in watching) == (tls, tls)
    assert ("tls-port 26379" in watching, "port 26379" in watching) == (tls, not tls)


def test_nothing_restarts_for_it(tmp_path: Path) -> None:
    """The record of a restart is the same, whatever an instance speaks at its port."""
    plain, encrypted = (estate(tmp_path, tls=tls).nodes[0] for tls in (False, True))
    assert activation._fixed(plain, 6379) == activation._fixed(encrypted, 6379)
    live = activation._live(encrypted, 6379)
    assert "tls-cert-file" in live and not {"port", "tls-port", "tls-replication"} & live.keys()


@pytest.mark.parametrize("tls", [False, True])
def test_instances_go_over_without_a_restart(tls: bool, tmp_path: Path) -> None:
    before, after = (CLEAR, ENCRYPTED) if tls else (ENCRYPTED, CLEAR)
    node = estate(tmp_path, tls=tls).nodes[0]
    change = moving.due_listening(uses(node, before))
    assert change is not None and [impact_of(line) for line in change.lines] == ["reload"]
    # The port is let go of first, or Redis cannot listen there.
    files = (f"{key} {ENCRYPTED[key]}" for key in ("tls-cert-file", "tls-key-file"))
    order = " ".join(["port 0 tls-port 6379", *files]) if tls else "tls-port 0 port 6379"
    assert change.variables["MOVE_6379"] == f"CONFIG SET {order}"
    clients = "have to use TLS" if tls else "must not use TLS"
    assert clients in change.lines[0]
    assert lines(moving.due_links(node)) == [
        f"redis-6379: reload (replication {'over TLS' if tls else 'in clear'})"
    ]
    uses(node, after)
    assert moving.due_listening(node) is None and moving.due_links(node) is None


def test_what_an_instance_came_with_goes_with_the_last_link(tmp_path: Path) -> None:
    """Not before: a server that listens with TLS refuses to lose its certificate."""
    node = estate(tmp_path, tls=False).nodes[0]
    uses(node, {**ENCRYPTED, "port": "6379", "tls-port": "0"})
    change = moving.due_links(node)
    assert change is not None
    told = change.variables["MOVE_6379"].splitlines()
    assert told[1].startswith('CONFIG SET tls-replication "no" tls-cert-file ""')
    assert told[0::3] == ["MULTI", "EXEC"] and told[2] == "CLIENT KILL TYPE master"


def test_they_do_not_go_over_alone(tmp_path: Path) -> None:
    """Neither without the others, nor in a run that has to restart one."""
    everything = estate(tmp_path, tls=True)
    node = uses(everything.nodes[0], CLEAR)
    uses(everything.nodes[1], CLEAR)
    assert moving.obstacle(node, []) == ""
    assert "redis-6379 has to restart" in moving.obstacle(node, [6379])
    node = uses(estate(tmp_path, tls=True, reached="a").nodes[0], CLEAR)
    assert "run on all of Redis and Sentinel, b too" in moving.obstacle(node, [])
    assert moving.obstacle(uses(node, ENCRYPTED), [6379]) == ""


def test_tls_of_an_instances_own_stays(tmp_path: Path) -> None:
    """`redis_extra` could have it before; beside the estate's it is refused."""
    own = {"tls-port": 6390, "tls-cert-file": "/own.pem", "tls-key-file": "/own.key"}
    node = estate(tmp_path, tls=False, redis_extra=own).nodes[0]
    said = {**CLEAR, **{key: str(value) for key, value in own.items()}}
    uses(node, said)
    assert moving.due_listening(node) is None and moving.due_links(node) is None
    refused = helpers.problems(estate(tmp_path, tls=True, redis_extra=own))
    assert "a: redis_extra/tls-port: is set by Datatier" in refused


def test_applications_are_told(tmp_path: Path) -> None:
    for tls in (False, True):
        told = offer(estate(tmp_path, tls=tls), lambda node: node.address)
        assert told is not None
        url = told.urls["REDIS_SENTINEL_URL"]
        assert url.partition(":")[0] == ("rediss+sentinel" if tls else "redis+sentinel")


def test_its_shell_is_shell(tmp_path: Path) -> None:
    node = uses(estate(tmp_path, tls=True).nodes[0], CLEAR)
    for change in (moving.due_listening(node), moving.due_links(node)):
        assert change is not None and helpers.syntax_error(change.script) == ""
    assert "require_served" in service.services_of(node)[0].functions
