"""One command reads everything: batches, truncation, memory, and secrets on standard input."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko import SSHException
from pyinfra.api import Host
from pyinfra.api.arguments import ConnectorArguments

from tasks.core import files, remote
from tasks.core.remote import Probe, Unreadable
from tasks.core.scripts import assignments, quoted, shell
from tests.unit import helpers

SECRET_LINE = "requirepass hunter2"
SECRET = "hunter2 'quoted\" $HOME `id` \\"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """This machine; its commands run in real shells."""
    made = helpers.local(tmp_path)
    yield made
    remote.forget(made)


def text(lines: list[str]) -> str:
    return "\n".join(lines)


def echo(word: str) -> Probe[str]:
    return Probe(f"echo {word}", text)


# --- One read ------------------------------------------------------------------------------------


def test_every_probe_gets_its_own_lines(host: Host) -> None:
    batches = {
        "redis": {
            "one": echo("1"),
            "none": Probe("true", text),
            "two": Probe("echo a; echo b", text),
        },
        "sentinel": {"one": echo("3")},
    }
    assert remote.read(host, lambda: batches, "redis") == {"one": "1", "none": "", "two": "a\nb"}
    assert remote.read(host, lambda: batches, "sentinel") == {"one": "3"}
    assert remote.commands(host) == 1


def test_what_is_remembered_is_not_even_asked_for(host: Host) -> None:
    remote.read(host, lambda: {"redis": {"one": echo("1")}}, "redis")
    assert remote.read(host, pytest.fail, "redis") == {"one": "1"}


def test_the_real_file_probe_works_through_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x\x1e 0\n\xff")
    entries = [files.File(str(tmp_path / name), "") for name in ("a", "b")]
    found = remote.read(host, lambda: {"redis": {"files": files.probe(entries)}}, "redis")["files"]
    assert found[str(tmp_path / "a")].content == b"x\x1e 0\n\xff"
    assert found[str(tmp_path / "b")].kind == "absent"


def test_probes_cannot_disturb_each_other(host: Host) -> None:
    batches = {"redis": {
        "leaves": Probe("cd /; x=1; set -u; exit 0", text),
        "reads": Probe("cat; echo ${x-unset}", text),
    }}  # fmt: skip
    assert remote.read(host, lambda: batches, "redis")["reads"] == "unset"


# --- What cannot be read is unknown --------------------------------------------------------------


def test_a_probe_that_fails_spoils_its_own_batch_only(host: Host) -> None:
    batches = {
        "redis": {
            "fine": echo("1"),
            "files": Probe("echo half; echo 'disk on fire' >&2; exit 3", text),
        },
        "sentinel": {"fine": echo("2")},
    }
    with pytest.raises(Unreadable) as caught:
        remote.read(host, lambda: batches, "redis")
    assert str(caught.value).endswith("redis: files could not be read: disk on fire")
    assert remote.read(host, lambda: batches, "sentinel") == {"fine": "2"}


def test_a_failure_without_a_word_says_its_status(host: Host) -> None:
    with pytest.raises(Unreadable, match=r"redis: files could not be read: status 7$"):
        remote.read(host, lambda: {"redis": {"files": Probe("exit 7", text)}}, "redis")


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends after half an answer."""
    whole = remote.run

    def run(*arguments: Any) -> remote.Output:
        lines = whole(*arguments).stdout
        return remote.Output(False, lines[: lines.index("half") + 1], [])

    monkeypatch.setattr(remote, "run", run)


@pytest.mark.usefixtures("cut")
def test_output_that_was_cut_short_is_not_an_empty_answer(host: Host) -> None:
    batches = {
        "postgres": {"whole": echo("1")},
        "redis": {"files": echo("half")},
        "sentinel": {"files": echo("never")},
    }
    assert remote.read(host, lambda: batches, "postgres") == {"whole": "1"}
    for batch in ("redis", "sentinel"):
        with pytest.raises(Unreadable, match=f"{batch}: files could not be read"):
            remote.read(host, lambda: batches, batch)


@pytest.mark.usefixtures("cut")
def test_an_error_shows_nothing_of_what_was_read(host: Host) -> None:
    batches = {"redis": {"files": Probe(f"echo {SECRET_LINE}; echo half", text)}}
    with pytest.raises(Unreadable) as caught:
        remote.read(host, lambda: batches, "redis")
    assert "hunter2" not in str(caught.value)
    assert "\x1e" not in str(caught.value)


def test_a_last_line_without_its_end_is_not_trusted(host: Host) -> None:
    with pytest.raises(Unreadable):
        remote.read(host, lambda: {"redis": {"files": Probe("printf half", text)}}, "redis")


