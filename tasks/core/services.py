"""Services, and how they take their settings: one engine for all places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.core.change import Change, Impact, Line
from tasks.core.files import digest
from tasks.core.places import Place, Service
from tasks.core.preflight import kernel_names
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell

START_SECONDS = 60


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
        by: the line of a unit's file of others that says what runs or as whom, if there is one.
    """

    running: bool
    enabled: bool
    restart: str
    reload: str
    keys: frozenset[str] = frozenset()
    outdated: bool = False
    by: str = ""


@dataclass(frozen=True)
class Taking:
    """How a service takes what it should run with.

    Attributes:
        lines: what it uses and should not, as sentences of the plan.
    """

    wanted: Activation
    now: Status
    lines: Sequence[str]


def listening(address: str, port: int) -> str:
    """A pattern of /proc/net/tcp and tcp6 for who listens at this address, or at all."""
    return rf"^ *[0-9]+: ({'|'.join(kernel_names(address))}):{port:04X} [0-9A-F]+:0000 0A "


def activation(
    service: Service,
    place: Place,
    *,
    restart: str = "",
    reload: str = "",
    reload_means: str = "reload",
    restart_means: str = "restart",
    keys: Iterable[str] = (),
) -> Activation:
    """The fingerprints of a service: `restart` and `reload` are the configuration it runs with."""
    fingerprints = digest(*place.fingerprinted(service), restart), digest(reload)
    return Activation(service, *fingerprints, reload_means, frozenset(keys), restart_means)


# It listens, and not where others ask: its address came after it.
_DEAF = "deaf"
# It runs as another user, by a unit's file that is gone.
_AS = "as:"
# It runs a program that an upgrade has replaced.
_PROGRAM = "program"
WHY_REPLACED = "an upgrade has replaced its program"
WHY_UPGRADED = "an upgrade replaces its program"


def probe(services: Sequence[Service], place: Place) -> Probe[dict[str, Status]]:
    """Reads all services of a component at once."""
    script = place.status(services)
    script += shell("records", records=place.records)
    for service in services:
        words = [service.name, service.program, "", "", *place.watched(service)]
        if service.listens:
            words[2:4] = f"{service.listens[1]:04X}", listening(*service.listens)
        script += f"recorded {quoted(*words)}\n"

    def parse(lines: list[str]) -> dict[str, Status]:
        count = len(services)
        active, enabled, records = lines[:count], lines[count : 2 * count], lines[2 * count :]
        states, by = zip(*(_parted(line, " by ") for line in active), strict=True)
        states, users = zip(*(_parted(line, " as ") for line in states), strict=True)
        return {
            service.name: Status(
                _runs(states[i]),
                enabled[i].startswith("enabled"),
                *_record(records[i], users[i]),
                by=by[i],
            )
            for i, service in enumerate(services)
        }

    return Probe(script, parse)


def _parted(line: str, word: str) -> tuple[str, str]:
    before, _, after = line.partition(word)
    return before, after


def _runs(line: str) -> bool:
    # Under systemd a server that still reads its data is starting: to start it again delays it.
    words = {*line.split()}
    return bool(words & {"ActiveState=active", "ActiveState=reloading", "run"}) or words == {
        "ActiveState=activating",
        "SubState=start",
    }


def _record(line: str, user: str = "") -> tuple[str, str, frozenset[str], bool]:
    restart, reload, *keys = line.split(" ")
    return f"{_AS}{user}" if user else restart, reload, frozenset(keys) - {"!"}, "!" in keys


def compare(
    activations: Sequence[Activation], found: Mapping[str, Status], place: Place
) -> Change | None:
    """The enabling, starting, restarting and reloading that is due, or None."""
    changes, stuck = list[tuple[Activation, str]](), list[str]()
    for wanted in activations:
        now = found[wanted.service.name]
        due = impact(wanted, now)
        if way := _way_out(now, wanted.service):
            stuck.append(f"{wanted.service.name}: {unasked(wanted, now)}: {way}")
        elif due == "restart":
            wanted = freed(explained(wanted, now), now)
        if due:
            changes.append((wanted, due))
    made = change(changes, place) if changes else Change([], ":") if stuck else None
    if made is None or not stuck:
        return made
    return replace(made, lines=[*stuck, *made.lines], then=lambda: "; ".join(stuck))


