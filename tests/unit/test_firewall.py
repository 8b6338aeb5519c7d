"""The firewall: who is let in to which port, and that no other port is touched."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tasks.core.change import Change
from tasks.core.component import components
from tasks.core.estate import Estate, Node
from tasks.core.files import Found
from tasks.core.preflight import Holder, System, kernel_names
from tasks.core.traces import Traces
from tasks.firewall import files, leaves, probes, rules, service
from tasks.firewall.probes import Table
from tasks.firewall.settings import FirewallSettings
from tests.unit import golden, helpers

HOSTS = {
    "db1": "10.0.0.1",
    "pool1": "10.0.0.2",
    "cache1": "10.0.0.3",
    "cache2": "10.0.0.4",
    "cache3": "10.0.0.5",
    "backup1": "fd00::6",
    "app1": "10.0.0.7",
}
CACHES = ["cache1", "cache2", "cache3"]
GROUPS = {
    "postgres": ["db1"],
    "pgbouncer": ["pool1"],
    "redis": CACHES,
    "sentinel": CACHES,
    "backup": ["backup1"],
    "apps": ["app1"],
}
ON = {"firewall_enabled": True}
APP = {"name": "web", "port": 8000, "command": "/usr/bin/web"}


def cluster(directory: Path, **data: Any) -> Estate:
    chosen: dict[str, Any] = {
        "firewall_enabled": True,
        "firewall_allow": ["192.168.7.7", "192.168.0.0/16", "fd00:8::/64"],
        "apps": [APP],
        **data,
    }
    hosts = {name: {"address": address, **chosen} for name, address in HOSTS.items()}
    return helpers.estate(hosts, GROUPS, directory)


def docker(directory: Path) -> Node:
    data = {"firewall_enabled": True, "firewall_allow": ["10.0.0.0/8"]}
    made = helpers.estate({"one": data}, {"docker": ["one"]}, directory)
    assert helpers.problems(made) == []
    return made.nodes[0]


def texts(directory: Path) -> dict[str, str]:
    """The rules of each kind of host."""
    nodes = {node.name: node for node in cluster(directory).nodes}
    found = {name: nodes[name] for name in ("db1", "pool1", "cache1", "backup1", "app1")}
    return {
        f"{name}.nft": files.rules_text(node)
        for name, node in {**found, "docker": docker(directory)}.items()
    }


def test_rules(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    golden.check("firewall", texts(tmp_path), update=request.config.getoption("--update-golden"))


def test_only_ports_of_ours_are_refused(tmp_path: Path) -> None:
    """So SSH is not, and neither is what others have on the host."""
    refusing = re.compile(r"(?:tcp dport (\d+)|ip daddr \{ (.+) \} meta l4proto tcp) reject .*")
    ours = {5432, 6432, 6379, 6380, 6381, 8432, 26379, 26380, 26381}
    containers = {f"172.25.0.{n}" for n in (10, 11, 12, 20, 21, 22, 60, 61, 62)}
    for text in texts(tmp_path).values():
        lines = [line.strip() for line in text.splitlines()]
        refused = [line for line in lines if re.search("reject|drop|policy", line)]
        said = [refusing.fullmatch(line) for line in refused if "policy accept" not in line]
        assert {int(match[1]) for match in said if match and match[1]} <= ours
        assert {one for match in said if match and match[2] for one in match[2].split(", ")} <= (
            containers
        )
        assert None not in said


def test_every_port_says_to_whom_it_is_open(tmp_path: Path) -> None:
    """A port without that is everybody's: those of applications alone."""
    nodes = [*cluster(tmp_path).nodes, docker(tmp_path)]
    every = [
        (component.group, listener)
        for node in nodes
        for component in node.components()
        for listener in component.listens(node)
    ]
    assert {group for group, each in every if each.open_to is None} == {"apps"}
    known = {component.group for component in components()}
    assert {group for _, each in every for group in each.open_to or ()} <= known


def test_it_is_off_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    made = cluster(tmp_path, firewall_enabled=False)
    assert not made.having(FirewallSettings)
    assert len(cluster(tmp_path).having(FirewallSettings)) == len(HOSTS)


@pytest.mark.parametrize(
    "value",
    [
        *("", "db1", "db1.example", "10.0.0.300", "10.0.0.0/33", "10.0.0.0/0.0.0.255x", "any"),
        *(
            "10.0.0.1; reject",
            "10.0.0.1 }",
            "10.0.0.1\n",
            "$(id)",
            "10.0.0.1-10.0.0.9",
            "010.0.0.1",
        ),
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, value: str) -> None:
    sentence = "should be an IP address or a network, such as '10.0.0.7' or '10.0.0.0/8'"
    assert refused(tmp_path, firewall_allow=[value]) == {f"firewall_allow/0: {sentence}"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"firewall_allow": "10.0.0.1"}, "firewall_allow: should be a list"),
        ({"firewall_allow": [5]}, "firewall_allow/0: should be a string"),
        (
            {"firewall_allow": ["10.0.0.5/8"]},
            "firewall_allow/0: should begin where the network does: '10.0.0.0/8'",
        ),
        (
            {"firewall_allow": ["::ffff:10.0.0.1"]},
            "firewall_allow/0: should be as IPv4 has it, such as '10.0.0.1'",
        ),
        (
            {"firewall_allow": ["fe80::1%eth0"]},
            "firewall_allow/0: should be without the name of an interface",
        ),
        ({"firewall_enabled": "perhaps"}, "firewall_enabled: should be true or false"),
        ({"firewall_alow": []}, "firewall_alow: unknown key (firewall_allow?)"),
    ],
)
def test_refused(tmp_path: Path, data: dict[str, Any], sentence: str) -> None:
    assert refused(tmp_path, **data) == {sentence}


