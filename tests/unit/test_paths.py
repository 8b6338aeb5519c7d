"""Root and the directories of others: the shell of tasks/core/shell/paths.sh, run for real."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import pytest

from tasks.core import files, traces
from tasks.core.component import components
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.remote import PATHS
from tasks.core.scripts import shell as remote_shell
from tasks.redis import files as redis_files
from tests.e2e.project import ROOT
from tests.unit.helpers import carry_out, shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

# Users without a name, as those of a container are to its host.
EVE, BOB = 54321, 54322


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's that everybody may enter; whoever starts pytest closes pytest's own."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.fixture
def home(top: Path) -> Path:
    """A directory of Eve's in one of root's."""
    return owned(top / "home", EVE)


@pytest.fixture
def victim(top: Path) -> Iterator[Path]:
    """A directory of root's with a file, which nothing changes."""
    place = top / "victim"
    place.mkdir()
    (place / "file").write_text("root's")
    (place / "file").chmod(0o640)
    before = _seen(place)
    yield place
    assert _seen(place) == before


def _seen(place: Path) -> list[object]:
    paths = [place, *sorted(place.iterdir())]
    return [
        (path.name, s.st_mode, s.st_uid, s.st_gid, s.st_ino, s.st_mtime_ns, s.st_size)
        for path in paths
        for s in (path.lstat(),)
    ]


def owned(path: Path, user: int) -> Path:
    path.mkdir()
    os.chown(path, user, user)
    return path


def link(path: Path, target: Path | str, user: int = EVE) -> Path:
    path.symlink_to(target)
    os.lchown(path, user, user)
    return path


def theirs(path: Path, content: str = "new", mode: str = "640", user: int = EVE) -> File:
    return File(str(path), content, mode, str(user), str(user))


def read(entry: Entry) -> Found:
    probe = files.probe([entry])
    output = shell(PATHS + probe.script)
    assert (output.returncode, output.stderr) == (0, "")
    return probe.parse(output.stdout.splitlines())[entry.path]


def write(entry: Entry) -> CompletedProcess[str]:
    change = files.compare([entry], {entry.path: read(entry)})
    assert change is not None
    return carry_out(change)


def run(script: str) -> CompletedProcess[str]:
    return shell(f"set -eu\n{PATHS}{script}")


# --- Files in a directory of somebody else -------------------------------------------------------


def test_its_owner_writes_there(home: Path) -> None:
    path = home / "a"
    assert write(theirs(path)).returncode == 0
    found = path.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode), path.read_text()) == (EVE, 0o640, "new")
    assert [each.name for each in home.iterdir()] == ["a"]
    assert read(theirs(path)).content == b"new"


def test_files_of_several_users_are_read_together(top: Path) -> None:
    """Those of root's alone by one process, those of each user by one of that user's."""
    homes = {user: owned(top / f"{user}", user) for user in (EVE, BOB)}
    entries: list[File] = []
    for number in range(3):
        ours = File(str(top / f"{number}"), f"ours {number}\n" * number, "644")
        entries += [ours, *(theirs(home / f"{number}", user=who) for who, home in homes.items())]
    for entry in entries[:-1]:
        assert write(entry).returncode == 0
    probe = files.probe(entries)
    found = probe.parse(shell(PATHS + probe.script).stdout.splitlines())
    assert {path: each.content for path, each in found.items() if each.kind == "file"} == {
        entry.path: entry.content.encode() for entry in entries[:-1]
    }
    assert found[entries[-1].path].kind == "absent"


@pytest.mark.parametrize(
    ("mode", "user", "together"),
    [("600", 0, True), ("640", 0, True), ("755", 0, True), ("660", 0, False), ("602", 0, False),
     ("640", EVE, False)],
)  # fmt: skip
def test_what_only_root_may_write_is_read_together(
    mode: str, user: int, together: bool, top: Path
) -> None:
    """Whatever group may read it: its size cannot change before its content is read."""
    entry = File(str(top / "a"), "content\n", mode, str(user), str(EVE))
    (top / "a").write_text(entry.content)
    os.chown(top / "a", user, EVE)
    (top / "a").chmod(int(mode, 8))
    probe = files.probe([entry])
    lines = shell(PATHS + probe.script).stdout.splitlines()
    assert lines[0] == "as 0"
    assert lines[1].endswith(f" {user} {EVE} :8") == together
    assert probe.parse(lines)[entry.path].content == b"content\n"


