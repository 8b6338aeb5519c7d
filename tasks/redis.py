"""Redis: one instance per port, replicas of whichever instance Sentinel says is the master."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr
from pyinfra import logger

from tasks.core import files, live, packages, preflight, services
from tasks.core.change import Change, Line, Trial, converge, refusing
from tasks.core.estate import Component, Estate, Node, no_secrets, on
from tasks.core.files import Directory, Entry, File, render
from tasks.core.preflight import Listener
from tasks.core.remote import Probe, quoted
from tasks.core.secrets import Secrets
from tasks.core.services import Activation, Service, Status
from tasks.core.settings import (
    Extra,
    Ports,
    Problem,
    Secret,
    Settings,
    StackSettings,
    matching,
    wrong,
)
from tasks.core.topology import (
    Address,
    Instance,
    User,
    Watcher,
    guarded,
    master,
    strangers,
)

Policy = Literal[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]

_UNITS = {"": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


def _memory(value: str) -> str:
    match = re.fullmatch(r"(\d+)([a-z]*)", value.lower(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise wrong("should be a size such as '512mb' or '1gb', or '0' for no limit")
    if 0 < int(match[1]) * _UNITS[match[2]] < 1024**2:
        raise wrong("should be at least 1mb, or '0' for no limit")
    return value.lower()


def _plain(value: SecretStr) -> SecretStr:
    if re.search(r"[\s'\"\\]", value.get_secret_value()):
        # Sentinel saves `auth-pass` without quotes and cannot read it at its next start.
        raise wrong("should not contain blanks, quotes or backslashes: Sentinel cannot save them")
    return value


class RedisSettings(Settings):
    """The `redis_*` keys."""

    prefix: ClassVar[str] = "redis_"

    ports: Ports = (6379,)
    """One instance per port on this host; the embedded `inventory.py` has 6379, 6380, 6381. Change:
    a new port starts a replica; a port taken away keeps running without `redis_prune`."""
    password: Annotated[Secret, AfterValidator(_plain)]
    """Password of every instance and every Sentinel; no blanks, quotes or backslashes. Default:
    `REDIS_PASSWORD`. Change: live; Sentinels restart."""
    maxmemory: Annotated[str, AfterValidator(_memory)] = "512mb"
    """Memory of each instance; `0` for no limit. Change: live."""
    maxmemory_policy: Policy = "noeviction"
    """What happens when it is full. Change: live."""
    appendonly: bool = True
    """Append-only file. Change: live."""
    appendfsync: Literal["always", "everysec", "no"] = "everysec"
    """`always`, `everysec` or `no`. Change: live."""
    save: Annotated[
        str,
        matching(
            r"(\d+ \d+( \d+ \d+)*)?",
            "should be pairs of seconds and changes such as '900 1 300 10', or '' for none",
        ),
    ] = "900 1 300 10 60 10000"
    """Snapshots: seconds and changes; empty for none. Change: live."""
    min_replicas_to_write: Annotated[int, Field(ge=0)] = 0
    """A master with fewer connected replicas refuses writes. Change: live."""
    min_replicas_max_lag: Annotated[int, Field(ge=0)] = 10
    """Seconds after which a silent replica no longer counts. Change: live."""
    prune: bool = False
    """Instances that left the settings go, and ACL users that are not in them. Change: they stop.
    """
    extra: Extra = {}
    """Any other key: `{"timeout": 300}`. Change: live, or a rolling restart where Redis does not
    take it; a key that is taken away is set back live."""


# --- What the estate knows of Redis --------------------------------------------------------------


PASSWORD = "REDIS_PASSWORD"
# Where root's redis-cli finds it.
KEPT_PASSWORD = "/etc/redis/redis-cli.auth"


def _defaults(_stack: StackSettings, store: Secrets, given: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "password" in given else {"password": store.get(PASSWORD)}


def _rules(everything: Estate) -> list[Problem]:
    nodes = everything.having(RedisSettings)
    problems = []
    passwords = {password(node) for node in nodes}
    if len(passwords) > 1:
        message = "should be the same on all hosts of the group: any of them may become master"
        problems.append(Problem(nodes[0].name, "redis_password", message))
    instances = addresses(everything)
    for node in nodes:
        chosen = node.the(RedisSettings)
        if chosen.min_replicas_to_write >= len(instances):
            message = f"should be less than the number of instances ({len(instances)})"
            problems.append(Problem(node.name, "redis_min_replicas_to_write", message))
        if len(nodes) > 1 and node.is_loopback:
            message = "should not be a loopback address: the other Redis hosts cannot reach it"
            problems.append(Problem(node.name, "address", message))
        problems += not_ipv4(node)
        problems += [
            Problem(node.name, f"redis_extra/{key}", message)
            for key in chosen.extra
            if (message := _not_extra(node, key))
        ]
    return problems


def not_ipv4(node: Node) -> list[Problem]:
    """What is wrong with the address of a host that Sentinels know by it."""
    if ":" not in node.address:
        return []
    message = "should be an IPv4 address on a host with Redis or Sentinel"
    return [Problem(node.name, "address", message)]


_OWNED = {"replicaof", "include", "user", "masteruser"}
_REFUSED = {
    "aclfile": "should not be set: redis_password would be void beside it",
    "rename-command": "should not be set: Sentinel cannot promote a replica without these commands",
}


def _not_extra(node: Node, key: str) -> str:
    """Why a key cannot be in `redis_extra`; some have an older name too."""
    name = re.sub("slave(?!of)", "replica", key.replace("_", "-")).replace("slaveof", "replicaof")
    if name in _REFUSED:
        return _REFUSED[name]
    if name not in {*_parameters(node, 0), *_OWNED}:
        return ""
    field = name.replace("-", "_")
    own = field in RedisSettings.model_fields
    return f"has a key of its own: redis_{field}" if own else "is set by Datatier"


def _listens(node: Node) -> list[Listener]:
    return [
        Listener(port, "redis_ports", f"redis-{port}", f"redis-{port}.service")
        for port in node.the(RedisSettings).ports
    ]


def _checks(node: Node) -> list[Problem]:
    """Warns of mixed versions; an upgrade goes through them, replicas first."""
    peers = [n for n in node.estate.having(RedisSettings) if n in node.estate.active]
    if node.system.release != peers[0].system.release:
        logger.warning(
            f"{node.host.print_prefix}Redis of {node.system.release.name} here and of "
            f"{peers[0].system.release.name} on {peers[0].name}: an older one cannot follow a newer"
        )
    return [*foreign(node, _listens(node), "redis"), *_renamed(node)]


# What Redis calls its data, as long as nobody says otherwise.
_NAMES = {
    "dbfilename": "dump.rdb",
    "appendfilename": "appendonly.aof",
    "appenddirname": "appendonlydir",
}


def _renamed(node: Node) -> Iterator[Problem]:
    """Names that Redis would look for at its next start, beside data under the old ones."""
    found = node.read("redis")["files"]
    for port in node.the(RedisSettings).ports:
        content = found[_configuration_path(port)].content.decode(errors="replace")
        before = dict(line.split(" ", 1) for line in content.splitlines() if " " in line)
        for key, default in _NAMES.items():
            old, new = (of.get(key, default) for of in (before, node.the(RedisSettings).extra))
            if content and old != new:
                message = f"should stay {old}: the data of redis-{port} have that name"
                yield Problem(node.name, f"redis_extra/{key}", message)


def _probes(node: Node) -> dict[str, Probe[Any]]:
    return {
        "packages": packages.probe(required(node)),
        "files": files.probe([*_files(node), *_seeds(node, None), *_beginnings(node)]),
        "services": services.probe(_services(node), node.manager),
        "kernel": kernel_probe(),
        "roles": roles_probe(node),
        "foreign": foreign_probe(),
        "sentinels": sentinels_probe(node.estate, password(node)),
    }


# Units of others that start at the next boot, and data that others have left.
_FOREIGN = """
at_boot 'redis|valkey|keydb|redict' 'Written by Datatier'
cd /var/lib/redis 2>/dev/null || exit 0
for ours in [0-9]*/redis.conf; do [ ! -e "$ours" ] || exit 0; done
for file in dump.rdb appendonly.aof appendonlydir/*.aof appendonlydir/*.rdb; do
  file=/var/lib/redis/$file
  peek "$file" test -s "$file" 2>/dev/null || continue
  case $file in *.rdb)
    ! peek "$file" redis-check-rdb "$file" 2>/dev/null | grep -q ' 0 keys read' || continue ;;
  esac
  echo "data $file"
done
"""


def foreign_probe() -> Probe[list[str]]:
    """Reads what there is of a Redis that is not ours."""
    return Probe(preflight.AT_BOOT + _FOREIGN, list)


def foreign(node: Node, listeners: Sequence[Listener], group: str) -> Iterator[Problem]:
    """What would take a port of ours at the next boot, or is the data of somebody else's Redis."""
    key = f"{group}_ports"
    said = node.read(group)["foreign"]
    yield from preflight.at_boot(node, listeners, said)
    for line in said:
        kind, what, *_ = line.split(" ")
        if kind == "data" and group == "redis":
            home = f"/var/lib/redis/{listeners[0].port}"
            then = f"move it to {home} to go on with it, or away"
            yield Problem(node.name, key, f"{what} has the data of another Redis: {then}")


def _in_use(node: Node) -> Mapping[str, str]:
    found = node.read("redis")["files"]
    ours = any(found[_configuration_path(port)].is_ours for port in node.the(RedisSettings).ports)
    return {PASSWORD: KEPT_PASSWORD} if ours else {}


def password(node: Node) -> str:
    """The password of every Redis instance."""
    return node.the(RedisSettings).password.get_secret_value()


def addresses(everything: Estate) -> list[Address]:
    """Every Redis instance, in the inventory's order; the first one starts as master."""
    return [
        Address(node.address, port)
        for node in everything.having(RedisSettings)
        for port in node.the(RedisSettings).ports
    ]


# --- Who is master -------------------------------------------------------------------------------

# What each instance follows: its own word where it answers, else what it will do when started.
_ROLES = """
if ! command -v redis-cli >/dev/null; then
  for port in {ports}; do echo absent; done; exit 0
fi
for port in {ports}; do
  file=/var/lib/redis/$port/redis.conf
  accepted "$port" || true
  role=
  ! is_redis "$port" ||
  role=$(timeout 3 redis-cli -p "$port" INFO replication 2>/dev/null | tr -d '\\r' | awk -F: '
    {{ v[$1] = $2 }}
    /^slave[0-9]*:.*state=online/ {{ online++ }}
    END {{ if (v["role"] == "master") print "master", online + 0
          else if (v["role"]) print "replica", v["master_host"], v["master_port"] }}')
  if [ ! -e "$file" ]; then echo absent
  elif [ -n "$role" ]; then echo "$role"
  else peek "$file" sed -n 's/^replicaof /replica /p' "$file" | grep . || echo master
  fi
  case $pong in *NOAUTH*) echo '=requirepass another' ;; esac
  [ -z "$role" ] || {{ users "$port"; running "$port" {keys} | sed 's/^/=/'; }}
done
"""


def roles_probe(node: Node) -> Probe[list[Instance]]:
    """Reads what each instance follows, how many follow it, who may log in, and its settings."""
    ports = node.the(RedisSettings).ports

    def parse(lines: list[str]) -> list[Instance]:
        found = list[Instance]()
        for line in lines:
            if line.startswith('"'):
                found[-1] = replace(found[-1], users=(*found[-1].users, User.of(line)))
            elif line.startswith("="):
                key, _, value = line[1:].partition(" ")
                found[-1] = replace(found[-1], settings={**found[-1].settings, key: value})
            else:
                found.append(_instance(Address(node.address, ports[len(found)]), line))
        return found

    keys = quoted(*_settings(node, ports[0]))
    script = SHELL + _ROLES.format(ports=" ".join(map(str, ports)), keys=keys)
    return Probe(script, parse, (("REDIS_PASSWORD", password(node)),))


def _instance(address: Address, line: str) -> Instance:
    if line == "absent":
        return Instance(address, "absent")
    role, *words = line.split(" ")
    if role == "replica":
        return Instance(address, "present", Address(words[0], int(words[1])))
    return Instance(address, "present", online=int(words[0]) if words else 0)


_SENTINELS = """
command -v redis-cli >/dev/null || exit 0
export REDISCLI_AUTH="$REDIS_PASSWORD"
for sentinel in {sentinels}; do
  printf 'SENTINEL %s {name}\\n' GET-MASTER-ADDR-BY-NAME CKQUORUM |
    timeout 2 redis-cli -h "${{sentinel%:*}}" -p "${{sentinel#*:}}" 2>/dev/null |
    paste -s -d ' ' | grep '^[0-9]' &
done
wait
"""


def sentinels_probe(everything: Estate, secret: str) -> Probe[list[Watcher]]:
    """Asks every Sentinel of the estate, wherever it runs, who leads and could be replaced."""
    from tasks.sentinel import endpoints, master_name

    script = _SENTINELS.format(
        sentinels=quoted(*map(str, endpoints(everything))), name=master_name(everything)
    )

    def parse(lines: list[str]) -> list[Watcher]:
        rows = [line.split(" ", 2) for line in lines]
        return [Watcher(Address(row[0], int(row[1])), row[2]) for row in rows if len(row) == 3]

    return Probe(script, parse, (("REDIS_PASSWORD", secret),))


def current_master(everything: Estate) -> Address:
    """The master now, from what every reachable host says.

    Raises:
        Unreadable: nobody knows, or they disagree.
    """
    answers: list[Address] = []
    instances: list[Instance] = []
    for node in everything.having(RedisSettings):
        if node in everything.active:
            said = node.read("redis")
            answers += [watcher.master for watcher in said["sentinels"]]
            instances += said["roles"]
        else:
            instances += [
                Instance(Address(node.address, port), "unseen")
                for port in node.the(RedisSettings).ports
            ]
    return master(answers, instances, addresses(everything)[0])


# --- Install -------------------------------------------------------------------------------------


def required(node: Node) -> list[str]:
    """The packages of Redis and of Sentinel, which is the same program."""
    return ["redis-server", "redis-tools", *services.packages(node.manager)]


# The package's own instance would take port 6379 at the next boot.
MASK = """
if [ -d /run/systemd/system ]; then systemctl -q mask redis-server.service 2>/dev/null; fi
"""

_KERNEL = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/net/core/somaxconn": "1024",
    "/sys/kernel/mm/transparent_hugepage/enabled": "madvise",
}

_KERNEL_READ = "".join(
    f"echo '{path}'=$(cat {path} 2>/dev/null):$([ -w {path} ] && echo writable)\n"
    for path in _KERNEL
)

# What systemd sets at every boot.
KERNEL_FILES = (
    File("/etc/sysctl.d/60-datatier-redis.conf", render("redis/sysctl.conf.j2")),
    File("/etc/tmpfiles.d/datatier-redis.conf", render("redis/tmpfiles.conf.j2")),
)


@on(RedisSettings)
def install(node: Node) -> None:
    """Installs the packages and prepares the kernel; nothing is started."""
    converge(
        "Redis: packages",
        lambda: _missing_packages(node),
    )
    converge("Redis: kernel", lambda: _kernel(node))


def _missing_packages(node: Node) -> Change | None:
    return packages.compare(node, required(node), node.read("redis")["packages"], MASK)


def _kernel(node: Node) -> Change | None:
    return kernel(node, node.read("redis")["kernel"])


def kernel_probe() -> Probe[dict[str, str]]:
    """Reads what Redis asks of the kernel."""
    return Probe(_KERNEL_READ, lambda lines: dict(line.split("=", 1) for line in lines))


def kernel(node: Node, found: Mapping[str, str]) -> Change | None:
    """What Redis asks of the kernel, where the host lets us; a container often does not."""
    pending = []
    for path, now in found.items():
        value, _, writable = now.rpartition(":")
        if _satisfied(path, value):
            continue
        if writable:
            pending.append(path)
        else:
            logger.warning(
                f"{node.host.print_prefix}{path} should be {_KERNEL[path]} for Redis, "
                "and this host does not allow it (a container?)"
            )
    if not pending:
        return None
    return Change(
        [f"{path}: {_KERNEL[path]}" for path in pending],
        "\n".join(f"echo {_KERNEL[path]} >{path}" for path in pending),
    )


def _satisfied(path: str, value: str) -> bool:
    if path.endswith("enabled"):
        return not value or "[madvise]" in value or "[never]" in value
    if path.endswith("somaxconn"):
        return not value or int(value) >= int(_KERNEL[path])
    return value == _KERNEL[path]


# --- Configure -----------------------------------------------------------------------------------


@on(RedisSettings)
def configure(node: Node) -> None:
    """Writes the configuration and makes every instance take it."""
    converge("Redis: configuration", lambda: _configuration(node))
    activate()


def _configuration(node: Node) -> Change | None:
    found = node.read("redis")["files"]
    seeds = _seeds(node, None)
    if any(found[entry.path].kind == "absent" for entry in seeds):
        leader = current_master(node.estate)
        seeds = [*_seeds(node, leader), *_due_beginnings(node, leader)]
    change = kept(files.compare([*_files(node), *seeds], found))
    return change and change.after(_trials(node))


def _trials(node: Node) -> Iterator[Trial]:
    """Of running instances whose settings are to change."""
    said = node.read("redis")
    for port in node.the(RedisSettings).ports:
        path, text = _configuration_path(port), configuration(node, port)
        running = said["services"][f"redis-{port}"].running
        if running and said["files"][path].content != text.encode():
            yield trial(text, path)


def _parameters(node: Node, port: int) -> dict[str, str | int]:
    chosen, own = node.the(RedisSettings), dict.fromkeys(("127.0.0.1", node.address))
    # Containers of one role have one file, and one address each.
    in_container = bool(node.estate.subnet)
    announced: dict[str, str | int] = {
        "replica-announce-ip": node.address,
        "replica-announce-port": port,
    }
    return {
        "port": port,
        "bind": "* -::*" if in_container else " ".join(own),
        "protected-mode": "yes",
        "daemonize": "no",
        "tcp-backlog": 511,
        "dir": f"/var/lib/redis/{port}",
        **({} if in_container else announced),
        "requirepass": password(node),
        "masterauth": password(node),
        "maxmemory": chosen.maxmemory,
        "maxmemory-policy": chosen.maxmemory_policy,
        "appendonly": "yes" if chosen.appendonly else "no",
        "appendfsync": chosen.appendfsync,
        "aof-use-rdb-preamble": "yes",
        "save": chosen.save,
        "min-replicas-to-write": chosen.min_replicas_to_write,
        "min-replicas-max-lag": chosen.min_replicas_max_lag,
    }


def _settings(node: Node, port: int) -> dict[str, str]:
    words = {True: "yes", False: "no"}
    extra = {
        key: words[value] if isinstance(value, bool) else str(value)
        for key, value in node.the(RedisSettings).extra.items()
    }
    return {**{key: str(value) for key, value in _parameters(node, port).items()}, **extra}


def _configuration_path(port: int) -> str:
    return f"/etc/redis/redis-{port}.conf"


def configuration(node: Node, port: int) -> str:
    """The settings of an instance, as its configuration file has them."""
    settings = {
        key: quote(value) if key in ("requirepass", "masterauth") or not value else value
        for key, value in _settings(node, port).items()
    }
    return render("redis/redis.conf.j2", settings=settings)


SECRET_LINES = r"^(?:requirepass|masterauth) (.*)$"


def _configuration_file(node: Node, port: int) -> File:
    path, content = _configuration_path(port), configuration(node, port)
    return File(path, content, mode="640", group="redis", secret=SECRET_LINES)


def quote(value: str) -> str:
    """A string for a Redis configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# Debian gives it to redis, who could put links in the way of what root writes and reads there.
DIRECTORY = Directory("/etc/redis", mode="2750", group="redis")
# Links of the time before.
_KEEP_DIRECTORY = f"""{packages.keep_directory(DIRECTORY)}
find {DIRECTORY.path} -maxdepth 1 -type l -user redis -delete
"""


def kept(change: Change | None) -> Change | None:
    """A change of files, after which their directory stays root's."""
    return change and replace(change, script=change.script + _KEEP_DIRECTORY)


def client() -> File:
    """Lets root talk to its local instances as the documentation shows, without a password."""
    return File(
        "/usr/local/bin/redis-cli", render("redis/redis-cli.j2", is_redis=IS_REDIS), mode="755"
    )


def before_start() -> File:
    """What runs before every start of an instance: it never begins empty beside data."""
    text = render("redis/redis-before-start.j2", is_redis=IS_REDIS, keep_role=KEEP_ROLE)
    return File(BEFORE_START, text, mode="755")


BEFORE_START = "/usr/local/bin/redis-before-start"


def _peers(node: Node) -> File:
    """Whom an instance asks that starts without data."""
    from tasks.sentinel import endpoints, master_name

    text = render(
        "redis/redis-estate.conf.j2",
        instances=quoted(" ".join(map(str, addresses(node.estate)))),
        sentinels=quoted(" ".join(map(str, endpoints(node.estate)))),
        master_name=quoted(master_name(node.estate)),
    )
    return File("/etc/redis/redis-estate.conf", text, mode="640", group="redis")


def _files(node: Node) -> list[Entry]:
    ports = node.the(RedisSettings).ports
    return [
        DIRECTORY,
        *(
            Directory(f"/var/lib/redis/{port}", mode="750", user="redis", group="redis")
            for port in ports
        ),
        *(_configuration_file(node, port) for port in ports),
        *(KERNEL_FILES if node.manager == "systemd" else ()),
        client(),
        before_start(),
        _peers(node),
        *(entry for service in _services(node) for entry in services.files(service, node.manager)),
    ]


def _seeds(node: Node, leader: Address | None) -> list[File]:
    """The file that Redis rewrites: it holds the role, which is Sentinel's to change."""
    return [
        _seed(f"/var/lib/redis/{port}/redis.conf", _role(leader, Address(node.address, port)))
        for port in node.the(RedisSettings).ports
    ]


def _seed(path: str, content: str) -> File:
    return File(path, content, mode="640", user="redis", group="redis", seed=True)


def _beginnings(node: Node) -> list[File]:
    """Tell masters that never ran from those whose data were lost: see redis-before-start."""
    ports = node.the(RedisSettings).ports
    return [_seed(f"/var/lib/redis/{port}/begins", "1\n") for port in ports]


def _due_beginnings(node: Node, leader: Address) -> Iterator[File]:
    said = node.read("redis")
    for port, state, beginning in zip(
        node.the(RedisSettings).ports, _seeds(node, None), _beginnings(node), strict=True
    ):
        is_new = said["files"][state.path].kind == "absent"
        never_ran = said["services"][f"redis-{port}"].restart == "none"
        if is_new and never_ran and leader == Address(node.address, port):
            yield beginning


def _role(leader: Address | None, me: Address) -> str:
    return f"replicaof {leader.ip} {leader.port}\n" if leader and leader != me else ""


# --- Activate ------------------------------------------------------------------------------------

# CONFIG SET refuses these: "can't set immutable config" or "protected config" in Redis 7.0 and 8.0,
# or no configuration that it knows. tests/e2e/test_redis_rolling.py asks both.
# fmt: off
IMMUTABLE = frozenset({
    "aclfile", "always-show-logo", "aof-rewrite-cpulist", "aof_rewrite_cpulist",
    "appenddirname", "appendfilename", "bgsave-cpulist", "bgsave_cpulist", "bio-cpulist",
    "bio_cpulist", "cluster-config-file", "cluster-enabled", "cluster-port", "daemonize",
    "databases", "dbfilename", "dir", "disable-thp", "enable-debug-command",
    "enable-module-command", "enable-protected-configs", "io-threads", "io-threads-do-reads",
    "loadmodule", "logfile", "pidfile", "rdbchecksum", "rename-command", "server-cpulist",
    "server_cpulist",
    "set-proc-title", "socket-mark-id", "supervised", "syslog-enabled", "syslog-facility",
    "syslog-ident", "tcp-backlog", "unixsocket", "unixsocketperm",
})
# fmt: on
# Changed at run time these would move an instance away from its clients.
_RESTART_KEYS = IMMUTABLE | {"port", "bind", "protected-mode"}


@on(RedisSettings)
def activate(node: Node) -> None:
    """Starts instances, sets what CONFIG SET takes, and restarts for the rest, the master last."""
    from tasks import rolling

    with refusing(node.host):
        rolling.require_successor(node)
    converge("Redis: service", lambda: _activation(node), one_by_one=True)
    converge("Redis: replicas", lambda: rolling.replicas(node), one_by_one=True)
    converge("Redis: master", lambda: rolling.master(node), one_by_one=True)


@on(RedisSettings)
def failover(node: Node) -> None:
    """Makes a replica the master; each run of it does so, and no acknowledged write is lost."""
    from tasks import rolling

    with refusing(node.host):
        change = rolling.failover(node)
    converge("Redis: failover", change)


def _activation(node: Node) -> Change | None:
    """What is done without a restart of what runs."""
    wanted, now = list[Activation](), dict[str, Status]()
    variables = {"REDIS_PASSWORD": password(node)}
    for port, each in activations(node).items():
        status = status_of(node, port, each)
        if services.impact(each, status) == "restart":
            each, status = still(each, status), replace(status, outdated=False)
        each, status = watched(node, port, each, status)
        wanted.append(each)
        now[each.service.name] = status
        variables[f"CONFIG_{port}"] = config_set(node, port)
        variables[f"FORGET_{port}"] = forgotten(each, status)
    change = services.compare(wanted, now, node.manager)
    if change is None:
        return None
    begun = f"remove {quoted(*(file.path for file in _beginnings(node)))}"
    # A Sentinel beside them has the last one until it starts again, and is asked before that.
    keep = "" if node in node.estate.in_group("sentinel") else KEEP_PASSWORD
    return Change(change.lines, f"{SHELL}\n{change.script}\n{keep}{begun}\n", variables)


def status_of(node: Node, port: int, wanted: Activation) -> Status:
    """What is known of an instance, with what it says of itself that only a restart mends."""
    return known(node, port, wanted, node.read("redis")["services"][wanted.service.name])


def known(node: Node, port: int, wanted: Activation, now: Status) -> Status:
    """The same of a container; what is due anyway is no news."""
    return now if services.impact(wanted, now) else live.status(now, _fixed_by(node, port), _BEHIND)


def told(node: Node, port: int, wanted: Activation) -> list[str]:
    """What an instance uses and only a restart mends, as sentences of the plan."""
    status = node.read("redis")["services"][wanted.service.name]
    found = {} if services.impact(wanted, status) else _fixed_by(node, port)
    return live.sentences(wanted.service.name, found)


# Changed at run time; who does not have its password can only restart it.
_BEHIND = _RESTART_KEYS | {"requirepass"}


def _fixed_by(node: Node, port: int) -> dict[str, tuple[str, str]]:
    return {key: value for key, value in moved(node, port).items() if key in _BEHIND}


def moved(node: Node, port: int) -> dict[str, tuple[str, str]]:
    """What an instance uses and should, by key, where the two differ."""
    roles: list[Instance] = node.read("redis")["roles"]
    said = next((role.settings for role in roles if role.address.port == port), {})
    wanted = _settings(node, port)
    return live.moved(_spelled(wanted), _spelled(said), _parameters(node, port))


def _spelled(settings: Mapping[str, str]) -> dict[str, str]:
    """Kinds of events are letters in any order, and A stands for most of them."""
    key = "notify-keyspace-events"
    if not settings.get(key):
        return {**settings}
    return {**settings, key: "".join(sorted({*settings[key].replace("A", "g$lshzxetd")}))}


def activations(node: Node) -> dict[int, Activation]:
    """Every instance and what it should run with, by port."""
    return {
        port: services.activation(
            service_of(node, port),
            node.manager,
            restart=fixed(node, port),
            reload=settable(node, port),
            keys=keys(node, port),
        )
        for port in node.the(RedisSettings).ports
    }


def still(wanted: Activation, now: Status) -> Activation:
    """What an instance is to run with as long as it has not restarted."""
    named = {key for key in now.keys if "=" in key} | {key for key in wanted.keys if "=" not in key}
    return replace(wanted, restart=now.restart, keys=frozenset(named))


def settable(node: Node, port: int) -> str:
    """What of an instance's settings CONFIG SET takes."""
    return f"{sorted(_live(node, port).items())}"


def fixed(node: Node, port: int) -> str:
    """What of an instance's settings takes a restart."""
    return f"{sorted(_fixed(node, port).items())}"


def _live(node: Node, port: int) -> dict[str, str]:
    settings = _settings(node, port).items()
    return {key: value for key, value in settings if key not in _RESTART_KEYS}


def _fixed(node: Node, port: int) -> dict[str, str]:
    settings = _settings(node, port).items()
    return {key: value for key, value in settings if key in _RESTART_KEYS}


def keys(node: Node, port: int) -> frozenset[str]:
    """What the record of an instance names, so that a later run can tell what has changed."""
    extra = node.the(RedisSettings).extra.keys() - _RESTART_KEYS
    return services.fingerprints(_fixed(node, port)) | extra


def kept_data(node: Node, port: int) -> dict[str, str]:
    """What decides whether an instance keeps its data."""
    ours = _parameters(node, port)
    return {key: str(ours[key]) for key in ("appendonly", "save")}


def watched(node: Node, port: int, wanted: Activation, now: Status) -> tuple[Activation, Status]:
    """The same, with what hands have changed in a running instance since its activation."""
    roles: list[Instance] = node.read("redis")["roles"]
    here = [role for role in roles if role.address.port == port]
    if not all(guarded(role.users) for role in here):
        return wanted, replace(now, outdated=True)
    changed = sorted(moved(node, port).keys() - _BEHIND)
    if not changed or now.reload != wanted.reload:
        return wanted, now
    means = f"reload ({', '.join(changed)}: changed by hand)"
    return replace(wanted, reload_means=means), replace(now, outdated=True)


def config_set(node: Node, port: int) -> str:
    """One CONFIG SET of everything it takes: Redis applies all of it or nothing."""
    return f"CONFIG SET {' '.join(f'{k} {quote(v)}' for k, v in _live(node, port).items())}"


def forgotten(wanted: Activation, now: Status) -> str:
    """The keys that left the settings, which CONFIG SET is to set back."""
    gone = {key for key in now.keys - wanted.keys if "=" not in key}
    return " ".join(sorted(gone - _RESTART_KEYS))


def _services(node: Node) -> list[Service]:
    return [service_of(node, port) for port in node.the(RedisSettings).ports]


def service_of(node: Node, port: int, managed: str = "") -> Service:
    """An instance as a service of a host or in a container; `managed` is its file of settings."""
    home, managed = f"/var/lib/redis/{port}", managed or _configuration_path(port)
    state = f"{home}/redis.conf"
    command = f"/usr/bin/redis-server {state} --include {managed}"
    return Service(
        name=f"redis-{port}",
        description=f"Redis on port {port}",
        command=f"{command} --supervised systemd",
        foreground=command,
        user="redis",
        group="redis",
        before_start=(f"{BEFORE_START} {home} {managed}",),
        configuration=(managed,),
        check=f"{_TRY}\ntry {managed} {managed}",
        ready=f"loaded {port}",
        reload=f'config_set {port} "$CONFIG_{port}" redis-{port} $FORGET_{port}',
    )


KEEP_ROLE = "-n /^replicaof/p"

# A second server that keeps nothing and listens in a private directory only.
_TRY = """
try() { # FILE NAME
  said=$(mktemp) place=$(runuser -u redis -- mktemp -d)
  sed -E '/^((tls-)?port|bind|dir|logfile|pidfile|unixsocket|daemonize) /d' "$1" |
    (cd "$place"; exec timeout 20 runuser -u redis -- redis-server - --port 0 --bind 127.0.0.1 \
      --unixsocket "$place/s" --dir "$place" --save '' --appendonly no --loglevel notice \
      >"$said" 2>&1) &
  server=$! answer=
  for _ in $(seq 100); do
    answer=$(timeout 3 runuser -u redis -- redis-cli -s "$place/s" PING 2>/dev/null) || :
    case $answer in *PONG*|*NOAUTH*) break ;; esac
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  kill "$server" 2>/dev/null || :
  bad=$(sed -n '/FATAL CONFIG/,$p' "$said" | sed 1d | tr '\n' ' ')
  bad=${bad:-$(grep -vF ' * ' "$said" | tail -n 1)}
  runuser -u redis -- rm -rf "$place"; rm -f "$said"
  case $answer in *PONG*|*NOAUTH*) return 0 ;; esac
  echo "$2: Redis refuses it: ${bad:-it does not start}" >&2
  exit 1
}
"""


def trial(configuration: str, path: str) -> Trial:
    """Starts a second server with the configuration, which is to become the file `path`."""
    variable = "TRIAL_" + re.sub("[^A-Za-z0-9]", "_", path)
    script = f"""{_TRY}
new=$(mktemp); trap 'rm -f "$new"' EXIT
printf %s "${variable}" >"$new"
try "$new" {path}
"""
    return Trial(script, {variable: configuration})


# Of two passwords the server accepts one: the settings', or until it has taken that the last
# one. Commands with secrets go to redis-cli on standard input.
IS_REDIS = """\
# Only the user redis listens there: anybody else would be told the password.
is_redis() { # PORT
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
  awk -v port="$(printf %04X "$1")" -v uid="$(id -u redis)" '
    BEGIN {
      local["0100007F:" port]; local["00000000:" port]
      local["00000000000000000000000000000000:" port]
      local["0000000000000000FFFF00000100007F:" port]
    }
    $4 == "0A" && $2 in local { if ($8 == uid) ours++; else others++ }
    END { exit !(ours && !others) }'
}
"""
SHELL = (
    IS_REDIS
    + """
accepted() {
  pong=
  is_redis "$1" || return 1
  for REDISCLI_AUTH in "$REDIS_PASSWORD" "$(glance /etc/redis/redis-cli.auth)"; do
    export REDISCLI_AUTH
    pong=$(timeout 3 redis-cli -p "$1" PING 2>/dev/null) || :
    case $pong in PONG) return 0 ;; LOADING*) return 1 ;; esac
  done
  return 1
}
# As long as it reads its data, it is not late.
loaded() { # PORT
  until accepted "$1"; do
    case $pong in LOADING*) sleep 1 ;; *) return 1 ;; esac
  done
}
config_set() { # PORT COMMAND SERVICE KEY...
  loaded "$1" || { echo "$3 does not accept the password of the settings" >&2; exit 1; }
  port=$1 command=$2 service=$3; shift 3
  answer=$(printf '%s\n' "$command$(defaults "$@")" | redis-cli -p "$port" 2>&1 |
    grep -v '^AUTH failed') || :
  case $answer in
    OK*) ;;
    *) echo "$service keeps its old settings: $answer" >&2; exit 1 ;;
  esac
  REDISCLI_AUTH=$REDIS_PASSWORD
  guard "$port" "$service"
  leave_log "$port" "$service"
}
# CONFIG SET of the password that it has already does nothing, whoever else is let in.
guard() { # PORT SERVICE
  printf 'ACL SETUSER default reset on ~* &* +@all ">%s"\n' "$REDIS_PASSWORD" |
    redis-cli -p "$1" 2>/dev/null | grep -qx OK || {
    echo "$2 does not take the password of the settings for its only one" >&2; exit 1; }
}
users() { # PORT
  redis-cli --no-raw -p "$1" ACL LIST 2>/dev/null | sed -n 's/^ *[0-9]*) "user /"user /p'
}
# Redis leaves a file that it does not append to any more, and a later start would read it.
leave_log() { # PORT SERVICE
  [ "$(redis-cli -p "$1" CONFIG GET appendonly | sed -n 2p)" = no ] || return 0
  log=/var/lib/redis/$1/$(redis-cli -p "$1" CONFIG GET appenddirname | sed -n 2p)
  [ -d "$log" ] || return 0
  until said=$(redis-cli -p "$1" BGSAVE 2>&1); case $said in *started*) ;; *) false ;; esac; do
    case $said in *progress*|*active*) sleep 1 ;; *) break ;; esac
  done
  while redis-cli -p "$1" INFO persistence | grep -q '^rdb_bgsave_in_progress:1'; do sleep 0.2; done
  redis-cli -p "$1" INFO persistence | grep -q '^rdb_last_bgsave_status:ok' || {
    echo "$2 keeps $log, since it cannot save a snapshot: see its log; run again" >&2; exit 1; }
  at "$log" sh -c 'rm -rf "$1.off"; mv -T "$1" "$1.off"' - "$log"
}
running() { # PORT KEY...: what it runs with
  port=$1; shift
  redis-cli -p "$port" CONFIG GET "$@" 2>/dev/null | paste -d ' ' - -
}
# What a server without settings has, as CONFIG SET takes it.
defaults() { # KEY...
  [ $# -gt 0 ] || return 0
  place=$(runuser -u redis -- mktemp -d)
  (cd "$place"; exec timeout 20 runuser -u redis -- /usr/bin/redis-server --port 0 --save '' \
    --unixsocket "$place/s" --dir "$place" >/dev/null 2>&1) &
  for _ in $(seq 50); do [ ! -S "$place/s" ] || break; sleep 0.1; done
  for key; do
    value=$(timeout 3 runuser -u redis -- /usr/bin/redis-cli -s "$place/s" CONFIG GET "$key" \
      2>/dev/null | sed -n 2p)
    printf ' %s "%s"' "$key" "$value"
  done
  kill $!; runuser -u redis -- rm -r "$place"
}
"""
)

# --- Users ---------------------------------------------------------------------------------------


def _users(node: Node) -> dict[int, tuple[User, ...]]:
    """The ACL users of each instance that answers, by port."""
    roles: list[Instance] = node.read("redis")["roles"]
    return {role.address.port: role.users for role in roles}


def unknown_users(node: Node) -> Iterator[str]:
    """What is said of ACL users that are not in the settings and stay."""
    if not node.the(RedisSettings).prune:
        for port, users in _users(node).items():
            for name in strangers(users):
                what = f"the ACL user {name} is not in the settings"
                yield f"{node.service or f'redis-{port}'}: {what}; redis_prune would remove it"


def prune(node: Node) -> Change | None:
    """Removes the ACL users that are not in the settings; their connections end."""
    going = {port: strangers(users) for port, users in _users(node).items() if strangers(users)}
    if not going or not node.the(RedisSettings).prune:
        return None
    lines, script, variables = list[str](), SHELL + _PRUNE, {"REDIS_PASSWORD": password(node)}
    for port, names in going.items():
        service = node.service or f"redis-{port}"
        lines += [remove_user(service, name) for name in names]
        variables[f"USERS_{port}"] = " ".join(names)
        script += f'remove_users {port} {service} "$USERS_{port}"\n'
    return Change(lines, script, variables)


def remove_user(service: str, name: str) -> Line:
    """The removal of a user, as a sentence of the plan."""
    return Line(f"{service}: remove the ACL user {name}; its connections end", "restart")


# The file would have them until the next start.
_PRUNE = """
remove_users() { # PORT SERVICE NAMES
  accepted "$1" || { echo "$2 does not answer" >&2; exit 1; }
  bad=$(printf 'ACL DELUSER %s\n' "$3" | redis-cli -p "$1" 2>&1 | grep -vx '[0-9]*') || :
  if [ -n "$bad" ]; then echo "$2 keeps its users: $bad" >&2; exit 1; fi
  redis-cli -p "$1" CONFIG REWRITE >/dev/null 2>&1 || :
}
"""


KEEP_PASSWORD = """
rm -rf /etc/redis/redis-cli.auth.new
(umask 077; set -C; printf '%s\n' "$REDIS_PASSWORD" >/etc/redis/redis-cli.auth.new)
mv -fT /etc/redis/redis-cli.auth.new /etc/redis/redis-cli.auth
"""


COMPONENT = Component(
    "redis",
    RedisSettings,
    _defaults,
    no_secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    in_use=_in_use,
)


def deploy() -> None:
    """Redis as the settings say: install, configure, activate."""
    install()
    configure()
