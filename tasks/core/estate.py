"""The whole estate: every host, its validated settings, and what was found on it."""

from __future__ import annotations

import ast
import ipaddress
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import RLock
from pyinfra import logger
from pyinfra.api import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from tasks.core import (
    budget,
    command,
    files,
    hide,
    leavings,
    packages,
    preflight,
    remote,
    retired,
    secrets,
)
from tasks.core.asking import Refusal
from tasks.core.change import Change
from tasks.core.component import Component, components, keys
from tasks.core.hide import shown
from tasks.core.leavings import HOST
from tasks.core.offer import Offer, Reach
from tasks.core.packages import PACKAGES
from tasks.core.places import Place
from tasks.core.places.container import Container
from tasks.core.places.runit import RUNIT
from tasks.core.places.systemd import SYSTEMD, UNCONFINED
from tasks.core.preflight import Listener, System
from tasks.core.remote import Probe
from tasks.core.settings import Problem, Settings, StackSettings, unknown_keys

S = TypeVar("S", bound=Settings)

# A host of this group carries all components, each in a container.
DOCKER = "docker"


@dataclass(eq=False)
class Node:
    """One host of the estate, or one container of a host.

    Attributes:
        groups: those of the inventory that it is in.
        inside: the containers of a host that runs the stack as a Compose project.
        service: the container's name in that project.
        port: where its host publishes it.
        container: where its services run if that is not the host itself.
        reader: how a container is read, with what else is read of its host.
        planned_packages: what an earlier component of this run installs.
        upgrades: packages that this plan upgrades.
        rebuilds: roles of the images that this plan builds again for newer packages.
        has_packages: this run installs what all of them need together.
        keys_at: where keys and certificates of a service are, whose name takes the place of `{}`.
    """

    host: Host
    stack: StackSettings
    address: str
    settings: dict[type[Settings], Settings]
    estate: Estate = field(repr=False)
    groups: frozenset[str] = frozenset()
    inside: Estate | None = field(default=None, repr=False)
    service: str = ""
    port: int = 0
    container: Container | None = None
    reader: Callable[[str], dict[str, Any]] | None = None
    system: System = field(default_factory=System)
    planned_packages: set[str] = field(default_factory=set)
    upgrades: frozenset[str] = frozenset()
    rebuilds: frozenset[str] = frozenset()
    has_packages: bool = False
    keys_at: str = "/etc/datatier/tls/{}"

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.host.name

    def of(self, settings: type[S]) -> S | None:
        """The host's settings of a component, or None outside its group."""
        return cast("S | None", self.settings.get(settings))

    def the(self, settings: type[S]) -> S:
        """The host's settings of a component that it has."""
        return cast(S, self.settings[settings])

    @property
    def plain_name(self) -> str:
        """Its name in the inventory, without pyinfra's word for how it is reached."""
        return self.name.removeprefix("@ssh/")

    @property
    def kind(self) -> str:
        """What containers of one kind have in common: their name but for its number."""
        return self.service.rstrip("-0123456789")

    @property
    def is_loopback(self) -> bool:
        """Whether other hosts cannot reach this one at its address."""
        return ipaddress.ip_address(self.address).is_loopback

    @property
    def place(self) -> Place:
        """Where its services run: who supervises them."""
        if self.container is not None:
            return self.container
        chosen, by_init = self.stack.service_manager, "systemd" if self.system.systemd else "runit"
        if (by_init if chosen == "auto" else chosen) == "runit":
            return RUNIT
        return SYSTEMD if self.stack.confine_services else UNCONFINED

    def components(self) -> Iterator[Component]:
        """The components that this host carries."""
        return (c for c in components() if c.settings in self.settings)

    def listeners(self) -> list[Listener]:
        """The ports that its services want."""
        return [listener for component in self.components() for listener in component.listens(self)]

    def read(self, group: str) -> dict[str, Any]:
        """What the host says about a component; stale parts are read with one command."""
        if self.reader is not None:
            return self.reader(group)
        untouched = next((c.untouched_by for c in components() if c.group == group), ())
        return cast(dict[str, Any], remote.read(self.host, self.batches, group, untouched))

    def batches(self) -> dict[str, dict[str, Probe[Any]]]:
        """The probes of one read, by component."""
        of_components = {component.group: component.probes(self) for component in self.components()}
        of_host = {**leavings.probes(self), "had": retired.probe()}
        if any(component.is_confined for component in self.components()):
            of_host["unable"] = self.place.unable()
        return {**of_components, PACKAGES: packages.probes(self), HOST: of_host}


