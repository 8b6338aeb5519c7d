"""What was done to databases at PgBouncer's console: seen, named and ended."""

from __future__ import annotations

from pathlib import Path

from tasks.core import remote
from tasks.pgbouncer import activation as pgbouncer_activation
from tasks.pgbouncer import service as pgbouncer_service
from tasks.pgbouncer import uses as pgbouncer_uses
from tests.unit import helpers

# As 1.18 and 1.24 say them.
OLD = "{}|/var/run/postgresql|{}|app||25|10|5||32|2|{}|{}"
NEW = "{}|/var/run/postgresql|{}|app||25|10|5|3600|||32|2|0|0|{}|{}"


def test_a_database_that_lets_nobody_in_is_let_in_by_the_reload(tmp_path: Path) -> None:
    groups = {"postgres": ["db1"], "pgbouncer": ["db1"]}
    estate = helpers.estate({"db1": {"address": "10.0.0.1"}}, groups, tmp_path)
    node = helpers.node(estate, "db1")
    probe = pgbouncer_uses.uses_probe(node)
    for row in (OLD, NEW):
        lines = [
            "pgbouncer||6432|pgbouncer|pgbouncer|2|0|0|statement||9|0|0|0",
            row.format("app", 5432, 1, 1),
            row.format("well", 5432, 0, 0),
            row.format("far", 5433, 0, 0),
        ]
        uses = probe.parse(["default_pool_size|3|20|yes", *lines])
        assert uses == {
            "default_pool_size": ("3", "20"),
            "state of app": ("PAUSE, DISABLE", "in use"),
            **{
                f"server of {name}": (f"/var/run/postgresql:{port}", "")
                for name, port in (("app", 5432), ("well", 5432), ("far", 5433))
            },
        }
        remote._cache.setdefault(node.host, {})["pgbouncer"] = (float("inf"), {"uses": uses})
        far = ("/var/run/postgresql:5433", "/var/run/postgresql:5432")
        found = pgbouncer_uses.moved(node)
        assert {k: v for k, v in found.items() if k.startswith("server")} == {"server of far": far}
    wanted = pgbouncer_uses.letting_in(pgbouncer_activation._wanted(node, ""), node, uses)
    before = pgbouncer_service.service_of(node).reload
    steps = wanted.service.reload.removeprefix(before)
    assert """pgbouncer 10 'ENABLE "app"'""" in steps and """'RESUME "app"'""" in steps
    assert "far" not in steps and helpers.syntax_error(steps) == ""
