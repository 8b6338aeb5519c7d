"""A Redis of our own on this host; it ends with the block that started it, even by kill -9."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from redis import Redis as Client
from redis import exceptions

from backup.config import Endpoint, Login, Redis
from backup.job import Failed
from backup.redis.rdb import DUMP, as_redis
from backup.redis.roles import connect, until

LOAD_SECONDS = 3600
_STOP_SECONDS = 10
_USER = "datatier"


@dataclass(frozen=True)
class Scratch:
    """A running scratch server."""

    endpoint: Endpoint
    client: Client
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def require_alive(self) -> None:
        """Raises Failed with the server's last words if it has ended."""
        if self.process.poll() is not None:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace")
            lines = said.strip().splitlines() or ["no output"]
            raise Failed(f"the scratch redis-server ended: {lines[-1]}")


@contextlib.contextmanager
def running(
    directory: Path, redis: Redis, place: Endpoint, settings: Mapping[str, str]
) -> Iterator[Scratch]:
    """Starts a server that works in `directory` and waits until it has loaded its data.

    It runs as redis, and has its configuration, which holds passwords, from us and not from a file.

    With the estate's password it only replicates: it takes no other commands than that needs.
    Where the estate speaks TLS, it does too: the master comes to it, or it to the master.

    Args:
        directory: of redis, and only for this server; a `dump.rdb` in it is loaded.
        place: where it listens.
        settings: more lines of its configuration.

    Raises:
        Failed: it did not start, or could not load the file.
    """
    own = secrets.token_hex(16)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*as_redis("--pdeathsig", "KILL"), "redis-server", "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=directory,
            # A Ctrl-C is for the program, which then ends this server in its own time.
            start_new_session=True,
        )
        # It may listen at an address of this host that is in no certificate.
        client = connect(place, Login(own, _USER, redis.authority, is_named=False))
        server = Scratch(place, client, process, log)
        try:
            _give(process, _configuration(redis, own, place, settings))
            until(lambda: _loaded(server), LOAD_SECONDS, "the scratch redis-server loads the file")
            yield server
        finally:
            client.close()
            _stop(process)


def _give(process: subprocess.Popen[bytes], configuration: str) -> None:
    assert process.stdin is not None
    # Where it has ended already, its last words say why.
    with contextlib.suppress(BrokenPipeError), process.stdin as stream:
        stream.write(configuration.encode())


_REPLICATES = "+psync +sync +replconf +ping"


def replicating(redis: Redis) -> dict[str, str]:
    """What lets an instance of the estate replicate from a scratch server, and do nothing else."""
    if not redis.replica_user:
        return {}
    rules = f"reset on #{redis.replica_password_sha256} {_REPLICATES}"
    return {"user default": "off", f"user {redis.replica_user}": rules}


def _listening(redis: Redis, place: Endpoint) -> dict[str, str]:
    if not redis.authority:
        return {"port": str(place.port)}
    return {
        "port": "0",
        "tls-port": str(place.port),
        "tls-replication": "yes",
        "tls-cert-file": redis.certificate,
        "tls-key-file": redis.private,
        "tls-ca-cert-file": redis.authority,
        "tls-auth-clients": "no",
    }


def _configuration(redis: Redis, own: str, place: Endpoint, settings: Mapping[str, str]) -> str:
    lines = {
        "bind": place.host,
        **_listening(redis, place),
        "protected-mode": "no",
        "daemonize": "no",
        "dir": ".",
        "dbfilename": DUMP,
        "save": '""',
        "appendonly": "no",
        "masterauth": quoted(redis.password),
        "repl-diskless-sync": "yes",
        "repl-diskless-sync-delay": "0",
        "client-output-buffer-limit": "replica 0 0 0",
        "repl-timeout": "600",
        "user default": f"reset on #{_sha256(redis.password)} {_REPLICATES}",
        f"user {_USER}": f"reset on #{_sha256(own)} ~* &* +@all",
        **settings,
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def quoted(text: str) -> str:
    """A string for a Redis configuration file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _loaded(server: Scratch) -> bool | None:
    server.require_alive()
    try:
        return server.client.info("persistence")["loading"] == 0 or None
    except exceptions.RedisError:
        return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port(host: str, wanted: int = 0) -> int:
    """The wanted port, or any, of an address of this host; it is free now.

    Raises:
        Failed: it is not free, or the address is not of this host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        # As the server that takes it: what is left of connections to an earlier one is no matter.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, wanted))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Failed(f"cannot listen on {Endpoint(host, wanted)}: {reason}") from None
        return int(server.getsockname()[1])


def address_towards(place: Endpoint) -> str:
    """This host's address as a server sees it that is not behind address translation.

    Raises:
        Failed: the server cannot be reached.
    """
    try:
        with socket.create_connection(place, timeout=5) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise Failed(f"{place}: {error}") from None
