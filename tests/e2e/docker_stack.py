"""The stack as containers on one host, asked by its clients and its engine, not by our code."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import standin
from tests.e2e.project import Data, Project
from tests.e2e.proof import NEWEST, Done, said
from tests.e2e.wait import eventually
from tests.lab import Host

HOME = "/opt/psscript"
STACK = "psscript"
REDIS = ("redis-master", "redis-replica-1", "redis-replica-2")
SENTINELS = tuple(f"redis-sentinel-{number}" for number in (1, 2, 3))
APPS = {"frontend": 3000, "backend": 4000, "ai-service": 8000}
SERVICES = ("postgres", "pgbouncer", *REDIS, *SENTINELS, "backup-service", *APPS)
PORTS = (5432, 6432, 6379, 6380, 6381, 26379, 26380, 26381)

_WELL = ("running", "healthy")
_LABEL = "com.docker.compose"
_HEALTH = {"frontend": "http:/", "backend": "http:/health", "ai-service": "tcp"}


def apps(image: str = standin.IMAGE) -> list[Data]:
    """The setting `apps`: three applications of that image."""
    return [
        {
            "name": name,
            "port": port,
            "health": _HEALTH[name],
            "image": image,
            "env": {"PORT": str(port)},
        }
        for name, port in APPS.items()
    ]


@dataclass(frozen=True)
class Container:
    """A container as the engine has it."""

    id: str
    image: str
    started: str
    status: str
    health: str
    address: str
    pid: int
    restarts: int


Containers = Mapping[str, Container]
# A service, a port, and the words of a command.
Question = tuple[str, int, str]


def describe(project: Project, host: Host, user: str = "root", **data: Any) -> None:
    """Writes the inventory: this host alone, in group docker."""
    one: Data = {**host.ssh_data(user), "address": host.address, **data}
    project.inventory({"docker": [(host.name, one)]})


def inspect(host: Host, kind: str, names: str) -> list[dict[str, Any]]:
    """What `docker inspect` says of all that a shell expression names."""
    script = f'names=$({names}); [ -z "$names" ] || docker {kind} inspect $names'
    found: list[dict[str, Any]] = json.loads(host.run(script).stdout or "[]")
    return found


def containers(host: Host) -> dict[str, Container]:
    """Every container of the project by its service; those of a scaled one as `redis-replica/2`."""
    found = {}
    for one in inspect(host, "container", f"docker ps -aq --filter label={_LABEL}.project={STACK}"):
        labels = one["Config"]["Labels"]
        number = int(labels[f"{_LABEL}.container-number"])
        service = labels[f"{_LABEL}.service"]
        found[f"{service}/{number}" if service == "redis-replica" else service] = _container(one)
    return found


def _container(one: Mapping[str, Any]) -> Container:
    state = one["State"]
    networks = one["NetworkSettings"]["Networks"].values()
    return Container(
        one["Id"],
        one["Image"],
        state["StartedAt"],
        state["Status"],
        state.get("Health", {}).get("Status", ""),
        next((network["IPAddress"] for network in networks), ""),
        state["Pid"],
        one["RestartCount"],
    )


# What a run could leave behind: files, and everything that an engine keeps. PostgreSQL archives
# whenever it likes.
_FOOTPRINT = f"""
find {HOME} /var/lib/datatier -path {HOME}/backups/pgbackrest/archive -prune -o \\
  -printf '%y %m %u:%g %p\\n' 2>/dev/null
find {HOME} /var/lib/datatier -path {HOME}/backups -prune -o -type f -exec sha256sum \\
  {{}} + 2>/dev/null
docker ps -a --no-trunc --format '{{{{.ID}}}} {{{{.Names}}}} {{{{.Image}}}}'
docker ps -q --no-trunc | xargs -r docker inspect -f '{{{{.Name}}}} {{{{.State.StartedAt}}}}'
docker images -aq --no-trunc
docker network ls --no-trunc --format '{{{{.ID}}}} {{{{.Name}}}}'
docker volume ls -q || :
"""


def footprint(host: Host) -> set[str]:
    """Everything of a host with an engine that a run which refuses must leave as it was."""
    return set(host.run(_FOOTPRINT).stdout.splitlines())


# Until there is a file, for Bash: to start `sleep` ten times a second, for several clients, takes a
# fifth of a processor. Nothing ever comes out of the pipe.
_WAITS = "exec 3<> <(:); while [ ! -e {until} ]; do {does}; read -t 0.1 -u 3; done"
# A shell that starts two clients for each key takes half a processor.
_WRITER = r"""
import sys, threading, time
from redis import Redis, RedisError
options = {"password": sys.stdin.readline().rstrip("\n"), "socket_timeout": 1}
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
sentinel, clients, number, written = Redis("redis-sentinel-3", 26379, **options), {}, 0, 0
while not (ended.is_set() and written > 200):
    time.sleep(0.025)
    number += 1
    try:
        leader = sentinel.sentinel_get_master_addr_by_name("mymaster")
        client = clients.setdefault(leader, Redis(*leader, **options))
        client.set(f"write:{number}", number)
    except RedisError:
        continue
    written += 1
    print(number, time.time())
