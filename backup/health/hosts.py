"""The hosts of the estate, as the exporter of each measures its own."""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backup.config import Config, Exporter, Exporters
from backup.health import disk
from backup.health.asking import SECONDS
from backup.health.row import Level, Row, measured
from backup.job import Failed
from backup.web import NoRedirect

USER = "prometheus"
# Some hundred kB are usual; what comes from another host may be anything.
_MOST_BYTES = 16_000_000
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)(?: -?\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {"n": "\n"}
# A host looks every ten minutes; apt may be in its way for some time.
_STALE_SECONDS = 3 * 3600
_REBOOT_DAYS = 14

Labels = Mapping[str, str]


@dataclass
class Samples:
    """What an exporter has told, by the name of the metric.

    Attributes:
        begun, ended: between these moments of this host's clock; seconds.
    """

    begun: float
    ended: float
    found: dict[str, list[tuple[Labels, float]]] = field(default_factory=lambda: defaultdict(list))

    def one(self, name: str) -> float | None:
        """The value of a metric without labels, None where there is none."""
        return next((value for _, value in self.found.get(name, ())), None)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by one of its labels."""
        return {labels.get(label, ""): value for labels, value in self.found.get(name, ())}


def parsed(text: str, begun: float, ended: float) -> Samples:
    """The samples of a text in Prometheus' format; a line that is none is left out."""
    samples = Samples(begun, ended)
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        labels = {key: _unescaped(each) for key, each in _LABEL.findall(match[2] or "")}
        samples.found[match[1]].append((labels, value))
    return samples


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPED.get(match[1], match[1]), text)


def rows(config: Config, host: Exporter) -> Iterator[Row]:
    """The rows of a host.

    Raises:
        Failed: its exporter does not answer.
    """
    assert config.exporters is not None
    samples = asked(config.exporters, host)
    name = f"host {host.name}"
    yield Row(name, Level.OK, _up(samples))
    yield from _disks(config, host, samples, name)
    yield from _memory(config, samples, name)
    yield from _units(samples, name)
    if not host.local:
        yield from _clock(config, samples, name)
    yield from _software(samples, name)
    yield from _unasked(samples, name)


# --- Asking --------------------------------------------------------------------------------------


def asked(exporters: Exporters, host: Exporter) -> Samples:
    """What an exporter tells.

    Raises:
        Failed: it does not answer, or takes none of the passwords.
    """
    # While a rotation is on its way a host may still have the one of before.
    for password in filter(None, (exporters.password, exporters.password_previous)):
        begun = time.time()
        with contextlib.suppress(PermissionError):
            return parsed(_told(host, password), begun, time.time())
    raise Failed("its exporter refuses the password: run a deploy")


