"""Removal: what left the inventory is told or removed, and the whole stack comes off its hosts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from backup.arguments import SCRIPTS
from backup.sandbox import USER
from tasks import archive, clusters, compose, engine, postgres, redis, sentinel
from tasks.backup import BackupSettings
from tasks.core import estate, packages, preflight, remote, traces
from tasks.core.change import Change, Line, converge
from tasks.core.estate import Estate, Node
from tasks.core.files import MARK
from tasks.core.remote import Probe, Unreadable, quoted, shell
from tasks.core.services import STATE_DIRECTORY
from tasks.core.settings import Problem, Settings
from tasks.core.surplus import DROPPED
from tasks.core.topology import Address
from tasks.core.traces import Traces
from tasks.pgbouncer import PgbouncerSettings
from tasks.postgres import PostgresSettings, cluster_version
from tasks.project import DockerSettings
from tasks.redis import KEEP_ROLE, RedisSettings, current_master
from tasks.sentinel import SentinelSettings

# --- What is on a host ---------------------------------------------------------------------------


def probes(node: Node) -> dict[str, Probe[Any]]:
    """What one read of a host tells about what Datatier and others have left there."""
    chosen = node.of(RedisSettings)
    postgres = PostgresSettings in node.settings
    return {
        **({"clusters": clusters.probe(cluster_version(node))} if postgres else {}),
        "rivals": archive.rivals_probe(),
        "pristine": packages.pristine_probe(["pgbouncer", "pgbackrest"]),
        "traces": traces.probe(
            _backup(node).scripts_dir,
            f"{_backup(node).dir}/scratch",
            [*_data(node)],
            chosen.ports if chosen else (),
            _scripts(node),
            [*_users(node)],
        ),
    }


def _users(node: Node) -> Iterator[str]:
    """The users of the services that a host has by the settings."""
    if {PostgresSettings, PgbouncerSettings, BackupSettings} & {*node.settings}:
        yield "postgres"
    if {RedisSettings, SentinelSettings} & {*node.settings}:
        yield "redis"


def _scripts(node: Node) -> list[str]:
    """The names in the directory of the scripts, where a host has it by the settings."""
    restores = PostgresSettings in node.settings and archive.backup_host(node.estate) is not None
    ours = [*SCRIPTS.values(), "backup.sh"] if BackupSettings in node.settings else []
    return [*ours, *(["restore-cluster.sh"] if restores else [])]


def _backup(node: Node) -> BackupSettings:
    """Where backups are or were, on a host of any group."""
    chosen = node.of(BackupSettings)
    return chosen or BackupSettings.of(node.name, node.host.data.dict(), {})[0] or BackupSettings()


def _data(node: Node) -> Iterator[str]:
    """Globs of directories with data of the components that this host has."""
    if PostgresSettings in node.settings:
        version = cluster_version(node)
        etc, data = f"/etc/postgresql/{version}/main", f"/var/lib/postgresql/{version}/main"
        # Also what restores have kept beside it, and their log. The configuration tells that the
        # cluster is ours, so it goes last.
        yield f"$(is_ours {etc} {data} && echo {data} {data}.* {DROPPED} {etc})"
    if RedisSettings in node.settings:
        yield "/var/lib/redis/[0-9]*"
    if BackupSettings in node.settings:
        yield f'$(ours_in {quoted(_backup(node).dir)} "$in_backups")'


# What a service or file of Datatier's is of, by how its name begins.
_SETTINGS: Mapping[str, type[Settings]] = {
    "postgres": PostgresSettings,
    "pgbouncer": PgbouncerSettings,
    "redis-sentinel-": SentinelSettings,
    "redis-": RedisSettings,
    "kernel": RedisSettings,
    "cron": BackupSettings,
    "pgbackrest": BackupSettings,
    "archiving": BackupSettings,
}


def _settings_of(owner: str) -> type[Settings] | None:
    """The component that something belongs to, None for what all of them share."""
    return next((of for prefix, of in _SETTINGS.items() if owner.startswith(prefix)), None)


def _wanted(node: Node) -> set[str]:
    """What belongs on a host by the settings."""
    wanted = {"packages", "redis-server"}
    if PostgresSettings in node.settings:
        wanted.add("postgres")
    if PgbouncerSettings in node.settings:
        wanted.add("pgbouncer")
    if redis := node.of(RedisSettings):
        wanted |= {"redis-cli", "kernel", *(f"redis-{port}" for port in redis.ports)}
    if sentinel := node.of(SentinelSettings):
        wanted |= {"redis-cli", *(f"redis-sentinel-{port}" for port in sentinel.ports)}
    if BackupSettings in node.settings:
        wanted.add("cron")
    if DockerSettings in node.settings:
        wanted.add("kernel")
    if archive.backup_host(node.estate) and {PostgresSettings, BackupSettings} & {*node.settings}:
        wanted |= {"archiving", *(("pgbackrest",) if archive.is_remote(node) else ())}
    return wanted


# --- What left the inventory ---------------------------------------------------------------------


def prune() -> None:
    """Tells of services that are on a host and no longer its by the settings, or removes them.

    The Sentinels then forget who is not in the inventory any more.
    """
    node = estate.here()
    # What is removed is what this run could show.
    shown, gone = {*_surplus(node)}, leaving(node.estate)
    converge(
        "Prune: services",
        lambda: _pruned(node, [owner for owner in _surplus(node) if owner in shown]),
        notices=lambda: _told(node),
    )
    strangers = {*_found(node).beside}
    converge(
        "Prune: files beside ours",
        lambda: _cleared(node, strangers),
        notices=lambda: _strangers(node),
    )
    if RedisSettings in node.settings:
        converge(
            "Redis: prune",
            lambda: redis.prune(node),
            notices=lambda: redis.unknown_users(node),
        )
    if SentinelSettings in node.settings:
        converge(
            "Sentinel: prune",
            lambda: sentinel.prune(node, gone),
            one_by_one=True,
            notices=lambda: sentinel.remembered(node, gone),
        )


def _surplus(node: Node) -> list[str]:
    wanted = _wanted(node)
    return [owner for owner in _found(node).owners() if _settings_of(owner) and owner not in wanted]


def _found(node: Node) -> Traces:
    found: Traces = node.read(estate.HOST)["traces"]
    return found


def _prunes(node: Node, owner: str) -> bool:
    """Whether what belongs to a component is removed: its key counts on hosts outside its group."""
    of = _settings_of(owner)
    if of is None:
        return False
    if chosen := node.of(of):
        return bool(cast(Any, chosen).prune)
    try:
        return TypeAdapter(bool).validate_python(node.host.data.get(of.key("prune"), False))
    except ValidationError:
        return False


def _told(node: Node) -> Iterator[str]:
    for owner in _surplus(node):
        of = _settings_of(owner)
        if of is not None and not _prunes(node, owner):
            what = _title(owner) if _is_service(node, owner) else _files(node, owner)
            key = of.key("prune")
            yield f"{what}: is no longer in this host's settings; {key} would remove it"


def _cleared(node: Node, shown: set[str]) -> Change | None:
    going = [path for path in _found(node).beside if path in shown and _goes(node, path)]
    if not going:
        return None
    return Change([f"{path}: remove" for path in going], f"rm -f -- {quoted(*going)}")


def _goes(node: Node, path: str) -> bool:
    return traces.is_in_our_place(path) and _prunes(node, "cron")


def _strangers(node: Node) -> Iterator[str]:
    for path in _found(node).beside:
        if not _goes(node, path):
            is_ours = traces.is_in_our_place(path)
            way_out = "backup_prune would remove it" if is_ours else "remove it if it is not yours"
            yield f"{path}: not written by Datatier, but takes effect beside its files; {way_out}"
    for path in _found(node).acting:
        what = "not written by Datatier, but acts as the user of a service"
        yield f"{path}: {what}; remove it if it is not yours"


def beside(node: Node) -> Iterator[str]:
    """All that is beside ours and stays, as plan, run and drift tell of it."""
    yield from _told(node)
    yield from _strangers(node)
    for each in (node, *(node.inside.nodes if node.inside else ())):
        if PostgresSettings in each.settings:
            yield from postgres.beside(each)
            yield from postgres.excess(each)
        if RedisSettings in each.settings:
            yield from redis.unknown_users(each)
        if SentinelSettings in each.settings:
            yield from sentinel.remembered(each, set())
    if node.inside:
        yield from compose.told(node)
    for component in node.components():
        for path, now in node.read(component.group).get("files", {}).items():
            yield from (f"{path}: {line!r} was added by hand; {_RUN}" for line in now.by_hand)


_RUN = "a run takes it out"


def _title(owner: str) -> str:
    """What the health table calls it: cron itself is the host's."""
    return "backup-service" if owner == "cron" else owner


