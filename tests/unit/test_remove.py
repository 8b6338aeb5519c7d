"""What is on a host, whose it is, what of it goes, and what a removal is refused for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks import remove
from tasks.core import leavings, remote, traces
from tasks.core.change import Change, impact_of
from tasks.core.component import components
from tasks.core.estate import HOST, Estate, Node
from tasks.core.places import Place
from tasks.core.places.runit import RUNIT
from tasks.core.places.systemd import SYSTEMD
from tasks.core.preflight import System
from tasks.core.scripts import quoted
from tasks.core.traces import Traces
from tasks.redis import leaves as redis_leaves
from tasks.redis import sentinels
from tasks.redis.topology import Address, Instance, User
from tasks.sentinel import forget as sentinel_forget
from tasks.sentinel.forget import View
from tests.e2e.project import ROOT
from tests.unit import helpers

EVERY = [component.leaves for component in components()]
RECORDS = "/var/lib/datatier"
UNITS = "/etc/systemd/system"


def parsed(*paths: str) -> dict[str, tuple[str, ...]]:
    return dict(read(*(f"path {path}" for path in paths)).paths)


def read(*lines: str) -> Traces:
    """What the lines of a read say, wherever it was made."""
    return traces.parse(EVERY, (), lines)


def take(owner: str, paths: Sequence[str], place: Place) -> str:
    """Shell that takes something away, whose it is."""
    component = leavings.component_of(owner)
    leaves = component.leaves if component else traces.SHARED
    return traces.take(leaves, owner, paths, place)


# --- What lies beside ours -----------------------------------------------------------------------


def beside(tmp_path: Path, *, prune: bool = False) -> tuple[Change | None, list[str]]:
    """What becomes of a job and a script of a stranger's, and of a drop-in."""
    data = {"address": "10.0.0.1", "backup_prune": prune}
    groups = {group: ["db1"] for group in ("postgres", "backup")}
    everything = helpers.estate({"db1": data}, groups, tmp_path)
    node = helpers.node(everything, "db1")
    probe = leavings.probes(node)["traces"]
    ours = ["/etc/cron.d/datatier-backup", "/scripts/backup.sh", "/scripts/restore-cluster.sh"]
    ours += ["/scripts/postgres-backup.sh", f"{UNITS}/redis-6379.service.d/datatier.conf"]
    ours += ["/etc/postgresql/15/main/conf.d/datatier.conf"]
    theirs = ["/etc/cron.d/datatier-x", "/scripts/x.sh", f"{UNITS}/redis-6379.service.d/x.conf"]
    found = probe.parse([f"beside {path}" for path in (*ours, *theirs)])
    assert found.beside == tuple(theirs)
    knows(node, HOST, traces=found)
    return remove._cleared(node, set(found.beside)), [*leavings.strangers(node)]


def test_what_lies_beside_ours_is_named(tmp_path: Path) -> None:
    change, told = beside(tmp_path)
    assert change is None
    assert [line.split(": ")[0] for line in told] == [
        "/etc/cron.d/datatier-x",
        "/scripts/x.sh",
        f"{UNITS}/redis-6379.service.d/x.conf",
    ]
    assert [line.rpartition("; ")[2] for line in told] == [
        "backup_prune would remove it",
        "backup_prune would remove it",
        "remove it if it is not yours",
    ]


def test_it_is_removed_only_where_nobody_else_puts_files(tmp_path: Path) -> None:
    change, told = beside(tmp_path, prune=True)
    assert change is not None
    assert change.lines == ["/etc/cron.d/datatier-x: remove", "/scripts/x.sh: remove"]
    assert change.script == "rm -f -- /etc/cron.d/datatier-x /scripts/x.sh"
    assert [line.split(": ")[0] for line in told] == [f"{UNITS}/redis-6379.service.d/x.conf"]