def _told(host: Exporter, password: str) -> str:
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    address = f"[{host.place.host}]" if ":" in host.place.host else host.place.host
    scheme = "https" if host.authority else "http"
    request = urllib.request.Request(
        f"{scheme}://{address}:{host.place.port}/metrics",
        headers={"Authorization": f"Basic {login}"},
    )
    try:
        with _opener(host).open(request, timeout=SECONDS - 0.5) as answer:
            return str(answer.read(_MOST_BYTES).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise PermissionError from error
        raise Failed(f"its exporter answers HTTP {error.code}") from error
    except urllib.error.URLError as error:
        raise Failed(f"no answer from its exporter: {error.reason}") from error
    except OSError as error:
        raise Failed(f"no answer from its exporter: {error}") from error


def _opener(host: Exporter) -> urllib.request.OpenerDirector:
    """Neither a proxy nor another address gets the password."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), NoRedirect()]
    if host.authority:
        context = ssl.create_default_context(cafile=host.authority)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


# --- What it says --------------------------------------------------------------------------------


def _up(samples: Samples) -> str:
    booted = samples.one("node_boot_time_seconds")
    return "answers" if booted is None else f"up for {(samples.ended - booted) / 86400:.1f} days"


def _unasked(samples: Samples, name: str) -> Iterator[Row]:
    """What is not among the rows although it should be."""
    every = samples.by("node_scrape_collector_success", "collector")
    failed = [each for each in _COLLECTORS if every.get(each) == 0]
    if failed:
        said = f"its exporter could not look at {', '.join(failed)}: see its log"
        yield Row(f"{name}: the rest", Level.UNKNOWN, said)


_COLLECTORS = ("filesystem", "meminfo", "systemd", "textfile", "time", "vmstat")


def _disks(config: Config, host: Exporter, samples: Samples, name: str) -> Iterator[Row]:
    size = samples.by("node_filesystem_size_bytes", "mountpoint")
    broken = samples.by("node_filesystem_device_error", "mountpoint")
    mounts = {each for each in (_mount(place, {*size, *broken}) for place in host.disks) if each}
    # Of this host the rows `disk ...` tell already.
    told = {disk.mount_of(each) for each in disk.places(config)} if host.local else set()
    for mount in sorted(mounts - told):
        if mount not in size:
            why = "it cannot be measured: its device does not answer"
            yield Row(f"{name} disk {mount}", Level.CRITICAL, why)
            continue
        of = partial(_value, samples, mount)
        used = of("size_bytes") - of("free_bytes")
        yield disk.row(f"{name} disk {mount}", used, of("avail_bytes"), config.limits["disk"])
        inodes = of("files") - of("files_free")
        yield disk.row(f"{name} inodes {mount}", inodes, of("files_free"), config.limits["disk"])


def _value(samples: Samples, mount: str, what: str) -> float:
    return samples.by(f"node_filesystem_{what}", "mountpoint").get(mount, 0.0)


def _mount(place: str, mounts: set[str]) -> str:
    """The mount point that a directory is on; empty where it is not measured."""
    above = [place, *map(str, Path(place).parents)]
    return next((each for each in above if each in mounts), "")


def _memory(config: Config, samples: Samples, name: str) -> Iterator[Row]:
    total = samples.one("node_memory_MemTotal_bytes")
    available = samples.one("node_memory_MemAvailable_bytes")
    if total and available is not None:
        percent = 100 * (1 - available / total)
        said = f"{available / 2**20:.0f} MB of {total / 2**20:.0f} MB are available"
        yield measured(f"{name} memory", percent, said, config.limits["memory"], "%")
    killed = samples.one("node_vmstat_oom_kill")
    if killed is not None:
        yield Row(f"{name}{KILLED}", Level.OK, "none was killed", value=killed)


# The end of a row's name; kills.py judges it.
KILLED = " out of memory"


def _units(samples: Samples, name: str) -> Iterator[Row]:
    every = samples.by("node_systemd_units", "state")
    if "failed" not in every:
        return
    ours = sorted(
        labels.get("name", "")
        for labels, value in samples.found.get("node_systemd_unit_state", ())
        if labels.get("state") == "failed" and value == 1
    )
    others = int(every["failed"]) - len(ours)
    told = [f"{', '.join(ours)} failed"] if ours else []
    told += [f"{others} of others failed: systemctl --failed"] if others > 0 else []
    level = Level.CRITICAL if ours else Level.WARNING if told else Level.OK
    yield Row(f"{name} units", level, "; ".join(told) or "none failed", value=every["failed"])


def _clock(config: Config, samples: Samples, name: str) -> Iterator[Row]:
    """How far its clock is outside of the time that the answer took."""
    said = samples.one("node_time_seconds")
    if said is None:
        return
    ahead = said - min(max(said, samples.begun), samples.ended)
    told = f"{abs(ahead):.1f} s {'behind' if ahead < 0 else 'ahead of'} the backup host"
    yield measured(f"{name} clock", abs(ahead), told, config.limits["clock"], "s")


def _software(samples: Samples, name: str) -> Iterator[Row]:
    """What the host has looked at itself; nothing where it does not look."""
    old = samples.by("datatier_old_binary", "unit")
    due = samples.by("datatier_updates_due", "kind")
    if not old and not due:
        return
    written = samples.by("node_textfile_mtime_seconds", "file")
    last = max((at for path, at in written.items() if "datatier-host" in path), default=0.0)
    if last and samples.ended - last > _STALE_SECONDS:
        hours = (samples.ended - last) / 3600
        yield Row(f"{name} updates", Level.UNKNOWN, f"was last looked at {hours:.0f} h ago")
        return
    if due:
        yield _updates(samples, due, name)
    if old:
        units = sorted(unit for unit, value in old.items() if value)
        said = f"{', '.join(units)} run a program that is no longer on the disk"
        level = Level.WARNING if units else Level.OK
        yield Row(f"{name} binaries", level, said if units else "none is old", value=len(units))


def _updates(samples: Samples, due: Mapping[str, float], name: str) -> Row:
    security, reboot = due.get("security", 0.0), samples.one("datatier_reboot_required")
    since = samples.one("datatier_updates_due_since_timestamp_seconds")
    days = (samples.ended - since) / 86400 if since else 0.0
    told = [f"{security:.0f} of security, for {days:.0f} days"] if security else []
    told += ["the host is to be started again"] if reboot else []
    level = Level.WARNING if told else Level.OK
    if told and days >= _REBOOT_DAYS:
        level = Level.CRITICAL
    others = f"none of security, {due.get('all', 0.0):.0f} others"
    return Row(f"{name} updates", level, "; ".join(told) or others, value=security)
