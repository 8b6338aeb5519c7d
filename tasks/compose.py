"""Docker: the whole stack on one host as a Compose project, changed container by container."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from typing import Any, cast

from dotenv import dotenv_values
from pyinfra import logger

from tasks import apps, backup, engine, pgbouncer, postgres, project, redis, rolling, sentinel
from tasks.apps import AppsSettings
from tasks.backup import BackupSettings
from tasks.core import files, live, parameters, preflight, remote, services, sql
from tasks.core.change import Change, Line, Trial, converge, refusing
from tasks.core.estate import DOCKER, Component, Estate, Node, components, no_defaults, on
from tasks.core.files import Entry, Found
from tasks.core.preflight import Listener
from tasks.core.remote import Probe, Unreadable, quoted
from tasks.core.services import Activation, Service, Status
from tasks.core.settings import Problem, Settings
from tasks.core.topology import Address
from tasks.engine import Container, Engine
from tasks.pgbouncer import PgbouncerSettings
from tasks.postgres import PostgresSettings
from tasks.project import DockerSettings, contain, one
from tasks.redis import RedisSettings
from tasks.sentinel import SentinelSettings

__all__ = ["COMPONENT", "contain"]

# The format without a version, which 1.27 began and 1.29 finished; Debian 12 has 1.29.2.
OLDEST_COMPOSE = (1, 29)
# A container is called unhealthy after three failed checks, 10 s apart, and a start of its own.
HEALTHY_SECONDS = 300
# One that was ill before the run says so until its next check, which may take 10 s and 10 s more.
UNHEALTHY_SECONDS = 30


# --- What the estate knows of Docker -------------------------------------------------------------


def _secrets(node: Node) -> list[str]:
    return project.generated(_inside(node))


def _inside(node: Node) -> Estate:
    assert node.inside is not None
    return node.inside


def _rules(everything: Estate) -> list[Problem]:
    problems = []
    for node in everything.having(DockerSettings):
        inside = _inside(node)
        problems += [p for component in components() for p in component.rules(inside)]
        problems += _own_rules(node, inside)
    return problems


def _own_rules(node: Node, inside: Estate) -> Iterator[Problem]:
    chosen = node.the(DockerSettings)
    others = sorted({*node.host.groups} & {"postgres", "pgbouncer", "redis", "sentinel", "backup"})
    if others:
        message = f"needs a host without {', '.join(others)}: it runs the whole stack"
        yield Problem(node.name, "group docker", message)
    for settings, most in project.MOST.items():
        if len(inside.having(settings)) > most:
            message = f"should be at most {most}"
            yield Problem(node.name, settings.key("ports"), message)
    server = one(inside, PostgresSettings).the(PostgresSettings)
    if server.version not in (None, chosen.release.postgres):
        message = f"should be {chosen.release.postgres}, which Debian {chosen.debian} has"
        yield Problem(node.name, "postgres_version", message)
    if not chosen.image("postgres"):
        inside_it = postgres.unavailable(one(inside, PostgresSettings), ())
        yield from (replace(each, host=node.name) for each in inside_it)
    if server.locale not in ("C.UTF-8", "C", "POSIX"):
        message = f"should be C.UTF-8 or C: the image has no {server.locale}"
        yield Problem(node.name, "postgres_locale", message)
    taken = {container.service for container in inside.nodes} | {"redis-replica"}
    for app in node.the(AppsSettings).apps:
        if app.name in taken:
            yield Problem(node.name, f"apps/{app.name}", "is the name of a service of the stack")
    yield from pgbouncer.unsupported(one(inside, PgbouncerSettings), chosen.release.pgbouncer)


_PORT_KEYS: dict[type[Settings], str] = {
    PostgresSettings: "postgres_port",
    PgbouncerSettings: "pgbouncer_listen_port",
    RedisSettings: "redis_ports",
    SentinelSettings: "sentinel_ports",
}


def _listens(node: Node) -> list[Listener]:
    """The published ports; Docker's proxy holds them."""
    return [
        Listener(container.port, _PORT_KEYS[settings], container.service, "docker-proxy")
        for container in _inside(node).nodes
        for settings in container.settings
        if container.port
    ]


def _published(node: Node) -> list[Listener]:
    return [*_listens(node), *apps.COMPONENT.listens(node)]


# Services of the host that listen where the stack does, also those of Datatier for plain hosts.
_BOOT = "at_boot 'postgresql|pgbouncer|redis|valkey|keydb|redict'"


# --- Read ----------------------------------------------------------------------------------------


def _built(node: Node) -> dict[str, str]:
    """The services whose image is built here, and its role."""
    chosen = node.the(DockerSettings)
    return {
        service: role for service, role in _roles(node).items() if role and not chosen.image(role)
    }


def _images(node: Node) -> dict[str, str]:
    """The name of every service's image; Compose builds with a `_` or a `-` for the `%`."""
    chosen = node.the(DockerSettings)
    given = {app.name: app.image for app in node.the(AppsSettings).apps}
    return {
        service: given.get(service) or chosen.image(role) or f"{node.stack.stack_name}%{service}"
        for service, role in _roles(node).items()
    }


def _image_of(node: Node, found: Engine, service: str) -> tuple[str, str]:
    """The id and the label of inputs of a service's image, as far as it is there."""
    # No name of an image has a percent sign.
    name = _images(node)[service].replace("%", "_" if found.compose_version < (2,) else "-")
    return found.images.get(name if ":" in name.rpartition("/")[2] else f"{name}:latest", ("", ""))


def _roles(node: Node) -> dict[str, str]:
    """Every service of the project and the role of its image; applications have none."""
    of = {
        PostgresSettings: "postgres",
        PgbouncerSettings: "pgbouncer",
        RedisSettings: "redis",
        SentinelSettings: "redis",
        BackupSettings: "backup",
    }
    roles = {c.service: of[cast(Any, s)] for c in _inside(node).nodes for s in c.settings}
    return {
        **roles,
        "redis-replica": "redis",
        **{app.name: "" for app in node.the(AppsSettings).apps},
    }