def _is_service(node: Node, owner: str) -> bool:
    return traces.is_service(_found(node).paths[owner])


def _files(node: Node, owner: str) -> str:
    return ", ".join(_found(node).paths[owner])


def _pruned(node: Node, surplus: list[str]) -> Change | None:
    going = [owner for owner in surplus if _prunes(node, owner)]
    if not going:
        return None
    if node.host.state.is_executing:
        for each in node.estate.active:
            remote.forget(each.host)
    for problem in _leading(node, going):
        raise Unreadable(f"{problem.key}: {problem.message}")
    lines, script = list[str](), traces.shell(node.manager)
    for owner in going:
        line, step = _pruning(node, owner)
        lines.append(line)
        script += f"{step}\n"
    if "cron" in going and _found(node).user == "idle":
        lines.append(_USER_GOES)
        script += _DROP_USER
    return Change(lines, script)


# Nothing runs as it, and nothing is its.
_USER_GOES = f"user {USER}: remove"
_DROP_USER = f"userdel {USER}\n"

# A job that goes on would find its program gone.
_BUSY = """
rm -f /etc/cron.d/datatier-backup
for lock in /run/datatier/*.lock; do
  [ ! -e "$lock" ] || flock -n "$lock" true || {
    echo "a backup job holds $lock: wait until it is done, or end it" >&2; exit 1; }
done
"""