class Estate:
    """Nodes that make one stack.

    Attributes:
        problems: what is wrong with single keys.
        keeps: secrets were generated that this run has to save, on hosts `kept`.
        whole: every component has settings, so that they can be compared with each other.
        unsettled: nodes where a service of several alike is being restarted, or failed to.
        outside: the host whose containers these nodes are.
    """

    def __init__(self, state: State, store: secrets.Secrets) -> None:
        self.state = state
        self.secrets = store
        self.problems: list[Problem] = []
        self.whole = True
        self.keeps = False
        self.kept: set[Host] = set()
        self.unsettled: set[Node] = set()
        self.nodes: list[Node] = []
        self.outside: Node | None = None

    @classmethod
    def of(cls, state: State) -> Estate:
        """All hosts of the inventory, whether or not this run touches them."""
        everything = cls(state, secrets.of(state.cwd or "."))
        hide.begin()
        everything._ask_for_secrets()
        everything.nodes = [everything._node(host) for host in state.inventory]
        everything.problems += list(_no_groups(state))
        return everything

    def _ask_for_secrets(self) -> None:
        """Before settings are read: they may need them."""
        given = {host.name: host.data.get("secrets_command") for host in self.state.inventory}
        different = {text: name for name, text in given.items() if text}
        for text, name in different.items():
            if len(different) > 1:
                message = "should be the same on all hosts: it runs once, on this machine"
            else:
                message = self.secrets.ask(str(text))
            if message:
                self.problems.append(Problem(name, "secrets_command", message))
        wrong = filter(None, (self.secrets.unreadable, *self.secrets.open_to_all()))
        self.problems += (Problem(str(self.secrets.path), "secrets", each) for each in wrong)

    def _node(self, host: Host) -> Node:
        data = host.data.dict()
        stack, problems = StackSettings.of(host.name, data, {})
        self.problems += problems
        groups = _groups(host)
        address, problem = _address(host, stack) if stack else ("", [])
        whole = bool(address)
        stack = stack or StackSettings()
        self.problems += problem
        mine = [each for each in components() if _is_for(each, groups)]
        carries = not all(each.everywhere for each in mine)
        for component in mine:
            if component.dotenv and host.name.startswith("@local"):
                self.secrets.also(component.dotenv(data))
        settings: dict[type[Settings], Settings] = {}
        for component in mine:
            prefix = component.settings.prefix
            given = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
            defaults = component.defaults(stack, self.secrets, given)
            for kind in (component.settings, *component.further):
                preset = defaults if kind is component.settings else {}
                chosen, problems = kind.of(host.name, data, preset)
                self.problems += problems
                if chosen is None:
                    whole = False
                elif not component.everywhere or getattr(chosen, "enabled", carries):
                    settings[kind] = chosen
        hide.word(host.name, stack.stack_name)
        hide.secret(*hide.secrets_in(settings.values()), *hide.secrets_in(data))
        self.problems += _unknown_groups(host)
        known = [
            *StackSettings.model_fields,
            *(each.key_of(field) for each in keys() for field in each.model_fields),
        ]
        self.problems += unknown_keys(
            host.name,
            {k: v for k, v in data.items() if not k.startswith(_prefixes())},
            known,
        )
        node = Node(host, stack, address, settings, self, groups)
        self.whole = self.whole and whole
        for component in mine:
            if component.contain and whole:
                component.contain(node)
        return node

    def gather_secrets(self) -> None:
        """Generates what is missing now, so that the plan can announce all of it."""
        self.keeps = True
        for node in self.nodes:
            for component in node.components():
                for name in component.secrets(node):
                    self.secrets.get(name)

    def rotates(self) -> dict[str, str]:
        """The secrets that rotate, by the names of their tasks."""
        found = (component.rotates(node) for node in self.nodes for component in node.components())
        return {task: secret for each in found for task, secret in each.items()}

    def offers(self, reach: Reach) -> list[Offer]:
        """What its services offer to an application that reaches them so."""
        found = (component.offers(self, reach) for component in components())
        return [offer for offer in found if offer]

    def having(self, settings: type[S]) -> list[Node]:
        """The hosts that carry a component, in the inventory's order."""
        return [node for node in self.nodes if settings in node.settings]

    def in_group(self, group: str) -> list[Node]:
        """The hosts of an inventory group."""
        return [node for node in self.nodes if group in node.groups]

    @cached_property
    def active(self) -> list[Node]:
        """The hosts that this run is connected to."""
        return [n for n in self.nodes if n.host in self.state.active_hosts and is_wanted(n.host)]

    def require_settled(self, settings: type[Settings], what: str) -> None:
        """Before the service of one host of several alike restarts.

        Raises:
            Unreadable: this run has failed on a host that has it too.
        """
        for node in self.having(settings):
            lost = node.host not in self.state.active_hosts
            if node in self.active and (lost or node in self.unsettled):
                raise remote.Unreadable(
                    f"{what} is not restarted here because of the failure on {node.name}"
                )

    def one_by_one(self, node: Node, settings: type[Settings], what: str, change: Change) -> Change:
        """A restart on one host of several alike: what fails on it is tried on no other.

        Raises:
            Unreadable: (during a run) it has failed on another one.
        """
        if node.host.state.is_executing:
            self.require_settled(settings, what)
            self.unsettled.add(node)

        def settled() -> str:
            self.unsettled.discard(node)
            return ""

        return replace(change, then=settled)

    def node(self, host: Host) -> Node:
        """The node of a host."""
        return next(node for node in self.nodes if node.host is host)


