"""Story: settings that Redis takes only at its start, while clients go on writing."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, ResponseError
from redis.retry import Retry

from backup.redis.roles import command
from tasks.redis import acl
from tasks.redis.acl import CATEGORIES, COMMANDS, NEWER
from tasks.redis.rolling import FUNCTIONS
from tasks.redis.values import IMMUTABLE
from tasks.tls import authority
from tests.e2e import applications, proof
from tests.e2e.groups import estates
from tests.e2e.interrupted import Interruptible
from tests.e2e.project import PYINFRA, Project, footprint
from tests.e2e.proof import exposures, processes, said
from tests.e2e.redis_writers import Either, Watch, Writers
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab
from tests.lab.images import Release

PORT, SENTINEL_PORT = 6379, 26379
# Of Redis's file, but no configuration that CONFIG GET knows.
FILE_ONLY = {"loadmodule", "rename-command"}
ROLE = {"replicaof", "slaveof"}

# Without the health table, which waits for what is not well.
TASK = "tasks.redis.deploy"

ESTATES = estates("test_redis_rolling", debian12="debian12", debian13="debian13")

Changes = set[tuple[str, str]]

# One has a generated password. What is in them makes both releases spell rules in their own way.
USERS: dict[str, Any] = {
    "cache": {
        "commands": ["+@all", "-@dangerous", "+info", "+config|get", "-set"],
        "keys": ["cache:*", '%R~x"y\\z*'],
        "channels": ["cache:*"],
    },
    "jobs": {
        "password": 'jobs\' "Secret" 1',
        "commands": ["+@read", "-get", "+ping"],
        "keys": ["*"],
    },
}

LIVE = "Redis: configuration", "Redis: service"


@dataclass
class Estate:
    """Three hosts with a Redis and a Sentinel each, and the choices made so far."""

    hosts: dict[str, Host]
    project: Interruptible
    databases: int = 16
    tls: bool = False
    choices: dict[str, Any] = field(default_factory=lambda: {"redis_users": USERS})

    @property
    def password(self) -> str:
        """The password of Redis and Sentinel."""
        return self.project.secrets["REDIS_PASSWORD"]

    def choose(self, *, restart: bool = True, **choices: Any) -> None:
        """States choices in group_data, and unless told otherwise one that takes a restart."""
        # Neither data nor processor time is changed by it.
        self.databases += restart
        extra = {"databases": self.databases, **choices.pop("redis_extra", {})}
        self.choices.update(choices)
        self.project.settings({**self.choices, "redis_extra": extra})

    def deploy(self, task: str = TASK) -> Changes:
        """What a run changes."""
        return self.project.deploy(task).changed

    def plan(self) -> Changes:
        """What a run would change."""
        return self.project.plan(TASK).planned

    def redis(self, name: str, *words: str) -> str:
        """What the instance on a host answers."""
        host = self.hosts[name]
        return said(proof.redis(host, PORT, *words, password=self.password, tls=self.tls))

    def sentinel(self, name: str, *words: str) -> str:
        """What the Sentinel on a host answers."""
        ask = partial(proof.redis, self.hosts[name], SENTINEL_PORT, "SENTINEL", *words)
        return said(ask(password=self.password, tls=self.tls))

    def client(self, name: str, user: str) -> Client:
        """A connection of a limited user to the instance on a host; it does not come back."""
        given = self.choices["redis_users"][user].get("password")
        return Client(
            host=self.hosts[name].address,
            port=PORT,
            username=user,
            password=given or self.project.secrets[f"REDIS_USER_{user.upper()}_PASSWORD"],
            single_connection_client=True,
            retry=Retry(NoBackoff(), 0),
        )

    def config(self, name: str, key: str) -> str:
        """The value that an instance runs with."""
        return self.redis(name, "CONFIG", "GET", key).splitlines()[1]

    def leader(self, *, down: str = "") -> str:
        """The master that all Sentinels which are up name; it and its replicas say so too."""
        up = [name for name in self.hosts if name != down]
        seen = {self.sentinel(name, "GET-MASTER-ADDR-BY-NAME", "mymaster") for name in up}
        (leader,) = [n for n in up if seen == {f"{self.hosts[n].address}\n{PORT}"}] or [""]
        assert leader, seen
        for name in up:
            role = proof.replication(self.hosts[name], PORT, self.password, tls=self.tls)
            follows = role.get("master_host"), role.get("master_link_status")
            wanted = (None, None) if name == leader else (self.hosts[leader].address, "up")
            assert follows == wanted, (name, role)
        return leader

    def settled(self, *, down: str = "") -> str:
        """The same, as soon as all agree; the Sentinels then see everybody who is up."""

        def check() -> None:
            self.leader(down=down)
            for name in self.hosts:
                if name != down:
                    ask = partial(proof.sentinel_master, self.hosts[name], SENTINEL_PORT)
                    seen = ask(self.password, tls=self.tls)
                    assert seen["flags"] == "master", seen
                    assert down or self._replicas_seen_by(name) == ["slave slave"] * 2

        eventually(check, 60)
        return self.leader(down=down)

    def _replicas_seen_by(self, name: str) -> list[str]:
        """Flags and role; a Sentinel takes an old master for a master until it asks again."""
        words = self.sentinel(name, "REPLICAS", "mymaster").splitlines()
        pairs = list(zip(words[::2], words[1::2], strict=True))
        flags, roles = ([v for k, v in pairs if k == key] for key in ("flags", "role-reported"))
        return [" ".join(each) for each in zip(flags, roles, strict=True)]

    def fail_over(self) -> str:
        """A failover that somebody orders; the new master when all is well again."""
        old = self.settled()
        assert self.sentinel("cache1", "FAILOVER", "mymaster") == "OK"

        def moved() -> None:
            assert self.leader() != old

        eventually(moved, 40)
        return self.settled()

    def writers(self, **options: Any) -> Writers:
        """Clients that know all Sentinels."""
        places = [(h.address, SENTINEL_PORT) for h in self.hosts.values()]
        return Writers(places, self.password, **options)

    def watch(self) -> Watch:
        """Somebody who looks at all instances."""
        places = {name: (host.address, PORT) for name, host in self.hosts.items()}
        return Watch(places, self.password)

    def footprint(self) -> set[str]:
        """Everything on the hosts that a refused run must leave."""
        return footprint(*self.hosts.values())

    def refused(self, *arguments: str) -> str:
        """What a run says that refuses; it changes nothing, dry or real."""
        before = self.footprint()
        dry = self.project.pyinfra("--dry", *arguments, "inventory.py", "deploy.py")
        real = self.project.pyinfra("-y", *arguments, "inventory.py", "deploy.py")
        assert (dry.code, real.code) == (1, 1), real.output
        assert self.footprint() == before
        (reason,) = {
            line for r in (dry, real) for line in r.stderr.splitlines() if "and has to" in line
        }
        return reason


def _rolled(others: Sequence[str], master: str) -> Changes:
    """What a setting changes that takes a restart."""
    return {
        *(("Redis: configuration", name) for name in (*others, master)),
        *(("Redis: replicas", name) for name in others),
        ("Redis: master", master),
    }


def _estate(lab: Lab, project: Interruptible, release: Release) -> Estate:
    with ThreadPoolExecutor() as pool:
        names = [f"cache{number}" for number in (1, 2, 3)]
        hosts = {
            host.name: host for host in pool.map(lambda n: lab.installed_host(n, release), names)
        }
    data = [(name, {**host.ssh_data(), "address": host.address}) for name, host in hosts.items()]
    project.inventory({"redis": data, "sentinel": data})
    estate = Estate(hosts, project)
    project.settings(estate.choices)
    project.deploy()
    return estate


@pytest.fixture(scope="module", params=ESTATES)
def estate(
    request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Estate]:
    """Three hosts of a release, deployed."""
    release: Release = request.param
    made = _estate(lab, Interruptible(tmp_path_factory.mktemp(release)), release)
    yield made
    for host in made.hosts.values():
        host.remove()


def test_a_restart_rolls_and_loses_nothing(estate: Estate) -> None:
    """Replicas first, the old master last and as a replica; every acknowledged write is there."""
    master = estate.settled()
    others = sorted(estate.hosts.keys() - {master})
    estate.choose(redis_maxmemory="300mb")
    live = {("Redis: service", name) for name in estate.hosts}
    planned = estate.project.plan().planned
    with estate.writers() as writers, estate.watch() as watch:
        changed = estate.project.deploy().changed
    assert planned == changed == _rolled(others, master) | live
    print(f"{len(writers.keys)} writes, longest gap {writers.longest_gap:.2f} s")
    assert writers.lost() == []
    assert [sight.role for sight in watch.restarts] == ["slave"] * 3
    names = [sight.name for sight in watch.restarts]
    assert (sorted(names[:2]), names[2]) == (others, master)
    assert watch.alone == []
    assert {estate.config(name, "databases") for name in estate.hosts} == {str(estate.databases)}
    assert {estate.config(name, "maxmemory") for name in estate.hosts} == {str(300 * 1024**2)}
    for host in estate.hosts.values():
        left = exposures(host)
        assert len(left) == 2 and max(left.values()) < 2, left
    new = estate.settled()
    assert new != master
    before = processes(list(estate.hosts.values()))
    assert estate.project.deploy().changed == set()
    assert processes(list(estate.hosts.values())) == before
    assert estate.settled() == new


def test_the_keys_that_take_a_restart_are_those_that_redis_refuses(estate: Estate) -> None:
    """Neither more nor less: asked one by one, of the servers that we install."""
    host, password = estate.hosts["cache2"], estate.password
    script = f"""IFS= read -r REDISCLI_AUTH; export REDISCLI_AUTH