def _pruning(node: Node, owner: str) -> tuple[str, str]:
    paths = _found(node).paths[owner]
    if re.fullmatch(r"redis-[0-9]+", owner):
        line, then = _instance(node, owner)
        return line, traces.take(owner, paths, node.manager, then)
    step = f"{_BUSY if owner == 'cron' else ''}{traces.take(owner, paths, node.manager)}"
    if not traces.is_service(paths):
        return f"{_files(node, owner)}: remove", step
    return Line(f"{_title(owner)}: stop and remove", "restart"), step


def _instance(node: Node, owner: str) -> tuple[Line, str]:
    """What happens to a Redis instance, and to its data."""
    home = f"/var/lib/redis/{owner.removeprefix('redis-')}"
    if node.stack.destroy:
        line = f"{owner}: stop and remove, with its data in {home}"
        return Line(line, "destroys data"), f"remove {home}"
    # Whose replica it is may be another's when it comes back.
    line = f"{owner}: stop and remove; its data stay in {home}"
    return Line(line, "restart"), f"remove {home}/redis.conf"


def examine(everything: Estate) -> list[Problem]:
    """What a run is refused for that would remove what has left the settings."""
    problems: list[Problem] = []
    for node in everything.active:
        problems += _leading(node, [owner for owner in _surplus(node) if _prunes(node, owner)])
        if SentinelSettings in node.settings:
            problems += sentinel.unforgettable(node, leaving(everything))
    return problems


