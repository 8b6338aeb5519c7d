"""Sentinel: watches the Redis master; its file is its own, its settings are set at run time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_address
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tasks.core import files, packages, services
from tasks.core.change import Change, converge
from tasks.core.estate import Component, Estate, Node, no_defaults, no_secrets, on
from tasks.core.files import Directory, Entry, File, render
from tasks.core.preflight import Listener
from tasks.core.remote import Probe, quoted
from tasks.core.services import Service
from tasks.core.settings import Ports, Problem, Settings, matching
from tasks.core.topology import Address, User, guarded, strangers
from tasks.redis import (
    DIRECTORY,
    KEEP_PASSWORD,
    KEPT_PASSWORD,
    MASK,
    PASSWORD,
    SHELL,
    RedisSettings,
    addresses,
    client,
    current_master,
    foreign,
    foreign_probe,
    kept,
    not_ipv4,
    password,
    quote,
    remove_user,
    required,
)

Milliseconds = Annotated[int, Field(ge=100, le=3_600_000)]


class SentinelSettings(Settings):
    """The `sentinel_*` keys; times are in milliseconds, as Sentinel's own."""

    prefix: ClassVar[str] = "sentinel_"

    ports: Ports = (26379,)
    """One Sentinel per port on this host; the embedded `inventory.py` has 26379, 26380, 26381.
    Change: a new port starts one; a port taken away keeps running without `sentinel_prune`."""
    master_name: Annotated[
        str, matching(r"[A-Za-z0-9._-]+", "should be letters, digits, '.', '_' and '-'")
    ] = "mymaster"
    """The name that clients ask for. Change: a second name is watched too, the first one stays:
    choose it once."""
    quorum: Annotated[int, Field(ge=1)] = 2
    """Sentinels that must agree that the master is down; a majority of all. Change: live."""
    down_after_milliseconds: Milliseconds = 5000
    """Silence after which an instance counts as down. Change: live."""
    failover_timeout: Milliseconds = 10000
    """Limit of one failover; the next attempt comes after twice that. Change: live."""
    parallel_syncs: Annotated[int, Field(ge=1)] = 1
    """Replicas that follow the new master at the same time. Change: live."""
    prune: bool = False
    """Sentinels that left the settings go; the others forget who left, masters beside ours and ACL
    users. Change: they stop; live."""


# --- What the estate knows of Sentinel -----------------------------------------------------------


def endpoints(everything: Estate) -> list[Address]:
    """Every Sentinel, in the inventory's order."""
    return [
        Address(node.address, port)
        for node in everything.having(SentinelSettings)
        for port in node.the(SentinelSettings).ports
    ]


def master_name(everything: Estate) -> str:
    """The name that the Sentinels know the master by."""
    nodes = everything.having(SentinelSettings)
    return nodes[0].the(SentinelSettings).master_name if nodes else "mymaster"


def _rules(everything: Estate) -> list[Problem]:
    nodes = everything.having(SentinelSettings)
    count = len(endpoints(everything))
    problems = []
    for node in nodes:
        if not everything.having(RedisSettings):
            message = "needs a host in group 'redis'"
            problems.append(Problem(node.name, "group sentinel", message))
        quorum = node.the(SentinelSettings).quorum
        if quorum > count:
            message = f"{quorum} is more than the number of Sentinels ({count})"
            problems.append(Problem(node.name, "sentinel_quorum", message))
        elif quorum * 2 <= count:
            message = f"{quorum} is not a majority of {count} Sentinels: should be {count // 2 + 1}"
            problems.append(Problem(node.name, "sentinel_quorum", message))
        if len(nodes) > 1 and node.is_loopback:
            message = "should not be a loopback address: the other Sentinels cannot reach it"
            problems.append(Problem(node.name, "address", message))
        problems += not_ipv4(node)
    for key in ("master_name", "quorum"):
        values = sorted({str(getattr(node.the(SentinelSettings), key)) for node in nodes})
        if len(values) > 1:
            message = f"should be the same on all hosts, not {' and '.join(values)}"
            problems.append(Problem(nodes[0].name, f"sentinel_{key}", message))
    return problems


def _listens(node: Node) -> list[Listener]:
    return [
        Listener(port, "sentinel_ports", f"redis-sentinel-{port}", f"redis-sentinel-{port}.service")
        for port in node.the(SentinelSettings).ports
    ]


def _checks(node: Node) -> list[Problem]:
    return [*foreign(node, _listens(node), "sentinel")]


