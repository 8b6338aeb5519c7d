"""Story: hosts are lost for good, and everything comes back on new ones, from S3 or a dump."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backups import NO_SCHEDULES, amid_a_full, archive, rows, script, succeeded, write
from tests.e2e.bucket import ACCESS_KEY, BUCKET, SECOND, SECRET_KEY, Store, running
from tests.e2e.documented import Step, steps
from tests.e2e.interrupted import Interruptible
from tests.e2e.project import EMBEDDED, Run
from tests.e2e.proof import Done, Stack, admin, said
from tests.e2e.wait import eventually
from tests.lab import Host, Lab
from tests.lab.process import docker

ROOT = Path(__file__).parents[2]

RECOVERY = ROOT / "docs/recovery.md"
TOLD = "/var/log/told"
FIRST_PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def store(lab: Lab) -> Iterator[Store]:
    """An S3 server that the hosts reach."""
    with running(lab.gateway) as store:
        yield store


@contextlib.contextmanager
def away(host: Host, store: Store) -> Iterator[None]:
    """The way from a host to the store is cut."""
    host.run(f"ip route add unreachable {store.gateway}/32")
    try:
        yield
    finally:
        host.run(f"ip route del unreachable {store.gateway}/32")


# --- The estate ----------------------------------------------------------------------------------


@dataclass
class Site:
    """Servers on one host and backups on another; either can be lost and built again."""

    lab: Lab
    project: Interruptible
    db: Host
    keeper: Host

    def new(self, name: str) -> Host:
        """A new host: nothing on it has been configured, but its packages are installed."""
        return self.lab.installed_host(name)

    def deploy(self) -> set[tuple[str, str]]:
        """Deploys to the hosts that there are now; returns what changed."""
        self.describe()
        return self.project.deploy().changed

    def describe(self) -> None:
        """Writes the inventory of the hosts that there are now."""
        groups: dict[str, list[tuple[str, dict[str, Any]]]] = {group: [] for group in EMBEDDED}
        for host in (self.db, self.keeper):
            data = {**host.ssh_data(), "address": host.address}
            for group in groups:
                if (group == "backup") == (host is self.keeper):
                    groups[group].append((host.name, {**data, **EMBEDDED[group]}))
        self.project.inventory(groups)

    @property
    def stack(self) -> Stack:
        """The servers."""
        return Stack(self.db, self.project.secrets)

    def job(self, command: str) -> Done:
        """A script on the backup host, whatever its exit code."""
        return script(self.keeper, command)

    def done(self, command: str) -> Done:
        """A script on the backup host that must succeed."""
        return succeeded(self.job(command))

    def typed(self, step: Step, more: str = "") -> Done:
        """What the page has on a host, whatever its exit code."""
        host = self.keeper if step.where.startswith("backup") else self.db
        return host.run(f"{step.text} {more}", check=False, timeout=300)

    def deployed(self, step: Step) -> Run:
        """The same where one deploys, with the hosts that there are now."""
        self.describe()
        words = step.text.removeprefix("pyinfra ").split()
        assert not step.where and words[0] == "inventory.py"
        return self.project.pyinfra("-y", "--json", *words)

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What the backup host's manifests say, by the artifact's path below its directory."""
        lines = self.keeper.run("cd /backups && tail -n +1 -q */*.manifest.json | cat").stdout
        found = [json.loads(text) for text in re.split(r"(?<=^})\n", lines, flags=re.M) if text]
        return {f"{'redis' if m['kind'] == 'redis' else 'postgres'}/{m['name']}": m for m in found}


