"""What Datatier has left on a host, and shell that takes it away; whose it is tells its path."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from backup.sandbox import USER
from tasks.core import packages, remote
from tasks.core.files import MARK
from tasks.core.remote import Probe, assignments, quoted
from tasks.core.services import STATE_DIRECTORY, Manager, removal

# Debian's own instance, which would take Redis's port.
MASKED = "redis-server"
# Ours by their names.
_NAMED = (
    STATE_DIRECTORY,
    f"{STATE_DIRECTORY}/*.active",
    "/etc/datatier",
    "/etc/redis/redis-cli.auth",
    "/var/lib/redis/sentinel-[0-9]*",
    "/etc/datatier/*",
    "/usr/lib/datatier",
    "/etc/cron.d/datatier-backup",
    "/etc/logrotate.d/datatier-backup",
    "/etc/postgresql-common/createcluster.d/datatier.conf",
)
# Ours if they say so.
_MARKED = (
    "/etc/systemd/system/redis-*.service",
    "/etc/systemd/system/*.service.d/datatier*.conf",
    "/etc/sv/*/run",
    "/etc/redis/*.conf",
    "/etc/pgbouncer/pgbouncer.ini",
    "/etc/postgresql/*/main/conf.d/datatier.conf",
    "/etc/pgbackrest.conf",
    "/etc/sysctl.d/60-datatier-redis.conf",
    "/etc/tmpfiles.d/datatier-redis.conf",
    "/usr/local/bin/redis-cli",
    "/usr/local/bin/redis-before-start",
)

# Where what somebody puts beside ours takes effect: cron, systemd, PostgreSQL and root obey it.
_BESIDE = (
    "/etc/cron.d/datatier*",
    "/etc/postgresql/*/main/conf.d/*.conf",
    *(
        f"{place}/{unit}.service{kind}"
        for place in ("/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system")
        for unit in ("postgresql*", "pgbouncer*", "redis-*", "pgbackrest*")
        for kind in ("", ".d/*.conf")
    ),
)
# By their names, for a mark is easily copied; the scripts are told by the caller.
_EXPECTED = re.compile(
    r"/etc/cron\.d/datatier-backup|/etc/(systemd/system|postgresql)/.*/datatier\.conf"
    r"|/etc/systemd/system/[^/]*\.service\.d/datatier-network\.conf"
    r"|/etc/systemd/system/redis-(sentinel-)?[0-9]+\.service"
    rf"|/etc/systemd/system/{MASKED}\.service"
)

# Where somebody acts as the user of a service: jobs, and keys with which he logs in.
_AS_USER = (
    "/var/spool/cron/crontabs/{user}",
    "/var/lib/systemd/linger/{user}",
    "/var/lib/{home}/.ssh/authorized_keys*",
)
_HOMES = {"postgres": "postgresql", "redis": "redis"}
_JOBS = r"^\s*(@[a-z]+|[^[:space:]#=]+(\s+\S+){{4}})\s+({users})\s"

# What a path belongs to: a service, by its name, or something that several services share.
_OWNERS = tuple(
    (re.compile(path), owner)
    for path, owner in (
        (rf"{STATE_DIRECTORY}|/etc/datatier", "state"),
        (rf"{STATE_DIRECTORY}/(.+)\.active", r"\1"),
        (r"/etc/systemd/system/postgresql@.*\.service\.d/datatier(-network)?\.conf", "postgres"),
        (r"/etc/systemd/system/(.+?)\.service(\.d/datatier(-network)?\.conf)?", r"\1"),
        (r"/etc/sv/(.+)/run", r"\1"),
        (r"/etc/redis/(redis-[0-9]+)\.conf", r"\1"),
        (r"/etc/redis/(sentinel-[0-9]+)\.conf", r"redis-\1"),
        (r"/var/lib/redis/(sentinel-[0-9]+)", r"redis-\1"),
        (r"/etc/pgbouncer/.*", "pgbouncer"),
        (r"/etc/postgresql/.*/conf\.d/datatier\.conf", "postgres"),
        (r"/etc/datatier/(pgbackrest|postgres|pgbouncer)", r"\1"),
        (r"/etc/pgbackrest\.conf|/.*/restore-cluster\.sh", "archiving"),
        (r"/usr/local/bin/redis-(cli|before-start)", "redis-cli"),
        (r"/etc/redis/redis-(cli\.auth|estate\.conf)", "redis-cli"),
        (r"/etc/(sysctl|tmpfiles)\.d/.*", "kernel"),
        (r"/etc/postgresql-common/.*|/usr/sbin/policy-rc\.d", "packages"),
        (r"/etc/(cron|logrotate)\.d/.*|/etc/datatier/.*|/usr/lib/datatier|/.*\.sh", "cron"),
    )
)

# In the order in which they stop: who asks before who answers.
ORDER = ("cron", "pgbouncer", "redis-sentinel-", "redis-", "pgbackrest", "archiving", "postgres")


@dataclass(frozen=True)
class Traces:
    """What of Datatier is on a host.

    Attributes:
        paths: files and directories by what they belong to.
        roles: of Redis instances that are asked for: `master N` with N replicas, or `replica`.
        data: directories with something in them.
        beside: files that are not ours in places where ours take effect.
        user: of scratch servers: 'idle', 'files' where it owns some, 'runs', or nothing.
        acting: files that are not ours and act as the user of a service.
    """

    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[int, str] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    user: str = ""
    acting: tuple[str, ...] = ()

    def owners(self) -> list[str]:
        """What there is, in the order in which it goes."""
        return sorted(self.paths, key=lambda owner: (_rank(owner), owner))


def _rank(owner: str) -> int:
    ranks = (rank for rank, prefix in enumerate(ORDER) if owner.startswith(prefix))
    return next(ranks, len(ORDER))


# An instance that does not answer is not the master, whatever its file says.
_READ = """
{{ ls -d {named} 2>/dev/null; timeout 20 grep -D skip -ls '{mark}' {marked}
  grep -ls datatier /usr/sbin/policy-rc.d
  [ "$(readlink {mask})" != /dev/null ] || echo {mask}; }} | sort -u | sed 's/^/path /'
