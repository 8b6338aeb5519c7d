"""Files and directories: the generated shell, run for real in a directory of its own."""

from __future__ import annotations

import getpass
import grp
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from tasks.core import files
from tasks.core.change import Change
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.remote import PATHS
from tests.unit.helpers import carry_out, shell

ME = getpass.getuser()
MINE = grp.getgrgid(os.getgid()).gr_name
REDIS_SECRET = r"^(?:requirepass|masterauth) (.*)$"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the script works in /run, as root")


def file(path: Path, content: str, mode: str = "644", **more: object) -> File:
    """A file of the current user."""
    return File(str(path), content, mode, ME, MINE, **more)  # type: ignore[arg-type]


def directory(path: Path, mode: str = "755") -> Directory:
    """A directory of the current user."""
    return Directory(str(path), mode, ME, MINE)


def read(entries: Sequence[Entry]) -> dict[str, Found]:
    """What the probe finds."""
    probe = files.probe(entries)
    output = shell(PATHS + probe.script)
    assert output.returncode == 0, output.stderr
    return probe.parse(output.stdout.splitlines())


def pending(entries: Sequence[Entry]) -> Change | None:
    """What differs now."""
    return files.compare(entries, read(entries))


def apply(entries: Sequence[Entry]) -> Change:
    """Makes the files so, and checks that nothing is left to do."""
    change = pending(entries)
    assert change is not None
    output = carry_out(change)
    assert (output.returncode, output.stderr) == (0, "")
    assert pending(entries) is None
    return change


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


# --- What hands have added -----------------------------------------------------------------------

ACCESS = "# Written by Datatier\nlocal all all peer\n"


def _read_access(tmp_path: Path, content: str) -> tuple[Found, str]:
    """What is found of a file that lets people in, and what a plan says of it."""
    path = tmp_path / "access"
    path.write_text(content)
    wanted = file(path, ACCESS, secret=r"password=(\S+)", opens=r"\s*([^#\s].*?)\s*$")
    probe = files.probe([wanted])
    found = probe.parse(shell(PATHS + probe.script).stdout.splitlines())
    change = files.compare([wanted], found)
    return found[str(path)], change.lines[0].removeprefix(f"{path}: ") if change else ""


def test_lines_that_hands_have_added_are_named(tmp_path: Path) -> None:
    """Without what is secret in them; comments let nobody in."""
    lines = "  host all evil trust \nhost all x ldap password=Key-1\n# note\n"
    found, change = _read_access(tmp_path, f"{ACCESS}{lines}")
    assert len(found.by_hand) == 2 and found.by_hand[0] == "host all evil trust"
    assert found.by_hand[1].startswith("host all x ldap password=<secret ")
    assert change == "change" + "".join(f"; takes out {line!r}" for line in found.by_hand)


def test_a_file_of_others_has_nothing_added(tmp_path: Path) -> None:
    found, change = _read_access(tmp_path, "local all all md5\n# Written by Datatier's cousin\n")
    assert (found.by_hand, change) == ((), "change")
    assert _read_access(tmp_path, ACCESS)[0].by_hand == ()


# --- Creating and changing -----------------------------------------------------------------------


def test_a_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    change = apply([file(path, "one\ntwo\n", "640")])
    assert change.lines == [f"{path}: create"]
    assert change.diff == ["--- /dev/null", f"+++ {path}", "@@ -0,0 +1,2 @@", "+one", "+two"]
    assert path.read_text() == "one\ntwo\n"
    assert mode_of(path) == "640"


def test_a_file_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("one\ntwo\n")
    change = apply([file(path, "one\nthree\n")])
    assert change.lines == [f"{path}: change"]
    assert change.diff[-3:] == [" one", "-two", "+three"]
    assert path.read_text() == "one\nthree\n"