def _leading(node: Node, going: list[str]) -> Iterator[Problem]:
    """The Redis masters among them that others follow."""
    numbers = (owner.removeprefix("redis-") for owner in going)
    ports = [int(number) for number in numbers if number.isdigit()]
    if not ports or not node.estate.having(RedisSettings):
        return
    try:
        leader = current_master(node.estate)
    except Unreadable as unreadable:
        yield Problem(node.name, "state", str(unreadable))
        return
    for port in ports:
        role = _found(node).roles.get(port, "")
        if Address(node.address, port) == leader or re.fullmatch("master [1-9][0-9]*", role):
            message = f"redis-{port} is the master: fail over first (docs/failover.md)"
            yield Problem(node.name, "redis_prune", message)


def leaving(everything: Estate) -> set[Address]:
    """Where Redis and Sentinel are that this run removes."""
    return {
        Address(node.address, int(owner.rpartition("-")[2]))
        for node in everything.active
        for owner in _surplus(node)
        if re.fullmatch(r"redis-(sentinel-)?[0-9]+", owner) and _prunes(node, owner)
    }


# --- All of it -----------------------------------------------------------------------------------


def deploy() -> None:
    """Takes the stack off the hosts; data stay, unless they are to be destroyed by name."""
    node = estate.here(_wrong)
    converge("Remove: backups", lambda: _removed(node, "cron", _BUSY))
    converge("Remove: PgBouncer", lambda: _removed(node, "pgbouncer"))
    converge("Remove: Sentinel", lambda: _removed(node, "redis-sentinel-"))
    converge("Remove: Redis", lambda: _removed(node, "redis-[0-9]+"))
    converge("Remove: PostgreSQL", lambda: _removed(node, "pgbackrest|archiving|postgres"))
    converge(
        "Remove: containers",
        lambda: _project(node),
        notices=lambda: _kept(node) if node.inside else (),
    )
    converge("Remove: what is left", lambda: _rest(node), notices=lambda: _stays(node))
    converge("Remove: data", lambda: _destroyed(node))
    converge("Remove: user", lambda: _without_user(node))


def _wrong(everything: Estate) -> list[Problem]:
    """What a removal is refused for: less than a deployment, which has to make all of it work."""
    problems = [*everything.problems, *preflight.examine(everything.active)]
    if problems:
        return problems
    for node in everything.active:
        stack = node.stack
        if stack.destroy_data and stack.confirm != stack.stack_name:
            message = f"should be '{stack.stack_name}', the stack whose data are to be destroyed"
            problems.append(Problem(node.name, "confirm", message))
    return problems or list(_left_behind(everything))


def _left_behind(everything: Estate) -> Iterator[Problem]:
    """The master goes with its estate, or as a replica."""
    nodes = everything.having(RedisSettings)
    staying = [node.name for node in nodes if node not in everything.active]
    leaving = [node for node in nodes if node in everything.active and _instances(node)]
    if not staying or not leaving:
        return
    try:
        leader = current_master(everything)
    except Unreadable as unreadable:
        yield Problem(leaving[0].name, "state", str(unreadable))
        return
    for node in leaving:
        if leader.ip == node.address and f"redis-{leader.port}" in _instances(node):
            message = (
                f"redis-{leader.port} is the master of what stays on {', '.join(staying)}: "
                "fail over first (docs/failover.md)"
            )
            yield Problem(node.name, "redis", message)


def _instances(node: Node) -> list[str]:
    return [owner for owner in _here(node).paths if re.fullmatch("redis-[0-9]+", owner)]


def _here(node: Node) -> Traces:
    """What is on the host, whatever else of it cannot be read."""
    found: Traces = remote.read(node.host, lambda: {estate.HOST: probes(node)}, estate.HOST)[
        "traces"
    ]
    return found


# What is removed component by component, before what they share.
_OF_COMPONENTS = "cron|pgbouncer|redis-sentinel-|redis-[0-9]|pgbackrest|archiving|postgres"


