"""Which component lands where, and in what order on each host."""

from tasks import backup, compose, health, pgbouncer, postgres, redis, remove, sentinel

postgres.install()
backup.install()
backup.keys()
postgres.configure()
pgbouncer.deploy()
redis.deploy()
sentinel.deploy()
backup.configure()
remove.prune()
compose.deploy()
health.report()