def test_who_acts_as_the_user_of_a_service_is_named(tmp_path: Path) -> None:
    """Jobs and keys; nobody takes them away, since an administrator may have put them there."""
    groups = {group: ["db1"] for group in ("postgres", "redis")}
    data = {"address": "10.0.0.1", "backup_prune": True, "postgres_prune": True}
    node = helpers.node(helpers.estate({"db1": data}, groups, tmp_path), "db1")
    probe = leavings.probes(node)["traces"]
    ours, theirs = "/etc/cron.d/datatier-backup", "/var/spool/cron/crontabs/postgres"
    knows(node, HOST, traces=probe.parse([f"acts {ours}", f"acts {theirs}"]))
    (told,) = leavings.strangers(node)
    assert told.startswith(f"{theirs}: not written by Datatier, but acts as the user")
    assert remove._cleared(node, {theirs}) is None


@pytest.mark.parametrize(
    ("line", "is_theirs"),
    [
        ("* * * * * postgres curl x | sh", True),
        (" */5\t0 1-5 * sun\tredis\t/tmp/x", True),
        ("@reboot postgres /tmp/x", True),
        ("30 2 * * * root pg_dump -U postgres x", False),
        ("# * * * * * postgres x", False),
        ("MAILTO=a b c d postgres x", False),
    ],
)
def test_jobs_of_the_user_of_a_service(tmp_path: Path, line: str, is_theirs: bool) -> None:
    path = tmp_path / "job"
    path.write_text(f"{line}\n")
    pattern = traces._JOBS.format(users="postgres|redis")
    found = helpers.shell(f"grep -lsE {quoted(pattern)} {path} || :").stdout
    assert bool(found) == is_theirs


def test_the_health_table_names_what_a_plan_names() -> None:
    """Whatever a plan tells of and leaves, the table tells of as well."""
    told = set[str]()
    for path in (ROOT / "tasks").rglob("*.py"):
        for named in re.findall(r"notices=lambda: (.*)", path.read_text()):
            told |= set(re.findall(r"(\w+)\((?:node|each|w)\b", named))
    # What a removal leaves, and what a renewal: of that the row of certificates tells.
    removal = {"takes", "_stays", "_not_renewed"}
    asked = (leavings.beside, *(component.beside for component in components()))
    source = "".join(map(inspect.getsource, asked))
    assert told - removal == {name for name in told - removal if f"{name}(" in source}
    assert {"beside", "unknown_users", "remembered", "told", "strangers"} <= told


def test_a_chosen_directory_of_scripts_may_be_everybodys() -> None:
    assert leavings.in_our_place("/scripts/x.sh")
    assert not leavings.in_our_place("/usr/local/bin/aws")


# --- Traces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        (f"{RECORDS}/redis-6379.active", "redis-6379"),
        (f"{UNITS}/redis-sentinel-26379.service", "redis-sentinel-26379"),
        (f"{UNITS}/postgresql@15-main.service.d/datatier.conf", "postgres"),
        (f"{UNITS}/pgbouncer.service.d/datatier.conf", "pgbouncer"),
        (f"{UNITS}/cron.service.d/datatier.conf", "cron"),
        (f"{UNITS}/redis-server.service", redis_leaves.MASKED),
        ("/etc/sv/redis-6379/run", "redis-6379"),
        ("/etc/redis/redis-6379.conf", "redis-6379"),
        ("/etc/redis/sentinel-26379.conf", "redis-sentinel-26379"),
        ("/var/lib/redis/sentinel-26379", "redis-sentinel-26379"),
        ("/etc/redis/redis-cli.auth", "redis-cli"),
        ("/etc/redis/redis-expected", "redis-cli"),
        ("/usr/local/bin/redis-cli", "redis-cli"),
        ("/etc/pgbouncer/pgbouncer.ini", "pgbouncer"),
        ("/etc/postgresql/15/main/conf.d/datatier.conf", "postgres"),
        ("/etc/pgbackrest.conf", "archiving"),
        ("/srv/scripts/restore-cluster.sh", "archiving"),
        ("/srv/scripts/backup.sh", "cron"),
        ("/etc/cron.d/datatier-backup", "cron"),
        ("/etc/datatier/backup.json", "cron"),
        ("/etc/datatier/pgbackrest-scratch.conf", "cron"),
        ("/etc/datatier/postgres.pem", "cron"),
        ("/etc/datatier/pgbackrest", "pgbackrest"),
        ("/etc/datatier/app-worker", "app-worker"),
        ("/etc/datatier/firewall.nft", "datatier-firewall"),
        ("/etc/datatier/tls", "tls"),
        ("/usr/lib/datatier", "cron"),
        ("/etc/sysctl.d/60-datatier-redis.conf", "kernel"),
        ("/etc/postgresql-common/createcluster.d/datatier.conf", "packages"),
        ("/etc/datatier", "state"),
        (RECORDS, "state"),
    ],
)
def test_whose_a_path_is(path: str, owner: str) -> None:
    assert parsed(path) == {owner: (path,)}