def keys(stack: Stack) -> dict[str, str]:
    """Every key of the master and its value."""
    names = stack.redis(6379, "KEYS", "*").split()
    return {name: stack.redis(6379, "GET", name) for name in names}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Interruptible:
    """What deploys, to the end or not."""
    return Interruptible(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def site(lab: Lab, store: Store, project: Interruptible) -> Site:
    """The estate at its beginning, with the bucket's credentials and a passphrase in .env."""
    secrets = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "BACKUP_S3_FAR_AWAY_ACCESS_KEY": ACCESS_KEY,
        "BACKUP_S3_FAR_AWAY_SECRET_KEY": SECRET_KEY,
        "BACKUP_ENCRYPTION_PASSPHRASE": FIRST_PASSPHRASE,
    }
    lines = "".join(f"{name}='{value}'\n" for name, value in secrets.items())
    (project.directory / ".env").write_text(lines)
    (project.directory / ".env").chmod(0o600)
    project.settings(
        {
            **NO_SCHEDULES,
            "backup_s3_bucket": BUCKET,
            "backup_s3_endpoint": store.endpoint,
            "backup_s3_object_lock_days": 7,
            "backup_s3_prefix": "estate",
            "backup_s3_further": [{"bucket": SECOND, "endpoint": store.endpoint}],
            "backup_alert_command": f"cat >>{TOLD}",
        }
    )
    made = Site(lab, project, lab.installed_host("db1"), lab.installed_host("keeper1"))
    made.deploy()
    made.stack.sql("CREATE TABLE notes (id serial PRIMARY KEY, word text)")
    return made


# --- (a) Copies off the host ---------------------------------------------------------------------


def test_every_backup_is_in_the_bucket(site: Site, store: Store) -> None:
    """Full, incremental and snapshot: the same bytes there, and the manifests say where."""
    write(site.stack, "full")
    site.stack.redis(6379, "SET", "first", "1")
    site.done("postgres-backup.sh full")
    write(site.stack, "incremental")
    site.done("postgres-backup.sh incremental")
    site.done("redis-backup.sh")

    manifests, there = site.manifests(), store.listed()
    assert sorted(m["kind"] for m in manifests.values()) == [
        "full",
        "globals",
        "incremental",
        "redis",
    ]
    for path, manifest in manifests.items():
        copy = f"estate/{path if manifest['sha256'] else 'pgbackrest'}"
        assert manifest["copies"] == [f"s3://{BUCKET}/{copy}", f"s3://{SECOND}/{copy}"]
        assert f"estate/{path}.manifest.json" in there & store.listed(SECOND)
        if manifest["sha256"]:
            assert hashlib.sha256(store.content(copy)).hexdigest() == manifest["sha256"]
    repository = site.keeper.run("cd /backups && find pgbackrest -type f ! -name '*.lock'").stdout
    assert {f"estate/{path}" for path in repository.split()} <= there


def test_no_backup_fails_while_the_bucket_is_away(site: Site, store: Store) -> None:
    """It is told; and the next run copies what is missing."""
    write(site.stack, "outage")
    before = store.listed()
    with away(site.keeper, store):
        start = time.monotonic()
        done = site.done("postgres-backup.sh incremental")
        assert time.monotonic() - start < 60
    assert "copy to S3: FAILED" in done.stderr
    assert "this bucket lacks new backups" in site.keeper.run(f"cat {TOLD}").stdout
    (late,) = (path for path, m in site.manifests().items() if not m["copies"])
    assert store.listed() == before

    site.done("redis-backup.sh")
    assert f"estate/{late}.manifest.json" in store.listed()
    places = [f"s3://{bucket}/estate/pgbackrest" for bucket in (BUCKET, SECOND)]
    assert site.manifests()[late]["copies"] == places
    assert "works again" in site.keeper.run(f"cat {TOLD}").stdout


# --- (b) Both hosts are lost ---------------------------------------------------------------------