"""
# Questions of one line each: service, port and words. A line of its own ends an answer.
_ASK = r"""
while read -r service port words; do
  timeout 5 /usr/bin/redis-cli -e -h "$service" -p "$port" $words </dev/null || exit
  echo ----
done
"""


@dataclass(frozen=True)
class DockerStack:
    """The project on a host, with its passwords."""

    host: Host
    secrets: Mapping[str, str] = field(repr=False)

    @property
    def role_password(self) -> str:
        """The password of the application's role."""
        return self.secrets["POSTGRES_ROLE_PSSCRIPT_PASSWORD"]

    @property
    def redis_password(self) -> str:
        """The password of Redis and Sentinel."""
        return self.secrets["REDIS_PASSWORD"]

    def compose(self, words: str, *, timeout: float = 300) -> Done:
        """docker-compose in the project directory; it must succeed."""
        command = f"cd {HOME} && timeout -k 10 {timeout:.0f} docker-compose {words}"
        return self.host.run(command, timeout=timeout + 15)

    def client(
        self, service: str, variable: str, secret: str, command: str, stdin: str = ""
    ) -> Done:
        """A client in a service's container, which gets a password in a variable."""
        script = f"{NEWEST}IFS= read -r {variable}; export {variable}; exec {command}"
        inside = f"timeout 15 docker exec -i {STACK}_{service} sh -c {shlex.quote(script)}"
        return self.host.run(inside, stdin=f"{secret}\n{stdin}", check=False)

    def sql(self, statement: str) -> str:
        """What the application's role is answered, through the pooler."""
        client = f'psql -XAtqw -h pgbouncer -p 6432 -U {STACK} -d {STACK} -c "$(cat)"'
        return said(self.client("postgres", "PGPASSWORD", self.role_password, client, statement))

    def works(self, until: str, asks: str) -> Done:
        """A client of the pooler that asks ten times a second until the host has this file."""
        client = f"psql -XAtqw -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 6432 -U {STACK} -d {STACK}"
        inside = f"{NEWEST}IFS= read -r PGPASSWORD; export PGPASSWORD; exec {client}"
        loop = "cat; " + _WAITS.format(until=until, does=f"echo '{asks}'")
        names = f"docker ps -q --filter label={_LABEL}.service=pgbouncer"
        asked = f"bash -c {shlex.quote(loop)}"
        command = f"{asked} | docker exec -i $({names}) sh -c {shlex.quote(inside)}"
        return self.host.run(command, stdin=f"{self.role_password}\n", check=False, timeout=600)

    def writes(self, until: str) -> list[tuple[int, float]]:
        """A client of whoever leads, by a Sentinel's word: what it was told is written, and when.

        It writes a new key forty times a second until the host has this file, and it 200 keys:
        what goes on meanwhile may be quick.
        """
        waits = "cat; " + _WAITS.format(until=until, does=":")
        names = f"docker ps -q --filter label={_LABEL}.service=backup-service"
        given = f"bash -c {shlex.quote(waits)}"
        command = f"{given} | docker exec -i $({names}) python3 -uc {shlex.quote(_WRITER)}"
        done = self.host.run(command, stdin=f"{self.redis_password}\n", timeout=600)
        words = [line.split() for line in done.stdout.splitlines()]
        return [(int(number), float(moment)) for number, moment in words]

    def pooler(self, statement: str) -> list[list[str]]:
        """What PgBouncer's own console answers the superuser, in rows."""
        client = 'psql -XAtqw -h pgbouncer -p 6432 -U postgres -d pgbouncer -c "$(cat)"'
        secret = self.secrets["POSTGRES_PASSWORD"]
        answer = said(self.client("postgres", "PGPASSWORD", secret, client, statement))
        return [line.split("|") for line in answer.splitlines()]

    def redis(self, service: str, *words: str, port: int = 6379) -> str:
        """What an instance or a Sentinel answers somebody with the password."""
        client = f"/usr/bin/redis-cli -e -p {port} {shlex.join(words)}"
        return said(self.client(service, "REDISCLI_AUTH", self.redis_password, client))

    def asked(self, services: Iterable[str], *words: str, port: int = 6379) -> dict[str, str]:
        """What each of them answers a client in the network."""
        names = list(services)
        told = self.told([(name, port, " ".join(words)) for name in names])
        return dict(zip(names, told, strict=True))

    def told(self, questions: Sequence[Question]) -> list[str]:
        """The answers to questions of a client in the network; one `docker exec` is enough."""
        stdin = "".join(f"{service} {port} {words}\n" for service, port, words in questions)
        client = f"sh -c {shlex.quote(_ASK)}"
        done = self.client("backup-service", "REDISCLI_AUTH", self.redis_password, client, stdin)
        assert done.returncode == 0, done.stderr.strip() or done.stdout.strip()
        answers = done.stdout.removesuffix("----\n").split("----\n")
        assert len(answers) == len(questions), answers
        return [each.strip() for each in answers]

    def replication(self, service: str) -> dict[str, str]:
        """INFO replication of an instance."""
        return _pairs(self.redis(service, "INFO", "replication"))

    def sentinel(self, service: str, what: str = "MASTER") -> list[dict[str, str]]:
        """What a Sentinel knows: of its MASTER, or of its REPLICAS, one after the other."""
        return _pieces(self.redis(service, "SENTINEL", what, "mymaster", port=26379))

    @property
    def master(self) -> str:
        """The service that is master, by what all instances that run say themselves."""
        running = _running(containers(self.host))
        return _master(running, [*self.asked(running, "INFO", "replication").values()])

    def write(self, word: str) -> None:
        """Writes a row and a key that must still be there whatever happens next."""
        self.sql("CREATE TABLE IF NOT EXISTS kept (word text)")
        self.sql(f"DELETE FROM kept; INSERT INTO kept VALUES ('{word}')")
        self.redis(self.master, "SET", "kept", word)
        eventually(lambda: self.check_data(word), 5)

    def check_data(self, word: str) -> None:
        """Asserts that the pooler gives the row, and every instance the key."""
        assert self.sql("SELECT word FROM kept") == word
        assert self.asked(REDIS, "GET", "kept") == dict.fromkeys(REDIS, word)

    def check_quorum(self, replicas: int = 2) -> None:
        """Asserts that every Sentinel sees the master, its replicas and the other Sentinels."""
        now = containers(self.host)
        running = _running(now)
        _check_quorum(now, running, self.told(_questions(running)), replicas)

    def check_well(self) -> None:
        """Asserts that every container is healthy, and that applications answer."""
        _check_healthy(containers(self.host))
        self.check_apps()

    def check_apps(self) -> None:
        """Asserts that applications answer, and that the backend reads both places."""
        answers = {app: standin.ask(self.host, port)[0] for app, port in APPS.items()}
        assert answers == dict.fromkeys(APPS, 200)
        assert standin.ask(self.host, APPS["backend"], "/health") == (200, "ok")

    def check_all(self, word: str) -> None:
        """Asserts all of it; the engine is asked once, and so are Redis and the Sentinels."""
        now = containers(self.host)
        _check_healthy(now)
        self.check_apps()
        assert self.sql("SELECT word FROM kept") == word
        running = _running(now)
        keys = [(name, 6379, "GET kept") for name in REDIS]
        told = self.told([*keys, *_questions(running)])
        assert told[: len(keys)] == [word] * len(keys)
        _check_quorum(now, running, told[len(keys) :], replicas=2)


