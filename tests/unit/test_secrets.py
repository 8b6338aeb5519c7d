"""Secrets: where they come from, and how new ones are kept."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tasks.core import estate as module
from tasks.core.estate import Estate
from tasks.core.secrets import Secrets, previous
from tests.unit import helpers

NAME = "POSTGRES_PASSWORD"
HOST = {"address": "10.0.0.1", "sentinel_ports": [26379, 26380, 26381]}
ALL = {group: ["db1"] for group in ("postgres", "pgbouncer", "redis", "sentinel", "backup")}


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_the_environment_wins(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.write_text(f"{NAME}=stored\n")
    monkeypatch.setenv(NAME, "from the environment")
    assert Secrets(env).get(NAME) == "from the environment"


def test_then_the_file(env: Path) -> None:
    env.write_text(f"{NAME}=stored\n")
    store = Secrets(env)
    assert store.get(NAME) == "stored"
    assert store.generated == {}


@pytest.mark.parametrize("before", ["", f"{NAME}=\n", f"# {NAME}=commented\n"])
def test_then_a_new_one(env: Path, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")
    env.write_text(before)
    store = Secrets(env)
    value = store.get(NAME)
    assert re.fullmatch("[A-Za-z0-9]{32}", value)
    assert store.get(NAME) == value
    assert store.generated == {NAME: value}


def test_new_ones_are_never_the_same(env: Path) -> None:
    store = Secrets(env)
    assert len({store.get(f"NAME_{number}") for number in range(50)}) == 50


def test_values_are_taken_literally(env: Path) -> None:
    env.write_text(f"A=x\n{NAME}='${{A}} $A # \"'\n")
    assert Secrets(env).get(NAME) == '${A} $A # "'


def test_saving_keeps_every_line_and_lets_nobody_else_read(env: Path) -> None:
    before = "# mine\nexport OTHER='a b'\n\nWITHOUT_NEWLINE=1"
    env.write_text(before)
    env.chmod(0o644)
    store = Secrets(env)
    redis, postgres = store.get("REDIS_PASSWORD"), store.get(NAME)
    store.save()
    assert env.read_text() == f"{before}\n{NAME}={postgres}\nREDIS_PASSWORD={redis}\n"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_what_was_saved_is_read_back(env: Path) -> None:
    store = Secrets(env)
    value = store.get(NAME)
    store.save()
    assert store.generated == {}
    assert store.get(NAME) == value
    assert Secrets(env).get(NAME) == value
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_an_empty_entry_is_overruled_by_the_saved_one(env: Path) -> None:
    env.write_text(f"{NAME}=\n")
    store = Secrets(env)
    value = store.get(NAME)
    store.save()
    assert Secrets(env).get(NAME) == value


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.usefixtures("full_disk")
def test_saving_is_whole_or_not_at_all(env: Path) -> None:
    env.write_text("OTHER=1\n")
    store = Secrets(env)
    store.get(NAME)
    with pytest.raises(OSError, match="no space left"):
        store.save()
    assert env.read_text() == "OTHER=1\n"


@pytest.mark.usefixtures("full_disk")
def test_a_failed_save_leaves_no_secret_behind(env: Path) -> None:
    store = Secrets(env)
    store.get(NAME)
    with pytest.raises(OSError, match="no space left"):
        store.save()
    assert list(env.parent.iterdir()) == []


def test_saving_replaces_the_file_at_once(env: Path) -> None:
    env.write_text("OTHER=1\n")
    with env.open() as reader:
        store = Secrets(env)
        store.get(NAME)
        store.save()
        assert reader.read() == "OTHER=1\n"


# --- Another value beside the one of before -------------------------------------------------------

TURNED = f"# mine\nexport {NAME}='old \\'1'\nOTHER={NAME}=x\n"


def test_a_value_becomes_that_of_before(env: Path) -> None:
    env.write_text(TURNED)
    store = Secrets(env)
    assert store.turn(NAME) == ""
    value = store.get(NAME)
    assert env.read_text() == TURNED and store.stated(previous(NAME)) == "old '1"
    store.save()
    kept = TURNED.replace(f"export {NAME}", f"export {NAME}_PREVIOUS")
    assert env.read_text() == f"{kept}{NAME}={value}\n"
    # The next run, also after one that was cut off, goes on with both.
    again = Secrets(env)
    assert again.turn(NAME) == "" and again.get(NAME) == value and not again.renamed
    assert again.drop(NAME) == ""
    again.save()
    assert env.read_text() == f"# mine\nOTHER={NAME}=x\n{NAME}={value}\n"


def test_a_mark_before_the_first_line_hides_no_name(env: Path) -> None:
    """Editors of other systems write one, and end lines in their way."""
    env.write_bytes(f"\ufeff{NAME}=old-1\r\nOTHER=x\r\n".encode())
    store = Secrets(env)
    assert store.get(NAME) == "old-1" and store.turn(NAME) == ""
    value = store.get(NAME)
    store.save()
    assert env.read_text() == f"{NAME}_PREVIOUS=old-1\nOTHER=x\n{NAME}={value}\n"


def test_a_name_in_quotes_is_not_rotated(env: Path) -> None:
    """No line would change, and the value that clients have would be lost."""
    text = f"'{NAME}'=now-1\n'{NAME}_PREVIOUS'=old-1\n"
    env.write_text(text.splitlines()[0])
    why = f"stands in {env} in a form that is not changed: write {{}}=... there"
    assert Secrets(env).turn(NAME) == why.format(NAME)
    env.write_text(text)
    assert Secrets(env).drop(NAME) == why.format(previous(NAME))
    assert env.read_text() == text


@pytest.mark.usefixtures("full_disk")
def test_a_rotation_that_cannot_be_written_has_not_begun(env: Path) -> None:
    env.write_text(TURNED)
    store = Secrets(env)
    store.turn(NAME)
    store.get(NAME)
    with pytest.raises(OSError, match="no space left"):
        store.save()
    assert env.read_text() == TURNED and [*env.parent.iterdir()] == [env]


def test_a_second_file_does_not_go_on_with_the_value_of_before(env: Path, tmp_path: Path) -> None:
    env.write_text(f"{NAME}=old-1\n")
    further = tmp_path / "further"
    further.write_text(f"{NAME}=old-1\nOTHER=of-it-1\n")
    store = Secrets(env)
    store.also(further)
    assert store.turn(NAME) == "" and store.get(NAME) != "old-1"
    assert store.get("OTHER") == "of-it-1" and store.fresh("OTHER") != "of-it-1"


def test_two_rotations_at_once(env: Path) -> None:
    env.write_text(f"{NAME}=old-1\n")
    first, second = Secrets(env), Secrets(env)
    for store in (first, second):
        store.turn(NAME)
        store.get(NAME)
    first.save()
    with pytest.raises(RuntimeError, match=f"another run changed {NAME}: run again"):
        second.save()


def test_values_from_elsewhere_are_changed_there(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.write_text("OTHER=1\n")
    assert Secrets(env).turn(NAME) == f"is not in {env}: deploy first"
    monkeypatch.setenv(NAME, "old-1")
    why = f"comes from the environment: put another value there, with the present one as {NAME}_"
    assert Secrets(env).turn(NAME).startswith(why)
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "older-1")
    assert Secrets(env).drop(NAME).startswith("comes from the environment: take")
    printing = Secrets(env)
    monkeypatch.delenv(NAME)
    monkeypatch.delenv(f"{NAME}_PREVIOUS")
    assert printing.ask(f"echo {NAME}=printed-1") == ""
    assert printing.turn(NAME).startswith("comes from secrets_command")


# --- Who else can come to them -------------------------------------------------------------------


def exposures(env: Path) -> str:
    return "\n".join([*Secrets(env).open_to_all(), *Secrets(env).exposures()])


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o600, ""),
        (0o400, ""),
        (0o604, "mode 604: others can read the secrets; chmod 600 it"),
        (0o606, "mode 606: others can change the secrets; chmod 600 it"),
    ],
)
def test_a_file_that_others_can_read_is_named(env: Path, mode: int, said: str) -> None:
    env.write_text(f"{NAME}=stored\n")
    env.chmod(mode)
    assert exposures(env) == said


def test_a_run_is_refused_with_a_file_that_others_can_read(env: Path) -> None:
    everything = helpers.estate({"db1": HOST}, ALL, env.parent)
    assert helpers.problems(everything) == []
    env.chmod(0o644)
    (said,) = helpers.problems(helpers.estate({"db1": HOST}, ALL, env.parent))
    assert said == f"{env}: secrets: mode 644: others can read the secrets; chmod 600 it"


@pytest.mark.parametrize("content", ["A=é\n".encode("latin-1"), f"{NAME}=old-1\n".encode("utf-16")])
def test_a_file_in_another_encoding_is_refused_in_one_line(env: Path, content: bytes) -> None:
    env.write_bytes(content)
    env.chmod(0o600)
    (said,) = helpers.problems(helpers.estate({"db1": HOST}, ALL, env.parent))
    assert said == f"{env}: secrets: is not UTF-8: save it as plain text in UTF-8"
    assert env.read_bytes() == content


def test_a_directory_in_the_place_of_the_file_is_refused(env: Path) -> None:
    env.mkdir(0o700)
    (said,) = helpers.problems(helpers.estate({"db1": HOST}, ALL, env.parent))
    assert said.startswith(f"{env}: secrets: is a directory: move it away")


def test_a_group_that_may_be_meant_to_is_warned_of(env: Path) -> None:
    env.write_text(f"{NAME}=stored\n")
    env.chmod(0o640)
    assert exposures(env) == f"{env}: mode 640: its group can read the secrets; chmod 600 it"
    assert helpers.problems(helpers.estate({"db1": HOST}, ALL, env.parent)) == []


def test_a_link_is_what_it_leads_to(env: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    real = tmp_path / "elsewhere" / "secrets"
    real.write_text("")
    real.chmod(0o600)
    env.symlink_to(real)
    assert exposures(env) == ""
    real.chmod(0o644)
    assert "mode 644" in exposures(env)
    real.chmod(0o600)
    real.parent.chmod(0o777)
    assert exposures(env) == f"others can replace it; chmod o-w {real.parent}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else_is_named(env: Path) -> None:
    env.write_text("")
    env.chmod(0o600)
    os.chown(env, 65534, 65534)
    assert exposures(env) == f"{env}: belongs to user 65534, who can read and change the secrets"


def test_a_file_in_a_repository_is_named_once_it_is_tracked(env: Path) -> None:
    env.write_text("")
    env.chmod(0o600)
    git = ["git", "-C", str(env.parent)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert exposures(env) == ""
    subprocess.run([*git, "add", "-f", ".env"], check=True)
    assert "is tracked by git; git rm --cached it" in exposures(env)


def test_none_is_no_exposure(env: Path) -> None:
    assert exposures(env) == ""


# --- What a command prints -----------------------------------------------------------------------


def commanded(env: Path, text: str) -> Estate:
    return helpers.estate({"db1": {**HOST, "secrets_command": text}}, ALL, env.parent)


def test_a_commands_secrets_come_before_the_files(
    env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (env.parent / "store").write_text(f"{NAME}='from $it'\nREDIS_PASSWORD=from-it\nUNUSED=x\n")
    env.write_text(f"{NAME}=stored\nBACKUP_ROLE_PASSWORD=stored\n")
    env.chmod(0o600)
    monkeypatch.setenv("REDIS_PASSWORD", "from the environment")
    store = commanded(env, "cat store").secrets
    names = (NAME, "REDIS_PASSWORD", "BACKUP_ROLE_PASSWORD")
    assert [store.get(name) for name in names] == ["from $it", "from the environment", "stored"]


def test_a_command_runs_once_for_all_hosts(env: Path) -> None:
    data = {**HOST, "secrets_command": f"echo ran >>log; echo {NAME}=from-it"}
    hosts = {"db1": data, "db2": {**data, "address": "10.0.0.2"}}
    assert helpers.estate(hosts, ALL, env.parent).secrets.get(NAME) == "from-it"
    assert (env.parent / "log").read_text() == "ran\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo ...; echo no key >&2; exit 3", "ended with 3: no key"),
        ("exit 3", "ended with 3: it does not say why"),
        (
            "printf 'Recovery failed: no key\\n  helps,\\n  but none were.\\n' >&2; exit 128",
            "ended with 128: Recovery failed: no key",
        ),
        (
            "printf 'error: no key\\nerrors: see the page' >&2; exit 1",
            "ended with 1: error: no key",
        ),
        ("(echo denied >&2; exit 2) | cat", "prints no line NAME=value: denied"),
        ("kill -9 $$", "ended with -9: it does not say why"),
        ("echo", "prints no line NAME=value"),
        ("printf '\\377'", "prints no line NAME=value"),
        (f"echo {NAME}=", "prints no line NAME=value"),
        ("true", "prints no line NAME=value"),
        ("echo '{}'", "prints no line NAME=value"),
        ("no-such-store", "ended with 127: /bin/sh: 1: no-such-store: not found"),
    ],
)
def test_a_command_without_secrets_is_refused(env: Path, text: str, said: str) -> None:
    assert helpers.problems(commanded(env, text)) == [f"db1: secrets_command: {said}"]


@pytest.mark.parametrize("mark", ["", "\\357\\273\\277"])
def test_a_store_of_another_system_is_read(env: Path, mark: str) -> None:
    """Line ends of two characters, and a mark before the first name."""
    store = commanded(env, f"printf '{mark}{NAME}=from-it\\r\\nREDIS_PASSWORD=other\\r\\n'").secrets
    assert [store.get(name) for name in (NAME, "REDIS_PASSWORD")] == ["from-it", "other"]


def test_a_value_that_is_no_text_is_refused(env: Path) -> None:
    (said, *_) = helpers.problems(commanded(env, f"printf '{NAME}=old-password-\\351\\n'"))
    assert said.endswith("should have printable ASCII characters only")


@pytest.mark.parametrize("text", ["exec sleep 60", "sleep 60 | cat", "echo A=1; sleep 60 &"])
def test_a_command_that_does_not_end_is_ended(
    env: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("tasks.core.secrets.COMMAND_SECONDS", 0.2)
    (said,) = helpers.problems(commanded(env, text))
    assert said == "db1: secrets_command: has not ended within 0.2 s: run it by hand"


def test_different_commands_are_refused(env: Path) -> None:
    hosts = {
        name: {"address": f"10.0.0.{name[-1]}", "secrets_command": f"cat {name}"}
        for name in ("db1", "db2")
    }
    everything = helpers.estate(hosts, {"postgres": [*hosts]}, env.parent)
    wrong = "secrets_command: should be the same on all hosts: it runs once, on this machine"
    assert {f"db1: {wrong}", f"db2: {wrong}"} <= {*map(str, everything.problems)}


def test_nothing_is_generated_beside_a_command(env: Path) -> None:
    """It would be on this machine only, and the others would not have it."""
    env.write_text("")
    env.chmod(0o600)
    everything = commanded(env, f"echo {NAME}=from-it")
    found = [str(problem) for problem in module.everything_wrong(everything)]
    names = ", ".join(sorted(helpers.SECRETS.keys() - {NAME}))
    assert found == [f"db1: secrets_command: does not print {names}: add them to what it reads"]


# --- What an estate needs ------------------------------------------------------------------------


def test_a_fresh_project_generates_what_its_components_need(env: Path) -> None:
    env.write_text("# empty\n")
    env.chmod(0o600)
    everything = helpers.estate({"db1": HOST}, ALL, env.parent)
    everything.gather_secrets()
    assert set(everything.secrets.generated) == set(helpers.SECRETS)


def test_nothing_is_generated_when_nothing_is_missing(env: Path) -> None:
    everything = helpers.estate({"db1": HOST}, ALL, env.parent)
    everything.gather_secrets()
    assert everything.secrets.generated == {}


def test_no_secret_is_generated_for_what_is_not_there(env: Path) -> None:
    env.write_text("# empty\n")
    env.chmod(0o600)
    roles = {"app": {"password": "chosen"}, "readers": {"login": False}, "web-1": {}}
    host = {
        **HOST,
        "postgres_password": "chosen",
        "postgres_roles": roles,
        "postgres_databases": {"shop": {"owner": "app"}},
    }
    everything = helpers.estate({"db1": host}, {"postgres": ["db1"]}, env.parent)
    assert helpers.problems(everything) == []
    everything.gather_secrets()
    assert set(everything.secrets.generated) == {"POSTGRES_ROLE_WEB_1_PASSWORD"}