def test_everything_comes_back_on_new_hosts(site: Site, store: Store) -> None:
    """Exactly what had been archived and copied: rows, keys, and a chain that goes on.

    By the lines of docs/recovery.md. The first bucket is as good as lost: the second has it all.
    """
    write(site.stack, "archived")
    for number in range(50):
        site.stack.redis(6379, "SET", f"key:{number}", str(number))
    archive(site.db)
    site.done("redis-backup.sh")
    wanted, kept = rows(site.stack), keys(site.stack)
    write(site.stack, "lost")
    site.stack.redis(6379, "SET", "lost", "1")
    site.db.remove()
    site.keeper.remove()

    site.db, site.keeper = site.new("db2"), site.new("keeper2")
    first, fetch, cluster, restore, full, last = steps(RECOVERY, "Everything")
    assert "not healthy" not in site.deployed(first).output
    fetched = succeeded(site.typed(fetch, f"--bucket {SECOND}.{store.gateway}"))
    assert "next: restore-cluster.sh --yes" in fetched.stderr
    assert re.search(r"kept as /backups/pgbackrest\.before_\d+", fetched.stderr)
    strangers = "find /backups/pgbackrest ! -user postgres -o -type f ! -perm 0640"
    assert site.keeper.run(strangers).stdout == ""
    refused = site.typed(full)
    assert refused.returncode == 1
    assert "restore-cluster.sh" in refused.stderr and "backup.sh adopt" in refused.stderr

    asked = script(site.db, "restore-cluster.sh")
    assert asked.returncode == 2 and "add --yes" in asked.stderr
    succeeded(site.typed(cluster))
    eventually(lambda: rows(site.stack), 20)
    assert rows(site.stack) == wanted and wanted[-1] == "archived"
    succeeded(site.typed(restore))
    assert keys(site.stack) == kept and len(kept) == 51

    succeeded(site.typed(full))
    site.done("backup.sh verify")
    run = site.deployed(last)
    assert run.code == 0 and run.changed == set(), run.output


def test_fetch_again_changes_nothing(site: Site, store: Store) -> None:
    """What is here is right, and newer than what is there: it stays."""
    before = store.listed()
    archive(site.db)
    again = site.done("backup.sh fetch")
    assert "fetched 0 files" in again.stderr
    assert site.keeper.run("ls -d /backups/pgbackrest.before_*").stdout.count("\n") == 1
    assert store.listed() == before


def test_what_another_hand_puts_into_the_bucket_is_refused(site: Site, store: Store) -> None:
    """A dump, its manifest and its checksum; a WAL segment more. The next copy mends it.

    What was there before is locked: as of then the bucket is whole.
    """
    site.done("redis-backup.sh")  # what has been verified since the last copy goes along
    before = store.listed()
    archive(site.db)
    dump = next(k for k in sorted(before) if "_full_" in k and k.endswith(".gpg"))
    kept = {key: store.content(key) for key in (dump, f"{dump}.manifest.json")}
    stranger = "estate/pgbackrest/archive/psscript/15-1/evil"
    evil = b"\\! touch /root/owned"
    digest = hashlib.sha256(evil).hexdigest()
    manifest = json.loads(kept[f"{dump}.manifest.json"])
    forged = json.dumps({**manifest, "sha256": digest, "bytes": len(evil)}).encode()
    moment = said(site.keeper.run("date -u +%FT%TZ"))
    time.sleep(1.1)  # versions have times of whole seconds
    for key, body in {dump: evil, f"{dump}.manifest.json": forged, stranger: evil}.items():
        store.client.put_object(
            Bucket=BUCKET, Key=key, Body=body, Metadata={"sha256": hashlib.sha256(body).hexdigest()}
        )
    refused = site.job("backup.sh fetch")
    assert refused.returncode == 1
    for key in (dump, f"{dump}.manifest.json"):
        assert f"{key.removeprefix('estate/')} is damaged in the bucket" in refused.stderr
    assert "15-1/evil is not in the signed list" in refused.stderr
    then = site.done(f"backup.sh fetch --as-of {moment}").stderr
    assert "fetched 0 files" in then and "damaged" not in then
    assert site.keeper.run("grep -rl /root/owned /backups || true").stdout == ""
    store.client.delete_object(Bucket=BUCKET, Key=stranger)
    site.done("redis-backup.sh")
    assert {key: store.content(key) for key in kept} == kept


def test_fetch_does_not_take_the_place_of_backups_that_only_this_host_has(
    site: Site, store: Store
) -> None:
    """It is refused in one line."""
    with away(site.keeper, store):
        site.done("postgres-backup.sh full")
    refused = site.job("backup.sh fetch")
    assert refused.returncode == 1
    assert "1 physical backups that the bucket does not" in refused.stderr.splitlines()[-1]
    # The next job copies what is missing.
    site.done("redis-backup.sh")