def test_only_the_mode_differs(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("one\n")
    path.chmod(0o666)
    change = apply([file(path, "one\n", "600")])
    assert change.lines == [f"{path}: owner {ME}:{MINE}, mode 600"]
    assert change.diff == []
    assert mode_of(path) == "600"


def test_a_mode_may_be_written_with_a_zero(tmp_path: Path) -> None:
    apply([file(tmp_path / "a", "x", "0640"), directory(tmp_path / "d", "0750")])


def test_another_owner_is_a_difference() -> None:
    wanted = File("/etc/x", "x", "644", "redis", "redis")
    found = {"/etc/x": Found("file", "644", "root", "redis", b"x")}
    change = files.compare([wanted], found)
    assert change is not None
    assert change.lines == ["/etc/x: owner redis:redis, mode 644"]


@pytest.mark.parametrize("is_there", [True, False])
def test_systemd_reads_a_unit_that_is_there_again(is_there: bool) -> None:
    """A service that starts again by itself would start as before; a new one is read anyway."""
    wanted = File("/etc/systemd/system/x.service.d/y.conf", "new")
    old = Found("file", "644", "root", "root", b"old") if is_there else Found("absent")
    change = files.compare([wanted], {wanted.path: old})
    assert change is not None
    assert change.script.endswith("systemctl daemon-reload\n") == is_there


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    apply([file(same, "x")])
    before = same.stat()
    apply([file(same, "x"), file(other, "y")])
    after = same.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_change_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    apply([file(path, "old")])
    with path.open() as reader:
        apply([file(path, "new")])
        assert reader.read() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.conf"]


def test_directories_come_before_what_is_in_them(tmp_path: Path) -> None:
    home = tmp_path / "redis"
    apply([directory(home, "750"), directory(home / "6379", "2775"), file(home / "6379/a", "x")])
    assert mode_of(home) == "750"
    assert mode_of(home / "6379") == "2775"


def test_a_directorys_mode_is_corrected(tmp_path: Path) -> None:
    home = tmp_path / "redis"
    home.mkdir(0o777)
    home.chmod(0o777)
    change = apply([directory(home, "750")])
    assert change.lines == [f"{home}: owner {ME}:{MINE}, mode 750"]


# --- Seeds ---------------------------------------------------------------------------------------


def test_a_seed_is_written_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    assert apply([file(path, "replicaof a 1\n", "640", seed=True)]).lines == [f"{path}: create"]
    assert path.read_text() == "replicaof a 1\n"


def test_a_seed_that_is_there_belongs_to_the_server(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text("rewritten\n")
    path.chmod(0o600)
    assert pending([file(path, "replicaof a 1\n", "640", seed=True)]) is None


# --- Failures ------------------------------------------------------------------------------------


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    change = pending([file(path, "x")])
    assert change is not None
    output = carry_out(change)
    assert output.returncode == 1
    assert output.stderr == f"could not write {path}: {path.parent} is missing\n"


def test_the_first_failure_ends_it(tmp_path: Path) -> None:
    entries = [file(tmp_path / "missing" / "a", "x"), file(tmp_path / "later", "x")]
    change = pending(entries)
    assert change is not None
    assert carry_out(change).returncode == 1
    assert not (tmp_path / "later").exists()


def test_a_full_file_system_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    change = pending([file(path, "x" * 100_000)])
    assert change is not None
    output = carry_out(change, "trap '' XFSZ; ulimit -f 8\n")
    assert output.returncode == 1
    assert output.stderr.startswith(f"could not write {path}: ")
    assert output.stderr.endswith(" left on its file system\n")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_an_unknown_owner_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a"
    change = pending([File(str(path), "x", "644", "no-such-user", "root")])
    assert change is not None
    output = carry_out(change)
    assert output.returncode == 1
    assert str(path) in output.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_where_a_file_should_be_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.mkdir()
    change = pending([file(path, "x")])
    assert change is not None
    assert carry_out(change).returncode == 1
    assert list(path.iterdir()) == []


def test_a_file_where_a_directory_should_be_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_text("mine")
    change = pending([directory(path)])
    assert change is not None
    assert carry_out(change).returncode != 0
    assert path.read_text() == "mine"


def test_an_unreadable_file_fails_the_probe(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    script = PATHS + files.probe([file(path, "x")]).script
    broken = shell(f"base64() {{ echo half; return 1; }}\n({script}\n)")
    assert broken.returncode == 1


def test_lines_that_are_missing_are_not_absent_files() -> None:
    probe = files.probe([File("/a", ""), File("/b", "")])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        probe.parse(["absent"])


# --- Links ---------------------------------------------------------------------------------------


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.conf"
    victim.write_text("precious")
    Path(f"{path}.datatier-new").symlink_to(victim)
    apply([file(path, "secret", "600")])
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_a_link_is_replaced_by_the_file(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.conf"
    victim.write_text("precious")
    path.symlink_to(victim)
    apply([file(path, "mine")])
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_a_dangling_link_is_replaced_too(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.symlink_to(tmp_path / "nowhere")
    assert read([file(path, "x")])[str(path)].kind == "other"
    apply([file(path, "x")])
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    disk, path = tmp_path / "disk", tmp_path / "redis"
    disk.mkdir(0o750)
    disk.chmod(0o750)
    path.symlink_to(disk)
    assert pending([directory(path, "750")]) is None


# --- Secrets -------------------------------------------------------------------------------------


def test_no_moment_in_which_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    change = pending([file(path, "x", "600")])
    assert change is not None
    spy = 'chown() { stat -c %a "$2" >&3; command chown "$@"; }\n'
    assert carry_out(change, f"exec 3>{tmp_path / 'seen'}\n{spy}").returncode == 0
    assert (tmp_path / "seen").read_text() == "600\n"


def test_a_changed_secret_shows_as_a_change_but_not_itself(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text('port 6379\nrequirepass "old-secret"\n')
    change = pending([file(path, 'port 6379\nrequirepass "new-secret"\n', secret=REDIS_SECRET)])
    assert change is not None
    text = "\n".join([*change.diff, *change.lines, change.script])
    assert "old-secret" not in text
    assert "new-secret" not in text
    changed = [line for line in change.diff[3:] if line[0] in "+-"]
    assert [line.split("<")[0] for line in changed] == ["-requirepass ", "+requirepass "]
    assert changed[0][1:] != changed[1][1:]


def test_an_unchanged_secret_is_no_difference_and_stays_hidden(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text("requirepass same-secret\nport 1\n")
    change = pending([file(path, "requirepass same-secret\nport 2\n", secret=REDIS_SECRET)])
    assert change is not None
    assert "same-secret" not in "\n".join(change.diff)
    assert [line for line in change.diff[3:] if line[0] in "+-"] == ["-port 1", "+port 2"]


def test_a_secret_travels_in_no_command_line(tmp_path: Path) -> None:
    change = pending([file(tmp_path / "a", "requirepass hunter2\n", secret=REDIS_SECRET)])
    assert change is not None
    assert set(change.variables) == {"ORDERS"}
    assert "hunter2" not in change.script
    assert change.variables["ORDERS"].split()[-1] not in change.script


def test_a_mask_hides_every_occurrence() -> None:
    text = 'requirepass "s1"\nmasterauth "s2"\nport 1\n'
    masked = files.mask(text, REDIS_SECRET)
    assert "s1" not in masked
    assert "s2" not in masked
    assert masked.count("<secret ") == 2
    assert files.mask(text, None) == text


# --- Odd paths and contents ----------------------------------------------------------------------

NAMES = ["with space", "quote's", 'double"', "dollar$HOME", "`id`", "$(id)", "ünï", "back\\slash",
         "-rf", "star*", "semi;colon", "#hash", "a&b", "~"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(name: str, tmp_path: Path) -> None:
    inside = tmp_path / name
    apply([directory(inside), file(inside / name, name)])
    assert (inside / name).read_text() == name


@pytest.mark.parametrize(
    "content",
    ["", "\n", "no newline", "\n\n\n", "'\"`$HOME$(id)\\", "__ORDERS__\n", "ünï ∀ 🐘\n", "a\r\nb",
     "line\n" * 40_000],
    ids=["empty", "newline", "no-newline", "newlines", "quotes", "marker", "unicode", "crlf",
         "200-KB"],
)  # fmt: skip
def test_odd_contents(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    apply([file(path, content)])
    assert path.read_bytes() == content.encode()


def test_many_files_at_once(tmp_path: Path) -> None:
    entries = [file(tmp_path / f"{number}", f"{number}\n" * number) for number in range(60)]
    apply(entries)
    assert all(Path(entry.path).read_text() == entry.content for entry in entries)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_contents(tmp_path: Path, contents: list[str]) -> None:
    entries = [file(tmp_path / str(number), text) for number, text in enumerate(contents)]
    change = pending(entries)
    if change is not None:
        assert carry_out(change).returncode == 0
    assert [Path(entry.path).read_bytes().decode() for entry in entries] == contents
    assert pending(entries) is None


# --- Templates -----------------------------------------------------------------------------------


def test_a_template_with_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        files.render("service/dropin.conf.j2")


def test_fingerprints_do_not_run_together() -> None:
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert files.digest("ab", "c") == files.digest("ab", "c")
