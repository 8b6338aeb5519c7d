"""Stories of what leaves the settings where the stack is containers, and of the stack that goes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tests.e2e import links, standin
from tests.e2e.backups import NO_SCHEDULES, succeeded
from tests.e2e.docker_site import WELL_SECONDS, Site, made
from tests.e2e.docker_stack import REDIS, SENTINELS, apps, containers
from tests.e2e.project import Data, Project
from tests.e2e.proof import Done
from tests.e2e.test_trouble import check_lines
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

KEPT = "written before anything left"
SETTINGS: Data = {**NO_SCHEDULES, "docker_debian": "12", "apps": apps()}
MORE: Data = {
    "redis_ports": [6379, 6380, 6381, 6382],
    "sentinel_ports": [26379, 26380, 26381, 26382],
    "sentinel_quorum": 3,
    "apps": [*apps(), {"name": "worker", "port": 9000, "image": standin.IMAGE,
                       "env": {"PORT": "9000"}}],
}  # fmt: skip
GONE = ("redis-replica-3", "redis-sentinel-4", "worker")
PRUNE: Data = {"docker_prune": True, "sentinel_prune": True}
REMOVE = "tasks.remove.deploy"


@pytest.fixture(scope="module")
def site(project: Project, lab: Lab) -> Site:
    """A stack with an instance, a Sentinel and an application more than the other stories have."""
    return made(project, lab, {**SETTINGS, **MORE}, KEPT)


def _lead(site: Site, name: str) -> None:
    """Makes this one the master, by a run that loses nothing."""
    if site.stack.master == name:
        return
    site.stack.redis(name, "CONFIG", "SET", "replica-priority", "1")
    try:
        eventually(lambda: _is_favoured(site), WELL_SECONDS)
        with site.writing():
            drill = site.project.deploy("tasks.drill.failover")
        assert {operation for operation, _ in drill.changed} == {"Drill: failover"}
        assert re.search(r"acknowledged writes lost +0 of [0-9]{2,}", drill.stderr), drill.stderr
    finally:
        site.stack.redis(name, "CONFIG", "SET", "replica-priority", "100")


def _is_favoured(site: Site) -> None:
    for each in SENTINELS:
        seen = site.stack.sentinel(each, "REPLICAS")
        assert sorted(r["slave-priority"] for r in seen)[0] == "1", seen


# Where containers of a kind listen, at their own addresses.
INSIDE = {"postgres": 5432, "pgbouncer": 6432, "redis-master": 6379, "redis-sentinel-1": 26379}


def _reached(client: Host, places: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    tried = {
        place: client.run(f"timeout 5 bash -c ': <>/dev/tcp/{place[0]}/{place[1]}'", check=False)
        for place in places
    }
    refused = [each.stderr for each in tried.values() if each.returncode]
    assert all("Connection refused" in each for each in refused), refused
    return {place for place, each in tried.items() if not each.returncode}


def test_strangers_reach_no_container(site: Site, lab: Lab) -> None:
    """Neither by a port of the host nor, as a neighbor, at its own address; others' are open."""
    host, stranger, found = site.host, lab.host("stranger"), containers(site.host)
    stranger.run(f"ip route add 172.25.0.0/16 via {host.address}")
    host.run(f"docker run -d --name theirs -e PORT=6379 -p 16379:6379 {standin.IMAGE}")
    ours = {(found[service].address, port) for service, port in INSIDE.items()}
    # As Docker does for a port that is published at this address.
    to = f"-d {host.address} -p tcp --dport 6380 -j DNAT --to {found['redis-master'].address}:6379"
    host.run(f"iptables -t nat -I PREROUTING {to}")
    ours |= {(host.address, 6380)}
    theirs = {(host.address, 16379)}
    eventually(lambda: _is_reached(stranger, ours | theirs), 30)
    site.changes({"firewall_enabled": True}, "firewall: load (its table is missing)")
    assert _reached(stranger, ours | theirs) == theirs
    # Some kernels have the host look at what containers tell each other.
    host.run("sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || :")
    neighbor = f"docker exec {found['redis-master'].id} timeout 5 bash -c"
    host.run(f"{neighbor} ': <>/dev/tcp/{found['postgres'].address}/5432'")
    site.changes({"firewall_allow": [stranger.address]}, "firewall: load (new rules)")
    assert _reached(stranger, ours | theirs) == ours | theirs
    site.changes({"firewall_enabled": False, "firewall_allow": []})
    assert _reached(stranger, ours | theirs) == ours | theirs
    assert "datatier" not in host.run("nft list tables").stdout
    host.run(f"docker rm -f theirs; iptables -t nat -D PREROUTING {to}")
    stranger.remove()


def _is_reached(client: Host, places: set[tuple[str, int]]) -> None:
    assert _reached(client, places) == places


def test_a_master_that_leaves_the_settings_hands_over_first(site: Site) -> None:
    """Its removal is refused until somebody else leads; that run loses nothing."""
    _lead(site, "redis-replica-3")
    site.settings = dict(SETTINGS)
    site.refuses("docker_prune: the master would be removed: fail over first", **PRUNE)
    site.project.settings(site.settings)
    with site.writing():
        assert site.project.deploy("tasks.compose.failover").changed
    assert site.stack.master in REDIS


