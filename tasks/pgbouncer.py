"""PgBouncer: transaction pooling in front of PostgreSQL, passwords looked up where they live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tasks import link, postgres
from tasks.core import files, live, packages, psql, services, sql
from tasks.core.change import Change, Trial, converge
from tasks.core.estate import HOST, Component, Estate, Node, here, no_defaults, no_secrets, on
from tasks.core.files import Directory, Entry, File, Found, render
from tasks.core.preflight import Listener, hears
from tasks.core.remote import Probe, quoted
from tasks.core.services import STATE_DIRECTORY, Activation, Service, Status
from tasks.core.settings import Extra, Line, Port, Problem, Settings
from tasks.postgres import LOOKUP_SECRET, PostgresSettings, lookup_password

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


_TRUSTED = "/etc/datatier/pgbouncer/postgres.pem"
# With its pools full a pooler still has to look up the passwords of new clients.
_LOOKUP_CONNECTIONS = 2


class PgbouncerSettings(Settings):
    """The `pgbouncer_*` keys; times are in seconds, as PgBouncer's own."""

    prefix: ClassVar[str] = "pgbouncer_"

    listen_port: Port = 6432
    """Port. Change: restart."""
    listen_addr: Line | None = None
    """Where it listens. Default: `127.0.0.1` and `address`. Change: restart."""
    pool_mode: Literal["session", "transaction", "statement"] = "transaction"
    """`session`, `transaction` or `statement`. Change: reload."""
    max_client_conn: Annotated[int, Field(ge=1, le=60000)] = 1000
    """Client connections. Change: reload; restart above 32768, for file descriptors."""
    default_pool_size: Positive = 25
    """Server connections per user and database. Change: reload."""
    min_pool_size: Count = 10
    """Server connections kept open. Change: reload."""
    reserve_pool_size: Count = 5
    """How many more there may be when clients wait. Change: reload."""
    reserve_pool_timeout: Count = 5
    """Seconds that they wait before that. Change: reload."""
    max_db_connections: Positive | None = None
    """Server connections per database, all users. Default: pool size + reserve + 2 for looking
    passwords up. Change: reload."""
    max_prepared_statements: Count | None = None
    """Prepared statements kept per connection. Default: 200 from PgBouncer 1.21 on, else not set.
    Change: reload."""
    query_wait_timeout: Count = 120
    """Seconds that a query may wait for a connection. Change: reload."""
    # PgBouncer's own 15 seconds make a restart of PostgreSQL that takes one last 15 for clients.
    server_login_retry: Positive = 1
    """Seconds between attempts to connect to PostgreSQL; clients wait as long after a restart of
    it. Change: reload."""
    server_connect_timeout: Positive = 5
    """Seconds after which an attempt is given up. Change: reload."""
    server_lifetime: Count = 3600
    """Seconds after which a server connection is replaced. Change: reload."""
    server_idle_timeout: Count = 600
    """Seconds after which an idle one is closed. Change: reload."""
    tcp_keepidle: Positive = 30
    """TCP keepalive: idle seconds. Change: reload."""
    tcp_keepintvl: Positive = 10
    """TCP keepalive: seconds between probes. Change: reload."""
    tcp_keepcnt: Positive = 5
    """TCP keepalive: probes. Change: reload."""
    ignore_startup_parameters: Line = "extra_float_digits"
    """Startup parameters that are accepted and ignored. Change: reload."""
    prune: bool = False
    """On a host that left the group it goes. Change: the service stops."""
    adopt: bool = False
    """The PgBouncer of others is taken over in one run. Change: restart; its files are replaced,
    copies stay."""
    extra: Extra = {}
    """Any other key: `{"server_reset_query": "DISCARD ALL"}`. Change: reload; restart for keys that
    RELOAD ignores."""

    @property
    def connections_per_database(self) -> int:
        """The most server connections that this PgBouncer opens to one database."""
        pools = self.default_pool_size + self.reserve_pool_size
        return self.max_db_connections or pools + _LOOKUP_CONNECTIONS


# The first version that has a key; an older one refuses to start with it.
_SINCE = {
    "auth_dbname": (1, 19),
    "max_prepared_statements": (1, 21),
    "track_extra_parameters": (1, 20),
    "load_balance_hosts": (1, 24),
    "transaction_timeout": (1, 25),
}

# 200 is PgBouncer's own recommendation where clients use protocol-level prepared statements
# (config.md of 1.21: "100 to 300").
_PREPARED_STATEMENTS = 200

