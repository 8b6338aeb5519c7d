"""Snapshots of Redis: taken, checked, and only then named."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backup import crypt, listener
from backup.config import Config, Endpoint, Redis
from backup.job import Failed, Log, run, stamp
from backup.manifest import Manifest, all_of, digest, finish
from backup.redis import rdb, roles, scratch
from backup.redis.restore import configured, repair, restore
from backup.redis.roles import Node, forget_phantoms, master, nodes, source, until
from backup.retention import link_latest

__all__ = ["master", "repair", "restore", "snapshot", "source", "verify"]

# A failover takes about 15 s, and a replica's first synchronisation its time.
SETTLE_SECONDS = 60
DUMP_SECONDS = 3600

# A name of RFC 6761, which never resolves: Sentinel cannot take its bearer for a replica.
HIDDEN = "datatier-backup.invalid"


@dataclass(frozen=True)
class _Dump:
    """What a dump was taken from; `shown` is what Sentinel may have seen of the taker."""

    origin: Node
    master: Endpoint
    shown: Endpoint | None


def snapshot(config: Config, log: Log) -> Manifest:
    """Takes a snapshot; it has a manifest and is what LATEST points at only when it is verified.

    Raises:
        Failed: a step failed, and earlier snapshots are as they were; or, with the snapshot in
            place, a Sentinel counts a replica that does not exist and cannot be reset now.
    """
    redis = configured(config)
    directory = config.artifacts("redis")
    directory.mkdir(parents=True, exist_ok=True)
    _clean(directory)
    # Half a restore hides the master; a Sentinel that is gone for good does not stop backups.
    with contextlib.suppress(Failed):
        repair(config, log)
    while (directory / (name := _name(config, started := datetime.now(UTC)))).exists():
        # Names are of a second, and a small snapshot takes less.
        time.sleep(0.1)
    clock = time.monotonic()
    packed = directory / f".{name}.partial"
    try:
        with rdb.workplace(config) as work:
            dump = _take(redis, work, log)
            found, checks = _checked(config, work / rdb.DUMP, packed, log)
        ended = datetime.now(UTC)
        manifest = Manifest(
            kind="redis",
            name=name,
            of="redis",
            stamp=stamp(started),
            sha256=digest(packed),
            bytes=packed.stat().st_size,
            started=_iso(started),
            ended=_iso(ended),
            duration=round(time.monotonic() - clock, 3),
            facts=_facts(dump, found),
        )
        for check in checks:
            manifest = manifest.with_verification(check, _iso(ended))
        with log.step(f"publish {name}"):
            _publish(directory, packed, manifest)
    finally:
        _clean(directory)
    with log.step("no phantom replica at any Sentinel"):
        for sentence in forget_phantoms(redis, dump.shown):
            log.line(sentence)
    return manifest


def _name(config: Config, moment: datetime) -> str:
    return f"redis_{stamp(moment)}.rdb.gz{crypt.suffix(config)}"


def verify(config: Config, manifest: Manifest) -> None:
    """Checks one snapshot as far as that goes without restoring it.

    Raises:
        Failed: the message names the check that failed.
    """
    with rdb.workplace(config) as work:
        rdb.validate(config, manifest, work / rdb.DUMP)


def emptied(config: Config, newest: Manifest) -> str:
    """What is wrong if the master is empty and not the one of which the newest snapshot is.

    An application that removes all keys leaves the identity of the replication as it is.

    Raises:
        Failed: the master is unknown, or it does not answer.
    """
    redis = configured(config)
    lasting = newest.facts.get("keys", 0) - newest.facts.get("expires", 0)
    leader = roles.master(redis)
    with roles.talking(leader, redis.login) as client:
        info = client.info()
        saves = re.search(r"\d", str(roles.command(client, "CONFIG", "GET", "save")))
        is_empty = roles.node_of(client, leader).keys == 0
    is_known = newest.facts.get("master_replid") in (info["master_replid"], info["master_replid2"])
    # One that keeps nothing on its disk is empty after each restart.
    is_kept = bool(saves or info["aof_enabled"])
    if is_known or not (lasting and is_empty and is_kept):
        return ""
    return (
        f"the master {leader} is empty, and the newest snapshot has {lasting} lasting keys: "
        "bring them back with restore-redis.sh, or start over with redis-backup.sh"
    )


def _clean(directory: Path) -> None:
    """Removes what a run left that was killed; finished artifacts do not start with a dot."""
    for path in directory.glob(".redis_*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


# --- Take ----------------------------------------------------------------------------------------


def _take(redis: Redis, work: Path, log: Log) -> _Dump:
    with log.step("choice of the node"):
        origin = _settled(redis)
        _require_tool(origin)
    with log.step(f"dump from {origin.role} {origin.endpoint}"):
        if origin.role == "replica":
            _dump_replica(redis, origin, work)
            return _Dump(origin, origin.follows or origin.endpoint, None)
        return _Dump(origin, origin.endpoint, _dump_master(redis, origin, work))


def _settled(redis: Redis) -> Node:
    """A replica, given the time to become one; the master when no node is a replica."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        over = time.monotonic() >= end
        try:
            found = source(redis)
            if over or found.role == "replica" or not _waits_for_replicas(redis):
                return found
        except Failed as failure:
            if over or isinstance(failure, roles.Untrusted):
                raise
        time.sleep(1)