def _inside_probes(node: Node) -> dict[str, Probe[Any]]:
    """What containers are asked, by `service.name`."""
    inside = _inside(node)
    asked: list[tuple[Node, str, Probe[Any], str]] = []
    for container in inside.nodes:
        asked += [(container, *question) for question in _questions(node, container)]
    return {
        f"{container.service}.{name}": engine.inside_probe(container, probe, number, stopped)
        for number, (container, name, probe, stopped) in enumerate(asked)
    }


def _questions(node: Node, container: Node) -> Iterator[tuple[str, Probe[Any], str]]:
    if PostgresSettings in container.settings:
        chosen = container.the(PostgresSettings)
        data = postgres.data_directory(container)
        probe = sql.probe(data, ["template1", *chosen.databases])
        there = engine.volume(container, f"{postgres.cluster_version(container)}/main/PG_VERSION")
        yield "server", probe, f"if [ -e {there} ]; then echo down; else echo absent; fi"
    if PgbouncerSettings in container.settings:
        yield "uses", pgbouncer.uses_probe(container), ":"
    if RedisSettings in container.settings:
        home, file = engine.volume(container, ""), engine.volume(container, "redis.conf")
        read = f"role=$(within {home} sed -n 's/^replicaof /replica /p' redis.conf) || exit 1"
        stopped = f'if [ -e {file} ]; then {read}; echo "${{role:-master}}"; else echo absent; fi'
        yield "roles", redis.roles_probe(container), stopped
        secret = redis.password(container)
        # Whichever of them runs.
        yield "sentinels", redis.sentinels_probe(container.estate, secret), ":"
    if SentinelSettings in container.settings:
        there, port = engine.volume(container, "sentinel.conf"), project.SENTINEL_PORT
        stopped = f"if [ -e {there} ]; then echo {port} down; else echo {port} none; fi"
        yield "monitors", sentinel.monitors_probe(container), stopped
        yield "views", sentinel.views_probe(container), ":"
    if BackupSettings in container.settings:
        stanza = f"{node.the(DockerSettings).project_dir}/backups/pgbackrest/archive/*/archive.info"
        yield (
            "stanza",
            backup.stanza_probe(container),
            f"ls {stanza} >/dev/null 2>&1 && echo ok || :",
        )


_RECORD = "/var/lib/datatier/docker"


def _records_probe(node: Node) -> Probe[dict[str, str]]:
    """What was recorded of each service at its last activation."""
    home = f"{_RECORD}/{node.stack.stack_name}"
    script = f"grep -H . {home}/*.active 2>/dev/null | sed 's,^.*/,,; s/[.]active:/ /' || true"
    return Probe(script, lambda lines: dict(cast(Any, line.split(" ", 1)) for line in lines))


def _probes(node: Node) -> dict[str, Probe[Any]]:
    inside, home = _inside(node), node.the(DockerSettings).project_dir
    for container in inside.nodes:
        container.reader = _reader(node, container)
    return {
        "files": files.probe(_entries(node)),
        "kernel": redis.kernel_probe(),
        "artifacts": backup.artifacts_probe(f"{home}/backups"),
        "occupied": files.occupied_probe("backups", f"{home}/backups"),
        "taken": files.occupied_probe("docker", f"{home}/docker"),
        "engine": engine.probe(node, _images(node)),
        "boot": Probe(f"{preflight.AT_BOOT}\n{_BOOT}\n", list),
        "records": _records_probe(node),
        **_inside_probes(node),
    }


def _reader(node: Node, container: Node) -> Callable[[str], dict[str, Any]]:
    def read(_group: str) -> dict[str, Any]:
        said = node.read(DOCKER)
        prefix = f"{container.service}."
        mine = {k.removeprefix(prefix): v for k, v in said.items() if k.startswith(prefix)}
        return {"sentinels": [], **mine}

    return read


def _checks(node: Node) -> list[Problem]:
    said = node.read(DOCKER)
    unfit = [Problem(node.name, key, message) for key, message in _unfit(node, said["engine"])]
    config = f"{node.the(DockerSettings).project_dir}/docker/backup/backup.json"
    keeper = one(_inside(node), BackupSettings)
    before = said["files"][config].content
    return [
        *unfit,
        *backup.other_passphrase(keeper, before, there=said["artifacts"]),
        *(
            Problem(node.name, "docker_project_dir", why)
            for why in (*said["occupied"], *said["taken"])
        ),
        *preflight.at_boot(node, _published(node), said["boot"]),
        *_unremovable(node),
    ]


def _in_use(node: Node) -> Mapping[str, str]:
    said, home = node.read(DOCKER), node.the(DockerSettings).project_dir
    server = one(_inside(node), PostgresSettings)
    text = said["files"][f"{home}/.env"].content.decode(errors="replace")
    known = dotenv_values(stream=StringIO(text), interpolate=False)
    config = f"{home}/docker/backup/backup.json"
    return {
        **postgres.in_use(server, said["postgres.server"], is_foreign=False),
        **backup.in_use(said["files"][config].content, config),
        **{name: f"{home}/.env" for name, value in known.items() if value},
    }


