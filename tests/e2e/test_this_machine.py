"""Story: somebody clones this on a fresh machine without systemd and types `make deploy`."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import website
from tests.e2e.backups import archive, script, succeeded
from tests.e2e.project import ROOT
from tests.e2e.proof import SERVICES, Done, Stack, readers
from tests.e2e.wait import eventually
from tests.lab import Host, Lab

CLONE = "/srv/datatier"
SHOP = "/srv/shop"
PORTS = (5432, 6432, 6379, 6380, 6381, 26379, 26380, 26381)
KEPT = "written before the kills"
# Debian's own of 06:25 takes up to half an hour (apt-compat).
JOB = "sleep 1900"


def _copy_of_repository(target: Path) -> None:
    """What a clone would hold if the working tree were committed."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _in_clone(machine: Host, command: str) -> Done:
    return machine.run(f"cd {CLONE} && {command}", check=False, timeout=600)


@pytest.fixture(scope="module")
def machine(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A fresh machine with a clone on which `make setup` has been run."""
    machine = lab.machine("machine")
    clone = tmp_path_factory.mktemp("clone") / "datatier"
    _copy_of_repository(clone)
    with (clone / "group_data/all.py").open("a") as settings:
        settings.write(f"apps = {website.APPS!r}\n")
    machine.put(clone, "/srv")
    website.put(machine)
    job = f"* * * * * root flock -n /run/job {JOB}"
    machine.run(f"mkdir -p /etc/cron.d && echo '{job}' >/etc/cron.d/job")
    done = _in_clone(machine, "make setup")
    assert done.returncode == 0, done.stderr
    return machine


@dataclass(frozen=True)
class Plan:
    """A dry run on the bare machine, and what it left behind."""

    run: Done
    packages_before: str
    packages_after: str
    touched: list[str]

    @property
    def operations(self) -> set[str]:
        """The operations that the dry run says would change something."""
        return {op["name"] for op in json.loads(self.run.stdout)["plan"] if op["hosts_with_change"]}


# What Python and pyinfra keep for themselves wherever they run.
_OWN = re.compile(rf"{CLONE}(?:/.*)?/__pycache__(?:/.*)?|{CLONE}/pyinfra-debug\.log")


@pytest.fixture(scope="module")
def planned(machine: Host) -> Plan:
    """The dry run of the bare machine."""
    _in_clone(machine, ".venv/bin/pyinfra --help && .venv/bin/python -m compileall -q tasks .venv")
    before = machine.run("dpkg -l").stdout
    machine.run("touch /var/tmp/stamp")
    run = _in_clone(machine, ".venv/bin/pyinfra --dry --json inventory.py deploy.py")
    touched = machine.run("find / -xdev -cnewer /var/tmp/stamp").stdout.splitlines()
    mine = [path for path in touched if not _OWN.fullmatch(path)]
    return Plan(run, before, machine.run("dpkg -l").stdout, mine)


@pytest.fixture(scope="module")
def deployed(machine: Host, planned: Plan) -> Done:
    """The first real run, as the documentation says."""
    done = _in_clone(machine, "make deploy")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def stack(machine: Host, deployed: Done) -> Stack:
    """The stack with something in it."""
    text = machine.run(f"cat {CLONE}/.env").stdout
    secrets = dict(line.split("=", 1) for line in text.splitlines())
    stack = Stack(machine, secrets)
    stack.remember(KEPT)
    return stack


def _changed(run: Done) -> set[str]:
    """Operations with a number in the column "Success" of the table that ends a run."""
    _, _, table = run.stderr.partition("--> Results:")
    rows = (re.split(r"\s{2,}", line.strip()) for line in table.splitlines())
    return {row[0] for row in rows if len(row) == 5 and row[2].isdigit()} - {"Grand total"}


def test_dry_run_of_a_bare_machine_changes_nothing(machine: Host, planned: Plan) -> None:
    """Exit 0, a plan, no secret written, no package, no file."""
    assert planned.run.returncode == 0, planned.run.stderr
    assert len(planned.operations) > 10
    assert planned.packages_after == planned.packages_before
    assert planned.touched == []


def test_first_run_does_what_the_dry_run_said(planned: Plan, deployed: Done) -> None:
    """No operation more, none less."""
    assert _changed(deployed) == planned.operations


def test_secrets_are_generated_for_their_owner_only(machine: Host, stack: Stack) -> None:
    """`.env` is 0600, its values are strong, and none of them was printed."""
    assert machine.run(f"stat -c '%a %U' {CLONE}/.env").stdout.strip() == "600 root"
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD"} <= set(stack.secrets)
    assert len(set(stack.secrets.values())) == len(stack.secrets)
    assert all(len(value) >= 24 for value in stack.secrets.values())


def test_no_secret_is_printed(planned: Plan, deployed: Done, stack: Stack) -> None:
    """Neither the dry run nor the run shows a secret."""
    output = deployed.stdout + deployed.stderr + planned.run.stdout + planned.run.stderr
    assert [name for name, value in stack.secrets.items() if value in output] == []


def test_application_reaches_its_database_through_the_pooler(stack: Stack) -> None:
    """The role of `.env` owns the database, and it is the pooler that answers."""
    assert stack.sql("SELECT current_user, current_database()") == "psscript|psscript"
    assert stack.sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = "
                     "current_database()") == "psscript"  # fmt: skip


def test_sentinel_as_the_documentation_asks_it(machine: Host, deployed: Done) -> None:
    """Root types what the documentation says and needs no password."""
    words = machine.run("redis-cli -p 26379 SENTINEL master mymaster").stdout.split("\n")
    assert words[words.index("num-slaves") + 1] == "2"
    assert words[words.index("num-other-sentinels") + 1] == "2"


def test_what_the_master_takes_the_replicas_have(stack: Stack) -> None:
    """A write on 6379 is read on 6380 and 6381."""
    stack.check_replicates()


def test_strangers_are_refused(stack: Stack) -> None:
    """No password, a wrong one, and an unprivileged user of the machine."""
    stack.check_refuses_strangers()


@pytest.mark.parametrize("port", PORTS)
def test_nothing_listens_to_the_network(machine: Host, deployed: Done, port: int) -> None:
    """This machine is its own only client."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((machine.address, port), timeout=5).close()


def test_second_run_changes_nothing(machine: Host, stack: Stack) -> None:
    """Nothing is done twice, and a dry run says so."""
    _check_nothing_is_left_to_do(machine)
    dry = _in_clone(machine, ".venv/bin/pyinfra --dry --diff --json inventory.py deploy.py")
    assert dry.returncode == 0, dry.stderr
    assert [op for op in json.loads(dry.stdout)["plan"] if op["hosts_with_change"]] == []
    assert not re.search(r"^(\x1b\[\d+m)?[-+@]", dry.stderr.replace("--> ", ""), re.MULTILINE)


def test_it_goes_on_from_a_repository_of_its_own(machine: Host, stack: Stack) -> None:
    """With the inventory, settings and secrets of the clone, which then is a newer Datatier."""
    committed = "git add -A && git -c user.name=me -c user.email=me@localhost commit -qm"
    made = _in_clone(machine, f"git init -q && {committed} first && make init DIR={SHOP}")
    assert made.returncode == 0, made.stderr
    again = _in_clone(machine, f"make init DIR={SHOP}")
    assert again.returncode != 0 and f"{SHOP} is not empty" in again.stderr
    chosen = f"{SHOP}/group_data/all.py"
    assert machine.run(f"grep -Ec '^(redis_default_user|tls_enabled)' {chosen}").stdout == "2\n"
    machine.run(f"cp {CLONE}/group_data/all.py {chosen}")
    # The same packages need not be installed a second time.
    machine.run(f"cp {CLONE}/.env {SHOP} && ln -s {CLONE}/.venv {SHOP}/datatier/.venv")
    assert machine.run(f"git -C {SHOP} status --porcelain --ignored").stdout.count("!! .env") == 1
    drift = machine.run(f"cd {SHOP} && make drift")
    assert "1 host compared: 0 changes" in drift.stdout
    script = "/usr/local/bin/redis-cli"
    newer = "echo '# newer' >>templates/redis/redis-cli.j2"
    assert _in_clone(machine, f"{newer} && {committed} second").returncode == 0
    upgrade = "git -C datatier fetch -q && git -C datatier checkout -q FETCH_HEAD"
    sized = "stty rows 24 columns 80; make deploy"
    terminal = f"script --quiet --return --command '{sized}' /dev/null"
    shown = machine.run(f"cd {SHOP} && {upgrade} && {terminal}", timeout=600).stdout
    assert machine.run(f"tail -n 1 {script}").stdout == "# newer\n"
    # What is on a small terminal at the end: pyinfra's results are above it.
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).rstrip().splitlines()
    seen = "\n".join(lines[-23:])
    assert "--> Results:" in shown and "--> Results:" not in seen
    table, _, ends = seen.rpartition("connect (passwords: .env)")
    assert {*SERVICES} <= {*re.findall(r"^ (\S+) .* ok ", table, re.MULTILINE)}, seen
    assert "psql -h " in ends and max(map(len, seen.splitlines())) <= 80, seen


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_comes_back(stack: Stack, service: str) -> None:
    """Within ten seconds, without help, with what was written before."""
    stack.check_survives_kill(service, KEPT, seconds=10)