def refused(directory: Path, **data: Any) -> set[str]:
    """The sentences, without the hosts."""
    found = helpers.problems(cluster(directory, **data))
    return {problem.partition(": ")[2] for problem in found}


def test_a_host_that_would_not_load_it_is_refused(tmp_path: Path) -> None:
    node = cluster(tmp_path).nodes[0]
    node.system = System(systemd=False)
    assert [str(problem) for problem in rules.checks(node)] == [
        "db1: firewall_enabled: needs systemd, which loads the rules at each boot: leave it out"
    ]


@pytest.mark.parametrize(
    ("table", "is_new", "why"),
    [
        (Table(("a", "b"), ("a", "b"), starts=True), False, []),
        (Table(("a", "b"), ("a", "b"), starts=True), True, []),
        (Table((), (), starts=False), True, ["its table is missing"]),
        (Table(("a", "b"), ("a",), starts=True), True, ["new rules"]),
        (Table(("a", "b"), ("a", "b")), False, ["systemd would not load it again"]),
        (
            Table(("a", "\tb  c"), ("a", "\td"), starts=True),
            False,
            ["the kernel lacks 'b c'", "the kernel has 'd'"],
        ),
    ],
)
def test_a_plan_says_why_rules_are_loaded(table: Table, is_new: bool, why: list[str]) -> None:
    assert list(service._why(table, is_new)) == why


def holder(port: int, address: str, unit: str) -> Holder:
    return Holder(port, kernel_names(address)[0], "7", "a program", f"0::/system.slice/{unit}", "")


def test_what_others_have_at_a_port_of_ours_is_refused(tmp_path: Path) -> None:
    """The firewall closes a port at every address; what no stranger reaches is left alone."""
    node = helpers.node(cluster(tmp_path), "pool1")
    node.reader = lambda _group: {"ways": {}}
    ours = holder(6432, "10.0.0.2", "pgbouncer.service")
    others = [
        holder(6432, "127.0.0.2", "ssh.service"),
        holder(6432, "::1", "ssh.service"),
        holder(22, "10.0.0.2", "ssh.service"),
    ]
    assert rules.cuts(node, [ours, *others]) == []
    for address in ("192.0.2.7", "2001:db8::7", "0.0.0.0"):
        (problem,) = rules.cuts(node, [ours, holder(6432, address, "ssh.service")])
        assert str(problem) == (
            f"pool1: pgbouncer_listen_port: port 6432 at {address} is held by a program (pid 7, "
            "ssh.service), and the firewall would close it there too: stop that, or choose another "
            "port"
        )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("10.0.0.2", None),
        ("192.168.9.9", None),
        (
            "172.16.0.9",
            "pool1: address: pool1 connects to db1 from 172.16.0.9, which is not its address: "
            "add 172.16.0.9 to firewall_allow",
        ),
    ],
)
def test_a_host_that_comes_from_another_address_is_refused(
    tmp_path: Path, source: str, sentence: str | None
) -> None:
    """Others would not let it in, unless the settings do; to those it never asks it may come so."""
    node = helpers.node(cluster(tmp_path), "pool1")
    ways = {"10.0.0.1": ip_address(source), "10.0.0.3": ip_address("172.16.0.9")}
    node.reader = lambda _group: {"ways": ways}
    assert [str(each) for each in rules.cuts(node, [])] == ([sentence] if sentence else [])


def test_a_host_without_a_firewall_is_asked_as_well(tmp_path: Path) -> None:
    """Those that have one would not let it in; what others have at its own ports is let be."""
    chosen = {name: {"address": address} for name, address in HOSTS.items()}
    made = helpers.estate({**chosen, "db1": {**chosen["db1"], **ON}}, GROUPS, tmp_path)
    node = helpers.node(made, "pool1")
    assert set(probes.around(node)) == {"ways"}
    node.reader = lambda _group: {"ways": {"10.0.0.1": ip_address("172.16.0.9")}}
    (problem,) = rules.cuts(node, [holder(6432, "192.0.2.7", "ssh.service")])
    assert "pool1 connects to db1 from 172.16.0.9" in str(problem)
    assert probes.around(helpers.node(made, "cache1")) == {}


