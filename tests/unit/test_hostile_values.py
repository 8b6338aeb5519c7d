"""Any text in a setting is refused in one line that names its key, or adds no line of its own.

Each format's own test says that a value comes back as it was: see test_scalars.py.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.component import components
from tasks.core.estate import Estate
from tests.unit import helpers
from tests.unit.test_templates import ROOT, SHAPES, inventory, on_hosts, rendered

Data = dict[str, Any]
Make = Callable[[str], Data]

ACL = {"commands": ["+get"], "keys": ["a"]}
APP = {"name": "front", "port": 8000, "image": "front"}
FAR = {"bucket": "far-away", "access_key": "a", "secret_key": "long-enough"}
ROLE: dict[str, Data] = {"psscript": {}}


def _role(**fields: Any) -> Data:
    return {"postgres_roles": {"psscript": fields}}


def _database(**fields: Any) -> Data:
    return {"postgres_databases": {"psscript": {"owner": "psscript", **fields}}}


# Texts that stand inside of a value; those that are a value themselves are found in the models.
INNER: dict[str, Make] = {
    "postgres_roles/password": lambda text: _role(password=text),
    "postgres_roles/settings": lambda text: _role(settings={"application_name": text}),
    "postgres_roles/name": lambda text: {"postgres_roles": {**ROLE, text: {"login": False}}},
    "postgres_roles/member_of": lambda text: _role(member_of=[text]),
    "postgres_databases/settings": lambda text: _database(settings={"application_name": text}),
    "postgres_databases/owner": lambda text: _database(owner=text),
    "postgres_databases/extensions": lambda text: _database(extensions=[text]),
    "postgres_databases/grants": lambda text: _database(grants={text: ["CONNECT"]}),
    "postgres_extensions": lambda text: {"postgres_extensions": [text]},
    "postgres_shared_preload_libraries": lambda text: {"postgres_shared_preload_libraries": [text]},
    "postgres_hba": lambda text: {"postgres_hba": [text]},
    "postgres_hba/value": lambda text: {"postgres_hba": [f"host all {text} 10.1.1.1/32 reject"]},
    "postgres_extra": lambda text: {"postgres_extra": {"cluster_name": text}},
    "postgres_extra/key": lambda text: {"postgres_extra": {text: "x"}},
    "pgbouncer_hba": lambda text: {"pgbouncer_hba": [text]},
    "pgbouncer_extra": lambda text: {"pgbouncer_extra": {"syslog_ident": text}},
    "pgbouncer_extra/key": lambda text: {"pgbouncer_extra": {text: "x"}},
    "redis_users/name": lambda text: {"redis_users": {text: {**ACL, "password": "long-enough"}}},
    "redis_users/password": lambda text: {"redis_users": {"a": {**ACL, "password": text}}},
    "redis_users/commands": lambda text: {"redis_users": {"a": {**ACL, "commands": [text]}}},
    "redis_users/keys": lambda text: {"redis_users": {"a": {**ACL, "keys": [text]}}},
    "redis_users/channels": lambda text: {"redis_users": {"a": {**ACL, "channels": [text]}}},
    "redis_extra": lambda text: {"redis_extra": {"proc-title-template": text}},
    "redis_extra/key": lambda text: {"redis_extra": {text: "x"}},
    "firewall_allow": lambda text: {"firewall_allow": [text]},
    "backup_s3_further/bucket": lambda text: {"backup_s3_further": [{**FAR, "bucket": text}]},
    "backup_s3_further/endpoint": lambda text: {"backup_s3_further": [{**FAR, "endpoint": text}]},
    "backup_s3_further/secret_key": lambda text: {
        "backup_s3_further": [{**FAR, "secret_key": text}]
    },
    "apps/name": lambda text: {"apps": [{**APP, "name": text}]},
    "apps/image": lambda text: {"apps": [{**APP, "image": text}]},
    "apps/health": lambda text: {"apps": [{**APP, "health": text}]},
    "apps/env": lambda text: {"apps": [{**APP, "env": {"A": text}}]},
    "apps/env/key": lambda text: {"apps": [{**APP, "env": {text: "a"}}]},
}
# A command of this machine, which would be run here; addresses that have to be others' as well; and
# what is no text itself: see INNER.
OUTSIDE = {"secrets_command", "postgres_listen_addresses", "pgbouncer_listen_addr"}
OUTSIDE |= {"postgres_databases", "postgres_roles", "redis_users"}


def _plain() -> dict[str, Make]:
    """The fields of all components that take a text."""
    found: dict[str, Make] = {}
    for component in components():
        for field, about in component.settings.model_fields.items():
            key = component.settings.key_of(field)
            if re.search(r"\bstr\b|SecretStr", str(about.annotation)) and key not in OUTSIDE:
                found[key] = lambda text, key=key: {key: text}  # type: ignore[misc]
    return found


FIELDS = {**_plain(), **INNER}
# Of any kind that a field may want: with one of them the estate is accepted.
ACCEPTED = [
    *(
        "shop",
        "shopping-mall",
        "/var/lib/shop",
        "10MB",
        "10mb",
        "10s",
        "10.9.8.7",
        "+get",
        "reject",
    ),
    *("0 1 * * *", "900 1", "host all all 10.9.8.7/32 scram-sha-256", "https://shop.example/a"),
    *("172.31.0.0/24", "debian:bookworm-slim", "psscript", "tcp", "no", "1", "allow", "session"),
    *("pgbouncer", "13", "noeviction", "everysec", "auto", "hstore"),
]
NASTY = st.text(
    st.sampled_from("a0.-_/ '\"`$\\;|&<>(){}[]*?!#~%@=,:+\t\n\r\0\v\f\x1b\x7f\x85\u2028é"),
    min_size=1,
    max_size=24,
)
AROUND = st.sampled_from(ACCEPTED)


def _estate(data: Data, directory: Path) -> tuple[Estate, list[str]]:
    name = "docker" if any(key.startswith(("apps", "docker")) for key in data) else "cluster"
    path, system = SHAPES[name]
    store = {
        "backup_s3_bucket": "copies",
        "backup_s3_access_key": "a",
        "backup_s3_secret_key": "long-enough",
    }
    hosts, groups = inventory(ROOT / path)
    made = helpers.estate(
        {host: {**own, **store, **data} for host, own in hosts.items()}, groups, directory
    )
    problems = helpers.problems(made)
    return made if problems else on_hosts(made, system), problems


def _lines(made: Estate) -> list[int]:
    """How many lines each file has, by servers' opinion and by Python's."""
    texts = rendered(made).values()
    return sorted([text.count("\n") for text in texts] + [len(text.splitlines()) for text in texts])


@cache
def _benign(key: str) -> list[int]:
    """The lines of an estate with a harmless text in a field; none if it takes none of them."""
    with tempfile.TemporaryDirectory() as directory:
        for text in ACCEPTED:
            made, problems = _estate(FIELDS[key](text), Path(directory))
            if not problems:
                return _lines(made)
    return []


def test_every_field_takes_some_text() -> None:
    assert [key for key in FIELDS if not _benign(key)] == []


@settings(max_examples=150)
@given(key=st.sampled_from(sorted(FIELDS)), before=AROUND, text=NASTY, alone=st.booleans())
def test_a_hostile_text_is_refused_or_stays_within_its_line(
    key: str, before: str, text: str, alone: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made, problems = _estate(FIELDS[key](text if alone else before + text), Path(directory))
        if problems:
            assert all(problem.isprintable() for problem in problems), problems
            assert any(f": {key.partition('/')[0]}" in problem for problem in problems), problems
        else:
            assert _lines(made) == _benign(key)
