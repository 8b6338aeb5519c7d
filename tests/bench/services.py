"""What clients of a deployed host see: the pooler, TLS, restarts, failovers, and a health run."""

from __future__ import annotations

import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import psycopg
import psycopg.conninfo

from tests.bench.figures import Figures, alternating, ratio, spread, took
from tests.bench.runs import ours, project
from tests.e2e.project import Project, embedded
from tests.e2e.proof import MASTER_NAME
from tests.e2e.redis_writers import Writers
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

ROUNDS = 3
_BINARIES = "/usr/lib/postgresql/15/bin"
_TLS = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/etc/datatier/tls/ca.pem"}
_LOADS = {"-S": "reads", "-N": "writes"}


def pgbench(
    host: Host, made: Project, options: str, port: int = 6432, *, secured: bool = False
) -> float:
    """Transactions a second, from the host itself."""
    variables = _TLS if secured else {"PGSSLMODE": "disable"}
    values = {**variables, "PGPASSWORD": made.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]}
    script = "".join(f"{key}={shlex.quote(v)}\nexport {key}\n" for key, v in values.items())
    address = host.address if secured else "127.0.0.1"
    command = f"{_BINARIES}/pgbench -h {address} -p {port} -U psscript {options} psscript"
    said = host.run(f'eval "$(cat)"; {command}', stdin=script, timeout=120).stdout
    rate = re.search(r"tps = ([0-9.]+)", said)
    return float(rate[1]) if rate else 0.0


def poolers(lab: Lab) -> Figures:
    """Load through the pooler against without one, and over TLS against in clear."""
    figures = Figures(["transactions a second", "without", "with", "with / without"])
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        clear, made = _loaded(lab, "clear", Path(one))
        private, secured = _loaded(lab, "private", Path(two))
        for load, name in _LOADS.items():
            _compare(figures, f"PgBouncer, {name}", clear, made, f"{load} -c 10 -T 6 -n")
            in_turn = alternating(
                ROUNDS,
                partial(pgbench, clear, made, f"{load} -c 10 -T 6 -n"),
                partial(pgbench, private, secured, f"{load} -c 10 -T 6 -n", secured=True),
            )
            figures.rows.append(_row(f"TLS, {name}", *in_turn))
        _compare(figures, "PgBouncer, a login for each read", clear, made, "-S -C -c 10 -T 6 -n")
    for host in (clear, private):
        host.remove()
    return figures


def _loaded(lab: Lab, name: str, directory: Path) -> tuple[Host, Project]:
    host, made = lab.installed_host(name), Project(directory)
    made.settings({"tls_enabled": name == "private"})
    made.inventory(embedded(name, host))
    made.deploy()
    pgbench(host, made, "-i -q -s 5", 5432)
    return host, made


def _compare(figures: Figures, name: str, host: Host, made: Project, options: str) -> None:
    ways = (partial(pgbench, host, made, options, port) for port in (5432, 6432))
    figures.rows.append(_row(name, *alternating(ROUNDS, *ways)))


def _row(name: str, without: list[float], within: list[float]) -> list[str]:
    return [name, spread(without, ""), spread(within, ""), ratio(within, without)]


# --- Stalls --------------------------------------------------------------------------------------


class Client:
    """One that asks through the pooler all the time, and connects again when it has to."""

    def __init__(self, host: Host, made: Project) -> None:
        password = made.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]
        self.server = psycopg.conninfo.make_conninfo(
            host=host.address, port=6432, user="psscript", password=password, connect_timeout=5
        )
        self.answers: list[float] = []
        self.failed = 0
        self._ended = threading.Event()

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                with psycopg.connect(
                    self.server, autocommit=True, prepare_threshold=None
                ) as connection:
                    while not self._ended.wait(0.01):
                        connection.execute("SELECT 1")
                        self.answers.append(time.monotonic())
            except psycopg.Error:
                self.failed += 1
                time.sleep(0.01)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Asks meanwhile, and a second before and after."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            time.sleep(1)
            yield
            time.sleep(1)
        finally:
            self._ended.set()
            thread.join()

    @property
    def stall(self) -> float:
        """The longest time without an answer, in seconds."""
        return max(after - before for before, after in pairwise(self.answers))