def is_wanted(host: Host) -> bool:
    """Whether this run is to touch the host: it may be limited to others."""
    return bool(host.state.is_host_in_limit(host))


def _groups(host: Host) -> frozenset[str]:
    """The groups that say what a host carries."""
    if DOCKER not in host.groups:
        return frozenset(host.groups)
    return frozenset(component.group for component in components() if component.in_docker)


def _is_for(component: Component, groups: Collection[str]) -> bool:
    if component.everywhere:
        return not component.within or component.within in groups
    return component.group in groups


def _known_groups() -> list[str]:
    return [component.group for component in components()]


def _unknown_groups(host: Host) -> list[Problem]:
    """A misspelt group would deploy nothing, and say nothing."""
    known = _known_groups()
    return [
        Problem(host.name, f"group {group}", f"unknown group ({close[0]}?)")
        for group in host.groups
        if group not in known and (close := get_close_matches(group, known, n=1, cutoff=0.8))
    ]


def _no_groups(state: State) -> Iterator[Problem]:
    """Names of groups whose value is none: pyinfra takes them for empty, or letters for hosts."""
    read = command.part("util")
    for path in map(Path, read.PYTHON_CODES if read else ()):
        # Data of groups has keys of the same names.
        if path.is_file() and path.parent.name != "group_data":
            yield from _no_groups_of(state, path)


def _no_groups_of(state: State, path: Path) -> Iterator[Problem]:
    for statement in ast.parse(path.read_text()).body:
        if not isinstance(statement, ast.Assign):
            continue
        value = statement.value
        first = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else None
        is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
        for target in statement.targets:
            if not isinstance(target, ast.Name) or target.id not in _known_groups():
                continue
            if is_text or target.id not in state.inventory.group_data:
                message = f"should be a list of hosts, such as [{next(_names(state))!r}]"
                yield Problem(path.name, f"group {target.id}", message)


def _names(state: State) -> Iterator[str]:
    yield from (host.name for host in state.inventory if len(host.name) > 1)
    yield "db1"


