"""Services under systemd or runit; nothing else knows which of the two it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.core.change import Change, Impact, Line
from tasks.core.files import Directory, Entry, File, digest, render
from tasks.core.remote import Probe, quoted

Manager = Literal["systemd", "runit"]

STATE_DIRECTORY = "/var/lib/datatier"
START_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """A long-running program, supervised: when it dies it comes back.

    Attributes:
        name: what an operator calls it; the runit service, and the systemd unit unless `unit`.
        command: the command that runs in the foreground and notifies systemd.
        foreground: the same for runit, where it differs.
        unit: a unit that the distribution ships; it then gets a drop-in only.
        enabled_by: the unit whose enablement starts this one at boot, if not its own.
        before_start: commands run as the service's user before every start.
        open_files: limit of file descriptors.
        umask: of the program and what it starts (runit only).
        configuration: the files that a reload makes it take.
        check: shell that refuses a configuration the service would not start with.
        ready: shell that exits with 0 when the service answers a real request.
        reload: shell that makes it take its configuration without a restart.
        stop_signal: the signal that stops it, where that is not TERM (runit only).
        hold: shell before a restart, after which clients wait.
        release: shell that lets clients go on, whoever has made them wait.
        listens: the address and port on which a start without that address leaves it deaf.
    """

    name: str
    description: str
    command: str
    user: str
    group: str
    ready: str
    reload: str
    configuration: tuple[str, ...] = ()
    check: str = ":"
    foreground: str = ""
    unit: str = ""
    enabled_by: str = ""
    before_start: tuple[str, ...] = ()
    open_files: int = 65536
    umask: str = "077"
    runtime_directory: str = ""
    reload_signal: str = ""
    stop_signal: str = ""
    hold: str = ":"
    release: str = ":"
    listens: tuple[str, int] | None = None

    @property
    def systemd_unit(self) -> str:
        """The unit that systemctl knows it by."""
        return self.unit or f"{self.name}.service"


@dataclass(frozen=True)
class Activation:
    """A service and the fingerprints of what it should be running with.

    Attributes:
        reload_means, restart_means: what it amounts to and why, for the plan.
        keys: names of what a reload sets, and `name=fingerprint` of what takes a restart: with
            the record they tell what is gone and what has changed.
    """

    service: Service
    restart: str
    reload: str
    reload_means: str = "reload"
    keys: frozenset[str] = frozenset()
    restart_means: str = "restart"


@dataclass(frozen=True)
class Status:
    """What the supervisor says, and what was recorded at the last activation.

    Attributes:
        outdated: a file of the configuration has been written since.
    """

    running: bool
    enabled: bool
    restart: str
    reload: str
    keys: frozenset[str] = frozenset()
    outdated: bool = False


def packages(manager: Manager) -> list[str]:
    """What a component installs besides its own packages to be supervised."""
    return ["runit"] if manager == "runit" else []


def files(service: Service, manager: Manager) -> list[Entry]:
    """What the supervisor needs to know of a service."""
    if manager == "systemd":
        if not service.unit:
            unit = render("service/unit.service.j2", service=service)
            return [File(f"/etc/systemd/system/{service.systemd_unit}", unit)]
        directory = f"/etc/systemd/system/{service.unit}.d"
        dropin = render("service/dropin.conf.j2", service=service)
        entries: list[Entry] = [Directory(directory), File(f"{directory}/datatier.conf", dropin)]
        return entries + _network(service, directory)
    directory = f"/etc/sv/{service.name}"
    entries = [
        Directory(f"/var/log/{service.name}", mode="750"),
        Directory(directory),
        Directory(f"{directory}/log"),
        File(f"{directory}/run", render("service/run.j2", service=service), mode="755"),
        File(f"{directory}/log/run", render("service/log-run.j2", service=service), mode="755"),
    ]
    if service.stop_signal:
        stop = render("service/control-t.j2", service=service)
        entries += [
            Directory(f"{directory}/control"),
            File(f"{directory}/control/t", stop, mode="755"),
        ]
    return entries


_NETWORK = "datatier-network.conf"


def _network(service: Service, directory: str) -> list[Entry]:
    """What matters at a boot only: it restarts nothing, so no fingerprint has it."""
    if service.listens is None:
        return []
    address = service.listens[0]
    packed = ipaddress.ip_address(address)
    shown = address if packed.version == 4 else packed.packed.hex()
    return [File(f"{directory}/{_NETWORK}", render("service/network.conf.j2", address=shown))]


def listening(address: str, port: int) -> str:
    """A pattern of /proc/net/tcp and tcp6 for who listens at this address, or at all."""
    packed = ipaddress.ip_address(address).packed
    words = [packed[n : n + 4][::-1].hex().upper() for n in range(0, len(packed), 4)]
    mapped = "" if len(packed) == 16 else f"|0000000000000000FFFF0000{words[0]}"
    return rf"^ *[0-9]+: ({''.join(words)}{mapped}|0{{8}}|0{{32}}):{port:04X} [0-9A-F]+:0000 0A "


def activation(
    service: Service,
    manager: Manager,
    *,
    restart: str = "",
    reload: str = "",
    reload_means: str = "reload",
    restart_means: str = "restart",
    keys: Iterable[str] = (),
) -> Activation:
    """The fingerprints of a service: `restart` and `reload` are the configuration it runs with."""
    unit = "".join(
        e.content
        for e in files(service, manager)
        if isinstance(e, File) and not e.path.endswith(_NETWORK)
    )
    if service.unit:
        # It is for the programs that start and stop it: what runs is that user's already.
        unit = unit.replace(f"User={service.user}\n", "")
    fingerprints = digest(unit, restart), digest(reload)
    return Activation(service, *fingerprints, reload_means, frozenset(keys), restart_means)


_READ_SYSTEMD = """
for u in {units}; do
  x=$(systemctl show -p ActiveState,SubState "$u") || exit 1; echo $x
