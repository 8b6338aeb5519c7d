#!/usr/bin/python3
"""A web application that reads PostgreSQL through the pooler and Redis through Sentinel."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
from redis.sentinel import Sentinel


def _secret(name: str) -> str:
    return Path(os.environ[f"{name}_FILE"]).read_text()


def _stack() -> dict[str, Any]:
    trusted = os.environ.get("TLS_CA_FILE")
    verify: Any = {"sslmode": "verify-full", "sslrootcert": trusted} if trusted else {}
    with psycopg.connect(_secret("DATABASE_URL"), connect_timeout=5, **verify) as connection:
        row = connection.execute("SELECT current_user, current_database()").fetchone()
    places = [each.rsplit(":", 1) for each in os.environ["REDIS_SENTINELS"].split(",")]
    password = _secret("REDIS_PASSWORD")
    options: dict[str, Any] = {"password": password, "socket_timeout": 2}
    if trusted:
        options |= {"ssl": True, "ssl_ca_certs": trusted, "ssl_check_hostname": True}
    connect: Any = Sentinel
    sentinel = connect([(host, int(port)) for host, port in places], sentinel_kwargs=options)
    name = os.environ["REDIS_MASTER_NAME"]
    count = sentinel.master_for(name, **options).incr("visits")
    return {"postgres": row, "visits": count, "master": sentinel.discover_master(name)}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said: dict[str, Any] = {"pid": os.getpid(), "env": dict(os.environ), "words": sys.argv[1:]}
        said |= {"directory": str(Path.cwd()), "ids": [os.getuid(), os.getgid(), *os.getgroups()]}
        try:
            said |= _stack() if self.path.startswith("/health") else {}
            status = 200
        except Exception as error:
            said["error"], status = repr(error), 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())


ThreadingHTTPServer(("", int(sys.argv[1])), _Handler).serve_forever()
