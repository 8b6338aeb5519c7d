"""Whatever a value looks like, each format that we write gives it back as that text."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tasks.compose import files as compose_files
from tasks.compose import project as compose_project
from tasks.core.files import render
from tasks.core.scripts import quoted
from tasks.postgres import files as postgres_files
from tasks.postgres import parameters, psql
from tasks.redis import values as redis_values
from tests.unit import helpers

# A line break is refused wherever it comes from.
VALUES = [
    *(
        "010",
        "null",
        "yes",
        "No",
        "on",
        "y",
        "~",
        "1e3",
        "0x1F",
        "1_0",
        "12:30:45",
        ".inf",
        "=",
        "",
    ),
    *("a: b", "# c", "a #c", "$x ${Y} $$", "100%", "%(x)s", "it's", '"q"', "\\", "\\n", "a\\'b"),
    *(" lead", "trail ", "a;b", "`id`", "$(id)", "{a}", "[a]", "- a", "&a", "*a", "!a", "|", ">"),
    *("@a", "?", ",", "<b>&amp;", "2030-01-01", "\t"),
]
NAMES = ["null", "yes", "no", "on", "off", "y", "n", "true", "false"]


def compose(directory: Path, **data: Any) -> dict[str, Any]:
    """docker-compose.yml as a parser and Compose read it, which sees variables in `$`."""
    made = helpers.estate({"box": data}, {"docker": ["box"]}, directory)
    assert helpers.problems(made) == []
    text = compose_project.compose_file(made.nodes[0])
    assert not re.search(r"(?<!\$)(?:\$\$)*\$(?!\$)", text), "a variable of Compose's"
    return dict(yaml.safe_load(text.replace("$$", "$")))


def test_yaml_has_values_of_applications_as_texts(tmp_path: Path) -> None:
    env = {f"V{number}": value for number, value in enumerate(VALUES)}
    names = {name.upper(): name for name in NAMES}
    app = {"name": "app", "port": 8000, "image": "app", "env": {**env, **names}}
    made = compose(tmp_path, apps=[app])["services"]["app"]["environment"]
    assert {key: made[key] for key in (*env, *names)} == {**env, **names}


def test_yaml_has_names_as_texts(tmp_path: Path) -> None:
    apps = [{"name": n, "port": 8000 + i, "image": "x"} for i, n in enumerate(NAMES)]
    assert set(NAMES) <= set(compose(tmp_path, apps=apps)["services"])


@pytest.mark.parametrize("name", ["010", "null", "yes", "1e3", "0x1F", "12.30"])
def test_yaml_has_a_network_of_any_name(name: str, tmp_path: Path) -> None:
    made = compose(tmp_path, docker_network=name)
    assert list(made["networks"]) == [name] == [made["networks"][name]["name"]]
    assert list(made["services"]["postgres"]["networks"]) == [name]
    assert made["services"]["redis-replica"]["networks"] == [name]


def test_yaml_has_nothing_but_texts_where_a_setting_stands(tmp_path: Path) -> None:
    """Whoever adds a line to the template finds out here."""
    text = Path("templates/compose/docker-compose.yml.j2").read_text()
    bare = [line for line in text.splitlines() if "{{" in line and "text(" not in line]
    macros = re.compile(r"\{\{ (common|at|read_only|redis_environment)\(.*\| trim \}\}$")
    assert [line for line in bare if not macros.search(line) and "shm_size" not in line] == []


@pytest.mark.parametrize("value", VALUES)
def test_env(value: str, tmp_path: Path) -> None:
    file = tmp_path / "values.env"
    file.write_text(f"VALUE={compose_files._quoted(value)}\n")
    assert dotenv_values(file, interpolate=False) == {"VALUE": value}


def test_postgresql_conf() -> None:
    wanted = {f"app.v{number}": value for number, value in enumerate(VALUES)}
    text = render("postgres/postgresql.conf.j2", parameters=postgres_files._quoted(wanted))
    assert parameters.of(text) == wanted


@pytest.mark.parametrize("value", VALUES)
def test_redis_conf(value: str) -> None:
    """As sdssplitargs of Redis reads what is in double quotes; JSON escapes the same two."""
    assert json.loads(redis_values.quote(value), strict=False) == value


@pytest.mark.parametrize("value", VALUES)
def test_userlist(value: str) -> None:
    (line,) = render("pgbouncer/userlist.txt.j2", users={"u": value}).splitlines()[-1:]
    found = re.fullmatch(r'"u" "((?:[^"]|"")*)"', line)
    assert found and found[1].replace('""', '"') == value


@pytest.mark.parametrize("value", VALUES)
def test_sql(value: str) -> None:
    """As the server reads it in our sessions, where a backslash is none but itself."""
    found = re.fullmatch(r"'((?:[^']|'')*)'", psql.literal(value))
    assert found and found[1].replace("''", "'") == value
    assert "standard_conforming_strings=on" in psql.SHELL


@pytest.mark.parametrize("value", VALUES)
def test_shell(value: str) -> None:
    script = f"printf %s {quoted(value)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == value
