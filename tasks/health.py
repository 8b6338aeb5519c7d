"""The health table: every service, seen by a real request."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

import gevent
from pyinfra import logger
from pyinfra.api import Host, StringCommand, operation
from pyinfra.context import ctx_host
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks import engine, remove
from tasks.apps import App, AppsSettings
from tasks.backup import BackupSettings
from tasks.core import asking, estate, psql, remote
from tasks.core.change import announced, impact_of, summary
from tasks.core.estate import Estate, Node
from tasks.core.hide import shown
from tasks.core.preflight import hears
from tasks.pgbouncer import SOCKETS, PgbouncerSettings
from tasks.postgres import PostgresSettings, clients, data_directory, role_names, role_password
from tasks.project import DockerSettings, application
from tasks.redis import SHELL, RedisSettings, addresses, kept_data, password
from tasks.sentinel import SentinelSettings, endpoints, master_name

# Sentinels find replicas and each other within two of their 10 s rounds (INFO and hello).
SETTLE_SECONDS = 45
_RANK_OF_BACKUP = 4


@dataclass(frozen=True)
class Check:
    """One row of the table: a request made on a host, and what its answer must be.

    Attributes:
        data: the directory of the cluster that has to answer.
    """

    service: str
    node: Node
    where: str
    script: str
    connect: str
    rank: int
    variables: Mapping[str, str] = field(default_factory=dict)
    data: str = ""


@dataclass(frozen=True)
class Row:
    """A check and its answer.

    Attributes:
        cluster: the system identifier of the PostgreSQL that has answered.
    """

    check: Check
    healthy: bool
    answer: str
    cluster: str = ""


_VERSION = """
SELECT concat('PostgreSQL ', current_setting('server_version'),
  '; beyond the settings: ' || string_agg(rolname, ', ' ORDER BY rolname),
  E'\ncluster ', (SELECT system_identifier FROM pg_control_system()), ' ',
  current_setting('data_directory'))
FROM pg_roles r WHERE rolname NOT IN ({ours}) AND rolname !~ '^pg_|[[:cntrl:]]' AND (
  rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR EXISTS (
    SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid AND (g.rolsuper OR g.rolname ~ '^pg_')));
"""


def _postgres(node: Node) -> Iterator[Check]:
    port, data = node.the(PostgresSettings).port, data_directory(node)
    place = _place(node, node.the(PostgresSettings).listen_addresses, is_near=not clients(node))
    script = (
        f"{_answers(place, port)}"
        f"{psql.SHELL}within=30\nclosed_psql {data} {port} postgres <<'__SQL__'\n"
        f"{_VERSION.format(ours=', '.join(map(psql.literal, role_names(node))))}__SQL__"
    )
    connect = f"sudo -u postgres psql -p {port}"
    yield Check("postgres", node, f"{place}:{port}", script, connect, 0, data=data)


def _place(node: Node, listen: str | None, *, is_near: bool = False) -> str:
    """Where a server listens: for others, if it does; else for its own host."""
    if not hears(listen, node.address) or (is_near and hears(listen, "127.0.0.1", "localhost")):
        return "127.0.0.1" if hears(listen, "127.0.0.1", "localhost") else "/var/run/postgresql"
    return node.address


def _answers(place: str, port: int) -> str:
    """At the address that the table shows; what follows may go another way."""
    return f"pg_isready -q -h {place} -p {port} || {{ echo no answer at {place}; exit 1; }}\n"


_SERVED = (
    "SELECT pg_catalog.concat('query as ', current_user, pg_catalog.chr(10), 'cluster ',"
    " (SELECT s.system_identifier FROM pg_catalog.pg_control_system() s))"
)


def _pgbouncer(node: Node) -> Iterator[Check]:
    chosen = node.the(PgbouncerSettings)
    port = chosen.listen_port
    place = _place(node, chosen.listen_addr)
    where = f"{place}:{port}"
    served = application(node.estate.having(PostgresSettings)[0])
    if served is None:
        script = f"{_answers(place, port)}echo accepts connections"
        yield Check("pgbouncer", node, where, script, f"psql -h {place} -p {port}", 1)
        return
    name, owner = served
    # The password goes to the socket: another user could have taken the port.
    script = (
        f"{_answers(place, port)}"
        'PGPASSWORD="$POOL_PASSWORD" PGCONNECT_TIMEOUT=5 LC_ALL=C runuser -u postgres -- '
        f"timeout 30 psql -XAtqw -h {SOCKETS} -p {port} "
        f"-U {remote.quoted(owner)} -d {remote.quoted(name)} "
        f'-c "{_SERVED}"'
    )
    connect = f"psql -h {place} -p {port} -U {owner} {name}"
    yield Check("pgbouncer", node, where, script, connect, 1)


def _at(node: Node, port: int) -> str:
    return f"{node.address}:{port}"


# What runs is the truth: whoever asks at the address of the table has to be refused.
_LOOK = (
    SHELL
    + """
