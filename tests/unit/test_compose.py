"""What is due for a project, from what an engine says; and what a host with Docker is refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.compose import activation as compose_activation
from tasks.compose import building as compose_building
from tasks.compose import engine
from tasks.compose import images as compose_images
from tasks.compose import inside as compose_inside
from tasks.compose import reloads as compose_reloads
from tasks.compose import rules as compose_rules
from tasks.compose import services as compose_services
from tasks.compose import settings as compose_settings
from tasks.compose.engine import Container, Engine
from tasks.core import remote
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tasks.core.services import Status
from tasks.postgres import files as postgres_files
from tasks.postgres import sql
from tasks.postgres.settings import PostgresSettings
from tasks.redis.topology import Address, Instance, Watcher
from tests.unit import helpers

DIRECTORY = "/opt/psscript"
SUBNET = "172.25.0.0/16"


def docker(directory: Path, **data: Any) -> Node:
    """A host that runs the stack in containers."""
    node = helpers.estate({"box": data}, {"docker": ["box"]}, directory).nodes[0]
    node.host.state.activate_host(node.host)
    return node


def problems(directory: Path, groups: tuple[str, ...] = ("docker",), **data: Any) -> list[str]:
    """What a run refuses before it asks the engine."""
    everything = helpers.estate({"box": data}, {group: ["box"] for group in groups}, directory)
    return helpers.problems(everything)


def settled(node: Node) -> Engine:
    """An engine that has everything the settings say."""
    assert node.inside is not None
    inputs = compose_images.inputs(node.inside, node.the(compose_settings.DockerSettings))
    roles = compose_services.roles_of(node)
    names = {service: f"psscript_{service}:latest" for service in roles}
    return Engine(
        version="20.10.24",
        compose="docker-compose",
        compose_version=(1, 29, 2),
        containers=tuple(
            Container(
                service, f"/psscript-{service}", "hash", "running", "healthy", service, DIRECTORY
            )
            for service in roles
            if service != "redis-replica"
        ),
        hashes=dict.fromkeys(roles, "hash"),
        images={names[s]: (s, inputs[role]) for s, role in roles.items() if role},
        network=("psscript-network", SUBNET),
    )


def due(node: Node, found: Engine, **records: str) -> list[str]:
    """The sentences of the plan for the containers."""
    written = {each.name: _record(each) for each in _reloadables(node, found)}
    _say(node, found, {**written, **records})
    change = compose_activation.due_containers(node, compose_services.roles_of(node).keys())
    return [] if change is None else change.lines


# There was a failover.
LEADER = Address("172.25.0.21", 6379)
INSTANCES = {
    "redis-master": "172.25.0.20",
    "redis-replica-1": "172.25.0.21",
    "redis-replica-2": "172.25.0.22",
}
HANDS_OVER = "redis-replica-1: failover (master of mymaster; restart follows)"


def _say(
    node: Node,
    found: Engine,
    records: dict[str, str],
    quorum: str = "OK 3 usable Sentinels",
    leader: Address = LEADER,
) -> None:
    text = postgres_files.configuration(compose_inside.one(node.inside, PostgresSettings))  # type: ignore[arg-type]
    file = Found("file", content=text.encode())
    said: dict[str, Any] = {
        "engine": found,
        "services": _statuses(records),
        "postgres": {"server": sql.Server("up", 5432, {"contexts": {}})},
        "repositories": ["1"],
        "pgbouncer": {"uses": {}},
        "files": {
            f"{DIRECTORY}/docker/postgres/postgresql.conf": file,
            f"{DIRECTORY}/docker/postgres/pg_hba.conf": Found("file"),
        },
        **{
            f"redis-sentinel-{n}": {"monitors": {26379: {"quorum": "2"}}, "views": {}}
            for n in (1, 2, 3)
        },
        **{name: {"roles": [_instance(ip, leader)]} for name, ip in INSTANCES.items()},
    }
    said["redis-master"] |= {"sentinels": [Watcher(leader, quorum)]}
    # A read tells containers whom to ask.
    node.batches()
    remote._cache.setdefault(node.host, {})["docker"] = (float("inf"), said)


def _instance(ip: str, leader: Address) -> Instance:
    address = Address(ip, 6379)
    if address == leader:
        return Instance(address, "present", None, online=2)
    return Instance(address, "present", leader)


def _reloadables(node: Node, found: Engine) -> list[Any]:
    _say(node, found, {})
    return list(compose_reloads.reloadables(node))


def _record(each: Any) -> str:
    return f"{each.wanted.restart} {each.wanted.reload}"


def _statuses(records: dict[str, str]) -> dict[str, Status]:
    """What a read of these records says."""
    of = {name: record.split(" ") for name, record in records.items()}
    return defaultdict(
        lambda: Status(True, True, "none", "none"),
        {name: Status(True, True, restart, reload) for name, (restart, reload) in of.items()},
    )


def test_nothing_is_due_where_everything_is_there(tmp_path: Path) -> None:
    node = docker(tmp_path)
    assert due(node, settled(node)) == []


def test_a_bare_engine_gets_every_container(tmp_path: Path) -> None:
    node = docker(tmp_path)
    lines = due(node, replace(settled(node), containers=(), images={}, hashes={}, network=("", "")))
    assert lines == [
        f"{service}: create"
        for service in compose_services.roles_of(node)
        if service != "redis-replica"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hash": "other"}, "recreate (docker-compose.yml): it restarts, and its data stay"),
        ({"image": "older"}, "recreate (image): it restarts, and its data stay"),
        ({"status": "exited"}, "start"),
        ({"health": "unhealthy"}, "is unhealthy: wait"),
    ],
)
def test_a_container_that_differs_is_named_with_its_impact(
    change: dict[str, str], expected: str, tmp_path: Path
) -> None:
    node = docker(tmp_path)
    found = settled(node)
    first, *others = found.containers
    lines = due(node, replace(found, containers=(replace(first, **change), *others)))
    assert lines == [f"postgres: {expected}"]


def test_an_image_that_no_container_has_may_be_gone(tmp_path: Path) -> None:
    """`docker system prune -a` takes it: `up --scale` builds it again."""
    node = docker(tmp_path)
    found = settled(node)
    pruned = {n: each for n, each in found.images.items() if "redis-replica:" not in n}
    assert due(node, replace(found, images=pruned)) == []
    assert compose_building.missing_image(node, "redis") is None
    scaled = replace(found.containers[2], service="redis-replica", name="/psscript-scaled")
    _say(node, replace(found, images=pruned, containers=(*found.containers, scaled)), {})
    assert compose_building.missing_image(node, "redis") is not None


_CHECK = "debian:trixie-slim should be Debian 13, not Debian GNU/Linux 12"
_COMMAND = "apt-get update && apt-get install -y redis-server"
# As Compose 1.29 with the engine's own builder and Compose 2.26 with BuildKit have said it.
_NOT_BUILT = {
    "apt-1": (
        "Building dependency tree...\x1b[91mE: Unable to locate package redis\n\x1b[0m\n"
        f"The command '/bin/sh -c {_COMMAND}' returned a non-zero code: 100\n"
        "Service 'redis-master' failed to build : Build failed\n",
        "E: Unable to locate package redis",
    ),
    "apt-2": (
        f'#8 3.236 E: Unable to locate package redis\n#8 ERROR: process "/bin/sh -c {_COMMAND}" did'
        f" not complete successfully: exit code: 100\n------\n > [redis 1/2] RUN {_COMMAND}:\n"
        "2.941 Building dependency tree...\n3.236 E: Unable to locate package redis\n------\n"
        f'failed to solve: process "/bin/sh -c {_COMMAND}" did not complete successfully\n',
        "E: Unable to locate package redis",
    ),
    "check-1": (
        f" ---> Running in 255bdf\n\x1b[91m{_CHECK}\n\x1b[0mThe command '/bin/sh -c x' returned a"
        " non-zero code: 1\nService 'redis-master' failed to build : Build failed\n",
        _CHECK,
    ),
    "check-removed": (
        f" ---> Running in 255bdf\n\x1b[91m{_CHECK}\n\x1b[0m"
        "Removing intermediate container 255bdf\n"
        "The command '/bin/sh -c x' returned a non-zero code: 1\n",
        _CHECK,
    ),
    "check-2": (
        f'#6 0.197 {_CHECK}\n#6 ERROR: process "x" did not\n------\n > [base 2/3] RUN x:\n'
        f'0.197 {_CHECK}\n------\nfailed to solve: process "x" did not complete\n',
        _CHECK,
    ),
    "archive": (
        "W: Failed to fetch http://deb.debian.org/x  Could not resolve\n"
        "W: Some index files failed\nE: Unable to locate package redis\n"
        "The command 'x' returned a non-zero code: 100\n",
        "W: Failed to fetch http://deb.debian.org/x  Could not resolve",
    ),
    "registry-1": (
        'Step 1/12 : FROM debian AS base\nGet "https://registry": dial tcp: no such host\n'
        "Service 'redis-master' failed to build : Build failed\n",
        'Get "https://registry": dial tcp: no such host',
    ),
    "registry-2": (
        "#2 ERROR: failed to do request\n------\n > [internal] load metadata for debian:\n------\n"
        "failed to solve: debian: failed to resolve source metadata: no such host\n",
        "failed to solve: debian: failed to resolve source metadata: no such host",
    ),
    "silent": ("", ""),
}


@pytest.mark.parametrize(("log", "reason"), _NOT_BUILT.values(), ids=_NOT_BUILT)
def test_an_image_that_cannot_be_built_has_its_reason(
    log: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text(log)
    build = shell("build", "compose", project=str(tmp_path), services="redis-master")
    script = f"{shell('reason', 'compose')}{build}"
    done = helpers.shell(f"set -eu\ncompose=fails\nfails() {{ cat log; return 1; }}\n{script}")
    assert done.returncode == 1
    assert done.stderr == f"the image of redis-master could not be built: {reason}\n"


def test_a_network_that_is_gone_is_made_anew_with_its_containers(tmp_path: Path) -> None:
    """One of them alone would not start: it knows the network by its id."""
    node = docker(tmp_path)
    gone = replace(settled(node), network=("", ""))
    lines = due(node, gone)
    assert lines[0].startswith("network psscript-network: is gone: every container is recreated")
    assert {line.partition(":")[0] for line in lines[1:]} == {c.service for c in gone.containers}
    assert all("recreate (network)" in line for line in lines[1:])
    by_hand = replace(gone, networks={"psscript-network": SUBNET})
    assert due(node, by_hand) == []


def test_a_stale_image_takes_its_containers_along(tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    images = {n: (i, "old" if "redis" in n else label) for n, (i, label) in found.images.items()}
    lines = due(node, replace(found, images=images))
    sentinels = [f"redis-sentinel-{number}" for number in (1, 2, 3)]
    assert [line.partition(":")[0] for line in lines] == [
        *("redis-master", "redis-replica-2", *sentinels, "redis-replica-1", "redis-replica-1")
    ]
    assert lines[-2] == HANDS_OVER and all("(image)" in line for line in lines if line != lines[-2])


def test_one_instance_after_the_other_is_recreated_and_sentinels_after_them(tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    images = {n: (i, "old" if "redis" in n else label) for n, (i, label) in found.images.items()}
    due(node, replace(found, images=images))
    change = compose_activation.due_containers(node, compose_services.roles_of(node).keys())
    assert change is not None
    made = [line for line in change.script.splitlines() if line.startswith(("up ", "for round"))]
    names = ("redis-master", "redis-replica-1", "redis-replica-2")
    watchers = (f"up redis-sentinel-{number}" for number in (1, 2, 3))
    assert made == [*(f"up {name}" for name in names), "for round in 1 2; do", *watchers]


@pytest.mark.parametrize("kind", ["image", "record"])
def test_a_master_without_a_successor_is_left_as_it_is(kind: str, tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    records = {each.name: _record(each) for each in _reloadables(node, found)}
    if kind == "image":
        images = {n: (i, "o" if "redis" in n else label) for n, (i, label) in found.images.items()}
        found = replace(found, images=images)
    else:
        records["redis-replica-1"] = "old old"
    _say(node, found, records, quorum="NOQUORUM 1 usable Sentinels")
    with pytest.raises(Unreadable, match=r"redis-replica-1 is the master .* NOQUORUM"):
        compose_activation.due_containers(node, compose_services.roles_of(node).keys())


def test_an_instance_that_was_never_to_have_a_successor_restarts_in_place(
    tmp_path: Path,
) -> None:
    node = docker(tmp_path, redis_ports=[6379])
    found = settled(node)
    alone = Address(INSTANCES["redis-master"], 6379)
    records = {each.name: _record(each) for each in _reloadables(node, found)}
    _say(node, found, {**records, "redis-master": "old old"}, leader=alone)
    change = compose_activation.due_containers(node, compose_services.roles_of(node).keys())
    assert change is not None
    assert change.lines == ["redis-master: restart; no replica: unavailable meanwhile"]
    assert change.variables["HAND_OVER"].endswith("\n:\n)")
    assert change.variables["FOLLOW"].endswith("; :\n)")


def test_another_subnet_is_announced_before_everything_else(tmp_path: Path) -> None:
    node = docker(tmp_path)
    lines = due(node, replace(settled(node), network=("psscript-network", "10.0.0.0/24")))
    assert lines[0].startswith(
        f"network psscript-network 10.0.0.0/24: becomes psscript-network {SUBNET}: every container"
    )
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("name", "prune", "expected"),
    [
        ("worker", False, "worker is in the network psscript-network, which has to be recreated: "
                          "docker_prune would remove it"),
        ("worker", True, ""),
        ("stranger", True, "stranger is in the network psscript-network, which has to be "
                           "recreated: remove it, or disconnect it"),
    ],
)  # fmt: skip
def test_a_network_is_not_left_while_somebody_else_is_in_it(
    name: str, prune: bool, expected: str, tmp_path: Path
) -> None:
    node = docker(tmp_path, docker_prune=prune)
    worker = Container("worker", "/worker", "hash", "running", "", "worker", DIRECTORY)
    found = settled(node)
    found = replace(
        found,
        network=("psscript-network", "10.0.0.0/24"),
        attached=frozenset({name, "psscript-postgres"}),
        containers=(*found.containers, worker),
    )
    _say(node, found, {})
    said = [f"{key}: {message}" for key, message in compose_rules._unfit(node, found)]
    assert said == [f"docker_subnet: the container {expected}"] * bool(expected)
    stays = replace(found, network=("psscript-network", SUBNET))
    assert [*compose_rules._unfit(node, stays)] == []


def test_a_changed_file_is_a_reload_and_no_new_container(tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    record = next(_record(e) for e in _reloadables(node, found) if e.name == "pgbouncer")
    restart, _, _ = record.partition(" ")
    assert due(node, found, pgbouncer=f"{restart} old") == ["pgbouncer: reload"]
    assert due(node, found, pgbouncer="old old") == ["pgbouncer: restart"]


def test_a_container_without_a_record_is_made_to_take_its_files(tmp_path: Path) -> None:
    """A run was killed between the start of a container and the note of it."""
    node = docker(tmp_path)
    assert due(node, settled(node), **{"redis-sentinel-1": "none none"}) == [
        "redis-sentinel-1: restart"
    ]


def test_scaled_replicas_are_kept_and_recreated_as_many(tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    extra = [
        Container(
            "redis-replica", f"/r{n}", "old", "running", "healthy", "redis-replica", DIRECTORY
        )
        for n in range(3)
    ]
    more = replace(found, containers=(*found.containers, *extra))
    (line,) = due(node, more)
    assert line.startswith("redis-replica: recreate")
    change = compose_activation.due_containers(node, compose_services.roles_of(node).keys())
    assert change is not None
    assert "up --scale redis-replica=3 redis-replica" in change.script


# Containers whose role is what their file says, and what is done to them.
ROLLS = """
inside() { case $2 in ROLE) cat "$1" ;; *) echo "$1 $2" ;; esac; }
ROLE=ROLE HAND_OVER=hands_over
roll_0() { echo "$* rolls"; }
roll_1() { echo "$* rolls"; }
for round in 1 2; do roll 0 a; roll 1 b c; done
"""


@pytest.mark.parametrize(
    ("roles", "acts", "wrong"),
    [
        ("slave slave slave", ["a rolls", "b c rolls"], ""),
        ("master slave slave", ["b c rolls", "a hands_over", "a rolls"], ""),
        ("slave slave master", ["a rolls", "c hands_over", "b c rolls"], ""),
        # It has another password, so it can hand over to nobody.
        ("refuses slave slave", ["b c rolls", "a rolls"], ""),
        ("- slave slave", ["b c rolls"], "a does not report its role"),
        ("slave - slave", ["a rolls"], "b does not report its role"),
    ],
)
def test_only_one_that_says_that_it_follows_restarts_first(
    roles: str, acts: list[str], wrong: str, tmp_path: Path
) -> None:
    for name, role in zip("abc", roles.split(), strict=True):
        (tmp_path / name).write_text(role)
    done = helpers.shell(f"set -eu\ncd {tmp_path}\n{shell('roll', 'redis')}\n{ROLLS}")
    assert done.stdout.splitlines() == acts
    assert done.stderr.startswith(wrong)
    assert done.returncode == bool(wrong)


def test_the_script_is_shell_and_holds_no_secret(tmp_path: Path) -> None:
    node = docker(tmp_path)
    found = settled(node)
    due(node, found, pgbouncer="old old", **{"redis-master": "old old"})
    change = compose_activation.due_containers(node, compose_services.roles_of(node).keys())
    assert change is not None
    assert helpers.syntax_error(change.script) == ""
    assert not any(word in change.script for word in helpers.SECRETS.values())


@pytest.mark.parametrize(
    ("engine_", "expected"),
    [
        (
            Engine(),
            "docker: is not installed: apt-get install docker.io docker-compose, or Docker's own",
        ),
        (
            Engine("down"),
            "docker: the engine does not answer: systemctl start docker, then see its journal",
        ),
        (
            Engine("podman"),
            "docker: is podman's: Docker's engine is needed, docker.io or Docker's own",
        ),
        (Engine("26.1"), "docker-compose: is not installed: apt-get install docker-compose"),
        (
            Engine("20.10", "docker-compose", (1, 25, 0)),
            "docker-compose: 1.25.0 is too old: 1.29 or newer is needed",
        ),
        (
            Engine("26.1", "docker-compose", (2, 26, 1), foreign={6379: "cache"}),
            "redis_ports: port 6379 is published by the container cache",
        ),
        (
            Engine("26.1", "docker-compose", (2, 26, 1), networks={"lan": "172.24.0.0/14"}),
            "docker_subnet: 172.25.0.0/16 overlaps 172.24.0.0/14 of the network lan: "
            "choose another one",
        ),
        (
            Engine("26.1", "docker-compose", (2, 26, 1), cluster=15),
            "docker_debian: 13 has PostgreSQL 17, and the volume has a cluster of 15: dump it, "
            "and load it in a new stack",
        ),
        (
            Engine("26.1", "docker-compose", (2, 26, 1), instead=("compose.yaml",)),
            "docker_project_dir: /opt/psscript: compose.yaml changes what Compose reads: "
            "use docker-compose.override.yml for that",
        ),
        (
            Engine("26.1", "docker-compose", (2, 26, 1), wrong="line 9", is_overridden=True),
            "docker_project_dir: /opt/psscript: Compose refuses docker-compose.yml with "
            "docker-compose.override.yml: line 9",
        ),
    ],
)
def test_an_engine_that_will_not_do_is_told_in_one_line(
    engine_: Engine, expected: str, tmp_path: Path
) -> None:
    unfit = compose_rules._unfit(docker(tmp_path), engine_)
    assert [f"{key}: {message}" for key, message in unfit] == [expected]


def test_a_service_that_has_a_profile_beside_our_file_is_told(tmp_path: Path) -> None:
    """Compose neither compares nor starts it then."""
    node = docker(tmp_path)
    found = settled(node)
    hashes = {name: each for name, each in found.hashes.items() if name != "pgbouncer"}
    unfit = compose_rules._unfit(node, replace(found, hashes=hashes, is_overridden=True))
    assert [message for _, message in unfit] == [
        "/opt/psscript: docker-compose.override.yml hides pgbouncer: remove its profile"
    ]


def test_a_project_elsewhere_is_not_left_behind(tmp_path: Path) -> None:
    node = docker(tmp_path, docker_project_dir="/srv/stack")
    assert [key for key, _ in compose_rules._unfit(node, settled(node))] == ["docker_project_dir"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"docker_sub": "x"}, "docker_sub: unknown key (docker_subnet?)"),
        (
            {"docker_subnet": "172.25.0.0/25"},
            "docker_subnet: should have at least 256 addresses and a prefix of 8 to 24, "
            "not '172.25.0.0/25'",
        ),
        (
            {"docker_subnet": "172.25.0.1/16"},
            "docker_subnet: should be an IPv4 network such as '172.25.0.0/16', not '172.25.0.1/16'",
        ),
        (
            {"docker_publish_address": "localhost"},
            "docker_publish_address: should be an IPv4 address of this host, or 0.0.0.0 for all, "
            "not 'localhost'",
        ),
        ({"docker_debian": "11"}, "docker_debian: should be '12' or '13'"),
        (
            {"docker_project_dir": "/opt"},
            "docker_project_dir: should be a directory of its own, not '/opt'",
        ),
        (
            {"docker_image_redis": "Redis 7"},
            "docker_image_redis: should be an image such as 'registry/name:tag'",
        ),
        ({"postgres_version": 15}, "postgres_version: should be 17, which Debian 13 has"),
        (
            {"postgres_locale": "de_DE.UTF-8"},
            "postgres_locale: should be C.UTF-8 or C: the image has no de_DE.UTF-8",
        ),
        (
            {"apps": [{"name": "api", "image": "x", "publish": 80}]},
            "apps/api/publish: needs a port, at which it listens in its container",
        ),
        (
            {"apps": [{"name": "api", "image": "x", "health": "http:/"}]},
            "apps/api/health: needs a port to ask at",
        ),
        (
            {"apps": [{"name": "api", "image": "x", "port": 80, "publish": 5432}]},
            "postgres_port: port 5432 is also that of api (apps/api/publish)",
        ),
        (
            {"apps": [{"name": "api", "port": 4000}]},
            "apps/api/image: is missing: a container needs one",
        ),
        (
            {"apps": [{"name": "postgres", "port": 4000, "image": "x"}]},
            "apps/postgres: is the name of a service of the stack",
        ),
        (
            {"apps": [{"name": "api", "port": 5432, "image": "x"}]},
            "postgres_port: port 5432 is also that of api (apps/api/port)",
        ),
        (
            {"apps": [{"name": "api", "port": 4000, "image": "x", "health": "/ok"}]},
            "apps/0/health: should be 'tcp' or a path such as 'http:/health'",
        ),
        (
            {"apps": [{"name": "api", "port": 4000, "image": "x", "prt": 1}]},
            "apps/0/prt: unknown key (port?)",
        ),
        (
            {"sentinel_quorum": 4},
            "sentinel_quorum: 4 is more than the number of Sentinels (3)",
        ),
        (
            {"docker_debian": "12", "pgbouncer_max_prepared_statements": 100},
            "pgbouncer_max_prepared_statements: needs PgBouncer 1.21; this host has 1.18",
        ),
    ],
)
def test_bad_settings_of_docker(data: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert problems(tmp_path, **data) == [f"box: {expected}"]


def test_a_docker_host_carries_nothing_else(tmp_path: Path) -> None:
    assert problems(tmp_path, ("docker", "redis")) == [
        "box: group docker: needs a host without redis: it runs the whole stack"
    ]


def test_two_docker_hosts_are_two_stacks(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"one": {}, "two": {}}
    assert helpers.problems(helpers.estate(hosts, {"docker": ["one", "two"]}, tmp_path)) == []


def test_what_an_engine_says_is_understood() -> None:
    lines = [
        "engine|20.10.24",
        "compose|docker-compose|1.29.2",
        f"container|postgres|/psscript-postgres|abc|running|healthy|sha256:1|{DIRECTORY}",
        "ports|psscript-postgres|psscript|127.0.0.1:5432->5432/tcp",
        "ports|other|shop|0.0.0.0:6379->6379/tcp, :::6379->6379/tcp",
        "ports|range|shop|0.0.0.0:7000-7002->8000-8002/tcp, 9000/tcp",
        f"network|psscript-network|psscript|{SUBNET} |psscript-postgres psscript-run-1 ",
        "network|bridge||172.17.0.0/16 |other ",
        "network|host|||",
        "cluster|17",
        "image|sha256:1|inputs|psscript_postgres:latest ",
        "hash|postgres|abc",
    ]
    found = engine._parse("psscript", lines)
    assert found.compose_version == (1, 29, 2)
    assert found.of("postgres")[0].image == "sha256:1"
    ranges = dict.fromkeys((7000, 7001, 7002), "range")
    assert found.foreign == {6379: "other", **ranges}
    assert found.network == ("psscript-network", SUBNET)
    assert found.attached == {"psscript-postgres", "psscript-run-1"}
    assert found.networks == {"bridge": "172.17.0.0/16", "host": ""}
    assert found.cluster == 17
    assert found.images == {"psscript_postgres:latest": ("sha256:1", "inputs")}
    assert found.hashes == {"postgres": "abc"}