def test_who_asks_goes_before_who_answers() -> None:
    names = ["postgres", "redis-6379", "redis-sentinel-26379", "pgbouncer", "cron", "state"]
    assert leavings.in_order(names) == [
        *("cron", "redis-sentinel-26379", "redis-6379"),
        *("pgbouncer", "postgres", "state"),
    ]


def test_roles_and_data() -> None:
    found = read("role 6380 master 2", "role 6381 replica", "data /backups")
    assert found == Traces(data=("/backups",), said={"role": ("6380 master 2", "6381 replica")})


@pytest.mark.parametrize(
    ("said", "destroys", "goes"),
    [("", True, False), ("idle", False, True), ("files", False, False), ("files", True, True),
     ("runs", True, False)],
)  # fmt: skip
def test_the_user_of_scratch_servers_goes_when_nothing_is_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, destroys: bool, goes: bool
) -> None:
    data = {"address": "10.0.0.1", "destroy_data": destroys, "confirm": "psscript"}
    everything = helpers.estate({"db1": data}, {"postgres": ["db1"], "backup": ["db1"]}, tmp_path)
    node = helpers.node(everything, "db1")
    found = leavings.probes(node)["traces"].parse([f"user {said}"] if said else [])
    monkeypatch.setattr(remove, "found_alone", lambda _node: found)
    change = remove._without_users(node)
    assert (change.lines if change else []) == ["user datatier-scratch: remove"] * goes
    told = [line for line in remove._stays(node) if line.startswith("user ")]
    assert len(told) == bool(said and not goes)


@pytest.mark.parametrize("place", [SYSTEMD, RUNIT], ids=lambda place: place.name)
def test_what_is_taken_away_is_shell(place: Place) -> None:
    paths = {
        "postgres": (f"{UNITS}/postgresql@15-main.service.d/datatier.conf", f"{RECORDS}/p.active"),
        "redis-6379": ("/etc/sv/redis-6379/run", f"{RECORDS}/redis-6379.active"),
        "cron": ("/etc/cron.d/datatier-backup", f"{RECORDS}/cron.active"),
        redis_leaves.MASKED: (f"{UNITS}/redis-server.service",),
    }
    for owner, of in paths.items():
        script = place.removal() + take(owner, of, place)
        assert helpers.syntax_error(script) == "", owner


def test_a_record_goes_last_and_a_cluster_keeps_its_directories() -> None:
    conf, record = "/etc/postgresql/15/main/conf.d/datatier.conf", f"{RECORDS}/postgres.active"
    script = take("postgres", (conf, record), SYSTEMD).splitlines()
    assert script == [
        "leave_service postgres postgresql@15-main.service postgresql.service",
        ":",
        f"remove {conf}",
        "forget_units",
        f"rm -f -- {record}",
    ]


