"""The stack: the only list of its components, in the order in which they are deployed."""

from tasks import (
    apps,
    backup,
    compose,
    exporter,
    firewall,
    page,
    pgbouncer,
    postgres,
    prometheus,
    redis,
    sentinel,
    tls,
    upgrade,
)

COMPONENTS = (
    upgrade.COMPONENT,
    firewall.COMPONENT,
    tls.COMPONENT,
    postgres.COMPONENT,
    pgbouncer.COMPONENT,
    redis.COMPONENT,
    sentinel.COMPONENT,
    backup.COMPONENT,
    page.COMPONENT,
    exporter.COMPONENT,
    prometheus.COMPONENT,
    apps.COMPONENT,
    compose.COMPONENT,
)
