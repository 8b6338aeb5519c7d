"""Which component lands where, and in what order on each host."""

from tasks import health, pgbouncer, postgres, redis, sentinel

postgres.deploy()
pgbouncer.deploy()
redis.deploy()
sentinel.deploy()
health.report()
