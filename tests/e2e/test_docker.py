"""Story: the stack in containers on a fresh host, and every command of its documentation."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from tests.e2e import docker_stack, standin
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.docker_site import Site
from tests.e2e.docker_stack import (
    APPS,
    HOME,
    PORTS,
    REDIS,
    SENTINELS,
    SERVICES,
    STACK,
    DockerStack,
    apps,
    containers,
    footprint,
)
from tests.e2e.documented import CTRL_D, Command, commands, follow, run
from tests.e2e.project import ROOT, Data, Project, Run
from tests.e2e.proof import readers
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

DOCUMENTED = commands(ROOT / "docs" / "docker.md")
SETTLE_SECONDS = 30
# capabilities(7): chown, dac_override, fowner, kill, setgid, setuid; and who may send raw packets.
BACKUP_MAY, NET_RAW = {0, 1, 3, 5, 6, 7}, 13
SETTINGS: Data = {**NO_SCHEDULES, "docker_debian": "13", "apps": apps(standin.PUBLISHED)}
BACKED_UP, LOST = "written before the backup", "written after the backup"


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """A Debian 13 host with an engine; the applications' image is in a registry."""
    store = standin.store(lab, "debian13", ("debian13",))
    host = lab.engine_host("containers", "debian13", store=store)
    standin.publish(host)
    return host


@dataclass(frozen=True)
class Plan:
    """A dry run of a host with nothing but an engine, and what it left behind."""

    run: Run
    before: set[str]
    after: set[str]


@pytest.fixture(scope="module")
def planned(project: Project, host: Host) -> Plan:
    """The dry run of the bare host."""
    docker_stack.describe(project, host, user="deploy")
    project.settings(SETTINGS)
    before = footprint(host)
    plan = project.plan()
    assert not (project.directory / ".env").exists()
    return Plan(plan, before, footprint(host))


@pytest.fixture(scope="module")
def deployed(project: Project, planned: Plan) -> Run:
    """The first run."""
    return project.deploy()


@pytest.fixture(scope="module")
def site(project: Project, host: Host, deployed: Run) -> Site:
    """The stack with something in it."""
    site = Site(project, DockerStack(host, project.secrets))
    eventually(site.stack.check_well, SETTLE_SECONDS)
    site.stack.write(BACKED_UP)
    return site


def test_dry_run_of_a_bare_host_changes_nothing(planned: Plan) -> None:
    """No file, no image, no container, no network, no volume."""
    assert len(planned.run.planned) > 5
    assert planned.after == planned.before


def test_first_run_does_what_the_dry_run_said(planned: Plan, deployed: Run) -> None:
    """No operation more, none less."""
    assert deployed.changed == planned.run.planned


def test_everything_answers_after_the_first_run(site: Site) -> None:
    """Applications read the database through the pooler, and Redis through the Sentinels."""
    site.settles(BACKED_UP)
    assert standin.ask(site.host, APPS["backend"], "/write?word=told", "POST") == (200, "ok")
    assert site.stack.sql("SELECT word FROM notes") == "told"
    assert site.stack.redis("redis-replica-1", "GET", "note:told") == "told"


def test_second_run_changes_nothing(site: Site) -> None:
    """No container is touched, and nothing is planned."""
    site.look()
    assert site.project.plan().planned == set()
    site.changes_nothing()
    assert site.restarted() == set()


def test_what_people_put_beside_our_file_is_one_change(site: Site) -> None:
    """Compose reads it too: the service is recreated once, and once more when it is gone."""
    beside = f"{HOME}/docker-compose.override.yml"
    text = "services:\n  pgbouncer:\n    labels: {theirs: '1'}\n"
    for act in (f"cat >{beside}", f"rm {beside}"):
        site.host.run(act, stdin=text)
        site.look()
        plan = site.project.plan()
        assert site.project.deploy().changed == plan.planned
        assert site.restarted() == {"pgbouncer"}
        site.changes_nothing()
    site.settles(BACKED_UP)


def test_a_second_clone_without_secrets_is_refused(site: Site) -> None:
    """It says where they are: nothing is written, no container is touched."""
    site.look()
    before = footprint(site.host)
    with site.project.without_secrets() as env:
        run = site.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert run.code != 0 and not env.exists()
    assert f"in use here, but not in {env}" in run.stderr
    assert "/opt/psscript/.env on" in run.stderr and "REDIS_PASSWORD" in run.stderr
    assert footprint(site.host) == before and site.restarted() == set()


def test_no_secret_is_printed(planned: Plan, deployed: Run, site: Site) -> None:
    """Neither the dry run nor the run shows one."""
    output = planned.run.output + deployed.output
    assert [name for name, value in site.project.secrets.items() if value in output] == []


