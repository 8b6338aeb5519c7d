"""Clusters on a host: whose they are, what is refused, and what is copied before it is replaced."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core import files, packages
from tasks.core.change import Change
from tasks.core.files import Directory, File
from tasks.core.scripts import shell
from tasks.postgres import clusters
from tasks.postgres.clusters import Clusters
from tests.unit import helpers

DATA = "/var/lib/postgresql/15/main"
OURS = Clusters((15,), is_configured=True, is_ours=True, data=DATA, is_whole=True)
THEIRS = replace(OURS, is_ours=False, pid="77", databases=2)


def test_an_answer_is_understood() -> None:
    lines = ["version 13", "version 15", "configured", "running 77", f"data {DATA}", "whole",
             "databases 2", "unfit hba_file is /srv/hba", "archives cp %p /srv/wal/%f"]  # fmt: skip
    assert clusters.probe(15).parse(lines) == replace(
        THEIRS,
        versions=(13, 15),
        unfit=("hba_file is /srv/hba",),
        archive_command="cp %p /srv/wal/%f",
    )
    assert clusters.probe(15).parse([f"data {DATA}", "databases 0"]) == Clusters(data=DATA)


@pytest.mark.parametrize(
    "found",
    [
        OURS,
        Clusters(data=DATA),
        # Created by an interrupted run up to the last rename.
        replace(OURS, is_whole=False, is_begun=True),
    ],
)
def test_what_is_ours_is_not_refused(found: Clusters) -> None:
    assert list(clusters.refused(15, found, adopt=False)) == []
    assert not found.is_foreign


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize(
    ("found", "why"),
    [
        (
            replace(THEIRS, data="/srv/pg/15"),
            f"has its data in /srv/pg/15 (in use by pid 77), and Datatier uses {DATA}",
        ),
        (replace(OURS, data="/srv/pg/15"), f"has its data in /srv/pg/15, and Datatier uses {DATA}"),
        (replace(OURS, is_whole=False), "is configured in /etc/postgresql/15/main and has no"),
        (Clusters(data=DATA, is_whole=True), f"has data in {DATA} and no configuration"),
        (Clusters(data=DATA, left=(DATA,)), f"{DATA} has files and is no cluster's"),
        (replace(THEIRS, unfit=("hba_file is /srv/hba",)), "cannot be adopted: hba_file is /srv"),
    ],
)  # fmt: skip
def test_what_no_run_takes(found: Clusters, why: str, adopt: bool) -> None:
    (said,) = clusters.refused(15, found, adopt=adopt)
    assert said.startswith(why)


def test_a_cluster_of_others_is_adopted_by_a_key_only() -> None:
    (said,) = clusters.refused(15, THEIRS, adopt=False)
    assert said == (
        f"is not Datatier's ({DATA}, running as pid 77, 2 databases besides PostgreSQL's own): "
        "postgres_adopt = True in one run takes it over with its data, or choose another host"
    )
    assert list(clusters.refused(15, THEIRS, adopt=True)) == []
    stopped = replace(THEIRS, pid="", databases=0, archive_command="cp")
    said, archives = clusters.adoption(15, stopped, archives=True)
    assert said == (
        f"cluster 15/main ({DATA}, stopped, no databases besides PostgreSQL's own): "
        "adopt; its data and roles stay"
    )
    assert archives == "archive_command 'cp': replaced by that of the backups"
    assert clusters.adoption(15, stopped, archives=False) == [said]


def is_ours(directory: Path) -> bool:
    ask = f"MARK='{files.MARK}'\n{shell('ours')}is_ours {directory}/etc {directory}/data"
    return helpers.shell(ask).returncode == 0


def test_a_file_in_conf_d_of_an_earlier_cluster_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc/conf.d").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    ours, version = tmp_path / "etc/conf.d/datatier.conf", tmp_path / "data/PG_VERSION"
    assert not is_ours(tmp_path)
    version.write_text("15\n")
    ours.write_text(f"# {files.MARK}\n")
    helpers.shell(f"touch -d '1 hour ago' {version}")
    assert is_ours(tmp_path)
    helpers.shell(f"touch -d '2 hours ago' {ours}")
    assert not is_ours(tmp_path)
    (tmp_path / "etc/pg_hba.conf").write_text(f"# {files.MARK}\n")
    assert is_ours(tmp_path)


def test_creation_is_shell() -> None:
    copied = {"PRIMARY": "host=10.0.0.1", "SLOT": "datatier_b"}
    script, variables = clusters.creation(15, 5432, "C.UTF-8", copied)
    assert helpers.syntax_error(script) == ""
    assert helpers.syntax_error(clusters.probe(15).script) == ""
    assert "rm -rf" not in script.replace('rm -rf -- "$etc/$new" "$data/$new"', "")
    assert variables["VERSION"] == "15"
    assert script.count("pg_createcluster") == script.count(
        "runuser -u postgres -- pg_createcluster"
    )


# --- Files of others -----------------------------------------------------------------------------

INI = File("/etc/x.ini", f"; {files.MARK}\n")


@pytest.mark.parametrize(
    ("content", "is_stranger"),
    [(b"", False), (b"\n", False), (INI.content.encode(), False), (b"theirs", True)],
)
def test_what_others_wrote_is_seen(content: bytes, is_stranger: bool) -> None:
    line = f"file 644 root root 0 0 {base64.b64encode(content).decode()}"
    found = files.probe([INI]).parse([line])
    assert files.strangers(found, ()) == [INI.path] * is_stranger
    assert files.strangers(found, {hashlib.md5(content).hexdigest()}) == []
    for kind in ("other 0", "dir 755 root root 0 0"):
        assert files.strangers(files.probe([INI]).parse([kind]), ()) == [INI.path]
    theirs = File(INI.path, INI.content, user="postgres")
    assert files.strangers(files.probe([theirs]).parse(["other 101"]), ()) == []
    unmarked, place = File(INI.path, "ours by its place"), Directory(INI.path)
    for entry in (unmarked, place):
        assert files.strangers(files.probe([entry]).parse([line]), ()) == []
    # Packages have empty files, too.
    empty = {hashlib.md5(b"").hexdigest()}
    assert files.strangers(files.probe([unmarked]).parse(["other 0"]), empty) == [INI.path]


def test_a_packages_own_file_is_known() -> None:
    lines = [
        "",
        " /etc/pgbouncer/pgbouncer.ini 288173e2dbbb04b02e563a7f9e83cd17",
        " /etc/x newconf",
    ]
    assert packages.pristine_probe(["pgbouncer"]).parse(lines) == {
        "288173e2dbbb04b02e563a7f9e83cd17"
    }


def test_a_copy_is_kept_and_an_earlier_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "COPIES", f"{tmp_path}/copies")
    path = tmp_path / "theirs.conf"
    change = files.keeping(Change(["change"], f"echo ours >{path}"), ["adopt"], [str(path)])
    copy = f"{tmp_path}/copies{path}"
    assert change.lines == ["adopt", f"{path}: keep a copy, {copy}", "change"]
    for word in ("first", "second"):
        path.write_text(word)
        path.chmod(0o640)
        assert helpers.carry_out(change).returncode == 0
        assert Path(copy).read_text() == word
    assert Path(f"{copy}.~1~").read_text() == "first"
    assert Path(copy).stat().st_mode & 0o777 == 0o640
    assert Path(tmp_path / "copies").stat().st_mode & 0o777 == 0o700


# --- Directories of others -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "is_refused"),
    [
        ((), False),
        (("lost+found",), False),
        (("pgbackrest",), False),
        (("mysql", "postgres"), False),
        (("mysql",), True),
    ],
)
def test_a_backup_directory_in_use(
    entries: tuple[str, ...], is_refused: bool, tmp_path: Path
) -> None:
    for name in entries:
        (tmp_path / name).mkdir()
    probe = files.occupied_probe("backups", str(tmp_path))
    output = helpers.shell(probe.script)
    assert output.returncode == 0
    why = f"{tmp_path} has files of others: it should be empty, or not exist"
    assert probe.parse(output.stdout.splitlines()) == [why] * is_refused


def test_a_docker_directory_in_use(tmp_path: Path) -> None:
    def is_refused() -> bool:
        probe = files.occupied_probe("docker", str(tmp_path))
        return bool(probe.parse(helpers.shell(probe.script).stdout.splitlines()))

    (tmp_path / "images").mkdir()
    assert not is_refused(), "an interrupted run of ours"
    (tmp_path / "nginx").mkdir()
    assert is_refused()
    (tmp_path / "images/Dockerfile").write_text(f"# {files.MARK}\n")
    assert not is_refused(), "added since"


def test_a_removal_takes_a_directory_whole_or_what_is_ours_in_it(tmp_path: Path) -> None:
    def taken() -> list[str]:
        ask = f'{shell("ours")}ours_in {tmp_path} "$in_backups"'
        return helpers.shell(ask).stdout.splitlines()

    for name in ("postgres", "logs", ".s3-mirror.json", "lost+found"):
        (tmp_path / name).mkdir()
    assert taken() == [str(tmp_path)]
    (tmp_path / "mysql").mkdir()
    assert sorted(taken()) == [
        f"{tmp_path}/{name}" for name in (".s3-mirror.json", "logs", "postgres")
    ]


@pytest.mark.parametrize("place", [".", "data", "18/docker"])
def test_a_volume_of_another_image_does_not_begin_again(place: str, tmp_path: Path) -> None:
    there = tmp_path / place
    there.mkdir(parents=True, exist_ok=True)
    (there / "PG_VERSION").write_text("15\n")
    (tmp_path / ".creating").mkdir()
    values = {"data": "/var/lib/postgresql/17/main", "version": 17, "command": "echo started"}
    script = files.render("compose/postgres-start.j2", **values)
    output = helpers.shell(script.replace("/var/lib/postgresql", str(tmp_path)))
    assert output.returncode == 1
    assert output.stderr.startswith(f"the volume has a cluster of PostgreSQL 15 in {tmp_path}")
    assert output.stdout == ""
    assert (tmp_path / ".creating").exists()


@pytest.mark.parametrize(
    ("versions", "wanted", "is_there", "said"),
    [
        ((), 17, False, ""),
        ((17,), 17, True, ""),
        ((15,), 17, False, "should be 15: .* empty second one"),
        ((17,), 15, False, "should be 17: .* empty second one"),
        # As pg_upgradecluster leaves it.
        ((15, 17), 17, True, ""),
        ((15, 17), 15, True, "should be 17, which the host has beside 15"),
    ],
)
def test_the_version_after_an_upgrade(
    versions: tuple[int, ...], wanted: int, said: str, *, is_there: bool
) -> None:
    found = clusters.Clusters(versions, is_configured=is_there, is_whole=is_there)
    why = clusters.other_version(wanted, found)
    assert re.match(said, why) if said else why == ""
