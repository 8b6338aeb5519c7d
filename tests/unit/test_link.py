"""The link to PostgreSQL from a PgBouncer on another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import link, pgbouncer, postgres
from tasks.core import certificates
from tasks.core.estate import Estate, Node
from tasks.core.files import Found
from tasks.core.remote import Unreadable
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
    """The pooler on the other host, and what is known of the certificate."""
    node = helpers.node(everything, "pool")
    everything.active = everything.nodes
    knows(helpers.node(everything, "db"), "postgres", key=key, served=served)
    knows(node, "pgbouncer", files={pgbouncer._TRUSTED: Found("file", content=before.encode())})
    return node


def tls(node: Node, pinned: str) -> list[str]:
    lines = pgbouncer.configuration(node, pinned).splitlines()
    return [line for line in lines if line.startswith("server_tls_")]


FULL = ["server_tls_sslmode = verify-full", f"server_tls_ca_file = {pgbouncer._TRUSTED}"]


def test_the_pooler_on_another_host_pins_and_the_one_beside_does_not(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    db = helpers.node(everything, "db")
    assert tls(helpers.node(everything, "pool"), PEM) == FULL
    assert tls(db, "") == []
    assert f"ssl_key_file = '{link.HOME}/key.pem'" in postgres.configuration(db)


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
    pinned = pgbouncer._pinned(node)
    assert pinned == "" and tls(node, pinned) == says


def test_nothing_is_pinned_that_the_server_does_not_show(tmp_path: Path) -> None:
    """A file that was written and not loaded would lock the pooler out."""
    everything = estate(tmp_path)
    everything.state.is_executing = True
    assert pgbouncer._pinned(pool(everything, key="new", served="new", before="old")) == "new"
    assert pgbouncer._pinned(pool(everything, key="new", served="", before="old")) == "old"
    with pytest.raises(Unreadable, match="db does not show its certificate"):
        pgbouncer._pinned(pool(everything, key="new"))


def test_a_pooler_whose_server_is_not_in_the_run_stays_as_it_is(tmp_path: Path) -> None:
    everything = estate(tmp_path)
    everything.state.is_executing = True
    for before in ("", "old"):
        node = pool(everything, before=before)
        everything.active = [node]
        assert pgbouncer._pinned(node) == before


@pytest.mark.parametrize(
    ("days", "address", "is_good"),
    [(7300, "10.0.0.2", True), (20, "10.0.0.2", False), (7300, "10.0.0.9", False)],
)
def test_a_certificate_that_ends_soon_or_is_of_another_address_is_made_again(
    days: int, address: str, is_good: bool, tmp_path: Path
) -> None:
    node = helpers.node(estate(tmp_path), "db")
    home = str(tmp_path / "home")
    script = certificates.make(node, home).script.replace("-o root -g postgres", "")
    script = script.replace("chown postgres:postgres", ": ").replace("7300", str(days))
    done = shell(script.replace(node.address, address))
    assert done.returncode == 0, done.stderr
    read = shell(certificates.probe(node, home).script)
    assert read.stdout.startswith(PEM if is_good else "") and bool(read.stdout) is is_good
