"""What servers of one host may use together is told where the host has less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core import budget
from tasks.core.estate import Node
from tests.unit import helpers

GIB = 1024
ALL = ("postgres", "pgbouncer", "redis", "sentinel", "backup")


def carrying(directory: Path, gibibytes: int, **settings: Any) -> Node:
    ports = {"redis_ports": [6379, 6380, 6381], "sentinel_ports": [26379, 26380, 26381]}
    data = {"address": "10.0.0.1", **ports, **settings}
    everything = helpers.estate({"a": data}, {group: ["a"] for group in ALL}, directory)
    assert helpers.problems(everything) == []
    node = helpers.node(everything, "a")
    node.system = replace(node.system, memory=gibibytes * GIB)
    return node


@pytest.mark.parametrize("gibibytes", [4, 24])
def test_what_nobody_has_set_fits(tmp_path: Path, gibibytes: int) -> None:
    assert [*budget.exceeded([carrying(tmp_path, gibibytes)])] == []


def test_what_does_not_fit_is_told_with_the_sum(tmp_path: Path) -> None:
    node = carrying(tmp_path, 2)
    (told,) = budget.exceeded([node])
    assert told == (
        "a: memory: postgres_shared_buffers 512 + postgres_work_mem 500 +"
        " postgres_maintenance_work_mem 128 + redis_maxmemory 1536 MB are 2676, more than the 2048"
        " that there are: the kernel may end a server; lower one of them"
    )


def test_lowering_one_of_them_is_enough(tmp_path: Path) -> None:
    assert [*budget.exceeded([carrying(tmp_path, 2, redis_maxmemory="256mb")])] == []


@pytest.mark.parametrize("key", ["postgres_shared_buffers", "postgres_maintenance_work_mem"])
def test_every_unit_is_known(tmp_path: Path, key: str) -> None:
    (told,) = budget.exceeded([carrying(tmp_path, 24, **{key: "1TB"})])
    assert f"{key} 1048576" in told


def test_containers_share_the_memory_of_their_host(tmp_path: Path) -> None:
    everything = helpers.estate({"a": {"address": "10.0.0.1"}}, {"docker": ["a"]}, tmp_path)
    node = helpers.node(everything, "a")
    assert node.inside is not None
    for each in node.inside.nodes:
        each.system = replace(each.system, memory=2 * GIB)
    (told,) = budget.exceeded([node])
    assert told.startswith("a: memory: postgres_shared_buffers 512 + ")
