"""What a service user could do to root: entries of its directories that lead somewhere else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePosixPath

from tests.e2e.wait import eventually
from tests.lab import Host

# Entries of directories that somebody other than root owns. Of a live cluster's data only files:
# a server whose tables are gone dies of that.
_ENTRIES = """
import json, os, stat, sys
found = []
for top in json.loads(sys.argv[1]):
    for place, below, names in os.walk(top):
        data = os.path.exists(place + "/PG_VERSION")
        if os.lstat(place).st_uid:
            kinds = names if data else names + below
            found += [place + "/" + name for name in sorted(kinds)]
        if data:
            below.clear()
print(json.dumps([p for p in found if not stat.S_ISSOCK(os.lstat(p).st_mode)]))
"""

CONTENT = "victim of root"

# Each entry becomes a link of the directory's owner to a victim of its own kind.
_PLANT = """
import json, os, sys
os.makedirs("/run/victims", mode=0o700, exist_ok=True)
for number, path in enumerate(json.loads(sys.argv[1])):
    kept, victim = path + ".kept", "/run/victims/%d" % number
    os.makedirs(victim + "/inside", mode=0o751)
    for name in ("file", "inside/file"):
        with open(victim + "/" + name, "w") as file:
            file.write("victim of root's\\n")
    os.chmod(victim + "/file", 0o640)
    target = victim + ("/inside" if os.path.isdir(path) else "/file")
    owner = os.stat(os.path.dirname(path))
    os.rename(path, kept)
    os.symlink(target, path)
    os.lchown(path, owner.st_uid, owner.st_gid)
"""

# What was written where a link stood is ours to lose; what follows finds all as it was.
_PUT_BACK = """
import json, os, shutil, sys
for path in json.loads(sys.argv[1]):
    if os.path.lexists(path + ".kept"):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        os.rename(path + ".kept", path)
shutil.rmtree("/run/victims", ignore_errors=True)
"""

# The time of the last change of content, owner or mode is the kernel's: nothing hides from it.
_SEEN = "find /run/victims -printf '%P %y %m %U:%G %i %n %s %C@\\n' | sort"
# So is the time of the first read after that.
_READ = "find /run/victims -type f -printf '%P %A@\\n' | sort"

# Who runs as a service's user while jobs work: each file of that name which appears where a program
# of that user works, or in a scratch server's directory, becomes a link at once. Its log has a line
# when it is at work, and one for each link.
_INTRUDER = """
import glob, grp, os, pwd, sys, time
user, group, name = sys.argv[1:]
log = open("/run/intruder", "w", buffering=1)
log.write("at work\\n")
while user not in {each.pw_name for each in pwd.getpwall()}:
    time.sleep(0.1)
os.setgroups([])
os.setgid(grp.getgrnam(group).gr_gid)
os.setuid(pwd.getpwnam(user).pw_uid)
while not os.path.exists("/run/intruder.ends"):
    for place in [*glob.glob("/proc/[0-9]*/cwd"), *glob.glob("/backups/scratch/*/server")]:
        path = place + "/" + name
        try:
            if not os.path.realpath(place).startswith("/backups/") or os.path.islink(path):
                continue
            os.rename(path, path + ".kept")
            os.symlink("/run/victims/0/file", path)
            log.write(path + "\\n")
        except OSError:
            pass
"""


# What a link leads to within a container is a victim of that one's root.
_COPY = "rm -rf /run/victims; mkdir -m 700 /run/victims; tar -x -C /run/victims"


def _seen(host: Host, container: str, *, is_unread: bool) -> str:
    looks = f"{_SEEN}; {_READ}" if is_unread else _SEEN
    inside = f"docker exec -i {container} sh -s" if container else ""
    return host.run(looks).stdout + (host.run(inside, stdin=looks).stdout if inside else "")


def _python(host: Host, script: str, paths: Sequence[str]) -> str:
    return host.run(f"python3 - {shlex.quote(json.dumps([*paths]))}", stdin=script).stdout


def entries(host: Host, *tops: str) -> list[str]:
    """Everything below `tops` that stands in a directory of somebody other than root."""
    found: list[str] = json.loads(_python(host, _ENTRIES, tops))
    return found


def waves(paths: Sequence[str]) -> list[list[str]]:
    """The same in groups, none of which has an entry and what is below it."""
    groups: list[list[str]] = []
    for path in sorted(paths, key=lambda path: -path.count("/")):
        for group in groups:
            if not any(each.startswith(f"{path}/") for each in group):
                group.append(path)
                break
        else:
            groups.append([path])
    return groups


def tops(paths: Sequence[str]) -> list[str]:
    """Those that are below none of the others."""
    known = {*paths}
    return [p for p in paths if known.isdisjoint(map(str, PurePosixPath(p).parents))]


@contextmanager
def intruder(host: Host, user: str, group: str, name: str) -> Iterator[Callable[[], bool]]:
    """Somebody with a service's rights, who makes links of what its programs work with.

    Yields whether there has been one: what a program works with may be there for milliseconds.
    """

    def lines() -> int:
        return len(host.run("cat /run/intruder").stdout.splitlines())

    def begun() -> None:
        assert lines()

    host.run("rm -f /run/intruder.ends; : >/run/intruder")
    with ThreadPoolExecutor() as pool:
        command = f"python3 - {user} {group} {name}"
        run = pool.submit(host.run, command, stdin=_INTRUDER, timeout=300)
        eventually(begun, 30)
        try:
            yield lambda: lines() > 1
        finally:
            host.run("touch /run/intruder.ends")
        run.result()


@contextmanager
def planted(
    host: Host, paths: Sequence[str], container: str = "", *, is_unread: bool = False
) -> Iterator[None]:
    """Makes links to victims of these entries; at the end no victim was touched.

    Args:
        container: its root has victims too.
        is_unread: no file of theirs was read, either.
    """
    _python(host, _PLANT, paths)
    if container:
        into = f"docker exec -i {container} sh -c {shlex.quote(_COPY)}"
        host.run(f"tar -c -C /run/victims . | {into}")
    before = _seen(host, container, is_unread=is_unread)
    try:
        yield
        after = _seen(host, container, is_unread=is_unread)
        assert after == before
    finally:
        _python(host, _PUT_BACK, paths)