words='{" ".join(IMMUTABLE)}'
{{ redis-cli -p {PORT} CONFIG GET '*' | sed -n 'p;n'; printf '%s\\n' $words; }} | sort -u |
while read -r key; do
  value=$(redis-cli -p {PORT} CONFIG GET "$key" </dev/null | sed -n 2p)
  said=$(redis-cli -p {PORT} CONFIG SET "$key" "$value" </dev/null 2>&1)
  case $said in OK) ;; *) echo "$key $said" ;; esac
done
"""
    answers = host.run(script, stdin=f"{password}\n").stdout.splitlines()
    refused = {line.split()[0]: line for line in answers if line}
    unknown = {key for key, line in refused.items() if "Unknown option" in line}
    known = {key for key in refused if "immutable" in refused[key] or "protected" in refused[key]}
    assert refused.keys() == known | unknown, refused
    assert known - ROLE == IMMUTABLE - unknown
    # What one release does not know the other one does.
    assert unknown - FILE_ONLY <= {
        "aof-rewrite-cpulist",
        "bgsave-cpulist",
        "bio-cpulist",
        "server-cpulist",
        "io-threads-do-reads",
    }


def test_the_commands_of_limited_users_are_those_that_redis_has(estate: Estate) -> None:
    host = estate.hosts["cache2"]
    assert {*estate.redis("cache2", "ACL", "CAT").splitlines()} == CATEGORIES
    ask = f"for each in {' '.join(CATEGORIES)}; do redis-cli -p {PORT} ACL CAT $each; done"
    newer = NEWER if host.release == "debian13" else set()
    assert {*host.run(ask).stdout.split()} == COMMANDS | newer


def test_limited_users_may_do_what_the_settings_say(estate: Estate) -> None:
    """On every instance, and after the restarts of the story before."""
    leader = estate.settled()
    with estate.client(leader, "cache") as cache:
        assert cache.incr("cache:n") >= 1
        for words in ("SET cache:n 1", "GET other", "FLUSHALL", "CONFIG SET save x", "PUBLISH x y"):
            with pytest.raises(NoPermissionError):
                command(cache, *words.split())
    for name in estate.hosts:
        with estate.client(name, "jobs") as jobs:
            assert jobs.strlen("other") == 0
            with pytest.raises(NoPermissionError):
                jobs.get("other")
        files = estate.hosts[name].run(
            "cat /etc/redis/redis-6379.conf /var/lib/redis/6379/redis.conf"
        )
        assert USERS["jobs"]["password"] not in files.stdout
        assert estate.project.secrets["REDIS_USER_CACHE_PASSWORD"] not in files.stdout


# What the users of docs/connecting.md cannot do, at a console or in a script.
_HARM = """
ACL LIST; ACL SETUSER default on nopass; BGREWRITEAOF; BGSAVE; CLIENT KILL TYPE normal
CLIENT PAUSE 1; CLUSTER RESET; CONFIG GET save; CONFIG REWRITE; CONFIG SET save x; DEBUG SLEEP 0
FAILOVER ABORT; FLUSHALL; FLUSHDB; FUNCTION DELETE x; FUNCTION DUMP; FUNCTION FLUSH; FUNCTION KILL
FUNCTION LOAD x; FUNCTION RESTORE x; KEYS *; LATENCY RESET; MEMORY PURGE; MIGRATE h 1 k 0 1
MODULE LIST; MODULE LOAD /x; MONITOR; PSYNC ? -1
PUBLISH __sentinel__:hello x; REPLCONF ACK 1; REPLICAOF NO ONE; RESTORE k 0 x; SAVE
SCRIPT DEBUG SYNC; SCRIPT FLUSH; SCRIPT KILL; SHUTDOWN NOSAVE; SLAVEOF NO ONE
SLOWLOG RESET; SORT k
SWAPDB 0 1; SYNC
"""


# What tells the names of all keys, and what takes that away.
_TELLS = "SCAN 0; RANDOMKEY; CLIENT TRACKING ON BCAST"
_UNTOLD = ("-scan", "-randomkey", "-client|tracking")

_REFUSED = (
    r"[Nn]o permissions|[Cc]ommand (is )?not allowed|ACL failure|can't (run this command|publish)"
)


def test_documented_users_harm_nobody_else(estate: Estate) -> None:
    """At a console, and in a script of those who may run one."""
    host, secret = estate.hosts[estate.settled()], "documented-Password-1"
    users = applications.documented_users()
    assert users.keys() == {"cache", "jobs", "celery", "sidekiq"}
    tells = {"commands": [*users["cache"]["commands"], *_UNTOLD]}
    users["cache-without-names"] = {**users["cache"], **tells}
    admin = Client(host=host.address, port=PORT, password=estate.password)
    for user, given in users.items():
        rules = acl.rules(acl.RedisUser(**given), secret)
        assert command(admin, "ACL", "SETUSER", f"documented-{user}", *rules.split()) == b"OK"
        asked = Client(host=host.address, port=PORT, username=f"documented-{user}", password=secret)
        harm = _commands(_HARM + _TELLS * ("names" in user))
        scripted = [["EVAL", "return redis.call(unpack(ARGV))", "0", *words] for words in harm]
        with asked:
            for words in [*harm, *(scripted if "cache" not in user else ())]:
                with pytest.raises(ResponseError, match=_REFUSED):
                    command(asked, *words)
        command(admin, "ACL", "DELUSER", f"documented-{user}")
    admin.close()


# What these may do of it, and what comes as them.
_OWN = {
    "replica": "PSYNC ? -1; REPLCONF ACK 1",
    "sentinel": "CLIENT KILL TYPE normal; CONFIG REWRITE; SCRIPT KILL; SLAVEOF NO ONE;"
    " PUBLISH __sentinel__:hello x",
    "backup": "CONFIG GET save; PSYNC ? -1; REPLCONF ACK 1; REPLICAOF NO ONE; SYNC",
}


def _commands(text: str) -> list[list[str]]:
    return [words for line in text.replace("\n", ";").split(";") if (words := line.split())]


def test_users_of_our_own_may_do_what_they_need(estate: Estate) -> None:
    """They are who comes, a failover needs nothing else, and the rest is refused."""
    for name in estate.hosts:
        estate.redis(name, "ACL", "LOG", "RESET")
    leader = estate.fail_over()
    eventually(lambda: _comes_as_ours(estate), 20)
    for name in estate.hosts:
        assert "datatier" not in estate.redis(name, "ACL", "LOG")
    for user, allowed in _OWN.items():
        harm = [words for words in _commands(_HARM) if words not in _commands(allowed)]
        secret = estate.project.secrets[f"REDIS_{user.upper()}_PASSWORD"]
        place, name = estate.hosts[leader].address, f"datatier-{user}"
        with Client(host=place, port=PORT, username=name, password=secret) as asked:
            for words in [*harm, ["GET", "x"], ["SET", "x", "y"], ["EVAL", "return 1", "0"]]:
                with pytest.raises(ResponseError, match=_REFUSED):
                    command(asked, *words)


def _comes_as_ours(estate: Estate) -> None:
    leader = estate.leader()
    for name in estate.hosts:
        clients = estate.redis(name, "CLIENT", "LIST").splitlines()
        replicas = [each for each in clients if " flags=S " in each]
        sentinels = [each for each in clients if " name=sentinel-" in each]
        assert (len(replicas), len(sentinels)) == (2 * (name == leader), 6), clients
        assert all(" user=datatier-replica " in each for each in replicas), replicas
        assert all(" user=datatier-sentinel " in each for each in sentinels), sentinels


def _as_before(estate: Estate) -> None:
    """As an estate was before: all comes as `default`, and there is no other user of ours."""
    secret, users = estate.password, [f"datatier-{each}" for each in (*_OWN, "admin")]
    ours = r"^(masteruser |user datatier-)"
    for host in estate.hosts.values():
        file = f"/etc/redis/redis-{PORT}.conf"
        host.run(f"sed -i -E -e '/{ours}/d' -e 's/^masterauth .*/masterauth \"{secret}\"/' {file}")
    for name in estate.hosts:
        estate.sentinel(name, "SET", "mymaster", "auth-user", "", "auth-pass", secret)
        assert estate.redis(name, "CONFIG", "SET", "masteruser", "", "masterauth", secret) == "OK"
    for name in estate.hosts:
        estate.redis(name, "ACL", "DELUSER", *users)
    eventually(estate.settled, 60)


def test_an_estate_of_before_gets_users_of_our_own(estate: Estate) -> None:
    """In one run, in which nothing restarts and no client notices."""
    leader = estate.settled()
    _as_before(estate)
    before = processes(list(estate.hosts.values()))
    # One host alone would come to the others as a user that these do not have.
    other = next(name for name in estate.hosts if name != leader)
    refused = estate.project.pyinfra("-y", "--limit", other, "inventory.py", "deploy.py")
    assert refused.code == 1
    assert "does not know the user datatier-replica: run on all Redis hosts" in refused.output
    planned = estate.project.plan("deploy.py").planned
    assert ("Redis: users", leader) in planned and ("Redis: users", other) not in planned
    with estate.writers() as writers:
        assert estate.project.deploy().changed == planned
    assert writers.lost() == []
    assert {kind for each in writers.writers for kind in each.errors} == set()
    eventually(lambda: _comes_as_ours(estate), 20)
    assert processes(list(estate.hosts.values())) == before
    assert estate.settled() == leader
    assert estate.project.deploy().changed == set()


def test_default_harms_nothing_with_an_applications_rights(estate: Estate) -> None:
    """At a console, in a script, in a transaction, at replicas; clients go on, and a failover."""
    estate.choose(restart=False)
    estate.deploy()
    leader = estate.settled()
    estate.choose(restart=False, redis_default_user="application")
    before, planned = processes(list(estate.hosts.values())), estate.plan()
    assert planned == {(each, name) for each in LIVE for name in estate.hosts}
    with estate.writers() as writers:
        assert estate.deploy() == planned
    assert writers.lost() == []
    assert {kind for each in writers.writers for kind in each.errors} == set()
    assert processes(list(estate.hosts.values())) == before
    harm = [words for words in _commands(_HARM) if words[:2] != ["CLIENT", "LIST"]]
    for name, host in estate.hosts.items():
        with Client(host=host.address, port=PORT, password=estate.password) as asked:
            scripted = [["EVAL", "return redis.call(unpack(ARGV))", "0", *words] for words in harm]
            for words in [*harm, *(scripted if name == leader else ())]:
                with pytest.raises(ResponseError, match=_REFUSED):
                    command(asked, *words)
            for words in harm:
                pipe = asked.pipeline(transaction=True).execute_command(*words)
                with pytest.raises(ResponseError, match=_REFUSED):
                    pipe.execute()
        # Root has its rights.
        assert "appendonly" in host.run(f"redis-cli -p {PORT} CONFIG GET appendonly").stdout
    assert estate.fail_over() != leader
    estate.choose(restart=False, redis_default_user="all")
    assert estate.deploy() == planned
    assert estate.config(leader, "port") == str(PORT)


def _running(estate: Estate) -> dict[str, str]:
    """The processes of all instances and Sentinels."""
    units = f"redis-{PORT} redis-sentinel-{SENTINEL_PORT}"
    ask = f"systemctl show --value -p MainPID {units}"
    return {name: host.run(ask).stdout for name, host in estate.hosts.items()}


def _session(host: Host, port: int, password: str) -> Client:
    """One that does not come back."""
    return Client(
        host=host.address,
        port=port,
        password=password,
        single_connection_client=True,
        retry=Retry(NoBackoff(), 0),
    )


def _lets_in(estate: Estate, password: str) -> set[bool]:
    """What every instance and every Sentinel says to a password."""
    found = set()
    for host in estate.hosts.values():
        for port in (PORT, SENTINEL_PORT):
            client = Client(host=host.address, port=port, password=password)
            try:
                found.add(bool(client.ping()))
            except AuthenticationError:
                found.add(False)
    return found


# What docs/connecting.md says of libraries: who was cut off comes again.
COMES_AGAIN = {"retry": Retry(NoBackoff(), 1), "retry_on_error": [ConnectionError]}


def test_the_password_is_replaced_without_an_error(
    estate: Estate, request: pytest.FixtureRequest
) -> None:
    """Both are valid until the old one leaves `.env`; nothing restarts, and nobody is promoted.

    Those of all other users go with it. On one release both runs are killed after two changes each.
    """
    interrupted = "debian12" in request.node.name
    turn = partial(estate.project.to_its_end, every=2) if interrupted else estate.deploy
    old, secrets = estate.password, (estate.project.directory / ".env").read_text()
    leader, running = estate.settled(), _running(estate)
    late, watching = (_session(estate.hosts[leader], at, old) for at in (PORT, SENTINEL_PORT))
    _turn_the_others(estate.project)
    with estate.writers() as before, late, watching:
        assert watching.ping()
        began = {*turn("tasks.rotate.redis_password")}
        assert estate.deploy("deploy.py") == set()
        assert old != estate.password
        assert _lets_in(estate, old) == _lets_in(estate, estate.password) == {True}
        with estate.writers(**COMES_AGAIN) as after:
            before.__exit__(None, None, None)
            assert (_running(estate), estate.settled()) == (running, leader)
            assert late.ping()
            ended = {*turn("tasks.rotate.finish")}
            assert estate.deploy("deploy.py") == set()
        for session in (late, watching):
            with pytest.raises((ConnectionError, AuthenticationError)):
                session.ping()
    assert (_running(estate), estate.settled()) == (running, leader)
    assert ("Sentinel: service", "cache1") not in began | ended
    assert (before.errors, after.errors) == ([], [])
    assert after.lost() == []
    assert {*before.keys} == {key for key in before.keys if after.master().exists(key)}
    assert (_lets_in(estate, old), _lets_in(estate, estate.password)) == ({False}, {True})
    _is_refused_to(estate, secrets)
    # A failover is one of Sentinels and replicas that know the new one only.
    estate.fail_over()


def _turn_the_others(project: Project) -> None:
    """With hands, as docs/secrets.md has it."""
    lines = []
    for name, value in project.secrets.items():
        if name.startswith("REDIS_") and name != "REDIS_PASSWORD":
            lines.append(f"{name}_PREVIOUS='{value}'")
            value = f"{value[::-1]}1"
        lines.append(f"{name}='{value}'")
    (project.directory / ".env").write_text("\n".join(lines) + "\n")


def _is_refused_to(estate: Estate, secrets: str) -> None:
    """Another clone has the secrets of before."""
    env = estate.project.directory / ".env"
    now, before = env.read_text(), estate.footprint()
    env.write_text(secrets)
    refused = estate.project.pyinfra("-y", "inventory.py", "deploy.py")
    env.write_text(now)
    assert (refused.code, estate.footprint()) == (1, before)
    for name in estate.hosts:
        assert f"{name}: REDIS_PASSWORD: was replaced here" in refused.output


def test_a_master_without_its_files_empties_nobody(estate: Estate) -> None:
    """It is back before Sentinel misses it, and waits until another one leads."""
    old = estate.settled()
    assert estate.redis(old, "SET", "kept", "by the others") == "OK"
    home = f"/var/lib/redis/{PORT}"
    files = f"{home}/append* {home}/dump.rdb"
    estate.hosts[old].run(f"rm -r {files}; systemctl kill -s KILL redis-{PORT}", check=False)

    def replaced() -> None:
        assert estate.leader() != old

    eventually(replaced, 60)
    assert {estate.redis(name, "GET", "kept") for name in estate.hosts} == {"by the others"}
    assert estate.redis(old, "CONFIG", "SET", "appendonly", "no") == "OK"
    table = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert "FAILS  appendonly: changed by hand" in table.stdout
    assert "redis-6379: reload (appendonly: changed by hand)" in estate.project.drift().stdout
    assert estate.deploy() == {("Redis: service", old)}
    assert estate.config(old, "appendonly") == "yes"


INTRUDER = "[/x]\x1b[2J"


def test_who_is_beside_ours_is_told_and_goes(estate: Estate) -> None:
    """Users of both kinds of server, and a second master; what they are called is not obeyed.

    Users of ours that hands have changed are set back.
    """
    name = estate.settled()
    host = estate.hosts[name]
    other = min(estate.hosts.keys() - {name})
    before = {each: sorted(estate.redis(each, "ACL", "USERS").split()) for each in estate.hosts}
    ours = sorted(["cache", "default", "jobs", *acl.OWN])
    assert before == {each: ours for each in estate.hosts}
    assert estate.redis(name, "ACL", "SETUSER", "cache", "+flushall", ">second") == "OK"
    assert estate.redis(other, "ACL", "DELUSER", "jobs") == "1"
    second = Client(host=host.address, port=PORT, username="cache", password="second")
    assert second.ping()
    assert estate.redis(name, "ACL", "SETUSER", INTRUDER, "on", ">known", "~*", "+@all") == "OK"
    assert estate.redis(name, "ACL", "SETUSER", "default", "nopass") == "OK"
    spy = "ACL", "SETUSER", "spy", "on", "nopass", "+@all"
    assert said(proof.redis(host, SENTINEL_PORT, *spy, password=estate.password)) == "OK"
    assert estate.sentinel(name, "MONITOR", "theirs", host.address, "7", "1") == "OK"
    table = estate.project.pyinfra("-y", "inventory.py", "tasks.health.verify")
    assert "asks for no password" in table.stdout
    assert "watches theirs too" in table.stdout
    assert "has no ACL user jobs" in table.stdout
    drift = estate.project.drift()
    assert drift.code == 2
    for what in (
        'user "[/x]\\x1b[2J"',
        'user "spy"',
        'master "theirs"',
        f"redis-{PORT}: reload (ACL user default: changed by hand; "
        "ACL user cache: another password; its connections end)",
        f"redis-{PORT}: reload (ACL user jobs: new)",
    ):
        assert what in drift.stdout, drift.output
    assert 'user "cache"' not in drift.output
    assert "\x1b[2J" not in table.output + drift.output
    prune = "--data", "redis_prune=true", "--data", "sentinel_prune=true"
    assert estate.project.deploy("deploy.py", *prune).changed == {
        ("Redis: service", name),
        ("Redis: service", other),
        ("Redis: prune", name),
        ("Sentinel: prune", name),
    }
    assert "NOAUTH" in proof.redis(host, PORT, "PING").stderr
    assert {each: sorted(estate.redis(each, "ACL", "USERS").split()) for each in before} == before
    with pytest.raises((AuthenticationError, ConnectionError)):
        second.ping()
    with estate.client(name, "cache") as cache, pytest.raises(NoPermissionError):
        cache.flushall()
    assert "theirs" not in estate.sentinel(name, "MASTERS")
    assert estate.project.plan().planned == set()


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_key_that_is_taken_away_is_set_back_at_run_time(estate: Estate) -> None:
    """To what Redis has by itself; no instance restarts. The same for users."""
    default = estate.config("cache1", "client-output-buffer-limit")
    before = processes(list(estate.hosts.values()))
    jobs, cache = (estate.client("cache1", user) for user in ("jobs", "cache"))
    assert jobs.ping() and cache.ping()
    estate.choices["redis_users"] = USERS | {"jobs": USERS["jobs"] | {"password": "another-2"}}
    extra = {"timeout": 300, "client-output-buffer-limit": "replica 512mb 128mb 60"}
    estate.choose(restart=False, redis_extra=extra)
    changes = {(op, name) for op in LIVE for name in estate.hosts}
    assert estate.deploy() == changes
    assert estate.config("cache1", "timeout") == "300"
    assert estate.config("cache1", "client-output-buffer-limit") != default
    assert cache.ping()
    with pytest.raises(ConnectionError):
        jobs.ping()
    jobs = estate.client("cache1", "jobs")
    assert jobs.ping()
    estate.choices["redis_users"] = {"cache": USERS["cache"] | {"keys": ["*"]}}
    estate.choose(restart=False)
    assert estate.plan() == changes
    assert estate.deploy() == changes
    assert estate.config("cache1", "timeout") == "0"
    assert estate.config("cache1", "client-output-buffer-limit") == default
    assert cache.get("other") is None
    with pytest.raises(ConnectionError):
        jobs.ping()
    assert estate.plan() == set()
    assert processes(list(estate.hosts.values())) == before


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_two_failovers_stay(estate: Estate) -> None:
    """One by Sentinel, one by a run that loses nothing; a setting reaches all and moves nobody."""
    estate.fail_over()
    assert estate.plan() == set()
    old = estate.settled()
    with estate.writers() as writers:
        assert estate.deploy("tasks.redis.failover") == {("Redis: failover", old)}
    assert writers.lost() == []
    master = estate.settled()
    assert master != old
    assert estate.plan() == set()
    estate.choose(restart=False, redis_maxmemory="350mb")
    assert estate.deploy() == {(op, name) for op in LIVE for name in estate.hosts}
    assert {estate.config(name, "maxmemory") for name in estate.hosts} == {str(350 * 1024**2)}
    assert estate.settled() == master


DRILL = "tasks.drill.failover"


def test_a_drill_measures_what_a_client_notices(estate: Estate) -> None:
    """Planned, then done: no write is lost, the table has the time, and all is whole at its end."""
    old = estate.settled()
    assert estate.project.plan(DRILL).planned == {("Drill: failover", old)}
    assert estate.leader() == old
    places = [host.address for host in estate.hosts.values()]
    with Either(places, SENTINEL_PORT, estate.password) as clients:
        run = estate.project.deploy(DRILL)
    assert run.changed == {("Drill: failover", old)}
    master = estate.leader()
    assert master != old
    assert clients.lost() == []
    found = re.search(r"time without writes +([0-9.]+) s", run.stderr)
    assert found, run.output
    # What four others notice, that ask Sentinels in the same way, until the first of them goes on.
    stall = max(after - before for before, after in pairwise(sorted(clients.moments)))
    assert abs(float(found[1]) - stall) < 0.5, (found[1], stall)
    lost = re.search(r"acknowledged writes lost +0 of ([0-9]+)", run.stderr)
    assert lost and int(lost[1]) > 50, run.stderr
    assert re.search(rf"master now +{estate.hosts[master].address}:{PORT}\b", run.stderr)
    assert estate.redis(master, "--scan", "--pattern", "datatier:*") == ""
    assert estate.plan() == set()


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_drill_is_refused_where_it_would_be_an_outage(estate: Estate) -> None:
    master = estate.settled()
    replica, other = [name for name in estate.hosts if name != master]
    service, watcher = f"redis-{PORT}", f"redis-sentinel-{SENTINEL_PORT}"
    for names, unit, why in (
        ([replica], service, "does not follow the master"),
        ([replica, other], service, "no replica is online: bring one up first"),
        ([replica, other], watcher, "bring the Sentinels up first"),
    ):
        for name in names:
            estate.hosts[name].run(f"systemctl stop {unit}")
        try:
            eventually(partial(_refused, estate, why), 30)
        finally:
            for name in names:
                estate.hosts[name].run(f"systemctl start {unit}")
        assert estate.settled() == master


def _refused(estate: Estate, why: str) -> None:
    run = estate.project.pyinfra("--dry", "inventory.py", DRILL)
    assert run.code == 1, run.output
    check_lines(run, [(why, "nothing was changed")])


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_master_that_is_down_gets_its_settings_when_it_is_back(estate: Estate) -> None:
    """The others take both kinds of settings; the run after it is back changes what is missing."""
    old = estate.settled()
    estate.hosts[old].pause()
    try:
        master = _replaced(estate, old)
        (other,) = estate.hosts.keys() - {old, master}
        estate.choose(redis_maxmemory="400mb")
        with estate.writers() as writers:
            run = estate.project.pyinfra("-y", "--json", "inventory.py", TASK)
        live = {("Redis: service", name) for name in (other, master)}
        assert (run.code, run.changed) == (1, _rolled([other], master) | live), run.output
        assert writers.lost() == []
        assert estate.settled(down=old) == other
    finally:
        estate.hosts[old].unpause()
    estate.settled()
    missing = {("Redis: configuration", old), ("Redis: service", old), ("Redis: replicas", old)}
    assert estate.plan() == missing
    assert estate.deploy() == missing
    assert estate.settled() == other
    assert estate.config(old, "maxmemory") == str(400 * 1024**2)
    assert estate.plan() == set()


def _replaced(estate: Estate, old: str) -> str:
    def promoted() -> None:
        assert estate.leader(down=old) != old

    eventually(promoted, 60)
    return estate.settled(down=old)


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_replica_that_is_cut_off_stops_the_roll(estate: Estate) -> None:
    """It has its settings; the master stays, since Sentinel might promote what is behind."""
    master = estate.settled()
    first, second = sorted(estate.hosts.keys() - {master})
    estate.choose(redis_maxmemory="500mb")
    with _cut_off(estate, first, master), estate.writers() as writers:
        run = estate.project.pyinfra("-y", "inventory.py", TASK)
        assert run.code == 1
        assert "redis-6379 has restarted, but does not follow its master" in run.stderr
        assert f"Redis is not restarted here because of the failure on {first}" in run.stderr
        assert {estate.config(name, "maxmemory") for name in estate.hosts} == {str(500 * 1024**2)}
        assert estate.config(master, "databases") != str(estate.databases)
        run = estate.project.pyinfra("-y", "inventory.py", TASK)
        assert run.code == 1
        assert f"{estate.hosts[first].address}:6379 is behind or cut off" in run.stderr
        assert estate.config(second, "databases") == str(estate.databases)
        assert estate.config(master, "databases") != str(estate.databases)
    assert writers.lost() == []
    assert estate.settled() == master
    assert estate.deploy() == {("Redis: master", master)}
    assert estate.settled() != master


@contextmanager
def _cut_off(estate: Estate, name: str, master: str) -> Iterator[None]:
    """One replica cannot copy from the master; the Sentinels reach both."""
    rule = f"to {estate.hosts[master].address} ipproto 6 dport {PORT} blackhole"
    estate.hosts[name].run(f"ip rule add {rule}")
    estate.redis(master, "CLIENT", "KILL", "TYPE", "replica")
    try:
        yield
    finally:
        estate.hosts[name].run(f"ip rule del {rule}")


# It takes longer to say what a Sentinel has answered than anybody waits for.
LATE = """#!/bin/sh
words=$(cat)
said=$(printf '%s\\n' "$words" | /usr/bin/redis-cli "$@")
case $words in 'SENTINEL FAILOVER '*) sleep 5 ;; esac
printf '%s\\n' "$said"
"""


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_sentinel_whose_answer_is_late_loses_nothing(estate: Estate) -> None:
    """It promotes another one all the same, so the clients of the old master go on waiting."""
    master = estate.settled()
    host = estate.hosts[master]
    host.run("mkdir -p /root/late; cat >/root/late/redis-cli; chmod 755 /root/late/*", stdin=LATE)
    sentinels = " ".join(f"{each.address}:{SENTINEL_PORT}" for each in estate.hosts.values())
    act = (
        f"hand_over {host.address} {PORT} redis-6379 mymaster {sentinels}\nfollow {PORT} redis-6379"
    )
    with estate.writers() as writers:
        script = _shell(estate, act).replace("/usr/bin/redis-cli", "/root/late/redis-cli")
        done = host.run("exec sh -eu -s", stdin=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert writers.lost() == []
    assert estate.settled() != master


def _shell(estate: Estate, act: str) -> str:
    secrets = estate.project.secrets
    known = (f"{name}='{secrets[name]}'" for name in ("REDIS_PASSWORD", "REDIS_ADMIN_PASSWORD"))
    return "\n".join([*known, FUNCTIONS, act, ""])


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_a_replica_whose_copy_fails_over_and_over_ends_the_wait(estate: Estate) -> None:
    """A copy may take long, but not for ever: the host is locked meanwhile."""
    master = estate.settled()
    name = sorted(estate.hosts.keys() - {master})[0]
    script = _shell(estate, f"follow {PORT} redis-6379")
    with _drowned(estate, master):
        estate.hosts[name].run("systemctl restart redis-6379")
        done = estate.hosts[name].run("exec sh -eu -s", stdin=script, check=False, timeout=240)
        copies = _copies(estate, master)
    assert done.returncode == 1
    assert "redis-6379 has restarted, but does not follow its master" in done.stderr
    assert copies > 5
    assert estate.settled() == master
    assert estate.hosts[name].run("exec sh -eu -s", stdin=script).stderr == ""


def _copies(estate: Estate, master: str) -> int:
    (line,) = re.findall(r"sync_full:(\d+)", estate.redis(master, "INFO", "stats"))
    return int(line)


@contextmanager
def _drowned(estate: Estate, master: str) -> Iterator[None]:
    """Copies take seconds, and replicas may not be that far behind."""
    estate.redis(master, "CONFIG", "RESETSTAT")
    values = {
        "client-output-buffer-limit": "replica 16384 16384 1",
        "repl-backlog-size": "16384",
        "repl-diskless-sync-delay": "0",
        "rdb-key-save-delay": "20000",
    }
    before = {key: estate.config(master, key) for key in values}
    value = "$(head -c 9999 /dev/zero | tr '\\0' x)"
    words = f"value={value}; while [ -e /run/noise ]; do echo SET noise $value; sleep 0.01; done"
    noise = f"({words}) | redis-cli"
    estate.redis(master, *("EVAL", "for i = 1, 200 do redis.call('SET', 'k' .. i, i) end", "0"))
    for key, value in values.items():
        estate.redis(master, "CONFIG", "SET", key, value)
    estate.hosts[master].run(f"touch /run/noise; ({noise}) >/dev/null 2>&1 </dev/null &")
    try:
        yield
    finally:
        estate.hosts[master].run("rm /run/noise")
        for key, value in before.items():
            estate.redis(master, "CONFIG", "SET", key, value)


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
def test_nothing_begins_where_nobody_could_replace_the_master(estate: Estate) -> None:
    """No replica, or no quorum: refused before anything is touched, in one line."""
    master = estate.settled()
    others = sorted(estate.hosts.keys() - {master})
    estate.choose()
    begins = (
        f"{master}: redis-6379 is the master and has to restart, but no instance can replace it: "
    )
    for name in others:
        estate.hosts[name].run("systemctl stop redis-sentinel-26379")
    eventually(lambda: _has_no_quorum(estate, master), 30)
    reason = estate.refused()
    assert begins + "NOQUORUM 1 usable Sentinels" in reason
    assert "bring the Sentinels up first; nothing was changed" in reason
    estate.deploy("tasks.sentinel.activate")
    estate.settled()
    for name in others:
        estate.hosts[name].run("systemctl stop redis-6379")
    assert begins + "no replica is online: bring one up first" in estate.refused("--limit", master)
    wanted = {("Redis: service", name) for name in others} | {("Redis: master", master)}
    wanted |= {("Redis: configuration", name) for name in estate.hosts}
    assert estate.plan() == wanted
    assert estate.deploy() == wanted
    assert estate.settled() != master


def _has_no_quorum(estate: Estate, name: str) -> None:
    host = estate.hosts[name]
    words = "SENTINEL", "CKQUORUM", "mymaster"
    asked = proof.redis(host, SENTINEL_PORT, *words, password=estate.password)
    assert "NOQUORUM" in asked.stderr, asked


@pytest.mark.parametrize("estate", ESTATES[:1], indirect=True)
@pytest.mark.parametrize("victims", ["the controller and its script", "all of it"])
def test_a_run_that_is_killed_while_it_hands_over_is_finished_by_the_next(
    estate: Estate, victims: str
) -> None:
    """Clients go on, and unless all of it dies they lose nothing."""
    master = estate.settled()
    estate.choose()
    with estate.writers() as writers:
        run = subprocess.Popen(
            [PYINFRA, "-y", "inventory.py", TASK],
            cwd=estate.project.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: _is_failing_over(estate), 180)
        run.kill()
        # A bracket, so that it does not find itself. What exchanges the two is its child.
        which = "" if victims == "all of it" else "-o"
        estate.hosts[master].run(f"pkill -9 {which} -f 'hand[_]over'")
        run.wait(60)
        count = len(writers.keys)
        eventually(lambda: _went_on(writers, count), 40)
        assert estate.settled() != master
    print(f"longest gap {writers.longest_gap:.2f} s, {len(writers.lost())} lost")
    assert writers.lost() == [] or victims == "all of it"
    estate.deploy()
    assert estate.settled() != master
    assert {estate.config(name, "databases") for name in estate.hosts} == {str(estate.databases)}
    assert estate.plan() == set()


def _is_failing_over(estate: Estate) -> None:
    """One Sentinel is about to promote a replica; the script waits for it."""
    flags = [
        proof.sentinel_master(host, SENTINEL_PORT, estate.password)["flags"]
        for host in estate.hosts.values()
    ]
    assert any("failover_in_progress" in each for each in flags)


def _went_on(writers: Writers, count: int) -> None:
    assert len(writers.keys) > count + 1000


AUTHORITY = "an-Authority-of-the-stories-1"


def _both_ways(estate: Estate, directory: Path) -> Either:
    """Clients that find the master in clear or by TLS."""
    trusted = directory / "ca.pem"
    trusted.write_text(authority.of(AUTHORITY).text)
    addresses = [host.address for host in estate.hosts.values()]
    return Either(addresses, SENTINEL_PORT, estate.password, trusted)


def _speak(estate: Estate, *, tls: bool) -> None:
    """All speak one way and refuse the other, which the servers say and strangers see."""
    estate.tls = tls
    estate.settled()
    places = [(host, port) for host in estate.hosts.values() for port in (PORT, SENTINEL_PORT)]
    for host, port in places:
        ask = partial(proof.redis, host, port, "PING", password=estate.password)
        other = ask(address=host.address, tls=not tls)
        assert "PONG" not in other.stdout + other.stderr
        shown = f"openssl s_client -connect {host.address}:{port} -verify_ip {host.address}"
        shown += " -CAfile /etc/datatier/tls/ca.pem -brief </dev/null"
        if tls:
            assert "Verification: OK" in host.run(f"{shown} 2>&1").stdout
            assert ask(address=host.address, tls=True).stdout == "PONG\n"
    wanted = {"port": "0", "tls-port": str(PORT), "tls-replication": "yes"}
    if not tls:
        wanted = {"port": str(PORT), "tls-port": "0", "tls-replication": "no"}
    for name in estate.hosts:
        assert {key: estate.config(name, key) for key in wanted} == wanted


def test_an_estate_goes_over_to_tls_and_back(
    estate: Estate, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Under load: no error, no lost write, no restart, no other master.

    On one release the way there is interrupted after each change, on the other the way back.
    """
    with (estate.project.directory / ".env").open("a") as env:
        env.write(f"TLS_CA_SECRET={AUTHORITY}\n")
    estate.choose(restart=False)
    estate.project.deploy()
    master = estate.settled()
    started = {name: estate.redis(name, "INFO", "server") for name in estate.hosts}
    is_interrupted = "debian12" in request.node.name
    for tls in (True, False):
        estate.choose(restart=False, tls_enabled=tls)
        said_before = estate.project.plan()
        assert f"new connections of clients {'have to' if tls else 'must not'} use TLS" in (
            said_before.output
        )
        with _both_ways(estate, tmp_path) as writers:
            if is_interrupted == tls:
                # A change that others make at the same time as the last one is not noted.
                assert {*estate.project.to_its_end()} <= said_before.planned
            else:
                assert estate.project.deploy().changed == said_before.planned
        _speak(estate, tls=tls)
        print(f"{len(writers.keys)} writes, {Counter(writers.ways_taken)}")
        assert writers.errors == {} and writers.lost() == []
        assert {*writers.ways_taken} == {False, True}
        assert estate.settled() == master
        if is_interrupted != tls:
            assert estate.project.deploy().changed == set()
    runs = {name: estate.redis(name, "INFO", "server") for name in estate.hosts}
    assert [_run_id(text) for text in runs.values()] == [_run_id(t) for t in started.values()]


def _run_id(info: str) -> str:
    (found,) = re.findall("run_id:([0-9a-f]+)", info)
    return str(found)