# The live configuration, as `key=value` words; the password is only compared, never printed.
_MONITORS = """
command -v redis-cli >/dev/null || exit 0
for port in {ports}; do
  file=/var/lib/redis/sentinel-$port/sentinel.conf
  [ -e "$file" ] || {{ echo "$port none"; continue; }}
  accepted "$port" || {{ echo "$port down"; continue; }}
  state=$(redis-cli -p "$port" SENTINEL MASTER {name} | paste -d = - - | paste -s -d ' ')
  case $state in name=*) ;; *) echo "$port none"; continue ;; esac
  line=$(peek "$file" sed -n 's/^sentinel auth-pass {name} //p' "$file")
  case $line in "$REDIS_PASSWORD"|"$QUOTED_PASSWORD") known=1 ;; *) known=0 ;; esac
  own=$(redis-cli -p "$port" SENTINEL CONFIG GET '*' | paste -d = - -)
  case "$own
" in *"sentinel-pass=$REDIS_PASSWORD
"*) peers=1 ;; *) peers=0 ;; esac
  own=$(echo "$own" | grep -v '^sentinel-pass=' | sed 's/^/own./' | paste -s -d ' ')
  renamed=$(peek "$file" grep '^sentinel rename-command {name} ' "$file" |
    awk '{{ print "renamed." $4 "=1" }}' | paste -s -d ' ')
  user=$(peek "$file" grep -c '^sentinel auth-user {name} ' "$file") || :
  echo "$port up auth=$known peers=$peers user=$user $own $renamed $state"
done
"""


def _probes(node: Node) -> dict[str, Probe[Any]]:
    return {
        "packages": packages.probe(required(node)),
        "files": files.probe(_files(node)),
        "services": services.probe(_services(node), node.manager),
        "foreign": foreign_probe(),
        "monitors": monitors_probe(node),
        "views": views_probe(node),
    }


def monitors_probe(node: Node) -> Probe[dict[int, dict[str, str] | None]]:
    """Reads what each Sentinel watches, and with which settings."""
    chosen = node.the(SentinelSettings)
    ports = " ".join(map(str, chosen.ports))
    script = SHELL + _MONITORS.format(ports=ports, name=chosen.master_name)
    return Probe(script, _parse_monitors, tuple(_secrets(node).items()))


def _parse_monitors(lines: list[str]) -> dict[int, dict[str, str] | None]:
    """The live settings by port; None for a Sentinel that does not answer, {} without a master."""
    monitors: dict[int, dict[str, str] | None] = {}
    for line in lines:
        port, kind, *words = line.split(" ")
        pairs = dict(word.split("=", 1) for word in words if "=" in word)
        monitors[int(port)] = None if kind == "down" else pairs
    return monitors


def _password(node: Node) -> str:
    return password(node.estate.having(RedisSettings)[0])


def _secrets(node: Node) -> dict[str, str]:
    secret = _password(node)
    return {"REDIS_PASSWORD": secret, "QUOTED_PASSWORD": quote(secret)}


# --- Install -------------------------------------------------------------------------------------


@on(SentinelSettings)
def install(node: Node) -> None:
    """Installs the packages; nothing is started."""
    converge(
        "Sentinel: packages",
        lambda: _missing_packages(node),
    )


def _missing_packages(node: Node) -> Change | None:
    return packages.compare(node, required(node), node.read("sentinel")["packages"], MASK)


# --- Configure -----------------------------------------------------------------------------------


@on(SentinelSettings)
def configure(node: Node) -> None:
    """Writes what does not change at run time, starts, and sets the rest at run time."""
    converge(
        "Sentinel: configuration",
        lambda: _configuration(node),
    )
    activate()
    converge("Sentinel: monitoring", lambda: monitoring(node))


def _configuration(node: Node) -> Change | None:
    return kept(files.compare(_files(node), node.read("sentinel")["files"]))


def _files(node: Node) -> list[Entry]:
    entries: list[Entry] = [DIRECTORY, client()]
    for port, service in zip(node.the(SentinelSettings).ports, _services(node), strict=True):
        home = f"/var/lib/redis/sentinel-{port}"
        state = File(f"{home}/sentinel.conf", "", "640", "redis", "redis", seed=True)
        managed = _managed_file(node, port)
        entries += [Directory(home, mode="750", user="redis", group="redis"), managed, state]
        entries += services.files(service, node.manager)
    return entries


