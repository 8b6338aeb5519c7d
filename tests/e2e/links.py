"""What a service user could do to root: entries of its directories that lead somewhere else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
for number, path in enumerate(json.loads(sys.argv[1])):
    kept, victim = path + ".kept", "/root/victims/%d" % number
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
shutil.rmtree("/root/victims", ignore_errors=True)
"""

# The time of the last change of content, owner or mode is the kernel's: nothing hides from it.
_SEEN = "find /root/victims -printf '%P %y %m %U:%G %i %n %s %C@\\n' | sort"


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


@contextmanager
def planted(host: Host, paths: Sequence[str]) -> Iterator[None]:
    """Makes links to victims of these entries; at the end no victim was touched."""
    _python(host, _PLANT, paths)
    before = host.run(_SEEN).stdout
    try:
        yield
        assert host.run(_SEEN).stdout == before
    finally:
        _python(host, _PUT_BACK, paths)