done
for u in {enabled_by}; do
  x=$(systemctl is-enabled "$u" 2>/dev/null) || true; echo "${{x:-no}}"
done
"""
_READ_RUNIT = """
for s in {names}; do sv status "/etc/service/$s" 2>/dev/null | cut -d: -f1 | grep . || echo absent
done
for s in {names}; do if [ -L "/etc/service/$s" ]; then echo enabled; else echo disabled; fi; done
"""
# A file that is newer than the record was changed since: by hand, and perhaps loaded by hand.
_READ_RECORD = """
line=$(grep . {record} 2>/dev/null) || line='none none'
for f in {files}; do if [ "$f" -nt {record} ]; then line="$line !"; fi; done
{deaf}
echo "$line"
"""
# It listens, and not where others ask: its address came after it.
_DEAF = "deaf"
_READ_DEAF = """if grep -Eqs ':{port:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6 &&
  ! grep -Eqs '{listening}' /proc/net/tcp /proc/net/tcp6; then line="deaf ${{line#* }}"; fi"""


def probe(services: Sequence[Service], manager: Manager) -> Probe[dict[str, Status]]:
    """Reads all services of a component at once."""
    names = quoted(*(s.name for s in services))
    if manager == "systemd":
        units = quoted(*(s.systemd_unit for s in services))
        enabled_by = quoted(*(s.enabled_by or s.systemd_unit for s in services))
        script = _READ_SYSTEMD.format(units=units, enabled_by=enabled_by)
    else:
        script = _READ_RUNIT.format(names=names)
    for service in services:
        record = f"{STATE_DIRECTORY}/{service.name}.active"
        deaf = ":"
        if service.listens:
            pattern = listening(*service.listens)
            deaf = _READ_DEAF.format(port=service.listens[1], listening=pattern)
        files = quoted(*service.configuration)
        script += _READ_RECORD.format(record=record, files=files, deaf=deaf)

    def parse(lines: list[str]) -> dict[str, Status]:
        count = len(services)
        active, enabled, records = lines[:count], lines[count : 2 * count], lines[2 * count :]
        return {
            service.name: Status(
                _runs(active[i]),
                enabled[i].startswith("enabled"),
                *_record(records[i]),
            )
            for i, service in enumerate(services)
        }

    return Probe(script, parse)


def _runs(line: str) -> bool:
    # Under systemd a server that still reads its data is starting: to start it again delays it.
    words = {*line.split()}
    return bool(words & {"ActiveState=active", "ActiveState=reloading", "run"}) or words == {
        "ActiveState=activating",
        "SubState=start",
    }


def _record(line: str) -> tuple[str, str, frozenset[str], bool]:
    restart, reload, *keys = line.split(" ")
    return restart, reload, frozenset(keys) - {"!"}, "!" in keys


def compare(
    activations: Sequence[Activation], found: Mapping[str, Status], manager: Manager
) -> Change | None:
    """The enabling, starting, restarting and reloading that is due, or None."""
    lines, steps = list[str](), list[str]()
    for wanted in activations:
        due = impact(wanted, found[wanted.service.name])
        if due is None:
            continue
        if due == "restart" and found[wanted.service.name].restart == _DEAF:
            why = f"restart (does not listen on {(wanted.service.listens or '?')[0]})"
            wanted = replace(wanted, restart_means=why)
        lines.append(said(wanted, due))
        steps.append(step(wanted, due))
    if not lines:
        return None
    return Change(lines, script(steps, manager))


def due(wanted: Activation, impact: str, manager: Manager) -> Change:
    """The change that does this to a service, whatever its record says."""
    return Change([said(wanted, impact)], script([step(wanted, impact)], manager))


def impact(wanted: Activation, now: Status) -> str | None:
    """What is due: start, restart, reload, enable, or None."""
    if not now.running:
        return "start"
    if now.restart != wanted.restart:
        return "restart"
    if now.reload != wanted.reload or now.keys - wanted.keys or now.outdated:
        return "reload"
    if not now.enabled:
        return "enable"
    return None


def fingerprints(values: Mapping[str, object]) -> frozenset[str]:
    """What takes a restart, as the record names it: see `changed`."""
    return frozenset(f"{key}={digest(str(value))[:8]}" for key, value in values.items())


def changed(wanted: Activation, now: Status) -> list[str]:
    """The names of what takes a restart and is not as it was at the last activation."""
    before, after = ({key for key in keys if "=" in key} for keys in (now.keys, wanted.keys))
    return sorted({key.split("=")[0] for key in before ^ after}) if before else []


def said(wanted: Activation, due: str) -> Line:
    """What is due, as a sentence of the plan."""
    means = {"reload": wanted.reload_means, "restart": wanted.restart_means}.get(due, due)
    return line(wanted.service.name, means)


def line(service: str, means: str) -> Line:
    """What happens to a service, and why."""
    return Line(f"{service}: {means}", _IMPACTS.get(means.split(" ")[0], "none"))


# A container that is recreated restarts; its data are in volumes.
_IMPACTS: dict[str, Impact] = {
    "reload": "reload",
    "restart": "restart",
    "recreate": "restart",
    "failover": "failover",
}


def script(steps: Iterable[str], manager: Manager) -> str:
    """Shell of several steps."""
    return "\n".join([_FUNCTIONS, _MANAGER[manager], *steps])


def step(wanted: Activation, impact: str) -> str:
    """Shell that makes a service do what is due, waits until it answers, and records that."""
    service = wanted.service
    names = f"{service.name} {service.systemd_unit}"
    act = {
        "reload": service.reload,
        "enable": ":",
        "start": f"start_service {names}",
        "restart": f"again {names}",
    }[impact]
    return (
        f"ready() {{\n{service.ready}\n}}\n"
        f"hold() {{\n{service.hold}\n}}\nrelease() {{\n{service.release}\n}}\n"
        f"{service.check}\n"
        f"enable_service {service.name} {service.enabled_by or service.systemd_unit}\n"
        f"{act}\n"
        f"answer {names}\n"
        "release\n"
        f"settle {service.name} {quoted(*service.configuration)}\n"
        f"record {service.name} {quoted(wanted.restart, wanted.reload, *sorted(wanted.keys))}"
    )


# A container's processes show in its host's /proc as well, with another root.
_RUNS = """
runs() {
  for p in /proc/[0-9]*; do
    if [ "$(cat "$p/comm" 2>/dev/null)" = "$1" ] && [ "$p/root" -ef / ]; then return 0; fi
  done
  return 1
}
"""

_FUNCTIONS = f"""{_RUNS}
answer() {{
  for _ in $(seq {START_SECONDS * 5}); do
    if (ready) >/dev/null 2>&1 </dev/null; then is_started "$@"; return 0; fi
    sleep 0.2
  done
  echo "$1 does not answer after {START_SECONDS} s; its log ends with: $(last_log "$@")" >&2
  exit 1
}}
again() {{ # NAME UNIT
  hold
  restart_service "$@"
  answer "$@"
}}
# A file from the future would stay newer than every record. The clock of file times may be some
# milliseconds late, so that a record seemed older than a file of this second.
settle() {{
  shift; for f; do at "$f" touch -c -h -d @"$(($(date +%s) - 1))" "$f"; done
}}
record() {{
  install -d -m 700 {STATE_DIRECTORY}
  name=$1; shift
  echo "$*" >"{STATE_DIRECTORY}/$name.active.new"
  mv "{STATE_DIRECTORY}/$name.active.new" "{STATE_DIRECTORY}/$name.active"
}}
"""

_LAST_LOG: dict[Manager, str] = {
    "systemd": """\
