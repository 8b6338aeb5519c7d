"""Who may enter a database: what PUBLIC loses, and who keeps it by name."""

from __future__ import annotations

from typing import Any

from tasks.postgres import rights
from tasks.postgres.rights import Access

OPEN = [["CONNECT", None], ["TEMPORARY", None]]
PUBLIC = 'REVOKE CONNECT, TEMPORARY ON DATABASE "shop" FROM PUBLIC CASCADE;'


def role(*groups: str, shy: tuple[str, ...] = (), **attributes: Any) -> dict[str, Any]:
    return {"member_of": list(groups), "shy": list(shy), **attributes}


def shop(*known: str, **grants: frozenset[str]) -> Access:
    return Access("shop", "app", grants, frozenset({"app", *known}), frozenset({"pgbouncer"}))


def database(**changes: Any) -> dict[str, Any]:
    return {"owner": "app", "grants": None, "public": OPEN, **changes}


def differ(access: Access, now: dict[str, Any], **server: Any) -> list[tuple[str, str]]:
    return [(step.line, step.statement) for step in rights.of_database(access, now, server)]


def adopted(access: Access, now: dict[str, Any], **server: Any) -> dict[str, str]:
    """Who gets by name what PUBLIC loses."""
    lines = (line.split(" grant ") for line, _ in differ(access, now, **server) if "uses" in line)
    return {
        who.split(",")[0]: what for what, _, who in (rest.partition(" to ") for _, rest in lines)
    }


def test_public_loses_what_it_has_and_nobody_gets_it() -> None:
    line = "database shop: revoke CONNECT, TEMPORARY from PUBLIC"
    assert differ(shop(), database()) == [(line, PUBLIC)]
    assert differ(shop(), database(public=None)) == []


def test_what_others_have_granted_to_public_goes_as_they() -> None:
    by_boss = database(public=[["CONNECT", "boss"], ["CREATE", None]])
    (step,) = differ(shop(), by_boss)
    assert step[1] == (
        'SET ROLE "boss"; REVOKE CONNECT ON DATABASE "shop" FROM PUBLIC CASCADE; RESET ROLE; '
        'REVOKE CREATE ON DATABASE "shop" FROM PUBLIC CASCADE;'
    )


def test_who_holds_something_there_keeps_it() -> None:
    owned: list[list[Any]] = [
        ["reader", "shop", False, None, 3],
        ["visitor", "shop", True, None, 1],
        ["tenant", None, False, "shop", 1],
        ["elsewhere", "stock", True, None, 1],
        ["app", "shop", True, None, 9],
        ["pgbouncer", "shop", False, None, 2],
        ["pg_monitor", "shop", False, None, 2],
        ["mighty", "shop", True, None, 2],
    ]
    roles = {each[0]: role(superuser=each[0] == "mighty") for each in owned}
    found = adopted(shop("reader"), database(), owned=owned, roles=roles)
    assert found == dict.fromkeys(("reader", "tenant", "visitor"), "CONNECT, TEMPORARY")


def test_each_gets_what_it_lacks_before_public_loses_it() -> None:
    access = shop("reader", "shut", reader=frozenset({"CONNECT"}), shut=frozenset())
    owned = [["shut", "shop", True, None, 1]]
    assert [line for line, _ in differ(access, database(), owned=owned, roles={})] == [
        "database shop: grant CONNECT to reader",
        "database shop: grant TEMPORARY to reader, which uses it",
        "database shop: revoke CONNECT, TEMPORARY from PUBLIC",
    ]
    half = database(public=[["CONNECT", None]], grants=[["reader", "CONNECT", None]])
    assert adopted(access, half) == {}


def test_members_who_do_not_inherit_keep_it_by_their_own_name() -> None:
    roles = {
        "login": role("app"),
        "shy": role("app", shy=("app",)),
        "shyer": role("shy"),
        "both": role("app", "other", shy=("other",)),
        "other": role("app"),
        "exporter": role("pg_monitor"),
        "stranger": role("club"),
    }
    found = adopted(shop(), database(), roles=roles)
    assert sorted(found) == ["exporter", "shy", "shyer"]
    template = Access("template1", "postgres", {}, frozenset(), frozenset())
    assert adopted(template, database(owner="postgres"), roles=roles) == {}


def test_an_owner_that_is_replaced_keeps_what_it_uses() -> None:
    closed = database(owner="old", public=None)
    owned = [["old", "shop", True, None, 1]]
    assert adopted(shop("old"), closed, owned=owned) == {"old": "CONNECT, TEMPORARY"}
    assert adopted(shop("old"), closed) == {}
    assert adopted(shop(), closed, owned=owned) == {}
    assert adopted(shop("old", old=frozenset()), closed, owned=owned) == {}


def test_what_was_kept_stays_and_is_named() -> None:
    """Without a key that says so: else the next run would cut them off."""
    grants = [
        ["reader", "CONNECT", None],
        ["reader", "TEMPORARY", None],
        ["reader", "CREATE", None],
    ]
    now = database(public=None, grants=grants)
    server = {"owned": [["reader", "shop", False, None, 3]], "roles": {"reader": role()}}
    assert [line for line, _ in differ(shop("reader"), now, **server)] == [
        "database shop: revoke CREATE from reader"
    ]
    assert rights.kept(shop("reader"), now, server) == {"reader": {"CONNECT", "TEMPORARY"}}
    listed = shop("reader", reader=frozenset({"CONNECT"}))
    assert rights.kept(listed, now, server) == {"reader": {"TEMPORARY"}}
    shut = shop("reader", reader=frozenset())
    assert rights.kept(shut, now, server) == {}
    assert len(differ(shut, now, **server)) == 3
    # By hand, and for nothing that it has there.
    assert len(differ(shop("reader"), now, roles=server["roles"])) == 3


def test_a_member_that_begins_to_inherit_keeps_what_it_has() -> None:
    now = database(public=None, grants=[["login", "CONNECT", None]])
    for each in (role("app"), role("app", shy=("app",))):
        assert differ(shop("login"), now, roles={"login": each}) == []


def test_the_schema_public_is_closed_and_its_makers_stay() -> None:
    public = {"by": [None, "boss"], "owners": False, "makers": ["app", "postgres", "visitor"]}
    steps = list(rights.of_schema("shop", "app", public))
    assert [(step.line, step.database) for step in steps] == [
        ("schema public of shop: grant CREATE to visitor, which has made something there", "shop"),
        ("schema public of shop: grant CREATE to the owner of the database", "shop"),
        ("schema public of shop: revoke CREATE from PUBLIC", "shop"),
    ]
    assert steps[1].statement == "GRANT CREATE ON SCHEMA public TO pg_database_owner;"
    assert steps[2].statement.count("REVOKE CREATE ON SCHEMA public FROM PUBLIC") == 2
    assert list(rights.of_schema("shop", "app", None)) == []


def test_names_are_quoted() -> None:
    access = Access('a"b', "app", {}, frozenset(), frozenset())
    owned = [['x"; DROP ROLE y; --', 'a"b', True, None, 1]]
    grant, revoke = (sql for _, sql in differ(access, database(), owned=owned))
    assert grant == 'GRANT CONNECT, TEMPORARY ON DATABASE "a""b" TO "x""; DROP ROLE y; --";'
    assert 'DATABASE "a""b" FROM PUBLIC' in revoke
    broken = [["two\nlines", 'a"b', True, None, 1]]
    line, _ = differ(access, database(), owned=broken)[0]
    assert line == "database a\"b: grant CONNECT, TEMPORARY to 'two\\nlines', which uses it"