def test_directories_of_root_cost_no_program_each(top: Path) -> None:
    """One tells whose they all are, and one what stands in them."""
    calls, tools = top / "calls", owned(top / "tools", 0)
    (tools / "stat").write_text(f'#!/bin/sh\necho >>{calls}\nexec /usr/bin/stat "$@"\n')
    (tools / "stat").chmod(0o755)
    entries = [File(str(owned(top / f"{n} x", 0) / "a"), "") for n in range(5)]
    probe = files.probe([*entries, File("/no/such/a", "")])
    lines = shell(f"{PATHS}PATH={tools}:$PATH\n{probe.script}").stdout.splitlines()
    assert {each.kind for each in probe.parse(lines).values()} == {"absent"}
    # And one for the directory that is not there.
    assert len(calls.read_text().splitlines()) == 3


@pytest.mark.parametrize("said", [[], ["absent", "absent"], ["file 644 e e 1 1 :6"]])
def test_no_user_answers_for_root(said: list[str], top: Path, home: Path) -> None:
    """Whatever a user's own process prints: there are not more lines, and none is of root's."""
    ours = File(str(top / "ours"), "", "644")
    lines = ["as 0", f"as {EVE}", "file 644 root root 0 0 :6", *said, "cm9vdCdz"]
    with pytest.raises(ValueError, match=r"lines|less"):
        files.probe([ours, theirs(home / "a")]).parse(lines)


def test_a_user_who_says_nothing_is_not_believed(home: Path) -> None:
    with pytest.raises(ValueError, match="lines"):
        files.probe([theirs(home / "a")]).parse([f"as {EVE}"])


def test_a_link_is_no_file_and_is_replaced(home: Path, victim: Path) -> None:
    path = link(home / "a", victim / "file")
    assert read(theirs(path)) == Found("other", uid=str(EVE))
    assert write(theirs(path)).returncode == 0
    assert path.read_text() == "new"


def test_a_link_of_roots_is_strange_and_one_of_a_services_user_is_not(
    home: Path, top: Path, victim: Path
) -> None:
    """Only root could have made it, to keep the file elsewhere; a user's would stop every run."""
    for place, is_strange in ((top, True), (home, False)):
        entry = theirs(link(place / "a", victim / "file"), f"# {files.MARK}\n")
        found = read(entry)
        assert found.is_strange is is_strange
        assert files.strangers({entry.path: found}, ()) == [entry.path] * is_strange
    copies = top / "copies"
    output = run(f"copies={copies}\n{remote_shell('keep')}keep {top}/a")
    assert output.returncode == 0
    kept = Path(f"{copies}{top}/a")
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == ("root's", 0o640)


def test_a_link_in_place_of_what_is_written_first_is_not_followed(home: Path, victim: Path) -> None:
    link(home / "a.datatier-new", victim / "file")
    assert write(theirs(home / "a")).returncode == 0


def test_a_directory_that_is_a_link_leads_only_where_its_owner_gets(
    home: Path, victim: Path
) -> None:
    place = link(home / "conf.d", victim)
    path = place / "ours"
    assert read(theirs(path)) == Found("absent")
    output = write(theirs(path))
    assert output.returncode == 1
    assert output.stderr.startswith(f"could not write {path}: ")
    assert output.stderr.count("\n") == 1


def test_a_secret_behind_such_a_link_is_not_read(home: Path, top: Path) -> None:
    secrets = top / "secrets"
    secrets.mkdir()
    (secrets / "shadow").write_text("root's")
    (secrets / "shadow").chmod(0o600)
    place = link(home / "conf.d", secrets)
    assert read(theirs(place / "shadow")) == Found("other", uid=str(EVE))


def test_a_hard_link_is_replaced_and_keeps_owner_and_mode(home: Path, victim: Path) -> None:
    path = home / "a"
    os.link(victim / "file", path)
    try:
        assert write(theirs(path, "root's")).returncode == 0
    finally:
        assert path.stat().st_ino != (victim / "file").stat().st_ino


def test_what_is_to_be_somebody_elses_is_refused(home: Path) -> None:
    path = home / "a"
    output = write(File(str(path), "x"))
    assert output.returncode == 1
    assert output.stderr == (
        f"could not write {path}: its directory is user {EVE}'s, and the file is to be root's\n"
    )
    assert [*home.iterdir()] == []


