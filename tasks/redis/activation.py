"""How instances take their settings without a restart, and what they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tasks.core import live, services
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.scripts import quoted
from tasks.core.services import Activation, Status
from tasks.redis import acl, tls
from tasks.redis.acl import quote
from tasks.redis.expected import EXPECTED, moved_beside
from tasks.redis.files import KEEP_PASSWORD, beginnings
from tasks.redis.service import service_of
from tasks.redis.settings import RedisSettings, default_of, logins, passwords, users_of
from tasks.redis.topology import Instance, guarded
from tasks.redis.users import USER, due_users, set_users
from tasks.redis.values import (
    RESTART_KEYS,
    configuration_path,
    link_of,
    parameters_of,
    settings_of,
)


def due_activation(node: Node) -> Change | None:
    """What is done without a restart of what runs."""
    wanted, now = list[Activation](), dict[str, Status]()
    for port, each in activations(node).items():
        status = status_of(node, port, each)
        if is_locked(node, port):
            # No client is let in that could hand over, and replicas could not follow it either.
            each = replace(each, restart_means=f"restart ({LOCKED})")
        elif services.impact(each, status) == "restart":
            each, status = still(each, status), replace(status, outdated=False, by="")
        each, status = taking(node, port, each, status)
        wanted.append(each)
        now[each.service.name] = status
    change = services.compare(wanted, now, node.place)
    if change is None:
        return None
    begun = f"remove {quoted(*(file.path for file in beginnings(node)))}"
    # A Sentinel beside them has the last one until it starts again, and is asked before that.
    keep = f"{KEEP_PASSWORD}\nkeep_admin\n"
    keep += "" if node in node.estate.in_group("sentinel") else "keep_password\n"
    first = node.the(RedisSettings).ports[0]
    keep += f"{EXPECTED}\nkeep_expected {configuration_path(node, first)}\n"
    return replace(change, script=f"{change.script}\n{keep}{begun}\n")


def taking(node: Node, port: int, wanted: Activation, now: Status) -> tuple[Activation, Status]:
    """How an instance takes what it can without a restart, and what is known of it."""
    wanted, now = watched(node, port, wanted, now)
    variables = {
        **logins(node),
        "DEFAULT_USER": _default(node),
        f"CONFIG_{port}": config_set(node, port, now),
        f"FORGET_{port}": forgotten(wanted, now),
        f"ACL_{port}": set_users(node, port, now),
        f"ENTRY_{port}": _sessions(node, port),
    }
    return replace(wanted, service=replace(wanted.service, variables=variables)), now


def status_of(node: Node, port: int, wanted: Activation) -> Status:
    """What is known of an instance, with what it says of itself that only a restart mends.

    What is due anyway is no news.
    """
    now: Status = node.read("redis")["services"][wanted.service.name]
    if is_locked(node, port):
        return replace(now, restart="locked")
    if any(role.replaced for role in _here(node, port)):
        return live.status(now, {REPLACED}, {REPLACED})
    now = services.upgraded(wanted.service, now, node.upgrades)
    is_due = services.impact(wanted, now) is not None
    return now if is_due else live.status(now, _fixed_by(node, port), RESTART_KEYS)


def told(node: Node, port: int, wanted: Activation) -> list[str]:
    """What an instance uses and only a restart mends, as sentences of the plan."""
    status = node.read("redis")["services"][wanted.service.name]
    found = {} if services.impact(wanted, status) else _fixed_by(node, port)
    return live.sentences(wanted.service.name, found)


# In a record it is one word.
REPLACED = "program"
WHY_REPLACED = services.WHY_REPLACED

# Why an instance or a Sentinel restarts that lets no client in that could set that back.
LOCKED = "password or ACL user default: changed by hand"


def is_locked(node: Node, port: int) -> bool:
    """Whether nothing can be set in an instance, so that a restart is all that is left."""
    return any(role.locked for role in _here(node, port))


def _fixed_by(node: Node, port: int) -> dict[str, tuple[str, str]]:
    return {key: value for key, value in moved(node, port).items() if key in RESTART_KEYS}


def moved(node: Node, port: int) -> dict[str, tuple[str, str]]:
    """What an instance uses and should, by key, where the two differ."""
    said = next((role.settings for role in _here(node, port)), {})
    wanted = {k: v for k, v in settings_of(node, port).items() if k not in tls.APART}
    plain = {*parameters_of(node, port), *link_of(node)}
    return live.moved(_spelled(wanted), _spelled(said), plain)


def _spelled(settings: Mapping[str, str]) -> dict[str, str]:
    """Kinds of events are letters in any order, and A stands for most of them."""
    key = "notify-keyspace-events"
    if not settings.get(key):
        return {**settings}
    return {**settings, key: "".join(sorted({*settings[key].replace("A", "g$lshzxetd")}))}


def activations(node: Node) -> dict[int, Activation]:
    """Every instance and what it should run with, by port."""
    return {
        port: services.activation(
            service_of(node, port),
            node.place,
            restart=f"{sorted(_fixed(node, port).items())}",
            reload=_settable(node, port),
            keys=keys(node, port),
        )
        for port in node.the(RedisSettings).ports
    }


def still(wanted: Activation, now: Status) -> Activation:
    """What an instance is to run with as long as it has not restarted."""
    named = {key for key in now.keys if "=" in key} | {key for key in wanted.keys if "=" not in key}
    return replace(wanted, restart=now.restart, keys=frozenset(named))


def _settable(node: Node, port: int) -> str:
    """What of an instance's settings CONFIG SET takes, and its users."""
    every = {**default_of(node), **users_of(node)}
    users = "".join(f"\n{user}" for user in every.items())
    return f"{sorted(_live(node, port).items())}{users}{tls.fingerprint(node)}"


