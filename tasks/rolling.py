"""Restarts of Redis: the replicas one by one, then a master that hands over, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tasks.core import remote, services
from tasks.core.change import Change
from tasks.core.estate import Estate, Node
from tasks.core.remote import Unreadable, quoted
from tasks.core.services import Activation, Status
from tasks.core.topology import Address
from tasks.redis import (
    IMMUTABLE,
    SHELL,
    RedisSettings,
    activations,
    addresses,
    current_master,
    moved,
    password,
    status_of,
    told,
)
from tasks.sentinel import SentinelSettings, endpoints, master_name


def require_successor(node: Node) -> None:
    """Refuses to restart a master that cannot hand over.

    Raises:
        Unreadable: nobody knows who the master is, or nobody can replace it.
    """
    due = _due(node)
    if not due:
        return
    leader = current_master(node.estate)
    if leader.ip != node.address or leader.port not in due:
        return
    if alone(node) or locked_out(node, leader.port):
        return
    require(node.estate, leader, f"redis-{leader.port}", _is_starting(node.estate))


def require(everything: Estate, leader: Address, name: str, is_starting: bool) -> None:
    """Refuses to restart a master that nobody can replace.

    Args:
        is_starting: whether this run starts replicas before.

    Raises:
        Unreadable: with the reason.
    """
    if why := obstacle(everything, leader, is_starting):
        raise Unreadable(
            f"{name} is the master and has to restart, but nobody can replace it: {why}"
        )


def failover(node: Node) -> Callable[[], Change | None]:
    """The hand-over of the host's master, decided now: the next master is not to hand over too.

    Raises:
        Unreadable: nobody knows who the master is, or nobody can replace it.
    """
    leader = current_master(node.estate)
    if leader not in addresses(node.estate):
        raise Unreadable(f"the master {leader} left the settings: put it back for this run")
    if leader.ip != node.address:
        return lambda: None
    name = f"redis-{leader.port}"
    is_starting = _is_starting(node.estate)
    if why := alone(node) or obstacle(node.estate, leader, is_starting):
        raise Unreadable(f"nobody can replace the master {name}: {why}")
    step, means = hand_over(node, leader.port, name, "becomes a replica")
    script = f"{FUNCTIONS}\n{step}\nfollow {leader.port} {name}"
    variables = {"REDIS_PASSWORD": password(node)}
    change = Change([services.line(name, means)], script, variables, then=lambda: _settled(node))
    return lambda: change


def obstacle(everything: Estate, leader: Address, is_starting: bool) -> str:
    said = [node.read("redis") for node in _members(everything)]
    watchers = [watcher for each in said for watcher in each["sentinels"]]
    quorums = [watcher.quorum for watcher in watchers if watcher.master == leader]
    if not any(quorum.startswith("OK") for quorum in quorums):
        silence = "no Sentinel answers with the password of the settings"
        why = quorums[0].rstrip(". ") if quorums else silence
        return f"{why}: bring the Sentinels up first"
    roles = (role for each in said for role in each["roles"])
    is_followed = any(role.online for role in roles if role.address == leader)
    return "" if is_followed or is_starting else "no replica is online: bring one up first"


def _is_starting(everything: Estate) -> bool:
    found = (node.read("redis")["services"] for node in _members(everything))
    return any(not status.running for each in found for status in each.values())


def replicas(node: Node) -> Change | None:
    """The restarts that are due of instances which follow another one."""
    return _restarts(node, lambda address, leader: address != leader)


def master(node: Node) -> Change | None:
    """The master's restart, and those that a failover in the meantime has kept from others."""
    is_executing = node.host.state.is_executing
    return _restarts(node, lambda address, leader: is_executing or address == leader)


def _restarts(node: Node, chosen: Callable[[Address, Address], bool]) -> Change | None:
    due = _due(node)
    if not due:
        return None
    leader = _leader(node)
    addresses = {port: Address(node.address, port) for port in due}
    ports = [port for port in due if chosen(addresses[port], leader)]
    if not ports:
        return None
    lines, steps = list[str](), list[str]()
    for port in sorted(ports, key=lambda port: addresses[port] == leader):
        restart = _last if addresses[port] == leader else _follower
        said, step = restart(node, port, due[port])
        lines += said
        steps.append(step)
    if node.host.state.is_executing:
        node.estate.unsettled.add(node)
    script = "\n".join([FUNCTIONS, services.script(steps, node.manager)])
    variables = {"REDIS_PASSWORD": password(node)}
    return Change(lines, script, variables, then=lambda: _settled(node))


