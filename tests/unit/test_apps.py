"""Applications on plain hosts: rules, files for systemd and runit, restarts, users, removal."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.apps import activation, files, health, probes, rules, users
from tasks.apps.leaves import LEAVES
from tasks.apps.service import AppService, _quoted, service_of
from tasks.apps.settings import App, AppsSettings, apps_of
from tasks.apps.users import User
from tasks.core import preflight, traces
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import File, Found
from tasks.core.places import Place
from tasks.core.places.runit import RUNIT
from tasks.core.places.systemd import SYSTEMD
from tasks.core.preflight import Holder, System
from tasks.core.services import Status
from tests.unit import golden, helpers
from tests.unit.helpers import Data
from tests.unit.test_components import knows

HOSTS: tuple[Place, ...] = (SYSTEMD, RUNIT)
ODD = {"QUOTES": 'it\'s "so" $HOME `x` 100% \\', "EMPTY": "", "SPACES": " a  b ", "HASH": "#x ;"}
BACKEND: Data = {
    "name": "backend",
    "port": 4000,
    "health": "http:/health?deep=1",
    "command": "/usr/bin/node server.js --name 'two words' '$HOME' 100% 'a\\b' ';'",
    "directory": "/srv/backend",
    "env": ODD,
}
WORKER: Data = {"name": "worker", "command": "/srv/worker/run"}
LOW: Data = {"name": "front", "port": 80, "command": "/srv/front/run", "urls": True}
GROUPS = {group: ["one"] for group in ("postgres", "pgbouncer", "redis", "sentinel", "apps")}


def node(
    directory: Path, *entries: Data, place: Place = SYSTEMD, groups: Any = GROUPS, **data: Any
) -> Node:
    hosts = {"one": {"address": "10.0.0.1", "sentinel_quorum": 1, "apps": list(entries), **data}}
    made = helpers.node(helpers.estate(hosts, groups, directory), "one")
    made.system = System(systemd=place.is_init)
    return made


def content(one: Node, path: str) -> str:
    return next(e.content for e in files.files_of(one) if isinstance(e, File) and e.path == path)


# --- Rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([WORKER], []),
        ([{"name": "x"}], ["apps/x/command: is missing: a plain host needs the program that is"]),
        ([{**WORKER, "image": "x"}], ["apps/worker/image: is only for Docker: a plain host needs"]),
        ([{**WORKER, "publish": False}], ["apps/worker/publish: is only for Docker: here it"]),
        ([WORKER, WORKER], ["apps/worker: is defined twice"]),
        ([{**WORKER, "health": "http:/"}], ["apps/worker/health: needs a port to ask at"]),
        (
            [{**WORKER, "name": "x" * 29}],
            [f"apps/{'x' * 29}: should have at most 28 characters: its user is app-xxx"],
        ),
        ([{**WORKER, "env": {"A": "a\x1bb"}}], ["apps/0/env/A: should have no control characters"]),
        ([{**WORKER, "env": {"A": "a\u200bb"}}], ["apps/worker/env/A: should be printable"]),
        ([{**WORKER, "env": {"A": "a\nb"}}], ["apps/0/env/A: should be a single line"]),
        ([{**WORKER, "env": {"A-B": "x"}}], ["apps/0/env/A-B: should be the name of a variable"]),
        (
            [{**WORKER, "command": "node server.js"}],
            ["apps/0/command: should begin with the absolute path of a program"],
        ),
        (
            [{**WORKER, "command": "/bin/echo 'open"}],
            ["apps/0/command: has a quote that is not closed, or ends with a backslash"],
        ),
        ([{**WORKER, "directory": "srv"}], ["apps/0/directory: should be an absolute path"]),
        (
            [{**BACKEND, "port": 5432}],
            ["apps/backend/port: port 5432 is also that of postgres (postgres_port)"],
        ),
        (
            [BACKEND, {**WORKER, "port": 4000}],
            ["apps/worker/port: port 4000 is also that of app-backend (apps/backend/port)"],
        ),
    ],
)
def test_rules(entries: list[Data], expected: list[str], tmp_path: Path) -> None:
    found = helpers.problems(node(tmp_path, *entries).estate)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(f"one: {beginning}")


def test_the_key_to_prune_is_known(tmp_path: Path) -> None:
    one = node(tmp_path, WORKER, apps_prune=True)
    assert helpers.problems(one.estate) == []
    assert one.the(AppsSettings).prune
    assert AppsSettings.key_of("prune") == "apps_prune"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (User(False, False, True, True, ""), []),
        (User(True, True, True, True, ""), ["user or group app-worker is not Datatier's"]),
        (User(False, False, False, True, ""), ["/srv/worker/run is not a program that user app-"]),
        (User(True, False, True, True, "/lib/x.service"), ["/lib/x.service is not Datatier's"]),
    ],
)
def test_what_a_host_has_in_place_of_an_application(
    user: User, expected: list[str], tmp_path: Path
) -> None:
    one = node(tmp_path, WORKER)
    knows(one, "apps", users={"app-worker": user})
    found = [problem.message for problem in rules.checks(one)]
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_users_are_read(tmp_path: Path) -> None:
    """Of this machine: one that is missing, one of others; a program and a directory."""
    (tmp_path / "run").write_text("#!/bin/sh\n")
    program = str(tmp_path / "run")
    entries = [App(name="zz-none", command="/bin/sleep 1"), App(name="zz-2", command=program)]
    done = helpers.shell(f"{preflight.remote.PATHS}{users.users_probe(entries).script}")
    found = users.users_probe(entries).parse(done.stdout.splitlines())
    assert found["app-zz-none"] == User(False, False, True, True, "")
    assert not found["app-zz-2"].has_program
    assert users._user("none", "", "yes", "yes", "").is_of_others
    assert users._user("", "app-x", "yes", "yes", "").is_of_others
    assert users._user("Datatier", "app-x", "yes", "yes", "").exists


# --- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", HOSTS, ids=lambda place: place.name)
def test_golden_files(place: Place, tmp_path: Path, update_golden: bool) -> None:
    texts, manifest = dict[str, str](), ""
    for entry in files.files_of(node(tmp_path, BACKEND, WORKER, LOW, place=place)):
        manifest += f"{entry.mode} {entry.user}:{entry.group} {entry.path}\n"
        if isinstance(entry, File):
            texts[entry.path.lstrip("/")] = entry.content
    golden.check(f"apps-{place.name}", {**texts, "MANIFEST": manifest}, update=update_golden)


def test_no_secret_is_where_others_read_it(tmp_path: Path) -> None:
    """What has one is the group's, and the directory too; a diff masks it."""
    entries = files.files_of(node(tmp_path, BACKEND, LOW))
    secrets = [
        entry
        for entry in entries
        if isinstance(entry, File) and any(v in entry.content for v in helpers.SECRETS.values())
    ]
    assert len(secrets) == 9
    for entry in secrets:
        assert (entry.mode, entry.user, entry.group[:4]) == ("640", "root", "app-")
        assert entry.secret
    assert all("\n" not in e.content for e in secrets if not e.path.endswith("/environment"))