# Keys that RELOAD leaves as they are (column "changeable" of SHOW CONFIG).
_RESTART_KEYS = ("listen_addr", "listen_port", "unix_socket_dir", "unix_socket_mode",
                 "unix_socket_group", "listen_backlog", "so_reuseport", "user", "pidfile",
                 "syslog_ident", "syslog_facility", "peer_id")  # fmt: skip

_INI = "/etc/pgbouncer/pgbouncer.ini"
_USERLIST = "/etc/pgbouncer/userlist.txt"
SOCKETS = "/var/run/postgresql"
PID_FILE = "/var/run/postgresql/pgbouncer.pid"


# --- What the estate knows of PgBouncer ----------------------------------------------------------


def _rules(everything: Estate) -> list[Problem]:
    poolers = everything.having(PgbouncerSettings)
    problems = []
    for node in poolers:
        chosen = node.the(PgbouncerSettings)
        if not everything.having(PostgresSettings):
            message = "needs a host in group 'postgres'"
            problems.append(Problem(node.name, "group pgbouncer", message))
        if len(everything.having(PostgresSettings)) > 1:
            message = "should have one host where there is a PgBouncer: it serves one server"
            problems.append(Problem(node.name, "group postgres", message))
        if chosen.min_pool_size > chosen.default_pool_size:
            message = f"should be at most pgbouncer_default_pool_size ({chosen.default_pool_size})"
            problems.append(Problem(node.name, "pgbouncer_min_pool_size", message))
        if not hears(chosen.listen_addr, "127.0.0.1", "localhost"):
            message = "should contain 127.0.0.1, where this host asks whether it answers"
            problems.append(Problem(node.name, "pgbouncer_listen_addr", message))
        problems += [
            Problem(node.name, f"pgbouncer_extra/{key}", _duplicate(key))
            for key in chosen.extra
            if key in _parameters(node) or key in PgbouncerSettings.model_fields
        ]
    return problems + _pools(everything, poolers)


def _duplicate(key: str) -> str:
    if key in PgbouncerSettings.model_fields:
        return f"has a key of its own: pgbouncer_{key}"
    return "is set by Datatier"


def _pools(everything: Estate, poolers: list[Node]) -> list[Problem]:
    """The pools of all poolers must fit into what PostgreSQL accepts."""
    problems = []
    for server in everything.having(PostgresSettings):
        chosen = server.the(PostgresSettings)
        room = chosen.max_connections - chosen.superuser_reserved_connections
        databases = len(chosen.databases)
        each = [node.the(PgbouncerSettings).connections_per_database for node in poolers]
        total = databases * sum(each)
        if total > room:
            message = (
                f"{databases} database{'s' if databases > 1 else ''} x {' + '.join(map(str, each))}"
                f" pool connections are {total}, more than the {room} that "
                f"postgres_max_connections ({chosen.max_connections}) leaves them"
            )
            problems.append(Problem(poolers[0].name, "pgbouncer_default_pool_size", message))
    return problems


def _listens(node: Node) -> list[Listener]:
    port = node.the(PgbouncerSettings).listen_port
    key, unit, binds = "pgbouncer_listen_port", "pgbouncer.service", _outside(node) is not None
    return [Listener(port, key, "pgbouncer", unit, binds=binds)]


def _probes(node: Node) -> dict[str, Probe[Any]]:
    return {
        "packages": packages.probe(_packages(node)),
        "files": files.probe(_files(node)),
        "services": services.probe([service_of(node)], node.manager),
        "uses": uses_probe(node),
    }


def uses_probe(node: Node) -> Probe[dict[str, tuple[str, str]]]:
    """Reads what PgBouncer uses and what it would use without a file, by key.

    Databases are among the keys where they lead elsewhere, or let nobody in.
    """
    script = f"""
[ -S {SOCKETS}/.s.PGSQL.{node.the(PgbouncerSettings).listen_port} ] || exit 0
set -- pgbouncer 10 'SHOW CONFIG'
{console(node, node)} 2>/dev/null || :
set -- pgbouncer 10 'SHOW DATABASES'
{console(node, node)} 2>/dev/null || :
"""
    host, port = _leads_to(node)

    def parse(lines: list[str]) -> dict[str, tuple[str, str]]:
        rows = [line.split("|") for line in lines]
        found = {row[0]: (row[1], row[2]) for row in rows if len(row) == _SHOWN}
        for name, *where, paused, disabled in (r for r in rows if len(r) > _SHOWN and r[1]):
            if where[:2] != [host, str(port)]:
                found[f"server of {name}"] = f"{where[0]}:{where[1]}", f"{host}:{port}"
            states = {"PAUSE": paused != "0", "DISABLE": disabled != "0"}
            if said := ", ".join(word for word, is_so in states.items() if is_so):
                found[f"{_STATE}{name}"] = said, "in use"
        return found

    return Probe(script, parse)


