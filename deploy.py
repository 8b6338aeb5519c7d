"""Which component lands where, and in what order on each host."""

from tasks import (
    apps,
    backup,
    compose,
    exporter,
    firewall,
    health,
    packages,
    page,
    pgbouncer,
    postgres,
    prometheus,
    redis,
    remove,
    rotate,
    sentinel,
    tls,
    upgrade,
)

postgres.begin()
upgrade.configure()
packages.install()
firewall.deploy()
tls.deploy()
postgres.install()
backup.keys()
postgres.serve()
pgbouncer.deploy()
redis.deploy()
sentinel.deploy()
backup.configure()
page.deploy()
exporter.deploy()
prometheus.deploy()
postgres.settle()
redis.settle()
sentinel.settle()
rotate.record()
remove.prune()
firewall.settle()
apps.deploy()
compose.deploy()
postgres.extend()
health.report()