def stalls(lab: Lab) -> Figures:
    """Restarts that a run makes, as a client of the pooler sees them, and by hand."""
    figures = Figures(["restart", "longest wait of a client", "failed queries, of all rounds"])
    host = lab.installed_host("restarted")
    with project(host) as made:
        made.deploy()
        settings: dict[str, object] = {}

        def by_run(key: str, value: int) -> None:
            settings[key] = value if key.startswith("postgres") else {"listen_backlog": value}
            made.settings(settings)
            ours(made)

        kinds: dict[str, Callable[[int], object]] = {
            "PostgreSQL, by a run": lambda n: by_run("postgres_max_connections", 110 + n),
            "PostgreSQL, `systemctl restart`": lambda n: host.run(
                "systemctl restart postgresql@15-main"
            ),
            "PgBouncer, by a run": lambda n: by_run("pgbouncer_extra", 200 + n),
            "PgBouncer, `systemctl restart`": lambda n: host.run("systemctl restart pgbouncer"),
        }
        seen: dict[str, list[Client]] = {kind: [] for kind in kinds}
        for number in range(ROUNDS):
            for kind, restart in kinds.items():
                client = Client(host, made)
                with client.at_work():
                    restart(number)
                seen[kind].append(client)
    for kind, clients in seen.items():
        waits = spread([client.stall for client in clients])
        figures.rows.append([kind, waits, str(sum(client.failed for client in clients))])
    host.remove()
    return figures


# --- Failover ------------------------------------------------------------------------------------

_DOWN_AFTER = 5.0
_FAILOVERS = 5


def failovers(lab: Lab) -> Figures:
    """A master that stops where it is: how long a client that asks the Sentinels writes nothing."""
    host = lab.installed_host("failing")
    with project(host) as made:
        made.deploy()
        gaps = [_failover(host, made.secrets["REDIS_PASSWORD"]) for _ in range(_FAILOVERS)]
    host.remove()
    figures = Figures(["failover of Redis", "seconds without writes", "beyond down-after (5 s)"])
    beyond = [gap - _DOWN_AFTER for gap in gaps]
    figures.rows.append([f"{_FAILOVERS} failovers", spread(gaps), spread(beyond)])
    return figures


def _failover(host: Host, password: str) -> float:
    sentinels = [(host.address, port) for port in (26379, 26380, 26381)]
    with Writers(sentinels, password, socket_timeout=0.5) as writers:
        time.sleep(1)
        port = _master(writers)
        pid = host.run(f"systemctl show -p MainPID --value redis-{port}").stdout.strip()
        host.run(f"kill -STOP {pid}")

        def moved() -> None:
            assert _master(writers) != port

        eventually(moved, 40)
        time.sleep(3)
    host.run(f"kill -CONT {pid}")

    def settled() -> None:
        replicas = writers.sentinel.discover_slaves(MASTER_NAME)  # type: ignore[no-untyped-call]
        assert len(replicas) == 2

    eventually(settled, 40)
    # As long as Sentinel waits before it may replace the same master again.
    time.sleep(10)
    return writers.longest_gap


def _master(writers: Writers) -> int:
    """The port of who leads, as the Sentinels say."""
    _, port = writers.sentinel.discover_master(MASTER_NAME)  # type: ignore[no-untyped-call]
    return int(port)


# --- Health --------------------------------------------------------------------------------------

_HUNG = (
    "postgresql@15-main pgbouncer redis-6379 redis-6380"
    " redis-sentinel-26379 redis-sentinel-26380 redis-sentinel-26381"
)


def health(lab: Lab) -> Figures:
    """A health run while all is well, and while every server but one replica hangs."""
    host = lab.installed_host("hung")
    run = "/scripts/health-check.sh || :"
    with project(host) as made:
        made.deploy()
        well = [took(host, run) for _ in range(ROUNDS)]
        pids = " ".join(
            host.run(f"systemctl show -p MainPID --value {unit}").stdout.strip()
            for unit in _HUNG.split()
        )
        host.run(f"kill -STOP {pids}")
        hung = [took(host, run) for _ in range(ROUNDS)]
        host.run(f"kill -CONT {pids}")
    host.remove()
    figures = Figures(["a health run", "time"])
    figures.rows += [["all is well", spread(well)], ["all hang but one", spread(hung)]]
    return figures
