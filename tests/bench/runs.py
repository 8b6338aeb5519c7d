"""Runs: without changes and the first one, against Ansible, Ansible with Mitogen, and apt."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.far import far
from tests.bench.figures import Figures, ratio, spread, took
from tests.bench.peer import Cost, Peer, timed
from tests.e2e.project import Project, embedded
from tests.lab import Host, Lab

ROUNDS = 3
# As its users start it: with the modules of the run before compiled.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def project(host: Host) -> Iterator[Project]:
    """A project that has the whole stack on one host."""
    with tempfile.TemporaryDirectory() as directory:
        made = Project(Path(directory))
        made.inventory(embedded(host.name, host))
        yield made


def ours(made: Project) -> Cost:
    """A run of the program `pyinfra`, from its start to its end."""
    program = Path(sys.executable).with_name("pyinfra")
    cost, _ = timed([program, "-y", "inventory.py", "deploy.py"], made.directory, _ENVIRONMENT)
    return cost


@contextmanager
def peer(made: Project, host: Host) -> Iterator[Peer]:
    """A directory of Ansible for the same."""
    with tempfile.TemporaryDirectory() as directory:
        other = Peer(Path(directory), made, host)
        yield other
        other.close()


def without_changes(lab: Lab) -> Figures:
    """All on the same host, which is then as each of them wants it."""
    host = lab.installed_host("same")
    with project(host) as made, peer(made, host) as other:
        made.deploy()
        other.prepare(host)
        figures = _compared(made, other)
    host.remove()
    return figures


def from_afar(lab: Lab) -> Figures:
    """The same, 50 ms away."""
    host = lab.installed_host("afar")
    with project(host) as made, peer(made, host) as other, far(host, made.directory) as way:
        data = {**way.data(host), "address": host.address}
        groups = embedded(host.name, host)
        made.inventory(
            {group: [(name, {**old, **data})] for group, [(name, old)] in groups.items()}
        )
        made.deploy()
        other.prepare(host, way)
        figures = _compared(made, other)
    host.remove()
    return figures


def _compared(made: Project, other: Peer) -> Figures:
    other.run()
    assert made.deploy().changed == set()
    ways = (partial(ours, made), other.run, partial(other.run, mitogen=True))
    rounds = [[run() for run in ways] for _ in range(ROUNDS)]
    assert made.deploy().changed == set()
    assert not any(cost.changed for costs in rounds for cost in costs)
    figures = Figures(["a run without changes", "time", "processor time", "time / Datatier's"])
    own = [costs[0].wall for costs in rounds]
    for number, name in enumerate(("Datatier", "Ansible", "Ansible with Mitogen")):
        walls = [costs[number].wall for costs in rounds]
        processors = [costs[number].processor for costs in rounds]
        figures.rows.append([name, spread(walls), spread(processors), ratio(walls, own)])
    return figures


_INSTALLED = "dpkg-query -W -f '${Package}\\n'"
_INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends"


def first(lab: Lab) -> Figures:
    """Bare hosts: a first run, the playbook, and `apt-get install` of the same packages.

    The last one creates Debian's cluster and starts its servers, as it does for all who use it.
    """
    mine, theirs, plain = (lab.host(name) for name in ("mine", "theirs", "plain"))
    before = set(mine.run(_INSTALLED).stdout.split())
    for host in (mine, theirs, plain):
        host.run("apt-get -q update", timeout=300)
    with project(mine) as made, peer(made, mine) as other:
        deployed = ours(made).wall
        names = sorted(set(mine.run(_INSTALLED).stdout.split()) - before)
        installed = took(plain, f"{_INSTALL} {shlex.join(names)}")
        other.prepare(theirs)
        played = other.run().wall
    figures = Figures(["a first run", "time", "time / apt-get's"])
    for name, wall in (
        (f"`apt-get install` of {len(names)} packages", installed),
        ("Datatier", deployed),
        ("Ansible", played),
    ):
        figures.rows.append([name, f"{wall:.1f} s", f"{wall / installed:.2f}"])
    for host in (mine, theirs, plain):
        host.remove()
    return figures