def test_a_shell_reads_what_was_written(tmp_path: Path) -> None:
    """And so does systemd, which a story asks."""
    text = content(node(tmp_path, BACKEND), "/etc/datatier/app-backend/environment")
    (tmp_path / "environment").write_text(text)
    for name, value in ODD.items():
        script = f"set -a; . {tmp_path}/environment; printenv {name}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == f"{value}\n"


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("a b", '"a b"'), ("$HOME", '"$HOME"'), ("5%", '"5%%"'), ('"', '"\\""'), ("\\n", '"\\\\n"')],
)
def test_words_for_systemd(word: str, quoted: str) -> None:
    assert _quoted(word) == quoted


def test_runit_scripts_are_shell(tmp_path: Path) -> None:
    for entry in files.files_of(node(tmp_path, BACKEND, LOW, place=RUNIT)):
        if isinstance(entry, File) and entry.path.startswith("/etc/sv/"):
            assert helpers.syntax_error(entry.content) == ""


@pytest.mark.parametrize("place", HOSTS, ids=lambda place: place.name)
@pytest.mark.parametrize("entry", [BACKEND, WORKER], ids=lambda entry: entry["name"])
def test_questions_are_shell(entry: Data, place: Place) -> None:
    app = App(**entry)
    assert helpers.syntax_error(health.ready(app, place)) == ""
    assert helpers.syntax_error(health._asked(app, place)) == ""