def test_an_answer_that_makes_no_sense_is_unreadable(host: Host) -> None:
    probe = files.probe([files.File("/etc/passwd", ""), files.File("/etc/group", "")])
    short = Probe("echo absent", probe.parse)
    with pytest.raises(Unreadable, match="redis: files could not be read"):
        remote.read(host, lambda: {"redis": {"files": short}}, "redis")


def broken(*_arguments: object, **_keywords: object) -> None:
    raise EOFError


def test_a_broken_connection_reads_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "run_shell_command", broken)
    with pytest.raises(Unreadable, match=r"could not be read: the connection is broken$"):
        remote.read(host, lambda: {"redis": {"one": echo("1")}}, "redis")


def test_a_connection_that_breaks_during_a_change_fails_its_host_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "run_shell_command", broken)
    with pytest.raises(SSHException, match="the connection is broken"):
        remote.command("true", {"A": "b"}).execute(host.state, host, ConnectorArguments())


# --- Memory --------------------------------------------------------------------------------------


def counting(path: Path) -> dict[str, dict[str, Probe[str]]]:
    """Two batches; every read of the first leaves a line in a file."""
    script = f"echo x >>{path}; wc -l <{path}"
    return {"redis": {"count": Probe(script, text)}, "sentinel": {"other": echo("1")}}


def test_what_was_read_is_remembered(host: Host, tmp_path: Path) -> None:
    batches = counting(tmp_path / "count")
    answers = [
        remote.read(host, lambda: batches, name) for name in ("redis", "redis", "sentinel", "redis")
    ]
    assert [answer for answer in answers if "count" in answer] == [{"count": "1"}] * 3
    assert remote.commands(host) == 1


def test_a_change_makes_it_forgotten(host: Host, tmp_path: Path) -> None:
    batches = counting(tmp_path / "count")
    remote.read(host, lambda: batches, "redis")
    remote.forget(host)
    assert remote.read(host, lambda: batches, "redis") == {"count": "2"}


def test_after_a_change_only_what_is_asked_for_is_read(host: Host, tmp_path: Path) -> None:
    batches = counting(tmp_path / "count")
    remote.read(host, lambda: batches, "redis")
    remote.forget(host)
    assert remote.read(host, lambda: batches, "sentinel") == {"other": "1"}
    assert (tmp_path / "count").read_text() == "x\n"
    assert remote.read(host, lambda: batches, "redis") == {"count": "2"}


def test_a_change_of_a_room_leaves_what_it_does_not_touch(host: Host, tmp_path: Path) -> None:
    batches, apart = counting(tmp_path / "count"), ("postgres",)
    remote.read(host, lambda: batches, "redis")
    remote.forget(host, "postgres")
    assert remote.read(host, lambda: batches, "redis", apart) == {"count": "1"}
    assert remote.read(host, lambda: batches, "redis") == {"count": "2"}
    for other in ("", "sentinel"):
        asked = remote.commands(host)
        remote.forget(host, other)
        remote.read(host, lambda: batches, "redis", apart)
        assert remote.commands(host) == asked + 1, other