def _live(node: Node, port: int) -> dict[str, str]:
    settings, apart = settings_of(node, port).items(), {*RESTART_KEYS, *tls.APART}
    return {key: value for key, value in settings if key not in apart}


def _fixed(node: Node, port: int) -> dict[str, str]:
    # Its port stays the same, whatever it speaks there.
    settings = {**settings_of(node, port), "port": str(port)}.items()
    return {key: value for key, value in settings if key in RESTART_KEYS}


def keys(node: Node, port: int) -> frozenset[str]:
    """What the record of an instance names, so that a later run can tell what has changed."""
    extra = node.the(RedisSettings).extra.keys() - RESTART_KEYS
    users = {f"{USER}{name}" for name in node.the(RedisSettings).users}
    return services.fingerprints(_fixed(node, port)) | extra | users


def kept_data(node: Node, port: int) -> dict[str, str]:
    """What decides whether an instance keeps its data."""
    ours = parameters_of(node, port)
    return {key: str(ours[key]) for key in ("appendonly", "save")}


def watched(node: Node, port: int, wanted: Activation, now: Status) -> tuple[Activation, Status]:
    """The same, with what hands have changed in a running instance since its activation."""
    here = _here(node, port)
    opened, by_hand = _is_opened(node, here), now.reload == wanted.reload
    beside = moved_beside(node, port)
    changed, why = sorted({*moved(node, port), *beside} - RESTART_KEYS), list[str]()
    if changed and by_hand:
        why.append(f"{', '.join(changed)}: changed by hand")
    entry = "" if by_hand else _entry(node, here)
    if opened or entry:
        means = "changed by hand" if by_hand else entry or _means(node)
        why.append(f"ACL user default: {means}")
    why += due_users(node, port, now)
    if not why:
        return wanted, now
    outdated = now.outdated or by_hand or opened
    means = f"reload ({'; '.join(why)})"
    return replace(wanted, reload_means=means), replace(now, outdated=outdated)


def _here(node: Node, port: int) -> list[Instance]:
    """What is known of the instance at a port of a host."""
    roles: list[Instance] = node.read("redis")["roles"]
    return [role for role in roles if role.address.port == port]


def _default(node: Node) -> str:
    return acl.default_rules(node.the(RedisSettings).default_user, *passwords(node))


def _entry(node: Node, here: Iterable[Instance]) -> str:
    """What happens to those who come as `default` with another password."""
    found = [acl.passwords_of(role, "default", _default(node)) for role in here]
    return next(filter(None, found), "")


def _sessions(node: Node, port: int) -> str:
    """What ends their sessions, of which none says which password it came with, as commands."""
    ends = acl.ENDS in _entry(node, _here(node, port))
    return f"ACL SETUSER default {_default(node)}\nCLIENT KILL USER default" if ends else ""


def _is_opened(node: Node, here: Iterable[Instance]) -> bool:
    """Whether `default` has other rights or passwords than it should."""
    wanted = default_of(node)
    if not wanted:
        return not all(guarded(role.users) for role in here)
    return any(acl.differing(role, wanted) for role in here if role.users)


def _means(node: Node) -> str:
    if node.the(RedisSettings).default_user == "all":
        return "may do everything"
    return (
        "loses CONFIG, FLUSHALL, FLUSHDB, FUNCTION, KEYS, MODULE, REPLICAOF, SHUTDOWN, SORT and "
        "all else of @admin and @dangerous but INFO, ROLE, CLIENT LIST"
    )


def config_set(node: Node, port: int, now: Status) -> str:
    """One CONFIG SET of everything it takes: Redis applies all of it or nothing."""
    # What is named in the record and left the settings is added where it is forgotten.
    beside = {k: v for k, v in moved_beside(node, port).items() if k not in now.keys}
    settings = {**_live(node, port), **beside}
    return f"CONFIG SET {' '.join(f'{k} {quote(v)}' for k, v in settings.items())}"


def forgotten(wanted: Activation, now: Status) -> str:
    """The keys that left the settings, which CONFIG SET is to set back."""
    gone = {key for key in now.keys - wanted.keys if "=" not in key and USER not in key}
    return " ".join(sorted(gone - RESTART_KEYS))