# --- (c) A new cluster, and a dump ---------------------------------------------------------------


def test_the_controller_has_lost_its_secrets(site: Site) -> None:
    """By the lines of docs/recovery.md: what hosts still have is kept, the rest is replaced."""
    *looks, replace = steps(RECOVERY, "`.env` is lost")
    env = site.project.directory / ".env"
    before = site.project.secrets
    env.unlink()
    site.describe()
    refused = site.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert refused.code == 1 and "nothing was changed" in refused.output
    assert not env.exists()
    shown = "".join(succeeded(site.typed(look)).stdout for look in looks)
    found = {name: value for name, value in before.items() if value in shown}
    assert set(before) - set(found) == {"POSTGRES_ROLE_PSSCRIPT_PASSWORD"}
    env.write_text("".join(f"{name}='{value}'\n" for name, value in found.items()))
    env.chmod(0o600)
    run = site.deployed(replace)
    assert run.code == 0, run.output
    replaced = (
        "PostgreSQL: roles and databases",
        "Secrets: generate what is missing",
        "Secrets: record",
    )
    assert run.changed == {(operation, site.db.name) for operation in replaced}
    assert {name for name, value in site.project.secrets.items() if before[name] != value} == {
        "POSTGRES_ROLE_PSSCRIPT_PASSWORD"
    }
    assert rows(site.stack)
    assert site.deploy() == set()


def test_the_database_host_is_lost(site: Site) -> None:
    """By the lines of docs/recovery.md, on a host with the same name; nothing archived is lost."""
    write(site.stack, "before its host was lost")
    archive(site.db)
    wanted = rows(site.stack)
    name = site.db.name
    site.db.remove()
    site.db = site.new(name)
    first, restore, last, *_ = steps(RECOVERY, "PostgreSQL's host")
    run = site.deployed(first)
    assert run.code == 1 and "not healthy: backup-service on keeper" in run.output, run.output
    succeeded(site.typed(restore))
    # All of Redis was on that host.
    (keys_back,) = (step for step in steps(RECOVERY, "Everything") if "restore-redis" in step.text)
    succeeded(site.typed(keys_back))
    run = site.deployed(last)
    assert run.code == 0, run.output
    assert rows(site.stack) == wanted


def test_a_dump_comes_back_in_a_new_cluster(site: Site) -> None:
    """Exactly the dump's rows; backups say why they fail until the new cluster is adopted."""
    site.done("postgres-backup.sh full")
    wanted = rows(site.stack)
    moment = said(site.keeper.run("sleep 1; date -u '+%F %T+00'; sleep 1"))
    write(site.stack, "after the dump")
    archive(site.db)
    site.db.remove()
    site.db = site.new("db3")
    site.describe()
    run = site.project.pyinfra("-y", "inventory.py", "deploy.py")
    assert run.code == 1 and "not healthy: backup-service on keeper" in run.output
    commands = {"backup.sh status": 1, "backup.sh status --brief": 1, "health-check.sh": 2}
    for command, code in commands.items():
        told = site.job(command)
        assert told.returncode == code
        for way in ("restore-cluster.sh", "backup.sh adopt", "restore-redis.sh"):
            assert way in told.stdout + told.stderr, command
    for kind in ("full", "incremental"):
        refused = site.job(f"postgres-backup.sh {kind}")
        last = refused.stderr.splitlines()[-1]
        assert refused.returncode == 1
        assert "restore-cluster.sh" in last and "backup.sh adopt" in last

    site.done("restore-postgres.sh /backups/postgres/psscript_full_LATEST.sql.gz.gpg")
    assert rows(site.stack) == wanted

    before = set(site.manifests())
    site.done("backup.sh adopt")
    site.done("redis-backup.sh")
    site.done("postgres-backup.sh incremental")
    new = {m["kind"] for path, m in site.manifests().items() if path not in before}
    assert new == {"full", "globals", "incremental", "redis"}
    site.done("backup.sh verify")
    assert site.deploy() == set()

    write(site.stack, "in the new cluster")
    site.done(f"restore-postgres.sh --time '{moment}' --database psscript")  # of the old cluster
    assert rows(site.stack) == wanted