@pytest.mark.parametrize(
    ("answer", "health_key", "is_well", "shown"),
    [
        ("HTTP/1.0 200 OK", "http:/x?y=1", True, "GET /x?y=1: HTTP/1.0 200 OK"),
        ("HTTP/1.1 204 No Content", "http:/", True, "GET /: HTTP/1.1 204 No Content"),
        ("HTTP/1.0 503 Service Unavailable", "http:/", False, "GET /: HTTP/1.0 503 Service Unav"),
        ("HTTP/1.0 302 Found", "http:/", False, "GET /: HTTP/1.0 302 Found"),
        ("HTTP/1.0 503 Service Unavailable", "tcp", True, "accepts connections"),
        (None, "http:/", False, "no answer"),
        (None, "tcp", False, "no answer"),
    ],
)
def test_what_an_application_answers(
    answer: str | None, health_key: str, is_well: bool, shown: str
) -> None:
    """A program that answers with an error, or not at all, is not well."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer is None:
            server.close()
        else:
            threading.Thread(target=_answer, args=(server, answer), daemon=True).start()
        app = App(name="x", port=port, health=health_key, command="/bin/true")
        done = helpers.shell(health.request(app, "127.0.0.1", port))
    assert (done.returncode == 0) is is_well
    assert done.stdout.startswith(shown)


def _answer(server: socket.socket, line: str) -> None:
    connection, _ = server.accept()
    with connection:
        asked = b""
        while (more := connection.recv(1000)) and not (asked := asked + more).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(f"{line}\r\n\r\n".encode())


OWNER = {"login": False}


def test_an_application_elsewhere_is_told_addresses(tmp_path: Path) -> None:
    hosts = {f"h{n}": {"address": f"10.0.0.{n}", "sentinel_quorum": 1} for n in (1, 2, 3)}
    hosts["h3"] |= {"apps": [LOW]}
    groups = {"postgres": ["h1"], "pgbouncer": ["h1", "h2"], "redis": ["h1"], "sentinel": ["h1"]}
    for own in (False, True):
        if own:
            groups["pgbouncer"].append("h3")
        one = helpers.node(helpers.estate(hosts, {**groups, "apps": ["h3"]}, tmp_path), "h3")
        assert helpers.problems(one.estate) == []
        values = files.environment(App(**LOW), files.offers(one), "/x")
        assert values["DB_HOST"] == ("127.0.0.1" if own else "10.0.0.1")
        assert values["REDIS_SENTINELS"] == "10.0.0.1:26379"
        assert values["DATABASE_URL"].partition("@")[2] == f"{values['DB_HOST']}:6432/psscript"
        assert values["DB_PASSWORD_FILE"] == "/x/db_password"


@pytest.mark.parametrize(
    ("roles", "user"),
    [
        ({"shop": {}, "shop_a": {"member_of": ["shop"]}}, "shop"),
        ({"shop": OWNER, "shop_a": {"member_of": ["shop"]}, "other": {}}, "shop_a"),
        ({"shop": OWNER, "shop_a": {"member_of": ["shop"]}, "b": {"member_of": ["shop"]}}, "b"),
        ({"shop": OWNER, "shop_a": {"member_of": ["shop"]}, "b": OWNER}, "shop_a"),
        ({"shop": OWNER, "other": {}}, ""),
    ],
)
def test_an_application_logs_in_as_its_owner_or_the_last_login_of_it(
    tmp_path: Path, roles: dict[str, Any], user: str
) -> None:
    groups = {"postgres": ["one"], "pgbouncer": ["one"], "apps": ["one"]}
    databases = {"shop": {"owner": "shop"}}
    one = node(tmp_path, WORKER, groups=groups, postgres_roles=roles, postgres_databases=databases)
    assert helpers.problems(one.estate) == []
    assert files.environment(App(**WORKER), files.offers(one), "/x").get("DB_USER") == user


def test_what_the_stack_has_not_is_not_promised(tmp_path: Path) -> None:
    one = node(tmp_path, WORKER, groups={"redis": ["one"], "apps": ["one"]})
    assert helpers.problems(one.estate) == []
    assert files.environment(App(**WORKER), files.offers(one), "/x") == {}


# --- Services ------------------------------------------------------------------------------------


def activated(one: Node, found: dict[str, Status], **touched: Found) -> Change | None:
    entries = files.files_of(one)
    as_written = {
        e.path: Found("file", e.mode, e.user, e.group, e.content.encode())
        if isinstance(e, File)
        else Found("dir", e.mode, e.user, e.group)
        for e in entries
    }
    knows(one, "apps", services=found, files={**as_written, **touched})
    return activation.due_activation(one)


def running(one: Node) -> dict[str, Status]:
    """What the records say after this node's applications have started."""
    stopped = {f"app-{app.name}": Status(False, False, "none", "none") for app in apps_of(one)}
    first = activated(one, stopped)
    assert first is not None
    records = re.findall(r"^record (\S+) (\w+) (\w+) ?(.*)$", first.script, re.MULTILINE)
    return {
        name: Status(True, True, restart, reload, frozenset(shlex.split(keys)))
        for name, restart, reload, keys in records
    }


@pytest.mark.parametrize("place", HOSTS, ids=lambda place: place.name)
@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"env": {**ODD, "EMPTY": "x", "NEW": ""}}, ["app-backend: restart (EMPTY, NEW)"]),
        ({"command": "/srv/new"}, ["app-backend: restart (command)"]),
        ({"directory": "/srv"}, ["app-backend: restart (directory)"]),
        ({"urls": True}, ["app-backend: restart (DATABASE_URL, REDIS_SENTINEL_URL)"]),
        ({"health": "tcp"}, []),
    ],
)
def test_what_a_change_restarts(
    change: Data, lines: list[str], place: Place, tmp_path: Path
) -> None:
    """That application alone, and the plan says why."""
    before = running(node(tmp_path, BACKEND, WORKER, place=place))
    after = activated(node(tmp_path, {**BACKEND, **change}, WORKER, place=place), before)
    assert (after.lines if after else []) == lines