def _prefixes() -> tuple[str, ...]:
    return tuple(each.prefix for each in keys() if each.prefix)


def _address(host: Host, stack: StackSettings) -> tuple[str, list[Problem]]:
    """The IP address other hosts use; Redis and Sentinel record addresses, not names."""
    if stack.address:
        try:
            address = ipaddress.ip_address(stack.address)
        except ValueError:
            message = f"should be an IP address, not {stack.address!r}"
            return "", [Problem(host.name, "address", message)]
        if address.is_unspecified or address.is_multicast:
            message = f"should be the IP address of one host, not {stack.address!r}"
            return "", [Problem(host.name, "address", message)]
        return str(address), []
    if host.name.startswith("@local") or DOCKER in host.groups:
        return "127.0.0.1", []
    name = host.data.get("ssh_hostname") or host.name.removeprefix("@ssh/")
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0]), []
    except (OSError, UnicodeError):
        message = f"{name!r} does not resolve here: set the IP address that other hosts use"
        return "", [Problem(host.name, "address", message)]


_estates: WeakKeyDictionary[State, Estate] = WeakKeyDictionary()
_refused: WeakKeyDictionary[State, Refusal] = WeakKeyDictionary()
_lock = RLock()


def on(settings: type[Settings]) -> Callable[[Callable[[Node], None]], Callable[[], None]]:
    """Makes a task of a function of a node: it runs on hosts that carry the component.

    The first task of a run validates all settings, reads all hosts and reports every problem.

    Raises:
        Refusal: (by the task) there are problems; nothing has been changed.
    """

    def decorate(function: Callable[[Node], None]) -> Callable[[], None]:
        @wraps(function)
        def task() -> None:
            node = here()
            if settings in node.settings:
                function(node)

        return task

    return decorate


def here(wrong: Callable[[Estate], list[Problem]] | None = None) -> Node:
    """This host, checked like all others before anything is touched.

    Args:
        wrong: what a run is refused for, where that is not what a deployment is.
    """
    state, host = ctx_state.get(), ctx_host.get()
    with _lock:
        # Every host comes here; the first one to do so speaks for all.
        if state in _refused:
            raise _refused[state]
        if state not in _estates:
            _estates[state] = _examined(state, wrong or everything_wrong)
        estate = _estates[state]
        # An operation of all hosts, so that nothing runs on any of them before it.
        if estate.keeps and host not in estate.kept:
            estate.kept.add(host)
            secrets.keep(estate.secrets, estate.active[0].host)
    return estate.node(host)


def _examined(state: State, wrong: Callable[[Estate], list[Problem]]) -> Estate:
    estate = Estate.of(state)
    try:
        _refuse(wrong(estate))
    except Refusal as refusal:
        _refused[state] = refusal
        raise
    for warning in (*estate.secrets.exposures(), *budget.exceeded(estate.active)):
        logger.warning(warning)
    for name in sorted(estate.rotates().values()):
        if estate.secrets.stated(secrets.previous(name)):
            logger.warning(f"{secrets.previous(name)}: is still there; tasks.rotate.finish ends it")
    estate.keeps = estate.keeps and bool(estate.secrets.generated or estate.secrets.renamed)
    return estate


def everything_wrong(estate: Estate, *, ports: bool = True) -> list[Problem]:
    """All problems in one list; what cannot be looked at because of another is left out.

    Args:
        ports: whether others may not have the ports and addresses of ours.
    """
    problems = [*estate.problems, *(_contradictions(estate) if estate.whole else ())]
    unfit = preflight.examine(estate.active)
    if not problems:
        estate.gather_secrets()
        problems += _unprinted(estate)
    if not problems:
        hosts = {problem.host for problem in unfit}
        fit = [node for node in estate.active if node.name not in hosts]
        unfit += _read_everything(fit, ports=ports)
        if not unfit:
            unfit += leavings.examine(estate)
    return [*problems, *unfit]


