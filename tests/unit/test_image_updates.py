"""Updates of the packages in images: what is due, and that a build which fails changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.backup.passphrase import repositories
from tasks.backup.settings import BackupSettings
from tasks.compose import updates
from tasks.compose.inside import one
from tasks.compose.services import entries_of, inside_of
from tasks.core import remote
from tasks.core.estate import Node
from tasks.core.files import Entry, File, Found
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tests.unit import helpers
from tests.unit.test_compose import DIRECTORY, docker, due, settled

# As the images of four roles are called; the services of one have the same.
ROLES = {"redis": "redis-master", "pgbouncer": "pgbouncer", "postgres": "postgres"}
ROLES["backup"] = "backup-service"
LIBRARY = "due libssl3 3.0.1 3.0.2 security"
CLIENT = "due postgresql-client-17 17.1 17.2 other"


def upgraded(directory: Path, said: Mapping[str, list[str]], **data: str) -> Node:
    """A host whose images have these updates, by role; each role has one image."""
    node = docker(directory, **data)
    found = settled(node)
    due(node, found)
    lines = [
        line for image, _ in found.images.values() for line in (f"image {image}", *_of(said, image))
    ]
    told = {"updates": updates._by_image(lines)}
    remote._cache[node.host]["images"] = (float("inf"), told)
    files = remote._cache[node.host]["docker"][1]["files"]
    files[f"{DIRECTORY}/.env"] = Found("absent")
    # Once for what `.env` has, and once with that.
    for _ in range(2):
        now = files[f"{DIRECTORY}/.env"].content.decode()
        places = repositories(one(inside_of(node), BackupSettings))
        files |= {each.path: _as_it_should_be(each) for each in entries_of(node, now, places)}
    return node


def _as_it_should_be(entry: Entry) -> Found:
    kind, content = ("file", entry.content) if isinstance(entry, File) else ("dir", "")
    return Found(kind, entry.mode, entry.user, entry.group, content.encode())


def _of(said: Mapping[str, list[str]], image: str) -> list[str]:
    return [line for role, lines in said.items() if ROLES[role] == image for line in lines]


def assigned(script: str, name: str) -> str:
    (line,) = [line for line in script.splitlines() if line.startswith(f"{name}=")]
    return line.partition("=")[2].strip("'")


def test_nothing_is_due_where_the_archive_has_nothing_newer(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {})
    assert updates.due_images(node) is None and [*updates.told(node)] == []


def test_an_update_of_security_takes_the_others_of_its_image_along(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {"redis": [LIBRARY], "postgres": [CLIENT, LIBRARY]})
    change = updates.due_images(node)
    assert change is not None and change.lines == [
        "image redis, postgres: package libssl3: upgrade 3.0.1 -> 3.0.2 (security)",
        "image postgres: package postgresql-client-17: upgrade 17.1 -> 17.2",
    ]
    assert node.rebuilds == {"redis", "postgres"}
    names = assigned(change.script, "names").split(" ")
    assert "redis-master=psscript_redis-sentinel-3:latest" in names
    assert not [name for name in names if "backup" in name or "pgbouncer" in name]


@pytest.mark.parametrize(("wanted", "taken"), [("security", set()), ("all", {"pgbouncer"})])
def test_the_setting_is_that_of_hosts(tmp_path: Path, wanted: str, taken: set[str]) -> None:
    node = upgraded(tmp_path, {"pgbouncer": [CLIENT]}, upgrade_packages=wanted)
    assert bool(updates.due_images(node)) == bool(taken)
    assert node.rebuilds == taken
    other = "image pgbouncer: other updates: postgresql-client-17; upgrade_packages=all takes them"
    assert [line.startswith(other) for line in updates.told(node)] == [True] * (not taken)


def test_what_another_image_is_built_on_is_built_with_it(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {role: [LIBRARY] for role in ROLES})
    change = updates.due_images(node)
    assert change is not None
    assert assigned(change.script, "fresh") == "backup-service pgbouncer redis-master"
    assert assigned(change.script, "below") == "postgres"


def test_the_plan_has_the_containers_of_images_that_are_built_again(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {"redis": [LIBRARY]})
    updates.due_images(node)
    found = settled(node)
    assert {line.partition(":")[0] for line in due(node, found)} == {
        *(f"redis-{name}" for name in ("master", "replica-1", "replica-2")),
        *(f"redis-sentinel-{number}" for number in (1, 2, 3)),
    }
    node.host.state.is_executing = True
    assert due(node, found) == []


def test_images_are_not_built_from_a_project_that_is_another_one(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {"redis": [LIBRARY]})
    files = remote._cache[node.host]["docker"][1]["files"]
    files[f"{DIRECTORY}/docker/images/Dockerfile"] = Found("file", content=b"FROM of before")
    with pytest.raises(Unreadable, match="the project is not as the settings say: run"):
        updates.due_images(node)


def test_an_image_of_the_users_is_theirs_to_build(tmp_path: Path) -> None:
    node = upgraded(tmp_path, {"redis": [LIBRARY]}, docker_image_redis="mine:1")
    assert updates.due_images(node) is None
    assert [*updates.told(node)] == [
        "docker_image_redis: mine:1 is yours: build it again for newer packages"
    ]


def test_lists_that_cannot_be_read_do_not_say_that_nothing_is_due(tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Failed to fetch x'\nexit 100\n")
    apt.chmod(0o755)
    asks = f"PATH={tmp_path}:$PATH\ntar() {{ :; }}\n{shell('updates-inside', 'compose')}"
    done = helpers.shell(asks)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "apt-get update: E: Failed to fetch x\n"


@pytest.mark.parametrize(
    ("says", "fails", "does"),
    [("#1 [internal]", "none", True), ("Step 1/9 : FROM x", "none", True), ("", "two", False)],
)
def test_names_move_when_all_images_are_built(
    says: str, fails: str, does: bool, tmp_path: Path
) -> None:
    """One that was built before another fails has a name of its own for a moment.

    The engine's own builder builds all at once.
    """
    values = {
        "project": str(tmp_path),
        "newer": "psscript-newer",
        "glue": "_",
        "fresh": "one two",
        "below": "",
        "names": "one=psscript_one two=psscript_two",
    }
    script = f"""set -eu
compose() {{
  case $* in *' {fails}') echo 'E: no room'; return 1 ;; esac
  echo "$*" >>{tmp_path}/built; echo '{says}'
}}
docker() {{ echo "$*"; }} >>{tmp_path}/said
compose=compose
"""
    build = shell("reason", "compose") + shell("rebuild", "compose", **values)
    done = helpers.shell(script + build.replace("docker rmi $made >/dev/null", "docker rmi $made"))
    said = (tmp_path / "said").read_text().splitlines()
    moved = [f"tag psscript-newer_{name} psscript_{name}" for name in ("one", "two")]
    built = " ".join(f"psscript-newer_{name}" for name in ("one", "two")[: 1 + does])
    assert said == [*moved * does, f"rmi {built}"]
    again = "" if says.startswith("Step") else " --no-cache"
    calls = [
        "-p psscript-newer build --force-rm --no-cache one",
        f"-p psscript-newer build --force-rm{again} two",
    ]
    assert (tmp_path / "built").read_text().splitlines() == calls[: 1 + does]
    wrong = "the image of two could not be built: E: no room\n"
    assert (done.returncode, done.stderr) == ((0, "") if does else (1, wrong))
