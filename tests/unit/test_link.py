"""The link to PostgreSQL from a PgBouncer on another host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.backup import program as backup_program
from tasks.backup import server as backup_server
from tasks.core import certificates, files
from tasks.core.estate import Estate, Node
from tasks.core.files import File, Found
from tasks.core.remote import Unreadable
from tasks.core.services import Status
from tasks.pgbouncer import activation as pgbouncer_activation
from tasks.pgbouncer import files as pgbouncer_files
from tasks.pgbouncer import layout as pgbouncer_layout
from tasks.postgres import clients as postgres_clients
from tasks.postgres import files as postgres_files
from tasks.postgres import layout as postgres_layout
from tasks.postgres import link
from tasks.postgres import narrow as postgres_narrow
from tasks.tls import certificates as authority
from tests.unit import helpers
from tests.unit.helpers import shell
from tests.unit.test_components import knows

TWO = {"postgres": ["db"], "pgbouncer": ["db", "pool"]}
PEM = "-----BEGIN CERTIFICATE-----"


def estate(directory: Path, **choices: Any) -> Estate:
    hosts = {"db": {"address": "10.0.0.2"}, "pool": {"address": "10.0.0.3"}}
    made = helpers.estate({n: {**h, **choices} for n, h in hosts.items()}, TWO, directory)
    assert helpers.problems(made) == []
    return made


def pool(everything: Estate, *, key: str = "", served: str = "", before: str = "") -> Node:
    """The pooler on the other host, and what is known of the certificates."""
    node = helpers.node(everything, "pool")
    everything.active = everything.nodes
    knows(helpers.node(everything, "db"), "postgres", key=key, served=served, next="then")
    trusted = {pgbouncer_layout.TRUSTED: Found("file", content=before.encode())}
    knows(node, "pgbouncer", files=trusted, console="")
    return node


def tls(node: Node, pinned: str) -> list[str]:
    lines = pgbouncer_files.configuration(node, pinned).splitlines()
    return [line for line in lines if line.startswith("server_tls_")]


FULL = ["server_tls_sslmode = verify-full", f"server_tls_ca_file = {pgbouncer_layout.TRUSTED}"]


def test_the_pooler_on_another_host_pins_and_the_one_beside_does_not(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    db = helpers.node(everything, "db")
    assert tls(helpers.node(everything, "pool"), PEM) == FULL
    assert tls(db, "") == []
    assert f"ssl_key_file = '{link.HOME}/key.pem'" in postgres_files.configuration(db)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"postgres_extra": {"ssl_cert_file": "/etc/mine.pem"}}, ["server_tls_sslmode = prefer"]),
        ({"postgres_extra": {"ssl": "off"}}, ["server_tls_sslmode = prefer"]),
        (
            {"pgbouncer_extra": {"server_tls_sslmode": "require"}},
            ["server_tls_sslmode = require"],
        ),
    ],
)
def test_what_the_user_has_chosen_stays(
    choices: dict[str, Any], says: list[str], tmp_path: Path
) -> None:
    node = pool(estate(tmp_path, **choices))
    pinned = pgbouncer_files.pinned_certificate(node)
    assert pinned == "" and tls(node, pinned) == says


def test_nothing_is_pinned_that_the_server_does_not_show(tmp_path: Path) -> None:
    """A file that was written and not loaded would lock the pooler out."""
    everything = estate(tmp_path)
    everything.state.is_executing = True
    assert (
        pgbouncer_files.pinned_certificate(pool(everything, key="new", served="new", before="old"))
        == "new\nthen"
    )
    assert (
        pgbouncer_files.pinned_certificate(pool(everything, key="new", served="", before="old"))
        == "old"
    )
    with pytest.raises(Unreadable, match="db does not show its certificate"):
        pgbouncer_files.pinned_certificate(pool(everything, key="new"))


def test_a_pooler_whose_server_is_not_in_the_run_stays_as_it_is(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    everything.state.is_executing = True
    for before in ("", "old"):
        node = pool(everything, before=before)
        everything.active = [node]
        assert pgbouncer_files.pinned_certificate(node) == before


@pytest.mark.parametrize(
    ("days", "address", "is_good"),
    [(7300, "10.0.0.2", True), (20, "10.0.0.2", False), (7300, "10.0.0.9", False)],
)
def test_a_certificate_that_ends_soon_or_is_of_another_address_is_made_again(
    days: int, address: str, is_good: bool, tmp_path: Path
) -> None:
    node = helpers.node(estate(tmp_path), "db")
    home = str(tmp_path / "home")
    script = certificates.make(node, home, days).script.replace("-o root -g postgres", "")
    script = script.replace("chown postgres:postgres", ": ").replace(node.address, address)
    done = shell(script)
    assert done.returncode == 0, done.stderr
    read = shell(certificates.probe(node, home).script)
    assert read.stdout.startswith(PEM if is_good else "") and bool(read.stdout) is is_good
    assert shell(script.partition("mv ")[0]).returncode == 0
    Path(home, "key.new").rename(Path(home, "key.pem"))
    assert shell(certificates.probe(node, home).script).stdout == "", "the key of another"


def test_the_next_certificate_takes_over_before_another_one_is_made(tmp_path: Path) -> None:
    """Who pins both goes on without a moment in which it knows neither."""
    server = helpers.node(estate(tmp_path), "db")
    first, second = f"{link.HOME}: create a key and a certificate", f"{link.HOME}/next: create"
    take = f"{link.HOME}: take the next key and certificate"
    for key, following, lines in (
        ("a", "b", []),
        ("", "", [first, second]),
        ("", "b", [take, second]),
        ("a", "", [second]),
    ):
        change = link.missing_key(server, {"key": key, "next": following})
        said = change.lines if change else []
        assert len(said) == len(lines)
        assert all(each.startswith(start) for each, start in zip(said, lines, strict=True))


# --- Who is let in without TLS -------------------------------------------------------------------


def access(everything: Estate, *, file: str, running: bool, reload: str = "") -> tuple[str, str]:
    """The pooler's line as the first operation writes it, and as it is in the end."""
    server, node = helpers.node(everything, "db"), pool(everything, before=f"{PEM}\nthen")
    etc = postgres_layout.configuration_directory(server)
    found = {
        f"{etc}/pg_hba.conf": Found("file", content=f"# Written by Datatier\n{file}".encode()),
        f"{etc}/conf.d/datatier.conf": Found("file", content=b""),
    }
    knows(server, "postgres", files=found)
    wanted = pgbouncer_activation._wanted(node, f"{PEM}\nthen")
    status = Status(running, True, wanted.restart, reload or wanted.reload, wanted.keys)
    knows(node, "pgbouncer", files=_trusts(), services={"pgbouncer": status}, console="")
    first = postgres_files.access(server, postgres_clients.in_clear(server))
    found[f"{etc}/pg_hba.conf"] = Found("file", content=first.encode())
    change = postgres_narrow._narrowed(server)
    line = next(each for each in first.splitlines() if "10.0.0.3/32" in each)
    assert change is None or change.lines[1:] == ["postgres: reload"]
    last = [each[1:] for each in change.diff if each.startswith("+host")] if change else [line]
    return line.split(" ")[0], last[0].split(" ")[0]