def _removed(node: Node, owners: str, before: str = "") -> Change | None:
    found = _here(node)
    going = [owner for owner in found.owners() if re.match(owners, owner)]
    if not going:
        return None
    lines, script = list[str](), f"{traces.shell(node.manager)}{before}"
    for owner in going:
        paths = found.paths[owner]
        if traces.is_service(paths) and owner != "cron":
            lines.append(Line(f"{owner}: stop and remove", "restart"))
        lines += [f"{path}: remove" for path in paths if _is_file(path)]
        then = _without_secrets(owner) if re.fullmatch("redis-[0-9]+", owner) else ":"
        script += f"{traces.take(owner, paths, node.manager, then)}\n"
    return Change(lines, script)


def _is_file(path: str) -> bool:
    """Whether it is worth a line of its own: not what a service goes with."""
    return not path.startswith(("/var/lib/datatier/", "/etc/systemd/", "/etc/sv/"))


def _without_secrets(owner: str) -> str:
    """Redis writes its password into the file that keeps its role."""
    file = f"/var/lib/redis/{owner.removeprefix('redis-')}/redis.conf"
    return f"[ ! -e {file} ] || at {file} sed -i {KEEP_ROLE} {file}"


# --- A project of containers ---------------------------------------------------------------------

_PROJECT = """
ls -d {records} 2>/dev/null | sed 's/^/path /'
if grep -rqsF '{mark}' {home}/docker; then
  ours_in {home}/docker "$in_docker" | sed 's/^/path /'
fi
if grep -qsF '{mark}' {home}/docker-compose.yml; then echo path {home}/docker-compose.yml; fi
for d in $(ours_in {home}/backups "$in_backups"); do
  if [ -n "$(ls -A "$d" 2>/dev/null)" ]; then echo "data $d"; fi
done
if [ -e {home}/.env ]; then echo 'keeps {home}/.env'; fi
command -v docker >/dev/null || exit 0
docker info >/dev/null 2>&1 || {{ echo 'the engine does not answer' >&2; exit 1; }}
mine=label=com.docker.compose.project={stack}
docker container ls -a --filter $mine --format 'container {{{{.Names}}}}'
docker network ls --filter $mine --format 'network {{{{.Name}}}}'
docker volume ls --filter $mine --format 'volume {{{{.Name}}}}'
"""

# Compose stops them in order; what it no longer knows goes by the engine's labels.
_DOWN = """
{compose}
if [ -n "$compose" ] && [ -e {home}/docker-compose.yml ]; then
  (cd {home} && $compose -p {stack} down -t 300 >/dev/null 2>&1 </dev/null) || :
fi
mine=label=com.docker.compose.project={stack}
docker container ls -aq --filter $mine | xargs -r docker rm -f >/dev/null
docker network ls -q --filter $mine | xargs -r docker network rm >/dev/null
"""


def _project(node: Node) -> Change | None:
    """The containers go, and what was written for them; volumes and backups are data."""
    if node.inside is None:
        return None
    found, home = _in_project(node), node.the(DockerSettings).project_dir
    destroys = node.stack.destroy_data
    kinds = ("container", "network", "path", *(("volume", "data") if destroys else ()))
    if not any(kind in found for kind in kinds):
        return None
    words = {"stack": node.stack.stack_name, "home": quoted(home), "compose": engine.COMPOSE}
    lines: list[str] = [
        *(Line(f"container {name}: stop and remove", "restart") for name in found["container"]),
        *(f"network {name}: remove" for name in found["network"]),
        *(f"{path}: remove" for path in found["path"]),
    ]
    script = ":\n"
    if found["container"] or found["network"]:
        script += _DOWN.format(**words)
    script += f"remove {quoted(*found['path'])}\n"
    if destroys:
        lines += [Line(f"volume {name}: remove", "destroys data") for name in found["volume"]]
        lines += [Line(f"{path}: remove", "destroys data") for path in found["data"]]
        script += f"echo {quoted(*found['volume'])} | xargs -r docker volume rm >/dev/null\n"
        script += f"remove {quoted(*found['data'])}\n"
    script += f"rmdir --ignore-fail-on-non-empty {quoted(home)} 2>/dev/null || :\n"
    return Change(lines, script)