def _check_healthy(now: Containers) -> None:
    states = {name: (c.status, c.health) for name, c in now.items()}
    assert {name: states.get(name) for name in SERVICES if states.get(name) != _WELL} == {}


def _running(now: Containers) -> list[str]:
    """The instances of Redis that run."""
    prefixes = "redis-master", "redis-replica-"
    return [n for n, c in now.items() if n.startswith(prefixes) and c.status == "running"]


def _master(running: Sequence[str], told: Sequence[str]) -> str:
    found = [n for n, said in zip(running, told, strict=True) if _pairs(said)["role"] == "master"]
    assert len(found) == 1, found
    return found[0]


def _questions(running: Sequence[str]) -> list[Question]:
    """What instances know of replication, and each Sentinel of the master and its replicas."""
    return [
        *((name, 6379, "INFO replication") for name in running),
        *((name, 26379, "SENTINEL MASTER mymaster") for name in SENTINELS),
        *((name, 26379, "SENTINEL REPLICAS mymaster") for name in SENTINELS),
    ]


def _check_quorum(
    now: Containers, running: Sequence[str], told: Sequence[str], replicas: int
) -> None:
    roles, views = told[: len(running)], [*map(_pieces, told[len(running) :])]
    address = now[_master(running, roles)].address
    for (seen,) in views[: len(SENTINELS)]:
        assert (seen["ip"], seen["flags"]) == (address, "master"), seen
        assert seen["num-other-sentinels"] == "2", seen
    for known in views[len(SENTINELS) :]:
        up = [replica for replica in known if replica["flags"] == "slave"]
        assert len(up) == replicas, up


def _pairs(text: str) -> dict[str, str]:
    return dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)


def _pieces(text: str) -> list[dict[str, str]]:
    words = text.splitlines()
    starts = [n for n, word in enumerate(words) if word == "name" and n % 2 == 0]
    pieces = [words[a:b] for a, b in zip(starts, [*starts[1:], len(words)], strict=True)]
    return [dict(zip(piece[::2], piece[1::2], strict=True)) for piece in pieces]