def _trusts() -> dict[str, Found]:
    return {pgbouncer_layout.TRUSTED: Found("file", content=f"{PEM}\nthen\n".encode())}


CLEAR = "host    all  all  10.0.0.3/32  scram-sha-256\n"


def test_a_pooler_that_may_have_no_tls_yet_is_let_in_until_it_has(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    assert access(everything, file=CLEAR, running=True, reload="old") == ("host", "hostssl")
    assert access(everything, file=CLEAR, running=True) == ("hostssl", "hostssl")
    assert access(everything, file=CLEAR, running=False) == ("hostssl", "hostssl")
    # Nothing makes it wider again.
    closed = CLEAR.replace("host   ", "hostssl")
    assert access(everything, file=closed, running=True, reload="old") == ("hostssl", "hostssl")
    # While it runs, what counts is what the pooler has then.
    everything.state.is_executing = True
    assert access(everything, file=CLEAR, running=True, reload="old") == ("host", "host")


def test_a_pooler_that_is_not_in_the_run_keeps_its_line(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    server = helpers.node(everything, "db")
    everything.active = [server]
    path = f"{postgres_layout.configuration_directory(server)}/pg_hba.conf"
    for line, kind in ((CLEAR, "host "), ("", "hostssl ")):
        knows(server, "postgres", files={path: Found("file", content=line.encode())})
        wanted = postgres_files.access(server, postgres_clients.in_clear(server))
        assert f"\n{kind.ljust(8)}all  all  10.0.0.3/32" in wanted


@pytest.mark.parametrize(
    "choices",
    [
        {"postgres_extra": {"ssl": False}},
        {"postgres_extra": {"ssl": "off"}},
        {"pgbouncer_extra": {"server_tls_sslmode": "disable"}},
    ],
)
def test_who_chose_a_link_in_clear_has_it(choices: dict[str, Any], tmp_path: Path) -> None:
    server = helpers.node(estate(tmp_path, **choices), "db")
    assert CLEAR in postgres_files.access(server)


def test_the_backup_host_pins_too(tmp_path: Path) -> None:
    hosts = {"db": {"address": "10.0.0.2"}, "keeper": {"address": "10.0.0.4"}}
    groups = {"postgres": ["db"], "backup": ["keeper"]}
    everything = helpers.estate(hosts, groups, tmp_path)
    server, keeper = helpers.node(everything, "db"), helpers.node(everything, "keeper")
    assert "ssl_cert_file" in postgres_files.configuration(server)
    assert "hostssl all  all  10.0.0.4/32" in postgres_files.access(server)
    everything.state.is_executing, everything.active = True, everything.nodes
    knows(server, "postgres", key="a", served="a", next="b")
    knows(keeper, "backup", files={backup_server.TRUSTED: Found("absent")})
    assert backup_server.pinned_certificate(keeper) == "a\nb"
    config = json.loads(backup_program.configuration(keeper, is_pinned=True))
    assert config["postgres"]["certificate"] == backup_server.TRUSTED


def test_the_line_of_a_pooler_without_tls_is_no_line_by_hand(tmp_path: Path) -> None:
    server = helpers.node(estate(tmp_path), "db")
    path = f"{postgres_layout.configuration_directory(server)}/pg_hba.conf"
    entry = next(each for each in postgres_files.files_of(server) if each.path == path)
    old = (
        postgres_files.access(server).replace("hostssl", "host   ") + "host all all 0.0.0.0/0 md5\n"
    )
    assert isinstance(entry, File)
    found = files._by_hand(entry, Found("file", content=old.encode()))
    assert [*found] == ["host all all 0.0.0.0/0 md5"]


# --- With the estate's authority -----------------------------------------------------------------


def test_the_server_shows_the_authoritys_certificate_when_those_that_pin_trust_it(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in helpers.SECRETS.items())
        + "TLS_CA_SECRET=authority-Secret-10-of-all-tests\n"
    )
    (tmp_path / ".env").chmod(0o600)
    everything = estate(tmp_path, tls_enabled=True)
    everything.state.is_executing = True
    server = helpers.node(everything, "db")
    known = authority.trusted(server)
    cert = f"{authority.home('postgres')}/certificate.pem"
    for before, shown in (("", cert), ("old\nthen", ""), (f"old\nthen\n{known}", cert)):
        node = pool(everything, key="old", served="old", before=before)
        assert link.shown(server, {}).get("ssl_cert_file", "") == shown
    # Whichever it shows is trusted then, and the way back is open.
    assert pgbouncer_files.pinned_certificate(node) == f"old\nthen\n{known}".rstrip()
    everything.active = [server]
    knows(server, "postgres", files={postgres_layout.ours(server): Found("absent")})
    assert link.shown(server, {}) == {}
    now = Found("file", content=f"ssl_cert_file = '{cert}'\n".encode())
    knows(server, "postgres", files={postgres_layout.ours(server): now})
    assert link.shown(server, {})["ssl_cert_file"] == cert


def test_a_certificate_of_ones_own_stays(tmp_path: Path) -> None:
    own = {"ssl_cert_file": "/etc/mine.pem", "ssl_key_file": "/etc/mine.key"}
    server = helpers.node(estate(tmp_path, tls_enabled=True, postgres_extra=own), "db")
    assert not link.has_authority(server, own) and link.shown(server, own) == {}
    assert link.parameters(server, own) == {"ssl": "on"}


def test_one_host_alone_has_the_authoritys_certificate_at_once(tmp_path: Path) -> None:
    hosts = {"db": {"address": "10.0.0.2", "tls_enabled": True}}
    server = helpers.node(helpers.estate(hosts, {"postgres": ["db"]}, tmp_path), "db")
    home = authority.home("postgres")
    assert link.parameters(server, {}) == {
        "ssl": "on",
        "ssl_cert_file": f"{home}/certificate.pem",
        "ssl_key_file": f"{home}/key.pem",
    }