# --- (d) Other secrets of backups ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["BACKUP_SIGNING_KEY", "BACKUP_ROLE_PASSWORD"])
def test_a_rotation_that_is_killed_at_each_change_fails_no_backup(site: Site, name: str) -> None:
    """Jobs read with the role, and sign what is in the bucket; of that they take what is signed."""
    before = site.project.secrets[name]
    made = list[tuple[str, str]]()
    for step in (name.lower(), "finish"):
        made += site.project.to_its_end(
            f"tasks.rotate.{step}", after=lambda: site.done("postgres-backup.sh incremental")
        )
        assert "fetched 0 files" in site.done("backup.sh fetch").stderr
        assert site.deploy() == set()
    assert len(made) > 3, made
    assert site.project.secrets[name] != before
    assert f"{name}_PREVIOUS" not in site.project.secrets


# --- (e) Another passphrase ----------------------------------------------------------------------


def test_another_passphrase_takes_over(site: Site, store: Store) -> None:
    """Every moment comes back while it is replaced; what the old one alone opens is kept."""
    old = FIRST_PASSPHRASE
    site.done("postgres-backup.sh full")
    write(site.stack, "before the rotation")
    archive(site.db)
    points = [(_moment(site), rows(site.stack))]
    failed = "SELECT failed_count FROM pg_stat_archiver"
    before = admin(site.db, failed)
    # WAL goes on being archived wherever the run ends.
    with amid_a_full(site.db, site.keeper):
        made = site.project.to_its_end(
            "tasks.rotate.backup_encryption_passphrase", after=lambda: archive(site.db)
        )
    assert ("deploy.py | Backup: repository", site.keeper.name) in made
    assert admin(site.db, failed) == before
    assert site.deploy() == set()
    write(site.stack, "in the middle")
    archive(site.db)
    points.append((_moment(site), rows(site.stack)))
    assert "was made with the new passphrase yet: make one" in _unfinished(site)

    site.done("redis-backup.sh")
    assert "of the passphrase before" in site.done("postgres-backup.sh incremental").stderr
    write(site.stack, "later")
    site.done("postgres-backup.sh incremental")
    for moment, wanted in points:
        site.done(f"restore-postgres.sh --time '{moment}' --database psscript")
        assert rows(site.stack) == wanted
    for which in ("--latest", f"--time '{points[1][0]}'"):
        succeeded(script(site.db, f"restore-cluster.sh {which} --yes"))
        eventually(lambda: rows(site.stack), 20)
    assert rows(site.stack) == points[1][1]
    site.done("postgres-backup.sh incremental")
    assert "was not restored by a drill yet" in _unfinished(site)
    site.done("backup.sh drill")

    lock = "flock /run/datatier/backup-mirror.lock sleep 600"
    site.keeper.run(f"setsid -f {lock} >/dev/null 2>&1; sleep 1")
    assert "another mirror job is running" in _unfinished(site)
    site.keeper.run(f"pkill -f '^{lock}'; pkill -f '^sleep 600'")
    site.project.to_its_end("tasks.rotate.finish")
    assert site.deploy() == set()
    write(site.stack, "after the rotation")
    site.done("postgres-backup.sh incremental")
    for command in ("verify", "status"):
        site.done(f"backup.sh {command}")
    assert any(key.startswith("estate/pgbackrest/2-") for key in store.listed())
    grep = f"grep -rlF '{old}' /etc /var/lib/datatier || true"
    assert [host.run(grep).stdout for host in (site.db, site.keeper)] == ["", ""]
    _require_kept(site, old)


def _moment(site: Site) -> str:
    return said(site.keeper.run("sleep 1; date -u '+%F %T+00'; sleep 1"))


def _unfinished(site: Site) -> str:
    run = site.project.pyinfra("-y", "inventory.py", "tasks.rotate.finish")
    assert run.code == 1, run.output
    return run.output