def test_cron_goes_on_where_it_is_the_hosts() -> None:
    paths = ("/etc/cron.d/datatier-backup", f"{RECORDS}/cron.active")
    assert "leave_service" not in take("cron", paths, SYSTEMD)
    assert "leave_service cron" in take("cron", paths, RUNIT)


# --- What left the inventory ---------------------------------------------------------------------


def everything(directory: Path, **data: Any) -> Estate:
    """Two hosts with a Redis each; the second one has a Sentinel too."""
    hosts = {
        "one": {"address": "10.0.0.1", "sentinel_quorum": 1, **data},
        "two": {"address": "10.0.0.2", "sentinel_quorum": 1},
    }
    made = helpers.estate(hosts, {"redis": ["one", "two"], "sentinel": ["two"]}, directory)
    assert helpers.problems(made) == []
    for node in made.nodes:
        node.system = System(systemd=True)
        made.state.activate_host(node.host)
        knows(node, HOST, traces=Traces())
        address = Address(node.address, 6379)
        leader = Address("10.0.0.1", 6379)
        follows = None if address == leader else leader
        knows(node, "redis", sentinels=[], roles=[Instance(address, "present", follows)])
        if node.name == "two":
            knows(
                node,
                "sentinel",
                monitors={},
                views={26379: View({Address("10.0.0.2", 6379): "slave"}, {})},
            )
    return made


def knows(node: Node, group: str, **results: Any) -> None:
    remote._cache.setdefault(node.host, {})[group] = (float("inf"), results)


def leaves(node: Node, *owners: str, **roles: str) -> None:
    paths = {owner: (f"{RECORDS}/{owner}.active",) for owner in owners}
    said = tuple(f"{name.removeprefix('r')} {role}" for name, role in roles.items())
    knows(node, HOST, traces=Traces(paths, said={"role": said}))


def test_what_belongs_there_is_not_told(tmp_path: Path) -> None:
    node = everything(tmp_path).nodes[0]
    leaves(node, "redis-6379", "redis-cli", "kernel", "packages", "state")
    assert leavings.surplus(node) == []


def test_a_key_counts_outside_its_group_too(tmp_path: Path) -> None:
    node = everything(tmp_path, pgbouncer_prune=True).nodes[0]
    leaves(node, "pgbouncer", "postgres", "redis-6380")
    assert leavings.surplus(node) == ["redis-6380", "pgbouncer", "postgres"]
    assert [owner for owner in leavings.surplus(node) if leavings.prunes(node, owner)] == [
        "pgbouncer"
    ]
    told = list(leavings.told(node))
    assert [line.partition(":")[0] for line in told] == ["redis-6380", "postgres"]
    change = remove._pruned(node, leavings.surplus(node))
    assert change is not None
    assert change.lines == ["pgbouncer: stop and remove"]
    assert impact_of(change.lines[0]) == "restart"
    assert helpers.syntax_error(change.script) == ""


@pytest.mark.parametrize("value", ["perhaps", None, 5])
def test_what_is_no_truth_removes_nothing(value: Any, tmp_path: Path) -> None:
    node = everything(tmp_path, pgbouncer_prune=value).nodes[0]
    leaves(node, "pgbouncer")
    assert not leavings.prunes(node, "pgbouncer")


@pytest.mark.parametrize("destroy", [True, False])
def test_a_replica_leaves_its_data_or_takes_them(destroy: bool, tmp_path: Path) -> None:
    node = everything(tmp_path, redis_prune=True, destroy=destroy).nodes[0]
    leaves(node, "redis-6380", r6380="replica")
    change = remove._pruned(node, leavings.surplus(node))
    assert change is not None
    assert impact_of(change.lines[0]) == ("destroys data" if destroy else "restart")
    assert ("remove /var/lib/redis/6380" in change.script.splitlines()) is destroy
    assert ("remove /var/lib/redis/6380/redis.conf" in change.script.splitlines()) is not destroy