@pytest.mark.parametrize(
    ("prune", "said"), [(False, ["redis-6380: the firewall does not close its port"]), (True, [])]
)
def test_a_service_that_left_the_settings_is_named(
    tmp_path: Path, prune: bool, said: list[str]
) -> None:
    """No rule closes its port; what this run removes has none, and a file listens nowhere."""
    node = helpers.node(cluster(tmp_path, redis_prune=prune), "cache1")
    paths = {
        "redis-6380": ("/var/lib/datatier/redis-6380.active",),
        "redis-cli": ("/etc/redis/redis-cli.auth",),
        "pgbouncer": ("/etc/pgbouncer/pgbouncer.ini",),
    }
    node.reader = lambda _group: {"traces": Traces(paths), "former": []}
    assert list(leaves.beside(node)) == said
    closed = [holder(6380, "0.0.0.0", "redis-6380.service")]
    node.reader = lambda _group: {"traces": Traces(paths), "former": closed}
    assert list(leaves.beside(node)) == []
    assert leaves.held(node) == ({} if prune else {6380: "redis-6380"})


# What the file of a host has of before: two hosts of the estate, one that left it, and networks.
FORMER = """
\t\ttcp dport 5433 ip saddr { 10.0.0.1, 10.0.0.7, 10.0.0.99, 172.16.0.0/12 } accept
\t\ttcp dport 5433 ip6 saddr { fd00::6, fd00:9::/64 } accept
\t\ttcp dport 5433 reject with tcp reset
\t\ttcp dport 6432 reject with tcp reset
\t\ttcp dport 6440 reject with tcp reset
\t\ttcp dport 22 accept
"""


def test_a_port_of_before_is_open_to_no_others_than_now(tmp_path: Path) -> None:
    """To hosts of the estate that reached it, and to whom the settings let in now."""
    node = helpers.node(cluster(tmp_path), "pool1")
    v4, v6 = ("192.168.0.0/16",), ("fd00:8::/64",)
    assert rules.former(node, FORMER) == [
        rules.Opening(5433, ("10.0.0.1", "10.0.0.7", *v4), ("fd00::6", *v6)),
        rules.Opening(6440, v4, v6),
    ]
    text = files.rules_text(node, rules.former(node, FORMER))
    assert rules.former(node, text) == rules.former(node, FORMER)
    assert rules.former(node, files.rules_text(node)) == []


def test_a_port_of_before_opens_when_who_listened_there_has_moved(tmp_path: Path) -> None:
    """It is closed with the new one, and last of all it goes; not that of a service left behind."""
    node = helpers.node(cluster(tmp_path), "pool1")
    held, text = list[Holder](), [FORMER]

    def read(_group: str) -> dict[str, Any]:
        mine = {entry.path: Found("missing") for entry in files.files_of(node)}
        return {
            "files": {**mine, files.RULES: Found("file", content=text[0].encode())},
            "table": Table(("a",), ("b",), starts=True),
            "former": held,
            "traces": Traces({"redis-5433": ("/var/lib/datatier/redis-5433.active",)}),
        }

    node.reader = read
    begun = service.due_rules(node)
    assert begun and "tcp dport 5433 reject" in str(begun) and "dport 6440 reject" in str(begun)
    text[0] = files.rules_text(node, rules.former(node, FORMER))
    opened = service.due_opening(node)
    assert opened and opened_by(opened) == {"5433", "6440"}
    assert opened.lines[-1] == "firewall: load (5433, 6440: no longer a port of the settings)"
    held.append(holder(5433, "0.0.0.0", "redis-5433.service"))
    held.append(holder(6440, "0.0.0.0", "pgbouncer.service"))
    opened = service.due_opening(node)
    assert opened and opened_by(opened) == {"6440"}
    text[0] = files.rules_text(node, rules.former(node, FORMER)[:1])
    assert service.due_opening(node) is None


def opened_by(change: Change) -> set[str]:
    """The ports that the new file does not close any more."""
    said = [re.match(r"-\t\ttcp dport (\d+) reject", line) for line in change.diff]
    return {match[1] for match in said if match}


def test_rules_of_ports_of_before_are_no_difference(tmp_path: Path) -> None:
    """As long as the kernel closes them."""
    now = (
        "a",
        "\ttcp dport 5433 ip saddr 10.0.0.1 accept",
        "\ttcp dport 5433 reject with tcp reset",
    )
    table = Table(("a",), now, starts=True)
    assert list(service._why(table.without({5433}), is_new=False)) == []
    assert list(service._why(table.without(set()), is_new=False)) != []
    assert list(service._why(Table(("a",), now[:2]).without({5433}), is_new=False)) != []


def test_ways_are_those_to_other_machines(tmp_path: Path) -> None:
    """As ip writes them; what is on the host itself comes in by the loopback."""
    lines = [
        "10.0.0.1 via 10.9.0.1 dev eth0 src 10.0.0.2 uid 0 \\    cache ",
        "fd00:0::6 from :: dev eth0 proto ra src fd00::2 metric 256 pref medium",
        "local 10.0.0.4 dev lo src 10.0.0.4 uid 0 \\    cache <local> ",
        "10.0.0.5 dev tun0 uid 0 ",
    ]
    node = helpers.node(cluster(tmp_path), "pool1")
    ways = {"10.0.0.1": ip_address("10.0.0.2"), "fd00::6": ip_address("fd00::2")}
    assert probes.around(node)["ways"].parse(lines) == ways