def _way_out(now: Status, service: Service) -> str:
    """What hands have to do where a restart would not make it ours; empty where one does."""
    line = "take that line out, systemctl daemon-reload, " if now.by else ""
    if now.restart.startswith(_AS):
        return f"{line}stop it, give its files back to {service.user} (chown), and run again"
    is_anothers = now.by and f"/etc/systemd/system/{service.systemd_unit}.d/" not in now.by
    return f"{line}and run again" if is_anothers else ""


def explained(wanted: Activation, now: Status) -> Activation:
    """The same, whose restart says why it is due where no setting asks for it."""
    why = unasked(wanted, now)
    means = wanted.restart_means if why in wanted.restart_means else f"restart ({why})"
    return replace(wanted, restart_means=means)


def freed(wanted: Activation, now: Status) -> Activation:
    """The same, whose restart first makes comments of lines by hand in the unit's drop-ins."""
    service = wanted.service
    if not now.by:
        return wanted
    check = f"own_again {service.systemd_unit}\n{service.check}"
    return replace(wanted, service=replace(service, check=check))


def unasked(wanted: Activation, now: Status) -> str:
    """Why a restart is due that no setting asks for; empty where one does."""
    if now.restart == _DEAF:
        return f"does not listen on {(wanted.service.listens or '?')[0]}"
    if now.restart.startswith(_AS):
        by = f" by {now.by}" if now.by else ""
        return f"runs as {now.restart.removeprefix(_AS)}, not {wanted.service.user}{by}"
    if now.restart == _PROGRAM:
        return WHY_REPLACED
    if now.restart == _UPGRADED:
        return WHY_UPGRADED
    return f"{now.by} wins over its unit" if now.by else ""


_UPGRADED = "upgraded"


def upgraded(service: Service, now: Status, packages: Collection[str]) -> Status:
    """The same in a plan that upgrades packages, where one of them has its program."""
    is_due = now.running and service.package in packages and now.restart != _PROGRAM
    return replace(now, restart=_UPGRADED) if is_due else now


def change(due: Sequence[tuple[Activation, str]], place: Place) -> Change:
    """The change that does this to services, whatever their records say."""
    steps = [step(wanted, impact, place) for wanted, impact in due]
    of = [wanted.service for wanted, _ in due]
    variables = {k: v for service in of for k, v in place.variables(service).items()}
    return Change([said(*each) for each in due], script(steps, place, of), variables)


def impact(wanted: Activation, now: Status) -> str | None:
    """What is due: start, restart, reload, enable, or None."""
    if not now.running:
        return "start"
    if (now.by or now.restart != wanted.restart) and not _way_out(now, wanted.service):
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


def script(steps: Iterable[str], place: Place, of: Sequence[Service] = ()) -> str:
    """Shell of several steps for these services."""
    functions = shell("services", records=place.records, start_seconds=str(START_SECONDS))
    return "\n".join([place.functions(of), functions, *steps])


def step(wanted: Activation, impact: str, place: Place, remake: str = "") -> str:
    """Shell that makes a service do what is due, waits until it answers, and records that.

    Args:
        remake: what puts another one in its place, for the impact `recreate`.
    """
    service = wanted.service
    acts = [_act(service, unit, impact, place, remake) for unit in place.units(service)]
    settle = f"settle {service.name} {quoted(*place.watched(service))}"
    return "\n".join([*acts, settle, record(wanted)])


def parts(service: Service, unit: str, place: Place) -> str:
    """Shell functions of a service: ready, hold and release."""
    ready = place.part(service, unit, "ready")
    bodies = {"ready": ready, "hold": service.hold, "release": service.release}
    return "\n".join(f"{name}() {{\n{body}\n}}" for name, body in bodies.items())


def _act(service: Service, unit: str, impact: str, place: Place, remake: str) -> str:
    names = f"{service.name} {unit}"
    act = {
        "reload": place.part(service, unit, "reload"),
        "enable": ":",
        "start": f"start_service {names}",
        "restart": f"again {names}",
        "recreate": f"hold\n{remake}",
    }[impact]
    return "\n".join(
        [
            parts(service, unit, place),
            *([place.part(service, unit, "check")] if impact != "recreate" else ()),
            f"enable_service {service.name} {service.enabled_by or unit}",
            act,
            f"answer {names}",
            "release",
            *([] if service.knows_itself else [f"is_started {names}"]),
        ]
    )


def record(wanted: Activation) -> str:
    """Shell that records what a service runs with."""
    words = quoted(wanted.restart, wanted.reload, *sorted(wanted.keys))
    return f"record {wanted.service.name} {words}"
