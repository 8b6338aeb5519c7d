"""Limited users of Redis: what is compared, set and ended; servers are in test_redis_rolling.py."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core import files, hide
from tasks.core.estate import Node
from tasks.core.files import Found
from tasks.core.preflight import System
from tasks.core.releases import RELEASES
from tasks.core.services import Status
from tasks.redis import acl, activation, leader, rules, users, values
from tasks.redis.activation import activations, watched
from tasks.redis.expected import moved_beside
from tasks.redis.settings import own_users, users_of
from tests.unit import helpers
from tests.unit.test_components import knows

SECRET = "reports-Secret-7"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
OURS = f"on sanitize-payload #{HASH} ~app:* resetchannels -@all +get"


def deployed(directory: Path, *lines: str, had: str = "", **more: Any) -> Node:
    """A host with one instance that says this of its users, and was activated with `had`."""
    user = {"password": SECRET, "commands": ["+get"], "keys": ["app:*"]}
    data = {"address": "10.0.0.1", "redis_users": {"reports": user}, **more}
    everything = helpers.estate({"one": data}, {"redis": ["one"]}, directory)
    (node,) = everything.nodes
    said = ["master 0", '"user default on #ab ~* &* +@all"', *lines]
    roles = leader.roles_probe(node).parse(said)
    (wanted,) = activations(node).values()
    now = Status(True, True, wanted.restart, wanted.reload, wanted.keys | {*had.split()})
    knows(node, "redis", roles=roles, services={"redis-6379": now})
    return node


def due(node: Node) -> tuple[str, str, bool]:
    """What the plan says, what is sent to the server, and whether it is due."""
    (wanted,) = activations(node).values()
    now = node.read("redis")["services"]["redis-6379"]
    wanted, status = watched(node, 6379, wanted, now)
    return wanted.reload_means, users.set_users(node, 6379, status), status.outdated


def tried(rules: str = OURS) -> str:
    return f'"user datatier:reports {rules}"'


@pytest.mark.parametrize(
    ("now", "what", "ends"),
    [
        (OURS, "", False),
        (OURS.replace("+get", "+get +set"), "changed", False),
        (OURS.replace(f"#{HASH}", f"#{HASH} #cd"), "another password; its connections end", True),
        (OURS.replace(f"#{HASH}", "nopass"), "another password; its connections end", True),
        (OURS.replace(f"#{HASH}", "#cd"), "another password; its connections end", True),
        (None, "new", False),
    ],
)
def test_users_are_compared_in_the_servers_own_words(
    now: str | None, what: str, ends: bool, tmp_path: Path
) -> None:
    lines = [f'"user reports {now}"'] if now else []
    node = deployed(tmp_path, *lines, tried())
    means, sent, is_due = due(node)
    assert means == (f"reload (ACL user reports: {what})" if what else "reload")
    assert is_due == bool(what)
    assert ('CLIENT KILL USER "reports"' in sent) == ends
    assert list(users.unknown_users(node)) == []


def test_rules_in_another_order_are_other_rules(tmp_path: Path) -> None:
    before, after = (OURS.replace("-@all +get", text) for text in ("+@all -get", "-get +@all"))
    assert due(deployed(tmp_path, f'"user reports {before}"', tried(after)))[2]


def test_what_the_server_does_not_take_is_due(tmp_path: Path) -> None:
    """It then says why."""
    assert due(deployed(tmp_path, f'"user reports {OURS}"'))[2]


def test_users_that_left_go_and_others_are_only_told(tmp_path: Path) -> None:
    lines = [f'"user {name} {OURS}"' for name in ("reports", "old", "theirs")]
    node = deployed(tmp_path, *lines, tried(), had="user:old")
    means, sent, is_due = due(node)
    assert (means, is_due) == ("reload (ACL user old: removed; its connections end)", True)
    assert sent.splitlines()[1:] == ['ACL DELUSER "old"']
    (told,) = users.unknown_users(node)
    assert told.startswith('redis-6379: the ACL user "theirs" is not in the settings')
    (wanted,) = activations(node).values()
    assert activation.forgotten(wanted, node.read("redis")["services"]["redis-6379"]) == ""


def test_of_a_full_instance_only_passwords_are_compared(tmp_path: Path) -> None:
    """It takes no transaction, and so does not say what rules come to."""
    same = f'"user reports {OURS}"'
    assert not due(deployed(tmp_path, same, "*"))[2]
    assert due(deployed(tmp_path, same.replace(HASH, "cd"), "*"))[2]
    added = users.missing_own(deployed(tmp_path, same, "*"))
    assert added is not None and {line.rpartition(": ")[2] for line in added.lines} == {"new"}
    assert "add_users 6379 redis-6379" in added.script


def test_where_no_users_are_nothing_is_sent(tmp_path: Path) -> None:
    node = deployed(tmp_path, redis_users={})
    assert due(node) == ("reload", "", False)
    assert acl.tried({})[0] == ""


def test_the_password_is_nowhere_but_its_hash_which_is_masked(tmp_path: Path) -> None:
    node = deployed(tmp_path)
    text = values.configuration(node, 6379)
    assert f"user reports reset resetchannels on ~app:* +get #{HASH}\n" in text
    assert SECRET not in text + str(acl.tried(users_of(node))) + due(node)[1]
    assert HASH not in files.mask(text, values.SECRET_LINES)
    assert HASH not in hide.hidden(f"Redis refuses it: {text}")


def test_our_own_users_are_added_first_and_made_exact_at_the_end(tmp_path: Path) -> None:
    """So a password that changes is one of two, until all that comes with it has the new one."""
    node = deployed(tmp_path, redis_users={})
    wanted = own_users(node)
    words = {name: " ".join(rules.split()[1:]) for name, rules in wanted.items()}
    there = [f'"user {name} {rule}"' for name, rule in words.items()]
    both = [*there[:1], there[1].replace("#", "#ab #"), *there[2:]]
    there[1] = f'{there[1].partition("#")[0]}#ab"'
    probe = leader.roles_probe(node).parse
    tried = [f'"user datatier:{name} {rule}"' for name, rule in words.items()]
    others = '"user default on #ab ~* &* +@all"'
    knows(node, "redis", **{**node.read("redis"), "roles": probe(["master 0", others, *tried])})
    added = users.missing_own(node)
    assert added is not None and users.exact_own(node) is None
    assert added.lines == [f"redis-6379: ACL user {name}: new" for name in acl.OWN]
    roles = probe(["master 0", others, *there, *tried])
    knows(node, "redis", **{**node.read("redis"), "roles": roles})
    added, exact = users.missing_own(node), users.exact_own(node)
    line = "redis-6379: ACL user datatier-replica: another password; its connections end"
    assert added is not None and exact is not None and added.lines == exact.lines == [line]
    (only,) = added.variables["OWN_6379"].splitlines()
    assert only.startswith('ACL SETUSER "datatier-replica" resetchannels on ')
    assert "CLIENT KILL" not in only
    assert f'ACL SETUSER "datatier-replica" {wanted[acl.REPLICA]}' in exact.variables["OWN_6379"]
    assert 'CLIENT KILL USER "datatier-replica"' in exact.variables["OWN_6379"]
    # A run that was interrupted has added it.
    roles = probe(["master 0", others, *both, *tried])
    knows(node, "redis", **{**node.read("redis"), "roles": roles})
    exact = users.exact_own(node)
    assert users.missing_own(node) is None and exact is not None and exact.lines == [line]


_KNOWN = f"#{hashlib.sha256(helpers.SECRETS['REDIS_PASSWORD'].encode()).hexdigest()}"
_LIMITED = f"on {_KNOWN} ~* &* +@all -@dangerous"


@pytest.mark.parametrize(
    ("live", "reload", "said"),
    [
        (_LIMITED, "", ""),
        (_LIMITED.replace(" -@dangerous", ""), "", "changed by hand"),
        (_LIMITED.replace(_KNOWN, "nopass"), "", "changed by hand"),
        (_LIMITED.replace(" -@dangerous", ""), "older", "loses CONFIG, FLUSHALL, "),
    ],
)
def test_default_has_the_rights_of_the_settings(
    live: str, reload: str, said: str, tmp_path: Path
) -> None:
    node = deployed(tmp_path, redis_users={}, redis_default_user="application")
    text = values.configuration(node, 6379)
    assert "user default reset on ~* &* +@all -@dangerous -@admin -function" in text
    users_said = [f'"user default {live}"', f'"user datatier:default {_LIMITED}"']
    found, now = node.read("redis"), node.read("redis")["services"]["redis-6379"]
    now = replace(now, reload=reload or now.reload)
    roles = leader.roles_probe(node).parse(["master 0", *users_said])
    knows(node, "redis", **{**found, "roles": roles, "services": {"redis-6379": now}})
    means, _, is_due = due(node)
    assert is_due == bool(said)
    assert (f"ACL user default: {said}" in means) == bool(said)
    (wanted,) = activations(node).values()
    sent = activation.taking(node, 6379, wanted, now)[0].service.variables["DEFAULT_USER"]
    assert f"user default {sent}\n" in text


def test_default_is_not_limited_as_long_as_sentinels_come_as_this_user(tmp_path: Path) -> None:
    data = {"address": "10.0.0.1", "redis_default_user": "application"}
    groups = {"redis": ["one"], "sentinel": ["one"]}
    (node,) = helpers.estate({"one": data}, groups, tmp_path).nodes
    node.host.state.activate_host(node.host)
    file = Found("file", content=b"\nmasteruser datatier-replica\n")
    lives: tuple[Any, ...] = ({}, None, {"user": acl.SENTINEL}, {"user": ""})
    for live, is_early in zip(lives, (False, False, False, True), strict=True):
        knows(node, "sentinel", monitors={26379: live})
        knows(node, "redis", files={"/etc/redis/redis-6379.conf": file})
        assert bool([*rules.limited_too_early(node)]) == is_early
    knows(node, "sentinel", monitors={})
    knows(node, "redis", files={"/etc/redis/redis-6379.conf": replace(file, content=b"port 1\n")})
    (problem,) = rules.limited_too_early(node)
    assert str(problem).startswith("one: redis_default_user: should be 'all' for one run")


def test_quotes_and_backslashes_of_patterns_stay_patterns(tmp_path: Path) -> None:
    users = {"a": {"password": SECRET, "commands": ["+GET"], "keys": ['x"y\\z', "it's"]}}
    node = deployed(tmp_path, redis_users=users)
    rules = users_of(node)["a"]
    assert rules.startswith('reset resetchannels on "~x\\"y\\\\z" "~it\'s" +get #')


def test_who_may_use_all_channels_does_not_tell_sentinels_who_leads(tmp_path: Path) -> None:
    user = {"password": SECRET, "commands": ["+@all"], "keys": ["a*", "it's"], "channels": ["*"]}
    text = users_of(deployed(tmp_path, redis_users={"a": user}))["a"]
    keys, others = '~a* "~it\'s"', "&[^_]* &_[^_]* &__[^s]*"
    selector = f"clearselectors ({keys} {others} +@all)"
    assert text.startswith(f"reset resetchannels on {keys} &* +@all -publish {selector} #")


@pytest.mark.parametrize("channel", ["__sentinel__:hello", "_*", "*hello", "__[^k]*", "?*", "[_]*"])
def test_channels_of_sentinels_are_nobodys(channel: str) -> None:
    with pytest.raises(ValidationError, match="tells Sentinels who leads"):
        acl.RedisUser(commands=("+publish",), channels=(channel,))


@pytest.mark.parametrize("channel", ["*", "app:*", "__keyspace@0__:*", "[^_]*", "/0.celery*"])
def test_channels_of_applications_are_theirs(channel: str) -> None:
    assert acl.RedisUser(commands=("+publish",), channels=(channel,)).channels == (channel,)


def test_commands_that_a_release_does_not_have_are_refused(tmp_path: Path) -> None:
    commands = ["+@all", "-@dangerous", "+gett", "-@dangerus", "+config|gte", "+hexpire", "+get|x"]
    node = deployed(tmp_path, redis_users={"a": {"commands": commands}})
    found = {}
    for number in ("12", "13"):
        node.system = System(RELEASES["debian", number])
        found[number] = [str(problem) for problem in rules.unknown_commands(node)]
    key, of = "one: redis_users/a/commands", "Redis of Debian 13 has no such"
    assert found["13"] == [
        f"{key}: '+gett': {of} command (+get?)",
        f"{key}: '-@dangerus': {of} category (-@dangerous?)",
        f"{key}: '+config|gte': {of} command (+config|get?)",
        f"{key}: '+get|x': {of} command (+getex?)",
    ]
    assert [line.partition("'")[2].partition("'")[0] for line in found["12"]] == [
        *("+gett", "-@dangerus", "+config|gte", "+hexpire", "+get|x"),
    ]
    with_module = deployed(
        tmp_path,
        redis_users={"a": {"commands": ["+json.get"]}},
        redis_extra={"loadmodule": "/x.so"},
    )
    assert list(rules.unknown_commands(with_module)) == []


def test_keys_that_no_setting_has_are_what_a_new_server_says(tmp_path: Path) -> None:
    """Not those that Redis changes itself, older names, or what only a restart changes."""
    uses = ["=timeout 5", "=hz 10", "=replicaof a 1", "=slave-priority 1", "=maxclients 10000"]
    node = deployed(tmp_path, f'"user reports {OURS}"', tried(), *uses, "=databases 3")
    said = node.read("redis")
    expected = {"timeout": "0", "hz": "10", "replicaof": "", "slave-priority": "100"}
    knows(node, "redis", **said, expected=expected | {"maxclients": "992", "databases": "16"})
    assert moved_beside(node, 6379) == {"timeout": "0"}
    means, _, is_due = due(node)
    assert (means, is_due) == ("reload (timeout: changed by hand)", True)
    now = said["services"]["redis-6379"]
    assert ' timeout "0"' in activation.config_set(node, 6379, now)
    # One that left the settings is set back by its default, and must not be there twice.
    had = replace(now, keys=now.keys | {"timeout"})
    assert " timeout " not in activation.config_set(node, 6379, had)


def test_a_restart_that_is_due_does_not_hide_users(tmp_path: Path) -> None:
    node = deployed(tmp_path, tried())
    (wanted,) = activations(node).values()
    now = replace(node.read("redis")["services"]["redis-6379"], restart="older")
    still = activation.still(wanted, now)
    assert watched(node, 6379, still, now)[0].reload_means.endswith("reports: new)")
