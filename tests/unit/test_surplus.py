"""What PostgreSQL has and the settings have not: what goes, in which order, and what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tasks.core.change import impact_of
from tasks.postgres import sql, surplus
from tasks.postgres.sql import Database, Role, Server
from tasks.postgres.surplus import Surplus
from tests.unit import helpers

DATA = "/var/lib/postgresql/17/main"
SHOP = Database("shop", "app", ("pg_trgm",))


def server(
    roles: Sequence[str] = ("app",),
    databases: Sequence[str] = ("shop",),
    owned: Sequence[tuple[Any, ...]] = (),
    inside: Mapping[str, Any] | None = None,
    requires: Mapping[str, list[str]] | None = None,
) -> Server:
    """A running server; `owned` rows are role, database, whether owner, owned database, count."""
    fresh = {"template": False, "connection_limit": -1}
    facts = {
        "roles": {name: {} for name in (*roles, "postgres", "pg_monitor")},
        "databases": {
            "template0": {**fresh, "oid": 4, "template": True},
            "template1": {**fresh, "oid": 1, "template": True},
            "postgres": {**fresh, "oid": 5},
            **{name: {**fresh, "oid": 100 + n} for n, name in enumerate(databases)},
        },
        "owned": list(owned),
        "requires": dict(requires or {}),
    }
    return Server("up", 5432, facts, inside or {})


def find(there: Server, *, pooled: bool = True, destroy: bool = False) -> list[Surplus]:
    return surplus.find(there, [Role("app")], [SHOP], pooled=pooled, destroy=destroy)


def names(found: Sequence[Surplus]) -> list[str]:
    return [each.what for each in found]


def test_nothing_is_left() -> None:
    assert find(server()) == []


@pytest.mark.parametrize("kind", ["absent", "down"])
def test_a_server_that_does_not_run_is_not_judged(kind: Any) -> None:
    assert find(Server(kind)) == []


def test_a_database_goes_with_its_owner_only_where_data_may() -> None:
    owned = [("old", None, True, "stock", 1), ("old", "stock", True, None, 3)]
    there = server(["app", "old"], ["shop", "stock"], owned)
    database, role = find(there)
    assert database.goes(prune=True, destroy=True)
    assert not database.goes(prune=True, destroy=False)
    assert impact_of(database.line) == "destroys data"
    assert role.notice == (
        "role old: is not in the settings, but owns 3 objects in stock, database stock: "
        'REASSIGN OWNED BY "old" TO another role there first'
    )
    database, role = find(there, destroy=True)
    assert names([database, role]) == ["database stock", "role old"]
    assert role.goes(prune=True, destroy=True)


def test_a_database_that_a_killed_drop_has_closed_is_named_and_opens_again() -> None:
    there = server(databases=["shop", "stock"])
    there.facts["databases"]["stock"]["connection_limit"] = 0
    (database,) = find(there, destroy=True)
    assert database.notice == (
        "database stock: is not in the settings and is closed (CONNECTION LIMIT 0); "
        "postgres_prune and destroy would drop it"
    )
    assert limit_after_failure(there) == "-1"
    there.facts["databases"]["stock"]["connection_limit"] = 7
    assert "closed" not in find(there)[0].notice
    assert limit_after_failure(there) == "7"


def limit_after_failure(there: Server) -> str:
    """The limit that the only database gets back whose dump is not whole."""
    change = surplus.drop(there, find(there, destroy=True), DATA)
    assert change is not None
    (call,) = (each for each in change.script.splitlines() if each.startswith("drop_database "))
    return call.split()[-1]


def test_a_slot_that_nobody_reads_goes() -> None:
    slots = [["one", "logical in shop", False, "12 GB"], ["two", "physical", True, None]]
    one, two = find(Server("up", 5432, {**server().facts, "slots": slots}))
    assert one.notice == (
        "replication slot one (logical in shop, holds 12 GB of WAL): is not in the settings; "
        "postgres_prune would drop it"
    )
    assert one.goes(prune=True, destroy=False)
    assert one.statements == (("postgres", "SELECT pg_drop_replication_slot('one');"),)
    assert two.notice == (
        "replication slot two (physical, holds no WAL): is not in the settings, but is being read"
    )
    assert not two.goes(prune=True, destroy=True)


def _mighty(owned: Sequence[tuple[Any, ...]] = ()) -> Server:
    there = server(["app", "eve", "mallory"], owned=owned)
    there.facts["roles"]["mallory"] = {"superuser": True, "member_of": ["clerks"]}
    there.facts["roles"]["clerks"] = {"member_of": ["pg_monitor"]}
    there.facts["roles"]["eve"] = {"member_of": ["clerks", "mallory"]}
    return there


def test_what_a_role_may_do_is_named() -> None:
    """By itself, and by those whose member it is, however far away."""
    notices = {each.what: each.notice for each in find(_mighty())}
    assert "mallory (SUPERUSER, member of pg_monitor): is not" in notices["role mallory"]
    assert "eve (member of mallory, member of pg_monitor): is not" in notices["role eve"]


def test_a_login_of_a_restore_is_told_by_what_it_may_do() -> None:
    """A name alone hides nobody."""
    one, two, three = (f"datatier_load_0123456789a{n}" for n in "bcd")
    there = server(["app", one, two, three, "datatier_load_x"])
    there.facts["roles"][one] = {"member_of": ["app"]}
    there.facts["roles"][two] = {"superuser": True}
    there.facts["roles"][three] = {"member_of": ["pg_monitor"]}
    found = [f"role {two}", f"role {three}", "role datatier_load_x"]
    assert sorted(names(find(there))) == sorted(found)


def test_rights_go_where_the_role_has_to_stay() -> None:
    there = _mighty([("mallory", "shop", True, None, 2)])
    found = {each.what: each for each in find(there)}
    assert not found["role mallory"].goes(prune=True, destroy=True)
    assert "role mallory (SUPERUSER, member of pg_monitor)" in found["role mallory"].notice
    rights = found["rights of role mallory"]
    assert rights.goes(prune=True, destroy=False)
    assert rights.statements == (
        ("postgres", 'ALTER ROLE "mallory" NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS;'),
        ("postgres", 'REVOKE "clerks" FROM "mallory" CASCADE;'),
    )


def test_rights_to_functions_of_superusers() -> None:
    rows = [["app", "pg_read_file(text)", None], ["public", "pg_ls_dir(text)", "boss"]]
    rows += [["next", "pg_read_file(text)", "app"], ["app", "mine()", None]]
    there = server(inside={"shop": {"executors": rows}, "gone": {"executors": rows}})
    role = Role("app", functions=frozenset({"mine()"}))
    found = surplus.find(there, [role], [SHOP], pooled=True, destroy=False)
    assert [each.what for each in found if "shop" in each.what] == [
        "right of app to execute pg_read_file(text) in shop",
        "right of public to execute pg_ls_dir(text) in shop",
        "right of next to execute pg_read_file(text) in shop",
    ]
    statements = [[each[1] for each in one.statements] for one in found][-3:]
    by_boss = "REVOKE EXECUTE ON FUNCTION pg_ls_dir(text) FROM PUBLIC CASCADE;"
    assert statements == [
        ['REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM "app" CASCADE;'],
        [f'SET ROLE "boss"; {by_boss} RESET ROLE;'],
        [],
    ]


def test_copies_of_restores_and_templates_stay() -> None:
    kept = ["shop_before_20250101_000000", "shop_restore_20250101_000000"]
    assert find(server(databases=["shop", *kept])) == []
    assert names(find(server(databases=["shop", "shop_before_lunch"]))) == [
        "database shop_before_lunch"
    ]


@pytest.mark.parametrize("name", ["a\nb", "a\\! x\nb"])
def test_a_name_that_would_end_a_line_is_nobodys_but_an_operators(name: str) -> None:
    (database,) = find(server(databases=["shop", name]))
    assert not database.goes(prune=True, destroy=True)
    (role,) = find(server(["app", name]))
    assert not role.goes(prune=True, destroy=True)
    there = server(["app", "old"], ["shop", name], [("old", name, False, None, 1)])
    assert [each.goes(prune=True, destroy=False) for each in find(there)] == [False, False]


def test_an_extension_that_another_one_needs_stays() -> None:
    requires = {"earthdistance": ["cube"], "pg_trgm": ["citext"]}
    inside = {"shop": {"extensions": ["plpgsql", "citext", "cube", "earthdistance", "pg_trgm"]}}
    found = find(server(inside=inside, requires=requires))
    assert names(found) == ["extension earthdistance in shop", "extension cube in shop"]
    assert found[0].statements == (("shop", 'DROP EXTENSION "earthdistance";'),)
    assert all(each.destroys for each in found)


def test_the_lookup_goes_with_the_pooler() -> None:
    inside = {name: {"extensions": ["pg_trgm"], "lookup": "x"} for name in ("template1", "shop")}
    there = server(inside=inside)
    assert find(there) == []
    assert names(find(there, pooled=False)) == [
        "password lookup of PgBouncer in template1",
        "password lookup of PgBouncer in shop",
    ]


def test_what_the_settings_change_first_holds_nobody() -> None:
    """The owner of a database of the settings is set before anything is dropped."""
    there = server(["app", "old"], owned=[("old", None, True, "shop", 1)])
    (role,) = find(there)
    assert role.goes(prune=True, destroy=False)


def test_privileges_end_in_every_database_that_has_some() -> None:
    owned = [
        ("old", "shop", False, None, 4),
        ("old", None, False, "shop", 1),
        ("app", "shop", False, None, 4),
    ]
    (role,) = find(server(["app", "old"], owned=owned))
    entered = [database for database, text in role.statements if "DROP OWNED" in text]
    assert entered == ["postgres", "shop"]
    assert role.statements[0] == ("postgres", sql.no_login("old"))
    assert role.statements[-1] == ("postgres", 'DROP ROLE "old";')
    assert impact_of(role.line) == "restart"


def test_the_script_is_shell_and_names_are_quoted() -> None:
    evil = 'x\'; $(reboot) "y" = $do$'
    there = server(["app", evil], ["shop", evil], [(evil, "shop", False, None, 1)])
    change = surplus.drop(there, find(there, destroy=True), DATA)
    assert change is not None
    assert evil not in change.script
    assert helpers.syntax_error(change.script) == ""
    assert change.variables["NAME_0"] == evil
    assert 'DROP ROLE "x\'; $(reboot) ""y"" = $do$";' in change.variables["SQL"]
    assert "/dropped/x_____reboot___y_____do_-101.dump" in change.script


def test_nothing_to_drop() -> None:
    assert surplus.drop(server(), [], DATA) is None