asks_for_password() { # ADDRESS PORT
  said=$(unset REDISCLI_AUTH; timeout 3 /usr/bin/redis-cli -h "$1" -p "$2" PING 2>&1) || :
  case $said in
    *NOAUTH*) return ;;
    *PONG* | *DENIED*) echo "asks for no password" ;;
    *) echo "no answer at $1: $said" ;;
  esac
  exit 1
}
also() { # PORT
  users=$(users "$1" | cut -d ' ' -f 2 | grep -vx default | paste -s -d ,)
  printf '%s' "${users:+; ACL users that are not in the settings: $users}"
}
"""
)

# An instance that takes itself for the master while Sentinel names another loses what it is told.
_REDIS = """
accepted {port} || {{ echo "no answer to PING"; exit 1; }}
asks_for_password {address} {port}
changed=$(running {port} appendonly save | grep -vxF -e {appendonly} -e {save} | cut -d ' ' -f 1 |
  paste -s -d ,)
[ -z "$changed" ] || {{ echo "$changed: changed by hand; the next run sets it back"; exit 1; }}
leader=$(for sentinel in {sentinels}; do
  timeout 2 redis-cli -h "${{sentinel%:*}}" -p "${{sentinel#*:}}" \\
    SENTINEL GET-MASTER-ADDR-BY-NAME {name} 2>/dev/null | paste -s -d ' ' | grep '^[0-9]' && break
done)
if redis-cli -p {port} INFO replication | grep -q '^role:master' &&
   [ "${{leader:-{me}}}" != "{me}" ]; then
  echo "master, but Sentinel says $leader"; exit 1
fi
redis-cli -p {port} INFO replication | tr -d '\\r' | awk -F: -v also="$(also {port})" '
  {{ v[$1] = $2 }}
  END {{
    if (v["role"] == "master") print "master, " v["connected_slaves"] " replicas" also
    else {{
      up = v["master_link_status"] == "up"
      print "replica of " v["master_host"] ":" v["master_port"] (up ? "" : ", link down") also
      exit !up
    }}
  }}'
"""


def _redis(node: Node) -> Iterator[Check]:
    sentinels = remote.quoted(*map(str, endpoints(node.estate)))
    name = master_name(node.estate)
    for port in node.the(RedisSettings).ports:
        script = _REDIS.format(
            port=port,
            address=node.address,
            me=f"{node.address} {port}",
            sentinels=sentinels,
            name=name,
            **{
                key: remote.quoted(f"{key} {value}") for key, value in kept_data(node, port).items()
            },
        )
        connect = f"redis-cli -h {node.address} -p {port} --askpass"
        yield Check(f"redis-{port}", node, _at(node, port), script, connect, 2)


# An identity in the file proves that Sentinel can save what it learns.
_SENTINEL = """
accepted {port} || {{ echo "no answer to PING"; exit 1; }}
asks_for_password {address} {port}
answer=$(redis-cli -p {port} SENTINEL CKQUORUM {name})
case $answer in OK*) ;; *) echo "$answer"; exit 1 ;; esac
id=$(redis-cli -p {port} SENTINEL MYID)
timeout 5 grep -D skip -q "^sentinel myid $id" /var/lib/redis/sentinel-{port}/sentinel.conf ||
  {{ echo "cannot write its configuration file"; exit 1; }}