def test_a_new_password_restarts_those_that_have_it(tmp_path: Path) -> None:
    def of(redis: str, cache: str) -> Node:
        user = {"password": cache, "commands": ["+get"]}
        return node(tmp_path, WORKER, redis_password=redis, redis_users={"cache": user})

    before = running(of("the-first-one-1", "of-a-user-4"))
    change = activated(of("another-one-5", "of-a-user-6"), before)
    assert change is not None
    assert change.lines == ["app-worker: restart (redis_password, redis_sentinel_url)"]
    assert "another-one-5" not in change.script and "of-a-user" not in change.script
    path = "/etc/datatier/app-worker/redis_user_cache_password"
    assert content(of("another-one-5", "of-a-user-6"), path) == "of-a-user-6"
    assert activated(of("the-first-one-1", "of-a-user-6"), before) is None


def test_files_changed_by_hand_are_a_restart_in_plan_and_run(tmp_path: Path) -> None:
    """Whether it has read them is not known; a mode that is put right looks the same afterwards."""
    one = node(tmp_path, WORKER)
    before = running(one)
    path = "/etc/datatier/app-worker/environment"
    text = content(one, path).encode()
    planned = activated(one, before, **{path: Found("file", "644", "root", "app-worker", text)})
    newer = {"app-worker": Status(True, True, *_record(before["app-worker"]), outdated=True)}
    made = activated(one, newer)
    assert planned is not None and made is not None
    assert (
        planned.lines
        == made.lines
        == ["app-worker: restart (its files have changed since its start)"]
    )


def _record(status: Status) -> tuple[str, str, frozenset[str]]:
    return status.restart, status.reload, status.keys


def test_a_docker_host_has_none_of_its_own(tmp_path: Path) -> None:
    entry = {"name": "api", "image": "x", "port": 4000}
    hosts = {"box": {"apps": [entry]}}
    box = helpers.node(helpers.estate(hosts, {"docker": ["box"]}, tmp_path), "box")
    assert helpers.problems(box.estate) == []
    assert (apps_of(box), probes.probes_of(box), rules.checks(box)) == ((), {}, [])


# --- Ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prune", "holder", "is_ours"),
    [
        (False, "app-worker.service", True),
        (False, "app-old.service", False),
        (True, "app-old.service", True),
        (True, "app-backend.service", False),
        (True, "nginx.service", False),
    ],
)
def test_who_may_hold_its_port(prune: bool, holder: str, is_ours: bool, tmp_path: Path) -> None:
    """One that goes in this run does; one that stays would keep it."""
    one = node(tmp_path, BACKEND, {**WORKER, "port": 4001}, apps_prune=prune)
    listener = next(each for each in rules.listens(one) if each.port == 4001)
    under_systemd = Holder(4001, "0100007F", "7", "x", f"0::/system.slice/{holder}", "/sbin/init")
    under_runit = Holder(
        4001, "0100007F", "7", "x", "0::/", f"runsv {holder.removesuffix('.service')} "
    )
    assert under_systemd.is_of(listener) is under_runit.is_of(listener) is is_ours


def test_a_supervisor_further_up_is_found(tmp_path: Path) -> None:
    """`npm start` runs a shell that runs the server."""
    (tmp_path / "runsv").symlink_to("/bin/sh")
    listen = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); input()"
    )
    script = f'sh -c "{listen!s}" </dev/stdin; :'.replace(
        f'"{listen}"', shlex.quote(f'python3 -c "{listen}"; :')
    )
    command = [str(tmp_path / "runsv"), "-c", f"{script}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        done = helpers.shell(preflight.listeners_probe([port]).script)
        parent.communicate("\n")
    (holder,) = preflight.listeners_probe([port]).parse(done.stdout.splitlines())
    assert "/runsv" in holder.parent.partition(" ")[0]


# --- Removal -------------------------------------------------------------------------------------


def test_all_of_an_application_belongs_to_it() -> None:
    paths = (
        "/var/lib/datatier/app-web.active",
        "/etc/datatier/app-web",
        "/etc/systemd/system/app-web.service",
        "/etc/sv/app-web/run",
    )
    found = traces.parse([LEAVES], (), [f"path {path}" for path in paths])
    assert {owner: {*mine} for owner, mine in found.paths.items()} == {"app-web": {*paths}}


def test_the_unit_of_an_application(tmp_path: Path) -> None:
    one = node(tmp_path, BACKEND)
    service = service_of(one, one.the(AppsSettings).apps[0])
    assert isinstance(service, AppService)
    assert SYSTEMD.files(service)[0].path == "/etc/systemd/system/app-backend.service"
