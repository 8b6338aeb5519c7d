"""Stories of changed settings where the stack is containers, and of those that are refused."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.redis import acl
from tests.e2e import bucket, docker_stack, standin
from tests.e2e.backups import NO_SCHEDULES
from tests.e2e.docker_site import Site, longest_gap, made
from tests.e2e.docker_stack import (
    APPS,
    HOME,
    REDIS,
    SENTINELS,
    STACK,
    apps,
    containers,
    footprint,
)
from tests.e2e.documented import steps
from tests.e2e.project import ROOT, Data, Project
from tests.e2e.proof import said
from tests.e2e.test_trouble import HBA, KEEPS, check_lines
from tests.e2e.wait import eventually
from tests.lab import Lab

KEPT = "written before the changes"
OURS = "\n".join([*sorted(acl.OWN), "default"])
MOVING = "Moving PostgreSQL from a project made by hand"
SETTINGS: Data = {**NO_SCHEDULES, "docker_debian": "12", "apps": apps()}
TUNED: Data = {
    "pgbouncer_default_pool_size": 50,
    "pgbouncer_max_client_conn": 2000,
    "pgbouncer_query_wait_timeout": 60,
    "postgres_shared_buffers": "512MB",
    "postgres_effective_cache_size": "2GB",
    "postgres_work_mem": "32MB",
    "redis_maxmemory": "1gb",
    "redis_maxmemory_policy": "allkeys-lfu",
}

# What hands do to Sentinels, and what a plan says of it.
SENTINEL_WAYS = [
    (SENTINELS[0], "SENTINEL SET mymaster quorum 3", "quorum 2"),
    (
        SENTINELS[0],
        "SENTINEL SET mymaster down-after-milliseconds 77000",
        "down-after-milliseconds",
    ),
    (SENTINELS[0], "SENTINEL CONFIG SET resolve-hostnames yes", "resolve-hostnames no"),
    (
        SENTINELS[1],
        "SENTINEL SET mymaster rename-command CONFIG guess",
        "the master's command CONFIG",
    ),
    (SENTINELS[1], "SENTINEL CONFIG SET sentinel-pass other", "password of the other Sentinels"),
    (
        SENTINELS[2],
        "SENTINEL SET mymaster auth-user nobody auth-pass other",
        "comes to the instances as datatier-sentinel",
    ),
    (SENTINELS[2], "ACL SETUSER default nopass", "only the password of the settings lets in"),
]


@pytest.fixture(scope="module")
def site(project: Project, lab: Lab) -> Site:
    """A stack on a Debian 12 host, with a row and a key in it, and a passphrase for backups."""
    secrets = project.directory / ".env"
    secrets.write_text("BACKUP_ENCRYPTION_PASSPHRASE=the first one of a stack\n")
    secrets.chmod(0o600)
    return made(project, lab, SETTINGS, KEPT)


def _pooler(site: Site, *keys: str) -> list[str]:
    values = {row[0]: row[1] for row in site.stack.pooler("SHOW CONFIG")}
    return [values[key] for key in keys]


def _redis(site: Site, key: str) -> set[str]:
    told = site.stack.asked(REDIS, "CONFIG", "GET", key)
    return {answer.split()[-1] for answer in told.values()}


def _users(site: Site) -> set[str]:
    return {*site.stack.asked(REDIS, "ACL", "USERS").values()}


def _login(site: Site, sslmode: str) -> str:
    """What a client of the pooler hears that knows the address of the host."""
    near = "$(getent hosts pgbouncer | sed 's/ .*//')"
    place = f"host={site.host.address} hostaddr={near}"
    verified = f"sslmode={sslmode} sslrootcert=/etc/pgbouncer/tls/certificate.pem"
    words = f"{place} port=6432 user={STACK} dbname={STACK} {verified}"
    client = f'psql -XAtqw "{words}" -c "SELECT 1"'
    done = site.stack.client("pgbouncer", "PGPASSWORD", site.stack.role_password, client)
    return f"{done.stdout}{done.stderr}".strip()


def test_clients_of_the_pooler_may_use_tls_and_then_have_to(site: Site) -> None:
    """By reloads, as the size of a pool is changed: no container starts, and nobody else reloads.

    The key stays on its host.
    """
    site.look()
    tuned = {"pgbouncer_default_pool_size": 33, "pgbouncer_client_tls": "allow"}
    site.changes(tuned, "pgbouncer: reload")
    assert site.restarted() == set()
    assert _pooler(site, "default_pool_size") == ["33"]
    assert [_login(site, mode) for mode in ("disable", "verify-full")] == ["1", "1"]
    site.changes({"pgbouncer_client_tls": "require"}, "pgbouncer: reload")
    assert "SSL required" in _login(site, "disable") and _login(site, "verify-full") == "1"
    place = f"{HOME}/docker/pgbouncer/tls"
    shown = "openssl s_client -starttls postgres -connect 127.0.0.1:6432 -verify_return_error"
    shown += f" -CAfile {place}/certificate.pem -verify_ip {site.host.address} -brief </dev/null"
    assert "Verification: OK" in site.host.run(f"{shown} 2>&1").stdout
    assert site.host.run(f"stat -c %a {place}/key.pem").stdout == "600\n"
    site.host.run(f"truncate -s 0 {place}/certificate.pem")
    site.changes({}, "pgbouncer: reload")
    assert _login(site, "verify-full") == "1"
    assert site.restarted() == set()


def test_what_is_taken_alive_restarts_nothing(site: Site) -> None:
    """Every Redis takes it, since any may be master one day; the others take it by a reload.

    Clients of the pooler are back in clear.
    """
    site.look()
    lines = [f"{name}: reload" for name in ("postgres", "pgbouncer", *REDIS)]
    users = {"cache": {"commands": ["+@all", "-@dangerous"], "keys": ["cache:*"]}}
    tuned = {"redis_maxmemory": "300mb", "postgres_work_mem": "7MB", "redis_users": users}
    site.changes({**tuned, "pgbouncer_client_tls": None}, *lines)
    assert site.restarted() == set()
    assert _login(site, "disable") == "1" and "does not support SSL" in _login(site, "require")
    assert _redis(site, "maxmemory") == {str(300 * 1024**2)}
    assert site.stack.sql("SHOW work_mem") == "7MB"
    assert _users(site) == {f"cache\n{OURS}"}
    file = f"docker exec {STACK}_backend cat /run/secrets/redis_user_cache_password"
    word, whoami = site.stack.host.run(file).stdout, "/usr/bin/redis-cli --user cache ACL WHOAMI"
    assert said(site.stack.client("redis-master", "REDISCLI_AUTH", word, whoami)) == "cache"
    assert site.stack.redis("redis-replica-1", "CONFIG", "SET", "appendonly", "no") == "OK"
    assert site.stack.redis("redis-replica-1", "CONFIG", "SET", "timeout", "55") == "OK"
    assert site.stack.redis("redis-replica-1", "ACL", "DELUSER", "cache") == "1"
    assert site.stack.redis("redis-master", "ACL", "SETUSER", "cache", "+flushall") == "OK"
    ways = [(watcher, 26379, words) for watcher, words, _ in SENTINEL_WAYS]
    assert site.stack.told(ways) == ["OK"] * len(ways)
    site.changes(
        {},
        "redis-replica-1: reload (appendonly, timeout: changed by hand; ACL user cache: new)",
        "redis-master: reload (ACL user cache: changed)",
        *(f"{watcher}: {line}" for watcher, _, line in SENTINEL_WAYS),
    )
    assert _redis(site, "appendonly") == {"yes"}
    assert _users(site) == {f"cache\n{OURS}"}


_NOW = "extract(epoch FROM clock_timestamp())"


@contextmanager
def _at_work(site: Site) -> Iterator[None]:
    """Clients whose connections to the pooler last, and which are answered all the time.

    Each transaction that was acknowledged is there.
    """
    until = "/run/work-is-done"
    site.host.run(f"rm -f {until}")
    site.stack.sql("CREATE TABLE worked (at numeric)")
    adds = f"INSERT INTO worked VALUES ({_NOW}) RETURNING at;"
    with ThreadPoolExecutor() as pool:
        clients = [pool.submit(site.stack.works, until, adds) for _ in range(4)]
        try:
            yield
        finally:
            site.host.run(f"touch {until}")
        started = float(site.stack.sql("SELECT extract(epoch FROM pg_postmaster_start_time())"))
        answers = [[*map(float, said(each.result()).splitlines())] for each in clients]
        assert all(each[0] < started < each[-1] for each in answers)
        assert site.stack.sql("SELECT count(*) FROM worked") == str(sum(map(len, answers)))
        site.stack.sql("DROP TABLE worked")


def test_tuning_as_documented(site: Site) -> None:
    """One run; the one restart is planned with its reason, and is not a new container."""
    site.look()
    waits = "postgres: restart (shared_buffers: postmaster context; clients of PgBouncer wait)"
    # A user that leaves goes, and nobody is asked to prune it.
    gone = [f"{name}: reload (ACL user cache: removed" for name in REDIS]
    site.settings["redis_users"] = {}
    with _at_work(site):
        site.changes(TUNED, waits, "pgbouncer: reload", *gone)
    assert _users(site) == {OURS}
    assert site.restarted() == {"postgres"}
    assert site.replaced() == set()
    pooler = ("default_pool_size", "max_client_conn", "query_wait_timeout")
    assert _pooler(site, *pooler) == ["50", "2000", "60"]
    server = ("shared_buffers", "effective_cache_size", "work_mem")
    assert [site.stack.sql(f"SHOW {key}") for key in server] == ["512MB", "2GB", "32MB"]
    assert _redis(site, "maxmemory") == {str(1024**3)}
    assert _redis(site, "maxmemory-policy") == {"allkeys-lfu"}
    site.settles(KEPT)


UPGRADE = "tasks.upgrade.deploy"
# What the archive has is newer than that.
_OLDER = "RUN sed -i '/^Package: {name}$/,/^$/s/^Version: .*/&~old/' /var/lib/dpkg/status"


def _made_older(site: Site, name: str, services: Iterable[str]) -> str:
    """Images whose package is older by its own word; the version that it really is."""
    for service in services:
        image = f"{STACK}_{service}"
        text = f"FROM {image}\nUSER root\n{_OLDER.format(name=name)}\n"
        site.host.run(f"docker build -q -t {image} -", stdin=text)
    shown = f"dpkg-query -W -f '${{Version}}' {name}"
    newest = site.host.run(f"docker run --rm --entrypoint sh {image} -c {shlex.quote(shown)}")
    return newest.stdout.removesuffix("~old")


def _version(site: Site, service: str, name: str) -> str:
    return site.host.run(
        f"docker exec {STACK}_{service} dpkg-query -W -f '${{Version}}' {name}"
    ).stdout


def _image_names(site: Site) -> list[str]:
    listed = site.host.run("docker images --format '{{.Repository}}:{{.Tag}} {{.ID}}'").stdout
    return sorted(line for line in listed.splitlines() if not line.startswith("<none>"))


def test_an_upgrade_builds_images_again_and_clients_wait(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """The archive has one version of each package: images have an older one by their own word.

    One image is newer already, and one is left of a run that was killed. An image that cannot be
    built changes nothing.
    """
    site.settings["upgrade_packages"] = "all"
    site.project.settings(site.settings)
    redis = _made_older(site, "redis-server", [*REDIS, *SENTINELS[:2]])
    postgres = _made_older(site, "postgresql-15", ["postgres"])
    site.host.run(f"docker tag {STACK}_{SENTINELS[2]} {STACK}-newer_redis-master")
    site.look()
    leader, images = site.stack.master, _image_names(site)
    job = "mkdir -p /run/datatier; exec flock /run/datatier/backup-postgres.lock sleep 600"
    site.host.run(f"docker exec -d {STACK}_backup-service sh -c '{job}'; sleep 1")
    refused = site.project.pyinfra("-y", "inventory.py", UPGRADE)
    site.host.run("pkill -f '^sleep 600'")
    assert "a backup job holds /run/datatier/backup-postgres.lock: wait" in refused.stderr
    plan = site.project.plan(UPGRADE)
    lines = [
        f"image redis: package redis-server: upgrade {redis}~old -> {redis}",
        f"image postgres: package postgresql-15: upgrade {postgres}~old -> {postgres}",
        f"{leader}: failover (master of mymaster; restart follows)",
        *(f"{name}: recreate (image)" for name in ("postgres", *REDIS, *SENTINELS)),
    ]
    assert [line for line in lines if line not in plan.output] == [], plan.output
    base = "debian:bookworm-slim"
    site.host.run(f"docker tag {base} kept && docker tag debian:trixie-slim {base}")
    failed = site.project.pyinfra("-y", "inventory.py", UPGRADE)
    site.host.run(f"docker tag kept {base} && docker rmi kept")
    assert failed.code == 1
    why = f"the image of postgres could not be built: {base} should be Debian 12"
    check_lines(failed, [(why,)])
    assert site.restarted() == set() and _image_names(site) == images
    with _at_work(site), site.writing() as written:
        run = site.project.deploy(UPGRADE)
    assert run.changed == plan.planned
    record_property("new containers", longest_gap(written))
    assert site.restarted() == site.replaced() == {"postgres", *REDIS, *SENTINELS}
    assert site.stack.master != leader
    assert {_version(site, name, "redis-server") for name in (*REDIS, *SENTINELS)} == {redis}
    assert _version(site, "postgres", "postgresql-15") == postgres
    assert not [name for name in _image_names(site) if "newer" in name]
    assert site.project.plan(UPGRADE).planned == set()
    site.settles(KEPT)


def test_clients_wait_while_the_server_gets_a_new_container(site: Site) -> None:
    """The image is the operator's own, which happens to be the same."""
    site.look()
    image = site.host.run(f"docker inspect -f '{{{{.Config.Image}}}}' {STACK}_postgres").stdout
    site.host.run(f"docker tag {image.strip()} operators/postgres:1")
    with _at_work(site):
        site.changes({"docker_image_postgres": "operators/postgres:1"}, "postgres: recreate")
    assert site.restarted() == site.replaced() == {"postgres"}