def _in_use(node: Node) -> Mapping[str, str]:
    found = node.read("sentinel")["files"]
    ports = node.the(SentinelSettings).ports
    ours = any(found[_managed_file(node, port).path].is_ours for port in ports)
    return {PASSWORD: KEPT_PASSWORD} if ours else {}


def _managed_file(node: Node, port: int) -> File:
    path, content = f"/etc/redis/sentinel-{port}.conf", configuration(node, port)
    return File(path, content, mode="640", group="redis", secret=SECRET_LINES)


SECRET_LINES = r"^(?:requirepass|sentinel sentinel-pass) (.*)$"


def configuration(node: Node, port: int) -> str:
    """What a Sentinel reads at its start and never writes.

    Containers have one address each, and one file together.
    """
    is_container = bool(node.estate.subnet)
    addresses = " ".join(dict.fromkeys(("127.0.0.1", node.address)))
    return render(
        "sentinel/sentinel.conf.j2",
        port=port,
        addresses="* -::*" if is_container else addresses,
        announced=[] if is_container else [node.address],
        password=quote(_password(node)),
    )


def monitoring(node: Node) -> Change | None:
    """What the live Sentinels lack: the master itself, or settings of it."""
    chosen = node.the(SentinelSettings)
    monitors = node.read("sentinel")["monitors"]
    lines: list[str] = []
    commands: dict[str, str] = {}
    for port in chosen.ports:
        live = monitors.get(port, {})
        if live is None:
            continue
        orders = [*_orders(node, port, live), *_guard(node, port)]
        if orders:
            commands[f"ORDERS_{port}"] = "\n".join(command for _, command in orders)
            name = _name(node, port)
            lines += [f"{name}: {line}" for line, _ in orders]
    if not lines:
        return None
    script = "\n".join(f'order {name.rpartition("_")[2]} "${name}"' for name in commands)
    return Change(lines, f"{SHELL}{_ORDER}{script}", {**_secrets(node), **commands})


_ORDER = """
order() {
  accepted "$1" || { echo "redis-sentinel-$1 does not answer" >&2; exit 1; }
  bad=$(printf '%s\\n' "$2" | redis-cli -p "$1" 2>&1 |
    grep -vxE '|OK|[0-9]+|AUTH failed.*' | head -n 1) || true
  if [ -n "$bad" ]; then echo "redis-sentinel-$1: $bad" >&2; exit 1; fi
}
"""


def _orders(node: Node, port: int, live: Mapping[str, str]) -> list[tuple[str, str]]:
    """Sentences and the Sentinel commands that they announce."""
    chosen = node.the(SentinelSettings)
    name = chosen.master_name
    orders = []
    if not live:
        leader = current_master(node.estate)
        command = f"SENTINEL MONITOR {name} {leader.ip} {leader.port} {chosen.quorum}"
        orders.append((f"monitor {name} at {leader}, quorum {chosen.quorum}", command))
    wanted = {
        "quorum": chosen.quorum,
        "down-after-milliseconds": chosen.down_after_milliseconds,
        "failover-timeout": chosen.failover_timeout,
        "parallel-syncs": chosen.parallel_syncs,
    }
    for key, value in wanted.items():
        if live.get(key) != str(value) and not (key == "quorum" and not live):
            orders.append((f"{key} {value}", f"SENTINEL SET {name} {key} {value}"))
    if live.get("auth") != "1":
        secret = quote(_password(node))
        orders.append(("password of the master", f"SENTINEL SET {name} auth-pass {secret}"))
    return [*orders, *_own(node, port, live)]


def _gets_password(node: Node, port: int, live: Mapping[str, str]) -> bool:
    """Whether a start in this run gives it the password that the other Sentinels have."""
    if node.estate.subnet:
        return live.get("auth") != "1"
    found = node.read("sentinel")["files"][f"/etc/redis/sentinel-{port}.conf"]
    return bool(found.content != configuration(node, port).encode())


