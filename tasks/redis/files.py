"""The files of the instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tasks.core import files, packages
from tasks.core.change import Change, Trial
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File, render
from tasks.core.scripts import quoted, shell
from tasks.redis import tls
from tasks.redis.acl import REPLICA
from tasks.redis.console import IS_REDIS, LINK
from tasks.redis.kernel import KERNEL_FILES
from tasks.redis.leader import current_master
from tasks.redis.sentinels import endpoints, master_name
from tasks.redis.service import BEFORE_START, KEEP_ROLE, services_of, trial
from tasks.redis.settings import RedisSettings, addresses, own_password
from tasks.redis.topology import Address
from tasks.redis.values import SECRET_LINES, configuration, configuration_path, name_of


def missing_configuration(node: Node) -> Change | None:
    found = node.read("redis")["files"]
    seeds = seed_files(node, None)
    if any(found[entry.path].kind == "absent" for entry in seeds):
        leader = current_master(node.estate)
        seeds = [*seed_files(node, leader), *_due_beginnings(node, leader)]
    change = kept(files.compare([*files_of(node), *seeds], found))
    if change and not has_login(node):
        change = known_first(change, node.estate, own_password(node, REPLICA), REPLICA)
    return change and change.after(trials(node))


def has_login(node: Node) -> bool:
    """Whether instances here come to their master as our user already, or never ran."""
    found, line = node.read("redis")["files"], f"\nmasteruser {REPLICA}\n".encode()
    there = (found[configuration_path(node, port)] for port in node.the(RedisSettings).ports)
    return all(line in file.content for file in there if file.content)


def known_first(change: Change, everything: Estate, secret: str, user: str) -> Change:
    """The change, which does not begin unless all instances that answer let a user in."""
    places = quoted(user, *map(str, addresses(everything)))
    script = f"{LINK}{shell('login', 'redis')}require_login {places}\n{change.script}"
    told = {"LOGIN_PASSWORD": secret, **tls.variables(everything.having(RedisSettings)[0])}
    return replace(change, script=script, variables={**change.variables, **told})


def trials(node: Node) -> Iterator[Trial]:
    """Of running instances whose settings are to change."""
    said = node.read("redis")
    for port in node.the(RedisSettings).ports:
        path, text = configuration_path(node, port), configuration(node, port)
        running = said["services"][name_of(node, port)].running
        if running and not files.are_written({path: text}, said["files"]):
            yield trial(text, path)


def configuration_file(node: Node, port: int) -> File:
    """What an instance reads at its start and never writes."""
    path, content = configuration_path(node, port), configuration(node, port)
    return File(path, content, mode="640", group="redis", secret=SECRET_LINES)


# Debian gives it to redis, who could put links in the way of what root writes and reads there.
DIRECTORY = Directory("/etc/redis", mode="2750", group="redis")


# Links of the time before.
_KEEP_DIRECTORY = f"""{packages.keep_directory(DIRECTORY)}
find {DIRECTORY.path} -maxdepth 1 -type l -user redis -delete
"""


def kept(change: Change | None) -> Change | None:
    """A change of files, after which their directory stays root's."""
    return change and replace(change, script=change.script + _KEEP_DIRECTORY)


def client() -> File:
    """Lets root talk to its local instances as the documentation shows, without a password."""
    text = render("redis/redis-cli.j2", is_redis=IS_REDIS, link=LINK)
    return File("/usr/local/bin/redis-cli", text, mode="755")


def before_start() -> File:
    """What runs before every start of an instance: it never begins empty beside data."""
    shells = {"is_redis": IS_REDIS, "link": LINK}
    text = render("redis/redis-before-start.j2", keep_role=KEEP_ROLE, **shells)
    return File(BEFORE_START, text, mode="755")


def _peers(node: Node) -> File:
    """Whom an instance asks that starts without data."""
    text = render(
        "redis/redis-estate.conf.j2",
        instances=quoted(" ".join(map(str, addresses(node.estate)))),
        sentinels=quoted(" ".join(map(str, endpoints(node.estate)))),
        master_name=quoted(master_name(node.estate)),
    )
    return File("/etc/redis/redis-estate.conf", text, mode="640", group="redis")


def files_of(node: Node) -> list[Entry]:
    ports = node.the(RedisSettings).ports
    return [
        DIRECTORY,
        *(
            Directory(f"/var/lib/redis/{port}", mode="750", user="redis", group="redis")
            for port in ports
        ),
        *(configuration_file(node, port) for port in ports),
        *(KERNEL_FILES if node.place.is_init else ()),
        client(),
        before_start(),
        _peers(node),
        *(entry for service in services_of(node) for entry in node.place.files(service)),
    ]


def seed_files(node: Node, leader: Address | None) -> list[File]:
    """The file that Redis rewrites: it holds the role, which is Sentinel's to change."""
    return [
        _seed(f"/var/lib/redis/{port}/redis.conf", _role(leader, Address(node.address, port)))
        for port in node.the(RedisSettings).ports
    ]


def _seed(path: str, content: str) -> File:
    return File(path, content, mode="640", user="redis", group="redis", seed=True)


def beginnings(node: Node) -> list[File]:
    """Tell masters that never ran from those whose data were lost: see redis-before-start."""
    ports = node.the(RedisSettings).ports
    return [_seed(f"/var/lib/redis/{port}/begins", "1\n") for port in ports]


def _due_beginnings(node: Node, leader: Address) -> Iterator[File]:
    said = node.read("redis")
    for port, state, beginning in zip(
        node.the(RedisSettings).ports, seed_files(node, None), beginnings(node), strict=True
    ):
        is_new = said["files"][state.path].kind == "absent"
        never_ran = said["services"][f"redis-{port}"].restart == "none"
        if is_new and never_ran and leader == Address(node.address, port):
            yield beginning


def _role(leader: Address | None, me: Address) -> str:
    return f"replicaof {leader.ip} {leader.port}\n" if leader and leader != me else ""


KEEP_PASSWORD = shell("keep-password", "redis")