def test_a_directory_in_one_of_theirs(home: Path, victim: Path) -> None:
    entry = Directory(str(home / "d"), "750", str(EVE), str(EVE))
    assert write(entry).returncode == 0
    assert (home / "d").stat().st_uid == EVE
    link(home / "e", victim)
    entry = Directory(str(home / "e"), "700", str(EVE), str(EVE))
    assert write(entry).returncode == 1


def test_two_owners_above_each_other_are_refused(home: Path) -> None:
    place = owned(home / "bob", BOB)
    assert read(theirs(place / "a", user=BOB)) == Found("other")
    assert (
        f"is the directory of user {BOB} in one of user {EVE}"
        in write(theirs(place / "a", user=BOB)).stderr
    )


# --- What is no file -----------------------------------------------------------------------------


def test_nothing_is_opened_that_keeps_a_reader_waiting(home: Path) -> None:
    os.mkfifo(home / "pipe")
    os.mknod(home / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with (home / "huge").open("wb") as huge:
        huge.truncate(10 * 1024**3)
    link(home / "loop", "loop")
    link(home / "dangling", home / "nowhere")
    link(home / "endless", "/dev/zero")
    for name in ("pipe", "zero", "huge", "loop", "dangling", "endless"):
        assert read(theirs(home / name)) == Found("other", uid=str(EVE)), name
        assert write(theirs(home / name)).returncode == 0, name
        assert (home / name).read_text() == "new"
    assert not (home / "nowhere").exists()


def test_what_only_root_may_read_is_read_as_what_it_is(home: Path, victim: Path) -> None:
    (home / "auth").write_text("word\n")
    os.mkfifo(home / "pipe")
    link(home / "link", victim / "file")
    link(home / "endless", "/dev/zero")
    said = [run(f"glance {home}/{name}") for name in ("auth", "pipe", "link", "endless", "none")]
    assert [each.stdout for each in said] == ["word\n", "", "", "", ""]
    assert {(each.returncode, each.stderr) for each in said} == {(0, "")}


def test_the_password_is_kept_along_no_link(top: Path, victim: Path) -> None:
    """Those were left by redis when the directory was its own."""
    names = "redis-cli.auth", "redis-admin.auth"
    for name in names:
        link(top / name, victim)
        link(top / f"{name}.new", victim / "file")
    script = redis_files.KEEP_PASSWORD.replace("/etc/redis", str(top))
    words = "KEPT_PASSWORD=word\nREDIS_ADMIN_PASSWORD=word"
    assert run(f"{words}\n{script}\nkeep_password\nkeep_admin").returncode == 0
    for auth in (top / name for name in names):
        assert (auth.is_symlink(), auth.read_text()) == (False, "word\n")
        assert stat.S_IMODE(auth.stat().st_mode) == 0o600
    assert {each.name for each in top.iterdir()} == {*names, "victim"}


# --- Whose path it is ----------------------------------------------------------------------------


def actor(path: Path) -> str:
    output = run(f'actor_of "{path}" || actor="nobody: $why"; echo "$actor"')
    assert output.returncode == 0
    return output.stdout.strip()


def test_who_acts(home: Path, top: Path) -> None:
    (home / "roots").mkdir()
    assert [actor(path) for path in (top, home, home / "roots", home / "missing")] == [
        "0",
        *[str(EVE)] * 3,
    ]


def test_roots_own_links_are_followed(home: Path, top: Path) -> None:
    link(top / "disk", top, user=0)
    link(top / "near", f"disk/../{top.name}/home", user=0)
    assert actor(top / "disk") == "0"
    assert actor(top / "disk/home") == str(EVE)
    assert actor(top / "near") == str(EVE)
    link(top / "nowhere", top / "missing", user=0)
    assert actor(top / "nowhere/a") == f"nobody: {top}/nowhere leads nowhere"


def test_a_link_of_somebody_in_a_shared_directory(top: Path, victim: Path) -> None:
    top.chmod(0o1777)
    place = link(top / "planted", victim)
    assert actor(place) == f"nobody: {place} is a link of user {EVE}"
    output = write(File(str(place / "a"), "x"))
    assert output.stderr == f"could not write {place}/a: {place} is a link of user {EVE}\n"


@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o775, EVE)])
def test_a_directory_in_which_others_may_write(mode: int, group: int, top: Path) -> None:
    top.chmod(mode)
    os.chown(top, 0, group)
    assert actor(top / "a") == f"nobody: others than root may write in {top}"
    top.chmod(0o1777)
    assert actor(top) == "0"