def test_a_master_is_not_removed(tmp_path: Path) -> None:
    made = everything(tmp_path, redis_prune=True, redis_ports=[6380])
    leaves(made.nodes[0], "redis-6379", r6379="master 0")
    leader = Address("10.0.0.1", 6379)
    follower = Instance(Address("10.0.0.1", 6380), "present", leader)
    knows(made.nodes[0], "redis", sentinels=[], roles=[follower])
    assert [str(problem) for problem in leavings.examine(made)] == [
        "one: redis_prune: redis-6379 is the master: fail over first (docs/failover.md)"
    ]


def test_who_is_followed_is_a_master_whatever_others_say(tmp_path: Path) -> None:
    made = everything(tmp_path, redis_prune=True)
    leaves(made.nodes[0], "redis-6380", r6380="master 1")
    assert len(leavings.examine(made)) == 1
    leaves(made.nodes[0], "redis-6380", r6380="master 0")
    assert leavings.examine(made) == []


# --- What Sentinels remember ---------------------------------------------------------------------

STRANGER = Address("10.0.0.9", 6379)


def watched(made: Estate, flags: str, member: str = "slave") -> Node:
    """The host with the Sentinel, which knows somebody whom the inventory does not."""
    node = made.nodes[1]
    replicas = {Address("10.0.0.2", 6379): member, STRANGER: flags}
    knows(node, "sentinel", monitors={}, views={26379: View(replicas, {})})
    return node


def test_what_a_sentinel_knows_is_read() -> None:
    lines = ["26379 master 10.0.0.1:6379 master", "26379 replica 10.0.0.2:6379 slave,s_down",
             "26379 sentinel 10.0.0.3:26379 sentinel", '26379 watches "mymaster"',
             '26379 watches "their master"', '26379 "user x on nopass"']  # fmt: skip
    assert sentinel_forget._parse_views(lines, "mymaster") == {
        26379: View(
            {Address("10.0.0.2", 6379): "slave,s_down"},
            {Address("10.0.0.3", 26379): "sentinel"},
            (User('"x"', ("on", "nopass")),),
            ('"their master"',),
        )
    }


def test_masters_and_users_beside_ours_are_told_and_removed(tmp_path: Path) -> None:
    view = View(users=(User('"x"', ()),), masters=('"theirs"',))
    node = everything(tmp_path).nodes[1]
    knows(node, "sentinel", monitors={}, views={26379: view})
    assert list(sentinel_forget.remembered(node, set())) == [
        'redis-sentinel-26379: watches the master "theirs", which is not in the settings; '
        "sentinel_prune would remove it",
        'redis-sentinel-26379: the ACL user "x" is not in the settings; '
        "sentinel_prune would remove it",
    ]
    assert sentinel_forget.prune(node, set()) is None
    chosen = node.the(sentinels.SentinelSettings)
    node.settings[sentinels.SentinelSettings] = chosen.model_copy(update={"prune": True})
    change = sentinel_forget.prune(node, set())
    assert change is not None
    assert change.variables["EXPEL_26379"] == 'SENTINEL REMOVE "theirs"\nACL DELUSER "x"'
    assert list(sentinel_forget.remembered(node, set())) == []


def test_who_left_is_told(tmp_path: Path) -> None:
    node = watched(everything(tmp_path), "s_down,slave,disconnected")
    assert list(sentinel_forget.remembered(node, set())) == [
        "redis-sentinel-26379: knows the replica 10.0.0.9:6379, which is not in the inventory; "
        "sentinel_prune would make it forget"
    ]
    assert sentinel_forget.forget(node, set()) is None


def pruning(directory: Path) -> Estate:
    made = everything(directory)
    chosen = made.nodes[1].the(sentinels.SentinelSettings)
    made.nodes[1].settings[type(chosen)] = chosen.model_copy(update={"prune": True})
    return made