def test_it_is_read_again_after_a_minute(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = counting(tmp_path / "count")
    remote.read(host, lambda: batches, "redis")
    monkeypatch.setattr(remote, "MAX_AGE_SECONDS", 0.0)
    assert remote.read(host, lambda: batches, "redis") == {"count": "2"}


def test_a_failure_is_remembered_until_something_changes(host: Host, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    batches = {"redis": {"flag": Probe(f"cat {flag}", text)}}
    with pytest.raises(Unreadable):
        remote.read(host, lambda: batches, "redis")
    flag.write_text("there\n")
    remote.forget(host)
    assert remote.read(host, lambda: batches, "redis") == {"flag": "there"}


# --- Secrets -------------------------------------------------------------------------------------


def test_a_command_shows_no_secret() -> None:
    command = remote.command('echo "$PASSWORD"', {"PASSWORD": SECRET})
    for shown in (str(command), repr(command), command.get_raw_value(), command.get_masked_value()):
        assert "hunter2" not in shown
    assert "hunter2" in str(command.connector_arguments["_stdin"])


@pytest.mark.parametrize("variables", [{}, {"A": "b"}])
def test_a_command_speaks_english(variables: dict[str, str]) -> None:
    """Whatever the host or the user speaks."""
    german = "env LANG=de_DE.UTF-8 LC_MESSAGES=de_DE.UTF-8 LANGUAGE=de sh -c"
    script = remote.command('echo "$LC_ALL ${LANGUAGE-unset}"', variables).get_raw_value()
    assert helpers.shell(f"{german} {quoted(script)} </dev/null").stdout == "C.UTF-8 unset\n"


@pytest.mark.parametrize("variables", [{}, {"A": "b"}])
def test_a_command_asks_our_servers(variables: dict[str, str]) -> None:
    """Whatever a line of .bashrc says for psql and redis-cli."""
    others = "env PGHOST=10.0.0.1 PGPORT=1 PGOPTIONS='-c x=y' PGSSLMODE=require REDISCLI_AUTH=z"
    others += " POSIXLY_CORRECT=1 TMPDIR=/nowhere PGBACKREST_STANZA=other"
    look = "env | grep -E '^(PG|REDISCLI|POSIX|TMP)' || echo none"
    script = remote.command(look, variables).get_raw_value()
    assert helpers.shell(f"{others} sh -c {quoted(script)} </dev/null").stdout == "none\n"


def test_a_command_without_variables_leaves_standard_input_alone() -> None:
    command = remote.command("echo x")
    assert command.get_raw_value().endswith("\necho x")
    assert "_stdin" not in command.connector_arguments


def test_no_process_list_and_no_environment_shows_a_secret(host: Host) -> None:
    look = "tr '\\0' ' ' </proc/$$/cmdline; tr '\\0' ' ' </proc/self/environ; ps -ef 2>/dev/null"
    output = remote.run(host, f'{look}; echo; printf "%s\\n" "$PASSWORD"', {"PASSWORD": SECRET})
    assert output.ok
    assert output.stdout[-1] == SECRET
    assert "hunter2" not in text(output.stdout[:-1])


def test_probes_get_their_secrets(host: Host) -> None:
    probe = Probe('printf "%s\\n" "$PASSWORD"', text, (("PASSWORD", SECRET),))
    assert remote.read(host, lambda: {"redis": {"roles": probe}}, "redis") == {"roles": SECRET}


@settings(max_examples=50)
@given(st.dictionaries(
    st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
))  # fmt: skip
def test_assignments_keep_one_shell_word_per_value(variables: dict[str, str]) -> None:
    rest = assignments(variables)
    for name, value in variables.items():
        assert rest.startswith(f"{name}=")
        word, rest = shell_word(rest.removeprefix(f"{name}="))
        assert word == value
    assert rest == ""


def shell_word(source: str) -> tuple[str, str]:
    """The first shell word, unquoted, and what follows its line."""
    word = ""
    while not source.startswith("\n"):
        part = re.match(r"'([^']*)'|\"(')\"|([A-Za-z0-9@%+=:,./_-]+)", source)
        assert part is not None, source
        word += part[1] or part[2] or part[3] or ""
        source = source[part.end() :]
    return word, source[1:]


def test_the_sudo_password_goes_into_a_private_script(host: Host) -> None:
    remote.hide_sudo_password(host, SECRET)
    path = Path(host.connector_data[f"sudo_askpass_path__{host.get_temp_dir_config()}"])
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert helpers.shell(str(path)).stdout == f"{SECRET}\n"
        assert host.data._sudo_password == "-"
    finally:
        path.unlink()


# --- Small things --------------------------------------------------------------------------------


def test_the_last_word_is_the_error() -> None:
    output = remote.Output(False, ["out"], ["first", "why", " "])
    assert output.last_word == "why"
    assert remote.Output(False, ["out", ""], []).last_word == "out"
    assert remote.Output(False, [], []).last_word == ""


def test_words_are_quoted() -> None:
    assert quoted("a", "b c", "d'e", "") == "a 'b c' 'd'\"'\"'e' ''"


@pytest.mark.parametrize(
    ("lines", "own"),
    [
        (["\x1e\x1e", "a", "b"], ["a", "b"]),
        (["Welcome", "to db1\x1e\x1e", "a"], ["a"]),
        (["\x1e\x1e"], []),
        (["a"], ["a"]),
    ],
)
def test_what_a_shell_says_by_itself_is_no_answer(lines: list[str], own: list[str]) -> None:
    assert remote._own(lines) == own


def test_a_command_answers_behind_a_greeting(tmp_path: Path) -> None:
    assert remote.run(helpers.local(tmp_path), "echo one; echo two").stdout == ["one", "two"]


def test_a_password_is_asked_where_programs_may_run(tmp_path: Path) -> None:
    """Nothing can be made in the first directory, as nothing could run where /tmp is noexec."""
    script = f"TMPDIR=/nowhere HOME={tmp_path}\n{shell('askpass')}"
    done = helpers.shell(script, {"PASSWORD": "it's $HOME"})
    path = Path(done.stdout.strip())
    assert (path.parent, path.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert helpers.shell(str(path)).stdout == "it's $HOME\n"