def _require_kept(site: Site, passphrase: str) -> None:
    """All that was made with it, with gpg and pgBackRest alone."""
    (place,) = site.keeper.run("ls -d /backups/before_*").stdout.split()
    opened = "gpg --batch --pinentry-mode loopback --passphrase-fd 0 -d"
    find = f"ls {place}/postgres/psscript_full_*.gpg | head -n 1"
    read = f"{opened} $({find}) 2>/dev/null | gunzip | tail -c 200"
    text = site.keeper.run(read, stdin=f"{passphrase}\n").stdout
    assert "PostgreSQL database dump complete" in text
    options = f"--repo1-path={place}/pgbackrest --repo1-cipher-type=aes-256-cbc"
    ask = f"PGBACKREST_REPO1_CIPHER_PASS='{passphrase}' pgbackrest --config=/dev/null {options}"
    for command in ("verify --output=text", "info"):
        done = site.keeper.run(f"cd /tmp && {ask} --stanza=psscript {command}", user="postgres")
        assert ("full backup: " in done.stdout) == (command == "info"), done.stdout


def test_a_new_backup_host_knows_the_new_passphrase_alone(site: Site) -> None:
    """What that does not open is beside the rest, whole; what remains is well."""
    site.keeper.remove()
    site.keeper = site.new("keeper3")
    site.describe()
    site.project.pyinfra("-y", "inventory.py", "deploy.py")
    fetched = site.done("backup.sh fetch").stderr
    assert "what the present passphrase does not open is set aside in" in fetched
    assert "deploy again, which finds it" in fetched.splitlines()[-1]
    site.deploy()
    again = site.done("backup.sh fetch").stderr
    assert "files were set aside before" in again and "S3: fetched 0 files" in again
    site.done("postgres-backup.sh full")
    for command in ("verify", "status"):
        site.done(f"backup.sh {command}")
    _require_kept(site, FIRST_PASSPHRASE)


# --- (f) A copy of /backups, no bucket -----------------------------------------------------------

_RUNBOOK = re.compile(r"### From a copy of `/backups`\n(.*?)\n#", re.S)
# A bare host has numbers only for the owners in an archive, and gives them to others.
_OTHER_NUMBERS = "groupadd -g 890 other && useradd -u 890 -g 890 other && chown -R other:other"


def test_everything_comes_back_from_a_copy(site: Site, tmp_path: Path) -> None:
    """By the lines of docs/recovery.md, on a host where the old numbers are another user's."""
    site.done("postgres-backup.sh full")
    write(site.stack, "before the copy")
    site.stack.redis(6379, "SET", "copied", "1")
    archive(site.db)
    site.done("redis-backup.sh")
    wanted, kept = rows(site.stack), keys(site.stack)
    section = _RUNBOOK.search((ROOT / "docs/recovery.md").read_text())
    assert section is not None
    copying, *bringing = re.findall(r"(?m)^(\w*[#$]) (.+)$", section[1])
    site.keeper.run(copying[1])
    copy = tmp_path / "backups.tar"
    docker("cp", f"{site.keeper.container}:/root/backups.tar", str(copy))
    site.db.remove()
    site.keeper.remove()

    site.db, site.keeper = site.new("db4"), site.new("keeper4")
    site.keeper.put(copy, "/root/backups.tar")
    site.describe()
    runs = []
    for prompt, line in bringing:
        if prompt == "$":
            runs.append(site.project.pyinfra("-y", "--json", *line.split()[1:]))
        else:
            host = site.db if prompt == "db2#" else site.keeper
            succeeded(host.run(line, check=False, timeout=300))
            if line.startswith("tar "):
                host.run(f"{_OTHER_NUMBERS} /backups/pgbackrest")
    assert "give to postgres what is in it" in runs[0].output
    assert "not healthy: backup-service on keeper" in runs[0].output
    assert [run.code for run in runs] == [1, 0] and runs[1].changed == set()
    assert (rows(site.stack), keys(site.stack)) == (wanted, kept)
    site.done("backup.sh verify")
    site.db.remove()
    site.keeper.remove()