def _own(node: Node, port: int, live: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What hands can change of a Sentinel, and no key of ours says."""
    name = node.the(SentinelSettings).master_name
    wanted = {"resolve-hostnames": "no", "announce-hostnames": "no", "sentinel-user": ""}
    wanted["loglevel"] = "notice"
    if not node.estate.subnet:
        wanted["announce-ip"] = node.address
    for key, value in wanted.items():
        if live.get(f"own.{key}", value) != value:
            yield f"{key} {value or '(none)'}", f"SENTINEL CONFIG SET {key} {quote(value)}"
    if live.get("peers", "1") != "1" and not _gets_password(node, port, live):
        secret = quote(_password(node))
        line = "password of the other Sentinels"
        yield line, f"SENTINEL CONFIG SET sentinel-pass {secret}"
    if live.get("user", "0") != "0":
        yield "user of the master (none)", f'SENTINEL SET {name} auth-user ""'
    for command in sorted(key.partition(".")[2] for key in live if key.startswith("renamed.")):
        line = f"the master's command {command} has its own name"
        yield line, f"SENTINEL SET {name} rename-command {command} {command}"


def _guard(node: Node, port: int) -> Iterator[tuple[str, str]]:
    view = node.read("sentinel")["views"].get(port, View())
    if not guarded(view.users):
        only = quote(f">{_password(node)}")
        line = "only the password of the settings lets in"
        yield line, f"ACL SETUSER default reset on ~* &* +@all {only}"


# --- Forget --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What a Sentinel knows: the flags of replicas and of other Sentinels by their address.

    Attributes:
        users: its ACL users.
        masters: what else it watches; the names are quoted.
    """

    replicas: Mapping[Address, str] = field(default_factory=dict)
    sentinels: Mapping[Address, str] = field(default_factory=dict)
    users: tuple[User, ...] = ()
    masters: tuple[str, ...] = ()


# `master`, `replica` or `sentinel`, its address and its flags. What is empty has an empty line.
_KNOWN = """
known() {{ # PORT
  printf 'SENTINEL %s {name}\\n' MASTER REPLICAS SENTINELS | redis-cli -p "$1" | awk '
    key == "" {{ key = $0; next }}
    key == "ip" {{ ip = $0 }}
    key == "port" {{ port = $0 }}
    key == "flags" {{
      kind = /sentinel/ ? "sentinel" : /slave/ ? "replica" : "master"
      print kind, ip ":" port, $0 }}
    {{ key = "" }}'
}}
"""

_VIEWS = """
command -v redis-cli >/dev/null || exit 0
for port in {ports}; do
  [ -e /var/lib/redis/sentinel-$port/sentinel.conf ] || continue
  accepted "$port" || continue
  {{ known "$port"
     redis-cli --no-raw -p "$port" SENTINEL MASTERS | sed -n 's/^ *2) "/watches "/p'
     users "$port"; }} | sed "s/^/$port /"
done
"""


def views_probe(node: Node) -> Probe[dict[int, View]]:
    """Reads whom each Sentinel knows."""
    chosen = node.the(SentinelSettings)
    ports = " ".join(map(str, chosen.ports))
    script = SHELL + _KNOWN.format(name=chosen.master_name) + _VIEWS.format(ports=ports)
    return Probe(
        script, lambda lines: _parse_views(lines, chosen.master_name), tuple(_secrets(node).items())
    )


def _parse_views(lines: list[str], master: str) -> dict[int, View]:
    views = defaultdict[int, View](View)
    for line in lines:
        number, kind, rest = line.split(" ", 2)
        port = int(number)
        view = views[port]
        if kind == "watches":
            others = () if rest == f'"{master}"' else (rest,)
            views[port] = replace(view, masters=(*view.masters, *others))
        elif kind == '"user':
            views[port] = replace(view, users=(*view.users, User.of(f"{kind} {rest}")))
        else:
            place, flags = rest.split(" ")
            ip, _, at = place.rpartition(":")
            known = {Address(ip, int(at)): flags}
            if kind == "replica":
                views[port] = replace(view, replicas={**view.replicas, **known})
            elif kind == "sentinel":
                views[port] = replace(view, sentinels={**view.sentinels, **known})
    return dict(views)


@dataclass(frozen=True)
class _Stranger:
    """Somebody whom a Sentinel knows and the inventory does not."""

    port: int
    kind: str
    address: Address
    is_down: bool


def _strangers(node: Node) -> Iterator[_Stranger]:
    nodes, sentinels = addresses(node.estate), endpoints(node.estate)
    for port, view in node.read("sentinel")["views"].items():
        for kind, known, members in (
            ("replica", view.replicas, nodes),
            ("Sentinel", view.sentinels, sentinels),
        ):
            for address in sorted({*known} - {*members}):
                stranger = _Stranger(port, kind, address, _is_down(known[address]))
                if stranger.is_down or not _is_scaled(node.estate, address):
                    yield stranger


def _is_scaled(everything: Estate, address: Address) -> bool:
    """Whether it is a replica that Compose was told to have more of: Docker gave it its address."""
    if not everything.subnet:
        return False
    given = list(IPv4Network(everything.subnet).subnets())[1]
    return ip_address(address.ip) in given


def _is_down(flags: str) -> bool:
    return "s_down" in flags or "disconnected" in flags


def _forgotten(node: Node, leaving: Set[Address]) -> list[_Stranger]:
    """Whom the Sentinels here are made to forget; who runs would be found again."""
    if not node.the(SentinelSettings).prune:
        return []
    return [each for each in _strangers(node) if each.is_down or each.address in leaving]


def unforgettable(node: Node, leaving: Set[Address]) -> list[Problem]:
    """Members that are down while somebody is to be forgotten: they would be forgotten too.

    Args:
        leaving: where Redis and Sentinels are that this run removes.
    """
    if not _forgotten(node, leaving):
        return []
    members = {*addresses(node.estate), *endpoints(node.estate)}
    views = node.read("sentinel")["views"].values()
    known = [item for view in views for item in (*view.replicas.items(), *view.sentinels.items())]
    down = sorted(
        {str(address) for address, flags in known if _is_down(flags)} & {*map(str, members)}
    )
    if not down:
        return []
    message = f"{', '.join(down)} is down, and a reset would drop it as well: start it first"
    return [Problem(node.name, "sentinel_prune", message)]


def prune(node: Node, leaving: Set[Address]) -> Change | None:
    """Removes what is not in the settings: masters, users, then whom the Sentinels remember."""
    changes = [each for each in (_expel(node), forget(node, leaving)) if each]
    if not changes:
        return None
    return Change(
        [line for each in changes for line in each.lines],
        "\n".join(each.script for each in changes),
        {name: value for each in changes for name, value in each.variables.items()},
    )


def _expel(node: Node) -> Change | None:
    """The removal of masters and users that are not in the settings."""
    lines, script = list[str](), SHELL + _ORDER
    variables = _secrets(node)
    views: Mapping[int, View] = node.read("sentinel")["views"]
    for port, view in views.items():
        name, users = _name(node, port), strangers(view.users)
        lines += [f"{name}: stop watching the master {each}" for each in view.masters]
        lines += [remove_user(name, each) for each in users]
        orders = [f"SENTINEL REMOVE {each}" for each in view.masters]
        orders += [f"ACL DELUSER {' '.join(users)}"] if users else []
        if orders:
            variables[f"EXPEL_{port}"] = "\n".join(orders)
            script += f'order {port} "$EXPEL_{port}"\n'
    prunes = node.the(SentinelSettings).prune
    return Change(lines, script, variables) if lines and prunes else None


def forget(node: Node, leaving: Set[Address]) -> Change | None:
    """Makes the Sentinels of a node forget who is not in the inventory, one after the other."""
    going = _forgotten(node, leaving)
    if not going:
        return None
    name = node.the(SentinelSettings).master_name
    script = SHELL + _KNOWN.format(name=name) + _FORGET.format(name=name)
    for port in dict.fromkeys(each.port for each in going):
        me = Address(node.address, port)
        others = [str(each) for each in endpoints(node.estate) if each != me]
        gone = [str(each.address) for each in going if each.port == port]
        script += f"forget {port} {_name(node, port)} {quoted(' '.join(others), ' '.join(gone))}\n"
    nodes = " ".join(map(str, addresses(node.estate)))
    lines = [f"{_name(node, each.port)}: forget the {each.kind} {each.address}" for each in going]
    return Change(lines, script, {**_secrets(node), "NODES": nodes})


def _name(node: Node, port: int) -> str:
    return node.service or f"redis-sentinel-{port}"


def remembered(node: Node, leaving: Set[Address]) -> Iterator[str]:
    """What is said of what the Sentinels know and the settings do not, as long as it stays."""
    prune, going = node.the(SentinelSettings).prune, _forgotten(node, leaving)
    for each in _strangers(node):
        if each not in going:
            then = "it runs: stop it first" if prune else "sentinel_prune would make it forget"
            known = f"knows the {each.kind} {each.address}, which is not in the inventory"
            yield f"{_name(node, each.port)}: {known}; {then}"
    views: Mapping[int, View] = {} if prune else node.read("sentinel")["views"]
    for port, view in views.items():
        found = [f"watches the master {each}, which" for each in view.masters]
        found += [f"the ACL user {each}" for each in strangers(view.users)]
        for what in found:
            stays = f"{what} is not in the settings; sentinel_prune would remove it"
            yield f"{_name(node, port)}: {stays}"


# Before it forgets, everybody who is to be found again has to be there to be found. A replica is
# found by the next INFO of the master, which Sentinel sends every 10 s; a Sentinel within 2 s.
_FORGET = """
obstacle() {{ # PORT OTHERS GONE FLAGS
  known "$1" >"$seen"
  leader=$(awk '$1 == "master" && $3 == "master" {{ print $2 }}' "$seen")
  [ -n "$leader" ] || {{ echo 'the master is not up'; return; }}
  for each in $NODES; do
    [ "$each" = "$leader" ] || grep -qx "replica $each slave" "$seen" ||
      {{ echo "the replica $each is not up"; return; }}
  done
  for each in $2; do
    grep -qx "sentinel $each sentinel" "$seen" || {{ echo "the Sentinel $each is not up"; return; }}
    said=$(timeout 2 redis-cli -h "${{each%:*}}" -p "${{each##*:}}" \
      SENTINEL GET-MASTER-ADDR-BY-NAME {name} 2>/dev/null | paste -s -d :)
    [ "$said" = "$leader" ] || {{ echo "the Sentinel $each names ${{said:-nobody}}"; return; }}
  done
  for each in $3; do
    ! grep " $each " "$seen" | grep -qvE "$4" || {{ echo "$each runs"; return; }}
  done
}}
until_none() {{ # SERVICE WHAT ARGUMENTS
  service=$1 what=$2; shift 2
  for _ in $(seq 60); do
    why=$(obstacle "$@"); [ -n "$why" ] || return 0; sleep 1
  done
  echo "$service $what: $why" >&2; exit 1
}}
forget() {{ # PORT SERVICE OTHERS GONE
  accepted "$1" || {{ echo "$2 does not answer" >&2; exit 1; }}
  until_none "$2" 'is not reset' "$1" "$3" "$4" 's_down|disconnected'
  redis-cli -p "$1" SENTINEL RESET {name} >/dev/null
  until_none "$2" 'has not rediscovered all members' "$1" "$3" "$4" '^$'
}}
seen=$(mktemp); trap 'rm -f "$seen"' EXIT
"""


# --- Activate ------------------------------------------------------------------------------------


@on(SentinelSettings)
def activate(node: Node) -> None:
    """Starts the Sentinels, or restarts them for what they only read at their start."""
    converge("Sentinel: service", lambda: _activation(node), one_by_one=True)


def _activation(node: Node) -> Change | None:
    wanted = [
        services.activation(
            service,
            node.manager,
            restart=configuration(node, port),
            reload_means="restart",
        )
        for port, service in zip(node.the(SentinelSettings).ports, _services(node), strict=True)
    ]
    change = services.compare(wanted, node.read("sentinel")["services"], node.manager)
    if change is None:
        return None
    return Change(change.lines, f"{SHELL}\n{change.script}\n{KEEP_PASSWORD}", _secrets(node))


# The file keeps what Sentinel learned; how it is reached and its password are the settings'.
KEEP_LEARNED = "-n -e /^sentinel.sentinel-pass/d -e /^sentinel.announce/d -e /^sentinel/p"


def _services(node: Node) -> list[Service]:
    return [_service(port) for port in node.the(SentinelSettings).ports]


def _service(port: int) -> Service:
    state = f"/var/lib/redis/sentinel-{port}/sentinel.conf"
    command = f"/usr/bin/redis-server {state} --sentinel --include /etc/redis/sentinel-{port}.conf"
    keep_learned = f"/bin/sed -i {KEEP_LEARNED} {state}"
    return Service(
        name=f"redis-sentinel-{port}",
        description=f"Redis Sentinel on port {port}",
        command=f"{command} --supervised systemd",
        foreground=command,
        user="redis",
        group="redis",
        before_start=(keep_learned,),
        configuration=(f"/etc/redis/sentinel-{port}.conf",),
        ready=f"accepted {port}",
        reload=f"restart_service redis-sentinel-{port} redis-sentinel-{port}.service",
    )


def deploy() -> None:
    """Sentinel as the settings say: install, configure, activate."""
    install()
    configure()


COMPONENT = Component(
    "sentinel",
    SentinelSettings,
    no_defaults,
    no_secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    in_use=_in_use,
)