def _settled(node: Node) -> str:
    node.estate.unsettled.discard(node)
    _forget(node.estate)
    return ""


def _due(node: Node) -> dict[int, Activation]:
    """The instances that run and need a restart, by port."""
    wanted = activations(node).items()
    return {p: w for p, w in wanted if services.impact(w, status_of(node, p, w)) == "restart"}


def _leader(node: Node) -> Address:
    """The master now. Before an act everybody is asked again, and a host that failed stops it."""
    everything = node.estate
    if node.host.state.is_executing:
        _forget(everything)
        everything.require_settled(RedisSettings, "Redis")
    return current_master(everything)


def _members(everything: Estate) -> list[Node]:
    return [node for node in everything.having(RedisSettings) if node in everything.active]


def _forget(everything: Estate) -> None:
    for node in _members(everything):
        remote.forget(node.host)


def _follower(node: Node, port: int, wanted: Activation) -> tuple[list[str], str]:
    name = wanted.service.name
    step = services.step(wanted, "restart")
    step = f"require_replica {port} {name}\n{step}\nfollow {port} {name}"
    line = services.line(name, because(wanted, status_of(node, port, wanted)))
    return [*told(node, port, wanted), line], step


def _last(node: Node, port: int, wanted: Activation) -> tuple[list[str], str]:
    name = wanted.service.name
    if reason := alone(node) or locked_out(node, port):
        means = because(wanted, status_of(node, port, wanted), f"{reason}: unavailable meanwhile")
        said = [*told(node, port, wanted), services.line(name, means)]
        return said, services.step(wanted, "restart")
    said, step = _follower(node, port, wanted)
    first, means = hand_over(node, port, name, "restart follows")
    return [services.line(name, means), *said], f"{first}\n{step}"


def hand_over(node: Node, port: int, name: str, then: str) -> tuple[str, str]:
    """Shell that makes another instance the master, and what it amounts to."""
    known = master_name(node.estate)
    words = node.address, str(port), name, known, *map(str, endpoints(node.estate))
    return f"hand_over {quoted(*words)}", f"failover (master of {known}; {then})"


def because(wanted: Activation, now: Status, *more: str) -> str:
    """A restart and why it is due, for the plan."""
    why = [*more]
    if changed := services.changed(wanted, now):
        takes = f"CONFIG SET does not take {'it' if len(changed) == 1 else 'them'}"
        names = ", ".join(changed)
        why.insert(0, f"{names}: {takes}" if IMMUTABLE.issuperset(changed) else names)
    return f"restart ({'; '.join(why)})" if why else "restart"


def alone(node: Node) -> str:
    """Why nobody can replace the master, where the settings are the reason."""
    if len(addresses(node.estate)) == 1:
        return "no replica"
    return "" if _is_watched(node.estate) else "no Sentinel"


def locked_out(node: Node, port: int) -> str:
    """Why an instance cannot hand over: Sentinels or replicas do not have its password."""
    known = [live.get("auth", "1") for live in _monitors(node.estate) if live]
    if known and "1" not in known:
        return "Sentinels get its password later"
    return "it takes another password" if "requirepass" in moved(node, port) else ""


def _is_watched(everything: Estate) -> bool:
    """Whether Sentinels watch, or did: those that were never started replace nobody."""
    watchers = everything.having(SentinelSettings)
    is_cut_off = any(node not in everything.active for node in watchers)
    return is_cut_off or any(monitor != {} for monitor in _monitors(everything))


def _monitors(everything: Estate) -> Iterator[Mapping[str, str] | None]:
    """What each Sentinel in reach knows of the master; None for one that does not answer."""
    for node in everything.having(SentinelSettings):
        if node in everything.active:
            yield from node.read("sentinel")["monitors"].values()


# --- Shell ---------------------------------------------------------------------------------------