last_log() { # NAME UNIT: its own last words, without systemd's about it
  said=$(journalctl -q -n 30 -o cat -u "$2" | grep -v "^$2: \\|^[SF][a-z]* .*$2" | tail -n 3)
  [ -n "$said" ] || said=$(journalctl -q -n 3 -o cat -u "$2")
  printf '%s' "$said" | tr '\\n' ' '
}
""",
    "runit": """\
last_log() { tail -n 3 "/var/log/$1/current" 2>/dev/null | tr '\\n' ' '; }
""",
}

_MANAGER: dict[Manager, str] = {
    "systemd": """
# What a boot starts takes no reading of all units, which update-rc.d causes all the same.
enable_service() {
  case $(systemctl is-enabled "$2" 2>/dev/null) in
    masked*) systemctl -q unmask "$2" ;;
    enabled) return 0 ;;
  esac
  systemctl -q --no-reload enable "$2" 2>/dev/null
}
start_service() { restart_service "$@"; }
# A unit without a limit of its own would be waited for without end.
restart_service() { systemctl daemon-reload; timeout 330 systemctl restart "$2" || true; }
is_started() {
  for _ in $(seq 50); do
    [ "$(systemctl is-active "$2")" = activating ] || return 0
    sleep 0.1
  done
  echo "$1 answers, but systemd still waits for its start: $(last_log "$@")" >&2; exit 1
}
stop_service() { systemctl stop "$2"; }
"""
    + _LAST_LOG["systemd"],
    # Without an init there is nobody to start runsvdir: we do, detached from this session. A
    # service directory is picked up by runsvdir within five seconds.
    "runit": """