ls -db {beside} 2>/dev/null | sed 's/^/beside /'
{{ ls -db {as_user} 2>/dev/null
  timeout 20 grep -D skip -lsE {jobs} /etc/crontab /etc/cron.d/*; }} | sed 's/^/acts /'
for d in {data}; do
  if [ -n "$(ls -A "$d" 2>/dev/null)" ]; then echo "data $d"; fi
done
if id -u {user} >/dev/null 2>&1; then
  if [ -n "$(find /proc -maxdepth 1 -user {user} -print -quit 2>/dev/null)" ]; then echo user runs
  elif [ -n "$(find {scratch} -maxdepth 2 -user {user} -print -quit 2>/dev/null)" ]; then
    echo user files
  else echo user idle; fi
fi
auth=$(glance /etc/redis/redis-cli.auth); export REDISCLI_AUTH="$auth"
for f in {state}/redis-[0-9]*.active; do
  port=${{f##*/redis-}}; port=${{port%.active}}
  case " {ports} " in *" $port "*) continue ;; esac
  [ -e "$f" ] || continue
  timeout 3 redis-cli -p "$port" INFO replication 2>/dev/null | tr -d '\\r' |
    awk -F: -v port="$port" '
      {{ v[$1] = $2 }}
      END {{ if (v["role"] == "master") print "role", port, "master", v["connected_slaves"]
            else if (v["role"]) print "role", port, "replica" }}'