# Commands with the password go on standard input; by now every instance has that of the settings.
FUNCTIONS = (
    SHELL
    + r"""
ask() { # IP PORT, commands on standard input
  REDISCLI_AUTH=$REDIS_PASSWORD timeout 3 redis-cli -h "$1" -p "$2" 2>&1 | tr -d '\r'
}
# ROLE LINK HISTORY OFFSET MASTER-IP MASTER-PORT of an instance, `-` for what it lacks, whether it
# loads, receives or sends all of the data, or waits for that, and how often it began to send.
position() { # IP PORT
  printf 'INFO %s\n' replication stats persistence | ask "$1" "$2" | awk '
    function of(key) { return v[key] == "" ? "-" : v[key] }
    { i = index($0, ":"); v[substr($0, 1, i - 1)] = substr($0, i + 1) }
    /^(loading|master_sync_in_progress):1/ { copying = 1 }
    /^slave[0-9]+:.*state=(wait_bgsave|send_bulk)/ { copying = 1 }
    END { print of("role"), of("master_link_status"), of("master_replid"),
      of(v["role"] == "slave" ? "slave_repl_offset" : "master_repl_offset"),
      of("master_host"), of("master_port"), copying + 0, of("sync_full") }'
}
has() { # IP PORT HISTORY OFFSET: a replica has all of its master's writes up to there
  set -- "$3" "$4" $(position "$1" "$2")
  [ "$3 $4 $5" = "slave up $1" ] && [ "$6" -ge "$2" ]
}
within() { # SECONDS COMMAND...
  end=$(($(date +%s) + $1)); shift
  until "$@"; do
    [ "$(date +%s)" -lt "$end" ] || return 1
    sleep 0.1
  done
}
# A replica has what its master had when that was asked. To load or to copy all of it may take
# long: as long as that goes on, or is to begin, it is not late, unless it begins over and over.
level() { # PORT
  set -- "$1" $(position 127.0.0.1 "$1")
  link=$3 copying=$8
  [ "$2" = slave ] || return 1
  set -- "$1" $(position "$6" "$7")
  case "$2 $copying$8" in
    master*1*) [ "$9" -gt $((${copies:=$9} + 5)) ] || end=$(($(date +%s) + 20)) ;;
  esac
  [ "$2 $link" = 'master up' ] || return 1
  for _ in $(seq 25); do
    if has 127.0.0.1 "$1" "$4" "$5"; then return 0; fi
    sleep 0.2
  done
  return 1
}
follow() { # PORT SERVICE
  copies=
  within 20 level "$1" || {
    echo "$2 has restarted, but does not follow its master: check its log;" \
      "run again to go on with the others" >&2
    exit 1
  }
}
# An old master that Sentinel has not yet made a replica would come back as a master.
require_replica() { # PORT SERVICE
  within 30 leads_nobody "$1" || {
    echo "$2 runs as master, but Sentinel follows another: run again when it is a replica" >&2
    exit 1
  }
}
leads_nobody() {
  case $(position 127.0.0.1 "$1") in master*) return 1 ;; esac
}
# Sentinel alone would leave the old master writable for about ten seconds after it has promoted
# another one, and what it accepts then is lost. So its clients wait, and it becomes a replica at
# once. A pause ends by itself: if all of this dies, clients go on.
monitor() { # IP PORT: who a Sentinel says is the master, and whether it could fail over
  printf 'SENTINEL %s '"$name"'\n' GET-MASTER-ADDR-BY-NAME CKQUORUM | ask "$1" "$2" |
    paste -s -d ' '
}
# The replicas that a Sentinel does not miss: ADDRESS ROLE PRIORITY.
seen_by() { # IP PORT
  echo "SENTINEL REPLICAS $name" | ask "$1" "$2" | awk '
    function flush() {
      if (v["ip"] && v["flags"] !~ /down|disconnected/)
        print v["ip"] ":" v["port"], v["role-reported"], v["slave-priority"]
      split("", v)
    }
    NR % 2 { key = $0; if (key == "name") flush(); next }
    { v[key] = $0 }
    END { flush() }'
}
# Whom it might promote; one that has just lost its master is among them.
candidates() {
  seen_by $sentinel | awk '$3 != 0 { print $1 }'
}
# Sentinels ask every ten seconds: one that takes an old master for a master still would demote it
# as soon as it is promoted again.
calm() { # SENTINEL...
  for each; do
    why="a failover has just ended, says the Sentinel $each"
    if seen_by "${each%:*}" "${each##*:}" | grep -q ' master '; then return 1; fi
  done
}
# Every one of them has what the master has.
all_level() {
  set -- $(position 127.0.0.1 "$port")
  [ "$1" = master ] || refuse 'is no longer the master: run again'
  history=$3 offset=$4 why='no replica is fit to be promoted: bring one up'
  for replica in $(candidates $sentinel); do
    why="$replica is behind or cut off, and Sentinel might promote it: repair or stop it"
    has "${replica%:*}" "${replica##*:}" "$history" "$offset" || return 1
    why=
  done
  [ -z "$why" ]
}
# A Sentinel that promotes nobody else.
choose() { # SENTINEL...
  calm "$@" || return 1
  why='no Sentinel answers'
  for each; do
    sentinel="${each%:*} ${each##*:}"
    said=$(monitor $sentinel)
    case $said in
      "$me OK "*) if all_level; then return 0; fi ;;
      ?*) why="the Sentinel $each says $said" ;;
    esac
  done
  return 1
}
refuse() { echo "$service $1" >&2; exit 1; }
own() { # COMMANDS
  printf '%s\n' "$@" | ask 127.0.0.1 "$port"
}
# A pause also stops the Sentinels, which publish here every two seconds: should all of this die,
# they make an old master a replica only eight seconds after it has ended.
pause() {
  [ "$(own 'CLIENT PAUSE 5000 WRITE')" = OK ]
}
paused_and_level() { why='it cannot pause its clients'; pause && all_level; }
hand_over() ( # IP PORT SERVICE NAME SENTINEL...
  me="$1 $2" port=$2 service=$3 name=$4
  shift 4
  within 20 choose "$@" || refuse "stays master: $why; then run again"
  # Whoever ends this script does not end that one.
  (trap '' HUP INT TERM; exchange) &
  wait $!
  for each; do
    within 30 heard "$each" || {
      echo "the Sentinel $each still takes $service for the master: see its log; run again" >&2
      exit 1
    }
  done
  within 30 finished || :
)
exchange() {
  trap 'own "CLIENT UNPAUSE" >/dev/null' EXIT
  within 5 paused_and_level || refuse "stays master: $why; then run again"
  said=$(echo "SENTINEL FAILOVER $name" | ask $sentinel)
  case $said in
    OK | INPROG*) ;;
    # The answer may only be late.
    '' | Error:*) ;;
    *) refuse "stays master: Sentinel says $said" ;;
  esac
  # Another one may be master from here on: what this one accepted now would be lost.
  trap - EXIT
  within 30 promoted ||
    refuse 'may still be replaced: the failover goes on; check the log of Sentinel, run again'
  within 5 demoted || refuse "cannot be made a replica of $leader: $said"
  own 'CLIENT UNPAUSE' >/dev/null
}
# The others follow the new master, so that this one may go.
finished() {
  case $(echo "SENTINEL MASTER $name" | ask $sentinel) in
    *failover_in_progress*) return 1 ;;
  esac
}
promoted() {
  pause || :
  said=$(printf 'SENTINEL MASTER %s\nSENTINEL GET-MASTER-ADDR-BY-NAME %s\n' "$name" "$name" |
    ask $sentinel | awk '
      NR % 2 { key = $0; next } { value = $0 } key == "flags" { flags = value }
      END { if (flags) print key, value, flags }')
  leader=${said% *}
  case $said in
    '' | "$me "*failover_in_progress*) return 1 ;;
    "$me "*) refuse 'stays master: Sentinel gave up, see its log; run again' ;;
  esac
}
# What Sentinel would do as well, but later.
demoted() {
  said=$(own MULTI "REPLICAOF $leader" 'CONFIG REWRITE' 'CLIENT KILL TYPE normal' \
    'CLIENT KILL TYPE pubsub' EXEC | paste -s -d ' ')
  case $said in *'QUEUED OK OK '* | *'master OK '*) ;; *) return 1 ;; esac
}
heard() { # IP:PORT of a Sentinel
  case $(monitor "${1%:*}" "${1##*:}") in "$me "*) return 1 ;; esac
}
"""
)
