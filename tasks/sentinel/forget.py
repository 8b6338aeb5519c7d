"""What Sentinels know and the settings do not: told, or made to be forgotten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe
from tasks.core.scripts import quoted, shell
from tasks.core.settings import Problem
from tasks.redis.console import SHELL
from tasks.redis.sentinels import SentinelSettings, endpoints
from tasks.redis.settings import addresses
from tasks.redis.topology import Address, User, strangers
from tasks.redis.users import remove_user
from tasks.sentinel.orders import ORDER, name_of, secrets_of


@dataclass(frozen=True)
class View:
    """What a Sentinel knows: the flags of replicas and of other Sentinels by their address.

    Attributes:
        users: its ACL users.
        masters: what else it watches; the names are quoted.
        replaced: an upgrade has put another program in the place of the one that runs.
        locked: who has the password can set nothing right there.
    """

    replicas: Mapping[Address, str] = field(default_factory=dict)
    sentinels: Mapping[Address, str] = field(default_factory=dict)
    users: tuple[User, ...] = ()
    masters: tuple[str, ...] = ()
    locked: bool = False
    replaced: bool = False


def views_probe(node: Node) -> Probe[dict[int, View]]:
    """Reads whom each Sentinel knows."""
    chosen = node.the(SentinelSettings)
    ports = " ".join(map(str, chosen.ports))
    script = SHELL + shell("known", "sentinel", name=chosen.master_name)
    script += shell("views", "sentinel", ports=ports)
    return Probe(
        script,
        lambda lines: _parse_views(lines, chosen.master_name),
        tuple(secrets_of(node).items()),
    )


def _parse_views(lines: list[str], master: str) -> dict[int, View]:
    views = defaultdict[int, View](View)
    for line in lines:
        number, kind, rest = line.split(" ", 2)
        port = int(number)
        view = views[port]
        if kind == "locked":
            views[port] = replace(view, locked=True)
        elif kind == "replaced":
            views[port] = replace(view, replaced=True)
        elif kind == "watches":
            others = () if rest == f'"{master}"' else (rest,)
            views[port] = replace(view, masters=(*view.masters, *others))
        elif kind == '"user':
            views[port] = replace(view, users=(*view.users, User.of(f"{kind} {rest}")))
        else:
            place, flags = rest.split(" ")
            ip, _, at = place.rpartition(":")
            known = {Address(ip, int(at)): flags}
            if kind == "replica":
                views[port] = replace(view, replicas={**view.replicas, **known})
            elif kind == "sentinel":
                views[port] = replace(view, sentinels={**view.sentinels, **known})
    return dict(views)


def is_locked(node: Node, port: int) -> bool:
    """Whether who has its password may not do everything: what it says may be a refusal."""
    view = node.read("sentinel")["views"].get(port, View())
    return view.locked or not all(user.may_all for user in view.users if user.is_ours)


def is_replaced(node: Node, port: int) -> bool:
    """Whether an upgrade has put another program in the place of the one that runs."""
    views: Mapping[int, View] = node.read("sentinel")["views"]
    return views.get(port, View()).replaced


@dataclass(frozen=True)
class _Stranger:
    """A member that a Sentinel knows and the inventory does not."""

    port: int
    kind: str
    address: Address
    is_down: bool


def _strangers(node: Node) -> Iterator[_Stranger]:
    nodes, sentinels = addresses(node.estate), endpoints(node.estate)
    for port, view in node.read("sentinel")["views"].items():
        for kind, known, members in (
            ("replica", view.replicas, nodes),
            ("Sentinel", view.sentinels, sentinels),
        ):
            for address in sorted({*known} - {*members}):
                stranger = _Stranger(port, kind, address, _is_down(known[address]))
                if stranger.is_down or not _is_scaled(node, address):
                    yield stranger


def _is_scaled(node: Node, address: Address) -> bool:
    """Whether it is a replica that Compose was told to have more of: Docker gave it its address."""
    given = node.place.given
    return given is not None and ip_address(address.ip) in given


def _is_down(flags: str) -> bool:
    return "s_down" in flags or "disconnected" in flags


def _forgotten(node: Node, leaving: Set[Address]) -> list[_Stranger]:
    """Whom the Sentinels here are made to forget; who runs would be found again."""
    if not node.the(SentinelSettings).prune:
        return []
    return [each for each in _strangers(node) if each.is_down or each.address in leaving]


def unforgettable(node: Node, leaving: Set[Address]) -> list[Problem]:
    """Members that are down while another is to be forgotten: they would be forgotten too.

    Args:
        leaving: where Redis and Sentinels are that this run removes.
    """
    if not _forgotten(node, leaving):
        return []
    members = {*addresses(node.estate), *endpoints(node.estate)}
    views = node.read("sentinel")["views"].values()
    known = [item for view in views for item in (*view.replicas.items(), *view.sentinels.items())]
    down = sorted(
        {str(address) for address, flags in known if _is_down(flags)} & {*map(str, members)}
    )
    if not down:
        return []
    message = f"{', '.join(down)} is down, and a reset would drop it as well: start it first"
    return [Problem(node.name, "sentinel_prune", message)]


def prune(node: Node, leaving: Set[Address]) -> Change | None:
    """Removes what is not in the settings: masters, users, then whom the Sentinels remember."""
    changes = [each for each in (_expel(node), forget(node, leaving)) if each]
    if not changes:
        return None
    return Change(
        [line for each in changes for line in each.lines],
        "\n".join(each.script for each in changes),
        {name: value for each in changes for name, value in each.variables.items()},
    )


def _expel(node: Node) -> Change | None:
    """The removal of masters and users that are not in the settings."""
    lines, script = list[str](), SHELL + ORDER
    variables = secrets_of(node)
    views: Mapping[int, View] = node.read("sentinel")["views"]
    for port, view in views.items():
        name, users = name_of(node, port), strangers(view.users)
        lines += [f"{name}: stop watching the master {each}" for each in view.masters]
        lines += [remove_user(name, each) for each in users]
        orders = [f"SENTINEL REMOVE {each}" for each in view.masters]
        orders += [f"ACL DELUSER {' '.join(users)}"] if users else []
        if orders:
            variables[f"EXPEL_{port}"] = "\n".join(orders)
            script += f'order {port} "$EXPEL_{port}"\n'
    prunes = node.the(SentinelSettings).prune
    return Change(lines, script, variables) if lines and prunes else None


def forget(node: Node, leaving: Set[Address]) -> Change | None:
    """Makes the Sentinels of a node forget who is not in the inventory, one after the other."""
    going = _forgotten(node, leaving)
    if not going:
        return None
    name = node.the(SentinelSettings).master_name
    script = SHELL + shell("known", "sentinel", name=name) + shell("forget", "sentinel")
    for port in dict.fromkeys(each.port for each in going):
        me = Address(node.address, port)
        others = [str(each) for each in endpoints(node.estate) if each != me]
        gone = [str(each.address) for each in going if each.port == port]
        script += (
            f"forget {port} {name_of(node, port)} {quoted(' '.join(others), ' '.join(gone))}\n"
        )
    nodes = " ".join(map(str, addresses(node.estate)))
    lines = [f"{name_of(node, each.port)}: forget the {each.kind} {each.address}" for each in going]
    return Change(lines, script, {**secrets_of(node), "NODES": nodes})


def remembered(node: Node, leaving: Set[Address]) -> Iterator[str]:
    """What is said of what the Sentinels know and the settings do not, as long as it stays."""
    for port, live in node.read("sentinel")["monitors"].items():
        if live is None:
            what = "no answer, so what it watches could not be compared"
            yield f"{name_of(node, port)}: {what}; a run starts it, and then compares that"
    prune, going = node.the(SentinelSettings).prune, _forgotten(node, leaving)
    for each in _strangers(node):
        if each not in going:
            then = "it runs: stop it first" if prune else "sentinel_prune would make it forget"
            known = f"knows the {each.kind} {each.address}, which is not in the inventory"
            yield f"{name_of(node, each.port)}: {known}; {then}"
    views: Mapping[int, View] = {} if prune else node.read("sentinel")["views"]
    for port, view in views.items():
        found = [f"watches the master {each}, which" for each in view.masters]
        found += [f"the ACL user {each}" for each in strangers(view.users)]
        for what in found:
            stays = f"{what} is not in the settings; sentinel_prune would remove it"
            yield f"{name_of(node, port)}: {stays}"