def test_an_application_comes_back_without_systemd(machine: Host, stack: Stack) -> None:
    """With what was stated in its environment, under a user of its own."""
    before = website.check(machine)
    machine.run(f"kill -9 {before['pid']}")
    eventually(lambda: website.check(machine), 10)
    assert website.ask(machine)["pid"] != before["pid"]


def test_a_server_that_hands_have_started_is_not_the_services(machine: Host, stack: Stack) -> None:
    """It answers, and listens on no port; what runit starts would end at once, again and again."""
    pid = "$(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)"
    by_hand = "pg_ctlcluster 15 main start -- -o '-c listen_addresses='"
    machine.run(f"cd / && sv -w 60 stop postgres && {by_hand}")
    drift = _in_clone(machine, "make drift 2>&1")
    assert "cluster 15/main: its service has not started it: kill -INT" in drift.stdout, drift
    assert "nothing was changed" in drift.stdout
    machine.run(f"p={pid}; kill -INT $p; while kill -0 $p; do sleep 0.1; done; sv start postgres")
    eventually(lambda: stack.sql("SELECT 1"), 30)
    _check_nothing_is_left_to_do(machine)


def test_backups_are_made_and_come_back_without_systemd(machine: Host, stack: Stack) -> None:
    """Each job once; then the keys are lost."""
    made = ("postgres-backup.sh full", "postgres-backup.sh incremental", "redis-backup.sh")
    for command in (*made, "backup.sh verify", "backup.sh drill", "health-check.sh"):
        succeeded(script(machine, command))
    stack.redis(6379, "SET", "kept", "overwritten")
    succeeded(script(machine, "restore-redis.sh /backups/redis/redis_LATEST.rdb.gz"))
    for port in (6379, 6380, 6381):
        assert stack.redis(port, "GET", "kept") == KEPT
    _check_nothing_is_left_to_do(machine)