def test_instances_restart_one_after_the_other(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """The replicas first; then the master hands over, and follows."""
    site.look()
    leader = site.stack.master
    lines = [f"{leader}: failover (master of mymaster; restart follows)"]
    lines += [f"{name}: restart (databases: CONFIG SET does not take it)" for name in REDIS]
    with site.writing() as written:
        site.changes({"redis_extra": {"databases": 20}}, *lines)
    record_property("containers restart", longest_gap(written))
    assert site.restarted() == {*REDIS}
    assert site.replaced() == set()
    assert site.stack.master != leader
    assert _redis(site, "databases") == {"20"}
    site.settles(KEPT)


def test_nothing_restarts_where_nobody_could_replace_the_master(site: Site) -> None:
    """No quorum, or no replica: refused. Replicas that are stopped are brought up by the run."""
    rolls: Data = {"redis_extra": {"databases": 24}}
    leader = site.stack.master
    followers = [name for name in REDIS if name != leader]
    begins = f"{leader} is the master and has to restart, but no instance can replace it: "
    with _docker(site, SENTINELS[1:], "stop", "start"):
        eventually(lambda: _has_no_quorum(site, SENTINELS[0]), 30)
        site.refuses(f"{begins}NOQUORUM 1 usable Sentinels", **rolls)
    site.settles(KEPT)
    with _hung(site, followers):
        site.stack.redis(leader, "CLIENT", "KILL", "TYPE", "replica")
        site.refuses(f"{begins}no replica is online: bring one up first", **rolls)
    site.settles(KEPT)
    site.host.run(f"docker stop {_names(followers)}")
    site.changes(rolls, *(f"{name}: start" for name in followers), f"{leader}: failover")
    assert site.stack.master != leader
    site.settles(KEPT)


@contextmanager
def _docker(site: Site, services: Iterable[str], begin: str, end: str) -> Iterator[None]:
    site.host.run(f"docker {begin} {_names(services)}")
    try:
        yield
    finally:
        site.host.run(f"docker {end} {_names(services)}")


@contextmanager
def _hung(site: Site, services: Iterable[str]) -> Iterator[None]:
    """Their servers hang; the first process of a container is the engine's init."""
    of = "pid=$(docker inspect -f '{{.State.Pid}}' $each); cat /proc/$pid/task/$pid/children"
    servers = site.host.run(f"for each in {_names(services)}; do {of}; done").stdout.split()
    site.host.run(f"kill -STOP {' '.join(servers)}")
    try:
        yield
    finally:
        site.host.run(f"kill -CONT {' '.join(servers)}")


def _names(services: Iterable[str]) -> str:
    return " ".join(f"{STACK}_{service}" for service in services)


def _has_no_quorum(site: Site, service: str) -> None:
    command = "/usr/bin/redis-cli -e -p 26379 SENTINEL CKQUORUM mymaster"
    asked = site.stack.client(service, "REDISCLI_AUTH", site.stack.redis_password, command)
    assert "NOQUORUM" in asked.stderr, asked


def test_what_a_server_refuses_reaches_no_file(site: Site) -> None:
    """Each server reads its new configuration in its container before the live one is touched."""
    site.look()
    files = f"cd {HOME}/docker && sha256sum $(find . -type f | sort)"
    before = site.host.run(files).stdout
    for settings, words in (
        ({"postgres_extra": {"ssl": True, "ssl_ca_file": "none.pem"}}, KEEPS),
        ({"postgres_hba": [HBA]}, KEEPS),
        ({"pgbouncer_extra": {"no_such_key": 1}}, "PgBouncer refuses"),
        ({"redis_extra": {"hz": "often"}}, "redis-master.conf: Redis refuses it"),
    ):
        site.project.settings({**site.settings, **settings})
        run = site.project.pyinfra("-y", "inventory.py", "deploy.py")
        assert run.code == 1
        check_lines(run, [(site.host.name, words)])
        assert site.host.run(files).stdout == before
    site.project.settings(site.settings)
    site.changes_nothing()
    assert site.restarted() == set()


# Every instance and every Sentinel, asked for itself whatever the others say.
_PINGS = """
while read -r service port; do
  timeout 5 /usr/bin/redis-cli --no-auth-warning -h "$service" -p "$port" PING </dev/null
done
"""


def _lets_in(site: Site, password: str) -> set[bool]:
    """What every instance and every Sentinel says to a password."""
    places = [*((name, 6379) for name in REDIS), *((name, 26379) for name in SENTINELS)]
    stdin = "".join(f"{name} {port}\n" for name, port in places)
    client = f"sh -c {shlex.quote(_PINGS)}"
    done = site.stack.client("backup-service", "REDISCLI_AUTH", password, client, stdin)
    answers = [line for line in done.stdout.splitlines() if line]
    assert len(answers) == len(places), done
    return {answer == "PONG" for answer in answers}


def test_a_password_rotates_and_no_container_restarts(site: Site) -> None:
    """Both are valid until the old one leaves `.env`, and a client with the old one goes on."""
    site.look()
    old = site.stack.redis_password
    with site.writing():
        site.project.deploy("tasks.rotate.redis_password")
    site.changes_nothing()
    site.stack = replace(site.stack, secrets=site.project.secrets)
    assert _lets_in(site, old) == _lets_in(site, site.stack.redis_password) == {True}
    site.project.deploy("tasks.rotate.finish")
    site.changes_nothing()
    assert (_lets_in(site, old), _lets_in(site, site.stack.redis_password)) == ({False}, {True})
    assert site.restarted() == set()
    site.settles(KEPT)


def _job(site: Site, job: str) -> str:
    return site.stack.compose(f"exec -T backup-service /scripts/{job}").stdout


def test_another_passphrase_takes_over(site: Site) -> None:
    """A moment of before comes back meanwhile; what the old one alone opens is kept."""
    rotate = "tasks.rotate.backup_encryption_passphrase"
    site.look()
    _job(site, "postgres-backup.sh full")
    site.stack.sql("CREATE TABLE before_it AS SELECT 1 AS i")
    before = site.host.run("sleep 1; date -u '+%F %T+00'; sleep 1").stdout.strip()
    plan = site.project.plan(rotate)
    assert site.project.deploy(rotate).changed == plan.planned
    site.changes_nothing()
    run = site.project.pyinfra("-y", "inventory.py", "tasks.rotate.finish")
    assert run.code == 1 and "was made with the new passphrase yet: make one" in run.output
    site.stack.sql("DROP TABLE before_it")
    _job(site, "postgres-backup.sh incremental")
    _job(site, f"restore-postgres.sh --time '{before}' --database {docker_stack.STACK}")
    assert site.stack.sql("SELECT i FROM before_it") == "1"
    for job in ("redis-backup.sh", "postgres-backup.sh full", "backup.sh drill"):
        _job(site, job)
    plan = site.project.plan("tasks.rotate.finish")
    assert site.project.deploy("tasks.rotate.finish").changed == plan.planned
    site.changes_nothing()
    _job(site, "postgres-backup.sh incremental")
    _job(site, "backup.sh verify")
    kept = site.host.run(
        f"cd {docker_stack.HOME}/backups/before_*; ls -d postgres/*_full_* pgbackrest"
    )
    assert f"postgres/{docker_stack.STACK}_full_" in kept.stdout and "pgbackrest" in kept.stdout
    assert site.restarted() == set()
    site.settles(KEPT)


def test_an_applications_variable_is_its_own_matter(site: Site) -> None:
    """Only its container is another one; a dollar stays a dollar."""
    site.look()
    frontend, *others = apps()
    env = {**frontend["env"], "GREETING": "hello $HOME"}
    site.changes({"apps": [{**frontend, "env": env}, *others]}, "frontend: recreate")
    assert site.restarted() == site.replaced() == {"frontend"}
    of_frontend = "docker ps -q --filter label=com.docker.compose.service=frontend"
    shown = site.host.run(f"docker exec $({of_frontend}) env").stdout.splitlines()
    assert "GREETING=hello $HOME" in shown
    site.settles(KEPT)


def test_a_project_that_moves_to_another_subnet(site: Site) -> None:
    """The plan announces it; data, the master and the Sentinels' knowledge move too."""
    site.look()
    master = site.stack.master
    announced = "172.25.0.0/16: becomes psscript-network 172.29.0.0/16"
    words = f"--name stranger --network psscript-network -e PORT=9000 {standin.IMAGE}"
    site.host.run(f"docker run -d {words}")
    site.refuses("the container stranger is in the network", docker_subnet="172.29.0.0/16")
    site.host.run("docker rm -f stranger")
    site.changes({"docker_subnet": "172.29.0.0/16"}, announced, "postgres: recreate")
    assert _fixed(containers(site.host)) == {
        name: address.replace("172.25.", "172.29.") for name, address in _fixed(site.before).items()
    }
    assert site.stack.master == master
    site.settles(KEPT)


def _fixed(of: docker_stack.Containers) -> dict[str, str]:
    return {name: container.address for name, container in of.items() if name not in APPS}


def test_backups_are_copied_once_the_keys_are_in_env(site: Site, lab: Lab) -> None:
    """No container is touched, and the next backup is in the bucket, byte by byte."""
    keys = {
        "BACKUP_S3_BUCKET": bucket.BUCKET,
        "AWS_ACCESS_KEY_ID": bucket.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": bucket.SECRET_KEY,
    }
    with bucket.running(lab.gateway) as store:
        with (site.project.directory / ".env").open("a") as env:
            env.writelines(f"{name}={value}\n" for name, value in keys.items())
        site.look()
        site.changes({"backup_s3_endpoint": store.endpoint}, "docker/backup/backup.json: change")
        assert site.restarted() == set()
        site.stack.compose("exec -T backup-service /scripts/postgres-backup.sh full")
        made = site.host.run(
            f"cd {docker_stack.HOME}/backups/postgres && sha256sum *.sql.gz.gpg"
        ).stdout
        copies = {hashlib.sha256(store.content(key)).hexdigest() for key in store.listed()}
        assert made
        assert [line for line in made.splitlines() if line.split()[0] not in copies] == []


# Whatever it is asked, it is the version of long ago.
_OLD = '#!/bin/sh\n[ "$1" = version ] && echo 1.25.0'


def test_compose_that_is_too_old(site: Site) -> None:
    """What is there, and what is needed."""
    program = site.host.run("command -v docker-compose").stdout.strip()
    put = f"mv {program} {program}.new && cat >{program} && chmod 755 {program}"
    site.host.run(put, stdin=_OLD)
    try:
        site.refuses("docker-compose", "1.25.0", "1.29")
    finally:
        site.host.run(f"mv {program}.new {program}")


def test_service_of_the_host_that_the_next_boot_would_start(site: Site) -> None:
    """It was stopped by hand, so the port is free, and is still enabled."""
    unit = "/etc/systemd/system/redis-server.service"
    site.host.run(f"cat >{unit}; systemctl enable redis-server", stdin=_DEBIANS_REDIS)
    try:
        site.refuses("redis_ports", "redis-server.service is not ours and would take port 6379")
    finally:
        site.host.run(f"systemctl disable redis-server; rm {unit}")


_DEBIANS_REDIS = """[Service]
ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no
[Install]
WantedBy=multi-user.target
"""


def test_port_of_another_container(site: Site) -> None:
    """The setting, and whose it is."""
    publish = "--publish 127.0.0.1:3099-3101:80-82 --entrypoint sleep"
    site.host.run(f"docker run --detach --name holder {publish} {standin.IMAGE} 600")
    try:
        frontend, *others = apps()
        changed = [{**frontend, "port": 3100}, *others]
        site.refuses("apps/frontend/port", "3100", "holder", apps=changed)
    finally:
        site.host.run("docker rm --force holder")


def test_subnet_of_another_network(site: Site) -> None:
    """The setting, and whose it is."""
    site.host.run("docker network create --subnet 172.30.5.0/24 taken")
    try:
        site.refuses("docker_subnet", "172.30.5.0/24", "taken", docker_subnet="172.30.0.0/16")
    finally:
        site.host.run("docker network rm taken")


@pytest.mark.parametrize("data", ["dump.rdb", "appendonlydir/appendonly.aof.1.base.rdb"])
def test_volume_of_redis_that_another_image_made(site: Site, data: str) -> None:
    """As the images of docker-library leave it: at the root of the volume, of user 999."""
    volume = f"{STACK}_redis_replica_9_data"
    site.host.run(f"docker volume create {volume}")
    home = f"$(docker volume inspect -f '{{{{.Mountpoint}}}}' {volume})"
    try:
        site.host.run(f"install -D -o 999 -g 999 /dev/stdin {home}/{data}", stdin="REDIS0011")
        site.refuses("stack_name", volume, "another image")
    finally:
        site.host.run(f"docker volume rm {volume}")


# docker-library's layout, user and lack of passwords, with the PostgreSQL of the stack's own image.
OLD_PROJECT = r"""
services:
  postgres:
    image: IMAGE
    user: root
    entrypoint: ["sh", "-ec"]
    command:
      - |
        echo old:x:999:999::/:/bin/sh >>/etc/passwd
        chown 999:999 /var/lib/postgresql/data /run/postgresql
        cd /usr/lib/postgresql/*/bin
        exec setpriv --reuid 999 --regid 999 --clear-groups sh -ec '
          [ -e "$$1/PG_VERSION" ] || ./initdb -D "$$1" -U postgres -A trust -E UTF8 --locale C.UTF-8
          exec ./postgres -D "$$1"' sh /var/lib/postgresql/data
    volumes: ["postgres_data:/var/lib/postgresql/data"]
volumes: {postgres_data: {}}
"""
OLD_ROWS = """
CREATE TABLE moved (id serial PRIMARY KEY, word text);
CREATE INDEX ON moved (word);
INSERT INTO moved (word) SELECT md5(i::text) || chr(228) FROM generate_series(1, 5000) AS i;
"""
OLD_SUM = "SELECT count(*), md5(string_agg(id || word, ',' ORDER BY id)) FROM moved"


def test_postgresql_of_a_project_made_by_hand_moves(site: Site) -> None:
    """As the document says it, word by word; the old volume is not touched."""
    host, typed = site.host, steps(ROOT / "docs/docker.md", MOVING)
    image = host.run(f"docker inspect -f '{{{{.Config.Image}}}}' {STACK}_postgres").stdout.strip()
    host.run(
        "mkdir -p /opt/old && cat >/opt/old/docker-compose.yml",
        stdin='version: "3"\n' + OLD_PROJECT.replace("IMAGE", image),
    )
    old = "cd /opt/old && docker-compose exec -T postgres psql -XAtqU postgres -v ON_ERROR_STOP=1"
    host.run("cd /opt/old && docker-compose up -d")
    eventually(lambda: host.run(f"{old} -c 'CREATE DATABASE psscript'"), 30)
    host.run(f"{old} -d psscript", stdin=OLD_ROWS)
    before = host.run(f'{old} -d psscript -c "{OLD_SUM}"').stdout.strip()
    for step in typed:
        host.run(f"cd /opt/{'old' if step.where == 'old' else STACK} && {step.text}")
    assert before.startswith("5000|")
    assert site.stack.sql(OLD_SUM) == before
    assert "old_postgres_data" in host.run("docker volume ls -q").stdout.split()
    site.stack.sql("DROP TABLE moved")
    site.changes_nothing()
    host.run("docker volume rm old_postgres_data && rm -r /opt/old /root/psscript.dump")


def test_release_whose_postgresql_cannot_read_the_volume(site: Site) -> None:
    """Data are not upgraded by the way."""
    site.refuses("docker_debian", "PostgreSQL 17", "15", docker_debian="13")


def test_what_the_host_publishes_speaks_tls(site: Site) -> None:
    """All eight ports, by the estate's authority; renewed without a new container; and back."""
    site.look()
    site.changes(
        {"tls_enabled": True},
        "postgres: reload",
        "pgbouncer: reload",
        "redis-replica-2: recreate (docker-compose.yml): it restarts, and its data stay",
    )
    site.settles(KEPT)
    assert site.replaced() == {*REDIS, *SENTINELS}
    before = site.certificates()
    assert all(before.values()), before
    for port in (6379, 26379):
        assert "+PONG" in site.pings(port, tls=True)
        assert site.pings(port, tls=False) == ""
    site.look()
    done = site.project.pyinfra("-y", "inventory.py", "tasks.tls.renew")
    assert done.code == 0, done.output
    after = site.certificates()
    assert all(after.values()) and not {*before.values()} & {*after.values()}, after
    assert site.replaced() == set() and site.restarted() <= {*SENTINELS}
    site.changes_nothing()
    keys = f"find {HOME}/docker/*/signed -name key.pem -printf '%m %U:%G\\n'"
    assert {*site.host.run(keys).stdout.splitlines()} == {"640 0:532", "640 0:637"}
    site.project.deploy("tasks.health.verify")
    site.changes({"tls_enabled": False}, "postgres: reload", "pgbouncer: reload")
    site.settles(KEPT)
    assert not any(site.certificates().values()) and "+PONG" in site.pings(6379, tls=False)


def test_after_all_of_it_nothing_is_left_to_do(site: Site) -> None:
    """What was refused has left no trace."""
    site.stack.check_all(KEPT)
    site.changes_nothing()


def test_host_without_an_engine(lab: Lab, tmp_path: Path) -> None:
    """One line says what to install, and nothing was."""
    host = lab.host("plain")
    project = Project(tmp_path)
    docker_stack.describe(project, host)
    before = footprint(host)
    run = project.pyinfra("-y", "inventory.py", "deploy.py")
    assert run.code == 1
    check_lines(run, [(host.name, "docker", "apt-get install"), ("nothing was changed",)])
    assert footprint(host) == before