_STATE = "state of "


def _leads_to(node: Node) -> tuple[str, int]:
    """Where its databases are."""
    server = _server(node)
    host = "127.0.0.1" if server is node else server.address
    return host, server.the(PostgresSettings).port


def letting_in(wanted: Activation, node: Node, found: Mapping[str, tuple[str, str]]) -> Activation:
    """The activation whose reload also ends what was done to databases at the console."""
    orders = [
        f"{order} {psql.identifier(key.removeprefix(_STATE))}"
        for key, (said, _) in found.items()
        if key.startswith(_STATE)
        for word, order in (("DISABLE", "ENABLE"), ("PAUSE", "RESUME"))
        if word in said
    ]
    steps = [f"(set -- pgbouncer 10 {quoted(order)}; {console(node, node)})" for order in orders]
    service = replace(wanted.service, reload="\n".join([wanted.service.reload, *steps]))
    return replace(wanted, service=service)


# The columns of SHOW CONFIG: key, value, default, changeable.
_SHOWN = 4


def _checks(node: Node) -> list[Problem]:
    return [*unsupported(node, _version(node)), *_taken(node)]


def _taken(node: Node) -> Iterator[Problem]:
    """What is refused because others use it."""
    foreign = _foreign(node)
    if foreign and not node.the(PgbouncerSettings).adopt:
        is_running = node.read("pgbouncer")["services"]["pgbouncer"].running
        message = (
            f"{' and '.join(foreign)} {'are' if foreign[1:] else 'is'} not Datatier's "
            f"(PgBouncer is {'running' if is_running else 'stopped'}): "
            "pgbouncer_adopt = True in one run replaces them and keeps copies"
        )
        yield Problem(node.name, "pgbouncer", message)


def _foreign(node: Node) -> list[str]:
    """Files of a PgBouncer that is not ours; those that the package brings belong to no one."""
    said = node.read("pgbouncer")
    found: Mapping[str, Found] = said["files"]
    taken = [
        path
        for path in files.strangers(found, node.read(HOST)["pristine"])
        if path.startswith(COMPONENT.adopts)
    ]
    # The list of users has no mark of its own: it is whose the configuration is.
    is_ours = found[_INI].is_ours
    users_too = found[_USERLIST].content not in (b"", users(node).encode())
    return [*taken, _USERLIST] if users_too and not is_ours else taken


def _in_use(node: Node) -> Mapping[str, str]:
    found = node.read("pgbouncer")["files"]
    is_ours = found[_INI].is_ours
    return {LOOKUP_SECRET: _USERLIST, "POSTGRES_PASSWORD": ""} if is_ours else {}


def unsupported(node: Node, version: tuple[int, int]) -> list[Problem]:
    """Settings that this version of PgBouncer does not know."""
    chosen = node.the(PgbouncerSettings)
    asked = {f"extra/{key}" for key in chosen.extra}
    if chosen.max_prepared_statements:
        asked.add("max_prepared_statements")
    return [
        Problem(
            node.name,
            f"pgbouncer_{key}",
            f"needs PgBouncer {since[0]}.{since[1]}; this host has {version[0]}.{version[1]}",
        )
        for key in sorted(asked)
        if version < (since := _SINCE.get(key.removeprefix("extra/"), (0, 0)))
    ]


def _version(node: Node) -> tuple[int, int]:
    """The installed version, else the one that the host's release would install."""
    installed = node.read("pgbouncer")["packages"].get("pgbouncer")
    if installed is None:
        return node.system.release.pgbouncer
    major, minor = installed.split(":")[-1].split(".")[:2]
    return int(major), int(minor)


# --- Install -------------------------------------------------------------------------------------


def _packages(node: Node) -> list[str]:
    return ["pgbouncer", "postgresql-client", *services.packages(node.manager)]