others=$(redis-cli --no-raw -p {port} SENTINEL MASTERS | sed -n 's/^ *2) "//p' |
  grep -vx '{name}"' | tr -d '"' | paste -s -d ,)
redis-cli -p {port} SENTINEL MASTER {name} | paste -d ' ' - - |
  awk -v also="$(also {port})${{others:+; watches $others too}}" '
  {{ v[$1] = $2 }}
  END {{
    print "master " v["ip"] ":" v["port"] ", " v["num-slaves"] " replicas, " \\
      v["num-other-sentinels"] " other Sentinels" also
    exit !(v["num-slaves"] {exactly} {replicas} && v["num-other-sentinels"] == {others})
  }}'
"""


def _sentinel(node: Node) -> Iterator[Check]:
    chosen = node.the(SentinelSettings)
    for port in chosen.ports:
        script = _SENTINEL.format(
            port=port,
            address=node.address,
            name=chosen.master_name,
            # A project may have been scaled, and Sentinel forgets no replica.
            exactly=">=" if node.estate.subnet else "==",
            replicas=len(addresses(node.estate)) - 1,
            others=len(endpoints(node.estate)) - 1,
        )
        connect = f"redis-cli -h {node.address} -p {port} --askpass"
        yield Check(f"redis-sentinel-{port}", node, _at(node, port), script, connect, 3)


def _backup(node: Node) -> Iterator[Check]:
    scripts = node.the(BackupSettings).scripts_dir
    script = f"timeout 60 {scripts}/backup.sh status --brief"
    connect = f"{scripts}/backup.sh list"
    yield Check("backup-service", node, "-", script, connect, _RANK_OF_BACKUP)


def _docker(node: Node) -> Iterator[Check]:
    """The same requests, made in the containers; those to applications from their host."""
    home = node.the(DockerSettings).project_dir
    place = node.the(DockerSettings).publish_address
    assert node.inside is not None
    for number, container in enumerate(node.inside.nodes):
        for check in _checks(container):
            script, variables = engine.inside(
                container, f"{_LOOK}{check.script}", _variables(container), number
            )
            yield replace(
                check,
                service=container.service,
                node=node,
                where=f"{place}:{container.port}" if container.port else "-",
                script=script,
                variables=variables,
                connect=f"cd {home} && docker-compose exec {_CONNECT[check.rank]}",
            )
    for app in node.the(AppsSettings).apps:
        where = f"{place}:{app.published}" if app.published else "-"
        name = f"{node.stack.stack_name}_{app.name}"
        script = _app(app, place) if app.published else _STATE.replace("CONTAINER", name)
        yield Check(app.name, node, where, script, where, len(_CONNECT))


_CONNECT = (
    "postgres psql -U postgres",
    "pgbouncer psql -h localhost -p 6432 -U postgres -d pgbouncer",
    "redis-master redis-cli",
    "redis-sentinel-1 redis-cli -p 26379",
    "backup-service /scripts/backup.sh list",
)

# Bash is on every Linux that runs Docker, and an HTTP client is not.
_HTTP = r"""
exec 3<>/dev/tcp/$0/$1
printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$0" >&3
IFS= read -r line <&3; echo "GET $2: ${line%$'\r'}"
case $line in *' 2'[0-9][0-9]' '*) ;; *) exit 1 ;; esac
"""


# What only containers reach is asked by the engine.
_STATE = """
format='{{.State.Status}}{{if .State.Health}}, {{.State.Health.Status}}{{end}}'
said=$(docker inspect -f "$format" CONTAINER 2>&1)
echo "$said"
case $said in running | 'running, healthy') ;; *) exit 1 ;; esac
"""


def _app(app: App, place: str) -> str:
    """A request as another program of the host makes it."""
    address = "127.0.0.1" if place == "0.0.0.0" else place
    if app.health == "tcp":
        connect = "exec 3<>/dev/tcp/$0/$1 && echo accepts connections"
        words = remote.quoted(connect, address, str(app.published))
    else:
        words = remote.quoted(_HTTP, address, str(app.published), app.health.removeprefix("http:"))
    return f"timeout 10 bash -c {words} 2>/dev/null | grep . || {{ echo no answer; exit 1; }}"


_CHECKS = {
    DockerSettings: _docker,
    PostgresSettings: _postgres,
    PgbouncerSettings: _pgbouncer,
    RedisSettings: _redis,
    SentinelSettings: _sentinel,
    BackupSettings: _backup,
}


def _checks(node: Node) -> Iterator[Check]:
    for settings, of in _CHECKS.items():
        if settings in node.settings:
            yield from of(node)


def _ask(node: Node) -> list[Row]:
    """All checks of a host, with one command."""
    checks = list(_checks(node))
    if not checks:
        return []
    script = f"cd /\n{remote.PATHS}{_LOOK}"
    for check in checks:
        script += (
            f"out=$( ({check.script}\n) 2>&1 </dev/null); status=$?\n"
            'printf "%s\\tcluster %s\\tstatus %s\\n" "$(printf "%s\\n" "$out" | head -n 1)" \\\n'
            ' "$(printf "%s\\n" "$out" | sed -n "s/^cluster //p" | head -n 1)" $status\n'
        )
    variables = {k: v for check in checks for k, v in check.variables.items()}
    output = remote.run(node.host, script, {**variables, **_variables(node)})
    if len(output.stdout) != len(checks):
        return [Row(check, False, output.last_word or "no answer") for check in checks]
    return [_row(check, line) for check, line in zip(checks, output.stdout, strict=True)]


def _row(check: Check, line: str) -> Row:
    said, _, status = line.rpartition("\tstatus ")
    answer, _, served = said.rpartition("\tcluster ")
    cluster, _, data = served.partition(" ")
    if check.data and data and data != check.data:
        return Row(check, False, f"the server there has its data in {shown(data)}")
    return Row(check, status == "0", shown(answer).replace("\t", " "), cluster)


def _variables(node: Node) -> dict[str, str]:
    variables = {}
    redis = node.estate.having(RedisSettings)
    if redis:
        variables["REDIS_PASSWORD"] = password(redis[0])
    if PgbouncerSettings in node.settings:
        server = node.estate.having(PostgresSettings)[0]
        if served := application(server):
            variables["POOL_PASSWORD"] = role_password(server, served[1]) or ""
    return variables


def rows(nodes: list[Node]) -> list[Row]:
    """Asks every service of these hosts once; the rows come in the order of deployment."""
    jobs = [gevent.spawn(_ask, node) for node in nodes if node.settings]
    gevent.joinall(jobs)
    answers = _of_one_cluster([row for job in jobs for row in job.get()])
    return sorted(answers, key=lambda row: row.check.rank)


def _of_one_cluster(answers: list[Row]) -> list[Row]:
    """A pooler leads to the PostgreSQL of the settings, whoever else has its address."""
    servers = {_stack(row): row.cluster for row in answers if row.check.rank == 0}
    return [
        replace(row, healthy=False, answer=f"leads to another PostgreSQL (cluster {row.cluster})")
        if row.cluster and (known := servers.get(_stack(row))) and known != row.cluster
        else row
        for row in answers
    ]


def _stack(row: Row) -> str:
    """A Docker host has a stack of its own."""
    return row.check.node.name if row.check.node.inside else ""


def _of_failed(everything: Estate, well: list[Node]) -> list[Row]:
    """Rows for hosts on which this run failed, or that it did not reach at all."""
    failed = [n for n in everything.nodes if n not in well and estate.is_wanted(n.host)]
    checks = (check for node in failed if not node.host.connected for check in _checks(node))
    lost = [Row(check, False, "the host was not reached") for check in checks]
    return [*rows([node for node in failed if node.host.connected]), *lost]


def _settled(nodes: list[Node], seconds: float) -> list[Row]:
    """The rows once all are healthy, or as they are when the time is over."""
    end = time.monotonic() + seconds
    answers = rows(nodes)
    if seconds and _may_settle(answers):
        logger.info(f"--> Waiting up to {SETTLE_SECONDS} s for the services to find each other")
    while time.monotonic() < end and _may_settle(answers):
        time.sleep(1)
        answers = rows(nodes)
    return answers


def _may_settle(answers: list[Row]) -> bool:
    is_cut_off = any(row.answer.startswith(remote.BROKEN) for row in answers)
    # What is wrong with the backups is not over in a minute.
    is_due = any(not row.healthy and row.check.rank != _RANK_OF_BACKUP for row in answers)
    return is_due and not is_cut_off


def table(answers: list[Row]) -> Table:
    """The rows as a table for people."""
    result = Table("service", "host", "listens on", "health", box=None)
    for row in answers:
        check = row.check
        mark = ("ok", "green") if row.healthy else ("FAILS", "bold red")
        cells = (check.service, check.node.name, check.where)
        result.add_row(*map(Text, cells), Text.assemble(mark, f"  {row.answer}"))
    return result


def _verify(settle: float) -> None:
    estate.here()
    _verified(settle=settle, name="Health: every service answers")


@operation()
def _verified(settle: float) -> Generator[StringCommand, None, None]:
    host = ctx_host.get()
    if not host.state.is_executing:
        _summarise(host)
        return
    everything = estate.here().estate
    nodes = [node for node in everything.active if node.host in host.state.active_hosts]
    if not nodes or nodes[0].host is not host:
        return
    answers = [*_settled(nodes, settle), *_of_failed(everything, nodes)]
    console = Console(stderr="--json" in sys.argv)
    console.width = max(console.width, 130)
    console.print(table(answers))
    if not settle:
        for name, line in _beside(nodes):
            console.print(Text(f"[{name}] {shown(line)}"), soft_wrap=True)
    console.print("\nconnect (passwords: .env)")
    for line in reversed({r.check.rank: r.check.connect for r in reversed(answers)}.values()):
        console.print(f"  {line}", highlight=False, markup=False)
    sent = sum(remote.commands(node.host) for node in nodes)
    logger.info(f"    {sent} commands to {len(nodes)} host{'s' * (len(nodes) > 1)}")
    failing = [f"{r.check.service} on {r.check.node.name}" for r in answers if not r.healthy]
    if failing:
        yield StringCommand(f"echo 'not healthy: {', '.join(failing)}' >&2; exit 1")


def _beside(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """What is on the hosts beside ours; a run has told of it before."""
    for node in nodes:
        try:
            yield from [(node.name, line) for line in remove.beside(node)]
        except remote.Unreadable as unreadable:
            yield node.name, str(unreadable)


def _summarise(host: Host) -> None:
    """Ends the plan of a host that has changes to come."""
    lines = [line for lines in announced(host).values() for line in lines]
    if lines:
        logger.info(f"{host.print_prefix}{summary(map(impact_of, lines))}")


def report() -> None:
    """Ends a run: waits until the services have found each other, and prints the table."""
    _verify(SETTLE_SECONDS)


def verify() -> None:
    """Prints the table alone; fails when a row fails, and asks nobody before."""
    asking.only_looks()
    _verify(0)