def _waits_for_replicas(redis: Redis) -> bool:
    return any(each.role == "replica" for each in nodes(redis))


def _require_tool(origin: Node) -> None:
    """An older redis-check-rdb cannot read what a newer server writes."""
    tool = rdb.tool_version()
    if rdb.short(tool) < rdb.short(origin.version):
        raise Failed(
            f"{origin.endpoint} is Redis {origin.version}, and redis-tools {tool} of this host "
            "cannot check what it writes"
        )


def _dump_replica(redis: Redis, origin: Node, work: Path) -> None:
    listener.require_user(origin.endpoint, "redis")
    command = ["redis-cli", "-h", origin.endpoint.host, "-p", str(origin.endpoint.port)]
    login = redis.login
    if login.authority:
        command += ["--tls", "--cacert", login.authority]
    command += [*(["--user", login.user] if login.user else ()), "--rdb", rdb.DUMP]
    password = {"REDISCLI_AUTH": login.password}
    try:
        run(command, through=rdb.as_redis(), env=password, timeout=DUMP_SECONDS, place=work)
    except Failed as error:
        raise Failed(f"dump from {origin.endpoint}: {error}") from None


def _dump_master(redis: Redis, origin: Node, work: Path) -> Endpoint:
    """Takes what the master sends to a replica of ours, under a name that Sentinel cannot use.

    `redis-cli --rdb` would make every Sentinel count a replica 127.0.0.1:0 from then on.
    """
    place = Endpoint("127.0.0.1", scratch.free_port("127.0.0.1"))
    settings = {
        "replicaof": f"{origin.endpoint.host} {origin.endpoint.port}",
        "replica-announce-ip": HIDDEN,
        "repl-diskless-load": "disabled",
        "databases": "16384",
    }
    login = redis.login
    if login.user:
        settings |= {"masteruser": login.user, "masterauth": scratch.quoted(login.password)}
    with scratch.running(work, redis, place, settings) as server:

        def received() -> bool | None:
            server.require_alive()
            link = server.client.info("replication")["master_link_status"]
            return link == "up" or None

        until(received, DUMP_SECONDS, f"{origin.endpoint} sends its data")
    return place


# --- Check ---------------------------------------------------------------------------------------


def _checked(config: Config, raw: Path, packed: Path, log: Log) -> tuple[rdb.Rdb, list[str]]:
    """Packs a dump and reads the result back; returns what is in it and what was checked."""
    with log.step("redis-check-rdb"):
        found = rdb.inspect(raw)
    with log.step("compression and encryption" if crypt.suffix(config) else "compression"):
        rdb.pack(config, raw, packed)
    with log.step("reading it back"):
        if rdb.digest_inside(config, packed) != rdb.digest_of(raw):
            raise Failed("what was packed is not what was dumped")
    opened = "decrypted and unpacked" if crypt.suffix(config) else "unpacked"
    return found, ["redis-check-rdb", f"{opened} to what was dumped", "sha256"]


def _facts(dump: _Dump, found: rdb.Rdb) -> dict[str, Any]:
    return {
        "source": str(dump.origin.endpoint),
        "role": dump.origin.role,
        "master": str(dump.master),
        "redis_version": dump.origin.version,
        "master_replid": dump.origin.replid,
        "offset": dump.origin.offset,
        "keys": found.keys,
        "expires": found.expires,
        "rdb_format": found.format,
        "written_by": found.written_by,
        "tool": f"redis-check-rdb {rdb.tool_version()}",
    }


def _publish(directory: Path, packed: Path, manifest: Manifest) -> None:
    final = manifest.path(directory)
    if final.exists():
        raise Failed(f"{final.name} already exists")
    finish(packed, final)
    manifest.write(directory)
    _point_latest(directory, manifest)


def _point_latest(directory: Path, manifest: Manifest) -> None:
    link_latest(directory, [manifest])
    # Encryption may have been switched on or off; two links would leave open which is the newest.
    for link in directory.glob("redis_LATEST.*"):
        if link.is_symlink() and link.readlink() != Path(manifest.name):
            link.unlink()


# --- Health and drill ----------------------------------------------------------------------------


def drill(config: Config, log: Log) -> dict[str, Any]:
    """Loads the newest snapshot in a scratch server and counts its keys; times in seconds.

    Raises:
        Failed: there is none, or it is not what its manifest says.
    """
    snapshots = [m for m in all_of(config.artifacts("redis")) if m.kind == "redis"]
    if not snapshots:
        raise Failed("there is no Redis snapshot to restore")
    manifest, begun = snapshots[-1], time.monotonic()
    with (
        log.step(f"load of {manifest.name} in a scratch server"),
        rdb.workplace(config) as work,
    ):
        found = rdb.validate(config, manifest, work / rdb.DUMP)
        place = Endpoint("127.0.0.1", scratch.free_port("127.0.0.1"))
        settings = {"databases": str(max(16, found.databases))}
        with scratch.running(work, configured(config), place, settings) as server:
            keys = roles.node_of(server.client, place).keys
    if not found.keys - found.expires <= keys <= found.keys:
        raise Failed(f"{manifest.name}: {keys} keys were loaded, of {found.keys}")
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.ended)
    return {
        "artifacts": [manifest.name],
        "rto": round(time.monotonic() - begun, 1),
        "rpo": round(age.total_seconds()),
    }