def _contradictions(estate: Estate) -> list[Problem]:
    problems = [problem for component in components() for problem in component.rules(estate)]
    # A secret of the environment or `.env` has to be what a setting would have to be.
    problems += [
        Problem(node.name, name, message)
        for node in estate.nodes
        for component in node.components()
        for name in component.secrets(node)
        if (message := estate.secrets.wrong(name))
    ]
    first: dict[str, Node] = {}
    for node in estate.nodes:
        if node.inside is not None:
            continue
        other = first.setdefault(node.address, node)
        if other is not node:
            message = f"{node.address} is also that of {other.name}"
            problems.append(Problem(node.name, "address", message))
    for node in estate.nodes:
        problems += preflight.clashes(node.name, node.listeners())
    return problems


def _read_everything(nodes: Sequence[Node], *, ports: bool) -> list[Problem]:
    """The one read of every host, all components together, and what it forbids."""
    jobs = [gevent.spawn(_read, node, ports=ports) for node in nodes]
    gevent.joinall(jobs)
    return [problem for job in jobs for problem in job.get()]


# The key of what could not be read.
UNREAD = "state"


def _read(node: Node, *, ports: bool) -> list[Problem]:
    problems: list[Problem] = []
    try:
        problems += preflight.intruders(node, node.listeners()) if ports else ()
        for component in node.components():
            problems += component.checks(node)
            problems += _taken(node, component)
        problems += [*_unknown_secrets(node), *retired.revived(node)]
        problems += _unable(node)
    except remote.Unreadable as unreadable:
        problems.append(Problem(node.name, UNREAD, str(unreadable)))
    return problems


def _unable(node: Node) -> Iterator[Problem]:
    """A service that systemd could not start would stay down after the next boot."""
    if status := node.read(HOST).get("unable"):
        message = (
            f"systemd cannot take rights from services here (status {status}): set it to False, "
            "or let this container have namespaces (LXC: nesting)"
        )
        yield Problem(node.name, "confine_services", message)


def _taken(node: Node, component: Component) -> Iterator[Problem]:
    """Files of others where ours should be, but for those that the component can adopt."""
    found = node.read(component.group).get("files", {})
    for path in files.strangers(found, node.read(HOST)["pristine"]):
        if not path.startswith(component.adopts):
            message = "is not Datatier's: move it away, or take what it says into the settings"
            yield Problem(node.name, path, message)


def _unknown_secrets(node: Node) -> Iterator[Problem]:
    """Secrets that this run would replace, because it has not the `.env` that the host was given.

    Each client would lose its password; to mean that, one does not leave the file out.
    """
    store, there = node.estate.secrets, dict[str, str]()
    for component in node.components():
        for name, place in component.in_use(node).items():
            there[name] = there.get(name) or place
    # Who has the value of before is no stranger.
    missing = store.generated.keys() & there
    names = sorted(name for name in missing if not store.stated(secrets.previous(name)))
    if not names or node.stack.replace_secrets:
        return
    places = sorted({there[name] for name in names if there[name]})
    values = f" (values: {', '.join(places)} on {node.name})" if places else ""
    message = (
        f"{', '.join(names)}: in use here, but not in {store.path}: "
        f"put the .env of the last deployment there{values}, "
        "or let replace_secrets=true take the passwords from every client"
    )
    yield Problem(node.name, "secrets", message)


def _unprinted(estate: Estate) -> Iterator[Problem]:
    """Where a command has the secrets, none is generated: it would be on this machine only."""
    given = {node.stack.secrets_command for node in estate.nodes} - {""}
    if given and (names := sorted(estate.secrets.generated)):
        message = f"does not print {', '.join(names)}: add them to what it reads"
        yield Problem(estate.nodes[0].name, "secrets_command", message)


def _refuse(problems: Sequence[Problem]) -> None:
    if not problems:
        return
    distinct = sorted(set(problems))
    for problem in distinct:
        logger.error(f"    {shown(str(problem))}")
    count = f"{len(distinct)} problem{'s' if len(distinct) > 1 else ''}"
    raise Refusal(f"{count}; nothing was changed")
