"""The choices of this estate; every key has a default (README), so state only what differs."""

# stack_name = "psscript"
# postgres_databases = {"psscript": {"owner": "psscript", "extensions": ["pg_trgm"]}}
# postgres_roles = {"psscript": {}}  # a role without a password gets one in .env
# postgres_extra = {"log_lock_waits": "on"}
# pgbouncer_default_pool_size = 25
# redis_maxmemory = "1gb"
# redis_maxmemory_policy = "allkeys-lfu"
# redis_default_user = "application"  # who has redis_password cannot empty or stop Redis
# tls_enabled = True  # servers and their clients speak TLS: docs/connecting.md
# apps = [{"name": "backend", "port": 4000, "command": "/srv/backend/serve"}]  # docs/apps.md
