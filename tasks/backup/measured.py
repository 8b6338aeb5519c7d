"""Which hosts the health check asks how they are, and what of them it looks at."""

from __future__ import annotations

from typing import Any

from tasks.backup.server import like
from tasks.backup.settings import BackupSettings
from tasks.core import hide
from tasks.core.estate import Estate, Node
from tasks.core.secrets import previous
from tasks.exporter.service import is_encrypted
from tasks.exporter.settings import SECRET, ExporterSettings
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings
from tasks.prometheus.settings import AlertmanagerSettings
from tasks.redis.settings import RedisSettings
from tasks.tls.probes import AUTHORITY

# What fills up on any host.
_COMMON = ("/", "/var", "/var/log")


def exporters(node: Node) -> dict[str, Any]:
    """The part of the program's configuration; nothing where no host has an exporter."""
    hosts = node.estate.having(ExporterSettings)
    if not hosts:
        return {}
    store = node.estate.secrets
    before = store.stated(previous(SECRET))
    if before:
        hide.secret(before)
    return {
        "exporters": {
            "password": store.get(SECRET),
            **({"password_previous": before} if before else {}),
            "hosts": [_host(each, node) for each in hosts],
        }
    }


def is_told_elsewhere(estate: Estate) -> bool:
    """Whether an Alertmanager of the estate has a channel, and something to tell."""
    watchers = estate.having(AlertmanagerSettings)
    is_told = any(node.the(AlertmanagerSettings).channels for node in watchers)
    return is_told and bool(estate.having(ExporterSettings))


def _host(host: Node, keeper: Node) -> dict[str, Any]:
    return {
        "name": host.plain_name,
        "place": [host.address, host.the(ExporterSettings).exporter_port],
        "disks": [*_COMMON, *_data(host, keeper)],
        "authority": AUTHORITY if is_encrypted(host) else "",
        "local": host is keeper,
    }


def _data(host: Node, keeper: Node) -> list[str]:
    """The directories with data of a host."""
    found = []
    if PostgresSettings in host.settings:
        data = data_directory(host, like(keeper))
        found += [data, f"{data}/pg_wal"]
    if RedisSettings in host.settings:
        found.append("/var/lib/redis")
    if BackupSettings in host.settings:
        found.append(host.the(BackupSettings).dir)
    return found
