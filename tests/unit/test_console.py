"""Consoles of PgBouncers on other hosts: who pins whose certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.backup.program import _postgres
from tasks.core.estate import Estate, Node
from tasks.core.files import Found
from tasks.pgbouncer import console
from tasks.pgbouncer.activation import _wanted
from tasks.pgbouncer.files import configuration
from tasks.pgbouncer.layout import INI
from tasks.pgbouncer.pause import console as reach
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.tls import certificates
from tests.unit import helpers
from tests.unit.helpers import shell
from tests.unit.test_components import knows

GROUPS = {"postgres": ["db"], "pgbouncer": ["db", "pool"], "backup": ["bak"]}
OWN = {"client_tls_sslmode": "require", "client_tls_cert_file": "/etc/my own.pem"}
OFF = {"client_tls_sslmode": "disable", "client_tls_cert_file": "/etc/mine.pem"}


def estate(directory: Path, groups: dict[str, list[str]] = GROUPS, **choices: Any) -> Estate:
    names = sorted({name for members in groups.values() for name in members})
    hosts = {name: {"address": f"10.0.0.{n}", **choices} for n, name in enumerate(names, 2)}
    made = helpers.estate(hosts, groups, directory)
    assert helpers.problems(made) == []
    made.active = made.nodes
    return made


def tls(node: Node) -> list[str]:
    lines = configuration(node).splitlines()
    return [line for line in lines if line.startswith("client_tls_")]


def test_a_pooler_whose_console_others_reach_has_a_key(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    for name in ("db", "pool"):
        assert tls(helpers.node(everything, name)) == [
            "client_tls_sslmode = allow",
            "client_tls_protocols = tlsv1.2",
            f"client_tls_key_file = {console.HOME}/key.pem",
            f"client_tls_cert_file = {console.HOME}/certificate.pem",
        ]
    db, pool, bak = (helpers.node(everything, name) for name in ("db", "pool", "bak"))
    assert "PGSSLMODE=verify-full PGSSLROOTCERT=/etc/datatier/poolers.pem" in reach(db, pool)
    assert "PASSWORD" not in reach(db, db)
    said = _postgres(bak, "")
    assert said is not None
    assert [each[2:] for each in said["poolers"]] == [["verify-full"], ["verify-full"]]


def test_on_one_host_nothing_of_it_is_there(tmp_path: Path) -> None:
    one = {group: ["db"] for group in GROUPS}
    node = helpers.node(estate(tmp_path, one), "db")
    assert tls(node) == [] and console.trusting(node) == []
    said = _postgres(node, "")
    assert said is not None and said["poolers"] == [["127.0.0.1", 6432]]


@pytest.mark.parametrize("mode", ["allow", "require"])
def test_clients_get_tls_where_the_settings_say_so(mode: str, tmp_path: Path) -> None:
    one = {group: ["db"] for group in GROUPS}
    node = helpers.node(estate(tmp_path, one, pgbouncer_client_tls=mode), "db")
    assert tls(node)[0] == f"client_tls_sslmode = {mode}"
    assert console.is_ours(node) and console.trusting(node) == []


def test_tls_of_ones_own_and_ours_are_not_both_to_be_had(tmp_path: Path) -> None:
    hosts = {"db": {"address": "10.0.0.2", "pgbouncer_client_tls": "allow", "pgbouncer_extra": OWN}}
    made = helpers.estate(hosts, {"postgres": ["db"], "pgbouncer": ["db"]}, tmp_path)
    sentence = "has a key of its own: pgbouncer_client_tls; set one of them"
    wanted = [f"db: pgbouncer_extra/{key}: {sentence}" for key in sorted(OWN)]
    assert helpers.problems(made) == wanted


def test_in_a_project_the_key_is_beside_the_configuration(tmp_path: Path) -> None:
    chosen = {"address": "10.0.0.2", "pgbouncer_client_tls": "require"}
    made = helpers.estate({"box": chosen}, {"docker": ["box"]}, tmp_path)
    assert helpers.problems(made) == []
    inside = made.nodes[0].inside
    assert inside is not None
    assert tls(inside.having(PgbouncerSettings)[0]) == [
        "client_tls_sslmode = require",
        "client_tls_protocols = tlsv1.2",
        "client_tls_key_file = /etc/pgbouncer/tls/key.pem",
        "client_tls_cert_file = /etc/pgbouncer/tls/certificate.pem",
    ]


@pytest.mark.parametrize(("extra", "mode"), [(OWN, "verify-ca"), (OFF, "")])
def test_what_the_user_has_chosen_stays(extra: dict[str, str], mode: str, tmp_path: Path) -> None:
    everything = estate(tmp_path, pgbouncer_extra=extra)
    db, pool = (helpers.node(everything, name) for name in ("db", "pool"))
    assert tls(pool) == [f"{key} = {value}" for key, value in extra.items()]
    assert console.sslmode(pool, db) == mode
    assert ("PGSSLMODE=verify-ca" in reach(db, pool)) is bool(mode)
    assert bool(console.trusting(db)) is bool(mode)


def test_of_a_file_with_a_key_only_certificates_are_read(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("-----BEGIN PRIVATE KEY-----\nx\n-----BEGIN CERTIFICATE-----\ny\n"
                    "-----END CERTIFICATE-----\n")  # fmt: skip
    own = {"client_tls_sslmode": "allow", "client_tls_cert_file": str(both)}
    node = helpers.node(estate(tmp_path, pgbouncer_extra=own), "pool")
    read = shell(console.probe(node).script).stdout
    assert read == "-----BEGIN CERTIFICATE-----\ny\n-----END CERTIFICATE-----\n"


def test_who_is_not_in_the_run_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    db, pool, bak = (helpers.node(everything, name) for name in ("db", "pool", "bak"))

    def known(before: str) -> str:
        found = Found("file", content=before.encode())
        return console.known_certificates(bak, found)

    knows(pool, "pgbouncer", console="new\n")
    knows(db, "pgbouncer", console="")
    assert known("") == "# 10.0.0.3\n-\n# 10.0.0.4\nnew\n", "as a plan says it"
    everything.state.is_executing = True
    assert known("") == "# 10.0.0.4\nnew\n"
    assert known("# 10.0.0.4\nold\n# 10.0.0.9\ngone\n") == "# 10.0.0.4\nnew\n"
    assert known("# 10.0.0.3\nits\nown\n") == "# 10.0.0.3\nits\nown\n# 10.0.0.4\nnew\n"
    everything.active = [bak]
    assert known("# 10.0.0.4\nold\n") == "# 10.0.0.4\nold\n"


def test_another_certificate_is_loaded(tmp_path: Path) -> None:
    node = helpers.node(estate(tmp_path), "pool")
    reloads = set()
    for certificate in ("", "one", "two"):
        knows(node, "pgbouncer", console=certificate)
        reloads.add(_wanted(node, "").reload)
    assert len(reloads) == 3


# --- With the estate's authority -----------------------------------------------------------------

CA = f"{certificates.home('pgbouncer')}/certificate.pem"


def certified(directory: Path, trusted: str, ini: str = "") -> tuple[Node, Node]:
    """A pooler with an authority, and the host of PostgreSQL, which trusts that."""
    (directory / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in helpers.SECRETS.items())
        + "TLS_CA_SECRET=authority-Secret-10-of-all-tests\n"
    )
    (directory / ".env").chmod(0o600)
    groups = {"postgres": ["db"], "pgbouncer": ["pool"]}
    everything = estate(directory, groups, tls_enabled=True)
    db, pool = (helpers.node(everything, name) for name in ("db", "pool"))
    everything.state.is_executing = True
    knows(db, "postgres", files={console.TRUSTED: Found("file", content=trusted.encode())})
    knows(pool, "pgbouncer", files={INI: Found("file", content=ini.encode())}, console="pin\n")
    return db, pool


def test_a_pooler_shows_the_authoritys_certificate_when_others_trust_it(tmp_path: Path) -> None:
    db, pool = certified(tmp_path, "# 10.0.0.3\npin\n")
    assert console.shown(pool) == {}
    before = Found("file", content=b"# 10.0.0.3\npin\n")
    trusted = console.known_certificates(db, before)
    assert trusted == f"# 10.0.0.3\npin\n# authority\n{certificates.trusted(db)}"
    db, pool = certified(tmp_path, trusted)
    assert console.shown(pool)["client_tls_cert_file"] == CA
    # One that is not in the run is not told anything now: what the pooler shows stays.
    pool.estate.active = [pool]
    for ini, shown in (("", ""), (f"client_tls_cert_file = {CA}\n", CA)):
        knows(pool, "pgbouncer", files={INI: Found("file", content=ini.encode())}, console="pin")
        assert console.shown(pool).get("client_tls_cert_file", "") == shown


def test_the_authority_is_trusted_until_no_pooler_shows_its_certificate(tmp_path: Path) -> None:
    everything = estate(tmp_path, {"postgres": ["db"], "pgbouncer": ["pool"]})
    db, pool = (helpers.node(everything, name) for name in ("db", "pool"))
    before = Found("file", content=b"# 10.0.0.3\npin\n# authority\nCA\n")
    everything.state.is_executing = True
    for ini, known in ((f"client_tls_cert_file = {CA}\n", True), ("", False)):
        knows(pool, "pgbouncer", files={INI: Found("file", content=ini.encode())}, console="pin\n")
        assert ("CA\n" in console.known_certificates(db, before)) is known