def test_a_removal_ends_at_what_somebody_has_linked(home: Path, victim: Path) -> None:
    link(home / "data", victim)
    link(home / "file", victim / "file")
    run(f"remove {home}/data/file {home}/data/. 2>/dev/null || :; remove {home}/data {home}/file")
    assert [*home.iterdir()] == []


def test_behind_a_door_that_is_closed_to_its_owner(top: Path, victim: Path) -> None:
    closed = top / "closed"
    closed.mkdir()
    inside = owned(closed / "inside", EVE)
    closed.chmod(0o700)
    (inside / "file").write_text("hers\n")
    (inside / "link").symlink_to(victim / "file")
    assert run(f"within {inside}/ cat file").stdout == "hers\n"
    assert run(f"within {inside} cat link").returncode != 0
    assert run(f"within {inside} rm file link").returncode == 0
    assert not (inside / "file").exists()
    owned(inside / "deep", BOB)
    refused = run(f"within {inside}/deep true")
    assert refused.returncode != 0
    assert f"could not touch {inside}/deep: its directory does not belong to root" in refused.stderr


def test_a_command_has_nothing_of_roots(home: Path) -> None:
    output = run(f"SECRET=x; export SECRET; at {home}/a sh -c 'id -u; id -G; env'")
    user, groups, *environment = output.stdout.splitlines()
    assert (user, groups) == (str(EVE), str(EVE))
    assert {line.partition("=")[0] for line in environment} <= {"PATH", "LC_ALL", "PWD", "_"}


# --- Names ---------------------------------------------------------------------------------------


def test_a_name_with_a_line_break_adds_no_path() -> None:
    lines = ["path /var/lib/redis/sentinel-1", "path etc", "path x.sh", "data /a", "data etc", "x"]
    found = traces.parse([component.leaves for component in components()], (), lines)
    assert found.paths == {"redis-sentinel-1": ("/var/lib/redis/sentinel-1",)}
    assert found.data == ("/a",)


# --- Who goes around it --------------------------------------------------------------------------

# What changes a path, where a command begins; and who does it instead of root.
_ACTS = re.compile(
    r"(?:^|[;&|({'] ?|\b(?:then|do|else|trap) ['\"]?)"
    r"(?:chown|chmod|install -d|mkdir|rm -\S+|mv|cp|ln|touch|sed -i|mkfifo) (?P<words>[^;&|]*)"
)
# Files that root has just made with mktemp, and places whose whole path is root's.
_OF_ROOT = re.compile(
    r"\"?\$(?:errors|err|log|file|new|said|seen|bin|policy|pipe|held|f|copies|keys|mark|marks|handing|handed|taken|held_in|(?:stack_)?records)\b"
    r"|/(?:etc/(?:cron\.d|needrestart|service|redis|postgresql-common|datatier)|run|var/lib/datatier)\b"
    r"|\{STATE_DIRECTORY\}|\{RECORD\}|docker/redis"
    # redis-server of a trial, which root starts in a directory of its own; the records in traces.
    r"|\"\$home\"|\{quoted\(\*sorted\(records\)\)\}"
    # One level below /run, which is root's.
    r"|\{\{ service\.runtime_directory \}\}"
)
# Of a script that a user's shell runs.
_AS_THEM = re.compile(r"(?:as_postgres|set --|runuser -u \w+ --|\bat \S+) sh -c")
_FOR_PEOPLE = re.compile(r"and run again|others can")


def _around(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("#") or _AS_THEM.search(line) or _FOR_PEOPLE.search(line):
            continue
        for act in _ACTS.finditer(line.strip().removeprefix('f"')):
            if re.search(r"[$/{]", act["words"]) and not _OF_ROOT.search(act["words"]):
                yield line.strip()


SHELL = [
    path
    for place in ("tasks/**/*.py", "tasks/*/shell/*.sh", "templates/service/*")
    for path in ROOT.glob(place)
    if path.name != "paths.sh"
]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_nobody_goes_around_it(path: Path) -> None:
    """Root's own places are named above; for all others there are `at`, `remove` and `File`."""
    assert [*_around(path)] == []


def test_who_goes_around_it_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(
        'rm -rf "$data"\n[ -e x ] || touch {mark}\ncp -R "$etc" "$trial/etc"\n'
        'remove "$data"\nas mv "$1" "$2"\nat "$f" touch "$f"\nrm -f "$errors"\n'
    )
    assert len([*_around(script)]) == 3