def _unfit(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    if found.version == "absent":
        yield (
            "docker",
            "is not installed: apt-get install docker.io docker-compose, or Docker's own",
        )
        return
    if found.version == "down":
        yield "docker", "the engine does not answer: systemctl start docker, then see its journal"
        return
    if not found.compose:
        yield "docker-compose", "is not installed: apt-get install docker-compose"
        return
    if found.compose_version < OLDEST_COMPOSE:
        version = ".".join(map(str, found.compose_version))
        yield "docker-compose", f"{version} is too old: 1.29 or newer is needed"
        return
    yield from _conflicts(node, found)


def _conflicts(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    chosen, wanted = node.the(DockerSettings), ipaddress.ip_network(node.the(DockerSettings).subnet)
    for listener in _published(node):
        if owner := found.foreign.get(listener.port):
            yield listener.key, f"port {listener.port} is published by the container {owner}"
    for name, subnets in found.networks.items():
        for subnet in subnets.split():
            if ":" not in subnet and ipaddress.ip_network(subnet).overlaps(wanted):
                message = f"{wanted} overlaps {subnet} of the network {name}: choose another one"
                yield "docker_subnet", message
    yield from _in_the_way(node, found)
    yield from _overridden(node, found)
    version = chosen.release.postgres
    if found.cluster and found.cluster != version:
        yield (
            "docker_debian",
            (
                f"{chosen.debian} has PostgreSQL {version}, and the volume has a cluster of "
                f"{found.cluster}: dump it, and load it in a new stack"
            ),
        )
    if found.stranger:
        yield (
            "stack_name",
            (
                f"{found.stranger} has a cluster of PostgreSQL that another image made: dump it, "
                "and give this stack another name or move the volume away"
            ),
        )
    places = {container.place for container in found.containers} - {chosen.project_dir}
    if places:
        yield (
            "docker_project_dir",
            (
                f"the project runs from {min(places)}: docker-compose down there, "
                f"mv {min(places)} {chosen.project_dir}, and run again"
            ),
        )


def _overridden(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """What makes Compose see another project than we do."""
    key, home = "docker_project_dir", node.the(DockerSettings).project_dir
    for name in found.instead:
        yield key, f"{home}: {name} changes what Compose reads: use {engine.OVERRIDE} for that"
    if found.wrong:
        beside = f" with {engine.OVERRIDE}" if found.is_overridden else ""
        yield key, f"{home}: Compose refuses docker-compose.yml{beside}: {found.wrong}"
    elif found.hashes and (hidden := sorted({*_roles(node)} - {*found.hashes})):
        yield key, f"{home}: {engine.OVERRIDE} hides {', '.join(hidden)}: remove its profile"


def _in_the_way(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """What would keep a network that is to be another one: Compose removes only its own."""
    if not _moved(node, found):
        return
    surplus = {container.name.lstrip("/") for container in _surplus(node)}
    mine = {container.name.lstrip("/") for container in found.containers} - surplus
    for name in sorted(found.attached - mine):
        if name in surplus and node.the(DockerSettings).prune:
            continue
        how = "docker_prune would remove it" if name in surplus else "remove it, or disconnect it"
        why = (
            f"the container {name} is in the network {found.network[0]}, which has to be recreated"
        )
        yield "docker_subnet", f"{why}: {how}"


# --- Install -------------------------------------------------------------------------------------


def install() -> None:
    """Writes the project directory and builds the images; nothing is started."""
    _write()
    _build()


@on(DockerSettings)
def _write(node: Node) -> None:
    converge("Docker: files", lambda: _project_files(node))


@on(DockerSettings)
def _build(node: Node) -> None:
    converge("Redis: kernel", lambda: redis.kernel(node, node.read(DOCKER)["kernel"]))
    for role in project.ROLES:
        converge(f"Docker: image {role}", lambda role=role: _image(node, role))  # type: ignore[misc]


def _project_files(node: Node) -> Change | None:
    found = cast(Mapping[str, Found], node.read(DOCKER)["files"])
    now = found[f"{node.the(DockerSettings).project_dir}/.env"].content.decode(errors="replace")
    change = files.compare(_entries(node, now), found)
    return change and change.after(_trials(node, found))


def _trials(node: Node, found: Mapping[str, Found]) -> Iterator[Trial]:
    """Of the configurations that are to change, in the containers that have them."""
    docker, said = f"{node.the(DockerSettings).project_dir}/docker", node.read(DOCKER)["engine"]
    for container, trial, texts in _tried(_inside(node)):
        running = any(c.status == "running" for c in said.of(container.service))
        if running and any(found[f"{docker}/{f}"].content != t.encode() for f, t in texts.items()):
            name = f"TRIAL_OF_{container.service.replace('-', '_')}"
            script = f'{engine.INSIDE}\ninside {engine.container_name(container)} "${name}"'
            inner = engine.inner(f"set -eu\n{trial.script}", trial.variables)
            yield Trial(script, {name: inner})


def _tried(inside: Estate) -> Iterator[tuple[Node, Trial, dict[str, str]]]:
    """Containers with the trial of their configuration, and its files."""
    server, pooler = one(inside, PostgresSettings), one(inside, PgbouncerSettings)
    text, access = project.postgres_configuration(server), postgres.access(server)
    trial = postgres.trial(server, "postgresql.conf", text, access)
    yield server, trial, {"postgres/postgresql.conf": text, "postgres/pg_hba.conf": access}
    ini, users = pgbouncer.configuration(pooler), pgbouncer.users(pooler)
    names = "pgbouncer/pgbouncer.ini", "pgbouncer/userlist.txt"
    yield pooler, pgbouncer.trial(ini, users), dict(zip(names, (ini, users), strict=True))
    # The replicas have the same.
    first, name = inside.having(RedisSettings)[0], "redis/redis-master.conf"
    text = redis.configuration(first, project.REDIS_PORT)
    yield first, redis.trial(text, f"/etc/{name}"), {name: text}


def _entries(node: Node, environment: str = "") -> list[Entry]:
    kernel = redis.KERNEL_FILES if node.manager == "systemd" else ()
    return [*project.files(node, environment), *kernel]


def _image(node: Node, role: str) -> Change | None:
    stale = [service for service, of in _stale(node).items() if of == role]
    if not stale:
        return None
    script = f"""{engine.COMPOSE}
cd {quoted(node.the(DockerSettings).project_dir)}
log=$(mktemp -p /run); trap 'rm -f "$log"' EXIT
for service in {quoted(*stale)}; do
  $compose build "$service" >"$log" 2>&1 </dev/null || {{
    why=$(grep -E '^E: |[Ee]rror|ERROR|failed' "$log" | tail -n 1)
    echo "the image of $service could not be built: ${{why:-$(tail -n 1 "$log")}}" >&2; exit 1; }}
done
"""
    return Change([f"image {role}: build"], script)


def _stale(node: Node) -> dict[str, str]:
    """The services whose image is not what it should be built from, and its role."""
    found = cast(Engine, node.read(DOCKER)["engine"])
    wanted = project.inputs(_inside(node), node.the(DockerSettings))
    stale = {
        service: role
        for service, role in _built(node).items()
        if _image_of(node, found, service)[1] != wanted[role]
    }
    # Whoever cleans up takes an image that no container has; `up --scale` builds it.
    if "redis-master" not in stale and not _is_scaled(node, found):
        stale.pop("redis-replica", None)
    return stale


def _is_scaled(node: Node, found: Engine) -> bool:
    """Whether there are further replicas, or have been."""
    return bool(found.of("redis-replica") or _image_of(node, found, "redis-replica")[0])


# --- Configure -----------------------------------------------------------------------------------


def configure() -> None:
    """Writes the project directory, makes every container follow it, and sets what is live."""
    _write()
    _prune()
    activate()
    _converge_inside()
    _applications()


@on(DockerSettings)
def _converge_inside(node: Node) -> None:
    inside = _inside(node)
    server, keeper = one(inside, PostgresSettings), one(inside, BackupSettings)
    watchers = inside.having(SentinelSettings)
    converge("PostgreSQL: roles and databases", lambda: _within({server: _statements(server)}))
    postgres.prune(
        server,
        lambda: cast(sql.Server, server.read("postgres")["server"]),
        lambda change: _within({server: change}),
    )
    instances = inside.having(RedisSettings)
    converge(
        "Redis: prune",
        lambda: _within({each: redis.prune(each) for each in instances}),
        notices=lambda: [line for each in instances for line in redis.unknown_users(each)],
    )
    converge("Sentinel: monitoring", lambda: _within({w: sentinel.monitoring(w) for w in watchers}))
    gone = _leaving(node)
    converge(
        "Sentinel: prune",
        lambda: _within({w: sentinel.prune(w, gone) for w in watchers}),
        notices=lambda: [line for w in watchers for line in sentinel.remembered(w, gone)],
    )
    converge("Backup: repository", lambda: _within({keeper: _new_stanza(keeper)}))


def _statements(server: Node) -> Change | None:
    return postgres.statements(server, server.read("postgres")["server"])


def _new_stanza(keeper: Node) -> Change | None:
    return None if keeper.read("backup")["stanza"] else backup.new_stanza(keeper)


def _within(changes: Mapping[Node, Change | None]) -> Change | None:
    """Changes that are carried out in containers."""
    due = {container: change for container, change in changes.items() if change is not None}
    if not due:
        return None
    script, lines, variables = engine.INSIDE, list[str](), dict[str, str]()
    for number, (container, change) in enumerate(due.items()):
        inner = engine.inner(f"set -eu\numask 022\n{change.script}", change.variables)
        variables[f"INSIDE_{number}"] = inner
        script += f'inside {engine.container_name(container)} "$INSIDE_{number}" >/dev/null\n'
        lines += change.lines
    return Change(lines, script, variables)


# --- Prune ---------------------------------------------------------------------------------------


@on(DockerSettings)
def _prune(node: Node) -> None:
    # What is removed is what this run could show.
    shown = {each.name for each in _surplus(node)}
    converge(
        "Docker: prune",
        lambda: _pruned(node, [each for each in _surplus(node) if each.name in shown]),
        notices=lambda: told(node),
    )


def _surplus(node: Node) -> list[Container]:
    """The containers of services that neither the settings nor the file beside ours have."""
    found = cast(Engine, node.read(DOCKER)["engine"])
    known = {*_roles(node), *found.hashes}
    return [each for each in found.containers if each.service not in known]


def told(node: Node) -> Iterator[str]:
    if not node.the(DockerSettings).prune:
        for each in _surplus(node):
            yield f"{each.service}: is not in the project any more; docker_prune would remove it"


def _pruned(node: Node, surplus: list[Container]) -> Change | None:
    if not surplus or not node.the(DockerSettings).prune:
        return None
    for problem in _unremovable(node):
        raise Unreadable(f"{problem.key}: {problem.message}")
    lines, script = list[str](), _TAKE
    for each in surplus:
        name = f"{node.stack.stack_name}_{each.service.replace('-', '_')}_data"
        kept = each.service.startswith(("redis-master", "redis-replica"))
        volume = name if each.service.startswith("redis-") else ""
        destroys = bool(volume) and (node.stack.destroy or not kept)
        line = Line(f"{each.service}: stop and remove", "restart")
        if kept and destroys:
            line = Line(f"{line}, with its volume {volume}", "destroys data")
        elif kept:
            line = Line(f"{line}; its data stay in the volume {volume}", "restart")
        lines.append(line)
        how = "destroy" if destroys else "keep"
        script += f"take {quoted(each.name.lstrip('/'), volume, how)}\n"
        script += f"rm -f {_RECORD}/{node.stack.stack_name}/{quoted(each.service)}.active\n"
    return Change(lines, script)


# Whose replica it is may be another's when it comes back.
_TAKE = """
root=$(docker info -f '{{.DockerRootDir}}')
take() { # CONTAINER VOLUME HOW
  docker stop "$1" >/dev/null
  [ ! -d "$root/volumes/$2/_data" ] || within "$root/volumes/$2/_data" rm -f redis.conf
  docker rm "$1" >/dev/null
  [ "$3" != destroy ] || docker volume rm "$2" >/dev/null
}
"""


def _leaving(node: Node) -> set[Address]:
    """Where Redis and Sentinel are that this run removes."""
    chosen = node.the(DockerSettings)
    if not chosen.prune:
        return set()
    ports = {True: project.SENTINEL_PORT, False: project.REDIS_PORT}
    return {
        Address(place, ports["sentinel" in each.service])
        for each in _surplus(node)
        if (place := project.address_of(chosen, each.service))
    }


def _unremovable(node: Node) -> list[Problem]:
    """What a run is refused for that would remove containers, or make Sentinels forget."""
    gone, inside = _leaving(node), _inside(node)
    problems = []
    if gone and redis.current_master(inside) in gone:
        message = "the master would be removed: fail over first (docs/failover.md)"
        problems.append(Problem(node.name, "docker_prune", message))
    for watcher in inside.having(SentinelSettings):
        problems += sentinel.unforgettable(watcher, gone)
    return [*dict.fromkeys(problems)]


# --- Activate ------------------------------------------------------------------------------------


@on(DockerSettings)
def activate(node: Node) -> None:
    """Creates, recreates, starts, reloads what is due, and waits until all of it is healthy."""
    stack = {service for service, role in _roles(node).items() if role}
    with refusing(node.host):
        _containers(node, stack)
    converge("Docker: containers", lambda: _containers(node, stack))


@on(DockerSettings)
def failover(node: Node) -> None:
    """Makes a replica the master; each run of it does so, and no acknowledged write is lost."""
    with refusing(node.host):
        change = _failover(node)
    converge("Redis: failover", lambda: change)


@on(DockerSettings)
def _applications(node: Node) -> None:
    """The same for applications: they are healthy only where roles and Sentinels are set."""
    mine = {service for service, role in _roles(node).items() if not role}
    converge("Docker: applications", lambda: _containers(node, mine))


@dataclass(frozen=True)
class _Reloadable:
    """A service whose configuration changes without a new container.

    Attributes:
        lines: what it uses and should not.
    """

    node: Node
    service: Service
    activation: Activation
    now: Status
    variables: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    lines: Sequence[str] = ()


def _reloadables(node: Node) -> Iterator[_Reloadable]:
    inside = _inside(node)
    server, pooler = one(inside, PostgresSettings), one(inside, PgbouncerSettings)
    text = project.postgres_configuration(server)
    service = postgres.service_of(server, partial(_console, node))
    home = node.the(DockerSettings).project_dir
    found = node.read(DOCKER)["files"][f"{home}/docker/postgres/postgresql.conf"]
    said = server.read("postgres")["server"]
    now, ours = _status(node, service.name), postgres.configuration_directory(server)
    wanted = _activation(service, "", text + postgres.access(server))
    elsewhere = parameters.only_known(
        parameters.others(said, text, f"{ours}/postgresql.conf"),
        due=services.impact(wanted, now) is not None,
    )
    data = postgres.data_directory(server)
    service, variables = parameters.putting_back(service, elsewhere, data)
    means = postgres.impact(server, found.content, text, said, elsewhere)
    yield _Reloadable(
        server,
        service,
        replace(wanted, service=service, reload_means=means),
        parameters.status(now, elsewhere),
        variables,
        lines=parameters.sentences(elsewhere),
    )
    service = pgbouncer.service_of(pooler)
    contents = pgbouncer.configuration(pooler) + pgbouncer.users(pooler)
    fixed = pgbouncer.fixed(pooler)
    keys = services.fingerprints(fixed)
    wanted = _activation(service, str(fixed), contents, keys=keys)
    now = _status(node, service.name)
    moved = {} if services.impact(wanted, now) else pgbouncer.moved(pooler)
    now, lines = pgbouncer.status(now, moved), live.sentences(service.name, moved)
    wanted = pgbouncer.letting_in(pgbouncer.because(wanted, now), pooler, moved)
    yield _Reloadable(pooler, wanted.service, wanted, now, lines=lines)
    for container in inside.having(RedisSettings):
        now = _status(node, container.service)
        yield _redis_reloadable(container, container.service, now)
    for container in inside.having(SentinelSettings):
        content = sentinel.configuration(container, project.SENTINEL_PORT)
        watcher = Service(container.service, "", "", "redis", "redis", ready=":", reload=":")
        now = _status(node, container.service)
        yield _Reloadable(container, watcher, _activation(watcher, content, ""), now)


def _console(node: Node, pooler: Node) -> str:
    """The command that gives the console of a pooler's container "$3"."""
    port = pooler.the(PgbouncerSettings).listen_port
    psql = f"psql -XAtqw -h /run/postgresql -p {port} -U pgbouncer -d pgbouncer"
    return f'timeout "$2" docker exec {engine.container_name(pooler)} {psql} -c "$3"'


def _redis_reloadable(container: Node, name: str, now: Status) -> _Reloadable:
    port = project.REDIS_PORT
    file = "redis-master" if name == "redis-master" else "redis-replica"
    service = replace(redis.service_of(container, port, f"/etc/redis/{file}.conf"), name=name)
    keys, settable = redis.keys(container, port), redis.settable(container, port)
    activation = _activation(service, redis.fixed(container, port), settable, keys=keys)
    now = redis.known(container, port, activation, now)
    activation = replace(activation, restart_means=rolling.because(activation, now))
    activation, status = redis.watched(container, port, activation, now)
    variables = {
        "REDIS_PASSWORD": redis.password(container),
        f"CONFIG_{port}": redis.config_set(container, port),
        f"FORGET_{port}": redis.forgotten(activation, now),
    }
    return _Reloadable(container, service, activation, status, variables, redis.SHELL)


def _activation(
    service: Service, fixed: str, contents: str, means: str = "reload", keys: Any = ()
) -> Activation:
    return Activation(service, files.digest(fixed), files.digest(contents), means, frozenset(keys))


def _containers(node: Node, names: Set[str]) -> Change | None:
    found = cast(Engine, node.read(DOCKER)["engine"])
    due = {service: means for service, means in _due(node, found) if service in names}
    mine = (each for each in _reloadables(node) if each.service.name in names)
    taking = [(each, act) for each in mine if (act := _impact(each, due))]
    moved = _moved(node, found) if "postgres" in names else ""
    if not due and not taking:
        return _unhealthy(node, found, names)
    lines = {service: services.line(service, means) for service, means in due.items()}
    lines |= {each.service.name: services.said(each.activation, act) for each, act in taking}
    said = [Line(moved, "restart")] if moved else []
    said += [Line(line, "none") for each, _ in taking for line in each.lines]
    said += _led(node, found, lines, _services_to_roll(node, found, due, taking))
    script, variables = _script(node, found, due, taking)
    return Change([*said], script, variables, then=lambda: _settle(node, names))


def _moved(node: Node, found: Engine) -> str:
    """What happens when the network is to be another one; empty when it is not."""
    chosen, (name, subnet) = node.the(DockerSettings), found.network
    anew = "every container is recreated; their volumes stay"
    if not name:
        is_gone = found.containers and chosen.network not in found.networks
        return f"network {chosen.network}: is gone: {anew}" if is_gone else ""
    if (name, subnet) == (chosen.network, chosen.subnet):
        return ""
    return f"network {name} {subnet}: becomes {chosen.network} {chosen.subnet}: {anew}"


def _unhealthy(node: Node, found: Engine, services: Set[str]) -> Change | None:
    sick = [c.service for c in found.containers if c.health == "unhealthy"]
    lines = [f"{service}: is unhealthy: wait" for service in sick if service in services]
    return Change(lines, ":", then=lambda: _settle(node, services)) if lines else None


def _due(node: Node, found: Engine) -> Iterator[tuple[str, str]]:
    """The services whose container is not the right one, and what happens to it."""
    stale = _stale(node)
    for service in _roles(node):
        there = found.of(service)
        if not there:
            if service != "redis-replica":
                yield service, "create"
        elif why := _why(node, found, service, there, stale):
            yield service, f"recreate ({why}): it restarts, and its data stay"
        elif any(container.status != "running" for container in there):
            yield service, "start"


def _why(
    node: Node, found: Engine, service: str, there: list[Container], stale: Mapping[str, str]
) -> str:
    image = _image_of(node, found, service)[0]
    if service in stale or (image and any(c.image != image for c in there)):
        return "image"
    if _moved(node, found):
        return "network"
    if any(c.hash != found.hashes.get(service) for c in there):
        return "docker-compose.yml" + f", {engine.OVERRIDE}" * found.is_overridden
    return ""


def _impact(each: _Reloadable, due: Mapping[str, str]) -> str:
    """What a container that stays as it is has to do; empty for nothing."""
    if each.service.name in due:
        return ""
    return services.impact(each.activation, each.now) or ""


def _status(node: Node, service: str) -> Status:
    """What was recorded of a service that runs."""
    record = node.read(DOCKER)["records"].get(service, "none none")
    restart, reload, *keys = record.split(" ")
    return Status(True, True, restart, reload, frozenset(keys))


_FUNCTIONS = (
    engine.INSIDE
    + """
record() { # SERVICE WORDS
  install -d -m 700 __HOME__
  printf '%s\\n' "$2" >"__HOME__/$1.active.new"; mv "__HOME__/$1.active.new" "__HOME__/$1.active"
}
# A container that has to read its configuration again, or to restart for that.
take() { # CONTAINER SCRIPT READY
  said=$(inside "$1" "$2") || exit 1
  case $said in *!restart*) again "$1" "$3" ;; esac
}
again() { # CONTAINER READY
  hold; docker restart -t 300 "$1" >/dev/null; inside "$1" "$2"; release
}
hold() { :; }
release() { :; }
__COMPOSE__
up() {
  $compose up -d --no-deps --no-build "$@" >"$err" 2>&1 </dev/null || {
    why=$(grep -E 'ERROR: for|^Error|rror response' "$err" | head -n 1)
    echo "docker-compose up: ${why:-$(tail -n 1 "$err")}" >&2; exit 1; }
}
leave() { # NETWORK
  $compose down >"$err" 2>&1 </dev/null ||
    { echo "docker-compose down: $(tail -n 1 "$err")" >&2; exit 1; }
  docker network rm "$1" >/dev/null 2>&1 || :
}
keep_password() {
  (umask 077; printf '%s\\n' "$REDIS_PASSWORD" >docker/redis/.auth.new)
  chown 0:__REDIS__ docker/redis/.auth.new; chmod 640 docker/redis/.auth.new
  mv docker/redis/.auth.new docker/redis/redis-cli.auth
}
cd __DIR__
[ -e docker/redis/redis-cli.auth ] || keep_password
"""
)


def _script(
    node: Node,
    found: Engine,
    due: Mapping[str, str],
    live: list[tuple[_Reloadable, str]],
) -> tuple[str, dict[str, str]]:
    secret = redis.password(_inside(node).having(RedisSettings)[0])
    variables = {"REDIS_PASSWORD": secret}
    script = _FUNCTIONS
    for word, value in {
        "__HOME__": f"{_RECORD}/{node.stack.stack_name}",
        "__COMPOSE__": engine.COMPOSE,
        "__REDIS__": project.REDIS,
        "__DIR__": quoted(node.the(DockerSettings).project_dir),
    }.items():
        script = script.replace(word, value)
    steps = []
    if _moved(node, found):
        steps.append(f"leave {quoted(found.network[0] or node.the(DockerSettings).network)}")
    to_roll = _services_to_roll(node, found, due, live)
    together = [service for service in due if service not in to_roll]
    # Whenever a new container starts, it starts with the current files.
    steps += [_recorded(each) for each in _reloadables(node) if each.service.name in together]
    if not _moved(node, found) and due.get("postgres", "").startswith("recreate"):
        together.remove("postgres")
        server = next(each for each in _reloadables(node) if each.service.name == "postgres")
        variables["READY"] = _answering(server)
        again = f'inside {engine.container_name(server.node)} "$READY"'
        steps += [_waiting(server), "hold", "up postgres", again, "release"]
    if together:
        steps.append(_up(found, together))
    for number, (each, said) in enumerate(live):
        if each.service.name not in to_roll:
            steps.append(_waiting(each))
            variables[f"INSIDE_{number}"] = _taking(each, said)
            variables[f"READY_{number}"] = _answering(each)
            steps += [_live_step(container, number, said) for container in _same(found, each)]
            steps.append(_recorded(each))
    if to_roll:
        rolled, of_rolling = _rolled(node, found, due, to_roll)
        steps.append(rolled)
        variables |= of_rolling
    steps.append("keep_password")
    return script + "\n".join(steps), variables


def _up(found: Engine, wanted: Sequence[str]) -> str:
    """Recreates containers; Compose 2 knows nothing of services that it is not to start."""
    count = len(found.of("redis-replica"))
    scale = f"--scale redis-replica={count} " if "redis-replica" in wanted else ""
    return f"up {scale}{quoted(*wanted)}"


def _same(found: Engine, each: _Reloadable) -> list[str]:
    """The containers that take a service's configuration: scaled replicas that of the replicas."""
    names = [engine.container_name(each.node)]
    if each.service.name == "redis-replica-1":
        names += [container.name.lstrip("/") for container in found.of("redis-replica")]
    return names


def _waiting(each: _Reloadable) -> str:
    """What makes the clients of a service wait while it restarts."""
    return f"hold() {{\n{each.service.hold}\n}}\nrelease() {{\n{each.service.release}\n}}"


def _taking(each: _Reloadable, said: str) -> str:
    act = ":" if said == "restart" else each.service.reload
    restart = "restart_service() { echo '!restart'; }\nagain() { restart_service; }"
    return engine.inner(
        f"set -eu\n{restart}\n{each.before}\n{each.service.check}\n{act}", each.variables
    )


def _answering(each: _Reloadable) -> str:
    """Waits in a container that was restarted; the next one has to wait for that."""
    wait = f"for _ in $(seq {services.START_SECONDS * 5}); do ready && exit 0; sleep 0.2; done"
    ready = f"ready() {{ ({each.service.ready}) >/dev/null 2>&1; }}"
    failed = "echo 'does not answer after its restart' >&2; exit 1"
    return engine.inner(f"{each.before}\n{ready}\n{wait}\n{failed}", each.variables)


def _live_step(container: str, number: int, said: str) -> str:
    name, ready = quoted(container), f'"$READY_{number}"'
    step = f'take {name} "$INSIDE_{number}" {ready}'
    return f"{step}; again {name} {ready}" if said == "restart" else step


def _recorded(each: _Reloadable) -> str:
    wanted = each.activation
    words = " ".join((wanted.restart, wanted.reload, *sorted(wanted.keys)))
    return f"record {quoted(each.service.name, words)}"


# --- Roll ----------------------------------------------------------------------------------------


def _services_to_roll(
    node: Node, found: Engine, due: Mapping[str, str], live: list[tuple[_Reloadable, str]]
) -> list[str]:
    """The services of Redis and Sentinel that run and restart, one after the other."""
    if _moved(node, found):
        return []
    starting = {service for service, means in due.items() if means.startswith("recreate")}
    instances = [*(c.service for c in _inside(node).having(RedisSettings)), "redis-replica"]
    starting |= {e.service.name for e, act in live if act == "restart"} & {*instances}
    running = {each.service for each in found.containers if each.status == "running"}
    order = [*instances, *_watchers(node)]
    return [service for service in order if service in starting & running]


def _watchers(node: Node) -> list[str]:
    return [container.service for container in _inside(node).having(SentinelSettings)]


def _led(node: Node, found: Engine, said: Mapping[str, Line], to_roll: Sequence[str]) -> list[Line]:
    """The sentences of the plan; a master that is to restart hands over, and comes last.

    Raises:
        Unreadable: nobody knows who the master is, or nobody can replace it.
    """
    lines = [*said.values()]
    if not [service for service in to_roll if service not in _watchers(node)]:
        return lines
    inside = _inside(node)
    leader = redis.current_master(inside)
    places = {each.address: each.service for each in inside.having(RedisSettings)}
    name = places.get(leader.ip, "redis-replica")
    if name not in to_roll:
        return lines
    lines.remove(said[name])
    if alone := _alone(inside):
        means = f"{said[name]}; {alone}: unavailable meanwhile"
        return [*lines, Line(means, said[name].impact)]
    running = {each.service for each in found.containers if each.status == "running"}
    rolling.require(inside, leader, name, is_starting=not {*places.values()} <= running)
    means = f"failover (master of {sentinel.master_name(inside)}; restart follows)"
    return [*lines, services.line(name, means), said[name]]


def _alone(inside: Estate) -> str:
    """Why the master restarts in place: nobody else is there, or it has another password."""
    instances = inside.having(RedisSettings)
    if why := rolling.alone(instances[0]):
        return why
    with contextlib.suppress(Unreadable):
        leader = redis.current_master(inside)
        for node in instances:
            if node.address == leader.ip and "requirepass" in redis.moved(node, project.REDIS_PORT):
                return rolling.OTHER_PASSWORD
    return ""


def _rolled(
    node: Node, found: Engine, due: Mapping[str, str], to_roll: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Shell that starts instances again, whoever leads last, and then Sentinels."""
    wanted = {each.service.name: each for each in _reloadables(node)}
    redis_first = [service for service in to_roll if service not in _watchers(node)]
    steps, rounds = [remote.shell("roll")], list[str]()
    for number, service in enumerate(redis_first):
        if service in due:
            names = [container.name.lstrip("/") for container in found.of(service)]
            act = f'{_remade(found, service, wanted)}\nfollows "$@"'
        else:
            names = _same(found, wanted[service])
            act = f'restarts "$@"\n{_recorded(wanted[service])}'
        steps.append(f"roll_{number}() {{\n{act}\n}}")
        rounds.append(f"roll {number} {quoted(*names)}")
    steps += ["for round in 1 2; do", *rounds, "done"] if rounds else []
    for service in to_roll[len(redis_first) :]:
        name = engine.container_name(wanted[service].node)
        steps.append(f'{_remade(found, service, wanted)}\ninside {name} "$WATCHES"')
    return "\n".join(steps), _rolling_scripts(_inside(node), _alone(_inside(node)))


def _remade(found: Engine, service: str, wanted: Mapping[str, _Reloadable]) -> str:
    # A new container starts with the current files.
    record = _recorded(wanted[service]) if service in wanted else ":"
    return f"{record}\n{_up(found, [service])}"


def _rolling_scripts(inside: Estate, alone: str) -> dict[str, str]:
    """What containers of Redis and Sentinel are asked while they restart."""
    first, port = inside.having(RedisSettings)[0], project.REDIS_PORT
    secret = {"REDIS_PASSWORD": redis.password(first)}
    words = quoted(sentinel.master_name(inside), *map(str, sentinel.endpoints(inside)))
    seconds = services.START_SECONDS
    hand_over, follow = f'hand_over "$(hostname -i)" {port} Redis {words}', f"follow {port} Redis"
    if alone:
        hand_over, follow = ":", ":"
    scripts = {
        "ROLE": _ROLE.format(port=port, words=words),
        "HAND_OVER": hand_over,
        "FOLLOW": f"within {seconds} loaded {port} || {{ {_SILENT}; }}; {follow}",
        "WATCHES": _WATCHES.format(words=words, port=project.SENTINEL_PORT, seconds=seconds),
    }
    return {
        word: engine.inner(f"set -eu\n{rolling.FUNCTIONS}\n{script}", secret)
        for word, script in scripts.items()
    }


# One that has another password says nothing; the Sentinels know who leads.
_ROLE = """
set -- $(position 127.0.0.1 {port}); role=$1
case $role$(echo PING | ask 127.0.0.1 {port}) in -*WRONGPASS* | -*NOAUTH*)
  set -- {words}; name=$1; shift
  for sentinel; do
    leader=$(monitor "${{sentinel%:*}}" "${{sentinel#*:}}")
    case $leader in
      "$(hostname -i) {port} "*) role=refuses; break ;;
      [0-9]*.*) role=slave; break ;;
    esac
  done ;;
esac
echo "$role"
"""

_SILENT = "echo 'Redis does not answer: see its log' >&2; exit 1"

# One that was never told whom to watch is told later in the run.
_WATCHES = """
set -- {words}; name=$1
watches() {{
  case $(monitor 127.0.0.1 {port}) in [0-9]* | *'No such master'*) ;; *) return 1 ;; esac
}}
within {seconds} watches || {{ echo 'the Sentinel does not answer' >&2; exit 1; }}
"""


def _failover(node: Node) -> Change:
    """The hand-over of the master, decided now: the next one is not to hand over too.

    Raises:
        Unreadable: nobody knows who the master is, or nobody can replace it.
    """
    inside, found = _inside(node), cast(Engine, node.read(DOCKER)["engine"])
    leader, chosen = redis.current_master(inside), node.the(DockerSettings)
    there = [c for c in found.containers if project.address_of(chosen, c.service) == leader.ip]
    there = there or found.of("redis-replica")
    if not there:
        raise Unreadable(f"the master {leader} is no container of the project")
    # One that left the settings hands over to those that are in them.
    leaves = leader not in redis.addresses(inside)
    alone = "" if leaves else _alone(inside)
    if why := alone or rolling.obstacle(inside, leader, is_starting=leaves):
        raise Unreadable(f"nobody can replace the master {there[0].service}: {why}")
    means = f"failover (master of {sentinel.master_name(inside)}; becomes a replica)"
    names = [each.name.lstrip("/") for each in there]
    script = f"{engine.INSIDE}\n{remote.shell('roll')}\nleaves {quoted(*names)}"
    return Change([services.line(there[0].service, means)], script, _rolling_scripts(inside, alone))


# --- Wait ----------------------------------------------------------------------------------------


def _settle(node: Node, services: Set[str]) -> str:
    """Waits until these containers are healthy; returns what is wrong, or nothing."""
    hopeful, told = time.monotonic(), ""
    end = hopeful + HEALTHY_SECONDS
    while True:
        waiting = _not_healthy(node, services)
        if not waiting:
            return ""
        if any(state != "unhealthy" for _, state in waiting.values()):
            hopeful = time.monotonic()
        if time.monotonic() > min(end, hopeful + UNHEALTHY_SECONDS):
            return _last_words(node, waiting)
        said = ", ".join(f"{service} ({state})" for service, (_, state) in waiting.items())
        if said != told:
            logger.info(f"{node.host.print_prefix}  waiting for {said}")
            told = said
        time.sleep(1)


def _not_healthy(node: Node, services: Set[str]) -> dict[str, tuple[str, str]]:
    script = engine.states(node)
    output = remote.run(node.host, script)
    if not output.ok:
        raise Unreadable(f"docker: {output.last_word}")
    waiting = {}
    for line in output.stdout:
        service, name, status, health = line.split("|")
        if service in services and (status != "running" or health not in ("healthy", "")):
            waiting[service] = (name.lstrip("/"), health if status == "running" else status)
    return waiting


def _last_words(node: Node, waiting: Mapping[str, tuple[str, str]]) -> str:
    """The ends of the logs of what did not become healthy."""
    names = [name for name, _ in waiting.values()]
    script = "\n".join(
        f"echo {quoted(name)}:; docker logs --tail 10 {quoted(name)} 2>&1" for name in names
    )
    for line in remote.run(node.host, script).stdout:
        logger.error(f"{node.host.print_prefix}  {line}")
    states = ", ".join(f"{service} ({state})" for service, (_, state) in waiting.items())
    return f"not healthy after {HEALTHY_SECONDS} s at most: {states}"


def deploy() -> None:
    """The whole stack as the settings say: install, configure, activate."""
    _write()
    _build()
    _prune()
    activate()
    _converge_inside()
    _applications()


COMPONENT = Component(
    DOCKER,
    DockerSettings,
    no_defaults,
    _secrets,
    _rules,
    _listens,
    _probes,
    _checks,
    in_use=_in_use,
)