done
"""


def probe(
    scripts: str,
    scratch: str,
    data: Sequence[str],
    ports: Iterable[int],
    known: Collection[str] = (),
    users: Collection[str] = (),
) -> Probe[Traces]:
    """Reads what is there.

    Args:
        scripts: the directory of the backup scripts.
        scratch: the one of scratch servers.
        known: the names of the scripts, where the directory is this host's by the settings.
        users: those of the services that are this host's by the settings.
        data: globs of directories that hold data, or shell that prints some.
        ports: of the Redis instances that are not asked, because they are to be there.
    """
    script = _READ.format(
        named=" ".join(_NAMED),
        mark=MARK,
        mask=f"/etc/systemd/system/{MASKED}.service",
        marked=" ".join([*_MARKED, f"{quoted(scripts)}/*.sh"]),
        beside=" ".join([*_BESIDE, *([f"{quoted(scripts)}/*"] if known else [])]),
        as_user=" ".join(
            each.format(user=user, home=_HOMES[user]) for user in users for each in _AS_USER
        )
        or "/dev/null/none",
        jobs=quoted(_JOBS.format(users="|".join(users) or "-")),
        data=" ".join(data),
        state=STATE_DIRECTORY,
        user=USER,
        scratch=quoted(scratch),
        ports=" ".join(map(str, ports)),
    )
    script = assignments({"MARK": MARK}) + remote.shell("ours") + script
    return Probe(script, partial(_parse, {f"{scripts}/{name}" for name in known}))


def _parse(known: Collection[str], lines: list[str]) -> Traces:
    paths: dict[str, tuple[str, ...]] = {}
    roles, user = dict[int, str](), ""
    data, beside, acting = list[str](), list[str](), list[str]()
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "path":
            if owner := _owner(rest):
                paths[owner] = (*paths.get(owner, ()), rest)
        elif kind == "role":
            port, _, role = rest.partition(" ")
            roles[int(port)] = role
        elif kind == "data" and rest.startswith("/"):
            data.append(rest)
        elif kind == "beside" and not (rest in known or _EXPECTED.fullmatch(rest)):
            beside.append(rest)
        elif kind == "user":
            user = rest
        elif kind == "acts" and not _EXPECTED.fullmatch(rest):
            acting.append(rest)
    return Traces(paths, roles, tuple(data), tuple(beside), user, tuple(acting))


def is_in_our_place(path: str) -> bool:
    """Whether a file that is not ours is where nobody else has a reason to put one.

    Drop-ins of units and files in conf.d may be an administrator's, and so may be what is in a
    chosen directory of scripts, such as /usr/local/bin.
    """
    return path.startswith(("/etc/cron.d/", "/scripts/"))


def _owner(path: str) -> str:
    """What a path belongs to; nothing for the rest of a name with a line break in it."""
    for pattern, owner in _OWNERS:
        if match := pattern.fullmatch(path):
            return match.expand(owner)
    return ""


# --- Removal -------------------------------------------------------------------------------------


def is_service(paths: Collection[str]) -> bool:
    """Whether what these belong to is a program that runs."""
    places = (f"{STATE_DIRECTORY}/", "/etc/systemd/", "/etc/sv/")
    return any(path.startswith(places) for path in paths)


def take(owner: str, paths: Collection[str], manager: Manager, then: str = ":") -> str:
    """Shell that stops a service and removes what belongs to it.

    Args:
        then: shell that runs when it has stopped; the record goes last, so that a removal which
            is cut off is seen by the next run.
    """
    if owner == MASKED:
        return f"systemctl -q unmask {MASKED}.service; systemctl -q disable {MASKED}.service"
    steps = list[str]()
    # Under systemd cron is the host's, and other people's jobs go on; runit has it from us.
    if is_service(paths) and not (owner == "cron" and manager == "systemd"):
        steps.append(f"leave_service {quoted(owner, *_units(owner, paths))}")
    records = {path for path in paths if path.endswith(".active")}
    steps.append(then)
    others = [*_further(owner), *(place for path in paths for place in _places(path))]
    steps.append(f"remove {quoted(*(path for path in others if path not in records))}")
    dropins = [path for path in paths if path.endswith(".service.d/datatier.conf")]
    if owner == "redis-cli":
        steps.append(packages.forget_directory("/etc/redis"))
    directories = [path.rpartition("/")[0] for path in dropins]
    if directories:
        steps.append(f"rmdir --ignore-fail-on-non-empty {quoted(*directories)} 2>/dev/null || :")
    return "\n".join([*steps, "forget_units", f"rm -f -- {quoted(*sorted(records))}"])


def _units(owner: str, paths: Collection[str]) -> tuple[str, str]:
    """The unit that runs it and the one that starts it at boot."""
    if owner != "postgres":
        return f"{owner}.service", f"{owner}.service"
    found = re.search(r"/(?:postgresql@|postgresql/)([0-9]+)[-/]main", " ".join(paths))
    # The unit without a version stops every cluster.
    one = f"postgresql@{found[1]}-main.service" if found else "postgresql.service"
    return one, "postgresql.service"


def _places(path: str) -> Iterator[str]:
    """What is removed for a path: of runit's service the whole directory."""
    yield path.removesuffix("/run") if path.startswith("/etc/sv/") else path


def _further(owner: str) -> Iterator[str]:
    """What belongs to it and is not looked for."""
    if owner == "pgbouncer":
        yield "/etc/pgbouncer/userlist.txt"


def shell(manager: Manager) -> str:
    """The functions that `take` needs."""
    return removal(manager)