def test_what_is_taken_away_is_told_and_then_removed(site: Site) -> None:
    """A replica, a Sentinel and an application less; the data of the replica stay."""
    plan = site.project.plan()
    check_lines(plan, [(f"{name}: is not in the project any more; docker_prune",) for name in GONE])
    assert not {name for name, _ in plan.planned if "prune" in name}
    assert set(GONE) <= set(containers(site.host))
    site.changes(PRUNE)
    assert set(GONE).isdisjoint(containers(site.host))
    volumes = site.host.run("docker volume ls -q").stdout.split()
    assert "psscript_redis_replica_3_data" in volumes
    assert "psscript_redis_sentinel_4_data" not in volumes
    site.settles(KEPT)


def test_the_last_instance_restarts_in_place(site: Site) -> None:
    """Nobody can replace it: the plan says so, and a run is not refused for it."""
    _lead(site, "redis-master")
    alone = "no replica: unavailable meanwhile"
    site.changes({"redis_ports": [6379]}, f"it restarts, and its data stay; {alone}")
    assert {name for name in containers(site.host) if name in REDIS} == {"redis-master"}
    why = "databases: CONFIG SET does not take it"
    site.changes({"redis_extra": {"databases": 20}}, f"redis-master: restart ({why}); {alone}")
    assert site.stack.redis("redis-master", "CONFIG", "GET", "databases").split()[-1] == "20"
    assert site.stack.redis("redis-master", "GET", "kept") == KEPT
    site.settings = dict(SETTINGS)
    site.changes({}, "redis-replica-2: create")
    site.settles(KEPT)


# Where users of containers have directories on the host, and what runs along them.
PLACES = ("/var/lib/docker/volumes", "/opt/psscript")
JOBS = (
    *("postgres-backup.sh full", "redis-backup.sh", "backup.sh drill", "health-check.sh"),
    "restore-postgres.sh /backups/postgres/psscript_full_LATEST.sql.gz",
)
KEEPER = "psscript_backup-service"


def _job(site: Site, job: str) -> Done:
    return site.host.run(f"docker exec {KEEPER} /scripts/{job}", check=False, timeout=200)


def test_the_status_page_of_containers_is_fetched(site: Site) -> None:
    """It is in the directory that the backup service shares with the host."""
    _job(site, "health-check.sh")
    run = site.project.pyinfra("-y", "inventory.py", "tasks.status.fetch")
    assert run.code == 0 and "written 0 min ago" in run.output
    (page,) = site.project.directory.glob("status-*.html")
    assert page.read_text() == site.host.run("cat /opt/psscript/backups/status.html").stdout
    assert "Sentinels of mymaster" in page.read_text()


def test_links_of_containers_users_lead_root_nowhere(site: Site) -> None:
    """In volumes and in the backups, neither the host's root nor a container's follows one."""
    succeeded(_job(site, JOBS[0]))
    found = links.entries(site.host, *PLACES)
    assert any("/volumes/psscript_postgres_data/" in path for path in found)
    assert any("/backups/pgbackrest/" in path for path in found)
    with links.planted(site.host, links.waves(found)[0], KEEPER):
        site.project.settings({**SETTINGS, "redis_maxmemory": "300mb", "postgres_work_mem": "30MB"})
        said = site.project.pyinfra("-y", "--diff", "inventory.py", "deploy.py").output
        for done in (_job(site, job) for job in JOBS):
            said += done.stdout + done.stderr
        assert links.CONTENT not in said
    # A server that is shown another lock file stops within a minute, and starts again.
    eventually(lambda: site.stack.sql("SELECT 1"), 60)
    # The health table names those that have failed.
    for job in ("postgres-backup.sh full", "backup.sh drill"):
        succeeded(_job(site, job))
    site.project.settings(site.settings)


def test_it_comes_off_its_host_and_comes_back(site: Site) -> None:
    """Containers, network and files go; volumes, backups, `.env` and images stay."""
    plan = site.project.plan(REMOVE)
    assert site.project.deploy(REMOVE).changed == plan.planned
    assert site.project.deploy(REMOVE).changed == set()
    assert containers(site.host) == {}
    home = site.host.run("ls -A /opt/psscript").stdout.split()
    assert home == [".env", "backups"]
    assert "psscript_postgres_data" in site.host.run("docker volume ls -q").stdout.split()
    site.project.deploy()
    site.settles(KEPT)


def test_it_goes_with_its_data(site: Site) -> None:
    """Volumes and backups, typed with the stack's name."""
    refused = site.project.pyinfra("-y", "--data", "destroy_data=true", "inventory.py", REMOVE)
    assert refused.code == 1
    check_lines(refused, [("confirm: should be 'psscript'",), ("nothing was changed",)])
    site.settles(KEPT)
    given = ("--data", "destroy_data=true", "--data", "confirm=psscript")
    with links.planted(site.host, links.tops(links.entries(site.host, *PLACES))):
        assert site.project.deploy(REMOVE, *given).changed
    assert site.project.deploy(REMOVE, *given).changed == set()
    assert site.host.run("docker volume ls -q").stdout == ""
    assert site.host.run("ls -A /opt/psscript").stdout.split() == [".env"]
