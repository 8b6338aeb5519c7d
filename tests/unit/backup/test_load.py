"""What the superuser makes of a dump: what the live database has already, and runs nothing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.job import Failed
from backup.postgres import load
from backup.postgres.load import Opener, anything, same_as
from backup.postgres.script import Script, Statement, Stream

_ENTRY = "-- Name: {name}; Type: {type}; Schema: public; Owner: {owner}\n--\n\n{text};\n"


def entry(kind: str, text: str, owner: str = "postgres", name: str = "x") -> str:
    return _ENTRY.format(name=name, type=kind, owner=owner, text=text)


def opener(text: str) -> Opener:
    @contextlib.contextmanager
    def opened(_: bool) -> Iterator[Stream]:
        yield io.BytesIO(text.encode())

    return opened


def statement(text: str) -> Statement:
    (found,) = Script(io.BytesIO(text.encode()))
    return found


INTERNAL = "CREATE FUNCTION public.x(i integer DEFAULT 1) RETURNS integer\n    LANGUAGE internal"
INERT = {
    "function": entry("FUNCTION", f"{INTERNAL}\n    AS $$int4pl$$"),
    "procedure": entry("PROCEDURE", "CREATE PROCEDURE public.x() LANGUAGE plpython3u AS $$pass$$"),
    "aggregate": entry("AGGREGATE", "CREATE AGGREGATE public.x(a) (SFUNC = f, STYPE = internal)"),
    "shell type": entry("SHELL TYPE", "CREATE TYPE public.x"),
    "type": entry("TYPE", "CREATE TYPE public.x (INPUT = public.i, OUTPUT = public.o)"),
    "cast": entry("CAST", "CREATE CAST (public.x AS integer) WITHOUT FUNCTION", owner="-"),
    "trigger": entry(
        "TRIGGER", "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION public.f()", owner="app"
    ),
}


@pytest.mark.parametrize("name", INERT)
def test_what_is_there_word_for_word_is_admitted(name: str) -> None:
    login = "app" if "Owner: app" in INERT[name] else ""
    known = same_as(opener("".join(INERT.values())))
    assert known(statement(INERT[name]), login)
    others = "".join(text for other, text in INERT.items() if other != name)
    assert not same_as(opener(others))(statement(INERT[name]), login)
    assert anything(statement(INERT[name]), login)


@pytest.mark.parametrize(("old", "new"), [("int4pl", "int4mi"), ("postgres", "root"), ("x(", "y(")])
def test_what_differs_in_anything_is_not(old: str, new: str) -> None:
    text = INERT["function"]
    assert not same_as(opener(text))(statement(text.replace(old, new)), "")


RUNS = {
    "literal of an owner's type": entry(
        "FUNCTION", "CREATE FUNCTION public.x(d public.d[] DEFAULT '{1}'::public.d[]) LANGUAGE c"
    ),
    "body in standard SQL": entry(
        "FUNCTION", "CREATE FUNCTION public.x() LANGUAGE sql BEGIN ATOMIC SELECT 1; END"
    ),
    "body that is an expression": entry(
        "FUNCTION", "CREATE FUNCTION public.x() RETURNS public.d LANGUAGE sql RETURN '1'::public.d"
    ),
    "first state": entry("AGGREGATE", "CREATE AGGREGATE public.x(a) (STYPE = d, INITCOND = '1')"),
    "condition": entry("TRIGGER", "CREATE TRIGGER x AFTER INSERT ON t WHEN (f()) EXECUTE f()"),
    "table": entry("TABLE", "CREATE TABLE public.x (d public.d DEFAULT '1')"),
    "domain": entry("DOMAIN", "CREATE DOMAIN public.x AS integer CHECK (public.f())"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_can_run_an_owners_code_is_never_the_superusers(name: str) -> None:
    assert not same_as(opener(RUNS[name]))(statement(RUNS[name]), "")


def test_what_a_role_owns_is_not_the_superusers_for_a_moment() -> None:
    text = entry("FUNCTION", f"{INTERNAL} SECURITY DEFINER AS $$f$$", owner="app")
    assert not same_as(opener(text))(statement(text), "app")


def test_what_a_killed_load_left_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped and given to nobody; where it cannot be dropped a line says so."""
    left = [("datatier_load_1", ["broken"]), ("datatier_load_2", ["shop"])]
    done, said = list[str](), list[str]()

    def connect(_server: object, database: str, *, admin: bool) -> Any:
        if database == "broken":
            raise Failed("cannot connect to invalid database")
        execute = lambda statement, *_: (  # noqa: E731
            done.append(f"{database}: {statement.as_string(None)}")
            if not isinstance(statement, str)
            else SimpleNamespace(fetchall=lambda: left)
        )
        return contextlib.nullcontext(SimpleNamespace(execute=execute))

    monkeypatch.setattr(load, "connect", connect)
    load.sweep(cast(Any, None), cast(Any, SimpleNamespace(line=said.append)))
    assert done == [
        "shop: DROP EVENT TRIGGER IF EXISTS datatier_load",
        'shop: DROP OWNED BY "datatier_load_2" CASCADE',
        'postgres: DROP ROLE "datatier_load_2"',
    ]
    (line,) = said
    assert line.startswith("role datatier_load_1, left by a restore, cannot be dropped yet: cannot")