if ! runs runsvdir; then
  setsid runsvdir -P /etc/service >/dev/null 2>&1 </dev/null &
fi
enable_service() {
  [ -L "/etc/service/$1" ] || ln -s "/etc/sv/$1" "/etc/service/$1"
  for _ in $(seq 100); do
    if sv status "/etc/service/$1" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
}
start_service() { sv start "/etc/service/$1" >/dev/null || true; }
is_started() { :; }
restart_service() { sv -w 300 restart "/etc/service/$1" >/dev/null || true; }
stop_service() { sv -w 300 stop "/etc/service/$1" >/dev/null; }
"""
    + _LAST_LOG["runit"],
}


def functions(manager: Manager) -> str:
    """Shell for scripts on the host: start_service, stop_service, last_log, each NAME UNIT."""
    return _RUNS + _MANAGER[manager]


# A unit that has gone already is no error; one that goes on running is.
_REMOVAL: dict[Manager, str] = {
    "systemd": """
leave_service() { # NAME UNIT ENABLED_BY
  systemctl -q stop "$2" 2>/dev/null || :
  if systemctl -q is-active "$2"; then echo "$1 does not stop: $(last_log "$@")" >&2; exit 1; fi
  systemctl -q disable "$3" 2>/dev/null || :
  systemctl -q reset-failed "$2" 2>/dev/null || :
}
forget_units() { systemctl daemon-reload; }
""",
    "runit": """
leave_service() { # NAME
  rm -f "/etc/service/$1"
  if sv status "/etc/sv/$1" >/dev/null 2>&1; then
    sv -w 300 exit "/etc/sv/$1" >/dev/null 2>&1 || :
    if sv status "/etc/sv/$1" >/dev/null 2>&1; then
      echo "$1 does not stop: $(last_log "$@")" >&2; exit 1
    fi
  fi
}
forget_units() { :; }
""",
}


def removal(manager: Manager) -> str:
    """Shell for scripts on the host: leave_service NAME UNIT ENABLED_BY, forget_units."""
    return _LAST_LOG[manager] + _REMOVAL[manager]