@on(PgbouncerSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    converge(
        "PgBouncer: packages",
        lambda: _missing_packages(node),
    )


def _missing_packages(node: Node) -> Change | None:
    return packages.compare(node, _packages(node), node.read("pgbouncer")["packages"])


# --- Configure -----------------------------------------------------------------------------------


def configure() -> None:
    """Writes the configuration and makes PgBouncer take it."""
    pin()
    _write()
    activate()
    postgres.narrow()


def pin() -> None:
    """The certificate that PostgreSQL on another host shows, before anything relies on it.

    One operation of both hosts: pyinfra then runs it after what precedes it on either of them.
    """
    node = here()
    if PgbouncerSettings in node.settings:
        is_concerned = _pins(node)
    else:
        chosen = node.of(PostgresSettings)
        is_concerned = chosen is not None and link.is_ours(node, chosen.extra)
    if is_concerned:
        converge("PgBouncer: certificate of PostgreSQL", lambda: _unpinned(node))


def _unpinned(node: Node) -> Change | None:
    if PgbouncerSettings not in node.settings or not (pinned := _pinned(node)):
        return None
    return files.compare(_trusted(pinned), node.read("pgbouncer")["files"])


@on(PgbouncerSettings)
def _write(node: Node) -> None:
    converge("PgBouncer: configuration", lambda: _configuration(node))


def _configuration(node: Node) -> Change | None:
    said = node.read("pgbouncer")
    pinned = _pinned(node)
    change = files.compare(_own_files(node, pinned), said["files"])
    if change is not None and (foreign := _foreign(node)):
        change = files.keeping(change, ["PgBouncer of others: adopt"], foreign)
    if change is None or not said["services"]["pgbouncer"].running:
        return change
    wanted = (configuration(node, pinned), users(node))
    is_same = all(
        said["files"][path].content == text.encode()
        for path, text in zip((_INI, _USERLIST), wanted, strict=True)
    )
    return change.after([] if is_same else [trial(*wanted)])


def _pinned(node: Node) -> str:
    """The certificates that PostgreSQL may show; empty where there is none to pin."""
    if not _pins(node):
        return ""
    return link.pinned(_server(node), node, node.read("pgbouncer")["files"][_TRUSTED])


def _pins(node: Node) -> bool:
    """Whether PostgreSQL is on another host and has a certificate of ours."""
    server = _server(node)
    is_ours = link.is_ours(server, server.the(PostgresSettings).extra)
    return is_ours and link.is_remote(server, node) and not _has_own_link(node)


def _has_own_link(node: Node) -> bool:
    return any(key.startswith("server_tls_") for key in node.the(PgbouncerSettings).extra)


def _link(node: Node, pinned: str) -> dict[str, str]:
    """How PostgreSQL is reached on another host; PgBouncer 1.18 would do so in clear."""
    if _has_own_link(node) or not link.is_remote(_server(node), node):
        return {}
    if not pinned:
        return {"server_tls_sslmode": "prefer"}
    return {"server_tls_sslmode": "verify-full", "server_tls_ca_file": _TRUSTED}


def _parameters(node: Node, pinned: str = "") -> dict[str, str | int]:
    chosen = node.the(PgbouncerSettings)
    addresses = dict.fromkeys(("127.0.0.1", node.address))
    prepared = chosen.max_prepared_statements
    if prepared is None and node.system.release.pgbouncer >= _SINCE["max_prepared_statements"]:
        prepared = _PREPARED_STATEMENTS
    return {
        "listen_addr": chosen.listen_addr or ",".join(addresses),
        "listen_port": chosen.listen_port,
        "unix_socket_dir": SOCKETS,
        "auth_type": "scram-sha-256",
        "auth_file": _USERLIST,
        "auth_query": "SELECT uname, phash FROM pgbouncer.user_lookup($1)",
        "admin_users": "postgres",
        "pool_mode": chosen.pool_mode,
        "max_client_conn": chosen.max_client_conn,
        "default_pool_size": chosen.default_pool_size,
        "min_pool_size": chosen.min_pool_size,
        "reserve_pool_size": chosen.reserve_pool_size,
        "reserve_pool_timeout": chosen.reserve_pool_timeout,
        "max_db_connections": chosen.connections_per_database,
        **({"max_prepared_statements": prepared} if prepared is not None else {}),
        "query_wait_timeout": chosen.query_wait_timeout,
        "server_login_retry": chosen.server_login_retry,
        "server_connect_timeout": chosen.server_connect_timeout,
        "server_lifetime": chosen.server_lifetime,
        "server_idle_timeout": chosen.server_idle_timeout,
        "tcp_keepalive": 1,
        "tcp_keepidle": chosen.tcp_keepidle,
        "tcp_keepintvl": chosen.tcp_keepintvl,
        "tcp_keepcnt": chosen.tcp_keepcnt,
        **_link(node, pinned),
        "ignore_startup_parameters": chosen.ignore_startup_parameters,
        # A container's log is what it prints.
        **({} if node.estate.subnet else {"logfile": "/var/log/postgresql/pgbouncer.log"}),
        "pidfile": PID_FILE,
    }


def _everything(node: Node, pinned: str = "") -> dict[str, str | int | float]:
    """The parameters with those of `extra`; PgBouncer knows truth as 1 and 0."""
    extra = node.the(PgbouncerSettings).extra
    return {
        **_parameters(node, pinned),
        **{key: int(value) if isinstance(value, bool) else value for key, value in extra.items()},
    }


def _server(node: Node) -> Node:
    return node.estate.having(PostgresSettings)[0]


def configuration(node: Node, pinned: str = "") -> str:
    """The content of pgbouncer.ini."""
    postgres = _server(node).the(PostgresSettings)
    host, port = _leads_to(node)
    return render(
        "pgbouncer/pgbouncer.ini.j2",
        host=host,
        port=port,
        databases=list(postgres.databases),
        # Not for all databases: a stranger's login to the console would end PgBouncer 1.18.
        auth_user=sql.LOOKUP_ROLE,
        parameters=_everything(node, pinned),
    )


def users(node: Node) -> str:
    """The content of userlist.txt."""
    postgres = _server(node).the(PostgresSettings)
    admin = sql.scram(postgres.password.get_secret_value(), "postgres")
    known = {sql.LOOKUP_ROLE: lookup_password(node.estate), "postgres": admin}
    return render("pgbouncer/userlist.txt.j2", users=known)


USERS_SECRET = r'^"[^"]*" "(.*)"$'
# Who is in the list, and in the settings a key, or the whole line where that says who and whither.
USERS = r'\s*("[^"]*")'
OPENS = (
    r"\s*(?![;#\[\s])"
    r"((?:admin_users|stats_users|auth_\w+|%include|[^=]*=.*\bhost\s*=).*|[^=\s]+)"
)
LINK_SECRET = r"(?i)passw\w*\s*=\s*('[^']*'|\S+)"


def _trusted(pinned: str) -> list[Entry]:
    directory = _TRUSTED.rpartition("/")[0]
    return [Directory("/etc/datatier"), Directory(directory), File(_TRUSTED, f"{pinned}\n")]


def _files(node: Node) -> list[Entry]:
    pinned = link.TO_COME if _pins(node) else ""
    return [*(_trusted(pinned) if pinned else []), *_own_files(node, pinned)]


def _own_files(node: Node, pinned: str) -> list[Entry]:
    return [
        postgres.private(_INI, configuration(node, pinned), LINK_SECRET, OPENS),
        postgres.private(_USERLIST, users(node), USERS_SECRET, USERS),
        *services.files(service_of(node), node.manager),
    ]


# --- Activate ------------------------------------------------------------------------------------


@on(PgbouncerSettings)
def activate(node: Node) -> None:
    """Starts PgBouncer, reloads it, or restarts it for what RELOAD ignores."""
    converge("PgBouncer: service", lambda: _activation(node), one_by_one=True)


def fixed(node: Node) -> dict[str, Any]:
    """What of the configuration takes a restart."""
    parameters = _everything(node)
    return {key: parameters[key] for key in _RESTART_KEYS if key in parameters}


def because(wanted: Activation, now: Status) -> Activation:
    """The same, which says why a restart is due."""
    keys = services.changed(wanted, now)
    takes = f"restart ({', '.join(keys)}: RELOAD does not take {'them' if keys[1:] else 'it'})"
    return replace(wanted, restart_means=takes) if keys else wanted


def _wanted(node: Node, pinned: str) -> Activation:
    return services.activation(
        service_of(node),
        node.manager,
        restart=str(fixed(node)),
        reload=configuration(node, pinned) + users(node) + pinned,
        keys=services.fingerprints(fixed(node)),
    )


def is_in_clear(node: Node) -> bool:
    """Whether a pooler on another host may run with a configuration from before it had TLS."""
    said = node.read("pgbouncer")
    trusted = said["files"][_TRUSTED].content.decode().rstrip() if _pins(node) else ""
    status = said["services"]["pgbouncer"]
    return status.running and services.impact(_wanted(node, trusted), status) is not None


def refuses_tls(node: Node) -> bool:
    """Whether pgbouncer_extra wants the link in clear."""
    return str(node.the(PgbouncerSettings).extra.get("server_tls_sslmode")) in ("disable", "allow")


def _activation(node: Node) -> Change | None:
    pinned = _pinned(node)
    wanted = _wanted(node, pinned)
    now = node.read("pgbouncer")["services"]["pgbouncer"]
    found = moved(node, pinned) if services.impact(wanted, now) is None else {}
    if elsewhere := found.pop("conffile", None):
        line = f"pgbouncer: reads {elsewhere[0]}, not {_INI}"
        return Change([line], ":", then=lambda: f"{line}: see systemctl cat pgbouncer")
    now = status(now, found)
    wanted = letting_in(because(wanted, now), node, found)
    change = services.compare([wanted], {"pgbouncer": now}, node.manager)
    if change is None:
        return None
    change = replace(change, lines=[*live.sentences("pgbouncer", found), *change.lines])
    if services.impact(wanted, now) != "restart":
        return change
    if node.host.state.is_executing:
        # What failed on one would fail on the next one too, and then none would be left.
        node.estate.require_settled(PgbouncerSettings, "PgBouncer")
        node.estate.unsettled.add(node)
    return replace(change, then=lambda: _settled(node))


def moved(node: Node, pinned: str = "") -> dict[str, tuple[str, str]]:
    """What PgBouncer uses and should, by key, where the two differ."""
    uses: Mapping[str, tuple[str, str]] = node.read("pgbouncer")["uses"]
    ours = {key: str(value) for key, value in _everything(node, pinned).items()}
    usual = {key: default for key, (_, default) in uses.items() if key not in _OWN_WORDS}
    wanted = {**usual, "verbose": "0", **ours, "conffile": _INI}
    wanted.pop("unix_socket_mode", "")
    return live.moved(wanted, {key: used for key, (used, _) in uses.items()}, wanted)


# It says these in its own words, or finds them out.
_OWN_WORDS = {"job_name", "user", "logfile", "pidfile", "resolv_conf", "unix_socket_mode"}


def status(now: Status, found: Mapping[str, Any]) -> Status:
    """What is known of PgBouncer, with what it says of itself."""
    return live.status(now, found, _RESTART_KEYS)


def _settled(node: Node) -> str:
    node.estate.unsettled.discard(node)
    return ""


# A copy of the configuration that listens nowhere near the live one: it ends at once if it is bad.
_TRY = f"""
as_postgres() {{ runuser -u postgres -- "$@"; }}
try() {{ # INI USERLIST
  said=$(mktemp) trial=$(as_postgres mktemp -d)
  as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/users" <"$2"
  sed -E "s,^(unix_socket_dir) = .*,\\1 = $trial,; s,^(logfile|pidfile) = .*,\\1 = $trial/\\1,
    s,^auth_file = .*,auth_file = $trial/users,; s,^listen_addr = .*,listen_addr = ," \
    "$1" | as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/ini"
  # Inside runuser, which waits for two seconds before it passes a signal on.
  as_postgres timeout 1 /usr/sbin/pgbouncer "$trial/ini" >"$said" 2>&1 || code=$?
  why=$(as_postgres cat "$trial/logfile" 2>/dev/null | cat - "$said" |
    grep -E ' (ERROR|FATAL|WARNING unknown) ' | head -n 1 | sed "s,$trial/ini,{_INI},g") || true
  as_postgres rm -rf "$trial"; rm -f "$said"
  if [ "${{code:-0}}" != 124 ] || [ -n "$why" ]; then
    echo "PgBouncer refuses {_INI}: ${{why:-it does not start}}" >&2; exit 1
  fi
}}
"""


def trial(ini: str, userlist: str) -> Trial:
    """Starts a second PgBouncer with the configuration, which listens nowhere."""
    script = f"""{_TRY}
new=$(mktemp -d); trap 'rm -rf "$new"' EXIT
printf %s "$TRIAL_INI" >"$new/ini"; printf %s "$TRIAL_USERS" >"$new/users"
try "$new/ini" "$new/users"
"""
    return Trial(script, {"TRIAL_INI": ini, "TRIAL_USERS": userlist})


def service_of(node: Node) -> Service:
    """PgBouncer as a service of a host or in a container."""
    chosen = node.the(PgbouncerSettings)
    return Service(
        name="pgbouncer",
        description="connection pooler for PostgreSQL",
        command=f"/usr/sbin/pgbouncer {_INI}",
        user="postgres",
        group="postgres",
        unit="pgbouncer.service",
        runtime_directory="/var/run/postgresql",
        # TERM waits for all clients since 1.23; this one for their transactions.
        stop_signal="INT",
        # Clients, server connections, and room for logs and sockets.
        open_files=max(65536, 2 * chosen.max_client_conn),
        configuration=(_INI, _USERLIST),
        check=f"{_TRY}\ntry {_INI} {_USERLIST}",
        ready=f"pg_isready -q -h 127.0.0.1 -p {chosen.listen_port}",
        # Whoever writes that file says whom the signal goes to.
        reload=f"runuser -u postgres -- sh -c 'kill -HUP $(cat {PID_FILE})'; sleep 0.2",
        listens=_outside(node),
    )


def _outside(node: Node) -> tuple[str, int] | None:
    """Where other hosts reach it, if that has to be an address of its host."""
    chosen = node.the(PgbouncerSettings)
    named = chosen.listen_addr is None or node.address in chosen.listen_addr.split(",")
    is_own = named and not node.is_loopback and not node.estate.subnet
    return (node.address, chosen.listen_port) if is_own else None


# --- Clients wait --------------------------------------------------------------------------------

# What backup/swap.py allows running transactions as well. Clients that wait are cut off after
# `query_wait_timeout`: half of it is for the restart itself.
_PAUSE_SECONDS = 30


def holds(server: Node, pooler: Node) -> bool:
    """Whether clients of a pooler can wait for the server.

    Those of a session pool keep their connection; those of a pooler whose console the server's
    host does not reach cannot be told.
    """
    chosen = pooler.the(PgbouncerSettings)
    is_near = pooler is server or server.estate.subnet != ""
    is_reached = is_near or hears(chosen.listen_addr, pooler.address)
    return chosen.pool_mode != "session" and is_reached


def _patience(chosen: PgbouncerSettings) -> int:
    limit = int(chosen.query_wait_timeout) // 2
    return max(1, min(_PAUSE_SECONDS, limit)) if limit else _PAUSE_SECONDS


def hold(server: Node, console: Callable[[Node], str]) -> tuple[str, str]:
    """Shell that makes the clients of all poolers wait, or exits, and shell that ends that.

    The second one also ends a wait that was left by a script and a guard which were cut off.

    Args:
        server: whose clients they are.
        console: the command that gives a pooler's console "$3".
    """
    poolers = _held(server)
    if not poolers:
        return ":", ":"
    seconds = min(_patience(node.the(PgbouncerSettings)) for node in poolers.values())
    consoles = _consoles(server, console)
    return consoles + _HOLD.format(names=quoted(*poolers), seconds=seconds), consoles + _RELEASE


def held_probe() -> Probe[list[str]]:
    """Reads which poolers a run has left with their clients waiting."""
    script = f"ls {STATE_DIRECTORY}/pgbouncer-*.held 2>/dev/null || :"
    return Probe(script, lambda lines: [line.partition("pgbouncer-")[2][:-5] for line in lines])


def resume(server: Node, left: Sequence[str]) -> Change | None:
    """Lets clients go on that wait for a run which was cut off, where this one gets."""
    active = [name for name, pooler in _held(server).items() if pooler in server.estate.active]
    lines = [f"PgBouncer ({name}): RESUME" for name in active if name in left]
    script = f"{_consoles(server, partial(console, server))}{_RELEASE}"
    return Change(lines, script) if lines else None


def _held(server: Node) -> dict[str, Node]:
    """The poolers whose clients wait for the server, by the names of their files."""
    poolers = [node for node in server.estate.having(PgbouncerSettings) if holds(server, node)]
    return {(node.service or node.name).replace("/", "-"): node for node in poolers}


def _consoles(server: Node, console: Callable[[Node], str]) -> str:
    poolers = _held(server).items()
    cases = "\n".join(f"    {quoted(name)}) {console(node)} ;;" for name, node in poolers)
    absent = quoted(*(name for name, node in poolers if node not in server.estate.active))
    return _CONSOLES.format(cases=cases, absent=absent)


# A file for each pooler that holds its clients for us: nobody else's PAUSE is ended.
_HELD = f"{STATE_DIRECTORY}/pgbouncer-$pooler.held"
_CONSOLES = f"""
console() {{{{ # POOLER SECONDS COMMAND
  case $1 in
{{cases}}
  esac
}}}}
# This run has no connection to it either, which is said elsewhere.
is_absent() {{{{ # POOLER WHY
  for each in {{absent}}; do
    [ "$each" != "$1" ] || case $2 in ''|*'timeout expired'*|*'No route'*) return 0 ;; esac
  done
  return 1
}}}}
go_on() {{{{
  stuck=
  for held in {STATE_DIRECTORY}/pgbouncer-*.held; do
    [ -e "$held" ] || continue
    pooler=${{{{held##*/pgbouncer-}}}}; pooler=${{{{pooler%.held}}}}
    why=$(console "$pooler" 10 RESUME 2>&1) || case $why in
      *'not paused'*|*refused*|*'No such'*|*'not running'*) ;;
      *)
        if is_absent "$pooler" "$why"; then continue; fi
        echo "PgBouncer ($pooler) does not take RESUME, give it by hand or run again: $why" >&2
        stuck=1
        continue ;;
    esac
    rm -f "$held"
  done
  [ -z "$stuck" ]
}}}}
"""

# However this script ends, its end of the pipe closes, and so do those of the commands that are
# to hold the clients; then the guard lets them go on.
_HOLD = f"""
pause() {{{{
  pooler=$1
  why=$(console "$pooler" 10 'SHOW VERSION' 2>&1) || case $why in
    *refused*|*'No such'*|*'not running'*) return 0 ;;
    *'authentication failed'*)
      why='does not take the password of postgres: run tasks.pgbouncer.configure first'
      held_up "$pooler" "$why" ;;
    *)
      if is_absent "$pooler" "$why"; then return 0; fi
      held_up "$pooler" "its console does not answer: ${{{{why:-silence}}}}" ;;
  esac
  touch {_HELD}
  why=$(console "$pooler" {{seconds}} PAUSE 2>&1) && return 0
  case $why in
    *already*) rm {_HELD}; why='is already paused; whoever paused it must RESUME it' ;;
    '') why='transactions have been running for {{seconds}} s: see SHOW CLIENTS, and run again' ;;
  esac
  held_up "$pooler" "$why"
}}}}
held_up() {{{{ # POOLER WHY
  echo "PostgreSQL was not restarted, because PgBouncer ($1) cannot hold its clients: $2" >&2
  exit 1
}}}}
install -d -m 700 {STATE_DIRECTORY}
go_on || exit 1
pipe=$(mktemp -u -p /run); mkfifo -m 600 "$pipe"
exec 9<>"$pipe" 8<"$pipe"; rm "$pipe"
(exec 9>&-; trap '' HUP INT TERM; cat <&8; go_on) >/dev/null 2>&1 &
guard=$! waiting=
exec 8<&-
for pooler in {{names}}; do pause "$pooler" & waiting="$waiting $!"; done
all=1
for each in $waiting; do wait "$each" || all=; done
[ -n "$all" ] || {{{{ exec 9>&-; wait "$guard" || :; exit 1; }}}}
"""

_RELEASE = """
if [ -n "${guard:-}" ]; then exec 9>&-; wait "$guard" || :; guard=; fi
go_on || exit 1
"""


def console(server: Node, pooler: Node) -> str:
    """The command by which a server's host reaches the console of a pooler."""
    port = pooler.the(PgbouncerSettings).listen_port
    psql = 'LC_ALL=C runuser -u postgres -- timeout "$2" psql -XAtqw -d pgbouncer -c "$3"'
    if pooler is server:
        return f"{psql} -U pgbouncer -h {SOCKETS} -p {port}"
    # Less than the shortest time that a command has.
    secret = "PGCONNECT_TIMEOUT=3 PGREQUIREAUTH=scram-sha-256 PGPASSWORD=$CONSOLE_PASSWORD"
    return f"{secret} {psql} -U postgres -h {pooler.address} -p {port}"


def deploy() -> None:
    """PgBouncer as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    "pgbouncer",
    PgbouncerSettings,
    no_defaults,
    no_secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    adopts=("/etc/pgbouncer/",),
    in_use=_in_use,
)
