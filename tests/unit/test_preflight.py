"""What is found on a host beforehand: listeners, clashes, and what the system is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.core import preflight, remote, services
from tasks.core.preflight import Holder, Listener
from tasks.core.scripts import quoted, shell
from tasks.pgbouncer.settings import PgbouncerSettings
from tests.unit import helpers

REDIS = Listener(6379, "redis_ports", "redis-6379", "redis-6379.service")
LOOPBACK = "0100007F"


def listen(family: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind((address, 0))
    made.listen()
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """A port that this process listens on."""
    with listen(socket.AF_INET, "127.0.0.1") as made:
        yield made.getsockname()[1]


def found(*ports: int) -> list[Holder]:
    """What the real script finds on this machine."""
    probe = preflight.listeners_probe(ports)
    output = helpers.shell(probe.script)
    assert (output.returncode, output.stderr) == (0, "")
    return probe.parse(output.stdout.splitlines())


# --- Who listens ---------------------------------------------------------------------------------


def test_a_listening_process_is_found(port: int) -> None:
    (holder,) = found(port)
    assert (holder.port, holder.pid) == (port, str(os.getpid()))
    assert holder.command == Path("/proc/self/comm").read_text().strip()
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_text().replace("\0", " ")
    assert holder.parent.strip() == parent.strip()
    assert holder.cgroup.strip() == Path("/proc/self/cgroup").read_text().replace("\n", " ").strip()


def test_a_parent_whose_command_has_line_breaks(tmp_path: Path) -> None:
    """And bars, which part what is read."""
    listens = tmp_path / "listens.py"
    listens.write_text(
        "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "print(s.getsockname()[1], flush=True); time.sleep(60)\n"
    )
    command = f"# one\n# two|three\n{sys.executable} {listens}; :\n"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        (holder,) = found(port)
        os.kill(int(holder.pid), signal.SIGKILL)
    assert holder.parent.startswith("sh -c # one # two three ")


def test_several_sockets_of_both_families() -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(listen(socket.AF_INET, "127.0.0.1")) for _ in range(3)]
        if socket.has_ipv6:
            sockets.append(stack.enter_context(listen(socket.AF_INET6, "::1")))
        ports = sorted(made.getsockname()[1] for made in sockets)
        assert sorted(holder.port for holder in found(*ports)) == ports


def test_a_free_port_has_no_holder(port: int) -> None:
    with listen(socket.AF_INET, "127.0.0.1") as made:
        free = made.getsockname()[1]
    assert found(free) == []
    assert [holder.port for holder in found(free, port)] == [port]


def test_a_connection_is_no_listener(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert found(client.getsockname()[1]) == []


# --- Whose it is ---------------------------------------------------------------------------------


def holder(*, cgroup: str = "0::/", parent: str = "") -> Holder:
    return Holder(6379, LOOPBACK, "7", "redis-server", cgroup, parent)


@pytest.mark.parametrize(
    "cgroup",
    [
        "0::/system.slice/redis-6379.service",
        "0::/system.slice/redis-6379.service ",
        "0::/system.slice/redis-6379.service/child ",
        "12:pids:/system.slice/redis-6379.service 0::/system.slice/redis-6379.service ",
    ],
)
def test_systemds_service_is_ours(cgroup: str) -> None:
    assert holder(cgroup=cgroup).is_of(REDIS)


def test_runits_service_is_ours() -> None:
    assert holder(parent="runsv redis-6379 ").is_of(REDIS)


def test_another_cluster_is_an_intruder() -> None:
    wanted = Listener(5432, "postgres_port", "postgres", "postgresql@15-main.service")
    slice_ = "0::/system.slice/system-postgresql.slice"
    app = Holder(5432, LOOPBACK, "7", "postgres", f"{slice_}/postgresql@15-app.service ", "")
    assert not app.is_of(wanted)
    assert str(app) == "postgres (pid 7, postgresql@15-app.service)"
    assert Holder(5432, LOOPBACK, "7", "postgres", f"{slice_}/{wanted.unit} ", "").is_of(wanted)


@pytest.mark.parametrize(
    ("cgroup", "parent"),
    [
        ("0::/", "/sbin/init "),
        ("0::/system.slice/redis-server.service ", ""),
        ("0::/system.slice/redis-6379.service.d ", ""),
        ("0::/system.slice/my-redis-6379.service ", ""),
        ("0::/", "runsv redis-6380 "),
        ("0::/", "runsv redis-63790 "),
        ("0::/", "runsv my-redis-6379 "),
        ("0::/", "vi runsv redis-6379 "),
    ],
)
def test_anything_else_is_not(cgroup: str, parent: str) -> None:
    assert not holder(cgroup=cgroup, parent=parent).is_of(REDIS)


@pytest.mark.parametrize("command", ["docker-proxy", "dockerd"])
def test_the_engine_listens_itself_where_it_has_no_proxies(command: str) -> None:
    wanted = Listener(5432, "postgres_port", "postgres", "docker-proxy")
    engine = Holder(5432, LOOPBACK, "7", command, "0::/system.slice/docker.service", "")
    assert engine.is_of(wanted)
    assert not Holder(5432, LOOPBACK, "7", "postgres", "0::/", "").is_of(wanted)


def test_an_answer_is_understood() -> None:
    probe = preflight.listeners_probe([6379])
    assert probe.parse(["18EB|0100007F|7|redis-server|0::/a |runsv redis-6379 "]) == [
        Holder(6379, LOOPBACK, "7", "redis-server", "0::/a", "runsv redis-6379")
    ]
    assert probe.parse([]) == []


def test_a_parent_with_bars_in_its_command_line() -> None:
    (made,) = preflight.listeners_probe([6379]).parse(["18EB|0100007F|7|x|0::/|sh -c a|b|c"])
    assert made.parent == "sh -c a|b|c"


@pytest.mark.parametrize(
    ("ours", "others", "is_strange"),
    [
        ([LOOPBACK, "0A00000A"], [], False),
        ([LOOPBACK], ["0A00000A"], True),
        ([], [LOOPBACK], True),
        # Who listens at another address keeps no client of ours.
        ([LOOPBACK, "0A00000A"], ["010011AC"], False),
        (["00000000"], ["0000000000000000FFFF00000A00000A"], True),
        # Children of ours have its socket too.
        (["0A00000A"], ["0A00000A"], False),
        ([], [], False),
    ],
)
def test_who_has_the_address_beside_ours_is_a_stranger(
    ours: list[str], others: list[str], *, is_strange: bool
) -> None:
    mine = [Holder(6379, at, "7", "redis-server", "0::/redis-6379.service", "") for at in ours]
    theirs = [Holder(6379, at, "8", "redis-server", "0::/", "") for at in others]
    found = preflight.stranger(REDIS, [*theirs, *mine], "10.0.0.10")
    assert found == (theirs[0] if is_strange else None)


# --- Clashes and intruders -----------------------------------------------------------------------


def test_our_own_services_on_one_port() -> None:
    pooler = Listener(6379, "pgbouncer_listen_port", "pgbouncer", "pgbouncer.service")
    other = Listener(6380, "redis_ports", "redis-6380", "redis-6380.service")
    assert preflight.clashes("db1", [REDIS, other]) == []
    assert [str(problem) for problem in preflight.clashes("db1", [REDIS, other, pooler])] == [
        "db1: pgbouncer_listen_port: port 6379 is also that of redis-6379 (redis_ports)"
    ]


def test_an_intruder_is_named(port: int, tmp_path: Path) -> None:
    data = {"address": "127.0.0.1", "_sudo": False, "pgbouncer_listen_port": port}
    groups = {"postgres": ["@local"], "pgbouncer": ["@local"]}
    (node,) = helpers.estate({"@local": data}, groups, tmp_path).having(PgbouncerSettings)
    node.host.connect()
    wanted = Listener(port, "pgbouncer_listen_port", "pgbouncer", "pgbouncer.service")
    command = Path("/proc/self/comm").read_text().strip()
    try:
        (problem,) = map(str, preflight.intruders(node, [wanted]))
        # Within a unit its name follows.
        begin = (
            f"@local: pgbouncer_listen_port: port {port} is held by {command} (pid {os.getpid()}"
        )
        assert problem.startswith(begin)
        assert problem.endswith("), which is not pgbouncer: stop it or choose another port")
    finally:
        remote.forget(node.host)


# --- The system ----------------------------------------------------------------------------------


def test_this_machine_is_examined(tmp_path: Path) -> None:
    output = helpers.shell(shell("who"))
    system, init, memory, uid, sudo = output.stdout.splitlines()
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    assert system == " ".join(release[key].strip('"') for key in ("ID", "VERSION_ID"))
    assert init == ("systemd" if Path("/run/systemd/system").is_dir() else "none")
    assert 0 < int(memory) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    assert (uid, sudo in ("sudo", "no")) == (str(os.getuid()), True)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("debian 11", "debian 11 is not among Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04: "
                      "inventory/docker.py runs the stack in containers"),
    ],
)  # fmt: skip
def test_an_unsupported_system_is_refused(release: str, expected: str) -> None:
    problem = preflight._unsupported("db1", release)
    assert str(problem) == f"db1: operating system: {expected}"


# --- Where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "asked", "is_heard"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "10.99.0.1", True),
        ("::1", "::1", True),
        ("::1", "127.0.0.1", False),
        ("::", "10.99.0.1", True),
    ],
)
def test_who_does_not_listen_at_its_address_is_deaf(
    listens: str, asked: str, *, is_heard: bool
) -> None:
    """As the kernel says: the service started before the address was there."""
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with listen(family, listens) as made:
        port = made.getsockname()[1]
        words = quoted("x", "", f"{port:04X}", services.listening(asked, port))
        record = f"{shell('records', records='/nowhere')}recorded {words}\n"
        said = helpers.shell(record).stdout
    assert said == ("none none\n" if is_heard else "deaf none\n")
    assert helpers.shell(record).stdout == "none none\n"


@pytest.mark.parametrize(
    ("address", "found", "binds", "is_refused"),
    [
        ("10.0.0.1", ["10.0.0.1", "127.0.0.1"], True, False),
        ("10.0.0.1", ["10.0.0.11", "127.0.0.1"], True, True),
        ("10.0.0.1", ["10.0.0.11"], False, False),
        ("10.0.0.1", ["any", "10.0.0.11"], True, False),
        # A kernel that does not say.
        ("10.0.0.1", [], True, False),
        ("127.0.0.1", ["10.0.0.11"], True, False),
        ("fd00::1", ["fd000000000000000000000000000001"], True, False),
    ],
)
def test_an_address_that_the_host_does_not_have_is_refused(
    tmp_path: Path, address: str, found: list[str], *, binds: bool, is_refused: bool
) -> None:
    estate = helpers.estate({"db1": {"address": address}}, {"pgbouncer": ["db1"]}, tmp_path)
    wanted = Listener(6432, "pgbouncer_listen_port", "pgbouncer", "x", binds=binds)
    problems = preflight.homeless(helpers.node(estate, "db1"), [wanted], found)
    assert len(problems) == is_refused
    if is_refused:
        assert "is no address of this host (10.0.0.11); for one that comes" in problems[0].message


def test_this_machine_says_its_addresses() -> None:
    """By the kernel, without a tool of it."""
    lines = helpers.shell(preflight.addresses_probe().script).stdout.splitlines()
    assert "127.0.0.1" in lines