def test_a_lost_data_directory_comes_back_without_systemd(machine: Host, stack: Stack) -> None:
    """While the server runs, in a container that may not look into other users' processes."""
    # CapEff without bit 19: with CAP_SYS_PTRACE this would be the story of test_lost_directory.
    held = int(machine.run("sed -n 's/^CapEff:\t//p' /proc/self/status").stdout, 16)
    assert not held & 1 << 19
    stack.sql("INSERT INTO kept VALUES ('after the backups')")
    archive(machine)
    machine.run("rm -rf /var/lib/postgresql/15/main")
    done = succeeded(script(machine, "restore-cluster.sh"))
    assert "timeline 2" in done.stderr
    # Clients were let in again by the service, and a second restore finds it running.
    _check_kept(stack)
    succeeded(script(machine, "restore-cluster.sh --yes"))
    _check_kept(stack)
    _check_nothing_is_left_to_do(machine)


def _check_kept(stack: Stack) -> None:
    words = "SELECT string_agg(word, ',' ORDER BY word) FROM kept"
    eventually(lambda: stack.sql(words), 20)
    assert stack.sql(words) == f"after the backups,{KEPT}"


def _check_nothing_is_left_to_do(machine: Host) -> None:
    run = _in_clone(machine, "make deploy")
    assert run.returncode == 0, run.stderr
    assert "Grand total" in run.stderr
    assert _changed(run) == set()


