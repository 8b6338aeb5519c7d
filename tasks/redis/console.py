"""Shell that talks to an instance with its password."""

from __future__ import annotations

from tasks.core.scripts import shell

IS_REDIS = shell("is-redis", "redis")
LINK = shell("link", "redis")
SHELL = (
    IS_REDIS + LINK + shell("shows", "tls") + shell("console", "redis") + shell("users", "redis")
)