def test_no_secret_is_where_others_read_it(site: Site) -> None:
    """Not in what the engine tells, not in the images, not in a file for everybody."""
    values = [value for value in site.project.secrets.values() if value]
    assert len(values) > 3
    told = site.host.run(
        "docker inspect $(docker ps -aq) $(docker images -q) $(docker network ls -q)"
        " $(docker volume ls -q); docker images -q | xargs -n 1 docker history --no-trunc"
    ).stdout
    assert STACK in told
    assert [value for value in values if value in told] == []
    places = ("/opt", "/etc", "/usr/local", "/var", "/run", "/root", "/home", "/srv", "/tmp")
    assert readers(site.host, "deploy", values, *places) == []


def test_containers_have_few_rights(site: Site) -> None:
    """The kernel is asked: the capabilities that they can ever have, and their root."""
    for service, container in containers(site.host).items():
        told = site.host.run(
            f"cat /proc/{container.pid}/status /proc/{container.pid}/mounts"
        ).stdout
        (bounds,) = re.findall(r"^CapBnd:\s+([0-9a-f]+)$", told, re.M)
        (root,) = re.findall(r"^overlay / overlay (r[ow]),", told, re.M)
        may = {number for number in range(64) if int(bounds, 16) >> number & 1}
        assert "NoNewPrivs:\t1" in told, service
        if service in APPS:
            assert NET_RAW not in may and may, service
        else:
            assert may == (BACKUP_MAY if service == "backup-service" else set()), service
            assert root == "ro", service


def test_what_commands_leave_behind_ends(site: Site) -> None:
    """A program whose parent has gone, as of a check that took too long, stays no zombie."""
    ours = [name for name in SERVICES if name not in APPS]
    for name in ours:
        left = "sleep 0.7 & exec true"
        site.host.run(f"docker exec {STACK}_{name} sh -c {shlex.quote(left)}")

    def gone() -> None:
        pids = {containers(site.host)[name].pid for name in ours}
        told = site.host.run("ps -eo ppid=,comm= | grep sleep || :").stdout.splitlines()
        assert [line for line in told if int(line.split()[0]) in pids] == []

    eventually(gone, SETTLE_SECONDS)