def test_units_count_for_nothing_where_another_init_boots(machine: Host, stack: Stack) -> None:
    """Packages bring systemctl to many a machine, and enable units that never start there."""
    machine.run("DEBIAN_FRONTEND=noninteractive apt-get -q -y install systemd", timeout=300)
    enabled = machine.run("systemctl is-enabled redis-server.service", check=False)
    assert enabled.stdout.strip() == "enabled"
    _check_nothing_is_left_to_do(machine)


def test_it_comes_off_and_comes_back_without_systemd(machine: Host, stack: Stack) -> None:
    """No process, no service, no secret in a file is left; a deployment finds the data."""
    _check_comes_off(machine, stack, "")
    run = _in_clone(machine, "make deploy")
    assert run.returncode == 0, run.stderr
    for service in ("pgbouncer", "redis-6380", "redis-sentinel-26379"):
        assert machine.run(f"sv status /etc/service/{service}").stdout.startswith("run: ")
    eventually(lambda: _check_word(stack), 20)
    website.check(machine)
    _check_nothing_is_left_to_do(machine)


def _check_word(stack: Stack) -> None:
    assert KEPT in stack.sql("SELECT string_agg(word, ',') FROM kept")
    assert [stack.redis(port, "GET", "kept") for port in (6379, 6380, 6381)] == [KEPT] * 3


def test_it_goes_with_its_data_without_systemd(machine: Host, stack: Stack) -> None:
    """Typed with its name."""
    _check_comes_off(machine, stack, "--data destroy_data=true --data confirm=psscript")
    left = "ls -A /var/lib/postgresql /etc/postgresql /var/lib/redis; ls -d /backups"
    assert machine.run(left, check=False).stdout.split() == [
        "/etc/postgresql:",
        "/var/lib/postgresql:",
        "/var/lib/redis:",
    ]


def _check_comes_off(machine: Host, stack: Stack, data: str) -> None:
    remove = f"inventory.py tasks.remove.deploy {data}"
    dry = _in_clone(machine, f".venv/bin/pyinfra --dry --json {remove}")
    planned = {op["name"] for op in json.loads(dry.stdout)["plan"] if op["hosts_with_change"]}
    run = _in_clone(machine, f".venv/bin/pyinfra -y {remove}")
    assert run.returncode == 0, run.stderr
    assert _changed(run) == planned
    assert _changed(_in_clone(machine, f".venv/bin/pyinfra -y {remove}")) == set()
    names = "postgres|pgbouncer|redis-server"
    assert machine.run(f"pgrep -x '{names}'", check=False).stdout == ""
    assert machine.run("pgrep -fx '/usr/sbin/cron -f'", check=False).stdout == ""
    assert machine.run(f"pgrep -fx '{JOB}'").stdout != ""
    assert machine.run("pgrep -u app-website,app-worker", check=False).stdout == ""
    assert re.findall("redis|app-", machine.run("ls /etc/service /etc/sv").stdout) == []
    places = ("/etc", "/var/lib", "/usr/local", "/scripts", "/run")
    words = [word for name, word in stack.secrets.items() if "PASSWORD" in name]
    assert readers(machine, "root", words, *places) == []
