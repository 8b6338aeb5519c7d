"""Which component lands where, and in what order."""

from tasks import health, pgbouncer, postgres, redis, sentinel

postgres.deploy()
pgbouncer.deploy()
redis.deploy()
sentinel.deploy()
health.report()