def test_a_sentinel_that_could_not_be_asked_is_named(tmp_path: Path) -> None:
    """A plan cannot say then what it watches; the run compares that when it has started it."""
    node = everything(tmp_path).nodes[1]
    knows(node, "sentinel", monitors={26379: None}, views={})
    assert list(sentinel_forget.remembered(node, set())) == [
        "redis-sentinel-26379: no answer, so what it watches could not be compared; "
        "a run starts it, and then compares that"
    ]


def test_who_is_down_or_about_to_be_is_forgotten(tmp_path: Path) -> None:
    node = watched(pruning(tmp_path), "s_down,slave,disconnected")
    change = sentinel_forget.forget(node, set())
    assert change is not None
    assert change.lines == ["redis-sentinel-26379: forget the replica 10.0.0.9:6379"]
    assert helpers.syntax_error(change.script) == ""
    assert [word for word in helpers.SECRETS.values() if word in change.script] == []
    node = watched(pruning(tmp_path), "slave")
    assert sentinel_forget.forget(node, set()) is None
    assert next(sentinel_forget.remembered(node, set())).endswith("it runs: stop it first")
    assert sentinel_forget.forget(node, {STRANGER}) is not None


def test_nobody_is_forgotten_while_a_member_is_down(tmp_path: Path) -> None:
    node = watched(pruning(tmp_path), "s_down,slave", member="s_down,slave")
    (problem,) = sentinel_forget.unforgettable(node, set())
    assert str(problem).startswith("two: sentinel_prune: 10.0.0.2:6379 is down")
    node = watched(pruning(tmp_path), "slave", member="s_down,slave")
    assert sentinel_forget.unforgettable(node, set()) == []


# --- All of it -----------------------------------------------------------------------------------


def test_the_master_stays_with_those_who_stay(tmp_path: Path) -> None:
    made = everything(tmp_path)
    leaves(made.nodes[0], "redis-6379")
    leaves(made.nodes[1], "redis-6379")
    assert list(redis_leaves.left_behind(made)) == []
    made.active.remove(made.nodes[1])
    (problem,) = redis_leaves.left_behind(made)
    assert str(problem) == (
        "one: redis: redis-6379 is the master of what stays on two: "
        "fail over first (docs/failover.md)"
    )
    made.active[:] = [made.nodes[1]]
    assert list(redis_leaves.left_behind(made)) == []


def test_data_go_by_name(tmp_path: Path) -> None:
    node = everything(tmp_path).nodes[0]
    found = Traces(data=("/var/lib/redis/6379", "/var/lib/postgresql/15/main"))
    knows(node, HOST, traces=found)
    assert remove._destroyed(node) is None
    assert list(remove._stays(node)) == [
        f"{path}: stays; destroy_data and confirm would remove it" for path in found.data
    ]
    made = everything(tmp_path, destroy_data=True)
    knows(made.nodes[0], HOST, traces=found)
    change = remove._destroyed(made.nodes[0])
    assert change is not None
    assert {impact_of(line) for line in change.lines} == {"destroys data"}
    assert helpers.syntax_error(change.script) == ""
    assert list(remove._stays(made.nodes[0])) == []


@pytest.mark.parametrize(("confirm", "count"), [("", 2), ("psscrpt", 2), ("psscript", 0)])
def test_the_name_has_to_be_typed(
    confirm: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remove.preflight, "examine", lambda _nodes: [])
    hosts = {
        name: {"address": address, "destroy_data": True, "confirm": confirm}
        for name, address in (("one", "10.0.0.1"), ("two", "10.0.0.2"))
    }
    made = helpers.estate(hosts, {"pgbouncer": ["one", "two"]}, tmp_path)
    for node in made.nodes:
        made.state.activate_host(node.host)
    assert [problem.key for problem in remove._wrong(made)] == ["confirm"] * count