@pytest.mark.parametrize("port", [*PORTS, *APPS.values()])
def test_nothing_listens_to_the_network(site: Site, port: int) -> None:
    """What is published is published to the host itself."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((site.host.address, port), timeout=5).close()


@pytest.mark.parametrize("port", PORTS[2:])
def test_redis_refuses_who_has_no_password(site: Site, port: int) -> None:
    """Asked by the host, without any client of ours."""
    talk = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'PING\\r\\n' >&3; head -n 1 <&3"
    answer = site.host.run(f"timeout 5 bash -c {shlex.quote(talk)}").stdout
    assert answer.startswith("-NOAUTH"), answer


@pytest.mark.parametrize("port", PORTS[:2])
@pytest.mark.parametrize("role", ["postgres", STACK])
def test_postgresql_refuses_who_has_no_password(site: Site, port: int, role: str) -> None:
    """Asked by a client in a container that has the host's network and nothing else."""
    image = containers(site.host)["postgres"].image
    words = f"psql -w -XAtq -h 127.0.0.1 -p {port} -U {role} -d {STACK} -c 'SELECT 1'"
    client = f"timeout 30 docker run --rm --network host --entrypoint env {image} {words}"
    done = site.host.run(client, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    # The pooler asks no superuser for a password.
    is_rejected = (role, port) == ("postgres", 6432)
    assert ("login rejected" if is_rejected else "password") in done.stderr


# --- The documentation ---------------------------------------------------------------------------

Hook = Callable[[Site, str], None]
BEFORE: dict[tuple[str, str], Hook] = {}
AFTER: dict[tuple[str, str], Hook] = {}


def _hook(hooks: dict[tuple[str, str], Hook], heading: str, ending: str) -> Callable[[Hook], Hook]:
    """Of the command under a heading that ends so."""

    def known(hook: Hook) -> Hook:
        hooks[heading, ending] = hook
        return hook

    return known


def before(heading: str, ending: str) -> Callable[[Hook], Hook]:
    """What happens before a command, or must be true then."""
    return _hook(BEFORE, heading, ending)


def after(heading: str, ending: str) -> Callable[[Hook], Hook]:
    """What must be true after a command; gets what it showed."""
    return _hook(AFTER, heading, ending)


def _matches(key: tuple[str, str], command: Command) -> bool:
    return key[0] == command.heading and command.text.endswith(key[1])


def _of(hooks: Mapping[tuple[str, str], Hook], command: Command) -> list[Hook]:
    return [hook for key, hook in hooks.items() if _matches(key, command)]


def test_documentation_has_what_is_looked_at() -> None:
    """A command that is renamed does not lose its checks silently."""
    lost = [k for k in (*BEFORE, *AFTER) if sum(_matches(k, c) for c in DOCUMENTED) != 1]
    assert lost == []


@pytest.mark.parametrize("command", DOCUMENTED, ids=lambda c: c.text)
def test_documented_command(site: Site, command: Command) -> None:
    """It is typed in the project directory, ends with 0, and has done what it is there for."""
    for hook in _of(BEFORE, command):
        hook(site, command.text)
    text = _filled_in(site.host, command.text)
    if command.follows:
        shown = follow(site.host, text, HOME, seconds=2)
    else:
        typed = CTRL_D if text.endswith(f" -d {STACK}") else ""
        shown = run(site.host, text, HOME, typed=typed, seconds=180)
    for hook in _of(AFTER, command):
        hook(site, shown)


def _filled_in(host: Host, text: str) -> str:
    """The newest backup in place of a date that is not one."""
    for kind, folder in ((f"{STACK}_full", "postgres"), ("redis", "redis")):
        names = host.run(f"ls {HOME}/backups/{folder}").stdout
        stamps = re.findall(rf"^{kind}_(\d{{8}}_\d{{6}})\.\w+\.gz$", names, re.MULTILINE)
        if stamps:
            text = text.replace(f"{kind}_YYYYMMDD_HHMMSS", f"{kind}_{max(stamps)}")
    assert "YYYY" not in text
    return text


@before("Initial setup", "docker-compose up -d")
@before("Service management", "docker-compose up -d")
@before("Service management", "restart backend")
@before("Maintenance", "docker-compose pull")
def _look(site: Site, _text: str) -> None:
    site.look()


@after("Initial setup", "docker-compose up -d")
@after("Service management", "docker-compose up -d")
@after("Maintenance", "docker-compose up -d")
def _same(site: Site, _shown: str) -> None:
    assert site.restarted() == set()


@after("Initial setup", "docker-compose ps")
def _listed(_site: Site, shown: str) -> None:
    assert [service for service in SERVICES if service not in shown] == []
    assert shown.count("(healthy)") == len(SERVICES)


@after("Service management", "docker-compose down")
def _gone(site: Site, _shown: str) -> None:
    """The commands that follow are for a stack that runs."""
    assert containers(site.host) == {}
    assert STACK not in site.host.run("docker network ls").stdout
    site.stack.compose("up -d")
    site.settles(BACKED_UP)


@after("Service management", "restart backend")
def _only_backend(site: Site, _shown: str) -> None:
    assert site.restarted() == {"backend"}
    eventually(site.stack.check_well, SETTLE_SECONDS)


@after("Service management", "--scale redis-replica=3")
def _five_replicas(site: Site, _shown: str) -> None:
    def followed() -> None:
        site.stack.check_quorum(replicas=5)
        assert site.stack.replication(site.stack.master)["connected_slaves"] == "5"

    eventually(followed, SETTLE_SECONDS)
    site.changes_nothing()
    assert len(containers(site.host)) == len(SERVICES) + 3


@after("Monitoring", '"SHOW POOLS"')
def _pools(site: Site, shown: str) -> None:
    databases = {row[0] for row in site.stack.pooler("SHOW POOLS")}
    assert STACK in databases
    assert re.search(rf"^ {STACK} +\| {STACK} ", shown, re.MULTILINE), shown


@after("Monitoring", '"SHOW STATS"')
def _stats(_site: Site, shown: str) -> None:
    assert re.search(rf"^ {STACK} +\| +\d+ ", shown, re.MULTILINE), shown


@after("Monitoring", "SENTINEL master mymaster")
def _named(site: Site, shown: str) -> None:
    assert f'"{containers(site.host)[site.stack.master].address}"' in shown


@after("Monitoring", "SENTINEL replicas mymaster")
def _all_named(site: Site, shown: str) -> None:
    now = containers(site.host)
    replicas = {name: c.address for name, c in now.items() if "replica" in name}
    assert len(replicas) == 5
    assert [name for name, address in replicas.items() if f'"{address}"' not in shown] == []


@after("Monitoring", "redis-master redis-cli INFO replication")
def _is_master(_site: Site, shown: str) -> None:
    assert "role:master" in shown
    assert "connected_slaves:5" in shown


@after("Monitoring", "redis-replica-1 redis-cli INFO replication")
def _is_replica(_site: Site, shown: str) -> None:
    assert "role:slave" in shown
    assert "master_link_status:up" in shown


@after("Manual backups", "postgres-backup.sh full")
def _dump_is_whole(site: Site, _shown: str) -> None:
    for manifest in _manifests(site.host, "postgres/psscript_full_2*"):
        _check_file(site.host, f"postgres/{manifest['name']}", str(manifest["sha256"]))


@after("Manual backups", "postgres-backup.sh incremental")
def _increment_has_a_manifest(site: Site, _shown: str) -> None:
    assert len(_manifests(site.host, "postgres/psscript_incremental_2*")) == 1


@after("Manual backups", "redis-backup.sh")
def _snapshot_is_whole(site: Site, _shown: str) -> None:
    (manifest,) = _manifests(site.host, "redis/redis_2*")
    _check_file(site.host, f"redis/{manifest['name']}", str(manifest["sha256"]))
    site.stack.write(LOST)


def _manifests(host: Host, pattern: str) -> list[dict[str, object]]:
    names = host.run(f"cd {HOME}/backups && ls {pattern}.manifest.json").stdout.split()
    return [json.loads(host.run(f"cat {HOME}/backups/{name}").stdout) for name in names]


def _check_file(host: Host, name: str, digest: str) -> None:
    host.run(f"cd {HOME}/backups && gzip -t {name}")
    assert host.run(f"sha256sum <{HOME}/backups/{name}").stdout.split()[0] == digest


@after("Restore operations", "psscript_full_YYYYMMDD_HHMMSS.sql.gz")
def _row_is_back(site: Site, _shown: str) -> None:
    assert site.stack.sql("SELECT word FROM kept") == BACKED_UP
    assert site.stack.redis(site.stack.master, "GET", "kept") == LOST


@after("Restore operations", "redis_YYYYMMDD_HHMMSS.rdb.gz")
def _key_is_back(site: Site, _shown: str) -> None:
    eventually(lambda: site.stack.check_data(BACKED_UP), SETTLE_SECONDS)
    site.stack.check_apps()


@before("Complete system recovery", "docker-compose down")
def _is_lost(site: Site, _text: str) -> None:
    site.stack.write(LOST)


@after("Complete system recovery", "psscript_full_LATEST.sql.gz")
def _row_is_back_alone(site: Site, _shown: str) -> None:
    assert set(containers(site.host)) == {"postgres", "pgbouncer", "backup-service"}
    assert site.stack.sql("SELECT word FROM kept") == BACKED_UP


@after("Complete system recovery", "redis_LATEST.rdb.gz")
def _key_is_back_alone(site: Site, _shown: str) -> None:
    assert site.stack.redis("redis-master", "GET", "kept") == BACKED_UP


@after("Complete system recovery", "docker-compose up -d")
def _all_is_back(site: Site, _shown: str) -> None:
    site.settles(BACKED_UP)


@before("Testing failover", "SENTINEL master mymaster")
def _another_master(site: Site, _text: str) -> None:
    def taken_over() -> None:
        address = site.stack.sentinel("redis-sentinel-1")[0]["ip"]
        now = containers(site.host)
        assert address in {now[name].address for name in REDIS[1:]}
        assert now[site.stack.master].address == address

    eventually(taken_over, SETTLE_SECONDS)
    eventually(site.stack.check_apps, SETTLE_SECONDS)


@after("Testing failover", "SENTINEL master mymaster")
def _says_so(site: Site, shown: str) -> None:
    assert f'"{containers(site.host)[site.stack.master].address}"' in shown


@after("Testing failover", "start redis-master")
def _follows(site: Site, _shown: str) -> None:
    site.settles(BACKED_UP)
    assert site.stack.master != "redis-master"
    assert site.stack.replication("redis-master")["role"] == "slave"


@after("PgBouncer does not let clients in", f"-d {STACK}")
def _prompt(_site: Site, shown: str) -> None:
    assert f"{STACK}=#" in shown


@after("Redis does not fail over", "sentinel.conf")
def _configuration(site: Site, shown: str) -> None:
    assert site.stack.redis_password in shown


@after("Maintenance", "vacuumdb -U postgres -d psscript --analyze")
def _vacuumed(site: Site, _shown: str) -> None:
    statement = "SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'kept'"

    def counted() -> None:
        assert site.stack.sql(statement) == "t"

    eventually(counted, 5)


def test_after_the_failover_a_run_changes_nothing(site: Site) -> None:
    """What Sentinel has decided stays, and so does every container."""
    site.look()
    master = site.stack.master
    assert master != "redis-master"
    site.changes_nothing()
    assert site.restarted() == set()
    assert site.stack.master == master
    site.stack.check_all(BACKED_UP)


# --- Over TLS ------------------------------------------------------------------------------------


def test_what_the_host_publishes_speaks_tls(site: Site) -> None:
    """All eight ports, by the estate's authority, and nothing else."""
    site.look()
    site.project.settings({**SETTINGS, "tls_enabled": True, "pgbouncer_client_tls": "require"})
    site.project.deploy()
    assert site.replaced() == {*REDIS, *SENTINELS}
    shown = site.certificates()
    assert all(shown.values()), shown
    answers = [site.pings(port, tls=tls) for port in (6379, 26379) for tls in (True, False)]
    assert ["+PONG" in answer for answer in answers] == [True, False] * 2