def _in_project(node: Node) -> Mapping[str, list[str]]:
    """What there is of a project: names of containers, networks and volumes, paths."""
    stack = node.stack.stack_name
    home = quoted(node.the(DockerSettings).project_dir)
    records = f"{STATE_DIRECTORY}/docker/{stack}"
    script = _PROJECT.format(home=home, stack=stack, records=records, mark=MARK)
    probe = Probe(shell("ours") + script, _by_kind)
    found: Mapping[str, list[str]]
    found = remote.read(node.host, lambda: {"project": {"project": probe}}, "project")["project"]
    return found


def _by_kind(lines: list[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        kind, _, name = line.partition(" ")
        found[kind].append(name)
    return found


def _kept(node: Node) -> Iterator[str]:
    """What a removal leaves of a project."""
    found = _in_project(node)
    if found["container"]:
        yield "images stay"
    for path in found["keeps"]:
        yield f"{path}: stays; it has the passwords, and what others have written there"
    if not node.stack.destroy_data:
        for name in (*(f"volume {name}" for name in found["volume"]), *found["data"]):
            yield f"{name}: stays; destroy_data and confirm would remove it"


def _rest(node: Node) -> Change | None:
    """What several components have shared."""
    found = _here(node)
    going = [owner for owner in found.owners() if not re.match(_OF_COMPONENTS, owner)]
    if not going:
        return None
    lines, script = list[str](), traces.shell(node.manager)
    for owner in going:
        said = "unmask; it stays disabled" if owner == traces.MASKED else "remove"
        lines += [f"{path}: {said}" for path in found.paths[owner]]
        script += f"{traces.take(owner, found.paths[owner], node.manager)}\n"
    return Change(lines, script)


def _stays(node: Node) -> Iterator[str]:
    """What a removal leaves, for those who want it gone."""
    found = _here(node)
    if found.paths:
        yield "packages and logs stay"
    if not node.stack.destroy_data:
        for path in found.data:
            yield f"{path}: stays; destroy_data and confirm would remove it"
    if found.user and not _user_goes(node, found):
        why = "a program of it runs" if found.user == "runs" else "it has files in the backups"
        yield f"user {USER}: stays; {why}"


def _without_user(node: Node) -> Change | None:
    return Change([_USER_GOES], _DROP_USER) if _user_goes(node, _here(node)) else None


def _user_goes(node: Node, found: Traces) -> bool:
    """Whether nothing is left that belongs to the user of scratch servers."""
    return found.user == "idle" or (found.user == "files" and node.stack.destroy_data)


_DESTROY = """
for each in {paths}; do
  pid=$each/postmaster.pid
  [ ! -e "$pid" ] || [ ! -d "/proc/$(peek "$pid" head -n 1 "$pid")" ] || {{
    echo "PostgreSQL runs in $each: stop it first" >&2; exit 1; }}
done
destroy() {{ at "$1" find "$1" -xdev -mindepth 1 -delete; at "$1" rm -df "$1" 2>/dev/null || :; }}
"""


def _destroyed(node: Node) -> Change | None:
    found = _here(node)
    if not node.stack.destroy_data or not found.data:
        return None
    lines: list[str] = [Line(f"{path}: remove", "destroys data") for path in found.data]
    steps = [f"destroy {quoted(path)}" for path in found.data]
    clusters = {path.removesuffix("/main") for path in found.data if path.endswith("/main")}
    steps += [f"at {path} rmdir --ignore-fail-on-non-empty {path}" for path in sorted(clusters)]
    return Change(lines, "\n".join([_DESTROY.format(paths=quoted(*found.data)), *steps]))
